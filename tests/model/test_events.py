"""Events: what is written decodes equal, every malformed field is refused, and a signature covers everything."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.model import codec, events, keys
from p2pnodes.model.clock import HLC_MAX, SECONDS_MAX
from p2pnodes.model.codec import MalformedError
from p2pnodes.model.errors import LocalProtocolError
from p2pnodes.model.events import (
    CARRIED_MAX,
    CLAIMS_PER_DELETE_MAX,
    EVENT_BYTES_MAX,
    GPUS_PER_EVENT_MAX,
    HEADER_BYTES_MAX,
    LEAVES_MAX,
    LOG_NUMBER_MAX,
    LOGS_PER_CUT_MAX,
    PAYLOAD_BYTES_MAX,
    PAYLOADS,
    PINS_BYTES_MAX,
    RENEWED_MAX,
    AddPayload,
    Carry,
    Checkpoint,
    Close,
    CutLog,
    Delegation,
    DeletePayload,
    Event,
    Evidence,
    Head,
    Header,
    LogId,
    Payload,
    Place,
    Propose,
    Release,
    Renew,
    Verdict,
    delegation_message,
    kind_of,
    known,
)
from p2pnodes.model.keys import Check, verify_node
from p2pnodes.model.protocol import PROTOCOL_VERSION
from p2pnodes.model.requests import BODY_BYTES_MAX, Add, Delete
from p2pnodes.model.validity import Prefix, judge
from tests.support import NETWORK, NOW_MS, Author, add, delete

KEY, SIGNATURE, ID = b"k" * 32, b"s" * 64, b"i" * 32
LOG = LogId(KEY, 7)
OLDER = CutLog(LOG, KEY, Head(3, ID), HLC_MAX, 0, SECONDS_MAX)

PAYLOAD_OF_EACH_KIND: tuple[Payload, ...] = (
    Delegation(KEY, "http://192.0.2.1", 0, SECONDS_MAX, None, SIGNATURE),
    Delegation(KEY, "", 1, 2, (LOG, Head(3, ID)), SIGNATURE),
    Delegation(KEY, "", 1, 2, (LOG, None), SIGNATURE),
    Close(LOG, Head(3, ID), KEY, SIGNATURE),
    Close(LOG, None, KEY, SIGNATURE),
    AddPayload(Add(KEY, "1764000000", SIGNATURE, b"{}"), 100),
    DeletePayload(Delete(KEY, "1764000000", SIGNATURE, "nodes"), "gpu", ()),
    DeletePayload(Delete(KEY, "1764000000", SIGNATURE, "nodes:gpu"), "gpu", (ID, ID)),
    Carry((b"one", b"two")),
    Verdict(ID, "verified", "graval", "", HLC_MAX),
    Verdict(ID, "failed", "graval", "no proof", None),
    Verdict(ID, "abstain", "none", "", None),
    Renew("graval", ((ID, 0),)),
    Renew("m" * 32, tuple((bytes([number]) * 32, HLC_MAX) for number in range(RENEWED_MAX))),
    Place(ID, ("gpu-1", "gpu-2"), "chute", "instance", True, True, "", "ann"),
    Place(ID, ("gpu-1",), "chute", "instance", False, False, None, None),
    Release(ID, ("gpu-1",)),
    Evidence(b"first", SIGNATURE, b"second", SIGNATURE),
    Propose(1, b"", b"pins", (OLDER,)),
    Propose(codec.INT_MAX, ID, bytes(PINS_BYTES_MAX), (OLDER, OLDER._replace(log=LogId(KEY, 8)))),
    Checkpoint(1, ID, 0, 0, ID),
    Checkpoint(codec.INT_MAX, ID, LEAVES_MAX, LEAVES_MAX, ID),
)


def header(**changes: Any) -> bytes:
    """A header with some fields changed."""
    fields: dict[str, Any] = {
        "version": 1, "network_id": NETWORK.id, "node_key": KEY, "number": 0, "seq": 0, "previous": b"", "hlc": 1,
        "kind": "add", "payload_hash": codec.digest(b""),
    }  # fmt: skip
    return codec.pack(list((fields | changes).values()))


class TestEnvelope:
    """The array of header, signature and payload."""

    @pytest.mark.parametrize("payload", PAYLOAD_OF_EACH_KIND, ids=kind_of)
    def test_what_is_written_decodes_equal(self, payload: Payload) -> None:
        author = Author("//validator0", number=3)
        first, second = (author.write(payload, at_ms=NOW_MS) for _ in range(2))
        for event in (first, second):
            assert Event.decode(event.wire) == event
            assert event.signed()
            assert PAYLOADS[event.kind].from_wire(codec.unpack(event.payload)) == payload
        assert (first.seq, first.previous) == (0, b"")
        assert (second.seq, second.previous) == (1, first.id)
        assert (second.log, second.network_id) == (author.log, NETWORK.id)

    def test_the_id_is_the_hash_of_the_signed_bytes(self) -> None:
        author = Author("//validator0")
        event = author.write(PAYLOAD_OF_EACH_KIND[0])
        assert event.id == codec.digest(event.header)
        assert verify_node(author.node_key.public_key, event.header, event.signature)
        assert Header.decode(event.header).payload_hash == codec.digest(event.payload)

    @given(data=st.data())
    def test_any_changed_byte_is_malformed_or_unsigned(self, data: st.DataObject) -> None:
        event = Author("//validator0").write(PAYLOAD_OF_EACH_KIND[9])
        changed = bytearray(event.wire)
        position = data.draw(st.integers(0, len(changed) - 1))
        changed[position] ^= data.draw(st.integers(1, 255))
        with suppress(MalformedError):
            assert not Event.decode(bytes(changed)).signed()

    @given(data=st.binary(max_size=400))
    def test_any_bytes_decode_or_are_malformed(self, data: bytes) -> None:
        with pytest.raises(MalformedError):
            Event.decode(data)

    @pytest.mark.parametrize("cut", range(1, 300, 13))
    def test_a_cut_event_is_malformed(self, cut: int) -> None:
        wire = Author("//validator0").write(PAYLOAD_OF_EACH_KIND[0]).wire
        for damaged in (wire[:-cut], wire + bytes(cut)):
            with pytest.raises(MalformedError):
                Event.decode(damaged)

    @pytest.mark.parametrize(
        "parts",
        [
            [header(), SIGNATURE],
            [header(), SIGNATURE, b"", b""],
            [header(), SIGNATURE[:-1], b""],
            [header(), SIGNATURE + b"s", b""],
            [header(), SIGNATURE, ""],
            [header(), SIGNATURE, b"other"],
            [b"", SIGNATURE, b""],
            [header() + b"\0", SIGNATURE, b""],
            [b"\x99" + bytes(HEADER_BYTES_MAX), SIGNATURE, b""],
        ],
    )
    def test_a_malformed_part_is_refused(self, parts: list[codec.Value]) -> None:
        assert Event.decode(codec.pack([header(), SIGNATURE, b""])).kind == "add"
        with pytest.raises(MalformedError):
            Event.decode(codec.pack(parts))

    def test_an_event_is_bounded(self) -> None:
        largest = bytes(PAYLOAD_BYTES_MAX)
        wire = codec.pack([header(payload_hash=codec.digest(largest)), SIGNATURE, largest])
        assert len(wire) <= EVENT_BYTES_MAX
        assert Event.decode(wire).payload == largest
        for payload in (largest + b"\0", bytes(EVENT_BYTES_MAX)):
            with pytest.raises(MalformedError):
                Event.decode(codec.pack([header(payload_hash=codec.digest(payload)), SIGNATURE, payload]))

    def test_the_largest_add_can_be_carried(self) -> None:
        author = Author("//validator0")
        add = author.write(AddPayload(Add(KEY, "9" * 15, SIGNATURE, bytes(BODY_BYTES_MAX)), codec.INT_MAX))
        assert Event.decode(author.write(Carry((add.wire,))).wire).kind == "carry"

    def test_an_own_event_too_large_for_peers_is_not_made(self) -> None:
        with pytest.raises(LocalProtocolError, match="peers accept at most"):
            Author("//validator0").write(Carry((bytes(PAYLOAD_BYTES_MAX),)))


class TestBodyOfAdd:
    """What a miner sent is read out of a stored ``add`` without decoding all of it, but never out of a damaged one."""

    ADD = Author("//Alice").add(add("//Miner", ["gpu-a", "gpu-b"]))

    def test_it_is_that_of_the_decoded_event(self) -> None:
        payload = AddPayload.from_wire(codec.unpack(self.ADD.payload))
        assert events.body_of_add(self.ADD.wire) == payload.request.body

    def test_no_changed_byte_changes_it(self) -> None:
        body = events.body_of_add(self.ADD.wire)
        refused = 0
        for at in range(len(self.ADD.wire)):
            for bit in (1, 0x80):
                wire = bytearray(self.ADD.wire)
                wire[at] ^= bit
                try:
                    assert events.body_of_add(bytes(wire)) == body
                except MalformedError:
                    refused += 1
        assert refused >= 2 * len(self.ADD.payload)

    @pytest.mark.parametrize(
        "value", [None, [], [b"", b"", b""], [b"\x90", b"", b""], [b"\x80", b"", b""], 7, b"x", [1, 2, 3]]
    )
    def test_what_is_no_event_is_refused(self, value: codec.Value) -> None:
        with pytest.raises(MalformedError):
            events.body_of_add(codec.pack(value))


class TestHeader:
    """What the node key signs."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"version": 0}, {"version": 65536}, {"version": True}, {"version": "1"},
            {"network_id": bytes(15)}, {"network_id": bytes(17)}, {"network_id": "x" * 16},
            {"node_key": bytes(31)}, {"node_key": None},
            {"number": -1}, {"number": LOG_NUMBER_MAX + 1},
            {"seq": -1}, {"seq": 2**63, "previous": ID}, {"seq": 0, "previous": ID}, {"seq": 1, "previous": b""},
            {"seq": 1, "previous": ID[:-1]}, {"seq": 1, "previous": None},
            {"hlc": -1}, {"hlc": 2**63}, {"hlc": None},
            {"kind": ""}, {"kind": "Add"}, {"kind": "a b"}, {"kind": "a\x1b"}, {"kind": "é"}, {"kind": "a" * 33},
            {"kind": b"add"}, {"kind": "7"}, {"kind": "add\n"},
            {"payload_hash": bytes(31)}, {"payload_hash": None},
            {"extra": 1},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_malformed_field_is_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(MalformedError):
            Header.decode(header(**changes))

    def test_a_field_at_its_bound_is_not(self) -> None:
        bounds = {"version": 65535, "number": LOG_NUMBER_MAX, "seq": codec.INT_MAX, "previous": ID, "hlc": HLC_MAX}
        data = header(**bounds, kind="k" * 32)
        assert len(data) <= HEADER_BYTES_MAX
        assert Header.decode(data).log == LogId(KEY, LOG_NUMBER_MAX)

    def test_a_later_version_or_kind_decodes_and_is_unknown(self) -> None:
        for changes in ({"version": 2}, {"kind": "tomorrow"}):
            assert not known(Event.decode(codec.pack([header(**changes), SIGNATURE, b""])))
        assert known(Event.decode(codec.pack([header(), SIGNATURE, b""])))


