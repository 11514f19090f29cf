"""The encrypted channel behind the handshake: libsodium's secretstream each way.

A stream refuses what was changed, dropped, repeated or put in another order, so a frame that decrypts is the next one
that the peer sent.
"""

from typing import Final

from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_ABYTES,
    crypto_secretstream_xchacha20poly1305_HEADERBYTES,
    crypto_secretstream_xchacha20poly1305_init_pull,
    crypto_secretstream_xchacha20poly1305_init_push,
    crypto_secretstream_xchacha20poly1305_pull,
    crypto_secretstream_xchacha20poly1305_push,
    crypto_secretstream_xchacha20poly1305_state,
    crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
)
from nacl.exceptions import CryptoError

from p2pnodes.gossip.handshake import Keys
from p2pnodes.model.errors import RemoteProtocolError

HEADER_BYTES: Final = crypto_secretstream_xchacha20poly1305_HEADERBYTES
OVERHEAD_BYTES: Final = crypto_secretstream_xchacha20poly1305_ABYTES + HEADER_BYTES
"""What a message has over its frame, at most: tag and MAC, and before the first frame the stream's header."""

HEARTBEAT: Final = b""
"""The frame that says nothing but that its sender lives."""


class Channel:
    """Encrypts frames to a peer and decrypts frames from it, in order."""

    def __init__(self, keys: Keys) -> None:
        """Begin both directions of a session."""
        self._keys = keys
        self._push = crypto_secretstream_xchacha20poly1305_state()
        self._pull: crypto_secretstream_xchacha20poly1305_state | None = None
        self._header = crypto_secretstream_xchacha20poly1305_init_push(self._push, keys.sending)

    def encrypt(self, frame: bytes) -> bytes:
        """The next message to send."""
        header, self._header = self._header, b""
        message: bytes = crypto_secretstream_xchacha20poly1305_push(
            self._push, frame, tag=crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
        )
        return header + message

    def decrypt(self, message: bytes) -> bytes:
        """The frame in the next message that was received.

        Raises:
            RemoteProtocolError: It is not the next message of this stream; nothing can follow it.
        """
        sealed = message
        try:
            if self._pull is None:
                pull = crypto_secretstream_xchacha20poly1305_state()
                header, sealed = message[:HEADER_BYTES], message[HEADER_BYTES:]
                crypto_secretstream_xchacha20poly1305_init_pull(pull, header, self._keys.receiving)
                self._pull = pull
            frame, tag = crypto_secretstream_xchacha20poly1305_pull(self._pull, sealed)
        except (CryptoError, ValueError) as error:
            raise RemoteProtocolError(
                f"a message of {len(message)} bytes does not decrypt: changed, repeated, or out of order"
            ) from error
        if tag != crypto_secretstream_xchacha20poly1305_TAG_MESSAGE:
            raise RemoteProtocolError(f"a message with the stream tag {tag}; expected none but plain ones")
        return bytes(frame)
