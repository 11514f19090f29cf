"""Server-sent events: bytes of a ``text/event-stream`` in, events out, however the bytes are cut into chunks.

The format is the one of WHATWG's HTML standard, section 9.2.6 ("Interpreting an event stream"), with two differences:
what one event may take up is bounded, and bytes that are not UTF-8 are an error, not replacement characters. The
clients for aiohttp that exist have had no release since 2023 and bound nothing.
"""

from typing import Final, NamedTuple

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import RemoteProtocolError

EVENT_BYTES_MAX: Final = 64 * 1024
"""Bound of one event as it is sent, and of one comment; the largest row of an inventory has about 2 KiB."""

RETRY_DIGITS_MAX: Final = 9
"""Longest reconnection time that is looked at, in digits of milliseconds; eleven days."""

_BOM: Final = b"\xef\xbb\xbf"


class SseEvent(NamedTuple):
    """One event.

    Attributes:
        type: ``message`` where the stream names none.
        data: The lines of its data, joined with line feeds.
        id: The last id that the stream has given, with this event or before it; empty without any.
    """

    type: str
    data: str
    id: str


class SseParser:
    """Reads one stream; a new connection needs a new parser.

    Attributes:
        last_id: The id to resume from: that of the last event, or one that came without an event. Empty without any;
            one that came in an event that was cut off does not count.
        retry_ms: Pause before a reconnection that the server asks for, None when it asked for none.
        pending: Whether bytes have come that belong to no finished event; at the end of a stream that was cut off.
    """

    def __init__(self) -> None:
        self.last_id = ""
        self.retry_ms: int | None = None
        self._line = bytearray()
        self._after_cr = False
        self._begun = False
        self._bytes = 0
        self._type = ""
        self._data: list[str] = []
        self._id = ""

    @property
    def pending(self) -> bool:
        """See the class."""
        return bool(self._line or self._data or self._type)

    def feed(self, data: bytes) -> list[SseEvent]:
        """Take the next bytes of the stream.

        Returns:
            The events that they complete, in order.

        Raises:
            RemoteProtocolError: An event or a line is longer than EVENT_BYTES_MAX, or a line is not UTF-8; close the
                connection.
        """
        if self._after_cr and data:
            data = data.removeprefix(b"\n")  # the second half of a CR LF that was cut in two
            self._after_cr = False
        events: list[SseEvent] = []
        for piece in data.splitlines(keepends=True):  # of bytes: at CR LF, LF and CR only
            ended = piece.endswith((b"\n", b"\r"))
            self._line += piece.rstrip(b"\r\n") if ended else piece
            if self._bytes + len(self._line) > EVENT_BYTES_MAX:
                raise RemoteProtocolError(f"an event of more than {EVENT_BYTES_MAX} bytes", code=Code.MINER_ANSWER)
            if ended:
                line = bytes(self._line)
                self._line.clear()
                if (event := self._end_line(line)) is not None:
                    events.append(event)
        self._after_cr = data.endswith(b"\r") if data else self._after_cr
        return events

    def _end_line(self, line: bytes) -> SseEvent | None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        if line.startswith(b":"):
            return None  # a comment, which keeps connections open
        self._bytes += len(line)
        try:
            name, _, value = line.decode().partition(":")
        except UnicodeDecodeError as error:
            raise RemoteProtocolError(f"an event that is not UTF-8: {error.reason}", code=Code.MINER_ANSWER) from error
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit() and len(value) <= RETRY_DIGITS_MAX:
                self.retry_ms = int(value)
            case _:
                pass  # the standard: ignore what is not known
        return None

    def _dispatch(self) -> SseEvent | None:
        self.last_id = self._id
        event = SseEvent(self._type or "message", "\n".join(self._data), self._id) if self._data else None
        self._type = ""
        self._data = []
        self._bytes = 0
        return event
