"""The replay answers the real SubstrateInterface as a node does, and shows each fault as chain readers meet it."""

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from scalecodec.base import ScaleBytes
from scalecodec.exceptions import RemainingScaleBytesNotEmptyException
from substrateinterface import SubstrateInterface
from substrateinterface.exceptions import SubstrateRequestException
from substrateinterface.storage import StorageKey
from websocket import WebSocketConnectionClosedException, WebSocketTimeoutException

from p2pnodes.model.keys import IDENTITY, ss58_encode
from tests.replay.chain import Chain, Clock
from tests.replay.encode import field_names, item_prefix, metagraph, storage
from tests.replay.faults import Fault
from tests.replay.recorded import RUNTIMES, decode, load, types
from tests.replay.rpc import METAGRAPH
from tests.replay.server import ReplayServer
from tests.replay.subnets import Change, finney, made_up, made_up_hotkey
from tests.support import hotkey

TIMEOUT_S = 30.0
FAULT_TIMEOUT_S = 1.0
FIELDS = (7, 8, 29, 30, 52, 53, 55, 57, 66, 67, 68, 69)
HK0, HK2 = made_up_hotkey(0).public_key, made_up_hotkey(2).public_key
ALICE = hotkey("//Alice").public_key


def registry(spec: int) -> dict[str, Any]:
    """As a reader builds it: the API's definition and the structs of one runtime."""
    structs = load("runtime_api_types_343_461")[str(spec)]
    params = [{"name": "netuid", "type": "u16"}, {"name": "indexes", "type": "Vec<u16>"}]
    call = {"params": params, "type": "Option<SelectiveMetagraph>"}
    return {
        "types": {"AccountId32": "AccountId"}
        | {name: {"type": "struct", "type_mapping": fields} for name, fields in structs.items()},
        "runtime_api": {"SubnetInfoRuntimeApi": {"methods": {"get_selective_metagraph": call}}},
    }


def connect(url: str, spec: int = 461, timeout_s: float = TIMEOUT_S) -> SubstrateInterface:
    return SubstrateInterface(
        url=url,
        ss58_format=42,
        type_registry=registry(spec),
        auto_reconnect=False,
        ws_options={"timeout": timeout_s},
    )


async def reading(
    server: ReplayServer, read: Callable[[SubstrateInterface], Any], spec: int = 461, timeout_s: float = TIMEOUT_S
) -> Any:
    """Connect in a thread and read; what goes wrong is raised."""

    def run() -> Any:
        with connect(server.url, spec, timeout_s) as substrate:
            return read(substrate)

    return await asyncio.to_thread(run)


def by_call(substrate: SubstrateInterface, block: int, netuid: int = 64) -> Any:
    """Recipe A: what the runtime call says as of a block."""
    block_hash = substrate.get_block_hash(block)
    substrate.init_runtime(block_hash=block_hash)
    arguments = [netuid, list(FIELDS)]
    return substrate.runtime_call(
        "SubnetInfoRuntimeApi", "get_selective_metagraph", arguments, block_hash=block_hash
    ).value


def by_maps(substrate: SubstrateInterface, block: int, netuid: int = 64) -> dict[str, list[Any]]:
    """Recipe B: the same from the storage maps."""
    block_hash = substrate.get_block_hash(block)
    substrate.init_runtime(block_hash=block_hash)

    def values(*names_and_keys: tuple[str, list[Any]]) -> list[Any]:
        keys = [
            StorageKey.create_from_storage_function(
                "SubtensorModule",
                name,
                key,
                runtime_config=substrate.runtime_config,
                metadata=substrate.metadata,
            )
            for name, key in names_and_keys
        ]
        return [found.value for _, found in substrate.query_multi(keys, block_hash=block_hash)]

    count, permits, weights = values(
        ("SubnetworkN", [netuid]), ("ValidatorPermit", [netuid]), ("StakeWeight", [netuid])
    )
    hotkeys = values(*(("Keys", [netuid, uid]) for uid in range(count)))
    return {
        "hotkeys": hotkeys,
        "coldkeys": values(*(("Owner", [key]) for key in hotkeys)),
        "validator_permit": permits,
        "weights": weights,
        "axons": values(*(("Axons", [netuid, key]) for key in hotkeys)),
        "alpha": values(*(("TotalHotkeyAlpha", [key, netuid]) for key in hotkeys)),
        "registered": values(*(("BlockAtRegistration", [netuid, uid]) for uid in range(count))),
    }


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(clock: Clock) -> AsyncIterator[ReplayServer]:
    """A made-up subnet of 256 neurons at runtime 461."""
    async with ReplayServer(Chain(made_up(), clock=clock)) as server:
        yield server


