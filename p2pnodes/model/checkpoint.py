"""Checkpoints: what replaces the part of the log that is older than the horizon.

A *proposal* says how far a *cut* goes in each log: its events up to there have an HLC below h, the time of the
proposal's electorate E_c less the horizon. The *live set* L holds what today's rows still need of the events at or
below the cut. Each validator that holds the cut finds the same L, for L is a pure function of what lies there and of
E_c, and signs its Merkle root. Signatures of more than two thirds of the stake make a *certificate*; from then on the
inventory is f of L and of the events above the cut, and whatever else lies at or below it counts for nothing.

The unit of L is what an event says about one request or one GPU, an *item*: a kept ``carry`` must not bring back a
request that was deleted, nor a kept ``place`` the other GPU, which was released. A leaf of L names an event and, by a
mask, its items that are kept. Of what one author says of one request again and again L holds no more than f can ever
ask for, whoever has a permit then: else one validator could make it as large as it likes.

What could undo a cut from above it counts for nothing either, whenever it arrives: words (verdict, place, release) with
an HLC below h, and requests with a nonce below the *floor*; but for requests that L holds, which must be carried when
their author loses its permit. Deletions with a nonce at or above the floor are all in L, so none is missing for a
registration that may still come.

The floor lies two horizons below h, so that a request that has to be carried does not fall behind it: one that was just
above a cut when its author forked or lost its permit is carried then, and a horizon later that carriage lies below a
cut itself. For the same reason L also holds what stands if every author in the cut is believed, permitted or not. And
where such a request lies above a cut alone, places under it may lie below: L holds those under claims that do not count
by what lies below, until such a claim would lie behind the floor.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final, NamedTuple, Protocol, Self, TypeVar

from p2pnodes.model import codec
from p2pnodes.model.clock import MS_MAX, SECONDS_MAX, hlc_at, hlc_ms
from p2pnodes.model.codec import MalformedError, digest
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import (
    CARRIED_MAX,
    EVENT_BYTES_MAX,
    GPUS_PER_EVENT_MAX,
    LEAVES_MAX,
    LOGS_PER_CUT_MAX,
    PAYLOADS,
    Checkpoint,
    CutLog,
    Delegation,
    Event,
    LogId,
    Propose,
)
from p2pnodes.model.inventory import Carriage, Claim, DeleteCarriage, Deletion, Ending, ending
from p2pnodes.model.network import PPM, Network
from p2pnodes.model.requests import NONCE_WINDOW_S
from p2pnodes.model.validity import EMPTY, Judgement, Prefix, judge

PER_HORIZON: Final = 7
"""Checkpoints that are due in the time of one horizon: one a day by default."""

FLOOR_HORIZONS: Final = 2
"""How many horizons below h the floor of nonces lies."""

LOGS_PER_HOTKEY_CUT: Final = 4
"""Logs of one hotkey for which a cut has room whoever opens logs without end: 256 of the 64 validators of a subnet."""

SURPLUS_LOGS_MAX: Final = 128
"""Logs that a cut names beyond those, of all hotkeys together. What is left of LOGS_PER_CUT_MAX, 66, is for hotkeys
that were validators once, of which something is still needed."""

SURPLUS_PER_HOTKEY_MAX: Final = 8
"""Of one hotkey so many, whichever come first, and"""

SETTLED_PER_HOTKEY_MAX: Final = 4
"""so many more if they are *settled* (``store.proposing``), as one or two of a hotkey are in a horizon.

