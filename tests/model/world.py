"""A world of validators and miners for tests: what they write, and a daemon that keeps it all.

``worlds()`` draws a set of signed events with a course of electorates: miners fight over the same GPUs, delete and add
again within one second; validators vote, change their minds, renew, abstain, enrol, lose and regain permits; on demand
logs fork, are closed, and are told to be. Signed requests are cached by what they say, so that a drawn world is the
same whenever hypothesis draws it again.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Final, NamedTuple, TypeVar

from hypothesis import strategies as st

from p2pnodes.model import codec, inventory
from p2pnodes.model.branches import NO_ENDS, Ends, ended_log, ends_by, rivalry
from p2pnodes.model.clock import hlc_at, hlc_ms
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import (
    ABSTAIN,
    FAILED,
    PAYLOADS,
    VERIFIED,
    AddPayload,
    Carry,
    Close,
    Delegation,
    DeletePayload,
    Event,
    Evidence,
    Head,
    LogId,
    Payload,
    Place,
    Release,
    Renew,
    Verdict,
    closing,
    delegate,
)
from p2pnodes.model.inventory import (
    Carriage,
    Chute,
    Claim,
    DeleteCarriage,
    Deletion,
    Mandate,
    Placement,
    Row,
    Tally,
    TaskStatus,
    Vote,
    Weights,
)
from p2pnodes.model.requests import PURPOSE_DELETE, Add, Delete, bound_purpose, parse_nonce, request_id
from p2pnodes.model.stateroot import state_root
from p2pnodes.model.validity import EMPTY, Judgement, Prefix, judge
from tests.support import NETWORK, NOW_S, Author, add, delete, hotkey

HOUR_S: Final = 3_600
DAY_S: Final = 86_400
FIRST_BLOCK: Final = 1_000
EPOCH: Final = NETWORK.epoch_blocks

VALIDATORS: Final = ("//validator0", "//validator1", "//validator2", "//validator3")
FIRST_DELEGATED_S: Final = (0, 3 * DAY_S, 0)
"""How long before the world's beginning validators 0 to 2 were delegated; the last one enrols when it is drawn."""

MINERS: Final = ("//Alice", "//Bob", "//Charlie")
GPUS: Final = ("gpu-a", "gpu-b", "gpu-c")
CHUTES: Final = (
    Chute("chute-1", "instance-1", verified=True, public=True, name="llama", username="ann"),
    Chute("chute-2", "instance-2", verified=False, public=False, name=None, username=None),
)
STEPS_S: Final = (0, 0, 0, 0, 1, 1, 400, 6 * HOUR_S, 20 * HOUR_S)
"""How far the clock moves before an action: mostly not at all, so that many things share a second."""


Proof = Close | Evidence
Heard = TypeVar("Heard")


class World(NamedTuple):
    """What there is to hear.

    Attributes:
        events: In the order in which they were written, of all branches.
        electorates: In the order in which the chain had them.
        loose: Proofs of logs' ends that no event brings.
    """

    events: tuple[Event, ...]
    electorates: tuple[Electorate, ...]
    loose: tuple[Proof, ...] = ()

    @property
    def proofs(self) -> tuple[Proof, ...]:
        """Every proof of a log's end that anybody could have: loose ones, and those that the events bring or are."""
        return (*self.loose, *proofs_in(self.events))

    @property
    def end_ms(self) -> int:
        """A wall clock at the end of everything that happens."""
        return max(hlc_ms(event.hlc) for event in self.events)

    def __repr__(self) -> str:
        """Say what a failing example holds: one line per event."""
        lines = [f"World({len(self.electorates)} electorates)"]
        for event in self.events:
            known = PAYLOADS.get(event.kind)
            content: object = event.payload
            with suppress(codec.MalformedError):
                content = known.from_wire(codec.unpack(event.payload)) if known else event.payload
            at_s = hlc_ms(event.hlc) / 1000 - NOW_S
            lines.append(f"  {event.log}#{event.seq} @{at_s:+.3f}s {event.kind} {content!r:.200}")
        lines.extend(f"  E {electorate.current!r} after {electorate.previous!r}" for electorate in self.electorates)
        return "\n".join(lines)


