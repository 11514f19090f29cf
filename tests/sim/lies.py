"""What a byzantine validator says: events that twist what it has heard, and frames that no honest daemon sends.

Pure: everything is drawn from the hand's ``Random``. Who is told what, and when, is decided by ``byzantine``.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from p2pnodes.gossip.frames import (
    ALL_SLICES,
    WANT_BYTES_MAX,
    Events,
    Have,
    Link,
    Mode,
    News,
    Proofs,
    Range,
    Vector,
    Want,
    log_tag,
)
from p2pnodes.model import codec
from p2pnodes.model.clock import hlc_at, hlc_ms
from p2pnodes.model.events import (
    ABSTAIN,
    FAILED,
    VERIFIED,
    AddPayload,
    Carry,
    DeletePayload,
    Event,
    Evidence,
    LogId,
    Payload,
    Place,
    Release,
    Renew,
    Verdict,
)
from p2pnodes.model.keys import SIGNATURE_BYTES, Hotkey, NodeKey
from p2pnodes.model.requests import PURPOSE_DELETE, Add, Delete, bound_purpose, request_id
from tests.sim.pen import Pen
from tests.sim.workload import GPUS
from tests.support import MINERS, body, hotkey

METHOD: Final = "bribe"
DETAIL: Final = "because I say so"

AHEAD_MS: Final = 30_000
"""How far ahead of the true time a liar writes: less than what honest peers defer, whose clocks differ, too."""

DAY_MS: Final = 86_400_000
PAST_MS: Final = 30 * DAY_MS
"""How far back it dates what it says began long ago."""

BRANCH_EVENTS: Final = (1, 12)
"""Length of a branch behind the fork."""

FLOOD_FRAMES: Final = 400
"""Length of a flood; tests/gossip has longer ones."""


class Hand(NamedTuple):
    """What a liar has at hand.

    Attributes:
        validator: Its hotkey.
        network_id: Of the network.
        rng: Draws.
        now_ms: The true time, Unix milliseconds.
        block: Of the electorate.
        claims: Ids of claims, in an order that the seed decides.
        requests: Events of anybody that are an ``add`` or a ``delete``.
        logs: Logs of others.
    """

    validator: Hotkey
    network_id: bytes
    rng: random.Random
    now_ms: int
    block: int = 0
    claims: Sequence[bytes] = ()
    requests: Sequence[Event] = ()
    logs: Sequence[LogId] = ()

    def claim(self) -> bytes:
        """A claim; now and then one that nobody made."""
        return self.rng.choice(self.claims) if self.claims and self.rng.random() < 0.9 else self.rng.randbytes(32)

    def log(self) -> LogId:
        """A log of somebody else."""
        return self.rng.choice(self.logs) if self.logs else LogId(self.rng.randbytes(32), 0)

    def adds(self) -> list[Add]:
        """The registrations among ``requests``."""
        return [
            AddPayload.from_wire(codec.unpack(event.payload)).request for event in self.requests if event.kind == "add"
        ]

    def deletes(self) -> list[DeletePayload]:
        """The deletions among ``requests``."""
        return [
            DeletePayload.from_wire(codec.unpack(event.payload)) for event in self.requests if event.kind == "delete"
        ]


def verdict(claim_id: bytes, finding: str, since: int) -> Verdict:
    """A verdict; ``since`` counts for a verified one."""
    lies = finding != VERIFIED
    return Verdict(claim_id, finding, METHOD, DETAIL if lies else "", None if lies else since)


def word(hand: Hand, hlc: int) -> Payload:
    """Something that is valid at a timestamp, and may be true or not: a verdict or two, a chute, or its end."""
    rng, claim_id = hand.rng, hand.claim()
    match rng.choice(("verdict", "verdict", "renew", "place", "release")):
        case "place":
            return Place(claim_id, (rng.choice(GPUS),), "chute", f"{rng.randrange(9)}", True, True, "name", "liar")
        case "release":
            return Release(claim_id, (rng.choice(GPUS),))
        case "renew":
            return Renew(METHOD, tuple((each, rng.choice((0, hlc))) for each in sorted({claim_id, hand.claim()})))
        case _:
            return verdict(claim_id, rng.choice((VERIFIED, FAILED, ABSTAIN)), rng.choice((0, hlc)))


# -- logs ------------------------------------------------------------------------------------------------------------


def side_log(hand: Hand, *, age_ms: int = 0, after_ms: int = DAY_MS) -> Pen:
    """A log beside the daemon's own, with a node key of its own.

    Args:
        hand: Whose.
        age_ms: How old it claims to be; its delegation begins then.
        after_ms: How long it lasts from now on.
    """
    pen = Pen(NodeKey.from_seed(hand.rng.randbytes(32)), hand.network_id, hand.rng.randrange(4))
    began_ms = hand.now_ms - age_ms
    pen.delegate(hand.validator, began_ms // 1000 - 1, (hand.now_ms + after_ms) // 1000, hlc_at(began_ms))
    return pen


def scribble(hand: Hand, pen: Pen, count: int) -> None:
    """Write some valid words."""
    for _ in range(count):
        hlc = max(pen.hlc + 1, hlc_at(hand.now_ms))
        pen.write(word(hand, hlc), hlc)


def branches(hand: Hand, pen: Pen, shared: int, count: int) -> list[Pen]:
    """Branches of a log that share its first ``shared`` events, and differ in the next one."""
    found: list[Pen] = []
    for number in range(count):
        branch = pen.branch(shared)
        branch.hlc = max(branch.hlc, hlc_at(hand.now_ms)) + number  # so that no two begin with the same event
        scribble(hand, branch, hand.rng.randint(*BRANCH_EVENTS))
        found.append(branch)
    return found


def backdated(hand: Hand) -> Pen:
    """A log that came too late to be true: words of long ago, of before the word before, of outside its window."""
    rng, now_ms = hand.rng, hand.now_ms
    over_ms = rng.choice((-DAY_MS // 2, 0, AHEAD_MS // 2, DAY_MS))
    pen = side_log(hand, age_ms=rng.randint(DAY_MS, PAST_MS), after_ms=over_ms)
    low, high = pen.hlc, hlc_at(now_ms + AHEAD_MS)
    for _ in range(rng.randint(3, 12)):
        claim_id = hand.claim()
        following, now = pen.hlc + 1, max(pen.hlc + 1, hlc_at(now_ms))
        match rng.choice(("old", "older", "now", "below", "ahead", "since", "renewal")):
            case "old":
                pen.write(verdict(claim_id, rng.choice((VERIFIED, FAILED)), low), rng.randint(following, now))
            case "older":  # void: not above the last one
                pen.write(verdict(claim_id, VERIFIED, 0), rng.randint(low, pen.hlc))
            case "now":
                scribble(hand, pen, 1)
            case "below":  # void: before its window
                pen.write(verdict(claim_id, FAILED, 0), rng.randrange(low))
            case "ahead":  # void if the window is over by then
                pen.write(verdict(claim_id, VERIFIED, 0), max(following, high))
            case "since":  # void: it began after it was said
                begun = now + rng.choice((1, hlc_at(DAY_MS)))
                renews = claim_id[0] % 2  # not drawn: seeds go on to tell what they told
                pen.write(Renew(METHOD, ((claim_id, begun),)) if renews else verdict(claim_id, VERIFIED, begun), now)
            case "renewal":  # shortens the window of all that follows, or is void itself
                now_s = hlc_ms(now) // 1000
                after_s = rng.choice((-2, 1, 86_400))
                pen.delegate(hand.validator, now_s - rng.choice((4, 86_400)), now_s + after_s, now)
        pen.hlc = max(event.hlc for event in pen.events)
    return pen


def flips(hand: Hand, first: Pen, second: Pen) -> None:
    """Vote this way and that on one claim, in two logs of one validator at once: opposite words of one timestamp."""
    rng, claim_id = hand.rng, hand.claim()
    hlc = max(first.hlc, second.hlc, hlc_at(hand.now_ms)) + 1
    for _ in range(rng.randint(2, 10)):
        one, other = rng.sample((VERIFIED, FAILED, ABSTAIN), 2)
        first.write(verdict(claim_id, one, rng.choice((0, hlc))), hlc)
        if rng.random() < 0.7:
            second.write(verdict(claim_id, other, rng.choice((0, hlc))), hlc)
        hlc += rng.choice((1, hlc_at(1_000)))


# -- requests --------------------------------------------------------------------------------------------------------


class Forged(NamedTuple):
    """Ids of requests that their miners never signed: nobody may count them.

    Attributes:
        claims: Of registrations.
        deletes: Of deletions.
    """

    claims: set[bytes]
    deletes: set[bytes]


def replays(hand: Hand, pen: Pen) -> Forged:
    """Write miners' requests again: as they were signed, at another time or place, and as nobody signed them."""
    forged = Forged(set(), set())
    adds, deletes = hand.adds(), [delete.request for delete in hand.deletes()]
    ways = (_again, _other_body, _other_nonce, _other_miner, _re_aimed, _unsigned_delete, _carry)
    for _ in range(hand.rng.randint(2, 8)):
        payload = hand.rng.choice(ways)(hand, pen)
        if isinstance(payload, AddPayload) and payload.request not in adds:
            forged.claims.add(request_id(hand.network_id, payload.request))
        elif isinstance(payload, DeletePayload) and payload.request not in deletes:
            forged.deletes.add(request_id(hand.network_id, payload.request))
        pen.write(payload, max(pen.hlc + 1, hlc_at(hand.now_ms)))
    return forged


