"""The pinned parser reads what real clients send, refuses the rest, and never depends on a library's version."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.model.claims import (
    INT32_MAX,
    JSON_DEPTH_MAX,
    Body,
    DepthError,
    check_claim,
    duplicate_uuids,
    parse_body,
    parse_json,
    valid_uuid,
)
from p2pnodes.model.codec import INT_MAX
from p2pnodes.model.errors import InvalidBodyError
from p2pnodes.model.requests import BODY_BYTES_MAX
from tests.support import body, gpu

ABSENT = object()


def posted(**changes: Any) -> bytes:
    """A body with one GPU, some of whose fields are changed or absent."""
    node = {key: value for key, value in (gpu("gpu-1") | changes).items() if value is not ABSENT}
    return json.dumps({"server_id": "s-1", "nodes": [node]}).encode()


def refused_at(data: bytes) -> tuple[str | int, ...]:
    with pytest.raises(InvalidBodyError) as refused:
        parse_body(data)
    return refused.value.loc


class TestRealBodies:
    """What miners' clients send."""

    def test_every_field_is_read(self) -> None:
        parsed = parse_body(body(["gpu-1", "gpu-2"]))
        assert (parsed.server_id, parsed.server_name) == ("s-1", "rack-1")
        assert [node._asdict() for node in parsed.nodes] == [gpu("gpu-1", 0), gpu("gpu-2", 1)]

    @pytest.mark.parametrize(
        "field",
        ["major", "minor", "processors", "sxm", "max_threads_per_processor", "concurrent_kernels", "ecc"],
    )
    def test_an_optional_field_may_be_absent_or_null(self, field: str) -> None:
        for value in (ABSENT, None):
            assert getattr(parse_body(posted(**{field: value})).nodes[0], field) is None

    @pytest.mark.parametrize(
        "field",
        [
            *("uuid", "name", "memory", "clock_rate", "device_index", "gpu_identifier", "verification_host"),
            "verification_port",
        ],
    )
    def test_a_required_field_may_not(self, field: str) -> None:
        for value in (ABSENT, None):
            assert refused_at(posted(**{field: value})) == ("nodes", 0, field)

    def test_server_id_and_name_may_be_absent_or_null(self) -> None:
        nodes = f'"nodes": [{json.dumps(gpu("gpu-1"))}]'
        for text in (f"{{{nodes}}}", f'{{"server_id": null, "server_name": null, {nodes}}}'):
            assert parse_body(text.encode())[:2] == (None, None)

    def test_other_fields_are_ignored_whatever_they_hold(self) -> None:
        extra = (
            '{"deep": [[{"lone": "\\ud800", "huge": 1e999}]], "nodes": [' + json.dumps(gpu("gpu-1", more=[1])) + "]}"
        )
        assert parse_body(extra.encode()).nodes == parse_body(body(["gpu-1"])).nodes

    @pytest.mark.parametrize(
        ("field", "sent", "read"),
        [
            ("memory", 8.0e10, 80_000_000_000), ("memory", "80", 80), ("memory", INT_MAX, INT_MAX), ("memory", 0, 0),
            ("memory", "+5", 5), ("memory", -0.0, 0), ("device_index", 9, 9), ("processors", INT32_MAX, INT32_MAX),
            ("clock_rate", 1_980_000, 1_980_000.0), ("clock_rate", "1.98e6", 1_980_000.0), ("clock_rate", -1.5, -1.5),
            ("sxm", 1, True), ("sxm", 0, False), ("ecc", "true", True), ("ecc", "false", False), ("ecc", False, False),
            ("verification_port", 0, 0), ("name", "", ""), ("name", "n" * 256, "n" * 256), ("name", "名前", "名前"),
            ("verification_host", "h" * 255, "h" * 255), ("uuid", "u" * 64, "u" * 64), ("uuid", "GPU-~!", "GPU-~!"),
        ],
    )  # fmt: skip
    def test_what_pydantic_would_coerce_is_coerced(self, field: str, sent: object, read: object) -> None:
        found = getattr(parse_body(posted(**{field: sent})).nodes[0], field)
        assert found == read
        assert type(found) is type(read)


