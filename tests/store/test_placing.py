"""What this validator may say about the chutes on GPUs, and what it costs to say it again."""

from collections.abc import Sequence

import pytest

from p2pnodes.model import codec
from p2pnodes.model.errors import WritesRefusedError
from p2pnodes.model.events import GPUS_PER_EVENT_MAX, Event, Place, Release
from p2pnodes.model.inventory import Chute
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.requests import request_id
from p2pnodes.store import placing
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.placing import NotPlacedError, Placed, UnknownGpusError
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, delete, electorate, hotkey, memory_ledger

CHUTE = Chute("chute-1", "instance-1", verified=True, public=True, name="llama", username="ann")
PRIVATE = Chute("chute-2", "instance-2", verified=True, public=False, name=None, username=None)


def place(ledger: Ledger, uuids: Sequence[str], chute: Chute = CHUTE) -> Placed:
    with ledger.transaction():
        return placing.place(ledger, uuids, chute, NOW_MS)


def release(ledger: Ledger, *uuids: str) -> Placed:
    with ledger.transaction():
        return placing.release(ledger, uuids, NOW_MS)


def said_before(ledger: Ledger, *words: Place | Release, uri: str = "//validator0") -> None:
    """Take in what another log of a validator says."""
    before = Author(uri, seed=9)
    before.delegate()
    for word in words:
        before.write(word)
    with ledger.transaction():
        ledger.receive(before.events, NOW_MS)


def register(ledger: Ledger, *uuids: str, miner: str = "//Alice") -> bytes:
    """Record a claim; its id."""
    request = add(miner, uuids)
    author = Author("//validator1", seed=len(ledger.state.logs))
    author.delegate()
    author.add(request)
    with ledger.transaction():
        ledger.receive(author.events, NOW_MS)
    return request_id(NETWORK.id, request)


def runs(ledger: Ledger) -> dict[str, str | None]:
    """GPU -> chute id, from the rows."""
    return {row.uuid: row.chute and row.chute.chute_id for row in ledger.rows()}


def own_events(ledger: Ledger) -> list[Event]:
    assert ledger.own_log is not None
    return [Event.decode(wire) for wire in ledger.read(ledger.own_log, 1, 1_000_000)]


