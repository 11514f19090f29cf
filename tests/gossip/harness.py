"""Engines on ledgers in memory, joined by links that a test moves step by step: no sockets, no threads, no clock."""

import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from p2pnodes.gossip import frames
from p2pnodes.gossip.engine import (
    Close,
    Consider,
    Effect,
    Engine,
    Foresee,
    Load,
    Notice,
    Peer,
    Prove,
    Read,
    ReadCertificate,
    ReadLeaves,
    Send,
    Store,
    Survey,
)
from p2pnodes.gossip.frames import Entry, Frame
from p2pnodes.model.clock import HybridClock
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Close as Closing
from p2pnodes.model.events import Event, Evidence, Head, LogId
from p2pnodes.model.protocol import PROTOCOL_VERSION
from p2pnodes.store.checkpoints import Donor, read_certificate
from p2pnodes.store.damage import DamagedEventError
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.loading import Answer, Found, consider, lacking, load
from p2pnodes.store.state import State
from tests.support import NETWORK, NOW_MS, Author, memory_ledger


def peer_of(author: Author) -> Peer:
    """What the handshake would prove of an author's daemon."""
    return Peer(author.log, author.delegation(), PROTOCOL_VERSION)


def entry(log: LogId, seq: int, event_id: bytes) -> Entry:
    """What a vector says of a log without an end."""
    return Entry(log, Head(seq, event_id), None)


def clone(author: Author) -> Author:
    """Another writer of an author's log, from where it stands."""
    twin = Author.__new__(Author)
    twin.__dict__.update(author.__dict__, events=author.events[:], clock=HybridClock())
    twin.clock.observe(author.clock.latest)
    return twin


class Node:
    """One engine with its ledger; effects wait in queues until the test lets them happen."""

    def __init__(self, uri: str, who: Electorate | None = None) -> None:
        self.author = Author(uri)
        self.ledger: Ledger = memory_ledger(None, who)
        self.now_ms = NOW_MS
        self.engine = Engine(
            NETWORK,
            self,
            random.Random(uri),
            permitted=self.permitted,
        )
        self.outgoing: dict[int, deque[bytes]] = {}
        self.stores: deque[Store] = deque()
        self.proves: deque[Prove] = deque()
        self.reads: deque[Read | ReadCertificate | ReadLeaves] = deque()
        self.foreseen: list[Foresee] = []
        self.parts: deque[Consider | Survey | Load] = deque()
        self.donor = Donor()
        self.closes: list[Close] = []
        self.notices: list[Notice] = []
        self.said: list[Frame] = []
        """Every frame that this node sent, decoded."""
        self.disk_fails = False
        self.holds_writes = False
        """Leave stores and frames where they are, as a slow disk and a slow reader do."""
        self.holds_parts = False
        """Leave what is to be done for a checkpoint where it is."""

    @property
    def state(self) -> State:
        """What the ledger holds, of which the author's log is the own one."""
        return self.ledger.state._replace(own=self.author.log)

    def permitted(self, hotkey: bytes) -> bool:
        return self.ledger.committed_weights.electorate.permitted(hotkey)

    def do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self.said.append(frames.decode(effect.frame))
                    self.outgoing[effect.session].append(effect.frame)
                case Store():
                    self.stores.append(effect)
                case Foresee():
                    self.foreseen.append(effect)
                case Prove():
                    self.proves.append(effect)
                case Read() | ReadCertificate() | ReadLeaves():
                    self.reads.append(effect)
                case Consider() | Survey() | Load():
                    self.parts.append(effect)
                case Close():
                    self.closes.append(effect)
                case Notice():
                    self.notices.append(effect)

    def open(self, session: int, peer: Peer) -> None:
        self.outgoing[session] = deque()
        self.do(self.engine.opened(session, peer, self.now_ms))

    def hear(self, session: int, frame: bytes) -> None:
        self.do(self.engine.received(session, frame, self.now_ms))

    def write_out(self, session: int) -> bytes:
        """Let the oldest frame leave."""
        frame = self.outgoing[session].popleft()
        self.do(self.engine.sent(session, len(frame), self.now_ms))
        return frame

    def store_one(self) -> None:
        """Let the store answer its oldest batch."""
        effect = self.stores.popleft()
        if self.disk_fails:
            self.do(self.engine.stored(effect.session, None, self.now_ms))
            return
        with self.ledger.transaction():
            outcomes = self.ledger.receive(effect.events, self.now_ms)
        self.do(self.engine.stored(effect.session, outcomes, self.now_ms))
        self.tell_ends()

    def prove_one(self) -> None:
        """Let the store check its oldest proofs."""
        effect = self.proves.popleft()
        if not self.disk_fails:
            self.hears_proofs(*effect.proofs)
        self.do(self.engine.proved(effect.session, effect.proofs, self.now_ms, checked=not self.disk_fails))

    def hears_proofs(self, *proofs: Evidence | Closing) -> None:
        """Put proofs into the ledger; what is news is told to the peers."""
        with self.ledger.transaction():
            self.ledger.receive_proofs(proofs, self.now_ms)
        self.tell_ends()

    def tell_ends(self) -> None:
        """Hand the engine what became known of logs' ends, as the daemon does after each commit."""
        if ended := self.ledger.news.take_ended():
            self.do(self.engine.ended(ended, self.now_ms))

    def read_one(self) -> None:
        """Let the database answer its oldest read."""
        connection = self.ledger.facts.connection
        match self.reads.popleft():
            case Read(session, log, first_seq, size_bytes_max, count_max):
                wires = []
                try:
                    wires = self.ledger.read(log, first_seq, size_bytes_max, count_max)
                except DamagedEventError as error:
                    self.do(self.engine.damaged(error.log, error.seq, self.now_ms))
                self.do(self.engine.read(session, log, first_seq, wires, self.now_ms))
            case ReadCertificate(session, number):
                wire = read_certificate(connection, number) or b""
                self.do(self.engine.read_certificate(session, number, wire, self.now_ms))
            case ReadLeaves(session, number, place):
                leaves, path = self.donor.slice(connection, number, place)
                self.do(self.engine.read_leaves(session, number, place, leaves, path, self.now_ms))

    def part_one(self) -> None:
        """Let the store do the oldest thing that it has to do for a checkpoint."""
        failed = Answer(Found.FAILED, "the disk is full")
        match self.parts.popleft():
            case Consider(session, number, wire):
                with self.ledger.transaction():
                    answer = failed if self.disk_fails else consider(self.ledger, number, wire)
                self.do(self.engine.considered(session, number, answer, self.now_ms))
            case Survey():
                self.settle_loaded()
                with self.ledger.transaction():
                    lack = None if self.disk_fails else lacking(self.ledger)
                self.do(self.engine.lacking(lack, self.now_ms))
            case Load(session, number, place, leaves, path):
                with self.ledger.transaction():
                    answer = failed if self.disk_fails else load(self.ledger, number, place, leaves, path)
                self.settle_loaded()
                self.do(self.engine.loaded(session, number, place, answer, self.now_ms))

    def settle_loaded(self) -> None:
        """Do for a live set that is loaded what the database does."""
        while self.ledger.state.leaving or self.ledger.state.loaded:
            with self.ledger.transaction():
                self.ledger.cut()

    def settle(self) -> None:
        """Let disk and database do all they have to."""
        while self.stores or self.reads or self.proves or (self.parts and not self.holds_parts):
            if self.parts and not self.holds_parts:
                self.part_one()
            elif self.stores:
                self.store_one()
            elif self.proves:
                self.prove_one()
            else:
                self.read_one()

    def holds(self, *events: Event) -> None:
        """Put events into the ledger as if they had been there for ever."""
        with self.ledger.transaction():
            outcomes = self.ledger.receive(events, self.now_ms)
        assert {outcome.result for outcome in outcomes} == {"stored"}, outcomes
        self.ledger.news.take_ended()  # nobody is told of what was known for ever

    def writes(self, *events: Event) -> None:
        """Write own events: durable, then pushed."""
        self.holds(*events)
        self.do(self.engine.appended(events, self.now_ms))

    def tick(self, ms: int = 250) -> None:
        self.now_ms += ms
        self.do(self.engine.tick(self.now_ms))

    def head(self, log: LogId) -> int:
        """Highest stored seq of a log, -1 for none."""
        held = self.ledger.state.logs.get(log)
        return held.head.seq if held else -1

    def row(self, session: int = 0) -> dict[str, Any]:
        """Status of a session."""
        return self.engine.status()[session]

    def noticed(self, event: str) -> list[dict[str, Any]]:
        return [notice.fields for notice in self.notices if notice.event == event]


