"""What a node says becomes a pin, in either way of reading, in every runtime, or a reason in one line."""

import asyncio
import socket
import ssl
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, Final, TypeVar

import pytest
import websocket
from scalecodec.base import RuntimeConfigurationObject, ScaleBytes
from scalecodec.type_registry import load_type_registry_preset
from substrateinterface import SubstrateInterface
from substrateinterface.exceptions import SubstrateRequestException

from p2pnodes.chain import substrate
from p2pnodes.chain.reading import Method, Pins
from p2pnodes.chain.runtime_types import NEWEST_SPEC, is_known, metagraph_type, type_registry
from p2pnodes.chain.substrate import Endpoint, EndpointError, UndecodableError, reason
from p2pnodes.model.electorate import Pin
from p2pnodes.model.errors import REASON_CHARS_MAX
from p2pnodes.model.keys import IDENTITY
from tests.replay.chain import GENESIS_HASH, Chain, Clock
from tests.replay.encode import metagraph
from tests.replay.recorded import FINNEY, RUNTIMES, load
from tests.replay.rpc import METAGRAPH
from tests.replay.server import ReplayServer
from tests.replay.subnets import Axon, Change, State, Subnet, finney, made_up, made_up_hotkey

T = TypeVar("T")

GENESIS: Final = bytes.fromhex(GENESIS_HASH)
PINNED: Final = 7_000_000
MADE_UP: Final = load("synthetic_netuid64_spec461")["expect"]
URL: Final = "wss://user:pass@node.example:443/v1/token?key=secret"


PERMITS: Final = [uid for uid, permit in enumerate(MADE_UP["validator_permit"]) if permit]


@cache
def _decoded(metadata: str) -> Any:
    decoder = RuntimeConfigurationObject()
    decoder.update_type_registry(load_type_registry_preset("core"))
    decoded = decoder.create_scale_object("MetadataVersioned", ScaleBytes(metadata))
    decoded.decode()
    decoder.add_portable_registry(decoded)
    return decoded


@pytest.fixture(autouse=True)
def _metadata_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save each test a second of CPU; in tests/chain/test_process.py the library decodes for itself."""
    ask_for = SubstrateInterface.get_block_metadata

    def get(self: Any, block_hash: str, *, decode: bool) -> Any:
        assert decode
        return _decoded(ask_for(self, block_hash, decode=False)["result"])

    monkeypatch.setattr(SubstrateInterface, "get_block_metadata", get)


def chain(subnet: Subnet | None = None, spec: int = 461, **options: Any) -> Chain:
    return Chain(subnet or made_up(), spec=spec, clock=Clock(), **options)


async def ask(of: Chain | ReplayServer, question: Callable[[Endpoint], T]) -> T:
    """Connect to a node, ask, and disconnect, in a thread: the library is synchronous."""

    def asked(url: str) -> T:
        endpoint = Endpoint(url, GENESIS)
        try:
            return question(endpoint)
        finally:
            endpoint.close()

    if isinstance(of, ReplayServer):
        return await asyncio.to_thread(asked, of.url)
    async with ReplayServer(of) as server:
        return await asyncio.to_thread(asked, server.url)


async def read(of: Chain | ReplayServer, *blocks: int, method: Method | None = None, netuid: int = 64) -> Pins:
    return await ask(of, lambda endpoint: endpoint.pins(netuid, blocks or (PINNED,), method))


def codec() -> RuntimeConfigurationObject:
    found = RuntimeConfigurationObject()
    found.update_type_registry(load_type_registry_preset("core"))
    found.update_type_registry(type_registry())
    return found


def people(pin: Pin) -> Any:
    return set(pin.validators), pin.registered, pin.addresses


class TestTypes:
    """The layouts are those of the runtimes' own metadata."""

    @pytest.mark.parametrize("spec", [343, 461])
    def test_every_field_is_as_the_metadata_says(self, spec: int) -> None:
        ours, theirs = type_registry()["types"], load("runtime_api_types_343_461")[str(spec)]
        names = {
            f"Metagraph{spec}": "SelectiveMetagraph",
            "MetagraphAxon": "AxonInfo",
            "MetagraphSubnetIdentity": "SubnetIdentityV3",
            "MetagraphChainIdentity": "ChainIdentityV2",
        }
        plain = {their: our for our, their in names.items()} | {"AccountId32": "[u8; 32]"}
        for our, their in names.items():
            expected = [[name, _renamed(kind, plain)] for name, kind in theirs[their]]
            assert ours[our]["type_mapping"] == expected

    def test_an_unknown_runtime_is_tried_with_the_newest_layout(self) -> None:
        assert not is_known(999)
        assert metagraph_type(999) == metagraph_type(NEWEST_SPEC)