def proofs_in(events: Sequence[Event]) -> list[Proof]:
    """Every proof of a log's end that events bring, or are together."""
    found: list[Proof] = []
    by_place: dict[tuple[LogId, int], list[Event]] = {}
    for event in events:
        with suppress(codec.MalformedError):
            if event.kind in {"close", "evidence"}:
                payload = PAYLOADS[event.kind].from_wire(codec.unpack(event.payload))
                assert isinstance(payload, Proof)
                found.append(payload)
        others = by_place.setdefault((event.log, event.seq), [])
        found += [evidence for other in others if other.id != event.id and (evidence := rivalry(other, event))]
        others.append(event)
    return found


@cache
def signed_closing(uri: str, log: LogId, head: Head | None) -> Close:
    """A closing of a log."""
    return closing(hotkey(uri), NETWORK.id, log, head)


@cache
def signed_add(miner: str, uuids: tuple[str, ...], nonce_s: int, variant: int) -> Add:
    """A registration; another variant is the same body signed once more."""
    return add(miner, uuids, nonce_s)


@cache
def signed_delete(miner: str, purpose: str, nonce_s: int) -> Delete:
    """A deletion."""
    return delete(miner, purpose, nonce_s)


@cache
def signed_delegation(uri: str, log: LogId, not_before: int, not_after: int) -> Delegation:
    """A delegation of a validator to a log."""
    return delegate(hotkey(uri), NETWORK.id, log, url="", not_before=not_before, not_after=not_after)


def raw_event(author: Author, kind: str, payload: bytes, hlc: int, *, version: int = 1) -> Event:
    """Append an event of whatever version, kind and content to a log."""
    seq, previous = (author.head.seq + 1, author.head.id) if author.head else (0, b"")
    header = codec.pack([version, NETWORK.id, *author.log, seq, previous, hlc, kind, codec.digest(payload)])
    event = Event.decode(codec.pack([header, author.node_key.sign(header), payload]))
    author.head = Head(event.seq, event.id)
    author.events.append(event)
    return event