However many logs an honest daemon has opened at once, there is room for the one that it writes in the end; and for some
more until the others are over, which takes 37 days where it delegates for 30. By then it has said again what they kept
(``store.gathering``). It takes 11 hotkeys to use up what all others may have beyond their four.
"""

DELEGATED_MS_MAX: Final = 400 * 86_400_000
"""A delegation that is older than this has ended for cuts, whatever it says: no daemon delegates for longer than 366
days (``chain.delegation.DAYS_MAX``), but who wants to fill cuts may do so for ever."""

ITEMS_MAX: Final = 64
"""Items of one event: requests of a ``carry``, GPUs of a ``place`` or ``release``."""

assert ITEMS_MAX >= CARRIED_MAX
assert ITEMS_MAX >= GPUS_PER_EVENT_MAX

MASK_MAX: Final = 2**ITEMS_MAX - 1

SLICE_LEAVES_MAX: Final = 64
SLICE_BYTES: Final = 256 * 1024
"""A slice is full with so many leaves, or as soon as its events have this size together; one event may go over it."""

SLICE_BYTES_MAX: Final = SLICE_BYTES + EVENT_BYTES_MAX
"""Bound of the events in one slice."""

PATH_MAX: Final = (LEAVES_MAX - 1).bit_length()
"""Hashes in what proves a slice, 40: a tree has no more levels below its root than that."""

SIGNERS_MAX: Final = 256
"""Signatures that a certificate can hold; a subnet has 64 validators."""

DELEGATION_BYTES_MAX: Final = 2_048
"""Bound of the first event of a signature: with the longest URL, of 256 characters of 4 bytes, it takes less."""

STATEMENT_BYTES_MAX: Final = 1_024
"""Bound of the second one."""

CERTIFICATE_BYTES_MAX: Final = EVENT_BYTES_MAX + SIGNERS_MAX * (DELEGATION_BYTES_MAX + STATEMENT_BYTES_MAX + 8) + 16
"""Bound of a certificate, 868 KiB, with what the encoding adds; that of 64 validators has some 140 KiB."""

_EMPTY_TREE: Final = digest(b"")


class Leaf(NamedTuple):
    """One event of a live set.

    Attributes:
        log: Its log.
        seq: Its seq.
        id: Its id.
        mask: Bit i is set where item i is kept; never 0. An event without items has bit 0.
    """

    log: LogId
    seq: int
    id: bytes
    mask: int

    def digest(self) -> bytes:
        """BLAKE2b-256 of the leaf."""
        return digest(codec.pack([*self.log, self.seq, self.id, self.mask]))


class Tree:
    """The Merkle tree over the slices of a live set, as RFC 6962 shapes it: forged slices show by their paths."""

    def __init__(self, slices: Iterable[bytes] = ()) -> None:
        """Build the tree over the hashes of some slices, in order."""
        self._levels: list[list[bytes]] = [list(slices)]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = [_joined(*below[at : at + 2]) for at in range(0, len(below) - 1, 2)]
            self._levels.append(pairs + below[len(below) & ~1 :])

    def __len__(self) -> int:
        """How many slices there are."""
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        """The Merkle root."""
        return self._levels[-1][0] if len(self) else _EMPTY_TREE

    def path(self, index: int) -> list[bytes]:
        """What proves a slice: the hashes beside its way to the root, from below."""
        found: list[bytes] = []
        for level in self._levels[:-1]:
            if (beside := index ^ 1) < len(level):
                found.append(level[beside])
            index //= 2
        return found


def slice_digest(leaves: Iterable[bytes]) -> bytes:
    """Hash of a slice by its leaves' digests."""
    return digest(b"\0" + b"".join(leaves))


def proves(path: Sequence[bytes], hashed: bytes, index: int, slices: int, root: bytes) -> bool:
    """Whether a path shows that a slice's hash is at ``index`` of ``slices`` under a root."""
    beside = iter(path)
    for _ in _levels(slices):
        if (index ^ 1) < slices:
            other = next(beside, None)
            if other is None:
                return False
            hashed = _joined(other, hashed) if index & 1 else _joined(hashed, other)
        index, slices = index // 2, (slices + 1) // 2
    return hashed == root and next(beside, None) is None


def _levels(slices: int) -> range:
    """The levels below the root of a tree over so many slices."""
    return range(max(0, slices - 1).bit_length())


def _joined(left: bytes, right: bytes) -> bytes:
    return digest(b"\1" + left + right)


class Slicer:
    """Cuts a live set, leaf by leaf in ascending order of logs and seqs, into slices."""

    def __init__(self) -> None:
        """Begin with none."""
        self.digests: list[bytes] = []
        """Hashes of the slices that are full."""
        self.leaves = 0
        self._open: list[bytes] = []
        self._size_bytes = 0

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__ = self.__dict__ | {"digests": [*self.digests], "_open": [*self._open]}
        return copied

    def add(self, leaf: Leaf, size_bytes: int) -> bool:
        """Add the next leaf, whose event has that size; whether it begins a slice."""
        begins = not self._open
        self._open.append(leaf.digest())
        self.leaves += 1
        self._size_bytes += size_bytes
        if len(self._open) == SLICE_LEAVES_MAX or self._size_bytes >= SLICE_BYTES:
            self._end()
        return begins

    def _end(self) -> None:
        self.digests.append(slice_digest(self._open))
        self._open, self._size_bytes = [], 0

    def tree(self) -> Tree:
        """End the last slice; the tree over all."""
        if self._open:
            self._end()
        return Tree(self.digests)


