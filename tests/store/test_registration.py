"""A miner that leaves the chain leaves the inventory at one electorate everywhere; once back, it registers again."""

from collections.abc import Callable
from typing import Final

import pytest

from p2pnodes.model.claims import parse_body
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import Carry
from p2pnodes.model.inventory import Objection, objection
from p2pnodes.model.requests import Add, request_id
from p2pnodes.store import admission
from p2pnodes.store.ledger import Ledger
from tests.support import BLOCK, NETWORK, NOW_MS, VALIDATORS, Author, add, delete, electorate, hotkey, memory_ledger

EPOCH: Final = 100
EPOCH_MS: Final = 1_200_000


def course(*registrations: int | None) -> list[Electorate]:
    """Electorates one after the other, with Alice registered at these blocks, or not at all."""
    found: list[Electorate] = []
    for number, block in enumerate(registrations):
        plain = electorate(BLOCK + EPOCH * number, NOW_MS + EPOCH_MS * number)
        registered = {key: at for key, at in plain.current.registered.items() if key != hotkey("//Alice").public_key}
        if block is not None:
            registered[hotkey("//Alice").public_key] = block
        pin: Pin = plain.current._replace(registered=registered)
        found.append(Electorate(pin, found[-1].current if found else None))
    return found


def peer(who: Electorate) -> Ledger:
    return memory_ledger(who=who)


def hear(ledger: Ledger, author: Author) -> None:
    with ledger.transaction():
        ledger.receive(author.events, NOW_MS + 10 * EPOCH_MS)


def weigh(ledger: Ledger, who: Electorate) -> None:
    with ledger.transaction():
        ledger.set_electorate(who)


def listed(ledger: Ledger) -> dict[str, bytes]:
    rows = ledger.facts.connection.execute("SELECT uuid, claim_id FROM node JOIN claim USING (claim)").fetchall()
    return dict(rows)


def claim_of(request: Add) -> bytes:
    return request_id(NETWORK.id, request)


@pytest.fixture
def author() -> Author:
    author = Author("//validator1")
    author.delegate()
    return author