class Script:
    """Writes a world: knows what was said so far, so that later events can answer it."""

    def __init__(self) -> None:
        """Begin at NOW_S, with the first logs of all validators but the last."""
        self.now_ms = NOW_S * 1000
        self.events: list[Event] = []
        self.adds: list[tuple[Add, tuple[str, ...]]] = []
        self.deletes: list[Delete] = []
        self.requests: list[Event] = []
        self.since: dict[tuple[str, bytes], int] = {}
        self.loose: list[Proof] = []
        self.logs: dict[str, list[Author]] = {uri: [] for uri in VALIDATORS}
        for uri, age_s in zip(VALIDATORS, FIRST_DELEGATED_S, strict=False):
            self.open_log(uri, at_ms=(NOW_S - age_s) * 1000)

    def open_log(self, uri: str, *, at_ms: int) -> None:
        """Open one more log of a validator, with a delegation for long."""
        author = Author(uri, number=len(self.logs[uri]))
        self.logs[uri].append(author)
        delegation = signed_delegation(uri, author.log, NOW_S - 9 * DAY_S, NOW_S + 99 * DAY_S)
        self.events.append(author.write(delegation, at_ms=at_ms))

    def write(self, author: Author, payload: Payload) -> None:
        """Append to a log, now."""
        event = author.write(payload, at_ms=self.now_ms)
        self.events.append(event)
        if isinstance(payload, AddPayload | DeletePayload):
            self.requests.append(event)

    def add(self, author: Author, request: Add, uuids: tuple[str, ...], block: int) -> bytes:
        """Append a registration; its claim id."""
        self.adds.append((request, uuids))
        self.write(author, AddPayload(request, block))
        return request_id(NETWORK.id, request)

    def vote(self, uri: str, claim_id: bytes, finding: str, *, renew: bool, together: bool = False) -> None:
        """Append a verdict to a validator's last log; a renewal keeps the ``since`` of its author's last one.

        With ``together`` it stands in one event with the author's last verified one on another claim, if any.
        """
        if not self.logs[uri]:
            return
        author = self.logs[uri][-1]
        hlc = author.clock.tick(self.now_ms)
        since = self.since.get((uri, claim_id), hlc) if renew else hlc
        if finding == VERIFIED:
            self.since[uri, claim_id] = since
        if finding == VERIFIED and together:
            own = {named: began for (voter, named), began in self.since.items() if voter == uri}
            last = [(named, began) for named, began in own.items() if named != claim_id][-1:]
            said = Renew("test", tuple(sorted([(claim_id, since), *last])))
            self.events.append(author.write(said, hlc=hlc))
            return
        detail = f"no proof at {hlc}" if finding == FAILED else ""
        verdict = Verdict(claim_id, finding, "test", detail, since if finding == VERIFIED else None)
        self.events.append(author.write(verdict, hlc=hlc))

    def delete(self, draw: st.DrawFn, author: Author, request: Delete, uuid: str) -> None:
        """Append a deletion that names all of its miner's claims on the GPU, or fewer."""
        own = [request_id(NETWORK.id, a) for a, uuids in self.adds if a.hotkey == request.hotkey and uuid in uuids]
        claim_ids = sorted(set(own))
        named = claim_ids[: draw(st.integers(0, len(claim_ids)))] if draw(st.booleans()) else claim_ids
        self.write(author, DeletePayload(request, uuid, tuple(named)))

    def fork(self, draw: st.DrawFn) -> None:
        """Let a second daemon, or a thief, write a log on from one of its events; perhaps only a header shows it."""
        uri, author = draw(st.sampled_from([(uri, log) for uri, logs in self.logs.items() for log in logs]))
        if draw(st.booleans()) and self.adds:
            placed, uuids = draw(st.sampled_from(self.adds))
            self.write(author, Place(request_id(NETWORK.id, placed), uuids, *CHUTES[0]))
        seq = draw(st.one_of(st.integers(0, len(author.events)), st.just(len(author.events))))
        twin = Author(uri, number=author.log.number)
        twin.events = author.events[:seq]
        twin.head = Head(seq - 1, twin.events[-1].id) if seq else None
        twin.clock.latest = twin.events[-1].hlc if seq else 0
        said: Payload = Release(bytes(32), GPUS[:1])
        for event in twin.events:  # take back what the log said last
            if event.kind in {"place", "verdict", "renew"}:
                word = PAYLOADS[event.kind].from_wire(codec.unpack(event.payload))
                if isinstance(word, Place):
                    said = Release(word.claim_id, word.uuids)
                elif isinstance(word, Verdict):
                    said = Verdict(word.claim_id, FAILED, "test", "stolen", None)
                elif isinstance(word, Renew):
                    said = Renew("stolen", word.claims[:1])
        if not seq:
            said = signed_delegation(uri, author.log, NOW_S - 9 * DAY_S, NOW_S + 98 * DAY_S)
        rival = twin.write(said, at_ms=self.now_ms)
        if seq < len(author.events) and draw(st.sampled_from((False, False, True))):
            self.loose += [evidence for evidence in (rivalry(author.events[seq], rival),) if evidence]
        else:
            self.events.append(rival)
            self.logs[uri].append(twin)

    def end(self, draw: st.DrawFn, kind: str) -> Proof | None:
        """A proof of some log's end: evidence of a fork, or a closing that names one of many things."""
        if kind == "evidence":
            forks = [proof for proof in proofs_in(self.events) if isinstance(proof, Evidence)]
            return draw(st.sampled_from(forks)) if forks else None
        uri, author = draw(st.sampled_from([(uri, log) for uri, logs in self.logs.items() for log in logs]))
        last = draw(st.sampled_from(author.events))
        named = (
            *(author.head, author.head, Head(last.seq, last.id), Head(last.seq, last.id)),
            *(Head(last.seq, closed_id) for closed_id in CLOSED_IDS),  # an event that does not exist
            *[Head(len(author.events), bytes(32))] * 2,  # nor is there one at its seq, yet
            None,
        )
        if draw(st.sampled_from((False, False, True))):  # and another one that names the same seq
            self.loose.append(signed_closing(uri, author.log, Head(last.seq, draw(st.sampled_from(CLOSED_IDS)))))
        stranger = draw(st.sampled_from((*[None] * 12, *VALIDATORS)))
        return signed_closing(stranger or uri, author.log, draw(st.sampled_from(named)))

    def act(self, draw: st.DrawFn, kind: str) -> None:
        """Let somebody do something."""
        author = draw(st.sampled_from([log for logs in self.logs.values() for log in logs]))
        nonce_s = self.now_ms // 1000 + draw(st.sampled_from((0, 0, -1, 2)))
        block = FIRST_BLOCK + EPOCH * draw(st.sampled_from((0, 0, 0, 1, 2, 4)))
        match kind:
            case "add":
                miner, variant = draw(st.sampled_from(MINERS)), draw(st.sampled_from((0, 1)))
                uuids = draw(st.sampled_from((GPUS[:1], GPUS[:1], GPUS[:2], GPUS[1:], GPUS)))
                self.add(author, signed_add(miner, uuids, nonce_s, variant), uuids, block)
            case "add again" if self.adds:  # void when its nonce has become too old
                self.write(author, AddPayload(draw(st.sampled_from(self.adds))[0], block))
            case "carry often" if self.adds:  # one validator carries a claim in several ways, in whatever log
                registration, _ = draw(st.sampled_from(self.adds))
                own = next(logs for logs in self.logs.values() if author in logs)
                for epochs in draw(st.lists(st.integers(0, 2), min_size=2, max_size=4)):
                    said: Payload = AddPayload(registration, FIRST_BLOCK + EPOCH * epochs)
                    if draw(st.booleans()):
                        said = Carry((Author("//Dave").write(said, at_ms=self.now_ms).wire,))
                    self.write(draw(st.sampled_from(own)), said)
            case "delete often":  # one validator records a deletion in several ways, in whatever log
                miner, uuid = draw(st.sampled_from(MINERS[:2])), draw(st.sampled_from(GPUS[:2]))
                purpose = draw(st.sampled_from((PURPOSE_DELETE, bound_purpose(uuid))))
                request = signed_delete(miner, purpose, nonce_s)
                for variant in draw(st.sampled_from(((), (0,), (0, 1)))):
                    self.add(author, signed_add(miner, (uuid,), nonce_s, variant), (uuid,), FIRST_BLOCK)
                own = next(logs for logs in self.logs.values() if author in logs)
                for _ in range(draw(st.integers(2, 4))):
                    named = uuid if draw(st.booleans()) else draw(st.sampled_from(GPUS))
                    self.delete(draw, draw(st.sampled_from(own)), request, named)
            case "contest":  # two miners on one GPU, both of them verified, in either order
                claim_ids = [
                    self.add(author, signed_add(miner, GPUS[:1], nonce_s, 0), GPUS[:1], FIRST_BLOCK)
                    for miner in draw(st.permutations(MINERS))[:2]
                ]
                for claim_id in draw(st.permutations(claim_ids)):
                    self.now_ms += 1000
                    for uri in VALIDATORS:
                        self.vote(uri, claim_id, VERIFIED, renew=False)
            case "second":  # two adds and a delete in one second, which two daemons record without all of them in sight
                for variant in (0, 1):
                    self.add(author, signed_add(MINERS[0], GPUS[:1], nonce_s, variant), GPUS[:1], FIRST_BLOCK)
                request = signed_delete(MINERS[0], bound_purpose(GPUS[0]), nonce_s)
                for log in (author, draw(st.sampled_from([logs[0] for logs in self.logs.values() if logs]))):
                    self.delete(draw, log, request, GPUS[0])
            case "reuse":  # the same unbound headers for one GPU after another, as a client in a hurry sends them
                self.add(author, signed_add(MINERS[1], GPUS[:2], nonce_s, 0), GPUS[:2], FIRST_BLOCK)
                request = signed_delete(MINERS[1], PURPOSE_DELETE, nonce_s + 1)
                for uuid in GPUS[:2]:
                    self.delete(draw, author, request, uuid)
            case "delete":
                miner, uuid = draw(st.sampled_from(MINERS)), draw(st.sampled_from(GPUS))
                purpose = draw(st.sampled_from((PURPOSE_DELETE, bound_purpose(uuid))))
                self.deletes.append(signed_delete(miner, purpose, nonce_s))
                self.delete(draw, author, self.deletes[-1], uuid)
            case "delete again" if self.deletes:  # unbound: perhaps for another GPU; bound: then void
                self.delete(draw, author, draw(st.sampled_from(self.deletes)), draw(st.sampled_from(GPUS)))
            case "vote" if self.adds:
                claim_id = request_id(NETWORK.id, draw(st.sampled_from(self.adds))[0])
                finding = draw(st.sampled_from((VERIFIED, VERIFIED, VERIFIED, VERIFIED, FAILED, FAILED, ABSTAIN)))
                renew = draw(st.booleans())
                together = draw(st.booleans())
                voters = draw(st.sampled_from(((0, 1, 2, 3), (0, 1, 2), (0, 1, 2), (2, 3), (1, 2), (0,), (1,), (3,))))
                for voter in voters:
                    self.vote(VALIDATORS[voter], claim_id, finding, renew=renew, together=together)
            case "place" if self.adds:
                placed, uuids = draw(st.sampled_from(self.adds))
                chute = draw(st.sampled_from((*CHUTES, CHUTES[0], None)))
                claim_id = request_id(NETWORK.id, placed)
                self.write(author, Place(claim_id, uuids, *chute) if chute else Release(claim_id, uuids))
            case "carry" if draw(st.booleans()):  # a request whose own log nobody holds any more
                miner = draw(st.sampled_from(MINERS))
                lost = Author("//Dave").add(signed_add(miner, GPUS, nonce_s, 2), block=block, at_ms=self.now_ms)
                self.write(author, Carry((lost.wire,)))
            case "carry" if self.requests:
                carried = draw(st.lists(st.sampled_from(self.requests), min_size=1, max_size=3))
                self.write(author, Carry(tuple(event.wire for event in carried)))
            case "fork":
                self.fork(draw)
            case "close" | "evidence" if proof := self.end(draw, kind):
                if draw(st.booleans()):
                    self.write(author, proof)
                else:
                    self.loose.append(proof)
            case "open":
                uri = draw(st.sampled_from(VALIDATORS))
                if len(self.logs[uri]) < 3:
                    self.open_log(uri, at_ms=self.now_ms)
            case "renew":
                now_s = self.now_ms // 1000
                until = now_s + draw(st.sampled_from((600, HOUR_S, 30 * DAY_S)))
                for uri in draw(st.sampled_from((VALIDATORS, VALIDATORS[:1], VALIDATORS[1:2], VALIDATORS[2:]))):
                    for log in self.logs[uri]:
                        self.write(log, signed_delegation(uri, log.log, now_s - HOUR_S, until))
            case "noise":
                hlc = draw(st.sampled_from((0, author.clock.latest + 1, hlc_at(self.now_ms + 1_500))))
                known = draw(st.sampled_from(("add", "tomorrow")))  # void, or of a kind that this build does not know
                self.events.append(raw_event(author, known, b"\xc0", hlc))
            case _:
                pass


