"""One endpoint of the chain, read through substrate-interface: how far it is, and what it says of a subnet at a block.

Runs in the reader's process alone (``chain/reader.py``): the library is synchronous, takes a second of CPU and some
60 MB for the metadata of a runtime, and keeps both for as long as the connection lives.

A subnet is read in one of two ways. The runtime call ``get_selective_metagraph`` gives everything at once, but how it
is encoded is known for some runtimes only (``chain/runtime_types.py``). The storage maps need no such knowledge and are
what remains when the call does not decode.
"""

import ssl
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from p2pnodes.chain.reading import SPEC_MAX, Heads, Method, Pins
from p2pnodes.chain.runtime_types import METAGRAPH_INDEXES, is_known, metagraph_type, type_registry
from p2pnodes.model.codec import INT_MAX
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Pin
from p2pnodes.model.errors import ChainError, printable
from p2pnodes.model.keys import IDENTITY, KEY_BYTES, ss58_encode

ANSWER_S_MAX: Final = 15.0
"""Bound of a connect, and of each wait for bytes from an endpoint."""

RECEIVED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Most that an endpoint may send in one connection. The metadata of a runtime is 1.4 MB in hex, and a subnet of 1,024
neurons under 1 MB; a reader that is kept through a runtime upgrade takes a few of each."""

UIDS_MAX: Final = 4_096
"""Most neurons of a subnet; the largest that finney had are 1,024."""

SUBTENSOR: Final = "SubtensorModule"

_TIMESTAMP_NOW: Final = "0xf0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb"
"""Storage key of ``Timestamp.Now``: xxh128 of either name. It holds in every runtime, so that how far an endpoint is
can be asked without its metadata."""

_TIME_BYTES: Final = 8
"""Length of its value, a u64."""

_METAGRAPH_CALL: Final = "SubnetInfoRuntimeApi_get_selective_metagraph"
_PRUNED: Final = "State already discarded"
_NO_SUCH_CALL: Final = "Exported method"
"""Begins what Substrate's executor says of a call that the runtime does not have: true of the chain, not of the
endpoint."""


_NEURON_COLUMNS: Final = ("hotkeys", "validator_permit", "total_stake", "block_at_registration", "axons")
"""Fields of the runtime call that make a neuron, in the order of its own."""


class EndpointError(ChainError):
    """An endpoint gave something else than it must; one line that does not name it."""

    code = Code.CHAIN_ENDPOINT


class UndecodableError(EndpointError):
    """The runtime call is missing, or its answer is not in a layout that is known."""

    code = Code.CHAIN_UNDECODABLE


class _Neuron(NamedTuple):
    hotkey: bytes
    permit: bool
    stake: int
    registered: int
    axon: Mapping[str, Any] | None


class _Block(NamedTuple):
    """A block that is being read; ``uids`` is how many slots the subnet has there."""

    number: int
    hash: str
    time_ms: int
    uids: int


class Endpoint:
    """A connection to one endpoint; to be dropped after any exception."""

    def __init__(self, url: str, genesis: bytes) -> None:
        """Connect, and check that it is the right chain.

        Raises:
            EndpointError: It is another chain.
            Exception: Whatever the library raises; see ``reason``.
        """
        from substrateinterface import SubstrateInterface

        self._socket = _connect(url)
        try:
            self._rpc = SubstrateInterface(
                websocket=self._socket,  # without the URL the library cannot reconnect behind our back
                ss58_format=42,
                type_registry=type_registry(),
                auto_discover=False,
            )
            found = _hash(self._rpc.get_block_hash(0), "block 0")
            if found != f"0x{genesis.hex()}":
                raise EndpointError(
                    f"another chain: its block 0 is {found[2:]}, expected {genesis.hex()}: name an endpoint of the "
                    "network's chain, or set the network's genesis_hash right",
                    code=Code.CHAIN_OTHER,
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect."""
        with suppress(Exception):
            self._socket.close(timeout=0)

    def heads(self) -> Heads:
        """How far the endpoint is.

        Raises:
            Exception: Whatever the library raises; see ``reason``.
        """
        began = time.monotonic()
        finalized = _hash(self._rpc.get_chain_finalised_head(), "finalized head")
        latency_ms = round((time.monotonic() - began) * 1000)
        number = _integer(self._rpc.get_block_number(finalized), "number of the finalized head")
        head = _hash(self._rpc.get_chain_head(), "head")
        return Heads(number, self._time_ms(finalized), self._time_ms(head), latency_ms)

    def pins(self, netuid: int, blocks: Sequence[int], method: Method | None) -> Pins:
        """What the endpoint says of a subnet at some blocks, each read in the same way.

        Args:
            netuid: The subnet.
            blocks: Numbers of finalized blocks, the newest first.
            method: How to read; None for the runtime call if every block decodes, else the storage maps.

        Raises:
            UndecodableError: ``method`` is the runtime call, and it does not decode.
            EndpointError: What the endpoint says contradicts itself, or is beyond a bound.
            Exception: Whatever the library raises; see ``reason``.
        """
        found = [self._block(netuid, number) for number in blocks]
        if method is not Method.MAPS:
            try:
                pins = tuple(_pin(block, self._metagraph(netuid, block)) for block in found)
                return Pins(self._spec(found[0]), Method.METAGRAPH, pins)
            except UndecodableError:
                if method is not None:
                    raise
        pins = tuple(_pin(block, self._maps(netuid, block)) for block in found)
        return Pins(self._spec(found[0]), Method.MAPS, pins)

    def _block(self, netuid: int, number: int) -> _Block:
        block_hash = _hash(self._rpc.get_block_hash(number), f"block {number}")
        now, own_number, uids = self._values(
            block_hash, [("Timestamp", "Now", []), ("System", "Number", []), (SUBTENSOR, "SubnetworkN", [netuid])]
        )
        if own_number.value != number:
            raise EndpointError(f"asked for block {number}, answered with block {own_number.value}")
        if not 0 < _integer(uids.value, "number of neurons") <= UIDS_MAX:
            raise EndpointError(
                f"netuid {netuid} has {uids.value} neurons at block {number}, expected 1 to {UIDS_MAX}: "
                "is it the network's netuid?"
            )
        return _Block(number, block_hash, _integer(now.value, "time of the block"), uids.value)

    def _metagraph(self, netuid: int, block: _Block) -> list[_Neuron]:
        """The neurons by the runtime call."""
        from scalecodec.base import ScaleBytes
        from substrateinterface.exceptions import SubstrateRequestException

        spec = self._spec(block)
        self._rpc.init_runtime(block_hash=block.hash)
        codec = self._rpc.runtime_config
        arguments = codec.create_scale_object("(u16, Vec<u16>)").encode((netuid, list(METAGRAPH_INDEXES)))
        try:
            answer = self._call("state_call", [_METAGRAPH_CALL, str(arguments), block.hash])
        except SubstrateRequestException as error:
            if _NO_SUCH_CALL in str(error):
                raise UndecodableError(f"the runtime (spec {spec}) has no {_METAGRAPH_CALL}") from error
            raise
        try:
            found = codec.create_scale_object(metagraph_type(spec), ScaleBytes(answer)).decode(check_remaining=True)
            neurons = _of_metagraph(found, netuid, block)
        except Exception as error:
            raise UndecodableError(
                f"{_METAGRAPH_CALL} does not decode at block {block.number}, spec {spec}: {_text(error)}"
            ) from error
        # Fields of one type may have changed places without that a length tells: whoever is named must be the same.
        if not is_known(spec) and list(map(_who, neurons)) != list(map(_who, self._maps(netuid, block))):
            raise UndecodableError(
                f"{_METAGRAPH_CALL} names others than the storage at block {block.number}, spec {spec}"
            )
        return neurons

    def _maps(self, netuid: int, block: _Block) -> list[_Neuron]:
        """The neurons from the storage maps."""
        uids = range(block.uids)
        permits, weights = (
            found.value
            for found in self._values(
                block.hash, [(SUBTENSOR, "ValidatorPermit", [netuid]), (SUBTENSOR, "StakeWeight", [netuid])]
            )
        )
        if len(permits) != block.uids or len(weights) > block.uids:
            raise EndpointError(
                f"{len(permits)} permits and {len(weights)} weights of {block.uids} neurons at block {block.number}"
            )
        weights = [*weights, *[0] * (block.uids - len(weights))]  # none yet for who registered since the last epoch
        slots = self._values(
            block.hash,
            [(SUBTENSOR, "Keys", [netuid, uid]) for uid in uids]
            + [(SUBTENSOR, "BlockAtRegistration", [netuid, uid]) for uid in uids],
        )
        hotkeys = [_account(slot.public_key) for slot in slots[: block.uids]]
        voters = [uid for uid in uids if permits[uid]]
        axons = self._values(block.hash, [(SUBTENSOR, "Axons", [netuid, f"0x{hotkeys[uid].hex()}"]) for uid in voters])
        axon_of = {uid: axon.value for uid, axon in zip(voters, axons, strict=True)}
        return [
            _Neuron(hotkeys[uid], permits[uid], weights[uid], slots[block.uids + uid].value, axon_of.get(uid))
            for uid in uids
        ]

    def _values(self, block_hash: str, items: Sequence[tuple[str, str, list[Any]]]) -> list[Any]:
        """Decoded values of storage items (pallet, item, keys), in one call."""
        from substrateinterface.storage import StorageKey

        if not items:
            return []
        self._rpc.init_runtime(block_hash=block_hash)
        keys = [
            # Unlike the library's own create_storage_key, this stays with the metadata of the block that is read.
            StorageKey.create_from_storage_function(
                *item, runtime_config=self._rpc.runtime_config, metadata=self._rpc.metadata
            )
            for item in items
        ]
        found = {key.to_hex(): value for key, value in self._rpc.query_multi(keys, block_hash)}
        if missing := [item for item, key in zip(items, keys, strict=True) if key.to_hex() not in found]:
            raise EndpointError(f"no answer for {len(missing)} of {len(keys)} storage keys, {missing[0][1]} among them")
        return [found[key.to_hex()] for key in keys]

    def _spec(self, block: _Block) -> int:
        """Version of the runtime that answers calls at a block: the block's own, unlike ``init_runtime``.

        The block before an upgrade already holds the new code, while its storage is the old one's, which is what the
        library takes the metadata of.
        """
        version = self._call("state_getRuntimeVersion", [block.hash])
        return _integer(version["specVersion"], "spec version", SPEC_MAX)

    def _time_ms(self, block_hash: str) -> int:
        value = self._call("state_getStorage", [_TIMESTAMP_NOW, block_hash])
        if not isinstance(value, str) or len(value) != len("0x") + 2 * _TIME_BYTES:  # 0 would blame our own clock
            raise EndpointError(f"time of a block: found {str(value)[:60]}, expected {_TIME_BYTES} bytes in hex")
        return _integer(int.from_bytes(bytes.fromhex(value.removeprefix("0x")), "little"), "time of a block")

    def _call(self, method: str, params: list[Any]) -> Any:
        return self._rpc.rpc_request(method, params)["result"]


