"""f(events, E) once more, straight from design.md ("How one GPU's row is decided"): slow, plain, and only for tests.

Shares no code with ``model/inventory`` and ``model/branches`` but the types of its answer, works on all events of all
branches at once, and weighs with fractions. Which events are valid is taken from ``judge``, branch by branch.
"""

from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.claims import Body
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import (
    Close,
    Delegation,
    DeletePayload,
    Event,
    Evidence,
    Header,
    LogId,
    Place,
    Release,
    Renew,
    Verdict,
)
from p2pnodes.model.inventory import Chute, Row
from p2pnodes.model.network import Network
from p2pnodes.model.validity import EMPTY, Judgement, judge
from p2pnodes.store import logs as bounds


class Said(NamedTuple):
    """A valid event and the validator that speaks through its log."""

    author: bytes
    event: Event
    judgement: Judgement


class Recorded(NamedTuple):
    """One event that carries an add: who carries it, and what it says."""

    author: bytes
    miner: bytes
    nonce: int
    electorate_block: int
    hlc: int
    body: Body


class Ended(NamedTuple):
    """One event that carries a delete."""

    author: bytes
    payload: DeletePayload


class Standing(NamedTuple):
    """A standing claim on one GPU with its vote."""

    claim_id: bytes
    miner: bytes
    nonce: int
    created_hlc: int
    status: str
    since: int | None
    detail: str


def counted_events(
    events: Iterable[Event], proofs: Iterable[Close | Evidence] = (), closed: Mapping[LogId, int] | None = None
) -> list[Said]:
    """The valid events that their logs' forks and closings leave, each once, log by log.

    Args:
        events: Of whatever branches, each with all before it.
        proofs: Of ends, beside those that the events themselves are or bring.
        closed: The last seq of a log that a checkpoint had closed before a fork was proved there, of one branch.
    """
    logs: dict[LogId, dict[bytes, Event]] = {}
    for event in events:
        logs.setdefault(event.log, {})[event.id] = event
    told = [*proofs, *(said for log in logs.values() for event in log.values() if (said := _told(event)))]
    closed = closed or {}
    by_author: dict[bytes, list[LogId]] = {}
    for log, held in logs.items():
        by_author.setdefault(_hotkey(held.values()), []).append(log)
    for author, own in by_author.items():  # those of a checkpoint first, then those whose ids hash lowest
        if author:
            own.sort(key=lambda log: codec.digest(codec.pack([log.node_key, log.number])))
            own.sort(key=lambda log: log not in closed)
            del own[bounds.LOGS_PER_HOTKEY_MAX :]
    few = {log for own in by_author.values() for log in own}
    return [said for log, held in logs.items() if log in few for said in _counted(log, held, told, closed.get(log, -1))]


def _hotkey(events: Iterable[Event]) -> bytes:
    """The validator that a log speaks for, by its first event; empty where that is none."""
    first = judge(min(events, key=lambda event: event.seq), EMPTY).payload
    return first.hotkey if isinstance(first, Delegation) else b""


def _told(event: Event) -> Close | Evidence | None:
    """The proof that an event brings."""
    try:
        if event.kind == "close":
            return Close.from_wire(codec.unpack(event.payload))
        return Evidence.from_wire(codec.unpack(event.payload)) if event.kind == "evidence" else None
    except codec.MalformedError:
        return None


def _counted(log: LogId, held: Mapping[bytes, Event], told: Iterable[Close | Evidence], closed: int) -> list[Said]:
    """The valid events of one log that count, of all its branches."""
    ordered = sorted(held.values(), key=lambda event: event.seq)
    judgements: dict[bytes, Judgement] = {}
    for event in ordered:  # each by what its own branch says before it
        before = judgements.get(event.previous)
        judgements[event.id] = judge(event, before.prefix if before else EMPTY)
    hotkey = _hotkey(held.values())
    forks = [one.seq for one in ordered for other in ordered if _rivals(one, other)]
    forks += [header.seq for header in _headers(told) if header.log == log]
    # The lowest fork counts: events at that seq and above are void on every branch, but for those of a checkpoint.
    left = [event for event in ordered if not forks or event.seq < max(min(forks), closed + 1)]
    closings = [end.head for end in told if isinstance(end, Close) and end.log == log and end.hotkey == hotkey]
    if None in closings:
        left = []
    elif heads := [head for head in closings if head is not None]:
        seq, last = min(heads)
        # Events outside the branch that ends in that id are void.
        left = [event for event in left if event.seq < seq or event.id == last]
        if last in held:
            left = [event for event in left if event.id in _branch(held, last)]
    return [Said(hotkey, event, judgements[event.id]) for event in left if judgements[event.id].payload is not None]


def _rivals(one: Event, other: Event) -> bool:
    return (one.seq, one.previous) == (other.seq, other.previous) and one.id != other.id


def _headers(told: Iterable[Close | Evidence]) -> list[Header]:
    return [Header.decode(end.first) for end in told if isinstance(end, Evidence)]


def _branch(held: Mapping[bytes, Event], last: bytes) -> set[bytes]:
    """The events of the branch that ends in an id."""
    found: set[bytes] = set()
    event = held.get(last)
    while event is not None:
        found.add(event.id)
        event = held.get(event.previous)
    return found