class Line(NamedTuple):
    """A cut, and what it makes void above it.

    Attributes:
        number: Of the checkpoint; 0 for none.
        proposal: Id of the ``propose`` event; empty for none.
        electorate: E_c.
        logs: How far it goes in each log.
        horizon_hlc: h: words above the cut with a lower HLC are void.
        floor_s: Requests above the cut with a lower nonce, Unix seconds, are void unless L holds them.
    """

    number: int
    proposal: bytes
    electorate: Electorate | None
    logs: Mapping[LogId, CutLog]
    horizon_hlc: int
    floor_s: int


NO_LINE: Final = Line(0, b"", None, {}, 0, 0)
"""Before the first checkpoint."""


def line_of(network: Network, event: Event, payload: Propose) -> Line:
    """The line that a proposal draws.

    Raises:
        MalformedError: Its electorate cannot be read, its number is not that of the electorate's time, or an event of
            its cut is not older than the horizon.
    """
    electorate = Electorate.from_canonical(payload.pins)
    if electorate.time_ms > MS_MAX:
        raise MalformedError(f"electorate: its time is {electorate.time_ms} ms, expected at most {MS_MAX}")
    if payload.number != due_number(network, electorate):
        raise MalformedError(
            f"checkpoint number: expected {due_number(network, electorate)} at the electorate's time, "
            f"found {payload.number}"
        )
    horizon_ms = horizon_of(network, electorate)
    if horizon_ms <= 0 or any(hlc_ms(cut.hlc) >= horizon_ms for cut in payload.logs):
        raise MalformedError(f"logs of a cut: an HLC is not below the horizon, {horizon_ms} ms")
    return Line(
        payload.number,
        event.id,
        electorate,
        {cut.log: cut for cut in payload.logs},
        hlc_at(horizon_ms),
        floor_of(network, horizon_ms),
    )


def due_number(network: Network, electorate: Electorate) -> int:
    """Number of the checkpoint that is due at an electorate's time; days by default."""
    return electorate.time_ms * PER_HORIZON // (network.horizon_s * 1000)