def _add(hand: Hand) -> Add:
    """A registration that somebody made; without any, one that nobody signed."""
    if adds := hand.adds():
        return hand.rng.choice(adds)
    miner = hotkey(hand.rng.choice(MINERS)).public_key
    return Add(miner, f"{hand.now_ms // 1000}", hand.rng.randbytes(SIGNATURE_BYTES), body([hand.rng.choice(GPUS)]))


def _again(hand: Hand, pen: Pen) -> Payload:
    """What was registered, once more: by now it may be deleted, or be older than the nonce's window."""
    return AddPayload(_add(hand), hand.rng.choice((0, hand.block, hand.block + 100_000)))


def _other_body(hand: Hand, pen: Pen) -> Payload:
    """Other GPUs under a miner's signature."""
    uuids = [hand.rng.choice(GPUS), f"stolen-{hand.rng.randrange(99)}"]
    return AddPayload(_add(hand)._replace(body=body(uuids)), hand.block)


def _other_nonce(hand: Hand, pen: Pen) -> Payload:
    """An older stamp under a miner's signature, or a fresher one."""
    request = _add(hand)
    return AddPayload(request._replace(nonce=str(int(request.nonce) + hand.rng.choice((-60, 1, 60)))), hand.block)


def _other_miner(hand: Hand, pen: Pen) -> Payload:
    """A miner's GPUs for another miner."""
    request = _add(hand)
    others = [miner for uri in MINERS if (miner := hotkey(uri).public_key) != request.hotkey]
    return AddPayload(request._replace(hotkey=hand.rng.choice(others)), hand.block)