def _changed(payload: Payload, index: int, value: codec.Value) -> list[codec.Value]:
    fields = list(payload.to_wire())
    fields[index] = value
    return fields


_DELEGATION, _ROTATION, _, _CLOSE, _, _ADD, _DELETE, _BOUND, _CARRY, _VERIFIED, _FAILED = PAYLOAD_OF_EACH_KIND[:11]
_RENEW, _, _PUBLIC, _PRIVATE, _RELEASE, _EVIDENCE, _FIRST, _PROPOSED, _NOTHING, _CHECKPOINT = PAYLOAD_OF_EACH_KIND[12:]
_OLDER: list[codec.Value] = [KEY, 7, KEY, 3, ID, HLC_MAX, 0, SECONDS_MAX]


def _older(index: int, value: codec.Value) -> list[codec.Value]:
    """What a proposal says of one log, with one field changed."""
    return [[*_OLDER[:index], value, *_OLDER[index + 1 :]]]


class TestPayloads:
    """Each kind's fields."""

    @pytest.mark.parametrize("payload", PAYLOAD_OF_EACH_KIND, ids=kind_of)
    def test_another_number_of_fields_is_refused(self, payload: Payload) -> None:
        fields = payload.to_wire()
        read: Callable[[codec.Value], Payload] = type(payload).from_wire
        assert read(fields) == payload
        wrongs: tuple[codec.Value, ...] = ([*fields, None], fields[:-1], [], None, b"", 7)
        for wrong in wrongs:
            with pytest.raises(MalformedError):
                read(wrong)

    @pytest.mark.parametrize(
        ("payload", "index", "value"),
        [
            (_DELEGATION, 0, KEY[:-1]), (_DELEGATION, 1, "x" * 257), (_DELEGATION, 1, b""), (_DELEGATION, 1, "a\0"),
            (_DELEGATION, 2, -1), (_DELEGATION, 3, SECONDS_MAX + 1), (_DELEGATION, 4, []), (_DELEGATION, 5, b""),
            (_ROTATION, 4, [KEY, 7]), (_ROTATION, 4, [KEY, -1, None]), (_ROTATION, 4, [KEY, 7, [3]]),
            (_ROTATION, 4, [KEY, 7, [-1, ID]]), (_ROTATION, 4, [KEY, 7, [3, b""]]), (_ROTATION, 4, [b"", 7, None]),
            (_CLOSE, 0, b""), (_CLOSE, 1, LOG_NUMBER_MAX + 1), (_CLOSE, 2, [3, ID, 1]), (_CLOSE, 3, b""),
            (_CLOSE, 4, b""),
            (_ADD, 0, b""), (_ADD, 1, ""), (_ADD, 1, "-1"), (_ADD, 1, "1" * 16), (_ADD, 1, "\u0661"), (_ADD, 1, "1 "),
            (_ADD, 1, 1_764_000_000), (_ADD, 2, b""), (_ADD, 3, b""), (_ADD, 3, "{}"), (_ADD, 4, -1), (_ADD, 4, None),
            (_ADD, 3, bytes(BODY_BYTES_MAX + 1)),
            (_DELETE, 0, b""),
            (_DELETE, 1, "x"), (_DELETE, 2, b""), (_DELETE, 3, ""), (_DELETE, 3, "nodes:" + "x" * 65),
            (_DELETE, 4, ""), (_DELETE, 4, "x" * 65), (_DELETE, 4, "a\0"), (_DELETE, 5, [ID[:-1]]), (_DELETE, 5, None),
            (_BOUND, 5, [ID] * (CLAIMS_PER_DELETE_MAX + 1)),
            (_CARRY, 0, []), (_CARRY, 0, [b""]), (_CARRY, 0, [b"x"] * (CARRIED_MAX + 1)), (_CARRY, 0, b"x"),
            (_CARRY, 0, [bytes(EVENT_BYTES_MAX + 1)]),
            (_VERIFIED, 0, b""), (_VERIFIED, 1, "maybe"), (_VERIFIED, 1, "failed"), (_VERIFIED, 2, ""),
            (_VERIFIED, 2, "x" * 33), (_VERIFIED, 3, "x" * 513), (_VERIFIED, 4, None), (_VERIFIED, 4, HLC_MAX + 1),
            (_FAILED, 1, "verified"), (_FAILED, 4, 0),
            (_RENEW, 0, ""), (_RENEW, 0, "x" * 33), (_RENEW, 1, []), (_RENEW, 1, [[b"", 0]]), (_RENEW, 1, [[ID]]),
            (_RENEW, 1, [[ID, None]]), (_RENEW, 1, [[ID, HLC_MAX + 1]]), (_RENEW, 1, [[ID, 0], [ID, 1]]),
            (_RENEW, 1, [[ID, 0], [bytes(32), 0]]),
            (_RENEW, 1, [[bytes([number]) * 32, 0] for number in range(RENEWED_MAX + 1)]),
            (_PUBLIC, 0, b""), (_PUBLIC, 1, []), (_PUBLIC, 1, ["a", "a"]), (_PUBLIC, 1, [""]), (_PUBLIC, 2, ""),
            (_PUBLIC, 3, "x" * 257), (_PUBLIC, 4, 1), (_PUBLIC, 5, False), (_PUBLIC, 5, None), (_PUBLIC, 6, None),
            (_PUBLIC, 7, None), (_PUBLIC, 6, "x" * 257),
            (_PUBLIC, 1, [str(index) for index in range(GPUS_PER_EVENT_MAX + 1)]),
            (_PRIVATE, 5, True), (_PRIVATE, 6, "name"), (_PRIVATE, 7, "ann"),
            (_RELEASE, 0, b""), (_RELEASE, 1, []),
            (_EVIDENCE, 0, b""), (_EVIDENCE, 0, bytes(HEADER_BYTES_MAX + 1)), (_EVIDENCE, 1, b""), (_EVIDENCE, 2, b""),
            (_EVIDENCE, 3, b""),
            (_FIRST, 0, 0), (_FIRST, 0, None), (_FIRST, 0, True), (_FIRST, 1, None), (_FIRST, 1, ""),
            (_PROPOSED, 1, ID[:-1]), (_PROPOSED, 1, ID + b"i"), (_PROPOSED, 1, b"i"),
            (_FIRST, 2, b""), (_FIRST, 2, "pins"), (_FIRST, 2, bytes(PINS_BYTES_MAX + 1)),
            (_FIRST, 3, []), (_FIRST, 3, None), (_FIRST, 3, [_OLDER[:-1]]), (_FIRST, 3, [[*_OLDER, 0]]),
            (_FIRST, 3, [_OLDER, _OLDER]), (_FIRST, 3, [*_older(1, 8), _OLDER]), (_FIRST, 3, [_OLDER, *_older(0, ID)]),
            (_FIRST, 3, [_older(1, number)[0] for number in range(LOGS_PER_CUT_MAX + 1)]),
            (_FIRST, 3, _older(0, KEY[:-1])), (_FIRST, 3, _older(1, -1)), (_FIRST, 3, _older(1, LOG_NUMBER_MAX + 1)),
            (_FIRST, 3, _older(2, KEY[:-1])), (_FIRST, 3, _older(3, -1)), (_FIRST, 3, _older(3, None)),
            (_FIRST, 3, _older(4, b"")), (_FIRST, 3, _older(5, -1)), (_FIRST, 3, _older(5, HLC_MAX + 1)),
            (_FIRST, 3, _older(6, -1)), (_FIRST, 3, _older(7, SECONDS_MAX + 1)), (_FIRST, 3, _older(7, None)),
            (_NOTHING, 0, 0), (_NOTHING, 1, b""), (_NOTHING, 1, None), (_NOTHING, 2, -1), (_NOTHING, 2, True),
            (_NOTHING, 3, 1), (_CHECKPOINT, 2, LEAVES_MAX + 1), (_CHECKPOINT, 2, 0), (_CHECKPOINT, 3, LEAVES_MAX + 1),
            (_CHECKPOINT, 3, -1), (_CHECKPOINT, 4, b""), (_CHECKPOINT, 4, ID + b"i"),
        ],
    )  # fmt: skip
    def test_a_malformed_field_is_refused(self, payload: Payload, index: int, value: codec.Value) -> None:
        with pytest.raises(MalformedError):
            type(payload).from_wire(_changed(payload, index, value))

    @given(
        logs=st.sets(st.builds(LogId, st.binary(min_size=32, max_size=32), st.integers(0, LOG_NUMBER_MAX)), min_size=1)
    )
    def test_a_proposal_names_its_logs_in_one_order(self, logs: set[LogId]) -> None:
        said = Propose(1, b"", b"pins", tuple(OLDER._replace(log=log) for log in sorted(logs)))
        assert Propose.from_wire(codec.unpack(codec.pack(said.to_wire()))) == said
        if len(logs) > 1:
            with pytest.raises(MalformedError, match="ascending order"):
                Propose.from_wire(said._replace(logs=said.logs[::-1]).to_wire())

    def test_the_largest_proposal_fits_a_payload(self) -> None:
        """Seqs and beginnings of windows alone stay below what their form allows: 2**32 events, the year 2106."""
        each = OLDER._replace(head=Head(2**32 - 1, ID), not_before=2**32 - 1)
        numbers = range(LOG_NUMBER_MAX - LOGS_PER_CUT_MAX + 1, LOG_NUMBER_MAX + 1)
        logs = tuple(each._replace(log=LogId(KEY, number)) for number in numbers)
        event = Author("//validator0").write(Propose(codec.INT_MAX, ID, bytes(PINS_BYTES_MAX), logs))
        payload = Propose.from_wire(codec.unpack(Event.decode(event.wire).payload))
        assert len(payload.logs) == LOGS_PER_CUT_MAX

    def test_names_of_private_chutes_have_no_place_on_the_wire(self) -> None:
        assert _PRIVATE.to_wire()[-2:] == [None, None]