def reason(error: Exception, url: str) -> str:
    """Why reading an endpoint failed: one line without the endpoint's name and credentials.

    Args:
        error: Anything that ``Endpoint`` raised.
        url: The endpoint, which messages of libraries may quote.
    """
    import websocket
    from substrateinterface.exceptions import SubstrateRequestException

    match error:
        case EndpointError():
            text = str(error)
        case MemoryError():
            text = "sent more than the chain reader may hold"
        case TimeoutError() | websocket.WebSocketTimeoutException():
            text = f"no answer within {ANSWER_S_MAX:g} s"
        case ConnectionResetError() | BrokenPipeError():
            text = "closed the connection"
        case ssl.SSLError():
            text = f"TLS failed: {error}"
        case OSError():
            text = f"cannot be reached: {error.strerror or error}"
        case websocket.WebSocketBadStatusException():
            text = f"answered the WebSocket handshake with HTTP status {error.status_code}, expected 101"
        case websocket.WebSocketConnectionClosedException():
            text = "closed the connection"
        case websocket.WebSocketAddressException():
            text = f"cannot be reached: {error}"
        case websocket.WebSocketException():
            text = f"not a WebSocket endpoint: {_text(error)}"
        case SubstrateRequestException() if _PRUNED in str(error):
            text = "it no longer has the state of that block (lite nodes keep about 256): name an archive endpoint"
        case SubstrateRequestException():
            text = f"refused a call: {_refusal(error)}"
        case ValueError() if getattr(error, "doc", None) == "":  # JSONDecodeError of nothing
            text = "closed the connection in the middle of an answer"
        case _:
            text = f"answered with garbage: {_text(error)}"
    return printable(_without_secrets(text, url))