def _renamed(kind: str, names: dict[str, str]) -> str:
    for their, our in names.items():
        kind = kind.replace(their, our)
    return kind


class TestRecordedNeurons:
    """The neurons of finney's netuid 1 are what was recorded there."""

    def test_two_recorded_calls_of_one_block_agree(self) -> None:
        found = codec()
        graph = found.create_scale_object(
            "Option<Metagraph343>", ScaleBytes(load(f"{FINNEY}SubnetInfoRuntimeApi_get_selective_mechagraph")["result"])
        ).decode(check_remaining=True)
        theirs = load("runtime_api_types_343_461")["343"]
        names = {"AxonInfo": "MetagraphAxon", "AccountId32": "[u8; 32]"}
        structs = {
            name: {"type": "struct", "type_mapping": [[field, _renamed(kind, names)] for field, kind in theirs[name]]}
            for name in ("NeuronInfoLite", "PrometheusInfo")
        }
        found.update_type_registry({"types": structs})
        neurons = found.create_scale_object(
            "Vec<NeuronInfoLite>", ScaleBytes(load(f"{FINNEY}NeuronInfoRuntimeApi_get_neurons_lite")["result"])
        ).decode(check_remaining=True)
        assert (graph["netuid"], graph["block"], graph["num_uids"], len(neurons)) == (1, 6_852_690, 1024, 1024)
        assert [neuron["uid"] for neuron in neurons] == list(range(1024))
        columns = {
            "hotkeys": "hotkey",
            "coldkeys": "coldkey",
            "axons": "axon_info",
            "validator_permit": "validator_permit",
        }
        for column, field in columns.items():
            assert graph[column] == [neuron[field] for neuron in neurons]
        assert [uid for uid, permit in enumerate(graph["validator_permit"]) if permit] == sorted(graph["validators"])
        own_alpha = [sum(stake for _, stake in neuron["stake"]) for neuron in neurons]
        assert sum(map(int.__eq__, own_alpha, graph["alpha_stake"])) == 1013
        # What a hotkey's owner staked is not what it weighs: others' stake and tao count too.
        assert (own_alpha[502] // 10**9, graph["total_stake"][502] // 10**9) == (28_069, 347_176)

    async def test_all_1024_become_a_pin_in_both_ways(self) -> None:
        subnet = finney()
        block = subnet.start_block
        by_call, by_maps = await ask(
            Chain(subnet, spec=343, clock=Clock()),
            lambda endpoint: (endpoint.pins(1, [block], None), endpoint.pins(1, [block], Method.MAPS)),
        )
        assert (by_call.method, by_call.spec, by_maps.method) == (Method.METAGRAPH, 343, Method.MAPS)
        pin = by_call.pins[0]
        assert (len(pin.registered), len(pin.validators)) == (1024, 12)
        assert pin.validators == {n.hotkey: n.total for n in subnet.state.neurons if n.permit}
        assert pin.registered == {n.hotkey: n.registered for n in subnet.state.neurons}
        assert people(pin) == people(by_maps.pins[0])


class TestBothWays:
    """The runtime call and the storage maps name the same people; only the unit of their stakes differs."""

    @pytest.mark.parametrize("spec", [343, 461])
    async def test_both_ways_name_the_same_people_at_both_pins(self, spec: int) -> None:
        of = chain(spec=spec)
        of.change(Change("permit", made_up_hotkey(PERMITS[3]).public_key, value=False), PINNED - 50)
        of.change(Change("register", made_up_hotkey(1000).public_key, 200), PINNED - 50)
        blocks = (PINNED, PINNED - 100)
        by_call, by_maps = await ask(
            of, lambda endpoint: (endpoint.pins(64, blocks, None), endpoint.pins(64, blocks, Method.MAPS))
        )
        assert by_call.method is Method.METAGRAPH
        assert [people(pin) for pin in by_call.pins] == [people(pin) for pin in by_maps.pins]
        assert [(pin.block, pin.time_ms) for pin in by_call.pins] == [(b, of.time_ms(b)) for b in blocks]
        now, before = by_call.pins
        assert set(before.validators) - set(now.validators) == {made_up_hotkey(PERMITS[3]).public_key}
        assert now.registered[made_up_hotkey(1000).public_key] == PINNED - 50
        assert made_up_hotkey(200).public_key not in now.registered
        assert before.registered[made_up_hotkey(200).public_key] == 6_900_200

    async def test_stakes_are_those_of_the_recorded_answer(self) -> None:
        by_call, by_maps = await ask(
            chain(), lambda endpoint: (endpoint.pins(64, [PINNED], None), endpoint.pins(64, [PINNED], Method.MAPS))
        )
        stakes = [by_call.pins[0].validators[made_up_hotkey(uid).public_key] for uid in PERMITS]
        assert stakes == [MADE_UP["total_stake"][uid] for uid in PERMITS]
        shares = [by_maps.pins[0].validators[made_up_hotkey(uid).public_key] for uid in PERMITS]
        assert shares == [1000 - uid for uid in PERMITS]


class TestRuntimes:
    """A runtime that nobody knew when this was built is read as far as it can be trusted, or from its storage."""

    async def test_an_unknown_runtime_with_the_newest_layout_is_read_by_the_call(self) -> None:
        found = await read(chain(spec=462))
        assert (found.spec, found.method) == (462, Method.METAGRAPH)

    async def test_an_unknown_layout_falls_back_to_the_maps(self) -> None:
        async with ReplayServer(chain(spec=999)) as server:
            found = await read(server, PINNED, PINNED - 100)
            assert (found.spec, found.method, len(found.pins)) == (999, Method.MAPS, 2)
            with pytest.raises(UndecodableError, match="does not decode at block 7000000, spec 999"):
                await read(server, method=Method.METAGRAPH)

    async def test_a_layout_that_decodes_to_other_people_is_not_believed_in_an_unknown_runtime(self) -> None:
        of = chain(spec=462)
        neurons = of.subnet.state.neurons
        swapped = State(tuple(n._replace(registered=n.registered - 1) for n in neurons))  # as another column would be
        fields = (7, 8, 29, 30, 52, 53, 55, 57, 66, 67, 68, 69)
        answer = metagraph(of.subnet, swapped, RUNTIMES[462], fields, PINNED)
        async with ReplayServer(of) as server:
            server.faults.add("result", "state_call", value=answer)
            found = await read(server)
        assert found.method is Method.MAPS
        assert found.pins[0].registered == {n.hotkey: n.registered for n in neurons}

    async def test_a_runtime_without_the_call_falls_back_to_the_maps(self) -> None:
        async with ReplayServer(chain()) as server:
            message = f"Client error: Execution failed: Other: Exported method {METAGRAPH} is not found"
            server.faults.add("error", "state_call", message=message)
            assert (await read(server)).method is Method.MAPS

    async def test_an_endpoint_that_refuses_the_call_is_not_read_otherwise(self) -> None:
        async with ReplayServer(chain()) as server:
            server.faults.add("error", "state_call", message="busy")
            with pytest.raises(SubstrateRequestException, match="busy"):
                await read(server)

    async def test_both_pins_are_read_in_one_way_when_only_one_decodes(self) -> None:
        of = chain(spec=343)
        of.upgrade(999, PINNED - 50)
        found = await read(of, PINNED, PINNED - 100)
        assert (found.method, found.spec) == (Method.MAPS, 999)
        assert max(found.pins[1].validators.values()) <= 65_535

    @pytest.mark.parametrize("at", [PINNED - 50, PINNED - 1, PINNED, PINNED - 100])
    async def test_an_upgrade_between_or_in_the_pins_is_read_with_the_layout_of_each(self, at: int) -> None:
        of = chain(spec=343)
        of.upgrade(461, at)
        found = await read(of, PINNED, PINNED - 100)
        assert (found.method, found.spec) == (Method.METAGRAPH, 461)
        assert [len(pin.registered) for pin in found.pins] == [256, 256]

    async def test_an_upgrade_of_the_head_between_two_calls_changes_nothing(self) -> None:
        of = chain(spec=343)
        async with ReplayServer(of) as server:
            server.faults.add("run", "state_call", times=1, action=lambda: of.upgrade(461))
            found = await read(server, PINNED, PINNED - 100)
            assert server.calls["state_getMetadata"] == 1
        assert (found.method, found.spec) == (Method.METAGRAPH, 343)


class TestNeurons:
    """What neurons may say of themselves harms nobody; what the chain cannot say is refused."""

    @pytest.mark.parametrize(
        ("axon", "expected"),
        [
            (Axon(0x0A000001, 8000), "http://10.0.0.1:8000"),
            (Axon(0x20010DB8 << 96 | 1, 8000, ip_type=6), "http://[2001:db8::1]:8000"),
            (Axon(0, 8000), ""),
            (Axon(0x0A000001, 0), ""),
            (Axon(2**40, 8000), ""),
            (Axon(0x0A000001, 8000, ip_type=7), ""),
            (None, ""),
        ],
    )
    def test_an_axon_is_an_address_or_none(self, axon: Axon | None, expected: str) -> None:
        assert substrate._address(axon and axon.fields()) == expected

    async def test_addresses_are_those_of_validators(self) -> None:
        of = chain(made_up(300))  # miners above the 256th announce axons too
        of.change(Change("axon", made_up_hotkey(PERMITS[1]).public_key, "[2001:db8::1]:9"), PINNED)
        of.change(Change("axon", made_up_hotkey(PERMITS[2]).public_key), PINNED)
        by_call, by_maps = await ask(
            of, lambda endpoint: (endpoint.pins(64, [PINNED], None), endpoint.pins(64, [PINNED], Method.MAPS))
        )
        assert people(by_call.pins[0]) == people(by_maps.pins[0])
        addresses = by_call.pins[0].addresses
        assert len(addresses) == 63
        assert addresses[made_up_hotkey(PERMITS[1]).public_key] == "http://[2001:db8::1]:9"
        assert addresses[made_up_hotkey(0).public_key] == "http://127.0.0.1:9000"

    async def test_a_slot_without_a_hotkey_is_left_out(self) -> None:
        of = chain()
        of.change(Change("empty", made_up_hotkey(5).public_key), PINNED)
        by_call, by_maps = await ask(
            of, lambda endpoint: (endpoint.pins(64, [PINNED], None), endpoint.pins(64, [PINNED], Method.MAPS))
        )
        assert people(by_call.pins[0]) == people(by_maps.pins[0])
        assert len(by_call.pins[0].registered) == 255
        assert IDENTITY not in by_call.pins[0].registered

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"hotkey": made_up_hotkey(7).public_key}, "has two slots at block 7000000"),
            ({"registered": PINNED + 1}, "a registration's block: found 7000001, expected an integer in 0..7000000"),
        ],
    )
    async def test_what_the_chain_cannot_say_is_refused_in_both_ways(self, wrong: dict[str, Any], message: str) -> None:
        state = made_up().state
        subnet = replace(made_up(), state=state.with_neuron(200, state.neurons[200]._replace(**wrong)), calls={})
        async with ReplayServer(chain(subnet)) as server:
            for method in Method:
                with pytest.raises(EndpointError, match=message):
                    await read(server, method=method)

    async def test_an_unknown_netuid_is_refused(self) -> None:
        with pytest.raises(EndpointError, match="netuid 7 has 0 neurons at block 7000000, expected 1 to 4096"):
            await read(chain(), netuid=7)

    async def test_a_subnet_beyond_the_bound_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(substrate, "UIDS_MAX", 255)
        with pytest.raises(EndpointError, match="netuid 64 has 256 neurons"):
            await read(chain())