class TestDelegationMessage:
    """What a validator's hotkey signs covers everything that the delegation says."""

    def test_each_part_changes_it(self) -> None:
        said = Delegation(KEY, "http://a", 1, 2, (LOG, Head(3, ID)), b"")
        messages = {
            delegation_message(NETWORK.id, LOG, said),
            delegation_message(bytes(16), LOG, said),
            delegation_message(NETWORK.id, LogId(KEY, 8), said),
            delegation_message(NETWORK.id, LogId(ID, 7), said),
            delegation_message(NETWORK.id, LOG, said._replace(hotkey=ID)),
            delegation_message(NETWORK.id, LOG, said._replace(url="http://b")),
            delegation_message(NETWORK.id, LOG, said._replace(not_before=0)),
            delegation_message(NETWORK.id, LOG, said._replace(not_after=3)),
            delegation_message(NETWORK.id, LOG, said._replace(predecessor=None)),
            delegation_message(NETWORK.id, LOG, said._replace(predecessor=(LOG, None))),
            delegation_message(NETWORK.id, LOG, said._replace(predecessor=(LOG, Head(4, ID)))),
            Close(LOG, None, KEY, b"").message(NETWORK.id),
        }
        assert len(messages) == 12

    def test_no_other_message_of_a_hotkey_looks_like_it(self) -> None:
        """A miner signs ``hotkey:nonce:tail``; the contexts hold a space, which no address does."""
        said = Delegation(KEY, "", 1, 2, None, b"")
        assert delegation_message(NETWORK.id, LOG, said).startswith(b"p2pnodes delegation\n")
        assert Close(LOG, None, KEY, b"").message(NETWORK.id).startswith(b"p2pnodes close\n")

    def test_a_delegation_is_for_one_log_on_one_network(self) -> None:
        author = Author("//validator0")
        said = author.delegation()
        assert said.signed_for(NETWORK.id, author.log)
        assert not said.signed_for(bytes(16), author.log)
        assert not said.signed_for(NETWORK.id, author.log._replace(number=1))


