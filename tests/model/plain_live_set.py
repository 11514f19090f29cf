"""What a checkpoint keeps, straight from docs/protocol.md ("Live set"): slow, plain, and only for tests.

Shares no code with ``model/checkpoint``, ``model/inventory`` and ``store/liveset``. Which events are valid is taken
from ``judge``; all else is worked out from the events of the logs that the cut names, up to it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from p2pnodes.model import codec
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import CutLog, Delegation, Event, LogId, Place, Release
from p2pnodes.model.network import Network
from p2pnodes.model.validity import EMPTY, CarriedAdd, CarriedDelete, judge

K = TypeVar("K")

Masks = dict[tuple[LogId, int], int]
"""(log, seq) -> which items are kept, by bit; as ``Leaf.mask``."""


class Kept(NamedTuple):
    """What was in force before: how far its cut went, what it kept, and what it made void above.

    Attributes:
        logs: Its cut.
        masks: Its live set.
        horizon_ms: Its h.
    """

    logs: Mapping[LogId, CutLog]
    masks: Masks
    horizon_ms: int


class Word(NamedTuple):
    """What a place or release says of one GPU."""

    uuid: str
    said: Place | Release


class Said(NamedTuple):
    """One item of a valid event below the cut."""

    author: bytes
    log: LogId
    seq: int
    item: int
    hlc: int
    what: CarriedAdd | CarriedDelete | Word
    age: tuple[int, LogId]
    """What orders logs: the younger one first."""

    @property
    def order(self) -> tuple[tuple[int, LogId], int, int]:
        """In which order items are, of which the first is kept."""
        return self.age, self.seq, self.item


class PlainLiveSet:
    """The live set below one cut."""

    def __init__(
        self,
        events: Iterable[Event],
        logs: Mapping[LogId, CutLog],
        electorate: Electorate,
        network: Network,
        before: Kept | None = None,
    ) -> None:
        """Work it out.

        Args:
            events: Of whatever branches, each with all before it.
            logs: The cut.
            electorate: E_c.
            network: Its parameters.
            before: What is in force.
        """
        self.masks: Masks = {}
        self._network, self._before = network, before
        self._block = electorate.current.block
        self._registered = electorate.current.registered
        self._horizon_ms = electorate.current.time_ms - 1000 * network.horizon_s
        self._floor_s = _floor_s(network, self._horizon_ms)
        permitted = set(electorate.current.validators)
        if electorate.previous is not None:
            permitted |= set(electorate.previous.validators)
        self._readings = (permitted, {entry.hotkey for entry in logs.values()})
        self._delegates: dict[LogId, list[int]] = {}
        self._said: list[Said] = []
        by_id = {event.id: event for event in events}
        for log, entry in sorted(logs.items()):
            self._read(log, entry, by_id)
        self._said = [one for one in self._said if self._is_looked_at(one)]
        self._keep()

    def _read(self, log: LogId, entry: CutLog, by_id: Mapping[bytes, Event]) -> None:
        """Take what a log says on the branch that ends where the cut does."""
        branch: list[Event] = []
        event = by_id.get(entry.head.id)
        while event is not None:
            branch.append(event)
            event = by_id.get(event.previous)
        prefix, age = EMPTY, (-branch[-1].hlc, log)
        for each in reversed(branch):
            judgement = judge(each, prefix)
            prefix = judgement.prefix
            if isinstance(judgement.payload, Delegation) and self._was_kept(log, each.seq, 0):
                self._delegates.setdefault(log, []).append(each.seq)
            brought: list[tuple[int, CarriedAdd | CarriedDelete | Word]] = [
                *((add.item, add) for add in judgement.adds),
                *((delete.item, delete) for delete in judgement.deletes),
            ]
            if isinstance(word := judgement.payload, Place | Release):
                brought += [(item, Word(uuid, word)) for item, uuid in enumerate(word.uuids)]
            self._said += [Said(entry.hotkey, log, each.seq, item, each.hlc, what, age) for item, what in brought]

    def _was_kept(self, log: LogId, seq: int, item: int) -> bool:
        """Whether the checkpoint before left an item, or did not reach it."""
        closed = None if self._before is None else self._before.logs.get(log)
        if self._before is None or closed is None or seq > closed.head.seq:
            return True
        return bool(self._before.masks.get((log, seq), 0) >> item & 1)

    def _is_looked_at(self, said: Said) -> bool:
        """Whether what is in force lets an item count."""
        if self._before is None:
            return True
        closed = self._before.logs.get(said.log)
        if closed is not None and said.seq <= closed.head.seq:
            return self._was_kept(said.log, said.seq, said.item)
        if isinstance(said.what, Word):
            return said.hlc >> 16 >= self._before.horizon_ms
        return _nonce(said) >= _floor_s(self._network, self._before.horizon_ms) or self._was_held(_id(said))

    def _was_held(self, request: bytes) -> bool:
        """Whether the live set before holds a request, in whatever event."""
        assert self._before is not None
        return any(
            (closed := self._before.logs.get(one.log)) is not None
            and one.seq <= closed.head.seq
            and self._was_kept(one.log, one.seq, one.item)
            for one in self._said
            if not isinstance(one.what, Word) and _id(one) == request
        )

    # -- what is kept ------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        adds = _grouped((one for one in self._said if isinstance(one.what, CarriedAdd)), _id)
        deletes = _grouped((one for one in self._said if isinstance(one.what, CarriedDelete)), _id)
        standing: set[tuple[str, bytes]] = set()
        counting: set[tuple[str, bytes]] = set()
        for permitted in self._readings:
            for claim, said in adds.items():
                for uuid in self._counts_on(said, permitted):
                    counting.add((uuid, claim))
                    if not self._endings(uuid, said, deletes, permitted):
                        standing.add((uuid, claim))
        kept = {claim for _, claim in standing}
        needed = {request for request, said in deletes.items() if _nonce(said[0]) >= self._floor_s}
        for claim in kept:
            self._keep_adds(adds[claim])
            for permitted in self._readings:
                for uuid in _uuids(adds[claim][0]):
                    ends = self._endings(uuid, adds[claim], deletes, permitted)
                    highest = max((_nonce(deletes[request][0]) for request in ends), default=0)
                    needed |= {request for request in ends if _nonce(deletes[request][0]) == highest}
        for request in needed:
            for own in _grouped(deletes[request], lambda one: one.author).values():
                self._keep_deletes(own)
        self._keep_words(standing, counting)
        self._keep_delegates()

    def _counts_on(self, said: list[Said], permitted: set[bytes]) -> set[str]:
        """The GPUs of a claim that counts for those who have a permit; none if it does not."""
        first = said[0].what
        assert isinstance(first, CarriedAdd)
        blocks = [
            one.what.payload.electorate_block
            for one in said
            if isinstance(one.what, CarriedAdd) and one.author in permitted
        ]
        counted = [block for block in blocks if block <= self._block]
        registration = self._registered.get(first.payload.request.hotkey)
        if not counted or registration is None or registration > max(counted):
            return set()
        return _uuids(said[0])

    def _endings(
        self, uuid: str, claim: list[Said], deletes: Mapping[bytes, list[Said]], permitted: set[bytes]
    ) -> set[bytes]:
        """The delete requests that end a claim on a GPU, as those with a permit carry them."""
        found: set[bytes] = set()
        add = claim[0].what
        assert isinstance(add, CarriedAdd)
        for request, said in deletes.items():
            counted = [one.what for one in said if isinstance(one.what, CarriedDelete) and one.author in permitted]
            named = {one.payload.uuid for one in counted}
            if not counted or uuid not in named or counted[0].payload.request.hotkey != add.payload.request.hotkey:
                continue
            if counted[0].payload.request.purpose == "nodes" and len(named) > 1:
                continue
            here = [one for one in counted if one.payload.uuid == uuid]
            nonce, other = _nonce(said[0]), _nonce(claim[0])
            if nonce > other or (nonce == other and all(add.claim_id in one.payload.claim_ids for one in here)):
                found.add(request)
        return found

    def _keep_adds(self, said: list[Said]) -> None:
        known = [one for one in said if _block(one) <= self._block]
        for own in _grouped(known, lambda one: one.author).values():
            self._mark(min(own, key=lambda one: (_written(one), one.order)))
            self._mark(min(own, key=lambda one: (-_block(one), one.order)))

    def _keep_deletes(self, said: list[Said]) -> None:
        """Keep of one author's items that carry a delete request what f can ask for."""
        listed: frozenset[bytes] | None = None
        first = ""
        for one in sorted(said, key=lambda one: one.order):
            assert isinstance(one.what, CarriedDelete)
            payload = one.what.payload
            if listed is None:
                first, listed = payload.uuid, frozenset(payload.claim_ids)
            elif payload.uuid != first:
                self._mark(one)
                return
            elif listed <= set(payload.claim_ids):
                continue
            listed &= set(payload.claim_ids)
            self._mark(one)

    def _keep_words(self, standing: set[tuple[str, bytes]], counting: set[tuple[str, bytes]]) -> None:
        words = [one for one in self._said if isinstance(one.what, Word)]
        about = _grouped(words, lambda one: (*_about(one), one.author))
        awaited_ms = 1000 * max(0, self._floor_s - 600)
        for (uuid, claim, _), said in about.items():
            last = max((one.hlc, _content(one)) for one in said)
            word = min((one for one in said if (one.hlc, _content(one)) == last), key=lambda one: one.log)
            awaited = (uuid, claim) not in counting and word.hlc >> 16 >= awaited_ms
            if _content(word) and ((uuid, claim) in standing or awaited):
                self._mark(word)

    def _keep_delegates(self) -> None:
        for log, seqs in self._delegates.items():
            needed = {seqs[0], seqs[-1]}
            for kept, seq in list(self.masks):
                if kept == log and (earlier := [each for each in seqs if each < seq]):
                    needed.add(earlier[-1])
            for seq in needed:
                self.masks[log, seq] = 1

    def _mark(self, said: Said) -> None:
        place = said.log, said.seq
        self.masks[place] = self.masks.get(place, 0) | 1 << said.item