class TestTheReplayIsTheData:
    """What is made up anew equals the files byte for byte; what is recorded is answered as it was recorded."""

    @pytest.mark.parametrize("spec", [343, 461])
    def test_storage_of_the_made_up_subnet(self, spec: int) -> None:
        subnet = made_up()
        assert storage(subnet, subnet.state) == load(f"synthetic_netuid64_spec{spec}")["storage"]

    @pytest.mark.parametrize("spec", [343, 461])
    def test_metagraph_of_the_made_up_subnet(self, spec: int) -> None:
        data = load(f"synthetic_netuid64_spec{spec}")
        (name,) = (name for name in data["state_call"] if name.startswith(METAGRAPH))
        fields = decode(RUNTIMES[spec], "(u16, Vec<u16>)", name.split()[1])[1]
        subnet = made_up()
        answer = metagraph(subnet, subnet.state, RUNTIMES[spec], tuple(fields), data["finalized"])
        assert answer == data["state_call"][name]

    @pytest.mark.parametrize("name", ["small", "NeuronInfoRuntimeApi_get_neurons_lite"])
    async def test_calls_recorded_on_finney(self, clock: Clock, name: str) -> None:
        recorded = load(f"finney_netuid1_block6852690_{name}")
        async with ReplayServer(Chain(finney(), spec=343, clock=clock)) as server:
            for call in recorded.get("calls", [recorded]):

                def ask(substrate: SubstrateInterface, call: dict[str, Any] = call) -> Any:
                    return substrate.rpc_request(call["method"], call["params"])["result"]

                assert await reading(server, ask) == call["result"]

    async def test_a_further_runtime_call_is_refused_as_nodes_do(self, server: ReplayServer) -> None:
        with pytest.raises(SubstrateRequestException, match="Execution failed"):
            await reading(server, lambda s: s.rpc_request("state_call", ["SubnetInfoRuntimeApi_get_all", "0x", None]))

    async def test_an_unknown_method_is_refused_as_nodes_do(self, server: ReplayServer) -> None:
        with pytest.raises(SubstrateRequestException, match="Method not found"):
            await reading(server, lambda s: s.rpc_request("author_rotateKeys", []))