class TestContradictions:
    """A decoded answer must fit the block that was asked for, and itself."""

    BLOCK: Final = substrate._Block(PINNED, "0x", 1, 2)
    GOOD: Final = {
        "netuid": 64,
        "block": PINNED,
        "num_uids": 2,
        "hotkeys": ["0x" + "11" * 32, "0x" + "22" * 32],
        "coldkeys": ["0x" + "33" * 32] * 2,
        "axons": [None, None],
        "validator_permit": [True, False],
        "block_at_registration": [1, 2],
        "alpha_stake": [5, 0],
        "tao_stake": [5, 0],
        "total_stake": [6, 0],
    }

    def test_a_good_answer_gives_its_neurons(self) -> None:
        first, second = substrate._of_metagraph(self.GOOD, 64, self.BLOCK)
        assert first == (b"\x11" * 32, True, 6, 1, None)
        assert second == (b"\x22" * 32, False, 0, 2, None)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"netuid": 65}, "it says netuid 65, not 64"),
            ({"block": PINNED + 1}, "it says block 7000001, not 7000000"),
            ({"num_uids": 3}, "it says num_uids 3, not 2"),
            ({"hotkeys": ["0x" + "11" * 32]}, "1 hotkeys of 2 neurons"),
            ({"coldkeys": []}, "0 coldkeys of 2 neurons"),
            ({"alpha_stake": [7, 0]}, "a total stake is below its part in alpha"),
            ({"hotkeys": ["0x11", "0x" + "22" * 32]}, "found an account of 1 bytes, expected 32"),
        ],
    )
    def test_a_contradiction_is_refused(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(EndpointError, match=message):
            substrate._of_metagraph({**self.GOOD, **changes}, 64, self.BLOCK)

    def test_no_subnet_is_refused(self) -> None:
        with pytest.raises(EndpointError, match="no netuid 64"):
            substrate._of_metagraph(None, 64, self.BLOCK)

    @pytest.mark.parametrize("value", [-1, 2**63, True, "7", None])
    def test_a_number_out_of_bounds_is_refused(self, value: Any) -> None:
        neuron = substrate._Neuron(b"\x11" * 32, permit=True, stake=value, registered=1, axon=None)
        with pytest.raises(EndpointError, match="a stake: found"):
            substrate._pin(self.BLOCK, [neuron])


class TestHeads:
    """How far an endpoint is costs a few calls, and no metadata."""

    async def test_heads_are_read_without_metadata(self) -> None:
        of = chain()
        async with ReplayServer(of) as server:
            heads = await ask(server, lambda endpoint: endpoint.heads())
            assert server.calls["state_getMetadata"] == 0
        assert (heads.finalized, heads.finalized_ms, heads.head_ms) == (
            of.finalized,
            of.time_ms(of.finalized),
            of.time_ms(of.head),
        )

    async def test_another_chain_is_refused_before_anything_is_asked(self) -> None:
        of = chain(genesis_hash="ab" * 32)
        async with ReplayServer(of) as server:
            with pytest.raises(EndpointError, match=f"another chain: its block 0 is {'ab' * 32}, expected {'00' * 32}"):
                await ask(server, lambda endpoint: endpoint.heads())
            assert server.calls.keys() == {"connect", "chain_getBlockHash"}

    @pytest.mark.parametrize("fault", ["timeout", "half_open"])
    async def test_an_endpoint_that_does_not_answer_is_left(self, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(substrate, "ANSWER_S_MAX", 0.2)
        async with ReplayServer(chain()) as server:
            server.faults.add(fault, "chain_getHead")
            with pytest.raises(websocket.WebSocketTimeoutException) as caught:
                await ask(server, lambda endpoint: endpoint.heads())
        assert reason(caught.value, URL) == "no answer within 0.2 s"

    async def test_a_block_that_is_not_there_yet_is_refused(self) -> None:
        with pytest.raises(EndpointError, match="it has no block 7000200"):
            await read(chain(), 7_000_200)

    async def test_an_answer_about_another_block_is_refused(self) -> None:
        of = chain()
        async with ReplayServer(of) as server:
            server.faults.add("result", "chain_getBlockHash", after=1, value=of.hash_of(PINNED - 1))
            with pytest.raises(EndpointError, match="asked for block 7000000, answered with block 6999999"):
                await read(server)


class TestCredentials:
    """The endpoint that a URL names is told its user name and password, and nobody else is."""

    @pytest.mark.parametrize(
        ("user", "expected"),
        [
            ("", None),
            ("user:pass@", b"user:pass"),
            ("token@", b"token:"),
            (":pass@", b":pass"),
            ("us%40er:p%3Aa%2Fss%0d%0a@", b"us@er:p:a/ss\r\n"),
        ],
    )
    async def test_a_user_name_and_a_password_are_sent(self, user: str, expected: bytes | None) -> None:
        asked: list[bytes] = []

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(websocket.WebSocketBadStatusException):
                await asyncio.to_thread(Endpoint, f"ws://{user}127.0.0.1:{port}/v1", GENESIS)
        lines = asked[0].decode().split("\r\n")
        found = [line.removeprefix("Authorization: Basic ") for line in lines if line.startswith("Authorization")]
        assert [b64decode(line) for line in found] == ([] if expected is None else [expected])
        assert "@" not in asked[0].decode()

    @pytest.mark.parametrize("quoted", ["dXM6ZXI6cGE6c3M=", "us:er", "pa:ss", "us%3Aer", "pa%3Ass"])
    def test_what_was_sent_is_not_repeated(self, quoted: str) -> None:
        shown = reason(KeyError(f"who is {quoted}?"), "wss://us%3Aer:pa%3Ass@node.example/")
        assert "who is ***?" in shown


class TestReasons:
    """Whatever goes wrong is one line that fits a log and gives no credential away."""

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (EndpointError("it has no block 7"), "it has no block 7"),
            (MemoryError(), "sent more than the chain reader may hold"),
            (TimeoutError("timed out"), "no answer within 15 s"),
            (websocket.WebSocketTimeoutException("x"), "no answer within 15 s"),
            (ConnectionRefusedError(111, "Connection refused"), "cannot be reached: Connection refused"),
            (socket.gaierror(-2, "Name or service not known"), "cannot be reached: Name or service not known"),
            (websocket.WebSocketAddressException("no such name"), "cannot be reached: no such name"),
            (websocket.WebSocketProxyException("no"), "not a WebSocket endpoint: WebSocketProxyException: no"),
            (ConnectionResetError(104, "Connection reset by peer"), "closed the connection"),
            (ssl.SSLCertVerificationError(1, "certificate verify failed"), "TLS failed: "),
            (websocket.WebSocketConnectionClosedException("x"), "closed the connection"),
            (websocket.WebSocketBadStatusException("%s %s", 403, None, {"set-cookie": "c"}), "HTTP status 403"),
            (
                SubstrateRequestException({"code": 4003, "message": "State already discarded for 0x"}),
                "archive endpoint",
            ),
            (SubstrateRequestException({"code": -1, "message": "busy", "data": "later"}), "refused a call: busy later"),
            (SubstrateRequestException("plain"), "refused a call: plain"),
            (KeyError("result"), "answered with garbage: KeyError: 'result'"),
            (RecursionError("maximum recursion depth"), "answered with garbage: RecursionError"),
        ],
    )
    def test_each_failure_has_its_words(self, error: Exception, expected: str) -> None:
        assert expected in reason(error, URL)

    @pytest.mark.parametrize(
        "quoted", [URL, "user:pass", "/v1/token?key=secret", "user", "pass", "/v1/token", "key=secret"]
    )
    def test_credentials_of_the_url_are_not_repeated(self, quoted: str) -> None:
        shown = reason(KeyError(f"no such host {quoted}"), URL)
        assert not [secret for secret in ("user", "pass", "token", "secret") if secret in shown]
        assert "no such host" in shown

    def test_the_line_is_printable_and_bounded(self) -> None:
        shown = reason(SubstrateRequestException({"message": "a\x1b[2J\n" * 1000}), URL)
        assert shown.isprintable()
        assert len(shown) <= REASON_CHARS_MAX