def _connect(url: str) -> Any:
    import websocket

    class Bounded(websocket.WebSocket):
        """A WebSocket that takes RECEIVED_BYTES_MAX in all; the library has no bound of its own."""

        received = 0

        def _recv(self, bufsize: int) -> bytes:
            data: bytes = super()._recv(bufsize)  # type: ignore[no-untyped-call] # websocket-client types its front only
            self.received += len(data)
            if self.received > RECEIVED_BYTES_MAX:
                raise EndpointError(f"sent over {RECEIVED_BYTES_MAX} bytes")
            return data

    return websocket.create_connection(
        url,
        timeout=ANSWER_S_MAX,
        class_=Bounded,
        enable_multithread=False,
        skip_utf8_validation=True,  # in Python, byte by byte; decoding the text validates it again
        redirect_limit=0,  # credentials go to the host that the operator named
        suppress_origin=True,
        header=_authorization(urlsplit(url)),
    )


def _authorization(url: SplitResult) -> dict[str, str]:
    """The header that tells who asks, from a URL's user name and password, which the library leaves out.

    Source: RFC 7617, in UTF-8.
    """
    if url.username is None and url.password is None:
        return {}
    return {"Authorization": f"Basic {_basic(url)}"}


def _basic(url: SplitResult) -> str:
    return b64encode(f"{unquote(url.username or '')}:{unquote(url.password or '')}".encode()).decode()