def _re_aimed(hand: Hand, pen: Pen) -> Payload:
    """A miner's deletion for another GPU: void if it is bound, and if not, both cancel each other, as the rules say."""
    deletes = hand.deletes()
    return hand.rng.choice(deletes)._replace(uuid=hand.rng.choice(GPUS)) if deletes else _unsigned_delete(hand, pen)


def _unsigned_delete(hand: Hand, pen: Pen) -> Payload:
    """A deletion that no miner asked for."""
    rng, uuid = hand.rng, hand.rng.choice(GPUS)
    purpose, miner = rng.choice((PURPOSE_DELETE, bound_purpose(uuid))), hotkey(rng.choice(MINERS)).public_key
    request = Delete(miner, f"{hand.now_ms // 1000}", rng.randbytes(SIGNATURE_BYTES), purpose)
    return DeletePayload(request, uuid, tuple(rng.sample(hand.claims, min(2, len(hand.claims)))))


def _carry(hand: Hand, pen: Pen) -> Payload:
    """Events of others, as they are or with one bit changed."""
    rng = hand.rng
    if not hand.requests:
        return Carry((pen.events[0].wire,))  # void: a delegation cannot be carried
    wires = [event.wire for event in rng.sample(hand.requests, min(3, len(hand.requests)))]
    if rng.random() < 0.7:
        index = rng.randrange(len(wires))
        wires[index] = _flipped(wires[index], rng)
    return Carry(tuple(wires))


def _flipped(data: bytes, rng: random.Random) -> bytes:
    """The same bytes but for one bit."""
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


# -- frames ----------------------------------------------------------------------------------------------------------


class Attack(NamedTuple):
    """Frames that no honest daemon sends.

    Attributes:
        name: Of ATTACKS.
        frames: In order.
        sure: Whether whoever takes them must ban the sender there and then, whatever it holds or has to do.
    """

    name: str
    frames: list[bytes]
    sure: bool


def attack(hand: Hand) -> Attack:
    """Draw an attack; ``hand.logs`` are best some that its victim holds."""
    name = hand.rng.choice(tuple(ATTACKS))
    return Attack(name, ATTACKS[name](hand), name in SURE)


def _garbage(hand: Hand) -> list[bytes]:
    return [b"\xc1" + hand.rng.randbytes(hand.rng.randint(0, 200))]  # 0xC1 begins no value of msgpack


