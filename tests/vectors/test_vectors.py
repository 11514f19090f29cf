"""The wire format, the ids and the roots cannot drift unseen: they are what tests/vectors/*.json say."""

import json
from hashlib import sha512
from typing import Any

import pytest
from nacl.bindings import crypto_core_ed25519_add, crypto_scalarmult_ed25519_base_noclamp

from p2pnodes.gossip import frames
from p2pnodes.model import codec
from p2pnodes.model.checkpoint import Certificate, believing, line_of
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import PAYLOADS, Event, LogId, Propose
from p2pnodes.model.keys import ss58_decode, verify_hotkey, verify_node
from p2pnodes.model.requests import Add, Delete, request_id, verify_request
from p2pnodes.store.checkpoints import kept_leaves
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.rebuild import finish_cut
from p2pnodes.store.schema import open_writer
from tests.support import NETWORK, NOW_MS
from tests.vectors.build import FOLDER, build, text_of

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())
    assert found
    return found


@pytest.fixture(scope="module")
def built() -> dict[str, str]:
    return {name: text_of(content) for name, content in build().items()}


class TestWriting:
    """The same inputs give the same bytes as they always did."""

    def test_every_file_is_made_and_none_is_left_over(self, built: dict[str, str]) -> None:
        assert sorted(built) == NAMES

    @pytest.mark.parametrize("name", NAMES)
    def test_what_comes_out_is_what_the_file_says(self, name: str, built: dict[str, str]) -> None:
        assert built[name] == (FOLDER / f"{name}.json").read_text()