ACTIONS: Final = (
    *("add", "add", "add again", "delete", "delete", "delete again", "vote", "vote", "vote", "vote"),
    *("contest", "second", "reuse", "place", "carry", "open", "renew", "noise"),
)

CLOSED_IDS: Final = (bytes(32), b"\xff" * 32)
"""Below and above every id of an event."""

ENDS: Final = ("fork", "fork", "close", "close", "evidence")

REPEATS: Final = ("carry often", "carry often", "delete often", "delete often", "renew")
"""One validator says one thing again and again, a little differently."""

ACTIONS_MIN: Final = 12
ACTIONS_MAX: Final = 30


@st.composite
def worlds(draw: st.DrawFn, *, ends: bool = False, repeats: bool = False) -> World:
    """Draw a world; with ``ends`` logs fork and are closed in it, with ``repeats`` there is more of REPEATS."""
    script = Script()
    actions = (*ACTIONS, *(ENDS if ends else ()), *(REPEATS if repeats else ()))
    for kind in draw(st.lists(st.sampled_from(actions), min_size=ACTIONS_MIN, max_size=ACTIONS_MAX)):
        script.now_ms += draw(st.sampled_from(STEPS_S)) * 1000
        script.act(draw, kind)
    return World(tuple(script.events), draw(electorates()), tuple(script.loose))