def due_at(network: Network, number: int) -> int:
    """When a checkpoint was due, Unix seconds."""
    return -(-number * network.horizon_s // PER_HORIZON)


def horizon_of(network: Network, electorate: Electorate) -> int:
    """Unix milliseconds below which all events of a cut lie, for a checkpoint under an electorate."""
    return electorate.time_ms - network.horizon_s * 1000


def floor_of(network: Network, horizon_ms: int) -> int:
    """Lowest nonce, Unix seconds, of requests above a cut that L need not hold."""
    return max(0, horizon_ms // 1000 - FLOOR_HORIZONS * network.horizon_s - NONCE_WINDOW_S)


def awaited_hlc(line: Line) -> int:
    """Lowest HLC of a place that counts if its claim, which does not by what lies below a cut, does by what lies above.

    Such a claim has a nonce at or above the floor. No event carries it first that is older by more than NONCE_WINDOW_S,
    and who places something under a claim has heard of it, and gives the place a higher HLC.
    """
    return hlc_at(max(0, line.floor_s - NONCE_WINDOW_S) * 1000)


def ended_ms(hlc: int, not_after: int) -> int:
    """When a delegation ends as far as cuts are concerned, Unix milliseconds: for no longer than DELEGATED_MS_MAX.

    Args:
        hlc: Of its event.
        not_after: Unix seconds.
    """
    return min(not_after * 1000, hlc_ms(hlc) + DELEGATED_MS_MAX)


def is_over(log: LogId, ended: int, line: Line) -> bool:
    """Whether a log counts for nothing because a cut does not name it, though it ended before the horizon.

    A cut names every log that has something older than the horizon, but for those of which nothing matters any more
    (``store.proposing``), and what it has no room for. So what was let go does not come back.

    Args:
        log: The log.
        ended: When its first delegation did, Unix milliseconds, see ``ended_ms``.
        line: The cut in force.
    """
    return line.number > 0 and ended < hlc_ms(line.horizon_hlc) and log not in line.logs


def believing(line: Line) -> Electorate:
    """E_c, had every author in the cut a permit."""
    assert line.electorate is not None
    current = line.electorate.current
    authors = dict.fromkeys((cut.hotkey for cut in line.logs.values()), 1)
    return Electorate(current._replace(validators=authors))


def rendezvous_key(network: Network, number: int) -> bytes:
    """What the order of proposers for a number is drawn by."""
    return digest(codec.pack(["p2pnodes checkpoint", network.id, number]))


def by_age(began: int, log: LogId) -> tuple[int, LogId]:
    """A key by which the youngest of some logs is the first.

    Args:
        began: HLC of its first event.
        log: The log.
    """
    return -began, log


class OfHotkey(Protocol):
    """A log of a validator, and whatever else is known of it."""

    @property
    def log(self) -> LogId:
        """Which one."""
        ...

    @property
    def hotkey(self) -> bytes:
        """Whose it is."""
        ...


Log = TypeVar("Log", bound=OfHotkey)


def chosen(
    logs: Iterable[Log],
    electorate: Electorate,
    began: Mapping[LogId, int],
    named: Container[LogId] = (),
    settled: Container[LogId] = (),
) -> tuple[Log, ...]:
    """What a cut names of these logs, in ascending order.

    All that the cut in force names: what lies below that is gone, so that a log which was not cut any more would be one
    with a hole, that nobody can follow. Of the others as many as fit: the first of each hotkey before the second of
    any, of hotkeys with a permit before others; of one hotkey LOGS_PER_HOTKEY_CUT and SURPLUS_PER_HOTKEY_MAX,
    together with those that are named; behind so many one at a time, if it is settled, up to SETTLED_PER_HOTKEY_MAX;
    beyond the first LOGS_PER_HOTKEY_CUT no more than SURPLUS_LOGS_MAX of all; and of those that are not the first of
    their hotkey no more than leave room for one of each hotkey with a permit that has none. So a validator that opens
    logs without end takes no room from others, nor from the log that it writes in the end.

    With another log, or with a longer one, nothing is chosen that was not chosen without it, but for itself: else what
    is shown behind a proposal could make that leave out what it must not.

    Args:
        logs: Those that have something to be cut.
        electorate: E_c.
        began: HLC of each log's first event.
        named: Those that the cut in force names.
        settled: Those that may be named though their hotkey has more than a few; more logs make no other one settled.
    """
    by_hotkey: dict[bytes, list[Log]] = {}
    for each in logs:
        by_hotkey.setdefault(each.hotkey, []).append(each)
    found: list[Log] = []
    waiting: list[tuple[tuple[bool, bool, int, bytes], Log]] = []
    surplus, any_ = 0, LOGS_PER_HOTKEY_CUT + SURPLUS_PER_HOTKEY_MAX
    for hotkey, own in by_hotkey.items():
        # Those that are written now before those of long ago.
        ordered = sorted(own, key=lambda each: (each.log not in named, *by_age(began[each.log], each.log)))
        before = sum(each.log in named for each in own)
        found += ordered[:before]
        surplus += max(0, before - LOGS_PER_HOTKEY_CUT)
        last = max(any_, before + (before < any_ + SETTLED_PER_HOTKEY_MAX))
        for place, each in enumerate(ordered[before:last], before):
            waiting.append(((place > 0, not electorate.permitted(hotkey), place, hotkey), each))
    here = {*by_hotkey}
    absent = sum(hotkey not in here for hotkey in electorate.stakes)
    taken = len(found)
    for (later, _, place, _), each in sorted(waiting, key=itemgetter(0)):
        beyond = place >= LOGS_PER_HOTKEY_CUT
        if taken + absent * later < LOGS_PER_CUT_MAX and not (beyond and surplus >= SURPLUS_LOGS_MAX):
            # One that is not settled yet takes the room as well: else a younger log of its hotkey gave it to others.
            taken += 1
            surplus += beyond
            if place < any_ or each.log in settled:
                found.append(each)
    return tuple(sorted(found, key=lambda each: each.log))


def stakes_of(line: Line) -> dict[bytes, int]:
    """Stake of each validator whose signature weighs: a permit in E_c, and at the cut a delegation that lives then."""
    assert line.electorate is not None
    now_s, stakes = line.electorate.time_ms / 1000, line.electorate.stakes
    return {
        cut.hotkey: stakes[cut.hotkey]
        for cut in line.logs.values()
        if cut.hotkey in stakes and cut.not_before <= now_s <= cut.not_after
    }


def suffices(network: Network, line: Line, signers: Iterable[bytes]) -> bool:
    """Whether these validators make a checkpoint final, if they found the same.

    They need more than two thirds of the stake that is enrolled at the cut, and more than a quorum of all that has a
    permit in E_c: who leaves logs out of a cut must not be all that is left to agree.
    """
    assert line.electorate is not None
    stakes = stakes_of(line)
    signed = sum(stakes[hotkey] for hotkey in signers)
    permitted = sum(line.electorate.stakes.values())
    return 3 * signed > 2 * sum(stakes.values()) and signed > network.quorum_ppm * permitted // PPM


class Signature(NamedTuple):
    """One validator's signature of a checkpoint.

    Attributes:
        delegation: A ``delegate`` event of the log that it is in.
        checkpoint: The ``checkpoint`` event.
    """

    delegation: Event
    checkpoint: Event


class Certificate(NamedTuple):
    """What makes a checkpoint final, whoever brings it, for ever.

    Attributes:
        proposal: The ``propose`` event.
        signatures: In ascending order of their logs, enough of them.
    """

    proposal: Event
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """As the database and frames hold it."""
        return codec.pack(
            [self.proposal.wire, [[each.delegation.wire, each.checkpoint.wire] for each in self.signatures]]
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read one; nothing of it is checked yet.

        Raises:
            MalformedError: It is none.
        """
        proposal, signatures = codec.fields(codec.unpack(data, arrays_max=2 + SIGNERS_MAX), 2, "certificate")
        found = []
        for each in codec.array(signatures, 0, SIGNERS_MAX, "signatures"):
            delegation, checkpoint = codec.fields(each, 2, "signature of a checkpoint")
            found.append(Signature(_event(delegation, DELEGATION_BYTES_MAX), _event(checkpoint, STATEMENT_BYTES_MAX)))
        return cls(_event(proposal, EVENT_BYTES_MAX), tuple(found))


def _event(value: codec.Value, size_bytes_max: int) -> Event:
    return Event.decode(codec.binary(value, "event", 1, size_bytes_max))


class Certified(NamedTuple):
    """What a certificate says.

    Attributes:
        line: The cut.
        previous: Id of the proposal behind the certificate before; empty for none.
        statement: What its signers found below the cut.
        stakes: Their stakes in E_c, by hotkey.
    """

    line: Line
    previous: bytes
    statement: Checkpoint
    stakes: Mapping[bytes, int]

    def trusted(self, electorate: Electorate, quorum_ppm: int) -> bool:
        """Whether the signers hold a quorum also of the stake in another electorate: what a newcomer asks for.

        Who had the stake once and has it no more could else show newcomers another past.
        """
        total = sum(electorate.stakes.values())
        signed = sum(stake for hotkey, stake in electorate.stakes.items() if hotkey in self.stakes)
        return signed > quorum_ppm * total // PPM


def check(network: Network, certificate: Certificate) -> Certified:
    """Check a certificate: signatures, delegations, stakes.

    Raises:
        MalformedError: What is wrong with it.
    """
    proposal = certificate.proposal
    payload = _said(network, proposal, Propose)
    line = line_of(network, proposal, payload)
    stakes = stakes_of(line)
    found: dict[Checkpoint, set[bytes]] = {}
    for delegation, checkpoint in certificate.signatures:
        speaker = _said(network, delegation, Delegation)
        if delegation.log != checkpoint.log:
            raise MalformedError("signature of a checkpoint: its delegation is of another log")
        judgement = judge(delegation, EMPTY)
        statement = _said(network, checkpoint, Checkpoint)
        if judgement.void or judge(checkpoint, Prefix(speaker, -1)).void:
            raise MalformedError("signature of a checkpoint: its delegation does not cover it")
        if (statement.number, statement.proposal) != (line.number, proposal.id):
            raise MalformedError("signature of a checkpoint: it is of another proposal")
        if speaker.hotkey in stakes:
            found.setdefault(statement, set()).add(speaker.hotkey)
    for statement, signers in found.items():
        if suffices(network, line, signers):
            return Certified(line, payload.previous, statement, {hotkey: stakes[hotkey] for hotkey in signers})
    raise MalformedError("certificate: expected signatures of more than two thirds of the stake, found fewer")


T = TypeVar("T", Propose, Delegation, Checkpoint)


def _said(network: Network, event: Event, kind: type[T]) -> T:
    """The payload of a signed event of one kind."""
    if event.network_id != network.id or PAYLOADS.get(event.kind) is not kind or not event.signed():
        raise MalformedError(f"certificate: expected a signed {kind.__name__.lower()} of this network")
    return kind.from_wire(codec.unpack(event.payload))


def judge_kept(event: Event) -> Judgement:
    """Judge an event of a live set: what stood before it in its log is gone, and a certificate says that it was valid.

    What it says and the signatures in it are judged like those of any event.
    """
    return judge(event, Prefix(None if event.kind == "delegate" else _ANY_TIME, event.hlc - 1))


_ANY_TIME: Final = Delegation(b"", "", 0, SECONDS_MAX, None, b"")


K = TypeVar("K")


def needed_carriages(said: Iterable[tuple[K, Carriage]], block: int) -> set[K]:
    """Of the events that carry a claim those that f can ask for from E_c on, at most two of each author.

    Of the events that count f takes the highest electorate block and the lowest HLC. An author's count together: its
    permit decides, and at or below a cut no log ends any more. So of each the two extremes do, whoever has a permit.
    That holds at any later block, as E_c has reached all that are looked at. One that it has not reached is none that
    an honest author wrote, a horizon before E_c: it goes, for which of them a registration will ask nobody can know.

    Args:
        said: Events below a cut, by whatever names them, those of the youngest log first (``by_age``), of each log in
            ascending order of (seq, item). Ties go to the first: what its author has said again in a younger log is
            not needed of the older one, which can be let go then.
        block: Of E_c.
    """
    by_author: dict[bytes, list[tuple[K, Carriage]]] = {}
    for each in said:
        if each[1].electorate_block <= block:
            by_author.setdefault(each[1].author, []).append(each)
    earliest = {min(own, key=lambda each: each[1].hlc)[0] for own in by_author.values()}
    return earliest | {max(own, key=lambda each: each[1].electorate_block)[0] for own in by_author.values()}


def needed_deletions(said: Iterable[tuple[K, DeleteCarriage]]) -> set[K]:
    """Of one author's events that carry a delete request those that f can ask for, whoever has a permit.

    They all count or none does, see ``needed_carriages``. As long as they name one GPU, f takes the claims that all of
    them name: needed are those by which these become fewer. With a second GPU an unbound request ends nothing anywhere,
    and no further event changes that; a bound one names no second. So there are CLAIMS_PER_DELETE_MAX and two of them
    at most.

    Args:
        said: Events of one author below a cut, by whatever names them, in the order of ``needed_carriages``.
    """
    needed: set[K] = set()
    before: DeleteCarriage | None = None
    for key, carriage in said:
        if before is None:
            before = carriage
        elif carriage.uuid != before.uuid:
            return needed | {key}
        elif before.claim_ids <= carriage.claim_ids:
            continue
        before = before._replace(claim_ids=before.claim_ids & carriage.claim_ids)
        needed.add(key)
    return needed


def ending_requests(
    uuid: str, claims: Iterable[Claim], deletions: Iterable[Deletion], electorate: Electorate
) -> set[bytes]:
    """Ids of the delete requests without which one of these claims would stand on a GPU on which it does not.

    Of each claim those with the highest nonce: they do what all lower ones did.
    """
    endings = [
        (found.nonce, deletion.request_id, found)
        for deletion in deletions
        if isinstance(found := ending(deletion, uuid, electorate), Ending)
    ]
    needed: set[bytes] = set()
    for claim in claims:
        ends = [(nonce, request) for nonce, request, found in endings if found.ends(claim)]
        highest = max((nonce for nonce, _ in ends), default=None)
        needed.update(request for nonce, request in ends if nonce == highest)
    return needed