class TestReading:
    """The bytes in the files mean what the files say, read without the code that wrote them."""

    @pytest.mark.parametrize("case", cases("events"), ids=lambda case: f"{case['number']}-{case['seq']}-{case['kind']}")
    def test_an_event_decodes_to_its_fields(self, case: dict[str, Any]) -> None:
        event = Event.decode(bytes.fromhex(case["wire"]))
        assert event.signed()
        assert event.id.hex() == case["id"]
        assert event.log == LogId(bytes.fromhex(case["node_key"]), case["number"])
        assert [event.version, event.network_id.hex(), event.seq, event.previous.hex(), event.hlc, event.kind] == [
            case[key] for key in ("version", "network_id", "seq", "previous", "hlc", "kind")
        ]
        payload = PAYLOADS[event.kind].from_wire(codec.unpack(event.payload))
        assert codec.pack(payload.to_wire()) == event.payload

    def test_there_is_an_event_of_every_kind(self) -> None:
        assert {case["kind"] for case in cases("events")} == PAYLOADS.keys()

    @pytest.mark.parametrize("case", cases("requests"), ids=lambda case: case["request_id"][:8])
    def test_a_request_holds_and_has_its_id(self, case: dict[str, Any]) -> None:
        hotkey, signature = ss58_decode(case["hotkey"]), bytes.fromhex(case["signature"])
        request = (
            Add(hotkey, case["nonce"], signature, case["body"].encode())
            if "body" in case
            else Delete(hotkey, case["nonce"], signature, case["purpose"])
        )
        assert verify_request(request)
        found = request_id(bytes.fromhex(case["network_id"]), request).hex()
        assert found == case["request_id"]
        if "task_id" in case:
            assert case["task_id"] == f"{case['hotkey']}::{found[:32]}"
            assert case["seed"] == int(found[32:48], 16) & (2**63 - 1)

    @pytest.mark.parametrize("case", cases("frames"), ids=lambda case: case["frame"])
    def test_a_frame_is_read_and_written_as_it_was(self, case: dict[str, Any]) -> None:
        frame = frames.decode(bytes.fromhex(case["wire"]))
        assert type(frame).__name__.lower() == case["frame"]
        assert frame.encode().hex() == case["wire"]

    def test_every_kept_signature_holds(self) -> None:
        for case in cases("signatures"):
            message, signature = bytes.fromhex(case["message"]), bytes.fromhex(case["signature"])
            assert verify_hotkey(ss58_decode(case["address"]), message, signature)

    def test_ed25519_is_checked_without_the_cofactor(self) -> None:
        """Two libraries that differ in this would split the network over a signature that one of them refuses."""
        group = 2**252 + 27742317777372353535851937790883648493
        secret, nonce = 7, 11
        key, commitment = (
            crypto_scalarmult_ed25519_base_noclamp(scalar.to_bytes(32, "little")) for scalar in (secret, nonce)
        )
        of_order_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
        for point, good in ((commitment, True), (crypto_core_ed25519_add(commitment, of_order_8), False)):
            challenge = int.from_bytes(sha512(point + key + b"p2pnodes").digest(), "little")
            response = (nonce + challenge * secret) % group
            assert verify_node(key, b"p2pnodes", point + response.to_bytes(32, "little")) is good

    @pytest.mark.parametrize("index", range(len(cases("inventories"))))
    def test_a_ledger_that_hears_the_events_shows_the_rows_and_roots(self, index: int) -> None:
        case = cases("inventories")[index]
        ledger = Ledger(open_writer(":memory:"), NETWORK)
        with ledger.transaction():
            ledger.set_electorate(Electorate(*(_pin(pin) for pin in case["electorate"])))
            ledger.receive([Event.decode(bytes.fromhex(wire)) for wire in case["events"]], NOW_MS)
        state = ledger.state
        assert state.electorate_digest.hex() == case["electorate_digest"]
        assert state.vector_digest.hex() == case["vector_digest"]
        assert state.state_root.hex() == case["state_root"]
        assert [(row.uuid, row.status, row.digest().hex()) for row in ledger.rows()] == [
            (row["uuid"], row["status"], row["digest"]) for row in case["rows"]
        ]

    @pytest.mark.parametrize("turned", [False, True], ids=["as written", "logs the other way round"])
    @pytest.mark.parametrize("index", range(len(cases("cuts"))))
    def test_a_ledger_that_hears_the_events_finds_the_live_set(self, index: int, turned: bool) -> None:
        """Also one that hears all events before the checkpoint that makes some of them void is in force."""
        case = cases("cuts")[index]
        events = [Event.decode(bytes.fromhex(wire)) for wire in case["events"]]
        if turned:
            events.sort(key=lambda event: event.log, reverse=True)
        proposal = Event.decode(bytes.fromhex(case["proposal"]))
        payload = Propose.from_wire(codec.unpack(proposal.payload))
        line, statement = line_of(NETWORK, proposal, payload), None
        ledger = Ledger(open_writer(":memory:"), NETWORK)
        with ledger.transaction():
            ledger.set_electorate(believing(line))  # one of the authors has lost its permit since
            ledger.receive(events, NOW_MS)
        if case["before"] is not None:
            self._put_in_force(ledger, bytes.fromhex(case["before"]))
        while statement is None:
            with ledger.transaction():
                statement = ledger.find_live_set(line)
        number, key, *rest, root = statement
        assert [number, key.hex(), *rest, root.hex()] == case["statement"]
        found = kept_leaves(ledger.facts.connection, number)
        assert [
            (leaf.log.node_key.hex(), leaf.seq, leaf.kind, sum(1 << item for item in leaf.items)) for leaf in found
        ] == [(leaf["node_key"], leaf["seq"], leaf["kind"], leaf["mask"]) for leaf in case["leaves"]]

    @staticmethod
    def _put_in_force(ledger: Ledger, certificate: bytes) -> None:
        before, _ = Certificate.decode(certificate)
        line, statement = line_of(NETWORK, before, Propose.from_wire(codec.unpack(before.payload))), None
        while statement is None:
            with ledger.transaction():
                statement = ledger.find_live_set(line)
        with ledger.transaction():
            ledger.checkpoints.take(certificate)
            ledger.enforce()
        finish_cut(ledger)


def _pin(said: dict[str, Any]) -> Pin:
    return Pin(
        said["block"],
        said["time_ms"],
        {bytes.fromhex(hotkey): stake for hotkey, stake in said["validators"].items()},
        {bytes.fromhex(hotkey): block for hotkey, block in said["registered"].items()},
        {},
    )
