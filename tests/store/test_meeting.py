"""A checkpoint meets a disk that holds something else: whatever that was, it ends as everywhere.

Another branch of a forked log, another part of the world, an earlier checkpoint, half of a live set: who loads over it,
and then hears the rest, holds what the donor holds, and nothing names what is gone.
"""

import sqlite3
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from copy import copy
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from p2pnodes.model.checkpoint import Line, judge_kept, line_of, stakes_of, suffices
from p2pnodes.model.claims import parse_body
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import P2PNodesError, StoreError
from p2pnodes.model.events import Carry, Checkpoint, Event, Head, LogId, Place, Release
from p2pnodes.model.requests import request_id
from p2pnodes.store import checkpoints, cutting, settling
from p2pnodes.store import ledger as ledger_module
from p2pnodes.store.admission import admit_add
from p2pnodes.store.audit import audit
from p2pnodes.store.checkpoints import Donor, Stage
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.loading import Answer, Found, consider
from p2pnodes.store.loading import load as load_slice
from p2pnodes.store.proposing import hindrance, objection
from p2pnodes.store.rebuild import differences, hold, rebuild
from p2pnodes.store.schema import open_writer
from tests.model.world import VALIDATORS, Proof, proofs_in, signed_closing
from tests.store.references import dangling
from tests.store.restarts import assert_a_start_finds_it
from tests.store.test_checkpoints import (
    CHUTE,
    DAY_MS,
    Lives,
    _made_final,
    certificate,
    cut,
    found,
    later,
    lives,
    load,
    proposed,
    small_slices,
    writers,
)
from tests.store.test_equivalence import Replica
from tests.support import BLOCK, NETWORK, NOW_S, Author, add, delete, finish_moves, hotkey
from tests.support import electorate as world_electorate

__all__ = ["small_slices", "writers"]  # fixtures

pytestmark = pytest.mark.timeout(400)

MORE: Final = (*["fork"] * 6, "place", "place", "delete often", "reuse", "carry often", "carry", "renew")
"""What makes branches differ."""

Draw = Callable[..., Any]
"""``DataObject.draw``."""

STEPS_MAX: Final = 8
UNHEARD_MAX: Final = 3

LONG_S: Final = NOW_S + 99 * 86_400
END_MS: Final = (NOW_S + 30 * 86_400) * 1000


def replicas() -> tuple[Replica, Replica]:
    """A donor, and a daemon that is to meet its checkpoint."""
    donor, other = Replica(END_MS), Replica(END_MS)
    for each in (donor, other):
        each.weigh(world_electorate())
    return donor, other


def loaded(donor: Replica, other: Replica, days: int = 8) -> None:
    """Make a checkpoint after so many days, and let the other one load it."""
    weighed = later(world_electorate(), days * DAY_MS)
    wire = _made_final(donor, weighed)
    other.weigh(weighed)
    load(donor.ledger, other.ledger, wire, range(checkpoints.certified(NETWORK, wire).statement.slices))


def same(donor: Replica, other: Replica) -> None:
    """Require that both show the same, and that the other one's disk is whole."""
    assert dangling(other.ledger.facts.connection) == []
    other.check(donor.shown())
    assert other.ledger.state.vector_digest == donor.ledger.state.vector_digest
    assert Ledger(other.ledger.facts.connection, NETWORK).state == other.ledger.state
    hold(other.ledger.facts.connection)
    assert differences(other.ledger) == []
    other.check(donor.shown())


def test_a_place_that_is_kept_counts_where_another_branch_said_something_later(writers: list[Author]) -> None:
    donor, other = replicas()
    request = add("//Alice", ["gpu-1"])
    claim_id = request_id(NETWORK.id, request)
    shared = [event for each in writers for event in each.events]
    shared += [writers[0].add(request), writers[1].write(Place(claim_id, ("gpu-1",), *CHUTE))]
    clone = copy(writers[1])
    clone.clock = copy(clone.clock)
    donor.hear([*shared, *[writers[1].verdict(bytes(32)) for _ in range(3)]])
    other.hear([*shared, clone.write(Release(claim_id, ("gpu-1",)))])
    loaded(donor, other)
    assert donor.shown()["gpu-1"].chute == CHUTE
    same(donor, other)