class TestReaders:
    """The real SubstrateInterface initialises from it and reads the expected people, in both ways."""

    @pytest.mark.parametrize("spec", [343, 461])
    async def test_both_ways_show_the_neurons_of_the_data(self, clock: Clock, spec: int) -> None:
        expected = load(f"synthetic_netuid64_spec{spec}")["expect"]
        chain = Chain(made_up(), spec=spec, clock=clock)
        async with ReplayServer(chain) as server:
            block = chain.finalized
            graph, maps = await reading(server, lambda s: (by_call(s, block), by_maps(s, block)), spec)
        for name in ("hotkeys", "coldkeys", "validator_permit", "alpha_stake", "tao_stake", "total_stake"):
            assert graph[name] == expected[name]
        assert [axon["port"] for axon in graph["axons"]] == expected["axon_ports"]
        assert [graph["block"], graph["num_uids"], graph["tempo"]] == [chain.finalized, 256, 360]
        for name in ("hotkeys", "coldkeys", "validator_permit"):
            assert maps[name] == expected[name]
        assert [axon["port"] if axon else 0 for axon in maps["axons"]] == expected["axon_ports"]
        assert maps["alpha"] == expected["alpha_stake"]
        assert maps["registered"] == graph["block_at_registration"]

    async def test_both_ways_show_the_1024_neurons_of_finney(self, clock: Clock) -> None:
        recorded = load("finney_netuid1_block6852690_SubnetInfoRuntimeApi_get_selective_mechagraph")["result"]
        expected = decode(RUNTIMES[343], "Option<SelectiveMetagraph>", recorded)
        chain = Chain(finney(), spec=343, clock=clock)
        async with ReplayServer(chain) as server:
            block = chain.finalized
            graph, maps = await reading(server, lambda s: (by_call(s, block, 1), by_maps(s, block, 1)), 343)
        addresses = [ss58_encode(bytes.fromhex(each[2:])) for each in expected["hotkeys"]]
        assert graph["hotkeys"] == maps["hotkeys"] == addresses
        assert graph["validator_permit"] == maps["validator_permit"] == expected["validator_permit"]
        assert graph["total_stake"] == expected["total_stake"]
        assert graph["block_at_registration"] == maps["registered"] == expected["block_at_registration"]
        assert sum(maps["validator_permit"]) == 12
        assert [graph["num_uids"], graph["block"]] == [1024, 6_852_690]

    async def test_a_larger_subnet_can_be_made_up(self, clock: Clock) -> None:
        chain = Chain(made_up(1024), clock=clock)
        async with ReplayServer(chain) as server:
            block = chain.finalized
            graph, maps = await reading(server, lambda s: (by_call(s, block), by_maps(s, block)))
        assert graph["hotkeys"] == maps["hotkeys"]
        assert len(set(graph["hotkeys"])) == 1024
        assert sum(graph["validator_permit"]) == 64

    async def test_an_unknown_subnet_is_none_and_holds_nothing(self, server: ReplayServer) -> None:
        block = server.chain.finalized
        assert await reading(server, lambda s: by_call(s, block, netuid=63)) is None
        prefix = item_prefix("SubtensorModule", "Keys") + "3f00"
        keys = await reading(server, lambda s: s.rpc_request("state_getKeysPaged", [prefix, 1000, None, None]))
        assert keys["result"] == []

    async def test_maps_are_paged(self, server: ReplayServer) -> None:
        def uids(substrate: SubstrateInterface) -> list[int]:
            return [uid.value for uid, _ in substrate.query_map("SubtensorModule", "Keys", [64], page_size=100)]

        assert await reading(server, uids) == list(range(256))
        assert server.calls["state_getKeysPaged"] >= 3

    async def test_each_block_has_its_own_time_12_s_apart(self, server: ReplayServer, clock: Clock) -> None:
        def times(substrate: SubstrateInterface) -> list[int]:
            blocks = (server.chain.finalized - 100, server.chain.finalized)
            return [
                substrate.query("Timestamp", "Now", block_hash=substrate.get_block_hash(block)).value
                for block in blocks
            ]

        earlier, later = await reading(server, times)
        assert later - earlier == 100 * 12_000
        assert clock() - later == 3 * 12_000  # the finalized head lies three blocks behind


class TestBlocks:
    """Blocks come by the clock, have one hash each, and show the state as of them."""

    def test_the_head_follows_the_clock_and_the_finalized_head_the_head(self, clock: Clock) -> None:
        chain = Chain(made_up(), clock=clock)
        assert (chain.head, chain.finalized) == (7_000_100, 7_000_097)
        clock.blocks(5)
        assert (chain.head, chain.finalized) == (7_000_105, 7_000_102)
        chain.stand()
        clock.blocks(5)
        assert chain.head == 7_000_105
        chain.go_back(50)
        assert chain.head == 7_000_055
        chain.go_on()
        assert chain.head == 7_000_060

    def test_a_hash_names_one_block_of_one_chain(self, clock: Clock) -> None:
        chain = Chain(made_up(), genesis_hash="ab" * 32, clock=clock)
        assert chain.hash_of(0) == "0x" + "ab" * 32
        assert [chain.number_of(chain.hash_of(block)) for block in (0, 1, 7_000_000)] == [0, 1, 7_000_000]
        before = chain.hash_of(7_000_000)
        chain.genesis_hash = "cd" * 32
        assert chain.number_of(before) is None
        assert chain.number_of(chain.hash_of(chain.head + 1)) is None
        assert chain.number_of("garbage") is None

    async def test_headers_name_the_block_before(self, server: ReplayServer) -> None:
        def header(substrate: SubstrateInterface) -> Any:
            return substrate.rpc_request("chain_getHeader", [substrate.get_block_hash(7_000_000)])["result"]

        found = await reading(server, header)
        assert int(found["number"], 16) == 7_000_000
        assert found["parentHash"] == server.chain.hash_of(6_999_999)

    async def test_state_far_behind_the_head_can_be_pruned(self, server: ReplayServer) -> None:
        server.chain.keep_blocks = 256
        block = server.chain.finalized
        assert (await reading(server, lambda s: by_call(s, block - 250)))["num_uids"] == 256
        with pytest.raises(SubstrateRequestException, match="State already discarded for 0x"):
            await reading(server, lambda s: by_call(s, block - 260))


