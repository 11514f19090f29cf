"""What no counting log will carry any more is carried again: nothing acknowledged is lost, nothing deleted returns."""

from collections.abc import Iterable
from copy import copy
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.model import codec
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.errors import WritesRefusedError
from p2pnodes.model.events import CARRIED_MAX, PAYLOAD_BYTES_MAX, Carry, Event, Head, closing
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.rendezvous import ranking
from p2pnodes.model.requests import BODY_BYTES_MAX, Add, Delete, request_id, sign_add
from p2pnodes.store import carrying
from p2pnodes.store.carrying import STEP_MS_MAX, STEP_MS_MIN, Cursor, Need, step_ms
from p2pnodes.store.ledger import Ledger
from tests.model.world import VALIDATORS, World, worlds
from tests.support import BLOCK, NETWORK, NOW_MS, NOW_S, Author, add, body, delete, electorate, hotkey, memory_ledger

OWN: Final = hotkey("//validator0").public_key
LEAVER: Final = "//validator1"
STAYER: Final = "//validator2"
EVERYBODY: Final = dict.fromkeys(("//validator0", LEAVER, STAYER), 100)
THOSE_WHO_STAY: Final = {uri: stake for uri, stake in EVERYBODY.items() if uri != LEAVER}

GRACE: Final = electorate(BLOCK + 100, NOW_MS + 1_200_000, stakes=THOSE_WHO_STAY, previous=electorate())
"""The leaver has lost its permit, and counts for one more epoch."""

AFTER: Final = electorate(BLOCK + 200, NOW_MS + 2_400_000, stakes=THOSE_WHO_STAY, previous=GRACE)

pytestmark = pytest.mark.timeout(400)  # hypothesis may look 300 s for a smaller example before it tells of a failure


def opened(uri: str = "//validator0") -> Ledger:
    """A ledger with an own log, allowed to write."""
    author = Author(uri, seed=77)
    ledger = memory_ledger(NodeKey.from_seed(author.node_key.seed))
    with ledger.transaction():
        ledger.open_log(0, author.delegation(), NOW_MS)
    ledger.writes_refused = None
    return ledger


def hear(ledger: Ledger, *events: Event) -> None:
    with ledger.transaction():
        ledger.receive(events, NOW_MS + 3_600_000)


def weigh(ledger: Ledger, who: Electorate) -> None:
    with ledger.transaction():
        ledger.set_electorate(who)


def close(ledger: Ledger, author: Author, good: int) -> None:
    """Let a log's hotkey close it behind its first ``good`` events."""
    last = author.events[good - 1] if good else None
    proof = closing(author.hotkey, NETWORK.id, author.log, last and Head(last.seq, last.id))
    with ledger.transaction():
        ledger.receive_proofs([proof], NOW_MS)


def walk(ledger: Ledger, own: bytes = OWN) -> list[Need]:
    """Everything that one walk finds."""
    found: list[Need] = []
    cursor: Cursor | None = Cursor()
    while cursor is not None:
        part = carrying.part(ledger.facts, cursor, ledger.weights, own)
        found += part.needs
        cursor = part.cursor
    return found


def needed(ledger: Ledger) -> list[bytes]:
    """Ids of the claims for which something must be carried."""
    keys = {need.key for need in walk(ledger)}
    ids = dict(ledger.facts.connection.execute("SELECT claim, claim_id FROM claim"))
    return sorted(ids[key] for key in keys)


def carry(ledger: Ledger, now_ms: int = NOW_MS) -> list[Event]:
    """Carry all that a walk finds."""
    keys = list(dict.fromkeys(need.key for need in walk(ledger)))
    events: list[Event] = []
    while keys:
        with ledger.transaction():
            carried = carrying.carry(ledger, keys[: carrying.DECIDED_PER_PART], OWN, now_ms)
        assert carried.done or carried.requests
        keys = keys[carried.done :]
        events += ledger.news.take_appended()
    return [event for event in events if event.kind == "carry"]


def carried(events: Iterable[Event]) -> list[Event]:
    """What carry events hold."""
    return [Event.decode(wire) for event in events for wire in Carry.from_wire(codec.unpack(event.payload)).events]


def owners(ledger: Ledger) -> dict[str, bytes]:
    """Who owns which GPU: uuid -> claim id."""
    rows = ledger.facts.connection.execute("SELECT uuid, claim_id FROM node JOIN claim USING (claim)")
    return dict(rows.fetchall())


def claim_of(request: Add) -> bytes:
    return request_id(NETWORK.id, request)


