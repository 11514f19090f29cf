"""A validator that shows a newcomer another past than the one that was signed: other slices, other certificates."""

import random
from typing import TYPE_CHECKING, Final

from p2pnodes.gossip import frames
from p2pnodes.gossip.frames import CertificateAnswer, Digest, Leaves
from p2pnodes.model.checkpoint import Certificate, Signature, due_at
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import Checkpoint, Event, LogId, Payload
from p2pnodes.store.checkpoints import Donor
from p2pnodes.store.proposing import proposal
from tests.sim.liar import DIGEST, Liar, Mask

if TYPE_CHECKING:
    from tests.sim.peer import Speaker

CERTIFICATE, LEAVES = 12, 14
"""Kinds of frames (docs/protocol.md, "Frames")."""


AHEAD: Final = 2
"""How much higher a checkpoint is that nobody else has signed: the next one may be in force before it is asked for."""


class Forger(Mask):
    """Worn by a liar whose daemon has a checkpoint in force; whoever is not the victim sees what the daemon says."""

    SLICES: Final = ("leaf", "mask", "path", "place", "old", "empty", "silent")
    """
    leaf: an event of another slice in place of one.
    mask: other items are kept of an event.
    path: that of another slice.
    place: another slice, with its own path.
    old: the slice in that place of an earlier checkpoint.
    empty: no slice.
    silent: no answer.
    """

    CERTIFICATES: Final = ("true", "short", "own", "past", "empty", "silent")
    """
    true: as it is.
    short: with fewer signatures than it takes.
    own: of a checkpoint that nobody else has signed, which digests name.
    past: the same, under an electorate in which nobody else has stake.
    empty: none.
    silent: no answer.
    """

    def __init__(self, liar: Liar, rng: random.Random, victim: int) -> None:
        """Remember the live set that is in force now, to be shown later.

        Args:
            liar: Who wears it.
            rng: Draws, once how to lie about certificates, and for each slice anew.
            victim: Index of the newcomer.
        """
        super().__init__(float("inf"))
        self._liar = liar
        self._rng = rng
        self._victim = victim
        self._certificate = rng.choice(self.CERTIFICATES)
        number = liar.ledger.state.checkpoint
        self._old = [Donor().slice(liar.disk, number, place) for place in range(self._slices(number))]

    def take_off(self) -> None:
        """Lie no more."""
        self.until_ms = 0.0

    def sends(self, other: "Speaker", kind: int, frame: bytes) -> bytes | None:
        """Lie to the victim."""
        if other.index != self._victim or kind not in {DIGEST, CERTIFICATE, LEAVES}:
            return frame
        match frames.decode(frame):
            case Digest(checkpoint=int(number)) as digest if self._certificate in {"own", "past"}:
                return digest._replace(checkpoint=number + AHEAD).encode()
            case CertificateAnswer() as answer:
                return self._answer(answer)
            case Leaves(leaves=[_, *_]) as slice_:
                return self._slice(slice_, self._rng.choice(self.SLICES))
        return frame

    # -- slices ------------------------------------------------------------------------------------------------------

    def _slices(self, number: int) -> int:
        (count,) = self._liar.disk.execute("SELECT count(*) FROM live_slice WHERE number = ?", (number,)).fetchone()
        return int(count)

    def _slice(self, true: Leaves, way: str) -> bytes | None:
        (mask, wire), *rest = true.leaves
        place = (true.place + 1) % self._slices(true.number)
        leaves, path = Donor().slice(self._liar.disk, true.number, place)
        match way:
            case "leaf":
                return true._replace(leaves=[leaves[0], *rest]).encode()
            case "mask":
                return true._replace(leaves=[(mask ^ 2, wire), *rest]).encode()
            case "path":
                return true._replace(path=path).encode()
            case "place":
                return true._replace(leaves=leaves, path=path).encode()
            case "old":
                leaves, path = self._old[true.place % len(self._old)]
                return true._replace(leaves=leaves, path=path).encode()
            case "empty":
                return true._replace(leaves=[], path=[]).encode()
        return None

    # -- certificates ------------------------------------------------------------------------------------------------

    def _answer(self, true: CertificateAnswer) -> bytes | None:
        match self._certificate:
            case "short" if true.wire:
                certificate = Certificate.decode(true.wire)
                return true._replace(wire=certificate._replace(signatures=certificate.signatures[:1]).encode()).encode()
            case "own" | "past" if not true.wire:
                return true._replace(wire=self._made_up(true.number)).encode()
            case "empty":
                return true._replace(wire=b"").encode()
            case "silent":
                return None
        return true.encode()

    def _made_up(self, number: int) -> bytes:
        """A certificate of a checkpoint of which the liar holds nothing, signed by itself alone."""
        liar = self._liar
        now, honest = liar.ledger.weights.electorate.current, proposal(liar.ledger)
        own = liar.ledger.own_log
        assert honest is not None
        assert own is not None
        validators = now.validators
        if self._certificate == "past":
            validators = {liar.hotkey.public_key: 1}
        pin = now._replace(time_ms=due_at(liar.ledger.network, number) * 1000, validators=validators)
        logs = tuple(entry for entry in honest.logs if entry.log == own)
        proposed = self._event(own, honest._replace(number=number, pins=Electorate(pin).canonical, logs=logs))
        signed = self._event(own, Checkpoint(number, proposed.id, 1, 1, self._rng.randbytes(32)))
        (wire,) = liar.disk.execute(
            "SELECT wire FROM events JOIN logs USING (log) WHERE node_key = ? AND number = ? AND kind = 'delegate'",
            (own.node_key, own.number),
        ).fetchone()
        return Certificate(proposed, (Signature(Event.decode(wire), signed),)).encode()

    def _event(self, own: LogId, payload: Payload) -> Event:
        """What its own log might hold next."""
        held = self._liar.ledger.state.logs[own]
        return Event.create(
            self._liar.node_key,
            self._liar.ledger.network.id,
            log_number=own.number,
            seq=held.head.seq + 1,
            previous=held.head.id,
            hlc=held.prefix.hlc + 1,
            payload=payload,
        )
