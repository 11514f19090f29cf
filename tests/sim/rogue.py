"""A validator that runs no daemon: it writes into its log whatever it likes, and hands it to the others."""

from typing import TYPE_CHECKING, Final

from p2pnodes.model.clock import hlc_at
from p2pnodes.model.events import VERIFIED, Event, Head, LogId, Payload, Verdict, delegate
from p2pnodes.model.keys import NodeKey
from tests.support import hotkey

if TYPE_CHECKING:
    from tests.sim.stage import Stage

WINDOW_S: Final = 30 * 86_400
"""How far from now its delegation reaches, in both directions: as far back as it will ever write."""


class Rogue:
    """A log of a validator, written off any ledger; nothing but its signatures has to be right."""

    def __init__(self, stage: "Stage", index: int, *, age_ms: int = 0) -> None:
        """Open a log that claims to be that old. ``stage.open`` must have named the validator a rogue."""
        self._stage = stage
        self.hotkey = hotkey(f"//validator{index}")
        self.name = f"r{index}"
        self._node_key = NodeKey.from_seed(stage.rng.randbytes(32))
        self._log = LogId(self._node_key.public_key, 0)
        self._events: list[Event] = []
        self._hlc = hlc_at(int(stage.clock.now_ms) - age_ms)
        stage.untrusted.add(self.hotkey.public_key)
        now_s = stage.now_s
        self.write(
            delegate(
                self.hotkey, stage.parameters.id, self._log, url="", not_before=now_s - WINDOW_S,
                not_after=now_s + WINDOW_S,
            )
        )  # fmt: skip

    @property
    def now_hlc(self) -> int:
        """What an honest clock would say."""
        return hlc_at(int(self._stage.clock.now_ms))

    @property
    def last_hlc(self) -> int:
        """Of the last event."""
        return self._hlc

    def write(self, payload: Payload, hlc: int | None = None, *, through: int | None = None) -> None:
        """Append an event and give the log to a peer.

        Args:
            payload: Valid or not.
            hlc: Its timestamp; else the lowest that is above the one before it.
            through: Validator whose daemon gets it, else one that is drawn.
        """
        self._hlc = self._hlc + 1 if hlc is None else hlc
        last = self._events[-1] if self._events else None
        head = Head(last.seq, last.id) if last else None
        event = Event.create(
            self._node_key,
            self._stage.parameters.id,
            log_number=self._log.number,
            seq=head.seq + 1 if head else 0,
            previous=head.id if head else b"",
            hlc=self._hlc,
            payload=payload,
        )
        self._events.append(event)
        events = list(self._events)
        peer = self._stage.rng.choice(self._stage.up) if through is None else self._stage.peer(through)
        self._stage.trace(self.name, "writes", f"{event.kind} through {peer.name}")
        peer.write(lambda ledger: ledger.receive(events, peer.now_ms()), lambda _: None)

    @property
    def log(self) -> LogId:
        """Its log."""
        return self._log

    @property
    def last_seq(self) -> int:
        """Of the branch that it writes now."""
        return self._events[-1].seq

    def rewind(self, seq: int) -> None:
        """Go back to an event: what is written next begins a second branch there."""
        self._events = self._events[: seq + 1]

    def vote(self, claim_id: bytes, finding: str = VERIFIED, *, since: int = 0, hlc: int | None = None) -> None:
        """Append a verdict; a verified one says that it began at ``since``."""
        detail = "" if finding == VERIFIED else "because I say so"
        self.write(Verdict(claim_id, finding, "bribe", detail, since if finding == VERIFIED else None), hlc)