def author_of(uri: str, *, seed: int = 0) -> Author:
    author = Author(uri, seed=seed)
    author.delegate()
    return author


def twin(author: Author) -> Author:
    """A second writer of the same log, as it is now."""
    other = copy(author)
    other.events, other.clock = list(author.events), copy(author.clock)
    return other


class TestAdds:
    """An add is carried while nothing that lasts carries it, and its claim would stand."""

    def test_nothing_is_carried_while_every_author_has_its_permit(self) -> None:
        ledger, author = opened(), author_of(STAYER)
        hear(ledger, *author.events, author.add(add("//Alice", ["gpu-1"])))
        assert needed(ledger) == []
        assert carry(ledger) == []

    def test_a_claim_whose_author_lost_its_permit_is_carried_within_the_grace_and_its_row_stays_as_it_is(self) -> None:
        ledger, author = opened(), author_of(LEAVER)
        request = add("//Alice", ["gpu-1", "gpu-2"])
        event = author.add(request)
        hear(ledger, *author.events)
        weigh(ledger, GRACE)
        rows = list(ledger.rows())
        assert needed(ledger) == [claim_of(request)]
        assert carried(carry(ledger)) == [event]
        assert list(ledger.rows()) == rows
        weigh(ledger, AFTER)
        assert list(ledger.rows()) == rows
        assert needed(ledger) == []

    def test_without_a_carrier_the_row_would_be_gone(self) -> None:
        ledger, author = opened(), author_of(LEAVER)
        hear(ledger, *author.events, author.add(add("//Alice", ["gpu-1"])))
        weigh(ledger, GRACE)
        weigh(ledger, AFTER)
        assert owners(ledger) == {}
        assert len(carry(ledger)) == 1  # late is better than never
        assert len(owners(ledger)) == 1

    def test_what_another_author_carries_that_keeps_its_permit_is_not_carried_again(self) -> None:
        ledger, leaver, stayer = opened(), author_of(LEAVER), author_of(STAYER)
        request = add("//Alice", ["gpu-1"])
        leaver.add(request)
        stayer.add(request)
        hear(ledger, *leaver.events, *stayer.events)
        weigh(ledger, GRACE)
        assert needed(ledger) == []

    def test_what_lies_in_a_carry_of_one_that_leaves_is_carried_by_its_first_event(self) -> None:
        ledger, leaver = opened(), author_of(LEAVER)
        first, second = (author_of("//Dave").add(add("//Alice", [uuid])) for uuid in ("gpu-1", "gpu-2"))
        removal = author_of("//Dave").delete(delete("//Alice", "nodes:gpu-3"), "gpu-3")
        leaver.write(Carry((removal.wire, first.wire, second.wire)))
        hear(ledger, *leaver.events)
        weigh(ledger, GRACE)
        assert {event.id for event in carried(carry(ledger))} == {first.id, second.id}

    def test_of_several_events_the_one_with_the_lowest_hlc_is_carried(self) -> None:
        ledger, leaver = opened(), author_of(LEAVER)
        request = add("//Alice", ["gpu-1"])
        late = leaver.add(request, at_ms=NOW_MS + 5_000)
        other = author_of(LEAVER, seed=1)
        early = other.add(request, at_ms=NOW_MS + 1_000)
        hear(ledger, *leaver.events, *other.events)
        weigh(ledger, GRACE)
        assert late.hlc > early.hlc
        assert carried(carry(ledger)) == [early]

    def test_what_counts_now_is_carried_rather_than_what_lies_above_a_cut(self) -> None:
        ledger, leaver, thief = opened(), author_of(LEAVER), author_of(LEAVER, seed=1)
        request = add("//Alice", ["gpu-1"])
        backdated = thief.add(request, at_ms=NOW_MS - 500)
        honest = leaver.add(request)
        hear(ledger, *leaver.events, *thief.events)
        close(ledger, thief, good=1)
        weigh(ledger, GRACE)
        assert backdated.hlc < honest.hlc
        assert carried(carry(ledger)) == [honest]

    def test_a_claim_of_a_miner_that_is_not_registered_is_left_alone(self) -> None:
        ledger, author = opened(), author_of(LEAVER)
        hear(ledger, *author.events, author.add(add("//Alice", ["gpu-1"])))
        weigh(ledger, electorate(BLOCK + 100, NOW_MS + 1, stakes=THOSE_WHO_STAY, miners=(), previous=electorate()))
        assert needed(ledger) == []

    def test_a_miner_that_came_back_must_register_again_whoever_carries(self) -> None:
        ledger, author = opened(), author_of(LEAVER)
        hear(ledger, *author.events, author.add(add("//Alice", ["gpu-1"])))
        weigh(ledger, registered_at(GRACE, "//Alice", BLOCK + 50))
        assert needed(ledger) == []

    def test_of_a_miner_that_came_back_the_event_that_knew_of_it_is_carried(self) -> None:
        ledger, stayer, leaver = opened(), author_of(STAYER), author_of(LEAVER)
        request = add("//Alice", ["gpu-1"])
        stayer.add(request, block=BLOCK)  # it lasts, and does not count any more
        again = leaver.add(request, block=BLOCK + 100, at_ms=NOW_MS + 60_000)
        hear(ledger, *stayer.events, *leaver.events)
        weigh(ledger, registered_at(GRACE, "//Alice", BLOCK + 50))
        assert owners(ledger) == {"gpu-1": claim_of(request)}
        assert carried(carry(ledger)) == [again]
        weigh(ledger, registered_at(AFTER, "//Alice", BLOCK + 50))
        assert owners(ledger) == {"gpu-1": claim_of(request)}

    def test_an_electorate_block_that_is_not_reached_carries_nothing(self) -> None:
        ledger, author = opened(), author_of(LEAVER)
        hear(ledger, *author.events, author.add(add("//Alice", ["gpu-1"]), block=2**40))
        weigh(ledger, GRACE)
        assert needed(ledger) == []

    def test_what_lies_above_a_closing_is_carried_and_listed_again(self) -> None:
        ledger, author = opened(), author_of(STAYER)
        kept, lost = add("//Alice", ["gpu-1"]), add("//Alice", ["gpu-2"])
        author.add(kept)
        event = author.add(lost)
        hear(ledger, *author.events)
        close(ledger, author, good=2)
        assert owners(ledger) == {"gpu-1": claim_of(kept)}
        assert carried(carry(ledger)) == [event]
        assert owners(ledger) == {"gpu-1": claim_of(kept), "gpu-2": claim_of(lost)}

    def test_what_lies_above_a_fork_is_carried_from_the_branch_that_is_held(self) -> None:
        ledger, one = opened(), author_of(STAYER)
        other = twin(one)
        request = add("//Alice", ["gpu-1"])
        event, rival = one.add(request), other.add(add("//Bob", ["gpu-2"]))
        hear(ledger, *one.events)
        hear(ledger, rival)
        assert owners(ledger) == {}
        assert carried(carry(ledger)) == [event]
        assert owners(ledger) == {"gpu-1": claim_of(request)}