class TestPlace:
    """One event for each claim that owns some of the GPUs, all of them or none."""

    def test_the_rows_show_it_and_the_answer_names_what_was_written(self, writer: Ledger) -> None:
        first, second = register(writer, "gpu-1", "gpu-2"), register(writer, "gpu-3", miner="//Bob")
        placed = place(writer, ["gpu-3", "gpu-2", "gpu-1"])
        assert [(each.claim_id, each.uuids) for each in placed.written] == [
            (second, ("gpu-3",)),
            (first, ("gpu-2", "gpu-1")),
        ]
        assert [each.event_id for each in placed.written] == [event.id for event in own_events(writer)]
        assert placed[1:] == ((), hotkey("//validator0").public_key, True)
        assert runs(writer) == dict.fromkeys(("gpu-1", "gpu-2", "gpu-3"), "chute-1")

    def test_the_event_of_a_private_chute_carries_neither_name_nor_username(self, writer: Ledger) -> None:
        claim_id = register(writer, "gpu-1")
        place(writer, ["gpu-1"], PRIVATE)
        (event,) = own_events(writer)
        said = Place.from_wire(codec.unpack(event.payload))
        assert said == Place(claim_id, ("gpu-1",), "chute-2", "instance-2", True, False, None, None)

    def test_the_same_again_writes_nothing(self, writer: Ledger) -> None:
        register(writer, "gpu-1", "gpu-2")
        place(writer, ["gpu-1"])
        events = writer.state.events
        assert place(writer, ["gpu-1", "gpu-1"])[:2] == ((), ("gpu-1",))
        assert writer.state.events == events
        more = place(writer, ["gpu-1", "gpu-2"])
        assert [each.uuids for each in more.written] == [("gpu-2",)]
        assert more.unchanged == ("gpu-1",)

    @pytest.mark.parametrize("change", [{"verified": False}, {"instance_id": "i-2"}, {"name": "mistral"}])
    def test_anything_else_about_the_chute_is_a_new_word(self, writer: Ledger, change: dict[str, object]) -> None:
        register(writer, "gpu-1")
        place(writer, ["gpu-1"])
        assert place(writer, ["gpu-1"], CHUTE._replace(**change)).written  # type: ignore[arg-type]
        (row,) = writer.rows()
        assert row.chute == CHUTE._replace(**change)  # type: ignore[arg-type]

    def test_what_another_log_of_this_validator_said_need_not_be_said_again(self, writer: Ledger) -> None:
        claim_id = register(writer, "gpu-1")
        before = Author("//validator0", seed=9)
        before.delegate()
        before.write(Place(claim_id, ("gpu-1",), *CHUTE))
        with writer.transaction():
            writer.receive(before.events, NOW_MS)
        assert place(writer, ["gpu-1"]).unchanged == ("gpu-1",)

    def test_what_another_validator_said_is_said_again_by_this_one(self, writer: Ledger) -> None:
        claim_id = register(writer, "gpu-1")
        other = Author("//validator2")
        other.delegate()
        other.write(Place(claim_id, ("gpu-1",), *CHUTE))
        with writer.transaction():
            writer.receive(other.events, NOW_MS)
        assert place(writer, ["gpu-1"]).written

    def test_a_gpu_that_changed_its_owner_is_placed_again(self, writer: Ledger) -> None:
        first = register(writer, "gpu-1")
        place(writer, ["gpu-1"])
        author = Author("//validator2")
        author.delegate()
        author.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 1), "gpu-1", [first])
        with writer.transaction():
            writer.receive(author.events, NOW_MS)
        second = register(writer, "gpu-1", miner="//Bob")
        assert runs(writer) == {"gpu-1": None}
        assert [each.claim_id for each in place(writer, ["gpu-1"]).written] == [second]
        assert runs(writer) == {"gpu-1": "chute-1"}

    def test_unknown_gpus_are_named_and_nothing_is_written(self, writer: Ledger) -> None:
        register(writer, "gpu-1")
        events = writer.state.events
        with pytest.raises(UnknownGpusError, match="not in the inventory: gpu-8, gpu-9;") as refused:
            place(writer, ["gpu-8", "gpu-1", "gpu-9"])
        assert refused.value.uuids == ["gpu-8", "gpu-9"]
        assert writer.state.events == events

    def test_many_unknown_gpus_are_counted(self, writer: Ledger) -> None:
        with pytest.raises(UnknownGpusError, match=r"gpu-0, .*, gpu-15 and 4 more;"):
            place(writer, [f"gpu-{number}" for number in range(20)])

    def test_a_claim_that_came_in_the_same_transaction_owns_already(self, writer: Ledger) -> None:
        author = Author("//validator1")
        author.delegate()
        author.add(add("//Alice", ["gpu-1"]))
        with writer.transaction():
            writer.receive(author.events, NOW_MS)
            assert placing.place(writer, ["gpu-1"], CHUTE, NOW_MS).written
        assert runs(writer) == {"gpu-1": "chute-1"}

    def test_it_is_told_when_it_does_not_count(self, writer: Ledger) -> None:
        register(writer, "gpu-1")
        with writer.transaction():
            writer.set_electorate(electorate(200, stakes={"//validator1": 100}))
        placed = place(writer, ["gpu-1"])
        assert placed.written
        assert not placed.enrolled
        assert runs(writer) == {"gpu-1": None}