class TestChecks:
    """The signatures that an event names are those that are asked for when it is stored and judged."""

    @staticmethod
    def asked(event: Event, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, tuple[bytes, ...]]]:
        """Each signature of a hotkey (true) or a node key that is asked for, in order."""
        found: list[tuple[bool, tuple[bytes, ...]]] = []

        def asking(by_hotkey: bool) -> Callable[..., bool]:
            def asked(*check: bytes) -> bool:
                found.append((by_hotkey, check))
                return True

            return asked

        with monkeypatch.context() as patched:
            patched.setattr(keys, "verify_sr25519", asking(True))
            patched.setattr(events, "verify_node", asking(False))
            assert event.signed()
            author = Author("//validator1")
            judgement = judge(event, Prefix(author.delegation(), -1))
        assert judgement.void is None
        return found

    def test_of_each_kind_that_holds_requests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        author = Author("//validator1")
        added = author.add(add("//miner0", ["a" * 32]))
        deleted = author.delete(delete("//miner0", "nodes"), "a" * 32)
        carried = author.write(Carry((added.wire, deleted.wire)))
        verdict = author.verdict(bytes(32))
        for event, count in ((added, 2), (deleted, 2), (carried, 5), (verdict, 1)):
            named = [(check.by_hotkey, check[1:]) for check in event.checks()]
            assert named == self.asked(event, monkeypatch)
            assert len(named) == count

    def test_of_what_cannot_be_read_there_is_the_logs_alone(self) -> None:
        author = Author("//validator1")
        added = author.add(add("//miner0", ["a" * 32]))
        verdict = author.verdict(bytes(32))
        later = verdict._replace(version=PROTOCOL_VERSION + 1, kind="add")
        for event in (added._replace(payload=b"\x90"), verdict._replace(kind="add"), later, verdict):
            (check,) = event.checks()
            assert check == Check(False, event.log.node_key, event.header, event.signature)

    def test_carries_within_carries_are_not_looked_into(self) -> None:
        author = Author("//validator1")
        event = author.add(add("//miner0", ["a" * 32]))
        for _ in range(3):
            event = author.write(Carry((event.wire,)))
        assert len(list(event.checks())) == 1