class TestDeletes:
    """What a miner deleted never comes back, and no delete is carried that does nothing."""

    def test_a_delete_whose_author_leaves_is_carried_while_its_claim_stays(self) -> None:
        ledger, stayer, leaver = opened(), author_of(STAYER), author_of(LEAVER)
        stayer.add(add("//Alice", ["gpu-1"]))
        removal = leaver.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 5), "gpu-1")
        hear(ledger, *stayer.events, *leaver.events)
        weigh(ledger, GRACE)
        assert carried(carry(ledger)) == [removal]
        weigh(ledger, AFTER)
        assert owners(ledger) == {}

    def test_without_a_carrier_the_gpu_would_be_back(self) -> None:
        ledger, stayer, leaver = opened(), author_of(STAYER), author_of(LEAVER)
        stayer.add(add("//Alice", ["gpu-1"]))
        leaver.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 5), "gpu-1")
        hear(ledger, *stayer.events, *leaver.events)
        weigh(ledger, GRACE)
        weigh(ledger, AFTER)
        assert list(owners(ledger)) == ["gpu-1"]
        assert len(carry(ledger)) == 1
        assert owners(ledger) == {}

    def test_neither_is_carried_of_a_claim_and_its_deletion_that_go_together(self) -> None:
        ledger, leaver = opened(), author_of(LEAVER)
        leaver.add(add("//Alice", ["gpu-1"]))
        leaver.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 5), "gpu-1")
        hear(ledger, *leaver.events)
        weigh(ledger, GRACE)
        assert needed(ledger) == []

    @pytest.mark.parametrize("bound", [True, False])
    def test_a_deletion_that_does_not_count_any_more_keeps_its_claim_from_being_carried(self, bound: bool) -> None:
        ledger, leaver, gone = opened(), author_of(LEAVER), author_of(STAYER)
        leaver.add(add("//Alice", ["gpu-1"]))
        gone.delete(delete("//Alice", "nodes:gpu-1" if bound else "nodes", NOW_S + 5), "gpu-1")
        hear(ledger, *leaver.events, *gone.events)
        close(ledger, gone, good=1)
        weigh(ledger, GRACE)
        assert list(owners(ledger)) == ["gpu-1"]
        assert needed(ledger) == []

    def test_a_deletion_above_a_cut_is_carried_before_the_add_of_another_gpu_and_in_one_event(self) -> None:
        ledger, author = opened(), author_of(STAYER)
        registration = author.add(add("//Alice", ["gpu-1", "gpu-2"]))
        removal = author.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 5), "gpu-1")
        hear(ledger, *author.events)
        close(ledger, author, good=1)
        (event,) = carry(ledger)
        assert carried([event]) == [removal, registration]
        assert list(owners(ledger)) == ["gpu-2"]

    def test_a_deletion_that_does_not_fit_beside_its_add_comes_in_an_event_before_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(carrying, "CARRIED_MAX", 1)
        ledger, author = opened(), author_of(STAYER)
        registration = author.add(add("//Alice", ["gpu-1", "gpu-2"]))
        removal = author.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 5), "gpu-1")
        hear(ledger, *author.events)
        close(ledger, author, good=1)
        assert [carried([event]) for event in carry(ledger)] == [[removal], [registration]]

    def test_of_many_deletions_the_last_one_is_enough(self) -> None:
        ledger, stayer, leaver = opened(), author_of(STAYER), author_of(LEAVER)
        stayer.add(add("//Alice", ["gpu-1"]))
        removals = [leaver.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 5 + n), "gpu-1") for n in range(9)]
        hear(ledger, *stayer.events, *leaver.events)
        weigh(ledger, GRACE)
        assert carried(carry(ledger)) == removals[-1:]

    def test_a_delete_that_a_later_registration_outlived_is_left_alone(self) -> None:
        ledger, stayer, leaver = opened(), author_of(STAYER), author_of(LEAVER)
        leaver.add(add("//Alice", ["gpu-1"]))
        leaver.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 5), "gpu-1")
        stayer.add(add("//Alice", ["gpu-1"], NOW_S + 9))
        hear(ledger, *stayer.events, *leaver.events)
        weigh(ledger, GRACE)
        assert needed(ledger) == []

    def test_a_delete_of_another_miner_ends_nothing_and_is_left_alone(self) -> None:
        ledger, stayer, leaver = opened(), author_of(STAYER), author_of(LEAVER)
        stayer.add(add("//Alice", ["gpu-1"]))
        leaver.delete(delete("//Bob", "nodes:gpu-1", NOW_S + 5), "gpu-1")
        hear(ledger, *stayer.events, *leaver.events)
        weigh(ledger, GRACE)
        assert needed(ledger) == []

    def test_a_deletion_that_nobody_carried_in_time_ends_a_claim_that_comes_back(self) -> None:
        """Its author and that of the add went together; the miner's request then came again, through another peer."""
        ledger, leaver, stayer = opened(), author_of(LEAVER), author_of(STAYER)
        request = add("//Alice", ["gpu-1"])
        leaver.add(request)
        removal = leaver.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 5), "gpu-1")
        hear(ledger, *leaver.events)
        weigh(ledger, GRACE)
        weigh(ledger, AFTER)
        hear(ledger, *stayer.events, stayer.add(request, at_ms=NOW_MS + 1_000))
        assert list(owners(ledger)) == ["gpu-1"]
        assert carried(carry(ledger)) == [removal]
        assert owners(ledger) == {}


