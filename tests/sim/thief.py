"""Somebody who has copied a daemon's node key, and writes into its log from elsewhere."""

from typing import TYPE_CHECKING

from p2pnodes.model.clock import hlc_at
from p2pnodes.model.events import Event
from tests.sim.pen import Pen
from tests.sim.rogue import Rogue

if TYPE_CHECKING:
    from tests.sim.stage import Stage


class Thief(Rogue):
    """Writes like a rogue, behind what the owner of the log wrote so far, or behind an earlier event of it."""

    def __init__(self, stage: "Stage", index: int, *, after: int | None = None) -> None:
        """Steal the node key of validator ``index``; ``after`` is the seq behind which it writes, the last one if None.

        The owner's log forks, or goes on without the owner: ``stage.forking`` is told.
        """
        owner = stage.peer(index)
        own = owner.ledger.own_log
        assert own is not None
        self._stage = stage
        self.hotkey = owner.hotkey
        self.name = f"t{index}"
        wires = owner.ledger.read(own, 0, 1 << 30)[: None if after is None else after + 1]
        self._pen = Pen(owner.node_key, stage.parameters.id, own.number, [Event.decode(wire) for wire in wires])
        self._pen.hlc = max(self._pen.hlc, hlc_at(int(stage.clock.now_ms)))
        stage.forking.add(self.hotkey.public_key)

    @property
    def next_hlc(self) -> int:
        """What an honest clock would say, above the event before."""
        return max(self.now_hlc, self.last_hlc + 1)
