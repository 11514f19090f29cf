"""What must hold at every moment of a run, and not only at rest: looked at where it happens.

- Rows are a function of the set: whoever held the same events under the same electorate and checkpoint, whenever that
  was, had the same rows (rule 1); and they are what f makes of these events (rule 7).
- No two checkpoints that were ever in force have one number.
- A retry is free: who holds a request that counts answers it with what it recorded, and writes nothing (rule 2).
- What is wanted, is wanted once: no range that is stored already, or that another session is asked for.
- A slice of a live set is taken that others have in force, and none else; a forged one costs its sender the session.
- Nobody stores an event that lies further ahead of its clock than is allowed (rule 6), or that its log did not sign.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from p2pnodes.gossip.effects import Load
from p2pnodes.gossip.frames import Want
from p2pnodes.model import inventory
from p2pnodes.model.clock import SKEW_AHEAD_MS_MAX, hlc_ms
from p2pnodes.model.errors import P2PNodesError, WritesRefusedError
from p2pnodes.model.requests import Add, Delete, request_id
from p2pnodes.model.stateroot import state_root
from p2pnodes.store.checkpoints import Donor
from p2pnodes.store.facts import StoredClaim
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.loading import Answer, Found, load
from p2pnodes.store.state import Outcome, Result
from tests.sim.peer import CheckFailedError, SimPeer

COMMITS_PER_LOOK: Final = 128
"""Commits of all peers from one look at all rows to the next: it costs as much as dozens of commits."""

EVENT_BYTES: Final = 2_048
"""Size of what miners and validators say one by one; a ``carry`` may be larger."""


class Guard:
    """Sees what the peers of one run do."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._roots: dict[tuple[bytes, bytes, int], tuple[str, bytes]] = {}
        self._cuts: dict[int, tuple[str, bytes]] = {}
        self._commits = 0
        self.event_bytes = EVENT_BYTES
        """The size of the largest event that anybody sent, at least EVENT_BYTES."""

    def committed(self, peer: SimPeer) -> None:
        """Look at what a peer's commit left.

        Raises:
            CheckFailedError: Rows are no function of the events that it holds, or two checkpoints have one number.
        """
        if not peer.honest:
            return
        state, line = peer.ledger.state, peer.ledger.checkpoints.line
        name, proposal = self._cuts.setdefault(line.number, (peer.name, line.proposal))
        if proposal != line.proposal:
            raise CheckFailedError(f"{peer.name} has another checkpoint {line.number} in force than {name}")
        if state.settled is None:  # its rows are not those of all events yet, or change by what a checkpoint leaves out
            return
        held = state.electorate_digest, state.vector_digest, state.settled
        name, root = self._roots.setdefault(held, (peer.name, state.state_root))
        if root != state.state_root:
            raise CheckFailedError(f"{peer.name} has other rows than {name} had with the same events (rule 1)")
        self._commits += 1
        if self._commits % COMMITS_PER_LOOK == 0 and state_root(peer.ledger.rows()) != root:
            raise CheckFailedError(f"{peer.name} keeps rows that f does not give (rule 7)")

    @staticmethod
    def admitted(
        peer: SimPeer, ledger: Ledger, request: Add | Delete, uuid: str, admit: Callable[[Ledger], Any]
    ) -> Any:
        """Let a peer decide about a miner's request, inside its transaction.

        Args:
            peer: Who.
            ledger: Its ledger.
            request: The request.
            uuid: The GPU of a deletion.
            admit: What it does.

        Raises:
            CheckFailedError: It holds this very request, and refuses it, takes it for another one, or writes.
            P2PNodesError: It refuses.
        """
        found = request_id(ledger.network.id, request)
        if not peer.honest or not _counts(ledger, request, found, uuid):
            return admit(ledger)
        before = _last_position(ledger)
        try:
            result = admit(ledger)
        except WritesRefusedError:
            raise
        except P2PNodesError as error:
            raise CheckFailedError(f"{peer.name} refuses a request that it holds (rule 2): {error!r}") from error
        if isinstance(result, StoredClaim) and result.claim_id != found:
            raise CheckFailedError(f"{peer.name} answers a request that it holds with another claim (rule 2)")
        if _last_position(ledger) != before:
            raise CheckFailedError(f"{peer.name} writes for a request that it holds (rule 2)")
        return result

    @staticmethod
    def wants(peer: SimPeer, session: int, want: Want) -> None:
        """Look at a want that a peer sends.

        Observers are asked without much trust, so a validator may be asked for the same after them, also before what
        went to the observer has left: a tick asks observers, and then those whose announcements are due.

        Raises:
            CheckFailedError: Some of it is stored here, or another session is asked for it and is not late.
        """
        sessions = peer.engine._sessions
        if not peer.honest or session not in sessions:
            return
        observer = sessions[session].peer.observer
        range_ = f"seq {want.first_seq} to {want.first_seq + want.count_max - 1} of log {want.log}"
        wanted = sessions[session].wanted.get((want.log, want.first_seq))
        if wanted is None or wanted.probe:
            return
        held = peer.ledger.state.logs.get(want.log)
        if held is not None and held.head.seq >= want.first_seq:
            raise CheckFailedError(f"{peer.name} wants {range_}, and holds it up to {held.head.seq}")
        for other in sessions.values():
            for (log, first_seq), asked in other.wanted.items():
                if (
                    log == want.log
                    and other.id != session
                    and not (asked.late or asked.probe or other.peer.observer)
                    and not (observer and asked.asked_ms == wanted.asked_ms)
                    and first_seq < want.first_seq + want.count_max
                    and want.first_seq < first_seq + asked.count_max
                ):
                    raise CheckFailedError(f"{peer.name} wants {range_} from two sessions at once")

    @staticmethod
    def loads(peer: SimPeer, ledger: Ledger, slice_: Load) -> Answer:
        """Let a peer take a slice, inside its transaction.

        Raises:
            CheckFailedError: It takes what is not in the live set that others have in force.
        """
        lacked = slice_.place in ledger.missing_slices() and ledger.state.checkpoint == slice_.number
        answer = load(ledger, *slice_[1:])
        if peer.honest and lacked and answer.found is Found.TAKEN:
            for other in peer.world.peers:
                true, _ = Donor().slice(other.disk, slice_.number, slice_.place)
                if other is not peer and other.honest and true and true != list(slice_.leaves):
                    raise CheckFailedError(f"{peer.name} takes slice {slice_.place} as {other.name} does not have it")
        return answer

    @staticmethod
    def blames(peer: SimPeer, session: int, answer: Answer | P2PNodesError) -> None:
        """Look at what a peer did about what it found of a certificate or a slice.

        Raises:
            CheckFailedError: It was forged, and the session goes on.
        """
        if isinstance(answer, Answer) and answer.found is Found.FORGED and session in peer.open:
            raise CheckFailedError(f"{peer.name} goes on with {peer.open[session].other.name}, which forged a past")

    def stored(self, peer: SimPeer, outcomes: Iterable[Outcome], now_ms: int) -> None:
        """Look at what a peer made of the events that it was sent.

        Args:
            peer: Who.
            outcomes: Of each event.
            now_ms: Its clock when they came.

        Raises:
            CheckFailedError: It stored one from the future, or one that nobody signed.
        """
        for event, result, *_ in outcomes:
            self.event_bytes = max(self.event_bytes, len(event.wire))
            if result is Result.STORED and not event.signed():
                raise CheckFailedError(f"{peer.name} stores an event that nobody signed: seq {event.seq} {event.kind}")
            ahead_ms = hlc_ms(event.hlc) - now_ms
            if result is Result.STORED and ahead_ms > SKEW_AHEAD_MS_MAX:
                raise CheckFailedError(f"{peer.name} stores an event that lies {ahead_ms} ms ahead of it (rule 6)")


def as_on_disk(peer: SimPeer) -> None:
    """Require that a peer knows what its disk holds, and no more: that is what a restart, or a kill, would leave.

    Raises:
        CheckFailedError: It does not.
    """
    known, found = peer.ledger.state, Ledger(peer.disk, peer.world.parameters, peer.node_key).state
    names = "heads", "ends", "state_root", "electorate_digest", "vector_digest", "events", "nodes", "own", "checkpoint"
    for name in names:
        if getattr(known, name) != getattr(found, name):
            raise CheckFailedError(f"{peer.name} knows other {name} than its disk holds (rule 7)")


def _counts(ledger: Ledger, request: Add | Delete, found: bytes, uuid: str) -> bool:
    """Whether a ledger holds a request, and it counts there: its authors may have lost their permits, or forked."""
    if isinstance(request, Delete):
        return uuid in ledger.uuids_deleted_by(found)
    key = ledger.facts.claim_key(found)
    claim = None if key is None else ledger.facts.claim(key)
    return claim is not None and inventory.counts(claim, ledger.weights.electorate)


def _last_position(ledger: Ledger) -> int:
    (position,) = ledger.facts.connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()
    return int(position)