class TestHostileBodies:
    """Each is refused with the place of its fault."""

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("memory", -1), ("memory", 2**63), ("memory", 1.5), ("memory", 1e300), ("memory", True), ("memory", "1e3"),
            ("memory", " 1"), ("memory", "9" * 20), ("memory", ""), ("memory", []), ("memory", "1_0"),
            ("memory", "\u0661"),
            ("memory", float(2**54)),
            ("major", 2**31), ("major", -1), ("minor", 2**31), ("minor", -1), ("processors", 2**31),
            ("max_threads_per_processor", 2**31), ("max_threads_per_processor", -1), ("verification_port", -1),
            ("gpu_identifier", "a\0b"), ("verification_host", "\0"), ("gpu_identifier", "\ud800"),
            ("processors", -1), ("device_index", -1), ("device_index", 10), ("device_index", False),
            ("verification_port", 2**31), ("verification_port", "http"),
            ("clock_rate", "fast"), ("clock_rate", "1e999"), ("clock_rate", "nan"), ("clock_rate", "inf"),
            ("clock_rate", True), ("clock_rate", 10**30), ("clock_rate", {}), ("clock_rate", "1" * 400),
            ("sxm", 2), ("sxm", "yes"), ("sxm", 1.0), ("sxm", []), ("ecc", "True"), ("ecc", -1),
            ("name", 7), ("name", "a\0b"), ("name", "\ud800"), ("name", "n" * 257), ("name", ["n"]),
            ("gpu_identifier", "g" * 65), ("verification_host", "h" * 256), ("verification_host", "\udfff"),
            ("uuid", ""), ("uuid", "a b"), ("uuid", "a\n"), ("uuid", "u" * 65), ("uuid", "é"), ("uuid", 7),
            ("uuid", "\x7f"),
        ],
    )  # fmt: skip
    def test_a_value_of_another_shape(self, field: str, value: object) -> None:
        assert refused_at(posted(**{field: value})) == ("nodes", 0, field)

    @pytest.mark.parametrize("number", ["1e999", "-1e999", "1E400"])
    def test_a_float_that_overflows(self, number: str) -> None:
        data = posted(clock_rate=0.125).replace(b"0.125", number.encode())
        assert refused_at(data) == ("nodes", 0, "clock_rate")

    @pytest.mark.parametrize(
        "data",
        [
            b"", b"{", b"nodes", b'{"nodes": [}', b"{'nodes': []}", b'{"nodes": [],}', b"{} {}", b"\xff",
            b"\xef\xbb\xbf{}",
            b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": "\n"}', b'{"a": \xed\xa0\x80}',
            b'{"a": ' + b"9" * 641 + b"}", b'{"a": -' + b"9" * 5_000 + b"}", '{"nodes": []}'.encode("utf-16"),
            b"[" * 50_000, b'{"a":' * 10_000, b"[" * 33 + b"]" * 33,
        ],
        ids=lambda data: repr(data[:20]),
    )  # fmt: skip
    def test_what_is_no_json_in_utf_8(self, data: bytes) -> None:
        assert refused_at(data) == ()

    @pytest.mark.parametrize("data", [b"null", b"[]", b'"nodes"', b"7", b"true"])
    def test_what_is_no_object(self, data: bytes) -> None:
        assert refused_at(data) == ()

    @pytest.mark.parametrize("nodes", ["null", "[]", "{}", '"gpu"', "7"])
    def test_what_has_no_nodes(self, nodes: str) -> None:
        assert refused_at(f'{{"nodes": {nodes}}}'.encode()) == ("nodes",)
        assert refused_at(b"{}") == ("nodes",)

    def test_what_is_no_node(self) -> None:
        data = f'{{"nodes": [{json.dumps(gpu("gpu-1"))}, 7]}}'
        assert refused_at(data.encode()) == ("nodes", 1)

    def test_a_body_larger_than_the_bound(self) -> None:
        data = body(["gpu-1"])
        assert parse_body(data + b" " * (BODY_BYTES_MAX - len(data)))
        assert refused_at(data + b" " * (BODY_BYTES_MAX - len(data) + 1)) == ()

    @given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
    def test_any_bytes_are_refused_and_nothing_else_is_raised(self, data: bytes) -> None:
        with pytest.raises(InvalidBodyError):
            parse_body(data)