class TestUnboundDeletes:
    """Their authors said which GPU; who said it where it counts is believed, and several GPUs cancel."""

    def test_an_unbound_delete_of_one_that_leaves_is_carried(self) -> None:
        ledger, stayer, leaver = opened(), author_of(STAYER), author_of(LEAVER)
        stayer.add(add("//Alice", ["gpu-1", "gpu-2"]))
        removal = leaver.delete(delete("//Alice", "nodes", NOW_S + 5), "gpu-1")
        hear(ledger, *stayer.events, *leaver.events)
        weigh(ledger, GRACE)
        assert carried(carry(ledger)) == [removal]
        weigh(ledger, AFTER)
        assert list(owners(ledger)) == ["gpu-2"]

    def test_two_deletions_under_one_signature_cancel_and_are_left_alone(self) -> None:
        ledger, stayer, leaver = opened(), author_of(STAYER), author_of(LEAVER)
        stayer.add(add("//Alice", ["gpu-1", "gpu-2"]))
        request = delete("//Alice", "nodes", NOW_S + 5)
        leaver.delete(request, "gpu-1")
        leaver.delete(request, "gpu-2")
        hear(ledger, *stayer.events, *leaver.events)
        weigh(ledger, GRACE)
        assert carry(ledger) == []
        weigh(ledger, AFTER)
        assert sorted(owners(ledger)) == ["gpu-1", "gpu-2"]

    @pytest.mark.parametrize("counted", [STAYER, LEAVER])
    def test_a_thief_that_applies_a_signature_to_another_gpu_does_not_undo_the_deletion(self, counted: str) -> None:
        ledger, keeper, honest, thief = (
            opened(),
            author_of(STAYER, seed=2),
            author_of(counted),
            author_of(STAYER, seed=1),
        )
        keeper.add(add("//Alice", ["gpu-1", "gpu-2"]))
        request = delete("//Alice", "nodes", NOW_S + 5)
        honest.delete(request, "gpu-1")
        thief.delete(request, "gpu-2")
        hear(ledger, *keeper.events, *honest.events, *thief.events)
        close(ledger, thief, good=1)
        weigh(ledger, GRACE)
        carry(ledger)
        weigh(ledger, AFTER)
        assert list(owners(ledger)) == ["gpu-2"]
        assert needed(ledger) == []


