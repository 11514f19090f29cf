"""A validator that runs no daemon: it writes into its log whatever it likes, and hands it to the others."""

from typing import TYPE_CHECKING, Final

from p2pnodes.model.clock import hlc_at
from p2pnodes.model.events import VERIFIED, Event, Evidence, LogId, Payload, Release, Verdict
from p2pnodes.model.keys import NodeKey
from tests.sim.pen import Pen
from tests.support import hotkey

if TYPE_CHECKING:
    from tests.sim.stage import Stage

WINDOW_S: Final = 30 * 86_400
"""How far from now its delegation reaches, in both directions: as far back as it will ever write."""


class Rogue:
    """A log of a validator, written off any ledger; nothing but its signatures has to be right."""

    def __init__(
        self, stage: "Stage", index: int, *, age_ms: int = 0, through: int | None = None, lasts_s: int = WINDOW_S
    ) -> None:
        """Open a log that claims to be that old. ``stage.open`` must have named it a rogue; see ``write``."""
        self._stage = stage
        self.hotkey = hotkey(f"//validator{index}")
        self.name = f"r{index}"
        self._pen = Pen(NodeKey.from_seed(stage.rng.randbytes(32)), stage.parameters.id, 0)
        self._pen.hlc = hlc_at(int(stage.clock.now_ms) - age_ms)
        stage.untrusted.add(self.hotkey.public_key)
        self._pen.delegate(self.hotkey, stage.now_s - WINDOW_S, stage.now_s + lasts_s)
        self._give(through)

    @property
    def now_hlc(self) -> int:
        """What an honest clock would say."""
        return hlc_at(int(self._stage.clock.now_ms))

    @property
    def next_hlc(self) -> int:
        """What an honest daemon would give its next event."""
        return max(self._pen.hlc + 1, self.now_hlc)

    @property
    def last_hlc(self) -> int:
        """Of the last event."""
        return self._pen.hlc

    def write(self, payload: Payload, hlc: int | None = None, *, through: int | None = None) -> None:
        """Append an event and give the log to a peer.

        Args:
            payload: Valid or not.
            hlc: Its timestamp; else the lowest that is above the one before it.
            through: Validator whose daemon gets it, else one that is drawn.
        """
        self._pen.write(payload, hlc)
        self._give(through)

    def replay(self, events: int, *, through: int) -> None:
        """Give a peer the first events of the log, which it may have let go."""
        self._give(through, events)

    def _give(self, through: int | None = None, count: int | None = None) -> None:
        events = list(self._pen.events)[:count]
        self._stage.history.update(dict.fromkeys(event.wire for event in events))
        peer = self._stage.rng.choice(self._stage.up) if through is None else self._stage.peer(through)
        self._stage.trace(self.name, "writes", f"{events[-1].kind} through {peer.name}")
        peer.write(lambda ledger: ledger.receive(events, peer.now_ms()), lambda _: None)

    @property
    def log(self) -> LogId:
        """Its log."""
        return self._pen.log

    @property
    def last(self) -> Event:
        """The last event."""
        return self._pen.events[-1]

    @property
    def last_seq(self) -> int:
        """Of the branch that it writes now."""
        return self._pen.last_seq

    def rewind(self, seq: int) -> None:
        """Go back to an event: what is written next begins a second branch there, and lies above all timestamps."""
        hlc = self._pen.hlc
        self._pen = self._pen.branch(seq + 1)
        self._pen.hlc = hlc

    def rivals(self, seq: int) -> Evidence:
        """Proof of a second event at a seq, which nobody is given."""
        one = self._pen.events[seq]
        other = self._pen.branch(seq).write(Release(bytes(32), ("gpu",)), one.hlc)
        first, second = sorted((one, other), key=lambda event: event.id)
        return Evidence(first.header, first.signature, second.header, second.signature)

    def vote(self, claim_id: bytes, finding: str = VERIFIED, *, since: int = 0, hlc: int | None = None) -> None:
        """Append a verdict; a verified one says that it began at ``since``."""
        detail = "" if finding == VERIFIED else "because I say so"
        self.write(Verdict(claim_id, finding, "bribe", detail, since if finding == VERIFIED else None), hlc)
