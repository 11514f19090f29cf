"""A subnet at one block, what can happen to it, and the two that a replay begins with."""

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final, NamedTuple, Self

from p2pnodes.model.keys import IDENTITY, Hotkey, ss58_decode
from tests.replay.recorded import FINNEY, RUNTIMES, decode, load, recorded_result

RAO: Final = 1_000_000_000
"""In one tao, or one alpha."""

U16_MAX: Final = 65_535
MADE_UP_NETUID: Final = 64
MADE_UP_FIRST_REGISTRATION: Final = 6_900_000


class Axon(NamedTuple):
    """Where a neuron says that it serves.

    Attributes:
        ip: As one number.
        port: 0 to 65,535.
        ip_type: 4 or 6.
        block: At which it said so.
    """

    ip: int
    port: int
    ip_type: int = 4
    block: int = 6_999_000

    def fields(self) -> dict[str, int]:
        """As the chain has them."""
        # The version and the protocol are those of bittensor's own axons.
        fields = {"block": self.block, "version": 9_011_001, "ip": self.ip, "port": self.port, "ip_type": self.ip_type}
        return fields | {"protocol": 4, "placeholder1": 0, "placeholder2": 0}


NO_AXON: Final = dict.fromkeys(Axon(0, 0).fields(), 0)
"""What a runtime call shows for a neuron that announced none."""


class Neuron(NamedTuple):
    """One slot of a subnet. Stakes are in rao."""

    hotkey: bytes
    coldkey: bytes
    registered: int
    permit: bool = False
    alpha: int = 0
    tao: int = 0
    total: int = 0
    axon: Axon | None = None


