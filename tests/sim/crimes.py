"""What liars did in a run, as far as honest peers can know of it, and what must have come of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from p2pnodes.model.events import Event, LogId
from tests.model.reference import Reference
from tests.sim.lies import Attack, Forged
from tests.sim.peer import CheckFailedError, SimPeer

if TYPE_CHECKING:
    import sqlite3

    from tests.sim.simulation import Simulation

PLAIN_EVENTS_MAX: Final = 5_000
"""Up to so many events rows are compared with the plain reading of the design, whose time grows with their square."""


class Rival(NamedTuple):
    """An event that an honest peer was sent in place of one that it holds; both name the same event before.

    Attributes:
        peer: Who was sent it.
        disk: Where the proof is: a peer that lost its disk, or went back to an old copy, has another one.
        log: The log.
        seq: Of both events.
    """

    peer: SimPeer
    disk: "sqlite3.Connection"
    log: LogId
    seq: int


class Crimes:
    """The record of a run."""

    def __init__(self) -> None:
        """Begin with none."""
        self.forged = Forged(set(), set())
        """Requests that liars wrote and no miner signed."""
        self.convicted = 0
        """Logs of which every honest peer knows that they fork, by the last ``check``."""
        self._rivals: list[Rival] = []
        self._sure: dict[tuple[int, bytes], str] = {}
        self._bans: dict[tuple[int, int, bytes], tuple[int, float]] = {}
        """By who banned, in which of its lives, and whom -> how often, and when first."""

    def rivalled(self, peer: SimPeer, event: Event) -> None:
        """Take note that a peer was sent a rival of a stored event, if it can tell by the two of them."""
        before = peer.ledger.facts.event_ids(event.log, [event.seq - 1]) if event.seq else {-1: b""}
        if peer.honest and before.get(event.seq - 1) == event.previous:
            self._rivals.append(Rival(peer, peer.disk, event.log, event.seq))

    def attacks(self, session: int, attack: Attack) -> None:
        """Take note that an attack is on its way over a session."""
        if attack.sure:
            self._sure.update(((session, frame), attack.name) for frame in attack.frames)

    def took(self, peer: SimPeer, session: int, frame: bytes) -> None:
        """Require that a peer ends the session in which it has just taken a frame of a sure attack, and bans the other.

        Raises:
            CheckFailedError: It goes on.
        """
        name = self._sure.pop((session, frame), None) if self._sure else None
        if name is not None and session in peer.open:
            raise CheckFailedError(f"{peer.name} goes on with {peer.open[session].other.name} after {name} (rule 6)")

    def banned(self, peer: SimPeer, hotkey: bytes, ban_s: float, now_s: float) -> None:
        """Take note that a peer bans somebody whose session it had kept until now.

        Args:
            peer: Who bans; a restart forgets bans.
            hotkey: Whom.
            ban_s: Length of a first ban, seconds.
            now_s: Virtual time, seconds.

        Raises:
            CheckFailedError: The bans before were too short: each is twice as long as the one before.
        """
        count, first_s = self._bans.get((peer.index, peer.starts, hotkey), (0, now_s))
        self._bans[peer.index, peer.starts, hotkey] = count + 1, first_s
        if now_s - first_s < (least_s := ban_s * (2**count - 1)):
            raise CheckFailedError(
                f"{peer.name} bans somebody for the {count + 1}th time within {now_s - first_s:.0f} s: "
                f"the bans before last {least_s:g} s in all (rule 6)"
            )

    # -- in the end --------------------------------------------------------------------------------------------------

    def check(self, world: "Simulation") -> None:
        """Check a network at rest.

        Raises:
            CheckFailedError: A lie has gone through.
        """
        honest = [peer for peer in world.peers if peer.honest]
        forks = sorted(self._forks(honest).items())
        for log, seq in forks:
            for peer in honest:
                _convicted(peer, log, seq)
        self.convicted = len(forks)
        for peer in honest:
            self._unforged(peer)
        plain(honest, world)

    def _forks(self, honest: Sequence[SimPeer]) -> dict[LogId, int]:
        """Every log of which the honest peers together hold, or were sent, two events in one place: the lowest seq."""
        found: dict[LogId, int] = {}
        ids: dict[tuple[LogId, int], bytes] = {}
        for peer in honest:
            query = "SELECT node_key, number, seq, id FROM events JOIN logs USING (log)"
            for node_key, number, seq, event_id in peer.disk.execute(query):
                log = LogId(node_key, number)
                if ids.setdefault((log, seq), event_id) != event_id:
                    found[log] = min(seq, found.get(log, seq))
        for rival in self._rivals:
            if rival.disk is rival.peer.disk:
                found[rival.log] = min(rival.seq, found.get(rival.log, rival.seq))
        return found

    def _unforged(self, peer: SimPeer) -> None:
        if found := [claim_id for claim_id in sorted(self.forged.claims) if _carried(peer, claim_id)]:
            raise CheckFailedError(f"{peer.name} took a claim that nobody signed: {found[0].hex()}")
        if found := [each for each in sorted(self.forged.deletes) if peer.ledger.uuids_deleted_by(each)]:
            raise CheckFailedError(f"{peer.name} took a deletion that nobody signed: {found[0].hex()}")


def _carried(peer: SimPeer, claim_id: bytes) -> bool:
    query = "SELECT EXISTS (SELECT 1 FROM carriage JOIN claim USING (claim) WHERE claim_id = ?)"
    return bool(peer.disk.execute(query, (claim_id,)).fetchone()[0])


def _convicted(peer: SimPeer, log: LogId, seq: int) -> None:
    """Require that a peer knows a fork of a log at or below ``seq``; where the log was closed lower, nobody looks."""
    state = peer.ledger.state.logs[log]
    fork = state.ends.fork
    closed = state.ends.close is not None and state.cut is not None and state.cut <= seq
    if not closed and (fork is None or fork > seq):
        raise CheckFailedError(f"{peer.name} does not know that log {log} forks at seq {seq}: {state.ends} (rule 5)")


def plain(honest: Sequence[SimPeer], world: "Simulation") -> None:
    """Compare the rows with the plain reading of the design (``tests.model.reference``), unless it would take too long.

    Raises:
        CheckFailedError: They differ.
    """
    peer = honest[0]
    wires = {wire for each in honest for (wire,) in each.disk.execute("SELECT wire FROM events")}
    if len(wires) > PLAIN_EVENTS_MAX:
        return
    ends = [end for found in peer.ledger.state.ends.values() for end in found if end is not None]
    events = [Event.decode(wire) for wire in sorted(wires)]
    expected = Reference(events, peer.ledger.weights.electorate, world.parameters, ends).rows()
    rows = {row.uuid: row for row in peer.ledger.rows()}
    for uuid in sorted(rows.keys() | expected.keys()):
        row, plainly = rows.get(uuid), expected.get(uuid)
        if row != plainly:
            raise CheckFailedError(f"{peer.name} has for {uuid} {row}: a plain reading of the design gives {plainly}")