class TestChanges:
    """What happens to the subnet shows from its block on, in storage and runtime call alike."""

    @pytest.mark.parametrize(
        ("change", "uid", "shown"),
        [
            (Change("permit", HK0, value=False), 0, {"permit": False}),
            (Change("permit", HK2, value=True), 2, {"permit": True}),
            (Change("stake", HK0, 123_456), 0, {"alpha": 123_456, "tao": 0, "total": 123_456}),
            (Change("axon", HK0, "192.0.2.1:80"), 0, {"ip": 0xC0000201, "port": 80, "ip_type": 4}),
            (Change("axon", HK0, "[2001:db8::1]:443"), 0, {"ip": 0x20010DB8 << 96 | 1, "port": 443, "ip_type": 6}),
            (Change("axon", HK0, None), 0, {"ip": 0, "port": 0, "ip_type": 0}),
            (Change("register", ALICE, 9), 9, {"hotkey": ALICE, "registered": "now", "permit": False, "total": 0}),
            (Change("register", ALICE), 2, {"hotkey": ALICE, "registered": "now"}),
            (Change("empty", HK2), 2, {"hotkey": IDENTITY}),
        ],
    )
    async def test_a_change_shows_from_its_block_on_in_both_ways(
        self, server: ReplayServer, clock: Clock, change: Change, uid: int, shown: dict[str, Any]
    ) -> None:
        block = server.chain.change(change)
        assert block == server.chain.head + 1
        clock.blocks(10)
        before, graph, maps = await reading(
            server, lambda s: (by_call(s, block - 1), by_call(s, block), by_maps(s, block))
        )

        axon = graph["axons"][uid]
        found = {
            "hotkey": graph["hotkeys"][uid],
            "permit": graph["validator_permit"][uid],
            "alpha": graph["alpha_stake"][uid],
            "tao": graph["tao_stake"][uid],
            "total": graph["total_stake"][uid],
            "registered": graph["block_at_registration"][uid],
            **{name: axon[name] for name in ("ip", "port", "ip_type")},
        }
        for name, value in shown.items():
            expected = {"hotkey": ss58_encode(value) if name == "hotkey" else None, "registered": block}.get(
                name, value
            )
            assert found[name] == expected
        assert before["hotkeys"] == load("synthetic_netuid64_spec461")["expect"]["hotkeys"]
        assert graph != before

        for name in ("hotkeys", "validator_permit"):
            assert graph[name] == maps[name]
        assert maps["registered"] == graph["block_at_registration"]
        assert maps["alpha"] == [
            0 if key == ss58_encode(IDENTITY) else a
            for key, a in zip(maps["hotkeys"], graph["alpha_stake"], strict=True)
        ]
        assert [axon["ip"] if axon else 0 for axon in maps["axons"]] == [axon["ip"] for axon in graph["axons"]]

    def test_who_deregisters_leaves_the_slot_to_a_newcomer(self, clock: Clock) -> None:
        chain = Chain(made_up(), clock=clock)
        block = chain.change(Change("deregister", HK2))
        neuron = chain.state_at(block).neurons[2]
        assert neuron.hotkey not in {HK2, IDENTITY}
        assert neuron.registered == block
        clock.blocks(1)
        back = chain.change(Change("register", HK2, 2))
        assert back > block
        assert chain.state_at(back).neurons[2].registered == back
        assert chain.state_at(block - 1) is made_up().state

    def test_weights_are_shares_of_the_permitted_stake(self, clock: Clock) -> None:
        chain = Chain(made_up(), clock=clock)
        before = chain.state_at(chain.head).weights
        assert before[:3] == (1000, 999, 0)
        block = chain.change(Change("axon", HK2, "192.0.2.1:80"))
        assert chain.state_at(block).weights == before
        richest = made_up_hotkey(216).public_key
        others = sum(neuron.total for neuron in made_up().state.neurons if neuron.permit and neuron.hotkey != richest)
        weights = chain.state_at(chain.change(Change("stake", richest, others))).weights
        assert weights[216] == 65_535 // 2
        assert 65_000 < sum(weights) <= 65_535
        assert weights[2] == 0

    @pytest.mark.parametrize(
        "change",
        [
            Change("permit", ALICE, value=True),
            Change("register", HK0),
            Change("register", ALICE, 256),
            Change("stake", HK0, -1),
            Change("axon", HK0, "nowhere"),
            Change("permit", HK0),
            Change("move", HK0),
        ],
    )
    def test_what_a_chain_would_refuse_is_refused(self, clock: Clock, change: Change) -> None:
        chain = Chain(made_up(), clock=clock)
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own text
            chain.change(change)
        assert chain.state_at(chain.head + 1) is made_up().state

    def test_changes_go_forward_only(self, clock: Clock) -> None:
        chain = Chain(made_up(), clock=clock)
        chain.change(Change("permit", HK0, value=False), 7_000_050)
        with pytest.raises(ValueError, match="before the last change"):
            chain.change(Change("permit", HK0, value=True), 7_000_049)
        chain.change(Change("permit", HK2, value=True), 7_000_050)
        permits = [neuron.permit for neuron in chain.state_at(7_000_050).neurons[:3]]
        assert permits == [False, True, True]
        assert chain.state_at(7_000_049).neurons[0].permit