def _cut_off(hand: Hand) -> list[bytes]:
    frame = Have([News(log_tag(hand.log()), 1, 0)]).encode()
    return [frame[: hand.rng.randrange(1, len(frame))]]


def _unknown_kind(hand: Hand) -> list[bytes]:
    return [codec.pack([hand.rng.choice((0, -1, 99, 2**40, None, "digest")), []])]


def _second_spelling(hand: Hand) -> list[bytes]:
    return [b"\x92\xcc\x08\x01"]  # a link, whose kind takes two bytes


def _unasked_range(hand: Hand) -> list[bytes]:
    pen = side_log(hand)
    return [Range(pen.log, 0, [event.wire for event in pen.events]).encode()]


def _other_network(hand: Hand) -> list[bytes]:
    pen = side_log(hand._replace(network_id=hand.rng.randbytes(len(hand.network_id))))
    return [Events([event.wire for event in pen.events]).encode()]


def _forged_event(hand: Hand) -> list[bytes]:
    """The first event of a log, without its signature."""
    event = side_log(hand).events[0]
    return [Events([codec.pack([event.header, bytes(SIGNATURE_BYTES), event.payload])]).encode()]


def _stolen_log(hand: Hand) -> list[bytes]:
    """An event in somebody else's log, signed with another key than that log's."""
    pen = side_log(hand)
    scribble(hand, pen, 1)
    seq = hand.rng.randrange(1, 40)
    header = _moved(pen.events[1], hand.log(), seq, hand.rng.randbytes(32))
    return [Events([codec.pack([header, pen.events[1].signature, pen.events[1].payload])]).encode()]


def _false_proof(hand: Hand) -> list[bytes]:
    """Evidence of a fork of somebody else's log, signed with another key than that log's."""
    one, other = (branch.events[1] for branch in branches(hand, side_log(hand), 1, 2))
    log, seq = hand.log(), hand.rng.randrange(4)
    first, second = sorted(
        (_moved(event, log, seq, bytes(32) if seq else b"") for event in (one, other)), key=codec.digest
    )
    return [Proofs([Evidence(first, one.signature, second, other.signature)]).encode()]


def _moved(event: Event, log: LogId, seq: int, previous: bytes) -> bytes:
    """The header of an event as if it lay elsewhere; its signature does not hold any more."""
    header = codec.unpack(event.header)
    assert isinstance(header, list)
    header[2:6] = [*log, seq, previous]
    return codec.pack(header)


def _haves(hand: Hand) -> list[bytes]:
    """Announcements without end, far ahead of logs that exist, and of logs that do not."""
    return [
        Have([News(log_tag(hand.log()), hand.rng.randrange(1 << 40), 0), News(hand.rng.randbytes(8), 1, 0)]).encode()
        for _ in range(FLOOD_FRAMES)
    ]


def _grafts(hand: Hand) -> list[bytes]:
    """GRAFT and PRUNE by turns, for nothing."""
    return [Link(hand.rng.choice((Mode.NEWS, Mode.EVENTS))).encode() for _ in range(FLOOD_FRAMES)]


def _doubled(hand: Hand) -> list[bytes]:
    """One event over and over."""
    return [Events([hand.requests[0].wire if hand.requests else side_log(hand).events[0].wire]).encode()] * FLOOD_FRAMES


def _wants(hand: Hand) -> list[bytes]:
    """More wants than there is credit for."""
    return [Want(hand.log(), hand.rng.randrange(9), 512, WANT_BYTES_MAX).encode() for _ in range(FLOOD_FRAMES)]


def _vectors(hand: Hand) -> list[bytes]:
    """Vectors without end, that say that it holds nothing."""
    return [Vector(0, True, ALL_SLICES, []).encode()] * FLOOD_FRAMES


ATTACKS: Final[dict[str, Callable[[Hand], list[bytes]]]] = {
    "garbage": _garbage,
    "cut-off": _cut_off,
    "unknown-kind": _unknown_kind,
    "second-spelling": _second_spelling,
    "unasked-range": _unasked_range,
    "other-network": _other_network,
    "forged-event": _forged_event,
    "stolen-log": _stolen_log,
    "false-proof": _false_proof,
    "haves": _haves,
    "grafts": _grafts,
    "doubled": _doubled,
    "wants": _wants,
    "vectors": _vectors,
}
"""How a hostile peer may begin, by name."""

SURE: Final = frozenset({"garbage", "cut-off", "unknown-kind", "second-spelling", "unasked-range"})
"""Those that cost the session whatever the receiver holds. The others are dropped while its store fails, or where the
log is unknown to it."""
