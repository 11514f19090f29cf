"""One encoding per value: whatever else spells the same value is refused, and so is what the format does not have."""

import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.model import codec
from p2pnodes.model.codec import DEPTH_MAX, INT_MAX, MalformedError, Value, digest, pack, unpack

scalars = st.none() | st.booleans() | st.integers(0, INT_MAX) | st.binary(max_size=300) | st.text(max_size=80)
values = st.recursive(scalars, lambda children: st.lists(children, max_size=20), max_leaves=30)


def nested(depth: int) -> bytes:
    """An empty array within ``depth - 1`` arrays."""
    return b"\x91" * (depth - 1) + b"\x90"


class TestOneEncodingPerValue:
    """Canonical msgpack."""

    @given(value=values)
    def test_what_is_packed_unpacks_equal(self, value: Value) -> None:
        assert unpack(pack(value)) == value

    @given(data=st.binary(max_size=64))
    def test_any_bytes_are_a_value_or_malformed_and_a_value_packs_back(self, data: bytes) -> None:
        try:
            value = unpack(data)
        except MalformedError:
            return
        assert pack(value) == data

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"\xcc\x07", id="7 in uint8"),
            pytest.param(b"\xcd\x00\x80", id="128 in uint16"),
            pytest.param(b"\xce\x00\x00\x01\x00", id="256 in uint32"),
            pytest.param(b"\xcf" + bytes(7) + b"\x07", id="7 in uint64"),
            pytest.param(b"\xd0\x07", id="7 in int8"),
            pytest.param(b"\xd3" + bytes(7) + b"\x07", id="7 in int64"),
            pytest.param(b"\xd9\x01a", id="short text in str8"),
            pytest.param(b"\xda\x00\x01a", id="short text in str16"),
            pytest.param(b"\xdb\x00\x00\x00\x01a", id="short text in str32"),
            pytest.param(b"\xc5\x00\x01a", id="short bytes in bin16"),
            pytest.param(b"\xc6\x00\x00\x00\x01a", id="short bytes in bin32"),
            pytest.param(b"\xdc\x00\x01\x07", id="short array in array16"),
            pytest.param(b"\xdd\x00\x00\x00\x01\x07", id="short array in array32"),
            pytest.param(b"\x91\xcc\x07", id="within an array"),
        ],
    )
    def test_a_longer_spelling_is_refused(self, data: bytes) -> None:
        assert pack(msgpack.unpackb(data)) != data
        with pytest.raises(MalformedError, match="canonical"):
            unpack(data)

    @pytest.mark.parametrize("data", [b"", b"\x92\x01", b"\xc4\x05abc", b"\xd9", b"\x01\x01", b"\x90\x90"])
    def test_truncated_and_trailing_bytes_are_refused(self, data: bytes) -> None:
        with pytest.raises(MalformedError):
            unpack(data)

    @pytest.mark.parametrize("data", [b"\xc1", b"\xa1\xff", b"\xa3\xed\xa0\x80", b"\xa2\xc0\x80"])
    def test_what_is_no_msgpack_or_no_utf_8_is_refused(self, data: bytes) -> None:
        with pytest.raises(MalformedError):
            unpack(data)

    def test_what_has_no_encoding_is_not_packed(self) -> None:
        with pytest.raises(OverflowError):
            pack(2**64)
        with pytest.raises(UnicodeEncodeError):
            pack("\ud800")


class TestTheFormatHasFewTypes:
    """Arrays, integers, booleans, nil, byte strings, texts."""

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"\x80", id="empty map"),
            pytest.param(b"\x81\xa1a\x01", id="map"),
            pytest.param(b"\xca" + struct.pack(">f", 1.5), id="float32"),
            pytest.param(b"\xcb" + struct.pack(">d", 1.5), id="float64"),
            pytest.param(b"\xd4\x05\x00", id="extension"),
            pytest.param(b"\xd6\xff\x00\x00\x00\x01", id="timestamp"),
        ],
    )
    def test_others_are_refused_at_any_place(self, data: bytes) -> None:
        for place in (data, b"\x91" + data, b"\x92\x91" + data + b"\x01"):
            with pytest.raises(MalformedError):
                unpack(place)

    def test_arrays_nest_up_to_a_bound(self) -> None:
        assert unpack(nested(DEPTH_MAX)) is not None
        for depth in (DEPTH_MAX + 1, 600, 2_000, 100_000):
            with pytest.raises(MalformedError):
                unpack(nested(depth))

    def test_what_strangers_send_has_a_bound_of_arrays_and_of_values_in_one(self) -> None:
        assert unpack(pack([[1, 2, 3], []]), arrays_max=3) == [[1, 2, 3], []]
        over: list[Value] = [[[]] * 3, [1, 2, 3, 4], [[[[]]]], [[[], []], [1]]]
        for many in over:
            with pytest.raises(MalformedError):
                unpack(pack(many), arrays_max=3)
            assert unpack(pack(many)) == many

    @pytest.mark.parametrize("data", [b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"])
    def test_a_length_that_lies_costs_nothing(self, data: bytes) -> None:
        with pytest.raises(MalformedError):
            unpack(data)


class TestFields:
    """What checks the parts of a decoded value says what it found and what it expected."""

    @pytest.mark.parametrize("value", [-1, 2**63, True, None, 1.0, "1", b"1"])
    def test_an_integer_is_one_within_its_bounds(self, value: Value) -> None:
        with pytest.raises(MalformedError, match=r"size: expected an integer in 0\.\.\d+, found"):
            codec.integer(value, "size")

    def test_bounds_are_within(self) -> None:
        assert codec.integer(INT_MAX, "size") == INT_MAX
        assert codec.binary(b"ab", "key", 2) == b"ab"
        assert codec.binary(b"", "body", 0, 4) == b""
        assert codec.text("abcd", "name", 4) == "abcd"
        assert codec.array([], 0, 1, "list") == []

    @pytest.mark.parametrize("value", [0, 1, None, "true"])
    def test_a_boolean_is_no_number(self, value: Value) -> None:
        with pytest.raises(MalformedError, match="expected a boolean"):
            codec.boolean(value, "flag")

    @pytest.mark.parametrize("value", ["ab", b"a", b"abc", None])
    def test_bytes_have_their_length(self, value: Value) -> None:
        with pytest.raises(MalformedError, match="key: expected 2 bytes"):
            codec.binary(value, "key", 2)

    @pytest.mark.parametrize("value", [b"ab", "abcde", "", "a\0b", 1])
    def test_a_text_has_its_length_and_no_nul(self, value: Value) -> None:
        with pytest.raises(MalformedError, match="name: expected a string of 1 to 4 characters"):
            codec.text(value, "name", 4, 1)

    @pytest.mark.parametrize("value", ["ab", b"ab", [1], [1, 2, 3], None, {1: 2}])
    def test_an_array_has_its_length(self, value: Value) -> None:
        with pytest.raises(MalformedError, match="pair: expected an array of 2 values"):
            codec.fields(value, 2, "pair")
        with pytest.raises(MalformedError, match="pair: expected an array of 2 to 2 values"):
            codec.array(value, 2, 2, "pair")

    def test_a_message_never_repeats_a_long_value(self) -> None:
        with pytest.raises(MalformedError) as refused:
            codec.integer("x" * 10_000, "size")
        assert len(str(refused.value)) < 200


def test_the_digest_is_blake2b() -> None:
    """RFC 7693's function with 32 bytes, of the empty string."""
    assert digest(b"").hex() == "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
    assert len(digest(b"", 16)) == 16
