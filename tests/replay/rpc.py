"""The JSON-RPC methods of a node, as far as readers of an electorate call them."""

from bisect import bisect_right
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final

from tests.replay.chain import Chain
from tests.replay.encode import item_prefix, metagraph, storage
from tests.replay.recorded import decode, load, recorded_result

METHOD_NOT_FOUND: Final = -32_601
INVALID_PARAMS: Final = -32_602
CLIENT_ERROR: Final = 4003
"""For a block or a call that a node cannot serve. Source: substrate's ``sc-rpc-api``, errors of ``state``."""

METAGRAPH: Final = "SubnetInfoRuntimeApi_get_selective_metagraph"
ZERO_HASH: Final = "0x" + "0" * 64


class RpcError(Exception):
    """A node's refusal."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def state_discarded(block_hash: str) -> RpcError:
    """What a node says whose state of a block is pruned."""
    return RpcError(CLIENT_ERROR, f"Client error: UnknownBlock: State already discarded for {block_hash}")


class Rpc:
    """Answers calls from a chain."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._methods: dict[str, Callable[..., Any]] = {
            "chain_getBlockHash": self._block_hash,
            "chain_getFinalisedHead": self._finalized_head,
            "chain_getFinalizedHead": self._finalized_head,
            "chain_getHead": self._block_hash,
            "chain_getHeader": self._header,
            "chain_getRuntimeVersion": self._runtime_version,
            "rpc_methods": lambda: recorded_result("rpc_methods"),
            "state_call": self._call,
            "state_getKeysPaged": self._keys_paged,
            "state_getKeysPagedAt": self._keys_paged,
            "state_getMetadata": self._metadata,
            "state_getRuntimeVersion": self._runtime_version,
            "state_getStorage": self._storage,
            "state_getStorageAt": self._storage,
            "state_queryStorageAt": self._query_storage,
            "system_chain": lambda: recorded_result("system_chain"),
            "system_health": lambda: {"peers": 8, "isSyncing": False, "shouldHavePeers": True},
            "system_name": lambda: "p2pnodes replay",
            "system_properties": lambda: {"ss58Format": 42, "tokenDecimals": 9, "tokenSymbol": "TAO"},
            "system_version": lambda: "0",
        }

    def answer(self, method: str, params: Sequence[Any]) -> Any:
        """Result of one call.

        Raises:
            RpcError: The node refuses it.
        """
        if method not in self._methods:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        try:
            return self._methods[method](*params)
        except (TypeError, ValueError) as error:
            raise RpcError(INVALID_PARAMS, f"Invalid params: {error}") from error

    def _block_hash(self, block: int | None = None) -> str | None:
        number = self._chain.head if block is None else int(block)
        return self._chain.hash_of(number) if number <= self._chain.head else None

    def _finalized_head(self) -> str:
        return self._chain.hash_of(self._chain.finalized)

    def _header(self, block_hash: str | None = None) -> dict[str, Any] | None:
        number = self._number(block_hash)
        if number is None:
            return None
        recorded: dict[str, Any] = recorded_result("chain_getHeader")
        if number == int(recorded["number"], 16) and number in self._chain.subnet.hashes:
            return recorded
        parent = self._chain.hash_of(number - 1) if number else ZERO_HASH
        return {
            "digest": {"logs": []},
            "extrinsicsRoot": ZERO_HASH,
            "number": hex(number),
            "parentHash": parent,
            "stateRoot": ZERO_HASH,
        }

    def _runtime_version(self, block_hash: str | None = None) -> dict[str, Any]:
        spec = self._chain.runtime_at(self._stored(block_hash)).spec
        return {**recorded_result("state_getRuntimeVersion"), "specVersion": spec}

    def _metadata(self, block_hash: str | None = None) -> str:
        metadata: str = load(self._chain.runtime_at(self._stored(block_hash)).metadata)["result"]
        return metadata

    def _call(self, name: str, data: str, block_hash: str | None = None) -> str:
        block = self._stored(block_hash)
        subnet, state = self._chain.subnet, self._chain.state_at(block)
        if state is subnet.state and (recorded := subnet.calls.get(f"{name} {data}")) is not None:
            return recorded
        if name != METAGRAPH:
            raise RpcError(CLIENT_ERROR, f"Client error: Execution failed: {name} is not replayed with {data:.80}")
        runtime = self._chain.runtime_at(block)
        netuid, fields = decode(runtime, "(u16, Vec<u16>)", data)
        if netuid != subnet.netuid:
            return "0x00"  # None: there is no such subnet
        return metagraph(subnet, state, runtime, tuple(fields), block)

    def _storage(self, key: str, block_hash: str | None = None) -> str | None:
        return self._items(self._stored(block_hash)).get(key)

    def _query_storage(self, keys: Sequence[str], block_hash: str | None = None) -> list[dict[str, Any]]:
        block = self._stored(block_hash)
        items = self._items(block)
        return [{"block": self._chain.hash_of(block), "changes": [[key, items.get(key)] for key in keys]}]

    def _keys_paged(
        self, prefix: str, count: int, start: str | None = None, block_hash: str | None = None
    ) -> Sequence[str]:
        keys = sorted(self._items(self._stored(block_hash)))
        begin = bisect_right(keys, start) if start else 0
        found = (key for key in keys[begin:] if key >= prefix)
        return list(takewhile(lambda key: key.startswith(prefix), found))[:count]

    def _items(self, block: int) -> Mapping[str, str]:
        of_block = {
            item_prefix("System", "Number"): block.to_bytes(4, "little"),
            item_prefix("Timestamp", "Now"): self._chain.time_ms(block).to_bytes(8, "little"),
        }
        items = storage(self._chain.subnet, self._chain.state_at(block))
        return ChainMap({key: f"0x{value.hex()}" for key, value in of_block.items()}, items)

    def _number(self, block_hash: str | None) -> int | None:
        return self._chain.head if block_hash is None else self._chain.number_of(block_hash)

    def _stored(self, block_hash: str | None) -> int:
        """Number of a block whose state is there."""
        block = self._number(block_hash)
        if block is None:
            raise RpcError(
                CLIENT_ERROR, f"Client error: UnknownBlock: Header was not found in the database: {block_hash}"
            )
        if self._chain.pruned(block):
            raise state_discarded(self._chain.hash_of(block))
        return block