class TestRuntimes:
    """A runtime holds from its block on; what its calls answer can be told apart, or cannot be read at all."""

    async def test_an_upgrade_between_two_calls(self, clock: Clock) -> None:
        chain = Chain(made_up(), spec=343, clock=clock)
        at = chain.upgrade(461)
        clock.blocks(10)

        def specs(substrate: SubstrateInterface) -> list[int]:
            found = []
            for block in (at - 1, at, at + 1):
                substrate.init_runtime(block_hash=substrate.get_block_hash(block))
                found.append(substrate.runtime_version)
            return found

        async with ReplayServer(chain) as server:
            # The upgrade's own block is still executed by the old runtime.
            assert await reading(server, specs) == [343, 343, 461]
            # A call runs the code that is in the block's state: in the upgrade's own block, the new one.
            assert (await reading(server, lambda s: by_call(s, at - 1), 343))["num_uids"] == 256
            assert (await reading(server, lambda s: by_call(s, at), 461))["num_uids"] == 256

    async def test_an_unknown_runtime_may_have_a_known_layout(self, clock: Clock) -> None:
        chain = Chain(made_up(), spec=462, clock=clock)
        async with ReplayServer(chain) as server:
            assert (await reading(server, lambda s: by_call(s, chain.finalized)))["num_uids"] == 256
            assert (
                await reading(server, lambda s: s.rpc_request("state_getRuntimeVersion", [])["result"]["specVersion"])
                == 462
            )

    @pytest.mark.parametrize("spec", [343, 461])
    def test_an_unknown_layout_decodes_to_nothing_that_holds_together(self, spec: int) -> None:
        subnet = made_up()
        answer = metagraph(subnet, subnet.state, RUNTIMES[999], FIELDS, subnet.start_block)
        codec = types(RUNTIMES[spec]).create_scale_object("Option<SelectiveMetagraph>", ScaleBytes(answer))
        with pytest.raises((RemainingScaleBytesNotEmptyException, ValueError, NotImplementedError)):
            codec.decode(check_remaining=True)

    async def test_storage_of_an_unknown_layout_can_be_read(self, clock: Clock) -> None:
        chain = Chain(made_up(), spec=999, clock=clock)
        async with ReplayServer(chain) as server:
            maps = await reading(server, lambda s: by_maps(s, chain.finalized))
        assert maps["hotkeys"] == load("synthetic_netuid64_spec461")["expect"]["hotkeys"]

    def test_both_layouts_name_the_recipes_fields_alike(self) -> None:
        names = [[field_names(RUNTIMES[spec])[index] for index in FIELDS] for spec in (343, 461)]
        assert names[0] == names[1]
        assert [len(field_names(RUNTIMES[spec])) for spec in (343, 461)] == [74, 77]