class Net:
    """Nodes and the links between them; a session has the same number at both ends."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = nodes
        self.links: dict[int, tuple[Node, Node]] = {}
        self.carried = 0

    def join(self, one: Node, other: Node) -> int:
        """Open a session."""
        number = len(self.links) + 1
        self.links[number] = one, other
        one.open(number, peer_of(other.author))
        other.open(number, peer_of(one.author))
        return number

    def join_all(self) -> None:
        for index, one in enumerate(self.nodes):
            for other in self.nodes[index + 1 :]:
                self.join(one, other)

    def cut(self, number: int) -> None:
        """End a session at both ends; what is under way is lost."""
        for node in self.links.pop(number):
            node.outgoing.pop(number)
            node.do(node.engine.closed(number, node.now_ms))

    def step(self) -> bool:
        """Let one frame of each direction of each link arrive, and every disk work; False when nothing happened."""
        moved = False
        for number, (one, other) in list(self.links.items()):
            for sender, receiver in ((one, other), (other, one)):
                if number in self.links and sender.outgoing[number]:
                    receiver.hear(number, sender.write_out(number))
                    self.carried += 1
                    moved = True
        for node in self.nodes:
            for close in node.closes:
                if close.session in self.links:
                    self.cut(close.session)
            moved = moved or bool(node.stores or node.reads or node.proves or (node.parts and not node.holds_parts))
            node.settle()
        return moved

    def run(self, ms: int = 0) -> None:
        """Let everything arrive, then pass time in ticks, letting everything arrive after each."""
        for _ in range(10_000):
            if not self.step():
                break
        else:
            raise AssertionError("the network never comes to rest")
        if ms > 0:
            for node in self.nodes:
                node.tick()
            self.run(ms - 250)

    def agree(self) -> bool:
        """Whether all nodes hold the same events and rows."""
        return len({(node.ledger.state.vector_digest, node.ledger.state.state_root) for node in self.nodes}) == 1