class TestEqualNonces:
    """A delete of the very second of a registration ends those claims that every event of it names."""

    def scene(self) -> tuple[Ledger, Author, Author, Add, Add, Delete]:
        ledger, stayer, leaver = opened(), author_of(STAYER), author_of(LEAVER)
        first, second = (sign_add(hotkey("//Alice"), NOW_S, body(["gpu-1"])) for _ in range(2))
        stayer.add(first)
        stayer.add(second)
        return ledger, stayer, leaver, first, second, delete("//Alice", "nodes:gpu-1")

    def test_a_claim_that_one_event_does_not_name_stays_when_that_event_goes(self) -> None:
        ledger, stayer, leaver, first, second, request = self.scene()
        ids = sorted((claim_of(first), claim_of(second)))
        stayer.delete(request, "gpu-1", ids)
        narrow = leaver.delete(request, "gpu-1", [claim_of(first)])
        hear(ledger, *stayer.events, *leaver.events)
        weigh(ledger, GRACE)
        assert owners(ledger) == {"gpu-1": claim_of(second)}
        assert carried(carry(ledger)) == [narrow]
        weigh(ledger, AFTER)
        assert owners(ledger) == {"gpu-1": claim_of(second)}

    def test_as_many_events_are_carried_as_say_what_all_say(self) -> None:
        ledger, stayer, leaver, first, second, request = self.scene()
        third = sign_add(hotkey("//Alice"), NOW_S, body(["gpu-1"]))
        stayer.add(third)
        one, two, three = claim_of(first), claim_of(second), claim_of(third)
        other = author_of(LEAVER, seed=1)
        leaver.delete(request, "gpu-1", sorted((one, two)))
        other.delete(request, "gpu-1", sorted((one, three)))
        hear(ledger, *stayer.events, *leaver.events, *other.events)
        weigh(ledger, GRACE)
        before = owners(ledger)
        assert before == {"gpu-1": min(two, three)}
        assert len(carried(carry(ledger))) == 2
        weigh(ledger, AFTER)
        assert owners(ledger) == before
        with ledger.transaction():
            standing = ledger.facts.standing(["gpu-1"], ledger.weights)["gpu-1"].values()
        assert sorted(claim.id for claim in standing) == sorted((two, three))

    def test_what_lies_above_a_cut_does_not_narrow_what_counts(self) -> None:
        ledger, stayer, leaver, first, second, request = self.scene()
        thief = author_of(STAYER, seed=1)
        ids = sorted((claim_of(first), claim_of(second)))
        leaver.delete(request, "gpu-1", ids)
        thief.delete(request, "gpu-1", [])
        hear(ledger, *stayer.events, *leaver.events, *thief.events)
        close(ledger, thief, good=1)
        weigh(ledger, GRACE)
        carry(ledger)
        weigh(ledger, AFTER)
        assert owners(ledger) == {}