@pytest.mark.parametrize("rebuilt_after", [None, 0, 99])
def test_a_place_that_is_kept_counts_again_where_what_replaced_it_ends_though_all_was_derived_anew_meanwhile(
    writers: list[Author], rebuilt_after: int | None
) -> None:
    """Behind so many slices: before the one with the place came, what replaced it seemed to replace nothing."""
    donor, other = replicas()
    request = add("//Alice", ["gpu-1"])
    claim_id = request_id(NETWORK.id, request)
    shared = [event for each in writers for event in each.events]
    shared += [writers[0].add(request), writers[1].write(Place(claim_id, ("gpu-1",), *CHUTE))]
    shared += [writers[1].verdict(bytes(32)) for _ in range(3)]
    weighed = later(world_electorate(), 8 * DAY_MS)
    for each in (donor, other):
        each.hear(shared)
        each.weigh(weighed)
    wire = _made_final(donor, weighed)
    last = writers[1].head
    above = [writers[1].write(Release(claim_id, ("gpu-1",)), at_ms=weighed.time_ms)]
    for each in (donor, other):
        each.hear(above)
    ledger = other.ledger
    with ledger.transaction():
        ledger.begin_loading(wire)
    slices = checkpoints.certified(NETWORK, wire).statement.slices
    for index in range(slices + 1):
        if rebuilt_after is not None and index == min(rebuilt_after, slices):
            with ledger.transaction():
                ledger.rebuild()
        if index < slices:
            with ledger.transaction():
                ledger.load(index, *Donor().slice(donor.ledger.facts.connection, ledger.checkpoints.line.number, index))
    cut(ledger)
    assert [row.chute for row in other.shown().values()] == [None]
    close = signed_closing(VALIDATORS[1], writers[1].log, last)
    for each in (donor, other):
        each.hear([close])
        finish_moves(each.ledger)
    assert [row.chute for row in donor.shown().values()] == [CHUTE]
    same(donor, other)


def test_a_deletion_that_is_kept_counts_where_another_branch_used_its_signature_twice(writers: list[Author]) -> None:
    donor, other = replicas()
    requests = [add("//Alice", [f"gpu-{number}"]) for number in range(3)]
    ends = delete("//Alice", "nodes", NOW_S + 1)
    shared = [event for each in writers for event in each.events]
    shared += [writers[0].add(request) for request in requests]
    clone = copy(writers[1])
    clone.clock = copy(clone.clock)
    donor.hear([*shared, *[writers[1].verdict(bytes(32)) for _ in range(3)], writers[1].delete(ends, "gpu-2")])
    other.hear([*shared, clone.delete(ends, "gpu-0"), clone.delete(ends, "gpu-1")])
    loaded(donor, other)
    assert sorted(donor.shown()) == ["gpu-0", "gpu-1"]
    same(donor, other)


