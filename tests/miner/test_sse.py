"""The reader of server-sent events: the same events however the bytes are cut, and bounds that hold."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.miner import sse
from p2pnodes.miner.sse import EVENT_BYTES_MAX, SseEvent, SseParser
from p2pnodes.model.errors import RemoteProtocolError

TEXT: Final = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=20)
EVENTS: Final = st.lists(st.builds(SseEvent, TEXT.filter(bool), st.lists(TEXT, min_size=1).map("\n".join), TEXT))
LINE_ENDS: Final = st.sampled_from([b"\n", b"\r", b"\r\n"])
STREAMS: Final = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [b"data:", b"data: x", b"id: 7", b"event: e", b"retry: 9", b":c", b"\r", b"\n", b"\r\n", b"\0"]
        ),
    )
).map(b"".join)


def encoded(event: SseEvent, end: bytes) -> bytes:
    lines = [f"event: {event.type}", f"id: {event.id}", *(f"data: {line}" for line in event.data.split("\n")), ""]
    return b"".join(line.encode() + end for line in lines)


def parsed(*chunks: bytes) -> tuple[list[SseEvent], SseParser]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)], parser


def outcome(chunks: list[bytes]) -> tuple[list[SseEvent], bool, object]:
    """Events up to the first error, whether there was one, and what the parser then holds."""
    parser, events = SseParser(), []
    try:
        for chunk in chunks:
            events += parser.feed(chunk)
    except RemoteProtocolError:
        return events, True, None
    return events, False, (parser.pending, parser.retry_ms)


class TestFormat:
    """The rules of WHATWG's HTML standard, section 9.2.6."""

    @pytest.mark.parametrize(
        ("stream", "events"),
        [
            pytest.param(b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")], id="lines"),
            pytest.param(b": c\n\ndata: a\nid: 1\n\ndata:b\nid\n\ndata:  c\n\n", [
                ("message", "a", "1"), ("message", "b", ""), ("message", " c", "")
            ], id="ids, and one blank"),
            pytest.param(b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")], id="no value"),
            pytest.param(b"data:test\n\ndata: test\n\n", [("message", "test", "")] * 2, id="the blank is optional"),
            pytest.param(b"event: a\n\ndata: 1\n\n", [("message", "1", "")], id="a type without data is forgotten"),
            pytest.param(b"id: 5\n\ndata: 1\n\n", [("message", "1", "5")], id="an id without data is kept"),
            pytest.param(b"id: 5\ndata: 1\n\ndata: 2\n\n", [("message", "1", "5"), ("message", "2", "5")], id="ids"),
            pytest.param(b"id: 5\nid: a\0b\ndata: 1\n\n", [("message", "1", "5")], id="an id with NUL is none"),
            pytest.param(b"data: a:b: c\nother: 1\nData: 2\n\n", [("message", "a:b: c", "")], id="unknown fields"),
            pytest.param(b"\xef\xbb\xbfdata: 1\n\n", [("message", "1", "")], id="a byte order mark first"),
            pytest.param(b"\n\xef\xbb\xbfdata: 1\n\n", [], id="a byte order mark later"),
            pytest.param("event: ä\ndata: \u2028\x0b\n\n".encode(), [("ä", "\u2028\x0b", "")], id="other line breaks"),
            pytest.param(b"data: 1\n", [], id="cut off"),
        ],
    )  # fmt: skip
    def test_a_stream_means_these_events(self, stream: bytes, events: list[tuple[str, str, str]]) -> None:
        for end in (b"\n", b"\r", b"\r\n"):
            ended = stream.replace(b"\n", end)
            assert parsed(ended)[0] == events
            assert parsed(*[ended[i : i + 1] for i in range(len(ended))])[0] == events

    @pytest.mark.parametrize(
        ("value", "retry_ms"),
        [("0", 0), ("1500", 1500), ("1.5", None), ("-1", None), ("", None), ("9" * 10, None), ("٣", None)],
    )
    def test_a_reconnection_time_is_digits(self, value: str, retry_ms: int | None) -> None:
        _, parser = parsed(f"retry: {value}\n".encode())
        assert parser.retry_ms == retry_ms

    @pytest.mark.parametrize(
        ("stream", "pending"),
        [
            (b"", False),
            (b"data: 1\n\n", False),
            (b"data: 1\n", True),
            (b"dat", True),
            (b"event: a\n", True),
            (b":c\n", False),
        ],
    )
    def test_what_is_cut_off_is_seen(self, stream: bytes, *, pending: bool) -> None:
        assert parsed(stream)[1].pending is pending

    def test_an_id_to_resume_from_needs_no_event_but_an_end(self) -> None:
        _, parser = parsed(b"id: 1\ndata: x\n\n", b": keep-alive\nid: 2\n\n")
        assert parser.last_id == "2"
        parser.feed(b"id: 3\ndata: y\n")
        assert parser.last_id == "2"
        parser.feed(b"\n")
        assert parser.last_id == "3"


class TestProperties:
    """Nothing depends on how the bytes arrive, and nothing but a protocol error comes out of any bytes."""

    @given(EVENTS, LINE_ENDS)
    def test_what_is_encoded_is_read_back(self, events: list[SseEvent], end: bytes) -> None:
        found, parser = parsed(*(encoded(event, end) for event in events))
        assert found == events
        assert not parser.pending

    @given(STREAMS, st.data())
    def test_any_bytes_mean_the_same_whole_cut_and_byte_by_byte(self, stream: bytes, data: st.DataObject) -> None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        bytewise = [stream[i : i + 1] for i in range(len(stream))]
        _, failed, held = outcome([stream])
        events, *rest = outcome(bytewise)
        assert rest == [failed, held]
        assert outcome(pieces)[1:] == (failed, held)
        if not failed:
            assert outcome([stream])[0] == outcome(pieces)[0] == events


class TestBounds:
    """An event has a longest size, whoever sends it and however."""

    @pytest.mark.parametrize("piece", [b"data: " + b"x" * 100 + b"\n", b"x" * 100, b"data\n", b":" + b"x" * 99])
    def test_an_event_that_never_ends_is_an_error_before_it_costs_memory(self, piece: bytes) -> None:
        parser = SseParser()

        def feed_for_ever() -> None:
            for _ in range(EVENT_BYTES_MAX):
                parser.feed(piece)

        with pytest.raises(RemoteProtocolError, match=f"more than {EVENT_BYTES_MAX} bytes"):
            feed_for_ever()
        assert len(parser._line) + sum(map(len, parser._data)) <= EVENT_BYTES_MAX + len(piece)

    def test_one_at_the_bound_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 10)
        assert len(parsed(b"data: 1234\n\ndata: 1234\r\n\r\n")[0]) == 2
        with pytest.raises(RemoteProtocolError):
            parsed(b"data: 12345\n\n")

    def test_comments_do_not_add_up(self) -> None:
        events, _ = parsed(*[b": keep-alive\n"] * 10_000, b"data: 1\n\n")
        assert len(events) == 1

    def test_bytes_that_are_not_utf_8_are_an_error(self) -> None:
        with pytest.raises(RemoteProtocolError, match="not UTF-8"):
            parsed(b"data: \xff\n")