class TestTurns:
    """For each claim one validator carries at once, and the others wait, a step each."""

    def test_the_order_is_the_rendezvous_of_those_who_are_enrolled_and_keep_their_permits(self) -> None:
        ledger, leaver, stayer = opened(), author_of(LEAVER), author_of(STAYER)
        requests = [add("//Alice", [f"gpu-{number}"]) for number in range(20)]
        for request in requests:
            leaver.add(request)
        hear(ledger, *stayer.events, *leaver.events)
        weigh(ledger, GRACE)
        step = step_ms(GRACE, 2)
        order = {OWN: 100, stayer.hotkey.public_key: 100}
        expected = [ranking(claim_of(request), order).index(OWN) * step for request in requests]
        assert [need.wait_ms for need in walk(ledger)] == expected
        others = [need.wait_ms for need in walk(ledger, stayer.hotkey.public_key)]
        assert sorted({one + other for one, other in zip(expected, others, strict=True)}) == [step]

    def test_who_is_not_enrolled_waits_for_all_who_are(self) -> None:
        ledger, leaver = opened(), author_of(LEAVER)
        hear(ledger, *leaver.events, leaver.add(add("//Alice", ["gpu-1"])))
        weigh(ledger, GRACE)
        assert [need.wait_ms for need in walk(ledger, hotkey(STAYER).public_key)] == [step_ms(GRACE, 1)]

    def test_who_lost_its_own_permit_carries_nothing(self) -> None:
        ledger, leaver = opened(), author_of(LEAVER)
        hear(ledger, *leaver.events, leaver.add(add("//Alice", ["gpu-1"])))
        weigh(ledger, GRACE)
        assert walk(ledger, leaver.hotkey.public_key) == []
        keys = [need.key for need in walk(ledger)]
        with ledger.transaction():
            assert carrying.carry(ledger, keys, leaver.hotkey.public_key, NOW_MS) == (1, 0)

    def test_the_author_of_what_lies_above_a_cut_of_its_own_log_does_not_wait(self) -> None:
        ledger, stayer = opened(), author_of(STAYER)
        for number in range(20):
            stayer.add(add("//Alice", [f"gpu-{number}"]))
        hear(ledger, *stayer.events)
        close(ledger, stayer, good=1)
        assert {need.wait_ms for need in walk(ledger, stayer.hotkey.public_key)} == {0}
        assert max(need.wait_ms for need in walk(ledger)) > 0

    @pytest.mark.parametrize(
        ("apart_s", "validators", "expected_ms"),
        [(1_200, 3, STEP_MS_MAX), (1_200, 64, 9_375), (60, 4, 7_500), (1, 64, STEP_MS_MIN), (60, 0, STEP_MS_MAX)],
    )
    def test_all_have_their_turn_in_the_first_half_of_the_grace(
        self, apart_s: int, validators: int, expected_ms: int
    ) -> None:
        who = Electorate(Pin(200, NOW_MS + apart_s * 1_000, {}, {}, {}), Pin(100, NOW_MS, {}, {}, {}))
        assert step_ms(who, validators) == expected_ms

    def test_without_a_block_before_there_is_no_grace_to_fit_into(self) -> None:
        assert step_ms(electorate(), 3) == STEP_MS_MAX