def _of_metagraph(found: Any, netuid: int, block: _Block) -> list[_Neuron]:
    """The neurons of a decoded runtime call, which must fit the block and itself."""
    if found is None:
        raise EndpointError(f"no netuid {netuid}")
    expected = {"netuid": netuid, "block": block.number, "num_uids": block.uids}
    if contradictions := [
        f"{name} {found[name]}, not {value}" for name, value in expected.items() if found[name] != value
    ]:
        raise EndpointError(f"it says {', '.join(contradictions)}")
    names = (*_NEURON_COLUMNS, "coldkeys", "alpha_stake", "tao_stake")
    columns = {name: found[name] for name in names}
    if off := [f"{len(column)} {name}" for name, column in columns.items() if len(column) != block.uids]:
        raise EndpointError(f"{', '.join(off)} of {block.uids} neurons")
    if any(map(int.__lt__, columns["total_stake"], columns["alpha_stake"])):
        raise EndpointError("a total stake is below its part in alpha")
    rows = zip(*(columns[name] for name in _NEURON_COLUMNS), strict=True)
    return [_Neuron(_account(hotkey), *rest) for hotkey, *rest in rows]


def _who(neuron: _Neuron) -> tuple[bytes, bool, int]:
    return neuron.hotkey, neuron.permit, neuron.registered


def _pin(block: _Block, neurons: Sequence[_Neuron]) -> Pin:
    """The pin of a block, from its neurons by uid."""
    slots = [neuron for neuron in neurons if neuron.hotkey != IDENTITY]  # what a uid without a hotkey decodes to
    registered: dict[bytes, int] = {}
    for neuron in slots:
        if neuron.hotkey in registered:
            raise EndpointError(f"hotkey {ss58_encode(neuron.hotkey)} has two slots at block {block.number}")
        if type(neuron.permit) is not bool:
            raise EndpointError(f"a permit is {neuron.permit!r}")
        registered[neuron.hotkey] = _integer(neuron.registered, "a registration's block", block.number)
    voters = [neuron for neuron in slots if neuron.permit]
    addresses = {neuron.hotkey: _address(neuron.axon) for neuron in voters}
    return Pin(
        block.number,
        block.time_ms,
        {neuron.hotkey: _integer(neuron.stake, "a stake") for neuron in voters},
        registered,
        {hotkey: address for hotkey, address in addresses.items() if address},
    )


def _address(axon: Mapping[str, Any] | None) -> str:
    """The base URL that an axon announces; empty for none and for what is no address, which is its owner's business."""
    if axon is None:
        return ""
    ip, port, kind = axon["ip"], axon["port"], axon["ip_type"]
    if not ip or not port:
        return ""
    try:
        match kind:
            case 4:
                return f"http://{IPv4Address(ip)}:{port}"
            case 6:
                return f"http://[{IPv6Address(ip)}]:{port}"
    except ValueError:
        pass
    return ""


def _hash(value: Any, what: str) -> str:
    if value is None:
        raise EndpointError(f"it has no {what}")
    if not isinstance(value, str) or len(value) != 66 or not value.startswith("0x"):
        raise EndpointError(f"{what}: found no hash of 32 bytes")
    return f"0x{bytes.fromhex(value[2:]).hex()}"


def _account(value: str) -> bytes:
    account = bytes.fromhex(value.removeprefix("0x"))
    if len(account) != KEY_BYTES:
        raise EndpointError(f"found an account of {len(account)} bytes, expected {KEY_BYTES}")
    return account


def _integer(value: Any, what: str, high: int = INT_MAX) -> int:
    if type(value) is not int or not 0 <= value <= high:
        raise EndpointError(f"{what}: found {str(value)[:60]}, expected an integer in 0..{high}")
    return value


def _refusal(error: Exception) -> str:
    """The message in an RPC error, which the library hands on as it came or as a text."""
    detail = error.args[0] if error.args else ""
    if isinstance(detail, Mapping):
        return " ".join(str(detail[key]) for key in ("message", "data") if detail.get(key))
    return str(detail)


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, EndpointError) else f"{type(error).__name__}: {error}"


def _without_secrets(text: str, url: str) -> str:
    """A text in which nothing of a URL is left that may be a credential."""
    parts = urlsplit(url)
    user, _, _ = parts.netloc.rpartition("@")
    path = f"{parts.path}?{parts.query}"
    own = (parts.username, parts.password, unquote(parts.username or ""), unquote(parts.password or ""))
    for secret in (url, user, user and _basic(parts), *own, path, parts.path, parts.query):
        if secret and len(secret) > 1:
            text = text.replace(secret, "***")
    return text