def depth(value: Any) -> int:
    """How deep brackets and braces are nested."""
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


class TestJson:
    """What lies beneath."""

    def test_of_a_key_that_occurs_twice_the_last_counts(self) -> None:
        data = posted(name="second").replace(b'"uuid"', b'"name": "first", "uuid"')
        assert parse_body(data).nodes[0].name == "second"
        assert refused_at(data.replace(b'"second"', b"7")) == ("nodes", 0, "name")

    def test_nesting_is_bounded_and_brackets_in_texts_do_not_count(self) -> None:
        assert parse_json(b"[" * JSON_DEPTH_MAX + b"]" * JSON_DEPTH_MAX)
        assert parse_json(b'["' + b"[{" * 500 + b'\\"[' * 500 + b'"]')
        assert len(parse_json(b"[" + b"[]," * 500 + b"[]]")) == 501
        with pytest.raises(DepthError):
            parse_json(b"[" * (JSON_DEPTH_MAX + 1) + b"]" * (JSON_DEPTH_MAX + 1))

    @given(
        levels=st.lists(st.booleans(), min_size=JSON_DEPTH_MAX - 2, max_size=JSON_DEPTH_MAX + 2),
        beside=st.recursive(st.text(alphabet='[]{}"\\a', max_size=5), lambda inner: st.lists(inner, max_size=3)),
    )
    def test_what_is_read_is_what_is_nested_no_deeper(self, levels: list[bool], beside: Any) -> None:
        value: Any = 1
        for is_object in levels:
            value = {"[": value, "}": 1} if is_object else [beside if value == 1 else "]]", value, []]
        text = json.dumps(value).encode()
        if depth(value) <= JSON_DEPTH_MAX:
            assert parse_json(text) == value
        else:
            with pytest.raises(DepthError):
                parse_json(text)
        for unclosed in (text[:-1], b"[" + text, b"[" * 100_000):
            with pytest.raises(ValueError, match=r"JSON is nested|Expecting"):
                parse_json(unclosed)

    @given(content=st.text(alphabet='[]{}"\\a\n', max_size=200))
    def test_whatever_brackets_and_quotes_come_nothing_deep_is_read(self, content: str) -> None:
        try:
            value = parse_json(content.encode())
        except ValueError:
            return
        assert depth(value) <= JSON_DEPTH_MAX

    def test_an_integer_has_up_to_640_digits(self) -> None:
        assert parse_json(b"9" * 640) == int("9" * 640)
        with pytest.raises(ValueError, match="641 digits"):
            parse_json(b"9" * 641)

    def test_longer_ones_are_found_wherever_they_begin(self) -> None:
        for before in range(32):
            with pytest.raises(ValueError, match="641 digits"):
                parse_json(b"[" + b" " * before + b"1" * 641 + b"]")


class TestClaim:
    """1 to 10 GPUs, each once."""

    def test_ten_gpus_are_a_claim_and_eleven_are_not(self) -> None:
        check_claim(parse_body(body([f"gpu-{index}" for index in range(10)])))
        eleven = [gpu(f"gpu-{index}", index % 10) for index in range(11)]
        with pytest.raises(InvalidBodyError, match="at most 10"):
            check_claim(parse_body(json.dumps({"nodes": eleven}).encode()))

    def test_a_uuid_occurs_once(self) -> None:
        parsed = parse_body(body(["gpu-2", "gpu-1", "gpu-2", "gpu-1", "gpu-3"]))
        assert duplicate_uuids(parsed) == ["gpu-1", "gpu-2"]
        with pytest.raises(InvalidBodyError, match="occur twice"):
            check_claim(parsed)

    def test_uuids_that_differ_in_case_are_two(self) -> None:
        check_claim(parse_body(body(["gpu-a", "gpu-A"])))

    def test_an_empty_body_has_no_duplicates(self) -> None:
        assert duplicate_uuids(Body(None, None, ())) == []


@pytest.mark.parametrize(
    ("uuid", "valid"), [("a", True), ("!~", True), ("u" * 64, True), ("", False), ("u" * 65, False), (" ", False)]
)
def test_a_uuid_is_printable_ascii(uuid: str, valid: bool) -> None:
    assert valid_uuid(uuid) is valid