@st.composite
def electorates(draw: st.DrawFn) -> tuple[Electorate, ...]:
    """Draw a course of one to four electorates."""
    found: list[Electorate] = []
    previous: Pin | None = None
    block, time_s = FIRST_BLOCK, NOW_S
    for _ in range(draw(st.integers(1, 4))):
        time_s += draw(st.sampled_from((1_200, 1_200, 5 * HOUR_S, 13 * HOUR_S, DAY_S, 25 * HOUR_S)))
        stakes = {uri: draw(st.sampled_from((10, 10, 10, 20, 70, 0, None))) for uri in VALIDATORS}
        registered = {uri: draw(st.sampled_from((0, 0, 0, 0, block - EPOCH // 2, block, None))) for uri in MINERS}
        current = Pin(
            block,
            time_s * 1000,
            {hotkey(uri).public_key: stake for uri, stake in stakes.items() if stake is not None},
            {hotkey(uri).public_key: at for uri, at in registered.items() if at is not None},
            {},
        )
        found.append(Electorate(current, previous))
        previous = current
        block += EPOCH
    return tuple(found)


@st.composite
def arrivals(draw: st.DrawFn, heard: Sequence[Heard]) -> list[Heard]:
    """Draw an order of arrival: everything at least once, some things twice."""
    again: list[Heard] = draw(st.lists(st.sampled_from(heard), max_size=5)) if heard else []
    return draw(st.permutations([*heard, *again]))


class Gatherer:
    """A daemon without a store: takes events in any order, and hands all they say to the pure functions.

    Of a log that forks it stores the branch that it heard of first, as a daemon does.
    """

    def __init__(self, heard: Iterable[Event | Proof] = ()) -> None:
        """Hear all this in order."""
        self._stored: dict[LogId, list[Event]] = {}
        self._waiting: dict[LogId, dict[bytes, Event]] = {}
        self._prefixes: dict[LogId, Prefix] = {}
        self._forks: dict[LogId, Ends] = {}
        self._closings: dict[tuple[LogId, bytes], Ends] = {}
        self.judged: list[tuple[Event, Judgement]] = []
        self.receive(heard)

    def receive(self, heard: Iterable[Event | Proof]) -> None:
        """Take events and proofs of ends in any order, any number of times; what lacks its predecessor waits."""
        for item in heard:
            if isinstance(item, Proof):
                self._end(item)
                continue
            stored = self._stored.setdefault(item.log, [])
            waiting = self._waiting.setdefault(item.log, {})
            waiting[item.id] = item
            while following := next((event for event in waiting.values() if event.seq <= len(stored)), None):
                del waiting[following.id]
                if following.seq < len(stored):
                    held = stored[following.seq]
                    if held.id != following.id and (evidence := rivalry(held, following)):
                        self._end(evidence)
                elif following.previous == (stored[-1].id if stored else b""):
                    self._store(following)

    def _store(self, event: Event) -> None:
        judgement = judge(event, self._prefixes.get(event.log, EMPTY))
        self._prefixes[event.log] = judgement.prefix
        self.judged.append((event, judgement))
        self._stored[event.log].append(event)
        if isinstance(judgement.payload, Proof):
            self._end(judgement.payload)

    def _end(self, proof: Proof) -> None:
        log = ended_log(proof)
        if isinstance(proof, Evidence):
            self._forks[log] = self._forks.get(log, NO_ENDS).merged(ends_by(proof))
        else:
            key = log, proof.hotkey
            self._closings[key] = self._closings.get(key, NO_ENDS).merged(ends_by(proof))

    def proofs(self) -> list[Proof]:
        """What it knows of the ends of logs."""
        known = (*self._forks.values(), *self._closings.values())
        return [proof for ends in known for proof in ends if proof is not None]

    def cut(self, log: LogId) -> int | None:
        """First seq of a stored log that counts for nothing."""
        stored = self._stored[log]
        closed = self._closings.get((log, self.author(log)), NO_ENDS)
        ends = self._forks.get(log, NO_ENDS).merged(closed)
        return ends.cut(lambda seq: stored[seq].id if seq < len(stored) else None)

    def counted(self) -> list[tuple[Event, Judgement]]:
        """What lies below the cuts, in order of arrival."""
        cuts = {log: self.cut(log) for log, stored in self._stored.items() if stored}
        return [
            (event, judgement)
            for event, judgement in self.judged
            if (cut := cuts[event.log]) is None or event.seq < cut
        ]

    @property
    def events(self) -> list[Event]:
        """Everything stored, in order of arrival."""
        return [event for event, _ in self.judged]

    def author(self, log: LogId) -> bytes:
        """Hotkey that a log speaks for."""
        delegation = self._prefixes[log].delegation
        assert delegation is not None
        return delegation.hotkey

    def mandates(self) -> dict[bytes, Mandate]:
        """What the logs say about each validator."""
        windows: dict[bytes, dict[LogId, tuple[int, int]]] = {}
        first: dict[bytes, int] = {}
        for event, judgement in self.counted():
            if isinstance(judgement.payload, Delegation):
                held = judgement.payload
                windows.setdefault(held.hotkey, {})[event.log] = (held.not_before, held.not_after)
                first[held.hotkey] = min(first.get(held.hotkey, event.hlc), event.hlc)
        return {hotkey: Mandate(tuple(logs.values()), first[hotkey]) for hotkey, logs in windows.items()}

    def claims(self) -> dict[bytes, Claim]:
        """Every claim that a valid event brings that counts, by id."""
        found: dict[bytes, Claim] = {}
        for event, judgement in self.counted():
            for carried in judgement.adds:
                request = carried.payload.request
                carriage = Carriage(self.author(event.log), carried.payload.electorate_block, carried.hlc)
                uuids = tuple(node.uuid for node in carried.body.nodes)
                held = found.get(carried.claim_id) or Claim(
                    carried.claim_id, request.hotkey, parse_nonce(request.nonce) or 0, uuids, ()
                )
                found[carried.claim_id] = held._replace(carriages=(*held.carriages, carriage))
        return found

    def deletions(self) -> dict[bytes, Deletion]:
        """Every delete request that a valid event brings that counts, by id."""
        found: dict[bytes, Deletion] = {}
        for event, judgement in self.counted():
            for carried in judgement.deletes:
                request, payload = carried.payload.request, carried.payload
                carriage = DeleteCarriage(self.author(event.log), payload.uuid, frozenset(payload.claim_ids))
                held = found.get(carried.request_id) or Deletion(
                    carried.request_id, request.hotkey, parse_nonce(request.nonce) or 0, request.bound, ()
                )
                found[carried.request_id] = held._replace(carriages=(*held.carriages, carriage))
        return found

    def votes(self) -> dict[bytes, list[Vote]]:
        """Every valid verdict that counts, by claim id."""
        found: dict[bytes, list[Vote]] = {}
        for event, judgement in self.counted():
            if isinstance(judgement.payload, Verdict | Renew):
                for said in judgement.payload.verdicts:
                    vote = Vote(self.author(event.log), event.hlc, said.finding, said.since, said.method, said.detail)
                    found.setdefault(said.claim_id, []).append(vote)
        return found

    def placements(self) -> dict[str, list[Placement]]:
        """Every valid place and release that counts, by GPU."""
        found: dict[str, list[Placement]] = {}
        for event, judgement in self.counted():
            if isinstance(judgement.payload, Place | Release):
                said = judgement.payload
                chute = Chute(*said[2:]) if isinstance(said, Place) else None
                for uuid in said.uuids:
                    placement = Placement(self.author(event.log), event.hlc, said.claim_id, chute)
                    found.setdefault(uuid, []).append(placement)
        return found

    def tallies(self, electorate: Electorate) -> dict[bytes, Tally]:
        """The vote on every claim."""
        weights, votes = Weights(NETWORK, electorate, self.mandates()), self.votes()
        return {claim_id: inventory.tally(votes.get(claim_id, []), weights) for claim_id in self.claims()}

    def rows(self, electorate: Electorate) -> dict[str, Row]:
        """The inventory, f(events, E)."""
        claims, deletions, placements = self.claims(), self.deletions(), self.placements()
        weights, tallies = Weights(NETWORK, electorate, self.mandates()), self.tallies(electorate)
        rows: dict[str, Row] = {}
        for uuid in sorted({uuid for claim in claims.values() for uuid in claim.uuids}):
            row = inventory.decide(
                uuid,
                [claim for claim in claims.values() if uuid in claim.uuids],
                [d for d in deletions.values() if any(carriage.uuid == uuid for carriage in d.carriages)],
                tallies,
                placements.get(uuid, []),
                weights,
            )
            if row is not None:
                rows[uuid] = row
        return rows

    def tasks(self, electorate: Electorate) -> dict[bytes, TaskStatus]:
        """What every claim's task answers, by claim id."""
        claims, deletions, tallies = self.claims(), self.deletions().values(), self.tallies(electorate)
        standings = {
            uuid: inventory.standing(
                uuid,
                [claim for claim in claims.values() if uuid in claim.uuids],
                [deletion for deletion in deletions if any(carriage.uuid == uuid for carriage in deletion.carriages)],
                electorate,
            )
            for uuid in {uuid for claim in claims.values() for uuid in claim.uuids}
        }
        return {
            claim.id: inventory.task_status(
                claim, tallies[claim.id], {uuid: standings[uuid] for uuid in claim.uuids}, tallies
            )
            for claim in claims.values()
        }

    def root(self, electorate: Electorate) -> bytes:
        """State root of the inventory."""
        return state_root(self.rows(electorate).values())