@dataclass(frozen=True, eq=False)
class State:
    """A subnet as of one block; what it changes into is another state.

    Attributes:
        neurons: By uid.
        made_up_weights: ``StakeWeight`` by uid, until anything that is weighed changes; None for shares of the stake.
    """

    neurons: tuple[Neuron, ...]
    made_up_weights: tuple[int, ...] | None = None

    @property
    def weights(self) -> tuple[int, ...]:
        """``StakeWeight``: each permit holder's share of all their stake, as u16.

        The chain leaves a neuron below ``StakeThreshold`` out instead of one without permit; here the two are the same.
        """
        if self.made_up_weights is not None:
            return self.made_up_weights
        whole = sum(neuron.total for neuron in self.neurons if neuron.permit) or 1
        return tuple(neuron.total * U16_MAX // whole if neuron.permit else 0 for neuron in self.neurons)

    def uid(self, hotkey: bytes) -> int:
        """Slot of a hotkey; raises ValueError if it is not registered."""
        for uid, neuron in enumerate(self.neurons):
            if neuron.hotkey == hotkey:
                return uid
        raise ValueError(f"hotkey {hotkey.hex()} is not registered")

    def with_neuron(self, uid: int, neuron: Neuron) -> Self:
        """The state with one slot changed."""
        neurons = (*self.neurons[:uid], neuron, *self.neurons[uid + 1 :])
        before = self.neurons[uid]
        weighed = (before.hotkey, before.permit, before.total) != (neuron.hotkey, neuron.permit, neuron.total)
        return replace(self, neurons=neurons, made_up_weights=None if weighed else self.made_up_weights)


class Change(NamedTuple):
    """Something that happens to one neuron in a block.

    =============  ==========================================================================================
    kind           value
    =============  ==========================================================================================
    permit         True or False
    stake          total stake in rao, all of it alpha
    axon           ``"ip:port"`` (IPv6 in brackets), or None: it serves nowhere
    register       uid of the slot that the hotkey takes over, or None: the one that the chain would give it
    deregister     no value; a hotkey that nobody knows takes the slot over
    empty          no value; the slot is left without a hotkey
    =============  ==========================================================================================
    """

    kind: str
    hotkey: bytes
    value: Any = None

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """A change from JSON, the hotkey as SS58; raises ValueError when it is none."""
        found = dict(fields)
        try:
            kind, hotkey = str(found.pop("kind")), ss58_decode(str(found.pop("hotkey")))
        except KeyError as error:
            raise ValueError(f"a change needs {error}") from error
        value = found.pop("value", None)
        if found:
            raise ValueError(f"a change has no {next(iter(found))!r}")
        return cls(kind, hotkey, value)

    def apply(self, state: State, block: int) -> State:
        """The state after this change in ``block``; raises ValueError when the chain would refuse it."""
        match self.kind, self.value:
            case "permit", bool() as permit:
                uid = state.uid(self.hotkey)
                return state.with_neuron(uid, state.neurons[uid]._replace(permit=permit))
            case "stake", int() as total if total >= 0:
                uid = state.uid(self.hotkey)
                return state.with_neuron(uid, state.neurons[uid]._replace(alpha=total, tao=0, total=total))
            case "axon", None | str():
                uid = state.uid(self.hotkey)
                axon = None if self.value is None else _axon(self.value, block)
                return state.with_neuron(uid, state.neurons[uid]._replace(axon=axon))
            case "register", None | int():
                if any(neuron.hotkey == self.hotkey for neuron in state.neurons):
                    raise ValueError(f"hotkey {self.hotkey.hex()} is registered already")
                uid = _pruned(state) if self.value is None else self.value
                if not 0 <= uid < len(state.neurons):
                    raise ValueError(f"uid {uid}: there are {len(state.neurons)}")
                return state.with_neuron(uid, Neuron(self.hotkey, _key(f"ck of {self.hotkey.hex()}"), block))
            case "deregister", None:
                uid = state.uid(self.hotkey)
                newcomer = _key(f"newcomer at {uid} in {block}")
                return state.with_neuron(uid, Neuron(newcomer, _key(f"ck of {newcomer.hex()}"), block))
            case "empty", None:
                uid = state.uid(self.hotkey)
                return state.with_neuron(uid, Neuron(IDENTITY, IDENTITY, 0))
            case _:
                raise ValueError(f"no change {self.kind!r} with value {self.value!r}: see tests.replay.subnets.Change")


@dataclass(frozen=True, eq=False)
class Subnet:
    """What a chain replays.

    Attributes:
        netuid: Its number.
        state: Neurons to begin with.
        start_block: The head at the start.
        finality: Blocks by which the finalized head lies behind it.
        tempo: Blocks between two epochs of the chain.
        max_validators: Permits at most.
        storage: Recorded storage items, key to value in hex; those that follow from the neurons give way to them.
        calls: Recorded answers, ``"Api_method args"`` to result in hex: good until the first change.
        hashes: Hashes of blocks where they are recorded.
    """

    netuid: int
    state: State
    start_block: int
    finality: int = 3
    tempo: int = 360
    max_validators: int = 64
    storage: Mapping[str, str] = field(default_factory=dict)
    calls: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[int, str] = field(default_factory=dict)


def made_up_hotkey(uid: int) -> Hotkey:
    """Key pair of a made-up neuron: everybody knows it."""
    return Hotkey.from_seed(hashlib.sha256(f"hk{uid}".encode()).digest())


@cache
def made_up(neurons: int = 256) -> Subnet:
    """Netuid 64 of so many neurons, at most 64 of them with a permit; 256 of them are those of ``data/``.

    Neurons above the 256th have no permit, but an axon as miners do.
    """
    data = load("synthetic_netuid64_spec461")
    permits = dict(enumerate(data["expect"]["validator_permit"]))
    found = tuple(_made_up_neuron(uid, permit=permits.get(uid, False)) for uid in range(neurons))
    weights = tuple(1000 - uid if neuron.permit else 0 for uid, neuron in enumerate(found))
    return Subnet(
        MADE_UP_NETUID,
        State(found, weights),
        data["head"],
        data["head"] - data["finalized"],
        storage=data["storage"],
        calls={name: answer for name, answer in data["state_call"].items() if "neurons_lite" in name},
    )


def _made_up_neuron(uid: int, *, permit: bool) -> Neuron:
    # The figures of data/synthetic_netuid64_*: test_replay.py compares byte for byte.
    alpha = (uid + 1) * 10 * RAO
    tao = (500 - uid) * 10 * RAO if permit else 0
    return Neuron(
        made_up_hotkey(uid).public_key,
        _key(f"ck{uid}"),
        MADE_UP_FIRST_REGISTRATION + uid,
        permit,
        alpha,
        tao,
        alpha + tao * 18 // 100,  # TaoWeight
        Axon(0x7F000001, 9000 + uid) if permit or uid >= 256 else None,
    )


@cache
def finney() -> Subnet:
    """Netuid 1 of finney: the recorded calls as they are, and storage maps that are derived from them.

    ``get_selective_metagraph`` is derived too: from what ``get_selective_mechagraph`` said of the same block.
    """
    mechagraph = load(f"{FINNEY}SubnetInfoRuntimeApi_get_selective_mechagraph")
    lite = load(f"{FINNEY}NeuronInfoRuntimeApi_get_neurons_lite")
    graph = decode(RUNTIMES[343], "Option<SelectiveMetagraph>", mechagraph["result"])
    head = graph["block"]
    neurons = tuple(
        Neuron(
            bytes.fromhex(graph["hotkeys"][uid][2:]),
            bytes.fromhex(graph["coldkeys"][uid][2:]),
            graph["block_at_registration"][uid],
            graph["validator_permit"][uid],
            graph["alpha_stake"][uid],
            graph["tao_stake"][uid],
            graph["total_stake"][uid],
            _recorded_axon(graph["axons"][uid]),
        )
        for uid in range(graph["num_uids"])
    )
    return Subnet(
        graph["netuid"],
        State(neurons),
        head,
        finality=0,  # the head is the one block that was recorded
        tempo=graph["tempo"],
        max_validators=graph["max_validators"],
        calls={" ".join(call["params"][:2]): call["result"] for call in (mechagraph, lite)},
        hashes={
            head: recorded_result("chain_getBlockHash"),
            head - 1: recorded_result("chain_getHeader")["parentHash"],
        },
    )


def _recorded_axon(fields: Mapping[str, int]) -> Axon | None:
    if not fields["ip"]:
        return None
    return Axon(fields["ip"], fields["port"], fields["ip_type"], fields["block"])


def _axon(text: str, block: int) -> Axon:
    host, _, port = text.rpartition(":")
    address = ipaddress.ip_address(host.strip("[]"))
    return Axon(int(address), int(port), address.version, block)


def _pruned(state: State) -> int:
    """Slot that a newcomer takes over: the longest registered one without a permit."""
    candidates: Sequence[int] = [uid for uid, neuron in enumerate(state.neurons) if not neuron.permit]
    return min(candidates, key=lambda uid: (state.neurons[uid].registered, uid))


def _key(text: str) -> bytes:
    return Hotkey.from_seed(hashlib.sha256(text.encode()).digest()).public_key