class TestWriting:
    """One event holds what fits, and everything is decided once more when it is written."""

    def test_what_was_carried_meanwhile_is_not_carried_again(self) -> None:
        ledger, leaver, stayer = opened(), author_of(LEAVER), author_of(STAYER)
        event = leaver.add(add("//Alice", ["gpu-1"]))
        hear(ledger, *leaver.events)
        weigh(ledger, GRACE)
        keys = [need.key for need in walk(ledger)]
        hear(ledger, *stayer.events, stayer.write(Carry((event.wire,))))
        with ledger.transaction():
            assert carrying.carry(ledger, keys, OWN, NOW_MS) == (1, 0)
        assert ledger.news.take_appended()[1:] == []

    def test_an_event_holds_as_many_requests_as_a_carry_may(self) -> None:
        ledger, leaver = opened(), author_of(LEAVER)
        for number in range(CARRIED_MAX + 7):
            leaver.add(add("//Alice", [f"gpu-{number}"]))
        hear(ledger, *leaver.events)
        weigh(ledger, GRACE)
        events = carry(ledger)
        assert [len(carried([event])) for event in events] == [CARRIED_MAX, 7]
        weigh(ledger, AFTER)
        assert len(owners(ledger)) == CARRIED_MAX + 7

    def test_an_event_holds_as_many_bytes_as_a_payload_may(self) -> None:
        ledger, leaver = opened(), author_of(LEAVER)
        for number in range(12):
            plain = body([f"gpu-{number}"])
            large = plain + b" " * ((BODY_BYTES_MAX if number % 3 == 0 else 20_000) - len(plain))
            leaver.add(sign_add(hotkey("//Alice"), NOW_S, large))
        hear(ledger, *leaver.events)
        weigh(ledger, GRACE)
        events = carry(ledger)
        assert sorted(event.id for event in carried(events)) == sorted(event.id for event in leaver.events[1:])
        assert all(len(event.payload) <= PAYLOAD_BYTES_MAX for event in events)
        assert all(
            len(event.payload) + len(carried([following])[0].wire) > PAYLOAD_BYTES_MAX
            for event, following in pairwise(events)
        )

    def test_a_payload_is_filled_to_its_very_last_byte(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the encoding takes beside the events is counted right: else peers refuse the event as too large."""
        ledger, leaver = opened(), author_of(LEAVER)
        for number in range(20):  # an array of more than 15 has the longer head
            leaver.add(sign_add(hotkey("//Alice"), NOW_S, body([f"gpu-{number}"])))
        hear(ledger, *leaver.events)
        weigh(ledger, GRACE)
        size = len(codec.pack(Carry(tuple(event.wire for event in leaver.events[1:])).to_wire()))
        monkeypatch.setattr(carrying, "PAYLOAD_BYTES_MAX", size + 20 * 2)  # byte strings this short have shorter heads
        assert [len(event.payload) for event in carry(ledger)] == [size]

    def test_nothing_is_written_while_writes_are_refused(self) -> None:
        ledger, leaver = opened(), author_of(LEAVER)
        hear(ledger, *leaver.events, leaver.add(add("//Alice", ["gpu-1"])))
        weigh(ledger, GRACE)
        ledger.writes_refused = "the clock is off"
        with pytest.raises(WritesRefusedError, match="the clock is off"):
            carry(ledger)


class TestWalk:
    """A walk finds everything, in parts that cost no more than what they look at."""

    def test_parts_of_any_size_find_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger, leaver, stayer = opened(), author_of(LEAVER), author_of(STAYER)
        for number in range(40):
            author, other = (leaver, stayer) if number % 2 else (stayer, leaver)
            author.add(add("//Alice", [f"gpu-{number}", f"gpu-{number}-b"]))
            if number % 3:
                other.delete(delete("//Alice", f"nodes:gpu-{number}", NOW_S + 5), f"gpu-{number}")
        hear(ledger, *leaver.events, *stayer.events)
        weigh(ledger, GRACE)
        expected = needed(ledger)
        assert len(expected) == 33  # the leaver's 20 claims, and 13 of the others that its deletes end
        for size in (1, 2, 7):
            monkeypatch.setattr(carrying, "CLAIMS_PER_PART", size)
            monkeypatch.setattr(carrying, "DELETIONS_PER_PART", size)
            monkeypatch.setattr(carrying, "DECIDED_PER_PART", 3)
            assert needed(ledger) == expected

    @pytest.fixture
    def crowded(self) -> Ledger:
        """Sixty claims on one GPU, and twenty deletions of it by one who leaves, which end all of them."""
        ledger, leaver, stayer = opened(), author_of(LEAVER), author_of(STAYER)
        for number in range(60):
            stayer.add(add("//Alice", ["gpu-1", f"gpu-1-{number}"]))
        for number in range(20):
            leaver.delete(delete("//Alice", "nodes:gpu-1", NOW_S + 5 + number), "gpu-1")
        hear(ledger, *leaver.events, *stayer.events)
        weigh(ledger, GRACE)
        return ledger

    def test_no_part_decides_or_sifts_more_than_its_bounds(
        self, crowded: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for decided, sifted in ((8, 1_024), (1_024, 8)):
            monkeypatch.setattr(carrying, "DECIDED_PER_PART", decided)
            monkeypatch.setattr(carrying, "CLAIMS_PER_PART", sifted)
            found: set[int] = set()
            cursor: Cursor | None = Cursor(claim=None)
            while cursor is not None:
                part = carrying.part(crowded.facts, cursor, crowded.weights, OWN)
                assert len(part.needs) <= 8
                found.update(need.key for need in part.needs)
                cursor = part.cursor
            assert len(found) == 60

    def test_claims_that_many_deletions_end_are_decided_once(
        self, crowded: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        effects = 0
        effect = carrying._effect

        def count(*arguments: Any) -> Any:
            nonlocal effects
            effects += 1
            return effect(*arguments)

        monkeypatch.setattr(carrying, "_effect", count)
        assert len(walk(crowded)) == 60
        assert effects == 2 * 20

    def test_where_all_lasts_a_walk_is_one_look(self) -> None:
        ledger, stayer = opened(), author_of(STAYER)
        for number in range(4):
            stayer.add(add("//Alice", [f"gpu-{number}"]))
        hear(ledger, *stayer.events)
        queries: list[str] = []
        ledger.facts.connection.set_trace_callback(queries.append)
        assert walk(ledger) == []
        assert len(queries) == 2  # which cut is in force, and the logs


# -- every world -------------------------------------------------------------------------------------------------------


def registered_at(who: Electorate, miner: str, block: int) -> Electorate:
    current = who.current._replace(registered={**who.current.registered, hotkey(miner).public_key: block})
    return Electorate(current, who.previous)


def lived(world: World, who: Electorate) -> Ledger:
    """A ledger of the first validator that holds a whole world, and weighs with ``who``."""
    ledger = opened(VALIDATORS[0])
    everybody = Pin(1, 0, {hotkey(uri).public_key: 1 for uri in VALIDATORS}, {}, {})
    weigh(ledger, Electorate(everybody))
    with ledger.transaction():
        ledger.receive(world.events, world.end_ms)
    weigh(ledger, who)
    return ledger


def graced(world: World, keep: Iterable[str]) -> Electorate:
    """The last electorate of a world: some validators and the first keep their permits, the others for an epoch."""
    current = world.electorates[-1].current
    permits = {hotkey(uri).public_key: 10 for uri in VALIDATORS}
    kept = {hotkey(uri).public_key: 10 for uri in keep}
    return Electorate(
        current._replace(validators={**kept, OWN: 10}), Pin(current.block - 1, current.time_ms - 1_000, permits, {}, {})
    )


keepers = st.sets(st.sampled_from(VALIDATORS), max_size=3)


def standing(ledger: Ledger) -> dict[str, list[bytes]]:
    """The standing claims on every GPU."""
    uuids = ledger.facts.gpus()
    found = ledger.facts.standing(uuids, ledger.weights)
    return {uuid: [claim.id for claim in claims.values()] for uuid, claims in found.items()}


def cancelled(ledger: Ledger) -> set[str]:
    """GPUs that unbound deletes name which name others, too."""
    named: dict[bytes, set[str]] = {}
    rows = ledger.facts.connection.execute("SELECT request_id, uuid FROM deletion WHERE bound = 0")
    for request, uuid in rows:
        named.setdefault(request, set()).add(uuid)
    return {uuid for uuids in named.values() if len(uuids) > 1 for uuid in uuids}


class TestEveryWorld:
    """Whatever was said: when the grace is over, the inventory is what it was."""

    @settings(max_examples=100)
    @given(worlds(), keepers)
    def test_the_same_claims_stand_after_the_grace_as_before(self, world: World, keep: set[str]) -> None:
        who = graced(world, keep)
        ledger = lived(world, who)
        before = standing(ledger)
        carry(ledger, world.end_ms)
        assert standing(ledger) == before
        weigh(ledger, Electorate(who.current._replace(block=who.block + 1), who.current))
        loose = cancelled(ledger)
        assert {uuid: ids for uuid, ids in standing(ledger).items() if uuid not in loose} == {
            uuid: ids for uuid, ids in before.items() if uuid not in loose
        }
        assert needed(ledger) == []

    @settings(max_examples=100)
    @given(worlds(), keepers, st.data())
    def test_after_any_closings_nothing_is_lost_and_nothing_deleted_comes_back(
        self, world: World, keep: set[str], data: st.DataObject
    ) -> None:
        """Closings of any logs anywhere, and permits gone: what stands is what all that is known says."""
        who = graced(world, keep)
        expected = standing(lived(world, who))
        ledger = lived(world, who)
        for log, state in list(ledger.state.logs.items()):
            if log != ledger.own_log and data.draw(st.booleans()):
                good = data.draw(st.integers(0, state.head.seq + 1))
                heads = ledger.facts.event_ids(log, [good - 1])
                uri = next(uri for uri in VALIDATORS if hotkey(uri).public_key == state.hotkey)
                head = Head(good - 1, heads[good - 1]) if good else None
                with ledger.transaction():
                    ledger.receive_proofs([closing(hotkey(uri), NETWORK.id, log, head)], NOW_MS)
        carry(ledger, world.end_ms)
        weigh(ledger, Electorate(who.current._replace(block=who.block + 1), who.current))
        carry(ledger, world.end_ms)
        loose = cancelled(ledger) | narrowed(ledger)
        assert {uuid: ids for uuid, ids in standing(ledger).items() if uuid not in loose} == {
            uuid: ids for uuid, ids in expected.items() if uuid not in loose
        }


def narrowed(ledger: Ledger) -> set[str]:
    """GPUs with a delete whose events name different claims: which of them count decides at an equal nonce."""
    rows = ledger.facts.connection.execute(
        "SELECT uuid FROM deletion GROUP BY uuid, request_id HAVING count(DISTINCT claim_ids) > 1"
    )
    return {uuid for (uuid,) in rows}
