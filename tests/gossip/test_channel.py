"""The channel hands over exactly the frames that were sent, in order, or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_init_push,
    crypto_secretstream_xchacha20poly1305_push,
    crypto_secretstream_xchacha20poly1305_state,
    crypto_secretstream_xchacha20poly1305_TAG_FINAL,
)

from p2pnodes.gossip.channel import HEADER_BYTES, HEARTBEAT, OVERHEAD_BYTES, Channel
from p2pnodes.gossip.frames import FRAME_BYTES_MAX
from p2pnodes.gossip.handshake import Keys
from p2pnodes.model.errors import RemoteProtocolError

FORTH, BACK = b"\1" * 32, b"\2" * 32


def pair() -> tuple[Channel, Channel]:
    return Channel(Keys(FORTH, BACK, b"")), Channel(Keys(BACK, FORTH, b""))


class TestChannel:
    """Frames arrive as they were sent."""

    @given(st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=12))
    def test_frames_arrive_in_order_both_ways(self, frames: list[tuple[bool, bytes]]) -> None:
        here, there = pair()
        for forth, frame in frames:
            sender, receiver = (here, there) if forth else (there, here)
            assert receiver.decrypt(sender.encrypt(frame)) == frame

    @pytest.mark.parametrize("size", [0, 1, FRAME_BYTES_MAX])
    def test_a_message_is_larger_than_its_frame_by_a_known_bound(self, size: int) -> None:
        here, there = pair()
        first, second = here.encrypt(bytes(size)), here.encrypt(bytes(size))
        assert len(first) == size + OVERHEAD_BYTES
        assert len(second) == size + OVERHEAD_BYTES - HEADER_BYTES
        assert there.decrypt(first) == there.decrypt(second) == bytes(size)

    def test_a_heartbeat_is_a_frame(self) -> None:
        here, there = pair()
        assert there.decrypt(here.encrypt(HEARTBEAT)) == HEARTBEAT

    def test_equal_frames_look_different(self) -> None:
        here, _ = pair()
        here.encrypt(b"first")
        assert here.encrypt(b"same") != here.encrypt(b"same")


class TestRefusals:
    """What is not the next message of the stream is an error."""

    @given(st.integers(0, 1), st.integers(0), st.integers(1, 255))
    def test_no_byte_can_be_changed(self, which: int, where: int, mask: int) -> None:
        here, there = pair()
        for index in range(2):
            message = here.encrypt(b"frame")
            if index < which:
                there.decrypt(message)
                continue
            at = where % len(message)
            changed = message[:at] + bytes([message[at] ^ mask]) + message[at + 1 :]
            with pytest.raises(RemoteProtocolError, match="does not decrypt"):
                there.decrypt(changed)
            return

    @given(st.integers(0, 1), st.integers(0))
    def test_no_message_can_be_cut_short(self, earlier: int, length: int) -> None:
        here, there = pair()
        for _ in range(earlier):
            there.decrypt(here.encrypt(b"earlier"))
        message = here.encrypt(b"frame")
        with pytest.raises(RemoteProtocolError, match="does not decrypt"):
            there.decrypt(message[: length % len(message)])

    @given(st.binary(max_size=100))
    def test_garbage(self, garbage: bytes) -> None:
        _, there = pair()
        with pytest.raises(RemoteProtocolError, match=f"a message of {len(garbage)} bytes does not decrypt"):
            there.decrypt(garbage)

    def test_a_repeated_message(self) -> None:
        here, there = pair()
        there.decrypt(here.encrypt(b"first"))
        message = here.encrypt(b"second")
        there.decrypt(message)
        with pytest.raises(RemoteProtocolError):
            there.decrypt(message)

    def test_a_message_that_overtook_another(self) -> None:
        here, there = pair()
        there.decrypt(here.encrypt(b"first"))
        here.encrypt(b"second")
        with pytest.raises(RemoteProtocolError):
            there.decrypt(here.encrypt(b"third"))

    def test_one_s_own_message_sent_back(self) -> None:
        here, _ = pair()
        with pytest.raises(RemoteProtocolError):
            here.decrypt(here.encrypt(b"frame"))

    def test_a_message_of_another_session(self) -> None:
        _, there = pair()
        other = Channel(Keys(b"\3" * 32, BACK, b""))
        with pytest.raises(RemoteProtocolError):
            there.decrypt(other.encrypt(b"frame"))

    def test_a_message_with_another_tag_than_a_plain_one(self) -> None:
        _, there = pair()
        stream = crypto_secretstream_xchacha20poly1305_state()
        header = crypto_secretstream_xchacha20poly1305_init_push(stream, FORTH)
        message = crypto_secretstream_xchacha20poly1305_push(
            stream, b"bye", tag=crypto_secretstream_xchacha20poly1305_TAG_FINAL
        )
        with pytest.raises(RemoteProtocolError, match="stream tag"):
            there.decrypt(header + message)