def head(substrate: SubstrateInterface) -> Any:
    return substrate.get_chain_finalised_head()


class TestFaults:
    """Each fault meets the calls that it is for, so many times, and shows as readers meet it in the field."""

    @pytest.mark.parametrize(
        ("kind", "shown"),
        [
            ("timeout", WebSocketTimeoutException),
            ("half_open", WebSocketTimeoutException),
            ("wrong_id", WebSocketTimeoutException),
            ("garbage", json.JSONDecodeError),
            ("reset", (json.JSONDecodeError, WebSocketConnectionClosedException, ConnectionResetError)),
            ("error", SubstrateRequestException),
            ("pruned", SubstrateRequestException),
        ],
    )
    async def test_a_fault_meets_one_call_and_the_next_connection_is_well(
        self, server: ReplayServer, kind: Any, shown: type[Exception]
    ) -> None:
        server.faults.add(kind, "chain_getFinalizedHead", times=1)
        with pytest.raises(shown):
            await reading(server, head, timeout_s=FAULT_TIMEOUT_S)
        assert await reading(server, head) == server.chain.hash_of(server.chain.finalized)
        assert server.calls["chain_getFinalizedHead"] == 2
        assert server.calls["connect"] == 2

    async def test_a_slow_answer_comes_late(self, server: ReplayServer) -> None:
        server.faults.add("slow", "chain_getFinalizedHead", seconds=0.3)
        begin = time.monotonic()
        assert await reading(server, head)
        assert time.monotonic() - begin >= 0.3

    async def test_a_huge_answer_is_as_large_as_asked_for(self, server: ReplayServer) -> None:
        server.faults.add("huge", "chain_getFinalizedHead", size_bytes=1_000_000)
        assert len(await reading(server, head)) == 1_000_002

    async def test_a_result_of_the_tests_own(self, server: ReplayServer) -> None:
        server.faults.add("result", "chain_getFinalizedHead", value=[None])
        assert await reading(server, head) == [None]

    async def test_something_happens_between_two_calls(self, server: ReplayServer) -> None:
        chain = server.chain
        server.faults.add("run", "chain_getFinalizedHead", times=1, action=lambda: chain.go_back(10))
        found = await reading(server, lambda s: [s.get_chain_head(), head(s)])
        assert [chain.number_of(block_hash) for block_hash in found] == [None, 7_000_087]

    async def test_calls_pass_before_the_fault(self, server: ReplayServer) -> None:
        server.faults.add("error", "chain_getFinalizedHead", after=2, message="too many requests")
        with pytest.raises(SubstrateRequestException, match="too many requests"):
            await reading(server, lambda s: [head(s) for _ in range(3)])
        assert server.calls["chain_getFinalizedHead"] == 3

    @pytest.mark.parametrize("kind", ["reset", "timeout", "error"])
    async def test_a_connection_is_not_opened(self, server: ReplayServer, kind: Any) -> None:
        server.faults.add(kind, "connect", times=1)
        with pytest.raises(Exception):  # noqa: B017, PT011 - one of websocket-client's many
            await reading(server, head, timeout_s=FAULT_TIMEOUT_S)
        assert await reading(server, head)

    async def test_a_node_that_is_down_refuses_and_comes_back_at_the_same_address(self, server: ReplayServer) -> None:
        await server.stop()
        with pytest.raises(ConnectionRefusedError):
            await reading(server, head)
        await server.start()
        assert await reading(server, head)

    async def test_a_lie_about_the_genesis(self, server: ReplayServer) -> None:
        genesis = await reading(server, lambda s: s.get_block_hash(0))
        server.chain.genesis_hash = "ab" * 32
        assert await reading(server, lambda s: s.get_block_hash(0)) == "0x" + "ab" * 32 != genesis

    def test_what_is_no_fault_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no fault 'earthquake'"):
            Fault("earthquake")  # type: ignore[arg-type]


