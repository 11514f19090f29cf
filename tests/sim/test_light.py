"""Light peers behave like daemons where it counts: what they hold, what a crash takes, what is counted of them."""

import random
from collections import Counter

import pytest

from p2pnodes.gossip import frames
from p2pnodes.gossip.engine import Member
from p2pnodes.model.events import Event, Verdict
from p2pnodes.store.state import Result
from p2pnodes.store.vector import vector_digest
from tests.sim.clock import START_MS, Clock
from tests.sim.light import KINDS, Archive, Identity, LightPeer, LightStore, Surroundings, Tally, events_in
from tests.sim.network import FRAME_OVERHEAD_BYTES, Network
from tests.sim.trace import Trace

ONE_WAY_MS = 20.0
IDENTITIES = [Identity.of(index) for index in range(4)]
VERDICT = Verdict(bytes(32), "verified", "test", "", START_MS << 16)


class Watching:
    """Counts what was written and stored."""

    def __init__(self) -> None:
        self.written = 0
        self.holders: Counter[tuple[bytes, int]] = Counter()

    def wrote(self, author: int, event: Event) -> None:
        self.written += 1

    def stored(self, peer: int, event: Event) -> None:
        self.holders[event.id, peer] += 1


class Few:
    """A small network of light peers that have found each other."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.watching = Watching()
        self.tally = Tally()
        network: Network[LightPeer] = Network(self.clock, "few", Trace(self.clock), lambda _one, _other: ONE_WAY_MS)
        network.watch = self.tally.watch
        around = Surroundings(self.clock, network, Archive(IDENTITIES), self.tally, self.watching)
        self.peers = [
            LightPeer(around, index, identity, random.Random(index)) for index, identity in enumerate(IDENTITIES)
        ]
        self.members = {
            identity.hotkey.public_key: Member(identity.node_key.public_key, dialable=True) for identity in IDENTITIES
        }
        for peer in self.peers:
            peer.others = {each.identity.hotkey.public_key: each for each in self.peers}
            peer.start(self.members)
        self.clock.run_for(10_000)

    def heads(self) -> list[int]:
        """How far each peer holds the first one's log."""
        log = self.peers[0].identity.log
        return [peer.store.state.heads[log].seq for peer in self.peers]


def test_a_store_takes_what_follows_and_tells_what_does_not() -> None:
    archive = Archive(IDENTITIES)
    log = IDENTITIES[0].log
    store = LightStore(archive, log)
    first, second = archive.write(log, VERDICT, START_MS), archive.write(log, VERDICT, START_MS)
    assert [outcome.result for outcome in store.receive([second, first, first, second])] == [
        Result.GAP,
        Result.STORED,
        Result.KNOWN,
        Result.STORED,
    ]
    assert store.state.heads[log] == (2, second.id)
    assert store.state.events == len(IDENTITIES) + 2


def test_a_store_refuses_what_its_author_did_not_write() -> None:
    archive = Archive(IDENTITIES)
    log = IDENTITIES[0].log
    store = LightStore(archive, log)
    event = archive.write(log, VERDICT, START_MS)
    with pytest.raises(AssertionError):
        store.receive([event._replace(wire=event.wire[:-1] + b"x")])


def test_digests_are_those_of_a_ledger() -> None:
    archive = Archive(IDENTITIES)
    log = IDENTITIES[0].log
    one, other = LightStore(archive, log), LightStore(archive, log)
    before = one.state.vector_digest
    one.receive([archive.write(log, VERDICT, START_MS)])
    assert one.state.vector_digest == vector_digest(one.state.heads, {}) != before
    assert other.state.vector_digest == vector_digest(other.state.heads, {}) == before


def test_a_range_is_read_up_to_a_size_but_never_empty() -> None:
    archive = Archive(IDENTITIES)
    log = IDENTITIES[0].log
    events = [archive.write(log, VERDICT, START_MS) for _ in range(4)]
    store = LightStore(archive, log)
    size = len(events[0].wire)
    assert store.read(log, 1, 1) == [events[0].wire]
    assert store.read(log, 1, 2 * size + 1) == [event.wire for event in events[:2]]
    assert store.read(log, 5, size) == []


def test_what_one_writes_all_store_once() -> None:
    few = Few()
    few.peers[0].write(VERDICT)
    few.clock.run_for(2_000)
    assert few.watching.written == 1
    assert few.heads() == [1, 1, 1, 1]
    assert sorted(peer for _, peer in few.watching.holders) == [1, 2, 3]
    assert set(few.watching.holders.values()) == {1}


def test_a_crash_takes_what_was_not_committed_and_nothing_else() -> None:
    few = Few()
    writer = few.peers[0]
    writer.write(VERDICT)
    few.clock.run_for(10)  # committed, and not at the others yet
    writer.write(VERDICT)
    writer.crash()
    few.clock.run_for(5_000)
    assert few.watching.written == 1
    writer.start(few.members)
    few.clock.run_for(20_000)
    assert few.heads() == [1, 1, 1, 1]


def test_who_was_down_catches_up() -> None:
    few = Few()
    few.peers[3].crash()
    few.peers[0].write(VERDICT)
    few.clock.run_for(60_000)
    assert few.heads() == [1, 1, 1, 0]
    few.peers[3].start(few.members)
    few.clock.run_for(10_000)
    assert few.heads() == [1, 1, 1, 1]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 512])
def test_events_in_a_frame_are_counted_without_decoding_it(count: int) -> None:
    assert events_in(frames.Events([bytes([7])] * count).encode()) == count


def test_what_is_sent_is_counted_by_kind() -> None:
    tally = Tally()
    log = IDENTITIES[0].log
    sent: dict[str, frames.Frame] = {
        "digest": frames.Digest(True, START_MS, bytes(32), bytes(32), bytes(32)),
        "range": frames.Range(log, 0, [bytes([7])] * 3),
        "events": frames.Events([bytes([7])] * 2),
        "link": frames.Link(frames.Mode.NEWS),
    }
    for frame in sent.values():
        tally.watch(None, None, frame.encode())
    before = tally.copy()
    assert before.bytes == {kind: len(frame.encode()) + FRAME_OVERHEAD_BYTES for kind, frame in sent.items()}
    assert before.events == 5
    tally.watch(None, None, sent["link"].encode())
    assert {kind: size for kind, size in tally.since(before).frames.items() if size} == {"link": 1}


def test_kinds_are_named_as_their_frames() -> None:
    named = {
        frames.Link(frames.Mode.NEWS).encode()[1]: "link",
        frames.Have([]).encode()[1]: "have",
        frames.Book([]).encode()[1]: "book",
        frames.Proofs([]).encode()[1]: "proofs",
        frames.Slices([]).encode()[1]: "slices",
        frames.CertificateWant(1).encode()[1]: "certificate want",
        frames.CertificateAnswer(1, b"").encode()[1]: "certificate",
        frames.LeavesWant(1, 0).encode()[1]: "leaves want",
        frames.Leaves(1, 0, [], []).encode()[1]: "leaves",
    }
    assert {kind: KINDS[kind] for kind in named} == named