class TestRelease:
    """It takes back this validator's own places, and only those."""

    def test_the_gpu_is_idle_again(self, writer: Ledger) -> None:
        claim_id = register(writer, "gpu-1", "gpu-2")
        place(writer, ["gpu-1", "gpu-2"])
        released = release(writer, "gpu-1")
        assert [(each.claim_id, each.uuids) for each in released.written] == [(claim_id, ("gpu-1",))]
        assert runs(writer) == {"gpu-1": None, "gpu-2": "chute-1"}
        assert own_events(writer)[-1].id == released.written[0].event_id

    def test_the_same_again_writes_nothing(self, writer: Ledger) -> None:
        register(writer, "gpu-1")
        place(writer, ["gpu-1"])
        release(writer, "gpu-1")
        events = writer.state.events
        assert release(writer, "gpu-1")[:2] == ((), ("gpu-1",))
        assert writer.state.events == events

    def test_gpus_that_it_never_placed_are_named_and_nothing_is_written(self, writer: Ledger) -> None:
        claim_id = register(writer, "gpu-1", "gpu-2")
        place(writer, ["gpu-1"])
        other = Author("//validator2")
        other.delegate()
        other.write(Place(claim_id, ("gpu-2",), *CHUTE))
        with writer.transaction():
            writer.receive(other.events, NOW_MS)
        events = writer.state.events
        with pytest.raises(NotPlacedError, match="gpu-2, gpu-9; nothing was released") as refused:
            release(writer, "gpu-1", "gpu-2", "gpu-9")
        assert refused.value.uuids == ["gpu-2", "gpu-9"]
        assert writer.state.events == events

    def test_places_under_claims_that_own_the_gpu_no_more_are_taken_back_too(self, writer: Ledger) -> None:
        first = register(writer, "gpu-1")
        place(writer, ["gpu-1"])
        author = Author("//validator2")
        author.delegate()
        author.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 1), "gpu-1", [first])
        with writer.transaction():
            writer.receive(author.events, NOW_MS)
        assert [each.claim_id for each in release(writer, "gpu-1").written] == [first]

    def test_places_under_claims_that_are_not_known_here_are_taken_back_too(self, writer: Ledger) -> None:
        """A claim comes back when others carry it, and its place with it."""
        under = bytes([0] * 32), bytes([0x7F] * 32), bytes([0xFF] * 32)
        known = register(writer, "gpu-1")
        said_before(writer, *(Place(each, ("gpu-1", "gpu-2"), *CHUTE) for each in (*under, known)))
        assert [(each.claim_id, each.uuids) for each in release(writer, "gpu-1").written] == [
            (each, ("gpu-1",)) for each in sorted((*under, known))
        ]
        assert release(writer, "gpu-1")[:2] == ((), ("gpu-1",))
        assert [each.claim_id for each in release(writer, "gpu-2").written] == sorted((*under, known))

    def test_the_place_of_another_validator_under_such_a_claim_stays(self, writer: Ledger) -> None:
        said_before(writer, Place(bytes(32), ("gpu-1",), *CHUTE), uri="//validator2")
        with pytest.raises(NotPlacedError, match="gpu-1"):
            release(writer, "gpu-1")

    def test_words_on_a_gpu_are_found_without_looking_through_those_on_others(self, writer: Ledger) -> None:
        connection, asked = writer.facts.connection, list[str]()
        connection.set_trace_callback(asked.append)
        writer.facts.worded(["gpu-1", "gpu-2"], hotkey("//validator0").public_key)
        connection.set_trace_callback(None)
        (text,) = (each for each in asked if "placement" in each)
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
        assert plan[0] == "SEARCH placement USING COVERING INDEX placement_of (uuid=? AND log=?)"

    @pytest.mark.parametrize(
        ("looked_for", "first"),
        [
            ("1", "SCAN p"),
            ("claim_id = ''", "SCAN p"),
            ("validator = ''", "SCAN p"),
            ("uuid = ''", "SEARCH p USING INDEX placement_of (uuid=?)"),
        ],
    )
    def test_operators_find_those_on_a_gpu_by_it_and_read_all_in_the_order_of_the_disk(
        self, writer: Ledger, looked_for: str, first: str
    ) -> None:
        """Through the index, each of half a million would be looked up for itself, anywhere on the disk."""
        query = f"EXPLAIN QUERY PLAN SELECT * FROM placements WHERE {looked_for}"
        assert writer.facts.connection.execute(query).fetchone()[3] == first

    def test_more_gpus_than_an_event_holds_take_several(self, writer: Ledger) -> None:
        """Another build of this validator's may have placed so many under one claim."""
        uuids = [f"gpu-{number:03}" for number in range(GPUS_PER_EVENT_MAX + 1)]
        parts = (uuids[:GPUS_PER_EVENT_MAX], uuids[GPUS_PER_EVENT_MAX:])
        said_before(writer, *(Place(bytes(32), tuple(part), *CHUTE) for part in parts))
        assert [len(each.uuids) for each in release(writer, *uuids).written] == [GPUS_PER_EVENT_MAX, 1]
        assert all(Release.from_wire(codec.unpack(event.payload)) for event in own_events(writer))


class TestRefusals:
    """What the daemon must not write is not written."""

    @pytest.mark.parametrize("word", ["place", "release"])
    def test_while_writes_are_refused_the_reason_is_told(self, writer: Ledger, word: str) -> None:
        register(writer, "gpu-1")
        if word == "release":
            place(writer, ["gpu-1"])
        writer.writes_refused = "own head not heard"
        events = writer.state.events
        with pytest.raises(WritesRefusedError, match="own head not heard"):
            place(writer, ["gpu-1"]) if word == "place" else release(writer, "gpu-1")
        assert writer.state.events == events

    def test_without_an_own_log_nothing_is_written(self) -> None:
        ledger = memory_ledger(NodeKey.from_seed(bytes(32)))
        with pytest.raises(WritesRefusedError, match="starting"):
            place(ledger, ["gpu-1"])
        ledger.writes_refused = None
        with pytest.raises(WritesRefusedError, match="no open log"):
            release(ledger, "gpu-1")