def _floor_s(network: Network, horizon_ms: int) -> int:
    return max(0, horizon_ms // 1000 - 2 * network.horizon_s - 600)


def _grouped(said: Iterable[Said], key: Callable[[Said], K]) -> dict[K, list[Said]]:
    found: dict[K, list[Said]] = {}
    for one in said:
        found.setdefault(key(one), []).append(one)
    return found


def _id(said: Said) -> bytes:
    """Of the request that an item carries."""
    if isinstance(said.what, CarriedAdd):
        return said.what.claim_id
    assert isinstance(said.what, CarriedDelete)
    return said.what.request_id


def _nonce(said: Said) -> int:
    assert not isinstance(said.what, Word)
    return int(said.what.payload.request.nonce)


def _block(said: Said) -> int:
    assert isinstance(said.what, CarriedAdd)
    return said.what.payload.electorate_block


def _written(said: Said) -> int:
    """HLC of an add where its first author wrote it."""
    assert isinstance(said.what, CarriedAdd)
    return said.what.hlc


def _uuids(said: Said) -> set[str]:
    """The GPUs that a claim lists."""
    assert isinstance(said.what, CarriedAdd)
    return {node.uuid for node in said.what.body.nodes}


def _about(said: Said) -> tuple[str, bytes]:
    """The GPU and the claim of a word."""
    assert isinstance(said.what, Word)
    return said.what.uuid, said.what.said.claim_id


def _content(said: Said) -> bytes:
    """Encoded chute of a place; empty for a release."""
    assert isinstance(said.what, Word)
    word = said.what.said
    if isinstance(word, Release):
        return b""
    return codec.pack([word.chute_id, word.instance_id, word.verified, word.public, word.name, word.username])