class Reference:
    """What a set of events comes to under one electorate."""

    def __init__(  # noqa: PLR0917 - what rows follow from
        self,
        events: Iterable[Event],
        electorate: Electorate,
        network: Network,
        proofs: Iterable[Close | Evidence] = (),
        late: Collection[bytes] = (),
        closed: Mapping[LogId, int] | None = None,
    ) -> None:
        """Work everything out.

        Args:
            events: Of whatever branches, each with all before it.
            electorate: E.
            network: Its parameters.
            proofs: Of ends, beside those in ``events``.
            late: Ids of events that came when a checkpoint had made them void.
            closed: See ``counted_events``.
        """
        self.electorate, self.network = electorate, network
        grace = electorate.previous.validators if electorate.previous else {}
        stakes = {**grace, **electorate.current.validators}
        # An event counts while its author's hotkey is permitted in E.
        said = [each for each in counted_events(events, proofs, closed) if each.author in stakes]
        self.said = [each for each in said if each.event.id not in late]
        self.enrolled = {hotkey: stake for hotkey, stake in stakes.items() if self._delegated(hotkey)}
        self.claims: dict[bytes, list[Recorded]] = {}
        self.deletes: dict[bytes, list[Ended]] = {}
        for author, _, judgement in self.said:
            for add in judgement.adds:
                request = add.payload.request
                self.claims.setdefault(add.claim_id, []).append(
                    Recorded(
                        author, request.hotkey, int(request.nonce), add.payload.electorate_block, add.hlc, add.body
                    )
                )
            for delete in judgement.deletes:
                self.deletes.setdefault(delete.request_id, []).append(Ended(author, delete.payload))

    def rows(self) -> dict[str, Row]:
        """Every row, by GPU."""
        uuids = {node.uuid for recorded in self.claims.values() for node in recorded[0].body.nodes}
        return {uuid: row for uuid in sorted(uuids) if (row := self.row(uuid))}

    def row(self, uuid: str) -> Row | None:
        """The row of one GPU."""
        standing = self.standing(uuid)
        if not standing:
            return None
        # The verified one with the lowest (verified-since, stamp), and without any the lowest stamp.
        verified = [claim for claim in standing if claim.status == "verified"]
        owner = min(verified or standing, key=lambda claim: (claim.since or 0, claim.nonce, claim.claim_id))
        return Row(
            uuid,
            owner.claim_id,
            owner.miner,
            owner.status,
            owner.created_hlc,
            owner.since,
            owner.detail,
            self._chute(uuid, owner.claim_id),
        )

    def standing(self, uuid: str) -> list[Standing]:
        """The claims on a GPU that count and that no delete ends, in no order."""
        found: list[Standing] = []
        for claim_id, everywhere in self.claims.items():
            # An electorate block above E's counts for nothing until E reaches it.
            recorded = [one for one in everywhere if one.electorate_block <= self.electorate.block]
            if not recorded or uuid not in {node.uuid for node in recorded[0].body.nodes}:
                continue
            miner, nonce = recorded[0].miner, recorded[0].nonce
            registered = self.electorate.current.registered.get(miner)
            if registered is None or registered > max(one.electorate_block for one in recorded):
                continue
            if not self._deleted(uuid, claim_id, miner, nonce):
                created_hlc = min(one.hlc for one in recorded)
                found.append(Standing(claim_id, miner, nonce, created_hlc, *self.tally(claim_id)))
        return found

    def _deleted(self, uuid: str, claim_id: bytes, miner: bytes, nonce: int) -> bool:
        for carrying in self.deletes.values():
            request = carrying[0].payload.request
            uuids = {one.payload.uuid for one in carrying}
            if request.hotkey != miner or uuid not in uuids:
                continue
            if request.purpose == "nodes" and len(uuids) > 1:
                continue  # events with one unbound signature name different GPUs: none of them counts
            if int(request.nonce) > nonce:
                return True
            if int(request.nonce) == nonce and all(claim_id in one.payload.claim_ids for one in carrying):
                return True
        return False

    def tally(self, claim_id: bytes) -> tuple[str, int | None, str]:
        """Status, verified-since and detail of the vote on a claim."""
        live = self.live_verdicts(claim_id)
        everything, weighed = sum(self.enrolled.values()), self.weighed(live)
        quorum, min_share = Fraction(str(self.network.quorum)), Fraction(str(self.network.min_share))
        verified = {hotkey: v.since for hotkey, v in live.items() if v.finding == "verified" and v.since is not None}
        failed = [hotkey for hotkey in live if live[hotkey].finding == "failed"]
        for_it = self._stake(verified)
        if for_it > quorum * weighed and for_it >= min_share * everything:
            # The lowest of these times at which the validators who say "since then, or before" exceed the quorum.
            since = min(
                t
                for t in verified.values()
                if self._stake([hotkey for hotkey in verified if verified[hotkey] <= t]) > quorum * weighed
            )
            return "verified", since, ""
        if self._stake(failed) and self._stake(failed) >= (1 - quorum) * weighed:
            heaviest = max(self.enrolled[hotkey] for hotkey in failed)
            speaker = min(hotkey for hotkey in failed if self.enrolled[hotkey] == heaviest)
            return "failed", None, live[speaker].detail
        return "pending", None, ""

    def task(self, claim_id: bytes) -> tuple[str, str]:
        """Status and detail of a claim's task (design.md, "Squatting"; compat.md, "GET /nodes/verification_status")."""
        answers: list[tuple[str, str]] = []
        for node in self.claims[claim_id][0].body.nodes if claim_id in self.claims else ():
            standing = self.standing(node.uuid)
            claim = next((one for one in standing if one.claim_id == claim_id), None)
            if claim is None:
                continue
            row = self.row(node.uuid)
            if row is not None and row.miner != claim.miner and row.status == "verified":
                answers.append(("failed", f"GPU {node.uuid} belongs to a verified claim of another hotkey"))
            else:  # of one miner's own claims, the one that owns the GPU where nobody else claims it speaks for all
                own = [one for one in standing if one.miner == claim.miner]
                verified = [one for one in own if one.status == "verified"]
                speaker = min(verified or own, key=lambda one: (one.since or 0, one.nonce, one.claim_id))
                answers.append((speaker.status, speaker.detail))
        for status in ("failed", "pending", "verified"):
            for answer in answers:
                if answer[0] == status:
                    return answer
        status, _, detail = self.tally(claim_id)
        if status != "pending":
            return status, detail
        return "failed", "the nodes of this task are deleted, or their miner is no longer registered"

    def weighed(self, live: Mapping[bytes, Verdict]) -> int:
        """W: enrolled stake less the abstainers, less young validators without a verdict."""
        return sum(
            stake
            for hotkey, stake in self.enrolled.items()
            if (live[hotkey].finding != "abstain" if hotkey in live else not self.young(hotkey))
        )

    def live_verdicts(self, claim_id: bytes) -> dict[bytes, Verdict]:
        """The latest verdict of each enrolled validator on a claim, unless it has lapsed."""
        cast: dict[bytes, list[tuple[int, Verdict]]] = {}
        for author, event, judgement in self.said:
            payload = judgement.payload
            said = [payload] if isinstance(payload, Verdict) else []
            if isinstance(payload, Renew):
                said = [Verdict(named, "verified", payload.method, "", since) for named, since in payload.claims]
            if author in self.enrolled:
                cast.setdefault(author, []).extend((event.hlc, one) for one in said if one.claim_id == claim_id)
        latest = {
            author: max(
                verdicts, key=lambda one: (one[0], one[1].finding, one[1].since or 0, one[1].method, one[1].detail)
            )
            for author, verdicts in cast.items()
            if verdicts
        }
        lapsed_before = self.electorate.time_ms - self.network.verdict_ttl_s * 1000
        return {author: verdict for author, (hlc, verdict) in latest.items() if hlc >> 16 >= lapsed_before}

    def _chute(self, uuid: str, claim_id: bytes) -> Chute | None:
        last: dict[bytes, tuple[int, Place | Release]] = {}
        for author, event, judgement in sorted(self.said, key=lambda said: said.event.hlc):
            payload = judgement.payload
            if (
                isinstance(payload, Place | Release)
                and payload.claim_id == claim_id
                and uuid in payload.uuids
                and author in self.enrolled
            ):
                held = last.get(author)
                # At one HLC in two logs of one hotkey: a place beats a release, then the higher content.
                if held is None or (event.hlc, _content(payload)) > (held[0], _content(held[1])):
                    last[author] = event.hlc, payload
        places = [
            (hlc, _content(said), author, said) for author, (hlc, said) in last.items() if isinstance(said, Place)
        ]
        if not places:
            return None
        latest = max(places, key=lambda place: place[:3])[3]
        return Chute(latest.chute_id, latest.instance_id, latest.verified, latest.public, latest.name, latest.username)

    def _delegated(self, hotkey: bytes) -> bool:
        """Whether any log of the hotkey has a delegation, its latest, that lives at E's time."""
        latest: dict[LogId, Delegation] = {}
        for author, event, judgement in self.said:  # in order of seq within a log
            if author == hotkey and isinstance(judgement.payload, Delegation):
                latest[event.log] = judgement.payload
        return any(d.not_before * 1000 <= self.electorate.time_ms <= d.not_after * 1000 for d in latest.values())

    def young(self, hotkey: bytes) -> bool:
        """Whether the hotkey's first delegation is younger than a verdict lives."""
        delegated = [e.hlc >> 16 for a, e, j in self.said if a == hotkey and isinstance(j.payload, Delegation)]
        return self.electorate.time_ms - min(delegated) < self.network.verdict_ttl_s * 1000

    def _stake(self, hotkeys: Collection[bytes]) -> int:
        return sum(self.enrolled[hotkey] for hotkey in hotkeys)


def _content(said: Place | Release) -> bytes:
    """What orders words of equal HLC: nothing for a release, the encoded chute for a place."""
    return codec.pack(list(said[2:])) if isinstance(said, Place) else b""