@pytest.mark.parametrize("rebuilt_after", [None, 0, 1, 99])
def test_the_window_of_a_log_is_that_of_the_branch_that_a_checkpoint_took(
    writers: list[Author], rebuilt_after: int | None
) -> None:
    """Also where an upgrade derives all anew behind so many slices: behind the last one, from that branch alone."""
    donor, other = replicas()
    shared = [event for each in writers for event in each.events]
    shared.append(writers[0].add(add("//Alice", ["gpu-1"])))
    clone = copy(writers[1])
    clone.clock = copy(clone.clock)
    short = clone.write(clone.delegation(not_after=NOW_S + 86_400))
    donor.hear([*shared, *[writers[1].verdict(bytes(32)) for _ in range(3)]])
    other.hear([*shared, short])
    weighed = later(world_electorate(), 8 * DAY_MS)
    wire = _made_final(donor, weighed)
    other.weigh(weighed)
    ledger = other.ledger
    with ledger.transaction():
        ledger.begin_loading(wire)
    number, slices = ledger.checkpoints.line.number, checkpoints.certified(NETWORK, wire).statement.slices
    for index in range(slices + 1):
        if rebuilt_after is not None and index == min(rebuilt_after, slices):
            with ledger.transaction():
                ledger.rebuild()
        if index < slices:
            with ledger.transaction():
                ledger.load(index, *Donor().slice(donor.ledger.facts.connection, number, index))
        assert_a_start_finds_it(ledger)
    while ledger.checkpoints.stage is Stage.LOADING:
        with ledger.transaction():
            ledger.cut()
    assert ledger.logs[clone.log].prefix.delegation == donor.ledger.logs[clone.log].prefix.delegation
    more = [writers[1].add(add("//Bob", ["gpu-2"], weighed.time_ms // 1000), at_ms=weighed.time_ms)]
    assert len(ledger.weights.enrolled) == 3
    other.hear(more)
    cut(ledger)
    donor.hear(more)
    same(donor, other)


def test_a_claim_is_read_from_an_event_that_still_carries_it(writers: list[Author]) -> None:
    """A carry is kept for one of its claims; the other one is kept in a later event of that log."""
    donor, other = replicas()
    one, two = (add("//Alice", [uuid]) for uuid in ("gpu-1", "gpu-2"))
    shared = [event for each in writers for event in each.events]
    dave = Author("//Dave")
    first = [dave.add(request, block=BLOCK - 1, at_ms=NOW_S * 1000 + 9_000) for request in (one, two)]
    shared += [writers[0].write(Carry(tuple(event.wire for event in first))), writers[0].add(two)]
    for each in (donor, other):
        each.hear(shared)
    loaded(donor, other)
    number = donor.ledger.checkpoints.line.number
    kept = [leaf for leaf in checkpoints.kept_leaves(donor.ledger.facts.connection, number) if leaf.kind == "carry"]
    assert [leaf.items for leaf in kept] == [(0,)]
    same(donor, other)
    for claim in (one, two):
        assert other.ledger.facts.raw_body(request_id(NETWORK.id, claim)) == claim.body


def test_a_log_whose_first_event_has_a_rival_of_another_hotkey_speaks_for_whom_the_checkpoint_names(
    writers: list[Author],
) -> None:
    donor, other = replicas()
    shared = [event for each in writers for event in each.events]
    twin, clone = Author(VALIDATORS[1], seed=7), Author(VALIDATORS[2], seed=7)
    clone.node_key, clone.log = twin.node_key, twin.log
    ours = [twin.write(twin.delegation(not_after=LONG_S)), twin.add(add("//Alice", ["gpu-1"]))]
    theirs = [clone.write(clone.delegation(not_after=LONG_S)), clone.add(add("//Bob", ["gpu-2"]))]
    donor.hear([*shared, *ours])
    other.hear([*shared, *theirs])
    assert sorted(other.shown()) == ["gpu-2"]
    loaded(donor, other)
    same(donor, other)
    assert {log: state.hotkey for log, state in other.ledger.logs.items()} == {
        log: state.hotkey for log, state in donor.ledger.logs.items()
    }


def test_a_closing_beyond_the_cut_is_read_without_the_branch_that_went(writers: list[Author]) -> None:
    donor, other = replicas()
    shared = [event for each in writers for event in each.events]
    shared.append(writers[0].add(add("//Alice", ["gpu-1"])))
    clone = copy(writers[1])
    clone.clock = copy(clone.clock)
    ours = [writers[1].verdict(bytes(32)) for _ in range(4)]
    theirs = [clone.verdict(bytes([1]) * 32) for _ in range(4)]
    donor.hear([*shared, *ours[:2]])
    other.hear([*shared, *theirs])
    close = signed_closing(VALIDATORS[1], clone.log, Head(theirs[-1].seq, bytes(32)))
    other.hear([close])
    loaded(donor, other)
    donor.hear([close])
    ledger = other.ledger
    assert {log: state.cut for log, state in ledger.logs.items()} == {
        log: ledger.cut_of(state) for log, state in ledger.logs.items()
    }
    same(donor, other)


def test_two_checkpoints_follow_one_and_the_later_one_names_fewer_logs(writers: list[Author]) -> None:
    """The first one was half loaded: what only that names cannot go on here, and comes again from its beginning."""
    one, two, other = Replica(END_MS), Replica(END_MS), Replica(END_MS)
    extra = Author("//Eve")
    shared = [event for each in writers for event in each.events]
    shared += [extra.write(extra.delegation(not_after=LONG_S)), extra.add(add("//Bob", ["gpu-2"]))]
    shared += [writers[0].add(add("//Alice", ["gpu-1"])), *[extra.verdict(bytes(32)) for _ in range(3)]]
    who = world_electorate(stakes=dict.fromkeys((*VALIDATORS[:3], "//Eve"), 100))
    for each in (one, two, other):
        each.weigh(who)
    for each in (one, two):
        each.hear(shared)
    other.hear([each.events[0] for each in writers])
    first = _made_final(one, later(who, 8 * DAY_MS))
    without = later(later(world_electorate(), 8 * DAY_MS), 2 * DAY_MS)
    second = _made_final(two, without)
    for slices in (0, 1, 99):
        begun = Replica(END_MS)
        other.ledger.facts.connection.backup(begun.ledger.facts.connection)
        begun.ledger = Ledger(begun.ledger.facts.connection, NETWORK)
        ledger = begun.ledger
        with ledger.transaction():
            ledger.begin_loading(first)
        for index in range(min(slices, checkpoints.certified(NETWORK, first).statement.slices)):
            with ledger.transaction():
                ledger.load(index, *Donor().slice(one.ledger.facts.connection, ledger.checkpoints.line.number, index))
        begun.weigh(without)
        load(two.ledger, ledger, second, range(checkpoints.certified(NETWORK, second).statement.slices))
        assert ledger.state.events == len(ledger.facts.connection.execute("SELECT 1 FROM events").fetchall())
        for each in (begun, two):
            each.weigh(later(who, 11 * DAY_MS))
            each.hear(shared)
        same(two, begun)


def test_what_was_proposed_and_signed_goes_with_its_events(writers: list[Author]) -> None:
    """Not in a later transaction: a signature more would have a certificate made of events that are gone."""
    donor, _ = replicas()
    donor.hear([event for each in writers for event in each.events])
    donor.hear([writers[0].add(add("//Alice", ["gpu-1"]))])
    weighed = later(world_electorate(), 8 * DAY_MS)
    donor.weigh(weighed)
    made = proposed(donor.ledger)
    assert made is not None
    payload = made[1]._replace(number=made[1].number + 1)
    said = writers[0].write(payload)
    donor.hear([said, *[each.write(Checkpoint(payload.number, said.id, 1, 1, bytes(32))) for each in writers]])
    donor.weigh(later(world_electorate(), 9 * DAY_MS))
    execute = donor.ledger.facts.connection.execute
    assert execute("SELECT count(*) FROM signature").fetchone() == (3,)
    made = proposed(donor.ledger)
    assert made is not None
    line = line_of(NETWORK, *made)
    statement = found(donor.ledger, line)
    ledger = donor.ledger
    with ledger.transaction():
        ledger.checkpoints.take(certificate(made[0], statement, VALIDATORS[:3], ledger.weights.electorate.time_ms))
        ledger.enforce()
    while ledger.checkpoints.stage is not Stage.DONE:
        with ledger.transaction():
            ledger.cut()
        assert dangling(ledger.facts.connection) == []
    assert execute("SELECT count(*) FROM signature").fetchone() == (0,)


@pytest.mark.parametrize("parts", range(1, 8))
def test_a_claim_that_comes_again_while_the_events_that_carried_it_are_cut_is_read_from_the_new_one(
    writers: list[Author], parts: int
) -> None:
    """It was deleted: no live set keeps it. Between two parts nothing carries it, but rows may still name it."""
    donor, other = replicas()
    shared = [event for each in writers for event in each.events]
    request = add("//Alice", ["gpu-1"])
    registered = writers[0].add(request)
    shared += [registered, writers[1].delete(delete("//Alice", "nodes:gpu-1", NOW_S + 1), "gpu-1")]
    donor.hear(shared)
    other.hear(shared)
    weighed = later(world_electorate(), 8 * DAY_MS)
    for each in (donor, other):
        each.weigh(weighed)
    wire = _made_final(donor, weighed)
    ledger = other.ledger
    said = checkpoints.certified(NETWORK, wire)
    assert found(ledger, said.line) == said.statement
    with ledger.transaction():
        ledger.checkpoints.take(wire)
        ledger.enforce()
    for _ in range(parts):
        with ledger.transaction():
            ledger.cut()
    carried = writers[2].write(Carry((registered.wire,)), at_ms=weighed.time_ms)
    for each in (donor, other):
        each.hear([carried])
        assert dangling(each.ledger.facts.connection) == []
    cut(ledger)
    same(donor, other)
    assert other.ledger.facts.raw_body(request_id(NETWORK.id, request)) == request.body


@pytest.mark.parametrize("slices", [0, 1])
def test_half_of_a_live_set_beside_what_was_there_before_is_no_problem(
    writers: list[Author], tmp_path: Path, slices: int
) -> None:
    """Neither ``db verify`` nor ``db rebuild`` finds anything, and what follows is judged as before."""
    donor, other = replicas()
    shared = [event for each in writers for event in each.events]
    shared += [writers[0].add(add("//Alice", [f"gpu-{number}"])) for number in range(8)]
    weighed = later(world_electorate(), 8 * DAY_MS)
    above = [writers[1].add(add("//Bob", ["gpu-9"], weighed.time_ms // 1000), at_ms=weighed.time_ms)]
    for each in (donor, other):
        each.hear(shared[:-2] if each is other else shared)
        each.weigh(weighed)
        each.hear(above)
    wire = _made_final(donor, weighed)
    ledger = other.ledger
    with ledger.transaction():
        ledger.begin_loading(wire)
    number = ledger.checkpoints.line.number
    for index in range(slices):
        with ledger.transaction():
            ledger.load(index, *Donor().slice(donor.ledger.facts.connection, number, index))
    with closing(sqlite3.connect(tmp_path / "half.db")) as disk:
        ledger.facts.connection.backup(disk)
    assert audit(tmp_path / "half.db", NETWORK).problems == []
    assert rebuild(tmp_path / "half.db", NETWORK).differences == []
    with closing(open_writer(tmp_path / "half.db")) as disk:
        other.ledger = Ledger(disk, NETWORK)
        for index in other.ledger.missing_slices():
            with other.ledger.transaction():
                other.ledger.load(index, *Donor().slice(donor.ledger.facts.connection, number, index))
        cut(other.ledger)
        same(donor, other)


def test_an_older_live_set_goes_though_the_next_one_has_the_same_events(writers: list[Author]) -> None:
    donor, other = replicas()
    for each in (donor, other):
        each.hear([event for writer in writers for event in writer.events])
    loaded(donor, other)
    loaded(donor, other, days=9)
    same(donor, other)


def test_an_electorate_that_was_being_recounted_for_is_recounted_for_anew(writers: list[Author]) -> None:
    """What was found of it before a live set came holds no more: deleted GPUs came back."""
    donor, other = replicas()
    shared = [event for each in writers for event in each.events]
    shared.append(writers[0].add(add("//Alice", ["gpu-1", "gpu-2"])))
    donor.hear([*shared, writers[1].delete(delete("//Alice", "nodes:gpu-1", NOW_S + 1), "gpu-1")])
    other.weigh(world_electorate(miners=["//Bob"]))
    other.hear(shared)
    weighed = later(world_electorate(), 8 * DAY_MS)
    wire = _made_final(donor, weighed)
    ledger = other.ledger
    ledger.begin_recount(weighed)
    recount = ledger.recount
    assert recount is not None
    while not recount.ready:
        ledger.advance_recount(0)
    load(donor.ledger, ledger, wire, range(checkpoints.certified(NETWORK, wire).statement.slices))
    assert not recount.ready
    while not recount.ready:
        ledger.advance_recount(0)
    with ledger.transaction():
        ledger.switch()
    ledger.end_recount()
    assert sorted(donor.shown()) == ["gpu-2"]
    same(donor, other)


def test_a_vote_that_a_cut_takes_away_is_counted_no_more_though_the_electorate_is_an_old_one(
    writers: list[Author],
) -> None:
    """A daemon that was away for longer than the horizon hears of the checkpoint before it hears of the chain."""
    donor, other = replicas()
    request = add("//Alice", ["gpu-1"])
    said = [event for each in writers for event in each.events]
    said += [writers[0].add(request), *[each.verdict(request_id(NETWORK.id, request)) for each in writers]]
    for each in (donor, other):
        each.hear(said)
    assert other.shown()["gpu-1"].status == "verified"
    wire = _made_final(donor, later(world_electorate(), 8 * DAY_MS))
    load(donor.ledger, other.ledger, wire, range(checkpoints.certified(NETWORK, wire).statement.slices))
    assert other.shown()["gpu-1"].status == "pending"
    hold(other.ledger.facts.connection)
    assert differences(other.ledger) == []


class Made(NamedTuple):
    """A checkpoint that a donor made: its cut, its certificate, and the donor's disk with it in force."""

    line: Line
    slices: int
    wire: bytes
    disk: sqlite3.Connection
    electorate: Electorate


class UndoneError(Exception):
    """Ends a transaction."""


def branches(draw: Draw, events: Sequence[Event], others: Container[bytes]) -> list[Event]:
    """One branch of each log, where it forks one without the events of these ids."""
    nexts: dict[tuple[LogId, int, bytes], list[Event]] = {}
    for each in events:
        nexts.setdefault((each.log, each.seq, each.previous), []).append(each)
    kept: set[bytes] = set()
    for log in dict.fromkeys(each.log for each in events):
        previous = b""
        for seq in count():
            rivals = nexts.get((log, seq, previous), [])
            rivals = [each for each in rivals if each.id not in others] or rivals
            if not rivals:
                break
            previous = (rivals[0] if len(rivals) == 1 else draw(st.sampled_from(rivals))).id
            kept.add(previous)
    return [each for each in events if each.id in kept]


def part(
    draw: Draw, events: Sequence[Event], proofs: Sequence[Proof], others: Container[bytes] = ()
) -> list[Event | Proof]:
    """What somebody hears who does not hear everything: mostly one branch of each log, and not to its end."""
    heard: list[Event | Proof] = list(branches(draw, events, others) if draw(st.integers(0, 3)) else events)
    if heard and draw(st.booleans()):
        heard = heard[: draw(st.integers(0, len(heard)))]
    if heard and draw(st.booleans()):
        lost = draw(st.sets(st.integers(0, len(heard) - 1), max_size=UNHEARD_MAX))
        heard = [each for at, each in enumerate(heard) if at not in lost]
    if proofs and not draw(st.integers(0, 2)):
        heard += draw(st.lists(st.sampled_from(proofs), max_size=3))
    return draw(st.permutations(heard)) if draw(st.booleans()) else heard


def make(donor: Replica) -> Made | None:
    """Make a checkpoint, and put it in force; None where there is nothing to make it of, or nobody to sign it."""
    ledger = donor.ledger
    drawn = proposed(ledger)
    if drawn is None:
        return None
    line = line_of(NETWORK, *drawn)
    if line.number <= ledger.checkpoints.line.number or not suffices(NETWORK, line, stakes_of(line)):
        return None
    assert objection(ledger, line) is None
    statement = found(ledger, line)
    signers = [uri for uri in VALIDATORS if hotkey(uri).public_key in stakes_of(line)]
    wire = certificate(drawn[0], statement, signers, ledger.weights.electorate.time_ms)
    with ledger.transaction():
        ledger.checkpoints.take(wire)
        ledger.enforce()
    cut(ledger)
    assert dangling(ledger.facts.connection) == []
    disk = open_writer(":memory:")
    ledger.facts.connection.backup(disk)
    return Made(line, statement.slices, wire, disk, ledger.weights.electorate)


class Watched(Ledger):
    """A ledger that is looked at behind each transaction while a live set is loaded, or anything is taken away."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            with super().transaction():
                yield
        finally:
            if self.checkpoints.stage is not Stage.DONE or self.moving:
                assert dangling(self.facts.connection) == []
                assert_a_start_finds_it(self)


class Receiver(Replica):
    """A daemon to which anything happens between any two steps; its disk is looked at behind each."""

    def __init__(self, now_ms: int, draw: Draw, events: Sequence[Event], proofs: Sequence[Proof]) -> None:
        """Begin.

        Args:
            now_ms: Wall clock.
            draw: Decides what happens.
            events: All that there are.
            proofs: All that there are.
        """
        super().__init__(now_ms)
        self.ledger = Watched(self.ledger.facts.connection, NETWORK)
        self.draw, self.events, self.proofs = draw, events, proofs
        self.electorates: list[Electorate] = []

    @property
    def stage(self) -> Stage:
        return self.ledger.checkpoints.stage

    def look(self) -> None:
        """Require that nothing is named that is gone, and that as many events are here as are told."""
        assert dangling(self.ledger.facts.connection) == []
        assert_a_start_finds_it(self.ledger)
        (stored,) = self.ledger.facts.connection.execute("SELECT count(*) FROM events").fetchone()
        assert self.ledger.state.events == stored

    def disturb(self) -> None:
        """Let something happen, or nothing."""
        draw, ledger = self.draw, self.ledger
        happens = ("move", "restart", "undone", "proofs", "hear", "weigh", "forget", "rebuild")
        match draw(st.sampled_from((*[""] * 5, *happens))):
            case "restart":
                self.ledger = Watched(ledger.facts.connection, NETWORK)
            case "undone":
                with suppress(UndoneError), ledger.transaction():
                    if self.stage is Stage.CUTTING or ledger.leaving or ledger.checkpoints.loaded:
                        ledger.cut()
                    ledger.receive(self.events[:6], self._now_ms)
                    raise UndoneError
            case "move" if ledger.moving and self.stage is not Stage.LOADING:
                event("moves")
                with ledger.transaction():
                    ledger.move_on()
            case "proofs" if self.proofs:
                with ledger.transaction():
                    ledger.receive_proofs(draw(st.lists(st.sampled_from(self.proofs), max_size=2)), self._now_ms)
            case "hear":
                self.hear(draw(st.lists(st.sampled_from(self.events), max_size=4)))
            case "weigh":
                self.weigh(draw(st.sampled_from(self.electorates)))
            case "rebuild":
                with ledger.transaction():
                    ledger.rebuild()
            case "forget" if self.stage is not Stage.LOADING:
                for log in [log for log, state in ledger.logs.items() if state.displaced and draw(st.booleans())]:
                    with ledger.transaction():
                        ledger.forget(log)
            case _:
                pass
        self.look()

    def meet(self, made: Made, parts: int | None = None) -> None:
        """Take a checkpoint as a driver and a clerk do; no more than so many ``parts`` of it."""
        if self._considered(made).found is Found.DISTRUSTED:
            self.weigh(made.electorate)
            self._considered(made)
        held, number = self.ledger.checkpoints, made.line.number
        if held.line.number < number:
            pending = held.pending
            if pending is None or pending.line.number != number:
                return
            if hindrance(self.ledger, pending) is None and found(self.ledger, made.line) == pending.statement:
                event("finds it itself")
                with self.ledger.transaction():
                    self.ledger.enforce()
            else:
                assert self._considered(made).found is Found.LOADS
        while self.ledger.leaving:
            event("something has to go")
            if self._ends(parts):
                return
            with self.ledger.transaction():
                for _ in range(self.draw(st.integers(1, 3))):
                    self.ledger.cut()
            parts = None if parts is None else parts - 1
        order = self.draw(st.permutations(range(made.slices)))
        for place in order if self.stage is Stage.LOADING else ():
            if self._ends(parts):
                return
            with self.ledger.transaction():
                leaves = Donor().slice(made.disk, number, place)
                assert load_slice(self.ledger, number, place, *leaves) == Answer(Found.TAKEN)
            parts = None if parts is None else parts - 1
        while self.stage is not Stage.DONE:
            if self._ends(parts):
                return
            with self.ledger.transaction():
                for _ in range(self.draw(st.integers(1, 3))):
                    self.ledger.cut()
            parts = None if parts is None else parts - 1

    def _ends(self, parts: int | None) -> bool:
        self.disturb()
        return parts == 0

    def _considered(self, made: Made) -> Answer:
        with self.ledger.transaction():
            answer = consider(self.ledger, made.line.number, made.wire)
        self.look()
        event(f"a certificate: {answer.found}")
        return answer

    def is_strange(self, made: Made) -> bool:
        """Whether an event is held below a cut that the branch of the donor does not have."""
        logs = self.ledger.logs
        return any(
            log in logs and self.ledger.facts.stored_id(logs[log].key, entry.head.seq) not in {None, entry.head.id}
            for log, entry in made.line.logs.items()
        )


def content(ledger: Ledger) -> dict[str, set[tuple[Any, ...]]]:
    """What is stored and stated in the logs of permitted hotkeys, by names that are the same everywhere.

    Only what counts: above its cut each holds the branch that it heard first. Other hotkeys' logs nobody must hold.
    """
    logs = {
        state.key: (log, state.cut)
        for log, state in ledger.state.logs.items()
        if ledger.weights.electorate.permitted(state.hotkey) and not state.displaced
    }
    queries = {
        "events": "SELECT log, seq, id, judged, void FROM events",
        "carriage": "SELECT log, seq, item, claim_id, electorate_block, hlc FROM carriage JOIN claim USING (claim)",
        "deletion": "SELECT log, seq, item, uuid, request_id, miner, nonce, bound, claim_ids FROM deletion",
        "verdict": (
            "SELECT log, seq, claim_id, hlc, finding, v.since, method, v.detail FROM verdict v JOIN claim USING (claim)"
        ),
        "placement": "SELECT log, seq, uuid, claim_id, hlc, chute FROM placement",
        "delegations": "SELECT log, seq, hlc, url, not_before, not_after FROM delegations",
        "live": "SELECT log, seq, number, mask FROM live",
    }
    found: dict[str, set[tuple[Any, ...]]] = {name: set() for name in queries}
    for name, query in queries.items():
        for key, seq, *rest in ledger.facts.connection.execute(query).fetchall():
            log, end = logs.get(key, (None, 0))
            if end is None or seq < end:
                found[name].add((log, seq, *rest))
    return found


def post_again(disk: sqlite3.Connection, events: Sequence[Event], now_ms: int) -> None:
    """Let miners post all their requests once more, to a daemon that opens a log on this disk, if it may."""
    author = Author(VALIDATORS[0], number=9)
    ledger = Ledger(disk, NETWORK, author.node_key)
    ledger.writes_refused = None
    with suppress(P2PNodesError), ledger.transaction():
        ledger.open_log(9, author.delegation(not_after=now_ms // 1000 + 99 * 86_400), now_ms)
    for request in (carried.payload.request for each in events for carried in judge_kept(each).adds):
        try:
            with ledger.transaction():
                admit_add(ledger, request, parse_body(request.body), None, now_ms)
        except StoreError:
            raise
        except P2PNodesError:  # it is taken, too old by now, or nobody may write
            continue
    assert dangling(disk) == []


class TestWhateverWasThere:
    """Worlds with forks, closings and displaced logs, two checkpoints, and a daemon that saw other parts of them."""

    @pytest.mark.parametrize("few", [False, True])
    def test_who_takes_a_checkpoint_over_it_and_hears_the_rest_holds_what_the_donor_holds(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, few: bool
    ) -> None:
        if few:  # logs count
            monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 2)
            for name in ("EVENTS_PER_PART", "LEAVES_PER_PART"):
                monkeypatch.setattr(ledger_module, name, 1)
            monkeypatch.setattr("p2pnodes.store.unsettled.EVENTS_PER_MOVE", 1)
            for name in ("CLAIMS_PER_PART", "ROWS_PER_PART"):
                monkeypatch.setattr(cutting, name, 2)
            monkeypatch.setattr(settling, "CLAIMS_PER_PART", 2)

        @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
        @given(drawn=st.one_of(lives(ends=True), lives(ends=True, more=MORE)), data=st.data())
        def meets(drawn: Lives, data: st.DataObject) -> None:
            self.meets(drawn, data.draw, tmp_path / "audited.db")

        meets()

    def meets(self, drawn: Lives, draw: Draw, path: Path) -> None:
        end_ms = max(world.end_ms for world in (drawn.before, drawn.after) if world.events)
        before, events = drawn.before.events, [*drawn.before.events, *drawn.after.events]
        proofs = [*drawn.before.loose, *drawn.after.loose, *proofs_in(events)]
        electorates = [drawn.before.electorates[-1], drawn.electorate, drawn.last]
        donor, receiver = Replica(end_ms), Receiver(end_ms, draw, events, proofs)
        donor.weigh(electorates[0])
        told = part(draw, before, drawn.before.proofs)
        donor.hear(told)
        donor.weigh(drawn.electorate)
        first = make(donor)
        assume(first is not None)
        assert first is not None
        donor.hear(part(draw, events, proofs))
        donor.weigh(drawn.last)
        last = first
        if draw(st.booleans()):
            electorates.append(later(drawn.last, draw(st.sampled_from((1, 8))) * DAY_MS))
            donor.weigh(electorates[-1])
            last = make(donor) or first

        receiver.electorates = electorates
        receiver.weigh(draw(st.sampled_from(electorates[:2])))
        others = {each.id for each in told if isinstance(each, Event)}
        for _ in range(draw(st.integers(0, STEPS_MAX))):
            match draw(st.sampled_from(("hear", "hear", "weigh", "first", "last", "disturb"))):
                case "hear":
                    receiver.hear(part(draw, draw(st.sampled_from((before, events))), proofs, others))
                case "first" | "last" as which:
                    made = first if which == "first" else last
                    if receiver.ledger.checkpoints.line.number < made.line.number:
                        receiver.meet(made, draw(st.integers(0, 12)))
                case _:
                    receiver.disturb()
            receiver.look()
        if draw(st.booleans()):
            self.audits(receiver.ledger, path)
        if receiver.is_strange(last):
            event("is on another branch")
        while receiver.stage is Stage.CUTTING:  # a clerk takes up nothing else before
            receiver.disturb()
            with receiver.ledger.transaction():
                receiver.ledger.cut()
        receiver.meet(last)
        for replica in (donor, receiver):
            replica.weigh(electorates[-1])
            replica.hear([*events, *proofs])
            finish_moves(replica.ledger)
        receiver.look()
        assert dangling(donor.ledger.facts.connection) == []

        ours, theirs = receiver.ledger, donor.ledger
        assert ours.state.settled == theirs.state.settled == last.line.number
        assert content(ours) == content(theirs)
        receiver.check(donor.shown())
        assert ours.state.heads == theirs.state.heads
        assert ours.state.vector_digest == theirs.state.vector_digest
        assert Ledger(ours.facts.connection, NETWORK).state == ours.state
        for (claim_id,) in ours.facts.connection.execute("SELECT claim_id FROM claim WHERE miner NOTNULL").fetchall():
            ours.facts.raw_body(claim_id)
        if draw(st.booleans()):
            self.audits(ours, path)
        with closing(open_writer(":memory:")) as disk:
            ours.facts.connection.backup(disk)
            post_again(disk, events, end_ms)
        hold(ours.facts.connection)
        assert differences(ours) == []
        receiver.look()
        assert ours.state.vector_digest == theirs.state.vector_digest
        receiver.check(donor.shown())

    def audits(self, ledger: Ledger, path: Path) -> None:
        """Require that ``db verify`` finds nothing."""
        with closing(sqlite3.connect(path)) as disk:
            ledger.facts.connection.backup(disk)
        assert audit(path, NETWORK).problems == []
