"""A subnet's state as a node stores it and as its runtime calls answer: both from the same neurons."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from substrateinterface.utils.hasher import blake2_128_concat, xxh128

from p2pnodes.model.keys import IDENTITY
from tests.replay.recorded import RUNTIMES, Runtime, encode, load
from tests.replay.subnets import NO_AXON, State, Subnet

STATES_KEPT: Final = 16
METAGRAPHS_KEPT: Final = 64
PALLET: Final = "SubtensorModule"
PREFIX_CHARS: Final = 2 + 64
"""Of a key in hex: what names the storage item."""

_STORED: Final = RUNTIMES[461]
"""Both runtimes store alike."""


@lru_cache
def item_prefix(pallet: str, item: str) -> str:
    """First 32 bytes of every key of a storage item, in hex."""
    return _hex(xxh128(pallet.encode()) + xxh128(item.encode()))


@lru_cache(STATES_KEPT)
def storage(subnet: Subnet, state: State) -> dict[str, str]:
    """Every storage item of a subnet but those of the block, key to value, both in hex."""
    items = dict(_items(subnet, state))
    made = {key[:PREFIX_CHARS] for key in items}
    of_others = {item_prefix(PALLET, name) for name in ("Keys", "Uids")}  # where data/ has a neuron of netuid 65
    netuid = _uint(subnet.netuid, 2).hex()
    for key, value in subnet.storage.items():
        item, rest = key[:PREFIX_CHARS], key[PREFIX_CHARS:]
        if item not in made or (item in of_others and not rest.startswith(netuid)):
            items[key] = value
    return items


def _items(subnet: Subnet, state: State) -> Iterator[tuple[str, str]]:
    """What follows from the neurons. Hashers of the keys: netuid and uid as they are, accounts Blake2_128Concat."""
    netuid = _uint(subnet.netuid, 2)

    def item(name: str, key: bytes, value: bytes) -> tuple[str, str]:
        return item_prefix(PALLET, name) + key.hex(), "0x" + value.hex()

    count = len(state.neurons)
    yield item("SubnetworkN", netuid, _uint(count, 2))
    yield item("MaxAllowedUids", netuid, _uint(count, 2))
    yield item("Tempo", netuid, _uint(subnet.tempo, 2))
    yield item("MaxAllowedValidators", netuid, _uint(subnet.max_validators, 2))
    yield item("ValidatorPermit", netuid, encode(_STORED, "Vec<bool>", [neuron.permit for neuron in state.neurons]))
    yield item("StakeWeight", netuid, encode(_STORED, "Vec<u16>", list(state.weights)))
    for uid, neuron in enumerate(state.neurons):
        if neuron.hotkey == IDENTITY:
            continue
        slot, account = netuid + _uint(uid, 2), _hashed(neuron.hotkey)
        yield item("Keys", slot, neuron.hotkey)
        yield item("Uids", netuid + account, _uint(uid, 2))
        yield item("Owner", account, neuron.coldkey)
        yield item("IsNetworkMember", account + netuid, b"\x01")
        yield item("TotalHotkeyAlpha", account + netuid, _uint(neuron.alpha, 8))
        yield item("BlockAtRegistration", slot, _uint(neuron.registered, 8))
        if neuron.axon:
            yield item("Axons", netuid + account, encode(_STORED, "AxonInfo", neuron.axon.fields()))


@lru_cache(METAGRAPHS_KEPT)
def metagraph(subnet: Subnet, state: State, runtime: Runtime, fields: tuple[int, ...], block: int) -> str:
    """Answer of ``get_selective_metagraph`` in hex, with the fields of these indexes.

    Raises:
        ValueError: One of the fields is not among those that the replay knows.
    """
    neurons = state.neurons
    known: dict[str, Any] = {
        "block": block,
        "tempo": subnet.tempo,
        "max_validators": subnet.max_validators,
        "num_uids": len(neurons),
        "max_uids": len(neurons),
        "hotkeys": [_hex(neuron.hotkey) for neuron in neurons],
        "coldkeys": [_hex(neuron.coldkey) for neuron in neurons],
        "axons": [neuron.axon.fields() if neuron.axon else NO_AXON for neuron in neurons],
        "validator_permit": [neuron.permit for neuron in neurons],
        "block_at_registration": [neuron.registered for neuron in neurons],
        "alpha_stake": [neuron.alpha for neuron in neurons],
        "tao_stake": [neuron.tao for neuron in neurons],
        "total_stake": [neuron.total for neuron in neurons],
    }
    names = field_names(runtime)
    value: dict[str, Any] = dict.fromkeys(names)
    for index in fields:
        if index == 0:
            continue  # the netuid is always there
        if index >= len(names) or names[index] not in known:
            raise ValueError(f"field {index} of the metagraph is not replayed")
        value[names[index]] = known[names[index]]
    value["netuid"] = subnet.netuid
    if runtime.layout is None:  # the fields that no reader knows, filled in
        value["novelty"] = [block] * 3
        if value["axons"] is not None:
            value["axons"] = [{"novelty": block, **axon} for axon in value["axons"]]
    return _hex(encode(runtime, "Option<SelectiveMetagraph>", value))


def field_names(runtime: Runtime) -> Sequence[str]:
    """Fields of the metagraph as its indexes count them; an unknown layout counts like the last known one."""
    table = load("runtime_api_types_343_461")[str(runtime.layout or 461)]
    return [name for name, _ in table["SelectiveMetagraph"]]


def _uint(value: int, size_bytes: int) -> bytes:
    return value.to_bytes(size_bytes, "little")


@lru_cache(8_192)
def _hashed(account: bytes) -> bytes:
    return bytes(blake2_128_concat(account))


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