class TestControl:
    """Another process changes the chain through a route on the same port."""

    async def order(self, server: ReplayServer, **fields: Any) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session, session.post(server.control_url, json=fields) as answer:
            return answer.status, await answer.json()

    async def test_orders(self, server: ReplayServer) -> None:
        seen: list[Any] = []
        server.changed = seen.append
        alice = {"kind": "register", "hotkey": ss58_encode(ALICE)}
        status, answer = await self.order(server, do="change", **alice)
        assert (status, answer["block"]) == (200, 7_000_101)
        assert (await self.order(server, do="upgrade", spec=999))[1]["block"] == 7_000_101
        assert seen == [
            {"do": "change", **alice, "block": 7_000_101},
            {"do": "upgrade", "spec": 999, "block": 7_000_101},
        ]
        assert (await self.order(server, do="stand"))[0] == 200
        assert (await self.order(server, do="go_back", blocks=7))[1]["head"] == 7_000_093
        assert (await self.order(server, do="go_on"))[0] == 200
        await self.order(server, do="fault", kind="error", method="chain_getFinalizedHead", message="busy")
        with pytest.raises(SubstrateRequestException, match="busy"):
            await reading(server, head)
        await self.order(server, do="clear")
        assert await reading(server, head)
        async with aiohttp.ClientSession() as session, session.get(server.control_url) as shown:
            assert (await shown.json())["calls"]["chain_getFinalizedHead"] == 2

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"do": "dance"},
            {"do": "change", "kind": "permit"},
            {"do": "change", "kind": "permit", "hotkey": "5", "value": True},
            {"do": "change", "kind": "empty", "hotkey": ss58_encode(HK0), "colour": "red"},
            {"do": "upgrade", "spec": 1},
            {"do": "fault", "kind": "earthquake"},
            {"do": "fault", "kind": "error", "colour": "red"},
        ],
    )
    async def test_what_cannot_be_done_is_refused(self, server: ReplayServer, fields: dict[str, Any]) -> None:
        status, answer = await self.order(server, **fields)
        assert status == 400
        assert answer["detail"]


class TestProgram:
    """``python -m tests.replay`` keeps a chain for other processes, and goes on where it stopped."""

    async def test_a_journal_keeps_the_start_and_the_changes(self, tmp_path: Path) -> None:
        alice, axon = ss58_encode(ALICE), f"{ss58_encode(HK0)}=127.0.0.1:8100"
        arguments = ("--block-s", "0.05", "--journal", str(tmp_path / "journal"))
        setup = ("--register", alice, "--axon", axon)
        heads, times, changed = [], [], 0
        for turn in range(2):
            async with running(*arguments, *setup) as where, aiohttp.ClientSession() as session:

                def read(url: str = where["url"]) -> Any:
                    with connect(url) as substrate:
                        return at_head(substrate)

                def at_head(substrate: SubstrateInterface) -> Any:
                    block_hash = head(substrate)
                    block = substrate.get_block_number(block_hash)
                    now = substrate.query("Timestamp", "Now", block_hash=block_hash).value
                    return block, now, by_call(substrate, block)

                if turn == 0:
                    order = {"do": "change", "kind": "permit", "hotkey": ss58_encode(HK0), "value": False}
                    async with session.post(where["control"], json=order) as answer:
                        changed = (await answer.json())["block"]
                async with asyncio.timeout(30):
                    while True:
                        block, now, graph = await asyncio.to_thread(read)
                        if block >= changed:
                            break
                heads.append(block)
                times.append(now)
                assert alice in graph["hotkeys"]
                assert graph["axons"][0]["port"] == 8100
                assert not graph["validator_permit"][0]
        assert heads[1] > heads[0]
        assert times[1] - times[0] == (heads[1] - heads[0]) * 50

    async def test_what_cannot_be_started_is_one_line(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            for arguments in (["--port", port], ["--register", ss58_encode(HK0)]):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.replay", *arguments, stderr=asyncio.subprocess.PIPE
                )
                _, errors = await process.communicate()
                assert process.returncode == 1
                assert errors.decode().startswith("tests.replay: error: ")
                assert errors.count(b"\n") == 1


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[dict[str, str]]:
    """The program; what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.replay", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())
    finally:
        process.terminate()
        assert await process.wait() == 0
