"""Lending: who loads a checkpoint (``loading``) is served its certificate, and its live set slice by slice."""

from collections.abc import Sequence

from p2pnodes.gossip.effects import Outbox, ReadCertificate, ReadLeaves
from p2pnodes.gossip.frames import CertificateAnswer, CertificateWant, Leaves, LeavesWant
from p2pnodes.gossip.loading import WANTS_MAX
from p2pnodes.gossip.rates import LEAVES
from p2pnodes.gossip.session import Session
from p2pnodes.gossip.sync import SERVE_QUEUE_BYTES_MAX
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import LocalProtocolError, RemoteProtocolError


class Lending:
    """Answers wants of certificates and slices; both are read off the engine."""

    def __init__(self, outbox: Outbox, time: Timeline) -> None:
        """Collect effects there."""
        self._outbox = outbox
        self._time = time

    def certificate_wanted(self, session: Session, want: CertificateWant) -> None:
        """Take a want of a certificate.

        Raises:
            RemoteProtocolError: The one before has no answer yet.
        """
        if session.lending_certificate is not None:
            raise RemoteProtocolError("want of a certificate: the one before has no answer yet")
        session.lending_certificate = want.number
        self._outbox.add(ReadCertificate(session.id, want.number))

    def certificate_read(self, session: Session, number: int, wire: bytes) -> None:
        """Send the certificate that was read; it is empty where there is none.

        Raises:
            LocalProtocolError: The engine did not ask for it.
        """
        if session.lending_certificate != number:
            raise LocalProtocolError(
                f"BUG! the certificate of checkpoint {number} was read, but not for this session", code=Code.SYSTEM_BUG
            )
        session.lending_certificate = None
        self._outbox.send(session, CertificateAnswer(number, wire).encode())

    def leaves_wanted(self, session: Session, want: LeavesWant) -> None:
        """Take a want of a slice.

        Raises:
            RemoteProtocolError: The peer has as many without an answer as are allowed, or the same one.
        """
        key = want.number, want.place
        if key in session.lending or len(session.lending) >= WANTS_MAX:
            raise RemoteProtocolError(
                f"want of a slice: over {WANTS_MAX} without an answer, or a second one of slice {want.place}"
            )
        session.lending[key] = False
        self.serve(session)

    def serve(self, session: Session) -> None:
        """Have the slices read that a peer waits for, unless too much waits to be sent or it asks too often."""
        for key, reading in session.lending.items():
            if session.queue_bytes > SERVE_QUEUE_BYTES_MAX:
                return
            if not reading:
                if not session.rates.take(LEAVES, self._time.ms):
                    return
                session.lending[key] = True
                self._outbox.add(ReadLeaves(session.id, *key))

    def leaves_read(
        self, session: Session, number: int, place: int, leaves: Sequence[tuple[int, bytes]], path: Sequence[bytes]
    ) -> None:
        """Send the slice that was read; it has no leaves where there is none.

        Raises:
            LocalProtocolError: The engine did not ask for it.
        """
        if not session.lending.pop((number, place), False):
            raise LocalProtocolError(
                f"BUG! slice {place} of checkpoint {number} was read, but not for this session", code=Code.SYSTEM_BUG
            )
        self._outbox.send(session, Leaves(number, place, leaves, path).encode())
