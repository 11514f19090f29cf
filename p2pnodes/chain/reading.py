"""What the daemon asks the process that reads the chain, and what that answers.

Each message is a 4-byte length, big-endian, and one canonical msgpack array; one request, then its answer. The same
build is at both ends, so there are no versions; what comes out of the reader is checked all the same, because it holds
what a stranger's endpoint said.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.addresses import CHAIN_URL_CHARS_MAX
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Pin
from p2pnodes.model.errors import REASON_CHARS_MAX, ChainError
from p2pnodes.store.pins import pin_fields, read_pin

LENGTH_BYTES: Final = 4

REQUEST_BYTES_MAX: Final = 16 * 1024

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""Two pins of 4,096 neurons are under 1 MiB."""

PINS_MAX: Final = 2
"""A pinned block and the one before it."""

SPEC_MAX: Final = 2**32 - 1

_HASH_BYTES: Final = 32


class Method(StrEnum):
    """How the neurons of a subnet were read; the stakes of one electorate are never read in two ways."""

    METAGRAPH = "metagraph"
    """By the runtime call ``get_selective_metagraph``: stakes in rao."""

    MAPS = "maps"
    """From the storage maps: stakes as the shares of the last epoch, u16."""


class HeadsRequest(NamedTuple):
    """How far is an endpoint?

    Attributes:
        url: The endpoint, with its credentials.
        genesis: 32 bytes, the hash that its block 0 must have.
    """

    url: str
    genesis: bytes


class PinsRequest(NamedTuple):
    """What does an endpoint say of a subnet at one or two blocks?

    Attributes:
        url: The endpoint, with its credentials.
        genesis: 32 bytes, the hash that its block 0 must have.
        netuid: The subnet.
        blocks: Finalized blocks, the newest first.
        method: How to read it; None for the best that works for every block.
    """

    url: str
    genesis: bytes
    netuid: int
    blocks: tuple[int, ...]
    method: Method | None


Request = HeadsRequest | PinsRequest


class Heads(NamedTuple):
    """How far an endpoint is.

    Attributes:
        finalized: Number of its finalized head.
        finalized_ms: That block's own time, Unix milliseconds.
        head_ms: Time of its best block.
        latency_ms: How long the endpoint took for one call.
    """

    finalized: int
    finalized_ms: int
    head_ms: int
    latency_ms: int


class Pins(NamedTuple):
    """What an endpoint says of a subnet.

    Attributes:
        spec: Version of the runtime at the newest block.
        method: How it was read.
        pins: One for each block that was asked for, in that order.
    """

    spec: int
    method: Method
    pins: tuple[Pin, ...]


class Failure(NamedTuple):
    """Why an endpoint could not be read, in one line that does not name it."""

    text: str


Answer = Heads | Pins | Failure


class ReadError(ChainError):
    """An endpoint, or the process that reads it, gave no answer that can be used."""

    code = Code.CHAIN_ENDPOINT


def pack_request(request: Request) -> bytes:
    """A request as a frame."""
    match request:
        case HeadsRequest():
            return _frame([*request])
        case PinsRequest(url, genesis, netuid, blocks, method):
            return _frame([url, genesis, netuid, [*blocks], method and method.value])


def unpack_request(data: bytes) -> Request:
    """The request in a frame, without its length.

    Raises:
        MalformedError: There is none.
    """
    value = codec.array(codec.unpack(data), 2, 5, "request")
    url = codec.text(value[0], "url", CHAIN_URL_CHARS_MAX)
    genesis = codec.binary(value[1], "genesis", _HASH_BYTES)
    if len(value) == 2:
        return HeadsRequest(url, genesis)
    _, _, netuid, blocks, method = codec.fields(value, 5, "request")
    return PinsRequest(
        url,
        genesis,
        codec.integer(netuid, "netuid", high=65_535),
        tuple(codec.integer(block, "block") for block in codec.array(blocks, 1, PINS_MAX, "blocks")),
        None if method is None else _method(method),
    )


def pack_answer(answer: Answer) -> bytes:
    """An answer as a frame."""
    match answer:
        case Heads():
            return _frame([*answer])
        case Pins(spec, method, pins):
            return _frame([spec, method.value, [pin_fields(pin) for pin in pins]])
        case Failure(text):
            return _frame([text])


def unpack_answer(data: bytes) -> Answer:
    """The answer in a frame, without its length.

    Raises:
        MalformedError: There is none.
    """
    value = codec.array(codec.unpack(data), 1, 4, "answer")
    match len(value):
        case 1:
            return Failure(codec.text(value[0], "failure", REASON_CHARS_MAX))
        case 4:
            return Heads(*(codec.integer(number, "heads") for number in value))
    spec, method, pins = codec.fields(value, 3, "pins")
    found = tuple(read_pin(pin) for pin in codec.array(pins, 1, PINS_MAX, "pins"))
    return Pins(codec.integer(spec, "spec version", high=SPEC_MAX), _method(method), found)


def _frame(value: codec.Value) -> bytes:
    data = codec.pack(value)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def _method(value: codec.Value) -> Method:
    text = codec.text(value, "method", 16)
    if text not in set(Method):
        raise codec.MalformedError(f"method: found {text!r}, expected one of {', '.join(Method)}")
    return Method(text)