class TestLeaving:
    """At the electorate that does not list it any more, and at no other."""

    def test_its_gpus_are_gone_with_the_electorate_that_does_not_list_it(self, author: Author) -> None:
        there, gone = course(0, None)
        ledger = peer(there)
        author.add(add("//Alice", ["gpu-1", "gpu-2"]))
        author.add(add("//Bob", ["gpu-3"]))
        hear(ledger, author)
        assert sorted(listed(ledger)) == ["gpu-1", "gpu-2", "gpu-3"]
        weigh(ledger, gone)
        assert list(listed(ledger)) == ["gpu-3"]

    def test_there_is_no_grace_for_miners(self, author: Author) -> None:
        """The block before still lists it; that is for the permits of validators."""
        there, gone = course(0, None)
        ledger = peer(there)
        author.add(add("//Alice", ["gpu-1"]))
        hear(ledger, author)
        weigh(ledger, gone)
        assert gone.previous is not None
        assert hotkey("//Alice").public_key in gone.previous.registered
        assert listed(ledger) == {}

    def test_the_next_claim_takes_over_and_keeps_the_gpu_from_who_comes_back(self, author: Author) -> None:
        there, gone, back = course(0, None, BLOCK + 150)
        ledger = peer(there)
        first, second = add("//Alice", ["gpu-1"]), add("//Bob", ["gpu-1"], NOW_MS // 1000 + 1)
        author.add(first)
        author.add(second)
        hear(ledger, author)
        assert listed(ledger) == {"gpu-1": claim_of(first)}
        for who in (gone, back):
            weigh(ledger, who)
            assert listed(ledger) == {"gpu-1": claim_of(second)}

    def test_an_event_that_comes_later_does_not_bring_it_back(self, author: Author) -> None:
        (_, gone) = course(0, None)
        ledger = peer(gone)
        author.add(add("//Alice", ["gpu-1"]))
        hear(ledger, author)
        assert listed(ledger) == {}


class TestComingBack:
    """Who registers on the chain again begins anew: what it claimed before is not its own any more."""

    @pytest.mark.parametrize(
        "seen",
        [
            pytest.param([0, 1, 2, 3], id="a peer that saw everything"),
            pytest.param([0, 3], id="a peer that slept through its absence"),
            pytest.param([3], id="a newcomer"),
            pytest.param([0, 1, 3], id="a peer that slept through its return"),
        ],
    )
    def test_its_old_claim_does_not_count_for_any_peer(self, author: Author, seen: list[int]) -> None:
        electorates = course(0, None, None, BLOCK + 250)
        author.add(add("//Alice", ["gpu-1"]))
        ledger = peer(electorates[seen[0]])
        hear(ledger, author)
        for number in seen[1:]:
            weigh(ledger, electorates[number])
        assert listed(ledger) == {}
        everything = peer(electorates[-1])
        hear(everything, author)
        assert ledger.state.state_root == everything.state.state_root
        assert ledger.state.electorate_digest == everything.state.electorate_digest

    def test_nor_when_it_left_and_came_back_between_two_pinned_blocks(self, author: Author) -> None:
        before, after = course(0, BLOCK + 50)
        ledger = peer(before)
        request = add("//Alice", ["gpu-1"])
        author.add(request)
        hear(ledger, author)
        weigh(ledger, after)
        assert listed(ledger) == {}
        key = ledger.facts.claim_key(claim_of(request))
        assert key is not None
        claim = ledger.facts.claim(key)
        assert claim is not None
        assert objection(claim, after) is Objection.REGISTERED_LATER

    @pytest.mark.parametrize(("block", "counts"), [(BLOCK, True), (BLOCK + 1, False)])
    def test_a_claim_counts_from_the_very_block_of_the_registration_on(
        self, author: Author, block: int, counts: bool
    ) -> None:
        _, after = course(0, block)
        ledger = peer(after)
        author.add(add("//Alice", ["gpu-1"]), block=BLOCK)
        hear(ledger, author)
        assert bool(listed(ledger)) is counts

    def test_it_is_listed_again_when_it_registers_its_gpus_again(self, author: Author) -> None:
        electorates = course(0, None, BLOCK + 150)
        awake, asleep = peer(electorates[0]), peer(electorates[0])
        author.add(add("//Alice", ["gpu-1"]))
        for ledger in (awake, asleep):
            hear(ledger, author)
        for who in electorates[1:]:
            weigh(awake, who)
        weigh(asleep, electorates[-1])
        again = add("//Alice", ["gpu-1"], NOW_MS // 1000 + 2 * EPOCH_MS // 1000)
        author.add(again, block=electorates[-1].block, at_ms=NOW_MS + 2 * EPOCH_MS)
        for ledger in (awake, asleep):
            hear(ledger, author)
            assert listed(ledger) == {"gpu-1": claim_of(again)}
        assert awake.state == asleep.state

    def test_the_very_same_request_is_recorded_anew_and_counts_then(self, writer: Ledger) -> None:
        """A miner that is away for minutes may repeat its request: its nonce is not too old yet."""
        there, back = course(0, BLOCK + 50)
        weigh(writer, there)
        request = add("//Alice", ["gpu-1"])
        body = parse_body(request.body)

        def admit() -> None:
            with writer.transaction():
                admission.admit_add(writer, request, body, None, NOW_MS)

        admit()
        weigh(writer, back)
        assert listed(writer) == {}
        events = writer.state.events
        admit()
        assert writer.state.events == events + 1
        assert listed(writer) == {"gpu-1": claim_of(request)}
        admit()
        assert writer.state.events == events + 1

    def test_a_carry_does_not_stand_for_a_new_registration(self, author: Author) -> None:
        """It names the electorate block of the event that it carries, whatever the carrier knows."""
        _, after = course(0, BLOCK + 50)
        ledger = peer(after)
        event = author.add(add("//Alice", ["gpu-1"]))
        carrier = Author("//validator2")
        carrier.delegate()
        carrier.write(Carry((event.wire,)), at_ms=NOW_MS + EPOCH_MS)
        for each in (author, carrier):
            hear(ledger, each)
        assert listed(ledger) == {}

    def test_what_it_deleted_before_stays_deleted(self, author: Author) -> None:
        electorates = course(0, None, BLOCK + 150)
        ledger = peer(electorates[0])
        author.add(add("//Alice", ["gpu-1"]))
        author.delete(delete("//Alice", "nodes:gpu-1", NOW_MS // 1000 + 5), "gpu-1")
        hear(ledger, author)
        for who in electorates[1:]:
            weigh(ledger, who)
            assert listed(ledger) == {}


class TestVotes:
    """What validators said of a claim is not forgotten, and gives no right to a GPU."""

    @pytest.fixture
    def verify(self, author: Author) -> Callable[[Ledger, bytes], None]:
        def say(ledger: Ledger, claim_id: bytes) -> None:
            for uri in VALIDATORS:
                voter = Author(uri, seed=5)
                voter.delegate()
                voter.verdict(claim_id)
                hear(ledger, voter)

        return say

    def test_a_verified_claim_of_one_that_left_owns_nothing(
        self, author: Author, verify: Callable[[Ledger, bytes], None]
    ) -> None:
        there, gone = course(0, None)
        ledger = peer(there)
        first, second = add("//Alice", ["gpu-1"]), add("//Bob", ["gpu-1"], NOW_MS // 1000 + 1)
        author.add(first)
        author.add(second)
        hear(ledger, author)
        verify(ledger, claim_of(first))
        assert listed(ledger) == {"gpu-1": claim_of(first)}
        weigh(ledger, gone)
        assert listed(ledger) == {"gpu-1": claim_of(second)}

    def test_who_is_back_is_checked_again_before_it_is_verified(
        self, author: Author, verify: Callable[[Ledger, bytes], None]
    ) -> None:
        there, back = course(0, BLOCK + 50)
        ledger = peer(there)
        first = add("//Alice", ["gpu-1"])
        author.add(first)
        hear(ledger, author)
        verify(ledger, claim_of(first))
        weigh(ledger, back)
        again = add("//Alice", ["gpu-1"], NOW_MS // 1000 + 60)
        author.add(again, block=back.block, at_ms=NOW_MS + 60_000)
        hear(ledger, author)
        statuses = ledger.facts.connection.execute("SELECT uuid, status FROM node").fetchall()
        assert statuses == [("gpu-1", "pending")]
