"""Checkpoints on SQLite: what a cut leaves, shows what was shown; and whoever gets it from peers, shows the same."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from p2pnodes.model import checkpoint
from p2pnodes.model.checkpoint import Certificate, Line, Signature, line_of, stakes_of, suffices
from p2pnodes.model.clock import hlc_at, hlc_ms
from p2pnodes.model.codec import digest, unpack
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import AddPayload, Carry, Checkpoint, Event, Head, LogId, Place, Propose, Release
from p2pnodes.model.events import closing as closing_of
from p2pnodes.model.inventory import Chute, Row
from p2pnodes.model.proof import check
from p2pnodes.model.requests import NONCE_WINDOW_S, bound_purpose, request_id
from p2pnodes.store import carrying, checkpoints, liveset, proposing
from p2pnodes.store.audit import audit
from p2pnodes.store.checkpoints import CERTIFICATES_KEPT, kept_leaves, plain_mask, read_slice
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.loading import Answer, Found, consider
from p2pnodes.store.proofs import gather
from p2pnodes.store.proposing import Past, cut_of, entry_at, hindrance, objection, proposal, refusal
from p2pnodes.store.rebuild import differences, hold, rebuild
from p2pnodes.store.schema import open_writer
from tests.model.plain_live_set import Kept, Masks, PlainLiveSet
from tests.model.world import ACTIONS, ENDS, REPEATS, STEPS_S, VALIDATORS, Script, World, electorates, proofs_in, worlds
from tests.store.test_equivalence import Replica, histories, live
from tests.support import BLOCK, NETWORK, NOW_S, Author, add, covers, delete, finish_moves, hotkey, memory_ledger
from tests.support import electorate as world_electorate

pytestmark = pytest.mark.timeout(400)

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
PARTS_MAX: Final = 10_000
CHUTE: Final = Chute("c", "i", verified=True, public=False, name=None, username=None)


def later(electorate: Electorate, ms: int) -> Electorate:
    """An electorate in which the same have permits, as time goes on."""
    current = electorate.current
    return Electorate(current._replace(block=current.block + 100, time_ms=current.time_ms + ms), current)


def proposed(ledger: Ledger, uri: str = VALIDATORS[0]) -> tuple[Event, Propose] | None:
    """What a ledger would propose, as an event of a log that nobody holds."""
    payload = proposal(ledger)
    return None if payload is None else (in_an_event(ledger, payload, uri), payload)


def in_an_event(ledger: Ledger, payload: Propose, uri: str = VALIDATORS[0]) -> Event:
    """A proposal of now, in a log that nobody holds."""
    author = Author(uri, number=999)
    author.delegate()
    return author.write(payload, at_ms=ledger.weights.electorate.time_ms)


def found(ledger: Ledger, line: Line) -> Checkpoint:
    """The live set below a line, as a ledger finds it."""
    for _ in range(PARTS_MAX):
        with ledger.transaction():
            if (statement := ledger.find_live_set(line)) is not None:
                return statement
    raise AssertionError("the live set is never found")


def cut(ledger: Ledger) -> None:
    """Take away all that the checkpoint in force leaves out, and what lies above the cuts of logs."""
    for _ in range(PARTS_MAX):
        with ledger.transaction():
            done = ledger.cut()
        if done:
            finish_moves(ledger)
            return
    raise AssertionError("the cut never ends")


def opened(uri: str, number: int = 0) -> Author:
    """A log with nothing but its delegation."""
    author = Author(uri, number=number)
    author.delegate()
    return author


def certificate(proposal: Event, statement: Checkpoint, signers: Sequence[str], at_ms: int) -> bytes:
    """A certificate by some validators, in logs of their own."""
    signatures = []
    for uri in signers:
        author = Author(uri, number=1_000)
        delegation = author.write(author.delegation(not_after=at_ms // 1000 + 99), at_ms=NOW_S * 1000)
        signatures.append(Signature(delegation, author.write(statement, at_ms=at_ms)))
    return Certificate(proposal, tuple(sorted(signatures, key=lambda each: each.checkpoint.log))).encode()


class Moment(NamedTuple):
    """A daemon at the moment of a checkpoint: what it holds, the certificate, and what it showed before it."""

    replica: Replica
    line: Line
    statement: Checkpoint
    certificate: bytes
    rows: dict[str, Row]

    def enforce(self) -> None:
        """Put the certificate in force, and take away what it leaves out."""
        ledger = self.replica.ledger
        with ledger.transaction():
            ledger.checkpoints.take(self.certificate)
            ledger.enforce()
        cut(ledger)


def moment(data: st.DataObject, world: World) -> Moment:
    """Let a daemon live through a world, and make a checkpoint days later, of all of it or of a part."""
    replica = live(data.draw(histories(world)), world.end_ms)
    age_ms = data.draw(st.sampled_from((7 * DAY_MS, 7 * DAY_MS + HOUR_MS, 8 * DAY_MS, 9 * DAY_MS, 12 * DAY_MS)))
    replica.weigh(later(world.electorates[-1], age_ms))
    ledger = replica.ledger
    drawn = proposed(ledger)
    assume(drawn is not None)
    assert drawn is not None
    line = line_of(NETWORK, *drawn)
    assume(suffices(NETWORK, line, stakes_of(line)))
    assert objection(ledger, line) is None
    rows = replica.shown()
    statement = found(ledger, line)
    event(f"live set: {min(statement.leaves // 4 * 4, 20)} or more")
    signers = [uri for uri in VALIDATORS if hotkey(uri).public_key in stakes_of(line)]
    wire = certificate(drawn[0], statement, signers, ledger.weights.electorate.time_ms)
    return Moment(replica, line, statement, wire, rows)


def begin_loading(ledger: Ledger, wire: bytes) -> None:
    """Begin to load a live set; all goes that cannot stay beside it."""
    with ledger.transaction():
        ledger.begin_loading(wire)
    while ledger.leaving:
        with ledger.transaction():
            ledger.cut()


def load(donor: Ledger, ledger: Ledger, wire: bytes, order: Sequence[int]) -> None:
    """Bring a live set over, slice by slice."""
    begin_loading(ledger, wire)
    number = ledger.checkpoints.line.number
    tree = donor.checkpoints.tree(number)
    whole = False
    for index in order:
        leaves = read_slice(donor.facts.connection, number, index)
        with ledger.transaction():
            whole = ledger.load(index, [(leaf.mask, event) for leaf, event in leaves], tree.path(index))
    assert whole
    cut(ledger)


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of few events, and few things in each part of the search for them, so that small worlds have several."""
    for module in (checkpoint, checkpoints):
        monkeypatch.setattr(module, "SLICE_LEAVES_MAX", 3)
    for name in ("CLAIMS_PER_PART", "ROWS_PER_PART"):
        monkeypatch.setattr(liveset, name, 2)


@pytest.fixture
def writers() -> list[Author]:
    """Three validators, each with its delegation."""
    writers = [Author(uri) for uri in VALIDATORS[:3]]
    for writer in writers:
        writer.write(writer.delegation(not_after=NOW_S + 99 * 86_400))
    return writers


class TestWhatACutLeaves:
    """Rule 1 goes on: rows are those of all events, though most of them are gone."""

    @settings(max_examples=60)
    @given(world=worlds(ends=True, repeats=True), data=st.data())
    def test_rows_stay_as_they_were_and_a_rebuild_finds_nothing_else(self, world: World, data: st.DataObject) -> None:
        at = moment(data, world)
        at.enforce()
        at.replica.check(at.rows)
        ledger = at.replica.ledger
        (events,) = ledger.facts.connection.execute("SELECT count(*) FROM events").fetchone()
        assert ledger.state.events == events
        hold(ledger.facts.connection)
        assert differences(ledger) == []
        at.replica.check(at.rows)

    @settings(max_examples=40)
    @given(world=worlds(repeats=True), data=st.data())
    def test_everybody_finds_the_same_live_set(self, world: World, data: st.DataObject) -> None:
        at = moment(data, world)
        other = live(data.draw(histories(world)), world.end_ms)
        other.weigh(at.replica.ledger.weights.electorate)
        assume(objection(other.ledger, at.line) is None)
        assert found(other.ledger, at.line) == at.statement

    @settings(max_examples=40)
    @given(world=worlds(repeats=True), data=st.data())
    def test_a_newcomer_shows_the_same(self, world: World, data: st.DataObject) -> None:
        at = moment(data, world)
        at.enforce()
        newcomer = Replica(world.end_ms)
        with newcomer.ledger.transaction():
            newcomer.ledger.set_electorate(at.replica.ledger.weights.electorate)
        order = data.draw(st.permutations(range(at.statement.slices)))
        load(at.replica.ledger, newcomer.ledger, at.certificate, order)
        newcomer.hear(data.draw(st.permutations(world.events)))
        newcomer.check(at.rows)
        ours, theirs = newcomer.ledger.state, at.replica.ledger.state
        assert (ours.vector_digest, ours.state_root) == (theirs.vector_digest, theirs.state_root)


TIMES: Final = 20


class TestThePlainReading:
    """What is found is what docs/protocol.md says, read plainly, below one cut and below the next one."""

    @settings(max_examples=60)
    @given(world=worlds(ends=True, repeats=True), data=st.data())
    def test_the_live_set_is_what_the_page_says(self, world: World, data: st.DataObject) -> None:
        at = moment(data, world)
        electorate = at.replica.ledger.weights.electorate
        plain = PlainLiveSet(world.events, at.line.logs, electorate, NETWORK)
        assert masks(at.replica.ledger, at.line.number) == plain.masks

    @settings(max_examples=60)
    @given(world=worlds(ends=True, repeats=True), data=st.data())
    def test_so_is_the_next_one_of_what_that_one_left(self, world: World, data: st.DataObject) -> None:
        at = moment(data, world)
        at.enforce()
        ledger, first = at.replica.ledger, at.line.electorate
        assert first is not None
        before = Kept(at.line.logs, masks(ledger, at.line.number), first.time_ms - NETWORK.horizon_s * 1000)
        age_ms = data.draw(st.sampled_from((DAY_MS, 2 * DAY_MS, 8 * DAY_MS, 20 * DAY_MS)))
        at.replica.weigh(later(data.draw(electorates_after(first)), age_ms))
        drawn = proposed(ledger)
        assume(drawn is not None)
        assert drawn is not None
        line = line_of(NETWORK, *drawn)
        assume(objection(ledger, line) is None)
        found(ledger, line)
        plain = PlainLiveSet(world.events, line.logs, ledger.weights.electorate, NETWORK, before)
        assert masks(ledger, line.number) == plain.masks


@st.composite
def electorates_after(draw: st.DrawFn, electorate: Electorate) -> Electorate:
    """The same electorate, in which some may have lost their permits, or miners their registration."""
    current = electorate.current
    permitted = draw(st.sets(st.sampled_from(sorted(current.validators)), min_size=1))
    gone = draw(st.sets(st.sampled_from(sorted(current.registered)), max_size=2))
    return Electorate(
        current._replace(
            validators={key: current.validators[key] for key in permitted},
            registered={key: block for key, block in current.registered.items() if key not in gone},
        )
    )


def masks(ledger: Ledger, number: int) -> Masks:
    """The live set that a ledger has found, as ``PlainLiveSet`` tells it."""
    rows = ledger.facts.connection.execute(
        "SELECT node_key, l.number, seq, mask FROM live JOIN logs l USING (log) WHERE live.number = ?",
        (number,),
    )
    return {(LogId(node_key, at), seq): plain_mask(mask) for node_key, at, seq, mask in rows}


class TestWhatIsSaidAgain:
    """One validator that says the same without end does not make the live set larger than one that says it twice."""

    def _leaves(self, events: Sequence[Event], days: int = 8) -> dict[LogId, list[int]]:
        """The seqs that a live set keeps of each log, so long after these events; rows stay as they were."""
        replica = Replica(NOW_S * 1000 + HOUR_MS)
        replica.weigh(world_electorate())
        replica.hear(events)
        weighed = later(world_electorate(), days * DAY_MS)
        replica.weigh(weighed)
        rows = replica.shown()
        assert rows
        wire = _made_final(replica, weighed)
        replica.check(rows)
        hold(replica.ledger.facts.connection)
        assert differences(replica.ledger) == []
        number = checkpoints.certified(NETWORK, wire).line.number
        seqs: dict[LogId, list[int]] = {}
        for leaf in kept_leaves(replica.ledger.facts.connection, number):
            seqs.setdefault(leaf.log, []).append(leaf.seq)
        return seqs

    def test_carrying_a_claim_again_and_again_leaves_one(self, writers: list[Author]) -> None:
        first = writers[0].add(add("//Alice", ["gpu-1"]))
        for _ in range(TIMES):
            writers[1].write(Carry((first.wire,)))
        kept = self._leaves([event for writer in writers for event in writer.events])
        assert kept == {writers[0].log: [0, 1], writers[1].log: [0, 1], writers[2].log: [0]}

    def test_naming_other_electorates_for_it_in_several_logs_leaves_two(self, writers: list[Author]) -> None:
        request = add("//Alice", ["gpu-1"])
        again = Author(VALIDATORS[1], number=1)
        again.write(again.delegation(not_after=NOW_S + 99 * 86_400))
        for block in range(BLOCK, BLOCK - TIMES, -1):
            writers[1].add(request, block=block - 1)
            again.add(request, block=block)
        kept = self._leaves([event for writer in (*writers, again) for event in writer.events])
        assert kept[writers[1].log] == [0, 1]  # the earliest
        assert kept[again.log] == [0, 1]  # that with the highest block

    def test_recording_a_deletion_again_leaves_one_event_of_each_author(self, writers: list[Author]) -> None:
        writers[0].add(add("//Alice", ["gpu-1", "gpu-2"]))
        request = delete("//Alice", "nodes:gpu-2", NOW_S + 1)
        for _ in range(TIMES):
            for writer in writers[:2]:
                writer.delete(request, "gpu-2", [bytes(32)])
        kept = self._leaves([event for writer in writers for event in writer.events])
        assert kept == {writers[0].log: [0, 1, 2], writers[1].log: [0, 1], writers[2].log: [0]}

    def test_a_deletion_that_names_fewer_claims_or_another_gpu_is_kept_beside_it(self, writers: list[Author]) -> None:
        writers[0].add(add("//Alice", ["gpu-1", "gpu-2"]))
        request = delete("//Alice", "nodes", NOW_S + 1)
        names = [digest(bytes([name])) for name in range(3)]
        for end in (2, 3, 2, 1, 3):  # fewer at the first, and at the fourth
            writers[1].delete(request, "gpu-2", names[:end])
        for uuid in ("gpu-1", "gpu-2", "gpu-3"):
            writers[1].delete(request, uuid)
        kept = self._leaves([event for writer in writers for event in writer.events])
        assert kept == {writers[0].log: [0, 1], writers[1].log: [0, 1, 4, 6], writers[2].log: [0]}

    def test_of_two_logs_that_say_the_same_the_lower_one_is_kept_whichever_was_heard_first(
        self, writers: list[Author]
    ) -> None:
        request, hlc = add("//Alice", ["gpu-1"]), hlc_at(NOW_S * 1000)
        chute = Place(request_id(NETWORK.id, request), ("gpu-1",), *CHUTE)
        logs = [Author(VALIDATORS[1], number=number) for number in (1, 2)]
        for log in logs:
            log.write(log.delegation(not_after=NOW_S + 99 * 86_400), hlc=hlc)
            log.write(AddPayload(request, BLOCK), hlc=hlc + 1)
            log.write(chute, hlc=hlc + 2)
        for heard in (logs, logs[::-1]):
            kept = self._leaves([event for author in (*heard, *writers) for event in author.events])
            assert kept == {logs[0].log: [0, 1, 2], logs[1].log: [0], **{writer.log: [0] for writer in writers}}

    def test_a_deletion_below_the_floor_is_kept_as_long_as_its_claim_stands_on_another_gpu(
        self, writers: list[Author]
    ) -> None:
        for miner, uuids in (("//Alice", ["gpu-1", "gpu-2"]), ("//Bob", ["gpu-3"])):
            writers[0].add(add(miner, uuids))
            writers[0].delete(delete(miner, f"nodes:{uuids[-1]}", NOW_S + 1), uuids[-1])
        kept = self._leaves([event for writer in writers for event in writer.events], days=30)
        assert kept == {writers[0].log: [0, 1, 2], writers[1].log: [0], writers[2].log: [0]}

    def test_of_a_place_that_was_released_nothing_is_kept(self, writers: list[Author]) -> None:
        request = add("//Alice", ["gpu-1", "gpu-2"])
        claim_id = request_id(NETWORK.id, request)
        writers[0].add(request)
        for writer, placed in ((writers[1], ("gpu-1", "gpu-2")), (writers[2], ("gpu-2",))):
            writer.write(Place(claim_id, placed, *CHUTE))
            writer.write(Release(claim_id, ("gpu-2",)))
        kept = self._leaves([event for writer in writers for event in writer.events])
        assert kept == {writers[0].log: [0, 1], writers[1].log: [0, 1], writers[2].log: [0]}

    @pytest.mark.parametrize(("before_ms", "kept"), [(0, [0, 1]), (1, [0])])
    def test_a_place_under_a_claim_that_nobody_holds_stays_as_long_as_one_may_come(
        self, writers: list[Author], before_ms: int, kept: list[int]
    ) -> None:
        """Two horizons, and as much as its claim's nonce may differ from the time of who records that, twice."""
        writers[0].add(add("//Bob", ["gpu-1"]))
        author = Author(VALIDATORS[1], number=1)
        author.delegate(at_ms=NOW_S * 1000 - DAY_MS // 2)
        last_ms = NOW_S * 1000 - 2 * NONCE_WINDOW_S * 1000
        author.write(Place(bytes(32), ("gpu-1",), *CHUTE), at_ms=last_ms - before_ms)
        events = [event for each in (*writers, author) for event in each.events]
        assert self._leaves(events, days=21)[author.log] == kept

    def test_a_place_on_a_gpu_that_is_deleted_goes_though_it_is_young(self, writers: list[Author]) -> None:
        request = add("//Alice", ["gpu-1", "gpu-2"])
        writers[0].add(request)
        writers[1].write(Place(request_id(NETWORK.id, request), ("gpu-2",), *CHUTE))
        writers[2].delete(delete("//Alice", "nodes:gpu-2", NOW_S + 1), "gpu-2")
        kept = self._leaves([event for writer in writers for event in writer.events])
        assert kept == {writers[0].log: [0, 1], writers[1].log: [0], writers[2].log: [0, 1]}

    def test_what_was_found_below_another_cut_or_lies_above_this_one_is_no_part_of_it(
        self, writers: list[Author]
    ) -> None:
        request, ends = add("//Alice", ["gpu-0"]), delete("//Bob", "nodes:gpu-4", NOW_S)
        writers[0].add(request, block=BLOCK - 1)
        for number in range(1, 4):
            writers[0].add(add("//Alice", [f"gpu-{number}"]))
        writers[0].add(request)
        for named in ([bytes(32)], []):
            writers[1].delete(ends, "gpu-4", named)
        meanwhile = Author(VALIDATORS[2], number=1)
        meanwhile.write(meanwhile.delegation(not_after=NOW_S + 99 * 86_400))
        meanwhile.delete(delete("//Alice", "nodes:gpu-0", NOW_S + 1), "gpu-0")
        first, second = Replica(NOW_S * 1000 + HOUR_MS), Replica(NOW_S * 1000 + HOUR_MS)
        for replica in (first, second):
            replica.weigh(world_electorate())
            replica.hear([event for author in (*writers, meanwhile) for event in author.events])
            replica.weigh(later(world_electorate(), 8 * DAY_MS))
        made = proposed(first.ledger)
        assert made is not None
        whole = found(first.ledger, line_of(NETWORK, *made))
        assert whole.leaves == 4 + 3 + 2 + 1  # delegations, claims, of two deletions what was recorded
        held = [first.ledger.logs[writer.log] for writer in sorted(writers, key=lambda writer: writer.log)]
        lower = [entry_at(first.ledger, state, min(state.head.seq, 1)) for state in held]
        payload = made[1]._replace(logs=tuple(entry for entry in lower if entry is not None))
        line = line_of(NETWORK, in_an_event(first.ledger, payload), payload)
        assert found(second.ledger, line).leaves == 3 + 1 + 1
        assert found(first.ledger, line) == found(second.ledger, line)

    def test_of_delegations_the_first_the_last_and_those_under_which_something_is_kept_stay(
        self, writers: list[Author]
    ) -> None:
        def renew() -> None:
            for _ in range(TIMES):
                writers[0].write(writers[0].delegation(not_after=NOW_S + 99 * 86_400))

        renew()
        writers[0].add(add("//Alice", ["gpu-1"]))
        renew()
        writers[0].verdict(bytes(32))  # which is not kept
        renew()
        kept = self._leaves([event for writer in writers for event in writer.events])
        assert kept == {
            writers[0].log: [0, TIMES, TIMES + 1, 3 * TIMES + 2],
            writers[1].log: [0],
            writers[2].log: [0],
        }

    def test_a_claim_is_proved_under_the_delegation_of_then(self, writers: list[Author]) -> None:
        """Its author's first delegation had ended when it wrote that, and its last one had not begun."""
        then_s = NOW_S + 60 * 86_400
        writer = Author(VALIDATORS[0], number=1)
        for window in ((NOW_S, NOW_S + 60), (then_s, then_s + 60), (then_s + 60, then_s + 20 * 86_400)):
            writer.write(writer.delegation(not_before=window[0], not_after=window[1]), at_ms=window[0] * 1000 + 1)
            if window[0] == then_s:
                writer.add(add("//Alice", ["gpu-1"], then_s), at_ms=then_s * 1000 + 2)
        replica, weighed = Replica((then_s + 9 * 86_400) * 1000), later(world_electorate(), 69 * DAY_MS)
        replica.weigh(world_electorate())
        replica.hear([event for each in (*writers, writer) for event in each.events])
        _made_final(replica, weighed)
        (claim_id,) = replica.ledger.facts.connection.execute("SELECT claim_id FROM claim").fetchone()
        replica.hear([each.verdict(claim_id, at_ms=weighed.time_ms) for each in writers])
        proof = gather(replica.ledger.facts, "gpu-1", replica.ledger.weights)
        assert proof is not None
        assert check(proof).claim_id == claim_id


class Lives(NamedTuple):
    """A world with a checkpoint in it.

    Attributes:
        before: What happens before it.
        after: What happens more than a horizon later; much of it says again what was said before.
        electorate: E_c.
        last: The electorate at the end.
    """

    before: World
    after: World
    electorate: Electorate
    last: Electorate


@st.composite
def lives(draw: st.DrawFn, *, ends: bool = False, more: Sequence[str] = ()) -> Lives:
    """Draw such a world; there is ``more`` of some kinds of actions."""
    script = Script()
    kinds = (*ACTIONS, *REPEATS, *(ENDS if ends else ()), *more)
    actions = st.lists(st.sampled_from(kinds), min_size=4, max_size=16)
    for kind in draw(actions):
        script.now_ms += draw(st.sampled_from(STEPS_S)) * 1000
        script.act(draw, kind)
    drawn = draw(electorates())[-1]
    before = World(tuple(script.events), (drawn,), tuple(script.loose))
    script.now_ms += draw(st.sampled_from((7, 8, 30))) * DAY_MS
    pin = drawn.current._replace(block=drawn.block + 100, time_ms=max(script.now_ms, drawn.time_ms + 1))
    weighed = Electorate(pin, drawn.current)
    known, loose = len(script.events), len(script.loose)
    for kind in draw(actions):
        script.now_ms += draw(st.sampled_from(STEPS_S)) * 1000
        script.act(draw, kind)
    last = pin._replace(block=pin.block + 100, time_ms=max(script.now_ms, pin.time_ms + 1))
    after = World(tuple(script.events[known:]), (weighed,), tuple(script.loose[loose:]))
    return Lives(before, after, weighed, Electorate(last, pin))


class TestWhatComesAfterACut:
    """What counts above a cut, and what the next one keeps, does not depend on when it came."""

    @settings(max_examples=60)
    @given(drawn=st.one_of(lives(), lives(ends=True)), data=st.data())
    def test_whoever_heard_it_earlier_later_or_as_a_newcomer_shows_the_same(
        self, drawn: Lives, data: st.DataObject
    ) -> None:
        end_ms = max(world.end_ms for world in (drawn.before, drawn.after) if world.events)
        early, late, newcomer = (Replica(end_ms) for _ in range(3))
        for replica in (early, late):
            replica.weigh(drawn.before.electorates[-1])
            replica.hear(data.draw(st.permutations([*drawn.before.events, *drawn.before.proofs])))
            replica.weigh(drawn.electorate)
        made = proposed(early.ledger)
        assume(made is not None)
        assert made is not None
        line = line_of(NETWORK, *made)
        assume(suffices(NETWORK, line, stakes_of(line)))
        after = [*drawn.after.events, *proofs_in((*drawn.before.events, *drawn.after.events)), *drawn.after.loose]
        late.hear(data.draw(st.permutations(after)))
        signers = [uri for uri in VALIDATORS if hotkey(uri).public_key in stakes_of(line)]
        statement = found(early.ledger, line)
        wire = certificate(made[0], statement, signers, drawn.electorate.time_ms)
        for replica in (early, late):
            if objection(replica.ledger, line) is not None:  # it took another branch, or proved a fork of this one
                event("loads what it held otherwise")
                load(early.ledger, replica.ledger, wire, range(statement.slices))
                continue
            assert found(replica.ledger, line) == statement
            with replica.ledger.transaction():
                replica.ledger.checkpoints.take(wire)
                replica.ledger.enforce()
            cut(replica.ledger)
        with newcomer.ledger.transaction():
            newcomer.ledger.set_electorate(drawn.electorate)
        load(early.ledger, newcomer.ledger, wire, range(statement.slices))
        early.hear(data.draw(st.permutations(after)))
        newcomer.hear(data.draw(st.permutations([*drawn.before.events, *drawn.before.proofs, *after])))
        for replica in (early, late, newcomer):
            replica.weigh(drawn.last)
        for replica in (late, newcomer):
            assert replica.ledger.state.heads == early.ledger.state.heads
            assert replica.ledger.state.vector_digest == early.ledger.state.vector_digest
            assert replica.shown() == early.shown()
            replica.check(early.shown())
            hold(replica.ledger.facts.connection)
            assert differences(replica.ledger) == []
        for replica in (early, late, newcomer):
            replica.weigh(later(drawn.last, 9 * DAY_MS))
        following = proposed(early.ledger)
        if following is not None:
            line = line_of(NETWORK, *following)
            assert len({found(replica.ledger, line) for replica in (early, late, newcomer)}) == 1
            event("there is a second checkpoint")


class Skipped(NamedTuple):
    """Two checkpoints, one after the other.

    Attributes:
        ledger: A daemon that was away while the first one was made, and holds all that lies below both cuts.
        ahead: One on which both are in force.
        first: Certificate.
        second: Certificate.
        electorate: That of the second one.
    """

    ledger: Ledger
    ahead: Ledger
    first: bytes
    second: bytes
    electorate: Electorate


@pytest.fixture
def skipped() -> Skipped:
    """Between the two a validator loses its permit that had recorded a deletion."""
    who = (*VALIDATORS[:3], "//Eve")
    writers = [Author(uri) for uri in who]
    events = [writer.write(writer.delegation(not_after=NOW_S + 99 * 86_400)) for writer in writers]
    events.append(writers[0].add(add("//Alice", ["gpu-1"])))
    events.append(writers[3].delete(delete("//Alice", "nodes:gpu-1", NOW_S + 1), "gpu-1"))
    behind, ahead = Replica(NOW_S * 1000 + 9_000), Replica(NOW_S * 1000 + 9_000)
    for replica in (behind, ahead):
        replica.weigh(world_electorate(stakes=dict.fromkeys(who, 100)))
        replica.hear(events)
    electorates = [
        world_electorate(100 + days, NOW_S * 1000 + days * DAY_MS, stakes=dict.fromkeys(voters, 100))
        for days, voters in ((8, who), (9, who[:3]))
    ]
    first, second = (_made_final(ahead, weighed) for weighed in electorates)
    behind.weigh(electorates[-1])
    return Skipped(behind.ledger, ahead.ledger, first, second, electorates[-1])


def _made_final(replica: Replica, weighed: Electorate) -> bytes:
    """Make a checkpoint under an electorate, by three validators, and put it in force; its certificate."""
    replica.weigh(weighed)
    made = proposed(replica.ledger)
    assert made is not None
    statement = found(replica.ledger, line_of(NETWORK, *made))
    wire = certificate(made[0], statement, VALIDATORS[:3], weighed.time_ms)
    with replica.ledger.transaction():
        replica.ledger.checkpoints.take(wire)
        replica.ledger.enforce()
    cut(replica.ledger)
    return wire


class TestOneAfterTheOther:
    """What is kept depends on what was kept before: a live set is found from where its signers found it."""

    def test_of_several_that_come_at_once_the_next_one_is_pending_whatever_the_order(self, skipped: Skipped) -> None:
        with skipped.ledger.transaction():
            for wire in (skipped.second, skipped.first):
                skipped.ledger.checkpoints.take(wire)
        for _ in range(2):
            pending = skipped.ledger.checkpoints.pending
            assert pending is not None
            assert hindrance(skipped.ledger, pending) is None
            assert found(skipped.ledger, pending.line) == pending.statement
            with skipped.ledger.transaction():
                skipped.ledger.enforce()
            cut(skipped.ledger)
        assert skipped.ledger.checkpoints.pending is None
        with skipped.ledger.transaction():
            skipped.ledger.checkpoints.take(skipped.first)  # somebody brings it again
        assert skipped.ledger.checkpoints.pending is None
        assert skipped.ledger.state.state_root == skipped.ahead.state.state_root

    def test_one_that_skips_another_may_be_found_otherwise_and_then_comes_from_peers(self, skipped: Skipped) -> None:
        ledger, number = skipped.ledger, skipped.ahead.state.checkpoint
        with ledger.transaction():
            assert consider(ledger, number, skipped.second) == Answer(Found.TAKEN)
        pending = ledger.checkpoints.pending
        assert pending is not None
        assert hindrance(ledger, pending) is None
        assert found(ledger, pending.line) != pending.statement
        assert "it follows another checkpoint than none" in (hindrance(ledger, pending) or "")
        with ledger.transaction():
            assert consider(ledger, number, skipped.second).found is Found.LOADS

    def test_it_is_not_loaded_while_another_one_leads_up_to_it(self, skipped: Skipped) -> None:
        ledger, number = skipped.ledger, skipped.ahead.state.checkpoint
        with ledger.transaction():
            ledger.checkpoints.take(skipped.first)
            ledger.checkpoints.take(skipped.second)
        assert ledger.checkpoints.newest is not None
        assert found(ledger, ledger.checkpoints.newest.line) != ledger.checkpoints.newest.statement
        with ledger.transaction():
            assert consider(ledger, number, skipped.second) == Answer(Found.TAKEN)
        assert not ledger.state.loading

    def test_it_is_loaded_where_that_other_one_names_what_is_not_here(self, skipped: Skipped) -> None:
        """Nor anywhere, perhaps: logs that the later one does not name are forgotten. It would be awaited for ever."""
        ledger, number = skipped.ledger, skipped.ahead.state.checkpoint
        said = Certificate.decode(skipped.first)
        named = Propose.from_wire(unpack(said.proposal.payload))
        further = named.logs[0]._replace(head=Head(named.logs[0].head.seq + 1, bytes(32)))
        proposer = Author(VALIDATORS[0], number=1_001)
        proposer.write(proposer.delegation(not_after=NOW_S + 99 * 86_400))
        drawn = proposer.write(named._replace(logs=(further, *named.logs[1:])), at_ms=hlc_ms(said.proposal.hlc))
        statement = Checkpoint.from_wire(unpack(said.signatures[0].checkpoint.payload))._replace(proposal=drawn.id)
        with ledger.transaction():
            ledger.checkpoints.take(certificate(drawn, statement, VALIDATORS[:3], hlc_ms(drawn.hlc)))
            assert ledger.checkpoints.pending is not None
            answer = consider(ledger, number, skipped.second)
        assert answer == Answer(Found.LOADS, f"log {further.log} is not here up to seq {further.head.seq}")
        assert ledger.state.loading

    def test_of_two_that_follow_the_one_in_force_the_later_one_is_pending(self, skipped: Skipped) -> None:
        ledger = skipped.ledger
        made = proposed(ledger)
        assert made is not None
        statement = found(ledger, line_of(NETWORK, *made))
        with ledger.transaction():
            ledger.checkpoints.take(skipped.first)
            ledger.checkpoints.take(certificate(made[0], statement, VALIDATORS[:3], skipped.electorate.time_ms))
        assert len({number for (number,) in ledger.facts.connection.execute("SELECT number FROM certificate")}) == 2
        assert ledger.checkpoints.pending is not None
        assert ledger.checkpoints.pending.statement == statement

    def test_the_one_in_force_outlives_any_number_of_later_ones(self, skipped: Skipped) -> None:
        """Who finds something else than all others waits for its operator: days."""
        ledger, last = skipped.ahead, skipped.electorate
        number, heads = ledger.state.checkpoint, ledger.state.heads
        for _ in range(CERTIFICATES_KEPT + 2):
            last = later(last, DAY_MS)
            with ledger.transaction():
                ledger.set_electorate(last)
            made = proposed(ledger)
            assert made is not None
            statement = Checkpoint(made[1].number, made[0].id, 1, 1, bytes(32))
            with ledger.transaction():
                ledger.checkpoints.take(certificate(made[0], statement, VALIDATORS[:3], last.time_ms))
        anew = Ledger(ledger.facts.connection, NETWORK)
        assert anew.state.checkpoint == number
        assert anew.state.heads == heads
        (rows,) = ledger.facts.connection.execute("SELECT count(*) FROM certificate").fetchone()
        assert rows == CERTIFICATES_KEPT + 1


def test_a_log_that_was_cut_once_is_cut_by_every_later_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies below is gone: a head that a restart finds lower, and that newcomers never see, parts them for ever."""
    writers = [Author(uri) for uri in VALIDATORS[:3]]
    replica, weighed = Replica((NOW_S + 30 * 86_400) * 1000), later(world_electorate(), 8 * DAY_MS)
    replica.weigh(world_electorate())
    replica.hear([writer.write(writer.delegation(not_after=NOW_S + 99 * 86_400)) for writer in writers])
    replica.hear([writer.verdict(bytes(32)) for writer in writers])
    _made_final(replica, weighed)
    monkeypatch.setattr(checkpoint, "LOGS_PER_CUT_MAX", 4)
    again = [Author(VALIDATORS[2], seed=seed) for seed in range(2, 5)]  # of all it has the most logs
    replica.hear([writer.write(writer.delegation(not_after=NOW_S + 99 * 86_400)) for writer in again])
    for _ in range(2):
        weighed = later(weighed, DAY_MS)
        _made_final(replica, weighed)
    assert len(replica.ledger.checkpoints.line.logs) == 4
    assert Ledger(replica.ledger.facts.connection, NETWORK).state.heads == replica.ledger.state.heads


def test_a_claims_body_is_read_from_an_event_that_is_kept(writers: list[Author]) -> None:
    """It was read from the one that was heard first, and that goes."""
    request = add("//Alice", ["gpu-1"])
    again = Author(VALIDATORS[1], number=1)
    again.delegate()
    writers[1].add(request, block=BLOCK - 1, at_ms=NOW_S * 1000 + 2)
    kept = again.add(request, at_ms=NOW_S * 1000 + 1)
    replica = Replica(NOW_S * 1000 + HOUR_MS)
    replica.weigh(world_electorate())
    replica.hear([event for author in (*writers, again) for event in author.events])
    _made_final(replica, later(world_electorate(), 8 * DAY_MS))
    connection = replica.ledger.facts.connection
    (left,) = connection.execute("SELECT wire FROM events WHERE kind = 'add'").fetchall()
    assert left == (kept.wire,)
    body = Ledger(connection, NETWORK).facts.body(request_id(NETWORK.id, request))
    assert [node.uuid for node in body.nodes] == ["gpu-1"]


def test_what_was_said_on_a_branch_that_a_checkpoint_closed_is_gone(writers: list[Author]) -> None:
    """A validator's disk was cloned: whoever heard the other branch loads what everybody else has."""
    requests = [add("//Alice", [uuid]) for uuid in ("gpu-1", "gpu-2")]
    claims = [request_id(NETWORK.id, request) for request in requests]
    shared = [event for writer in writers for event in writer.events]
    shared += [writers[0].add(request) for request in requests]
    clone, weighed = copy(writers[1]), later(world_electorate(), 8 * DAY_MS)
    now_ms = weighed.time_ms
    replica, astray = (Replica(now_ms) for _ in range(2))
    for each in (replica, astray):
        each.weigh(world_electorate())
        each.hear(shared)
        each.weigh(weighed)
    replica.hear([writers[1].verdict(bytes(32))])
    astray.hear(
        [
            clone.renew(*claims, at_ms=now_ms),
            clone.write(Place(claims[0], ("gpu-1",), *CHUTE), at_ms=now_ms),
            clone.delete(delete("//Alice", "nodes:gpu-2", now_ms // 1000), "gpu-2", at_ms=now_ms),
        ]
    )
    assert list(astray.shown()) == ["gpu-1"]
    assert _said_so_far(astray) == [2, 1, 1]
    wire = _made_final(replica, weighed)
    load(replica.ledger, astray.ledger, wire, range(checkpoints.certified(NETWORK, wire).statement.slices))
    assert _said_so_far(astray) == [0, 0, 0]
    assert astray.shown() == replica.shown()
    assert sorted(astray.shown()) == ["gpu-1", "gpu-2"]
    hold(astray.ledger.facts.connection)
    assert differences(astray.ledger) == []


@pytest.mark.parametrize("heard", ["before the search", "in the search", "behind the cut"])
@pytest.mark.parametrize("proof", ["fork", "closing"])
def test_what_a_checkpoint_keeps_of_a_log_counts_whenever_its_end_was_shown(
    writers: list[Author], heard: str, proof: str
) -> None:
    """Whoever heard of it before loses for a while what lies above, and has it again with the cut."""
    requests = [add("//Alice", ["gpu-1"]), add("//Bob", ["gpu-2", "gpu-3"])]
    shared = [event for writer in writers for event in writer.events]
    shared += [writers[0].add(requests[0]), writers[1].verdict(bytes(32))]
    shared += [writers[1].add(requests[1]), writers[1].verdict(request_id(NETWORK.id, requests[1]))]
    for posted, uuids in zip(requests, (("gpu-1",), ("gpu-2", "gpu-3")), strict=True):
        shared.append(writers[1].write(Place(request_id(NETWORK.id, posted), uuids, *CHUTE)))
    shared.append(writers[1].write(Release(request_id(NETWORK.id, requests[1]), ("gpu-3",))))
    log = writers[1].log
    twin = Author(VALIDATORS[1])
    twin.head = Head(1, writers[1].events[1].id)
    rival = twin.verdict(bytes(32), at_ms=NOW_S * 1000)
    end = closing_of(writers[1].hotkey, NETWORK.id, log, Head(0, writers[1].events[0].id))
    replica, weighed = Replica((NOW_S + 30 * 86_400) * 1000), later(world_electorate(), 8 * DAY_MS)
    replica.weigh(world_electorate())
    replica.hear(shared)
    replica.weigh(weighed)
    before = replica.shown()
    made = proposed(replica.ledger)
    assert made is not None
    line = line_of(NETWORK, *made)

    def hear() -> None:
        replica.hear([rival if proof == "fork" else end])

    if heard == "before the search":
        hear()
    with replica.ledger.transaction():
        assert replica.ledger.find_live_set(line) is None
    if heard == "in the search":
        hear()
    if heard != "behind the cut":
        assert list(replica.shown()) == ["gpu-1"]
        assert not any(row.chute for row in replica.shown().values())
    statement = found(replica.ledger, line)
    assert objection(replica.ledger, line) is None
    with replica.ledger.transaction():
        replica.ledger.checkpoints.take(certificate(made[0], statement, VALIDATORS[:3], weighed.time_ms))
        replica.ledger.enforce()
    assert covers(line, log, writers[1].events[-1].seq)
    if heard == "behind the cut":
        hear()
    assert replica.shown().keys() == before.keys()
    assert [row.chute for row in replica.shown().values()] == [CHUTE, CHUTE, None]
    cut(replica.ledger)
    assert [row.chute for row in replica.shown().values()] == [CHUTE, CHUTE, None]
    hold(replica.ledger.facts.connection)
    assert differences(replica.ledger) == []


def _said_so_far(replica: Replica) -> list[int]:
    """How many verdicts, places or releases, and deletions are recorded."""
    query = "SELECT count(*) FROM {}"
    execute = replica.ledger.facts.connection.execute
    return [execute(query.format(table)).fetchone()[0] for table in ("verdict", "placement", "deletion")]


class Late:
    """A validator that has placed a chute, and tells of a second one when that lies a week back, above a cut.

    ``old`` hears of it before the checkpoint, ``newcomer`` loads what that keeps, and hears of it then.
    """

    def __init__(self, *, replaced: bool = False) -> None:
        """Let a checkpoint be in force, behind which the second place came too late; a third one may replace it."""
        self.writers = [Author(uri) for uri in VALIDATORS[:3]]
        request = add("//Alice", ["gpu-1", "gpu-2"])
        self.claim_id = request_id(NETWORK.id, request)
        events = [writer.write(writer.delegation(not_after=NOW_S + 99 * 86_400)) for writer in self.writers]
        events.append(self.writers[0].add(request))
        self.old, self.newcomer = (Replica((NOW_S + 30 * 86_400) * 1000) for _ in range(2))
        self.weighed = world_electorate()
        self.old.weigh(self.weighed)
        self.old.hear([*events, self.place("first", NOW_S * 1000)])
        self.weigh(8)
        made = proposed(self.old.ledger)
        assert made is not None
        above = [self.place("late", NOW_S * 1000 + HOUR_MS)]
        self.twin = copy(self.writers[1])
        if replaced:
            above.append(self.place("new", self.weighed.time_ms))
        self.old.hear(above)
        self.put_in_force(made)
        load(self.old.ledger, self.newcomer.ledger, self.wire, range(self.statement.slices))
        self.newcomer.hear(above)

    def weigh(self, days: int) -> None:
        """Let time go on."""
        self.weighed = later(self.weighed, days * DAY_MS)
        for replica in (self.old, self.newcomer):
            replica.weigh(self.weighed)

    def place(self, chute: str, at_ms: int) -> Event:
        """Let the second validator place a chute on one of the GPUs."""
        word = Place(self.claim_id, ("gpu-1",), *CHUTE._replace(chute_id=chute))
        return self.writers[1].write(word, at_ms=at_ms)

    def put_in_force(self, made: tuple[Event, Propose]) -> None:
        """Let the old one put a checkpoint in force."""
        self.statement = found(self.old.ledger, line_of(NETWORK, *made))
        self.wire = certificate(made[0], self.statement, VALIDATORS[:3], self.weighed.time_ms)
        with self.old.ledger.transaction():
            self.old.ledger.checkpoints.take(self.wire)
            self.old.ledger.enforce()
        cut(self.old.ledger)

    def fork(self) -> None:
        """Let the validator's log fork behind the late word."""
        rival = self.twin.verdict(self.claim_id, at_ms=self.weighed.time_ms)
        for replica in (self.old, self.newcomer):
            replica.hear([rival])

    def says(self, chute: str | None) -> None:
        """Require that both say that this chute runs, and nothing else when all is derived anew."""
        for replica in (self.old, self.newcomer):
            shown = replica.shown()["gpu-1"].chute
            assert (None if shown is None else shown.chute_id) == chute
            anew = open_writer(":memory:")
            replica.ledger.facts.connection.backup(anew)
            hold(anew)
            assert differences(Ledger(anew, NETWORK)) == []
        assert self.old.ledger.state.state_root == self.newcomer.ledger.state.state_root


class TestWordsThatCameTooLate:
    """A word that a checkpoint makes void did not replace what that keeps."""

    def test_the_kept_place_counts_again(self) -> None:
        Late().says("first")

    def test_the_next_live_set_is_the_same_whether_the_late_word_was_heard_before_or_after_the_cut(self) -> None:
        at = Late()
        at.weigh(1)
        made = proposed(at.old.ledger)
        assert made is not None
        line = line_of(NETWORK, *made)
        assert found(at.old.ledger, line) == found(at.newcomer.ledger, line)

    def test_it_is_no_word_to_go_back_to_where_a_later_one_is_void(self) -> None:
        at = Late(replaced=True)
        at.says("new")
        at.fork()
        at.says("first")

    def test_nor_once_the_next_checkpoint_has_taken_it_away(self) -> None:
        at = Late(replaced=True)
        at.weigh(1)
        made = proposed(at.old.ledger)
        assert made is not None
        at.put_in_force(made)
        load(at.old.ledger, at.newcomer.ledger, at.wire, range(at.statement.slices))
        at.says("new")
        at.fork()
        at.says("first")


class Carried:
    """A chute is placed under a claim whose author is lost a day later, so that others carry the claim from then on."""

    WHO: Final = (*VALIDATORS[:3], "//Eve")

    def __init__(self, lost: str) -> None:
        """Let it happen: ``lost`` says what becomes of the claim's author, ``permit`` or ``fork``."""
        self.replica = Replica((NOW_S + 99 * 86_400) * 1000)
        self.writers, author = [Author(uri) for uri in VALIDATORS[:3]], Author("//Eve")
        self.voters: tuple[str, ...] = self.WHO
        self.weigh(0)
        for each in (*self.writers, author):
            each.write(each.delegation(not_after=NOW_S + 99 * 86_400))
        twin, request = copy(author), add("//Alice", ["gpu-1", "gpu-2"])
        self.claim_id = request_id(NETWORK.id, request)
        self.registered = author.add(request)
        self.writers[1].write(Place(self.claim_id, ("gpu-1", "gpu-2"), *CHUTE), at_ms=NOW_S * 1000 + HOUR_MS)
        self.replica.hear([event for each in (*self.writers, author) for event in each.events])
        if lost == "fork":
            self.replica.hear([twin.verdict(bytes(32))])
        else:
            self.voters = self.WHO[:3]
        self.weigh(1)
        assert self.needs() == [self.claim_id]
        self.carried = self.writers[2].write(Carry((self.registered.wire,)), at_ms=NOW_S * 1000 + DAY_MS)

    def weigh(self, days: int) -> Electorate:
        """Let time go on to so many days after the beginning."""
        stakes = dict.fromkeys(self.voters, 100)
        self.electorate = world_electorate(100 + days, NOW_S * 1000 + days * DAY_MS, stakes=stakes)
        self.replica.weigh(self.electorate)
        return self.electorate

    def needs(self) -> list[bytes]:
        """Claims that others would carry."""
        ledger = self.replica.ledger
        part = carrying.part(ledger.facts, carrying.Cursor(), ledger.weights, self.writers[2].hotkey.public_key)
        query = "SELECT claim_id FROM claim WHERE claim = ?"
        return [ledger.facts.connection.execute(query, (need.key,)).fetchone()[0] for need in part.needs]

    def cut(self, days: int) -> bytes:
        """Put a checkpoint in force so many days after the beginning; its certificate."""
        return _made_final(self.replica, self.weigh(days))

    def newcomer(self, wire: bytes) -> Replica:
        """Whoever loads the live set in force, and hears then what lies above its cut."""
        newcomer = Replica((NOW_S + 99 * 86_400) * 1000)
        newcomer.weigh(self.electorate)
        load(self.replica.ledger, newcomer.ledger, wire, range(checkpoints.certified(NETWORK, wire).statement.slices))
        newcomer.hear([event for each in self.writers for event in each.events])
        return newcomer

    def check(self) -> None:
        """Require that what a rebuild finds is the same."""
        hold(self.replica.ledger.facts.connection)
        assert differences(self.replica.ledger) == []


@pytest.mark.parametrize("lost", ["permit", "fork"])
class TestPlacesUnderWhatIsCarried:
    """A place outlives its claim's first author, also where it lies below a cut and the claim does only above it."""

    def test_it_counts_as_long_as_its_claim_does(self, lost: str) -> None:
        at = Carried(lost)
        at.replica.hear([at.carried])
        rows = at.replica.shown()
        assert [row.chute for row in rows.values()] == [CHUTE, CHUTE]
        for days in (8, 9, 10, 16, 24, 40):  # from the ninth on the carry lies below, too
            wire = at.cut(days)
            at.replica.check(rows)
            at.newcomer(wire).check(rows)
        at.check()

    def test_it_counts_for_whoever_carries_the_claim_when_the_cut_is_in_force(self, lost: str) -> None:
        at = Carried(lost)
        for days in (8, 9, 21):
            at.cut(days)
            assert at.replica.shown() == {}
        at.replica.hear([at.carried])
        assert [row.chute for row in at.replica.shown().values()] == [CHUTE, CHUTE]
        at.check()

    def test_what_lies_above_a_cut_has_no_part_in_it(self, lost: str) -> None:
        at = Carried(lost)
        at.weigh(8)
        payload = proposal(at.replica.ledger)
        assert payload is not None
        line = line_of(NETWORK, in_an_event(at.replica.ledger, payload), payload)
        before = found(at.replica.ledger, line)
        at.replica.hear([at.carried])
        assert [row.chute for row in at.replica.shown().values()] == [CHUTE, CHUTE]
        with at.replica.ledger.transaction():
            at.replica.ledger.forget_finding()
        assert found(at.replica.ledger, line) == before

    def test_one_that_is_released_since_stays_so(self, lost: str) -> None:
        at = Carried(lost)
        at.replica.hear([at.carried])
        at.cut(8)
        at.replica.hear([at.writers[1].write(Release(at.claim_id, ("gpu-2",)), at_ms=NOW_S * 1000 + 8 * DAY_MS)])
        for days in (9, 15, 16, 24):
            at.cut(days)
            assert {uuid: row.chute for uuid, row in at.replica.shown().items()} == {"gpu-1": CHUTE, "gpu-2": None}

    def test_it_is_gone_when_nobody_can_carry_its_claim_any_more(self, lost: str) -> None:
        at = Carried(lost)
        for days, left in ((8, 1), (21, 1), (22, 0)):
            wire = at.cut(days)
            (places,) = at.replica.ledger.facts.connection.execute("SELECT count(*) FROM placement").fetchone()
            assert places == 2 * left
            leaves = checkpoints.certified(NETWORK, wire).statement.leaves
            assert leaves == 3 + left + (lost == "fork")  # delegations; that of a fork's author is named
        at.replica.hear([at.carried])
        assert at.replica.shown() == {}


def test_whose_a_gpu_was_is_told_while_a_cut_takes_that_away() -> None:
    """A horizon may be shorter than the time for which a GPU that goes from hotkey to hotkey is refused."""
    replica, writers = Replica(NOW_S * 1000 + HOUR_MS), [opened(uri) for uri in VALIDATORS[:3]]
    first = writers[0].add(add("//Alice", ["gpu-1"]))
    writers[0].delete(delete("//Alice", "nodes", NOW_S + 1), "gpu-1", at_ms=NOW_S * 1000 + 1_000)
    replica.weigh(world_electorate())
    replica.hear([event for writer in writers for event in writer.events])
    replica.weigh(later(world_electorate(), 23 * DAY_MS))
    ledger, made = replica.ledger, proposed(replica.ledger)
    assert made is not None
    wire = certificate(made[0], found(ledger, line_of(NETWORK, *made)), VALIDATORS[:3], NOW_S * 1000 + 23 * DAY_MS)
    told = [ledger.facts.history("gpu-1", 0, 9)]
    with ledger.transaction():
        ledger.checkpoints.take(wire)
        ledger.enforce()
    while ledger.checkpoints.stage is checkpoints.Stage.CUTTING:
        with ledger.transaction():
            ledger.cut()
        told.append(ledger.facts.history("gpu-1", 0, 9))
    assert told[0] == [(first.hlc, hotkey("//Alice").public_key)]
    assert told[-1] == []


class Deleted:
    """A GPU is deleted a week after it was registered, both through one validator, which loses its permit then.

    A checkpoint comes in between: the registration lies below its cut and the deletion above, where it stays, for what
    a validator without a permit has said no later cut reaches.
    """

    WHO: Final = (*VALIDATORS[:3], "//Eve")

    def __init__(self, purpose: str) -> None:
        """Let it happen."""
        self.replica = Replica((NOW_S + 99 * 86_400) * 1000)
        self.writers = [Author(uri) for uri in self.WHO]
        for each in self.writers:
            each.write(each.delegation(not_after=NOW_S + 99 * 86_400))
        self.writers[3].add(add("//Alice", ["gpu-1", "gpu-2"]))
        self.deletions = [
            self.writers[3].delete(
                delete("//Alice", purpose or bound_purpose(uuid), NOW_S + days * 86_400), uuid,
                at_ms=NOW_S * 1000 + days * DAY_MS,
            )
            for uuid, days in (("gpu-2", 6), ("gpu-1", 7))
        ]  # fmt: skip
        self.weigh(0, self.WHO)
        self.replica.hear([event for each in self.writers for event in each.events])
        self.cut(8, self.WHO)

    def weigh(self, days: int, voters: Sequence[str]) -> Electorate:
        """Let time go on to so many days after the beginning."""
        stakes = dict.fromkeys(voters, 100)
        self.electorate = world_electorate(BLOCK + days, NOW_S * 1000 + days * DAY_MS, stakes=stakes)
        self.replica.weigh(self.electorate)
        return self.electorate

    def cut(self, days: int, voters: Sequence[str]) -> bytes:
        """Put a checkpoint in force so many days after the beginning; its certificate."""
        return _made_final(self.replica, self.weigh(days, voters))

    def wanted(self) -> list[bytes]:
        """The events that somebody else would carry."""
        connection, own = self.replica.ledger.facts.connection, self.writers[2].hotkey.public_key
        reading = carrying._Reading(self.replica.ledger.facts, self.replica.ledger.weights)
        found = carrying.part(self.replica.ledger.facts, carrying.Cursor(), self.replica.ledger.weights, own)
        units = carrying._units(connection, reading, [need.key for need in found.needs])
        return [carrying.raw_request(connection, *at) for unit in units.values() for at in unit.places]


@pytest.mark.parametrize("purpose", ["", "nodes"])
class TestWhatAValidatorDeletedThatLostItsPermit:
    """It is carried as long as a live set holds the registration, which would come back as soon as it is too old."""

    def test_it_does_not_come_back_with_the_permit_or_by_being_carried(self, purpose: str) -> None:
        at = Deleted(purpose)
        assert at.replica.shown() == {}
        assert at.wanted() == []
        at.weigh(9, at.WHO[:3])
        assert set(at.wanted()) == {event.wire for event in at.deletions}
        at.replica.hear([at.writers[1].write(Carry(tuple(at.wanted())), at_ms=NOW_S * 1000 + 9 * DAY_MS)])
        for days in (10, 16, 17, 28, 29, 40):
            wire = at.cut(days, at.WHO[:3])
            assert at.wanted() == []
            newcomer = Replica((NOW_S + 99 * 86_400) * 1000)
            newcomer.weigh(at.electorate)
            statement = checkpoints.certified(NETWORK, wire).statement
            load(at.replica.ledger, newcomer.ledger, wire, range(statement.slices))
            newcomer.hear([event for each in at.writers for event in each.events])
            for each in (at.replica, newcomer):
                each.weigh(at.weigh(days, at.WHO))
                assert each.shown() == {}
        (left,) = at.replica.ledger.facts.connection.execute("SELECT count(*) FROM claim").fetchone()
        assert left == 0

    def test_nothing_is_carried_where_no_live_set_holds_the_registration(self, purpose: str) -> None:
        at = Deleted(purpose)
        at.cut(15, at.WHO)
        at.weigh(16, at.WHO[:3])
        assert at.wanted() == []


def test_who_says_that_a_claim_came_before_its_miner_takes_no_place_from_it(writers: list[Author]) -> None:
    """What it records of the claim does not count: so it does not say either that nobody waits for it."""
    miner, request = hotkey("//Alice").public_key, add("//Alice", ["gpu-1"])
    author = Author("//Eve")
    author.delegate()
    twin, lied = copy(author), writers[0].add(request, block=BLOCK - 1)
    registered = author.add(request)
    writers[1].write(Place(request_id(NETWORK.id, request), ("gpu-1",), *CHUTE))
    who = world_electorate(stakes=dict.fromkeys((*VALIDATORS[:3], "//Eve"), 100))
    late = who.current._replace(registered={**who.current.registered, miner: BLOCK})
    replica = Replica((NOW_S + 30 * 86_400) * 1000)
    replica.weigh(Electorate(late))
    replica.hear([event for each in (*writers, author) for event in each.events])
    assert lied in writers[0].events
    replica.hear([twin.verdict(bytes(32))])
    assert replica.shown() == {}
    carried = writers[2].write(Carry((registered.wire,)), at_ms=NOW_S * 1000 + 2 * DAY_MS)
    replica.hear([carried])
    _made_final(replica, later(Electorate(late), 8 * DAY_MS))
    assert [row.chute for row in replica.shown().values()] == [CHUTE]


@pytest.fixture
def cut_file(tmp_path: Path) -> Path:
    """A database whose logs were cut: of a claim on two GPUs one was deleted, and the other one runs a chute."""
    writers = [Author(uri) for uri in VALIDATORS[:3]]
    for writer in writers:
        writer.delegate()
    request = add("//Alice", ["gpu-1", "gpu-2"])
    claim_id = request_id(NETWORK.id, request)
    writers[0].add(request)
    writers[1].write(Place(claim_id, ("gpu-1", "gpu-2"), *CHUTE))
    writers[1].write(Release(claim_id, ("gpu-2",)))
    writers[2].delete(delete("//Alice", "nodes:gpu-2", NOW_S + 1), "gpu-2", [claim_id])
    writers[2].verdict(claim_id)
    writers[1].renew(claim_id, bytes(32))
    replica = Replica(NOW_S * 1000 + 9)
    who = world_electorate()
    replica.weigh(who)
    replica.hear([event for writer in writers for event in writer.events])
    replica.weigh(later(who, 8 * DAY_MS))
    made = proposed(replica.ledger)
    assert made is not None
    line = line_of(NETWORK, *made)
    statement = found(replica.ledger, line)
    wire = certificate(made[0], statement, VALIDATORS[:3], replica.ledger.weights.electorate.time_ms)
    with replica.ledger.transaction():
        replica.ledger.checkpoints.take(wire)
        replica.ledger.enforce()
    cut(replica.ledger)
    path = tmp_path / "cut.db"
    with closing(sqlite3.connect(path)) as copy:
        replica.ledger.facts.connection.backup(copy)
    return path


class TestAudit:
    """``db verify`` knows what a checkpoint leaves, and what the validators signed."""

    def test_it_finds_nothing_wrong_with_what_is_kept(self, cut_file: Path) -> None:
        report = audit(cut_file, NETWORK)
        assert report.problems == []
        assert report.rows == 1
        assert report.events == 6  # delegations, the add, the place and the deletion: neither release nor verdicts

    @pytest.mark.parametrize(
        ("damage", "problem"),
        [
            ("DELETE FROM events WHERE kind = 'add'", "with another root"),
            ("UPDATE live SET mask = 3 WHERE mask = 1 AND seq = 1", "with another root"),
            ("DELETE FROM live WHERE seq = 1", "left it out"),
        ],
    )
    def test_it_finds_what_is_missing_or_too_much(self, cut_file: Path, damage: str, problem: str) -> None:
        with closing(sqlite3.connect(cut_file, isolation_level=None)) as copy:
            copy.execute(damage)
        assert [found for found in audit(cut_file, NETWORK).problems if problem in found]

    @pytest.mark.parametrize("damage", ["DELETE FROM live WHERE seq = 1", "UPDATE live SET mask = 3 WHERE mask = 1"])
    def test_no_rows_are_derived_from_what_nobody_signed(self, cut_file: Path, damage: str) -> None:
        """They would pass for right: the claims that are not kept any more would be gone."""
        with closing(sqlite3.connect(cut_file, isolation_level=None)) as copy:
            copy.execute(damage)
            before = list(copy.iterdump())
            with pytest.raises(
                StoreError, match=r"nothing changed: checkpoint .* with another root.*; restore a backup"
            ):
                rebuild(cut_file, NETWORK)
            assert list(copy.iterdump()) == before

    def test_a_cut_that_a_stop_interrupted_is_no_problem(self, cut_file: Path) -> None:
        """What is still there and was left out goes first: the next start does the same."""
        with closing(sqlite3.connect(cut_file, isolation_level=None)) as copy:
            copy.execute("UPDATE certificate SET stage = 'cutting'")
            copy.execute("INSERT INTO deletion SELECT 'gpu-9', x'09', log, seq + 1, 0, x'', 0, 1, x'90' FROM deletion")
            copy.execute("UPDATE deletion SET seq = 2 WHERE uuid = 'gpu-9'")
        assert audit(cut_file, NETWORK).problems == []
        assert rebuild(cut_file, NETWORK).differences == []


class TestRoom:
    """What a cut has room for is looked at by who signs, and follows from what the proposal names, too."""

    @staticmethod
    def past(ledger: Ledger) -> Past:
        """As if all that is here had been for long."""
        return Past({log: state.head.seq for log, state in ledger.logs.items()}, ledger.logs.counted())

    def test_one_that_names_more_logs_of_a_hotkey_than_have_room_is_not_signed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They would stay named for as long as something of each is needed."""
        for name in ("LOGS_PER_HOTKEY_CUT", "SURPLUS_PER_HOTKEY_MAX"):
            monkeypatch.setattr(checkpoint, name, 1)
        ledger = memory_ledger()
        authors = [Author(VALIDATORS[0]), *(Author(VALIDATORS[1], number=number) for number in range(3))]
        for author in authors:
            author.write(author.delegation(not_after=NOW_S + 90 * 86_400), at_ms=NOW_S * 1000)
        TestLogsThatAreOver.hear(ledger, *authors)
        with ledger.transaction():
            ledger.set_electorate(later(world_electorate(), 8 * DAY_MS))
        honest = proposal(ledger)
        assert honest is not None
        assert len(honest.logs) == 3
        entries = [entry_at(ledger, state, state.head.seq) for state in ledger.logs.values()]
        greedy = honest._replace(logs=tuple(sorted(filter(None, entries), key=lambda entry: entry.log)))
        lately = [ledger.weights.electorate.digest]
        for payload, expected in ((honest, None), (greedy, "it names more logs of a hotkey than a cut has room for")):
            line = line_of(NETWORK, in_an_event(ledger, payload), payload)
            assert refusal(ledger, payload, line, lately, self.past(ledger)) == expected

    def test_what_a_log_that_ended_shows_later_frees_no_room_that_a_proposal_did_not_have(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of two that ended the one may go once the other one shows that it has not; then a third one has room."""
        for name in ("LOGS_PER_HOTKEY_CUT", "SURPLUS_PER_HOTKEY_MAX"):
            monkeypatch.setattr(checkpoint, name, 1)
        one, other, waiting = (Author(VALIDATORS[1], number=number) for number in (7, 8, 9))
        authors = [Author(VALIDATORS[0]), Author(VALIDATORS[2])]
        for author, days in (*((each, 90) for each in authors), (one, 2), (other, 2), (waiting, 90)):
            author.write(author.delegation(not_after=NOW_S + days * 86_400), at_ms=NOW_S * 1000)
        for author in (one, other):
            author.verdict(bytes(32), at_ms=NOW_S * 1000)
        ledger = memory_ledger()
        TestLogsThatAreOver.hear(ledger, *authors, one, other)
        TestLogsThatAreOver.make(ledger, 8)
        TestLogsThatAreOver.hear(ledger, waiting, days=9)
        with ledger.transaction():
            ledger.set_electorate(later(world_electorate(), 11 * DAY_MS))
        payload, past = proposal(ledger), self.past(ledger)
        assert payload is not None
        assert {one.log, other.log} <= {entry.log for entry in payload.logs}
        horizon_s = NOW_S + 11 * 86_400 - NETWORK.horizon_s
        other.write(other.delegation(not_after=horizon_s + 300), at_ms=horizon_s * 1000 - 1000)
        TestLogsThatAreOver.hear(ledger, other, days=11)
        now = proposal(ledger)
        assert now is not None
        assert waiting.log in {entry.log for entry in now.logs}
        line = line_of(NETWORK, in_an_event(ledger, payload), payload)
        past = past._replace(counted=ledger.logs.counted())
        assert refusal(ledger, payload, line, [ledger.weights.electorate.digest], past) is None

    @pytest.mark.parametrize("shown", ["logs", "closing"])
    def test_what_is_shown_of_a_log_that_is_not_named_since_it_is_not_settled_frees_no_room(
        self, monkeypatch: pytest.MonkeyPatch, shown: str
    ) -> None:
        """It goes on taking the only place that is left when its hotkey comes to its bound of logs, and if it ends."""
        for name, room in (("LOGS_PER_HOTKEY_CUT", 1), ("SURPLUS_PER_HOTKEY_MAX", 0), ("SURPLUS_LOGS_MAX", 1)):
            monkeypatch.setattr(checkpoint, name, room)
        monkeypatch.setattr(proposing, "LOGS_PER_HOTKEY_CUT", 1)
        monkeypatch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 5)
        first, last = sorted(VALIDATORS[:2], key=lambda uri: hotkey(uri).public_key)  # who comes first has room
        named, unsettled, youngest, *later_ones = (Author(first, number=number) for number in range(5))
        other, waiting = (Author(last, number=number) for number in range(2))
        days = {named: 0, other: 0, unsettled: 5, waiting: 5, youngest: 10, **dict.fromkeys(later_ones, 10)}
        for author, day in days.items():
            at_ms = NOW_S * 1000 + day * DAY_MS
            author.write(author.delegation(not_after=NOW_S + 90 * 86_400), at_ms=at_ms)
        ledger = memory_ledger()
        TestLogsThatAreOver.hear(ledger, named, other)
        TestLogsThatAreOver.make(ledger, 8)
        TestLogsThatAreOver.hear(ledger, unsettled, waiting, youngest, days=11)
        with ledger.transaction():
            ledger.set_electorate(later(world_electorate(), 13 * DAY_MS))
        payload, past = proposal(ledger), self.past(ledger)
        assert payload is not None
        assert {entry.log for entry in payload.logs} == {named.log, other.log}
        if shown == "logs":
            TestLogsThatAreOver.hear(ledger, *later_ones, days=11)
            assert ledger.logs.crowded() == {named.hotkey.public_key}
        else:
            with ledger.transaction():
                ledger.receive_proofs([closing_of(unsettled.hotkey, NETWORK.id, unsettled.log, None)], NOW_S * 1000)
        now = proposal(ledger)
        assert now is not None
        assert waiting.log in {entry.log for entry in now.logs}
        line = line_of(NETWORK, in_an_event(ledger, payload), payload)
        assert refusal(ledger, payload, line, [ledger.weights.electorate.digest], past) is None

    def test_a_log_without_room_costs_who_signs_two_short_statements(self) -> None:
        """Writes wait for it: 62 validators may have 256 logs each."""
        counts: list[int] = []
        for many in (60, 120):
            ledger = memory_ledger()
            TestLogsThatAreOver.hear(ledger, *map(opened, VALIDATORS))
            TestLogsThatAreOver.hear(ledger, *(opened(VALIDATORS[1], number) for number in range(1, many)))
            with ledger.transaction():
                ledger.set_electorate(later(world_electorate(), 8 * DAY_MS))
            payload, past = proposal(ledger), self.past(ledger)
            assert payload is not None
            line, statements = line_of(NETWORK, in_an_event(ledger, payload), payload), list[str]()
            ledger.facts.connection.set_trace_callback(statements.append)
            assert refusal(ledger, payload, line, [ledger.weights.electorate.digest], past) is None
            ledger.facts.connection.set_trace_callback(None)
            counts.append(len(statements))
        assert counts[1] - counts[0] == 2 * 60


class TestLogsThatAreOver:
    """A cut need not name for ever what it named once: else a network could make no checkpoints after some years."""

    DAYS: Final = 2
    """How long the delegation of the log lasts."""

    def ledger(
        self, *, first_days: int = DAYS, last_days: int | None = None, others_days: int = 90, alone: bool = False
    ) -> tuple[Ledger, Author]:
        """Three validators and another log of one, or its only one, which registers a GPU; a checkpoint names all."""
        over = Author(VALIDATORS[1], number=7)
        authors = [Author(uri) for uri in VALIDATORS[:3] if not (alone and uri == VALIDATORS[1])]
        for author, days in (*((each, others_days) for each in authors), (over, first_days)):
            author.write(author.delegation(not_after=NOW_S + days * 86_400), at_ms=NOW_S * 1000)
        over.add(add("//Alice", ["gpu-1"]), at_ms=NOW_S * 1000)
        over.verdict(bytes(32), at_ms=NOW_S * 1000)
        if last_days is not None:
            over.write(over.delegation(not_after=NOW_S + last_days * 86_400), at_ms=NOW_S * 1000)
        authors[0].add(add("//Bob", ["gpu-2"]), at_ms=NOW_S * 1000)
        ledger = memory_ledger()
        self.hear(ledger, *authors, over)
        self.make(ledger, 8)
        assert over.log in ledger.checkpoints.line.logs
        return ledger, over

    @staticmethod
    def hear(ledger: Ledger, *authors: Author, days: int = 1) -> list[str]:
        with ledger.transaction():
            outcomes = ledger.receive(
                [each for author in authors for each in author.events], NOW_S * 1000 + days * DAY_MS
            )
        return [outcome.detail for outcome in outcomes if outcome.result == "refused"]

    @staticmethod
    def make(ledger: Ledger, days: int) -> None:
        """Put a checkpoint in force, so many days after the beginning."""
        with ledger.transaction():
            ledger.set_electorate(later(world_electorate(), days * DAY_MS))
        made = proposed(ledger)
        assert made is not None
        line = line_of(NETWORK, *made)
        wire = certificate(made[0], found(ledger, line), VALIDATORS, ledger.weights.electorate.time_ms)
        with ledger.transaction():
            ledger.checkpoints.take(wire)
            ledger.enforce()
        cut(ledger)

    @staticmethod
    def delete(ledger: Ledger) -> None:
        """Let the GPU be deleted, so that nothing of the log is needed."""
        author = Author(VALIDATORS[2], number=9)
        author.write(author.delegation(not_after=NOW_S + 90 * 86_400), at_ms=NOW_S * 1000)
        request = delete("//Alice", bound_purpose("gpu-1"), nonce_s=NOW_S + 1)
        author.delete(request, "gpu-1", at_ms=NOW_S * 1000)
        TestLogsThatAreOver.hear(ledger, author)

    def test_one_of_which_nothing_is_needed_is_named_no_more_and_forgotten(self, tmp_path: Path) -> None:
        ledger, over = self.ledger()
        self.delete(ledger)
        self.make(ledger, 9)  # it has not ended before the horizon yet
        assert over.log in ledger.checkpoints.line.logs
        self.make(ledger, 10)
        before = ledger.state
        assert over.log not in ledger.checkpoints.line.logs
        assert over.log not in before.heads
        assert before.logs[over.log].displaced
        assert Ledger(ledger.facts.connection, NETWORK).state == before
        with closing(sqlite3.connect(tmp_path / "copy.db")) as copied:
            ledger.facts.connection.backup(copied)
        assert audit(tmp_path / "copy.db", NETWORK).problems == []
        assert before.events == self.stored(ledger)
        with ledger.transaction():
            assert ledger.forget(over.log)
        assert over.log not in ledger.state.logs
        assert ledger.state.events == self.stored(ledger) < before.events
        assert (ledger.state.state_root, ledger.state.vector_digest) == (before.state_root, before.vector_digest)
        assert Ledger(ledger.facts.connection, NETWORK).state == ledger.state
        self.make(ledger, 11)

    @staticmethod
    def stored(ledger: Ledger) -> int:
        (count,) = ledger.facts.connection.execute("SELECT count(*) FROM events").fetchone()
        return int(count)

    def test_what_is_sent_of_it_again_is_refused(self) -> None:
        ledger, over = self.ledger()
        self.delete(ledger)
        for days in (9, 10):
            self.make(ledger, days)
        before = ledger.state
        why = "its first delegation ended before the horizon, and the cut in force does not name it: it is over"
        assert set(self.hear(ledger, over)) == {why}
        with ledger.transaction():
            ledger.forget(over.log)
        assert self.hear(ledger, over) == [why]  # others are behind a gap
        assert over.log not in ledger.state.logs
        assert ledger.state.state_root == before.state_root

    def test_one_of_which_something_is_needed_stays(self) -> None:
        ledger, over = self.ledger()
        self.make(ledger, 10)
        self.make(ledger, 30)
        assert over.log in ledger.checkpoints.line.logs
        assert ledger.state.nodes == 2

    @pytest.mark.parametrize(("first_days", "last_days"), [(DAYS, 60), (60, DAYS)])
    def test_one_stays_as_long_as_any_of_its_delegations(self, first_days: int, last_days: int) -> None:
        ledger, over = self.ledger(first_days=first_days, last_days=last_days)
        self.delete(ledger)
        for days in (20, 30, 66):
            self.make(ledger, days)
            assert over.log in ledger.checkpoints.line.logs
        self.make(ledger, 69)
        assert over.log not in ledger.checkpoints.line.logs

    def test_one_that_is_delegated_for_ever_ends_all_the_same(self) -> None:
        """No daemon delegates for longer than a year: who does so wants to fill the cuts of others."""
        ledger, over = self.ledger(first_days=100_000, others_days=1_000)
        self.delete(ledger)
        for days in (300, 407, 408):
            self.make(ledger, days)
            assert over.log in ledger.checkpoints.line.logs
        self.make(ledger, 409)  # now the other log of its hotkey has ended as well
        assert over.log in ledger.checkpoints.line.logs
        another = Author(VALIDATORS[1], number=8)
        another.write(another.delegation(not_after=NOW_S + 999 * 86_400), at_ms=(NOW_S + 390 * 86_400) * 1000)
        self.hear(ledger, another, days=390)
        for days in (410, 411):
            assert over.log in ledger.checkpoints.line.logs
            self.make(ledger, days)
        assert over.log not in ledger.checkpoints.line.logs
        assert ledger.state.logs[over.log].displaced

    def test_the_only_one_of_a_validator_stays(self) -> None:
        """By it others know since when its silence counts; but for one without a permit, whose does not."""
        ledger, over = self.ledger(alone=True)
        self.delete(ledger)
        for days in (10, 20, 30):
            self.make(ledger, days)
            assert over.log in ledger.checkpoints.line.logs

    def test_a_proposal_that_leaves_out_what_is_needed_is_not_signed(self) -> None:
        ledger, over = self.ledger()
        with ledger.transaction():
            ledger.set_electorate(later(world_electorate(), 10 * DAY_MS))
        payload = proposal(ledger)
        assert payload is not None
        short = payload._replace(logs=tuple(entry for entry in payload.logs if entry.log != over.log))
        line = line_of(NETWORK, in_an_event(ledger, short), short)
        electorates, past = [ledger.weights.electorate.digest], self.all_of(ledger)
        assert "leaves out" in (refusal(ledger, short, line, electorates, past) or "")
        self.delete(ledger)
        self.make(ledger, 9)
        with ledger.transaction():
            ledger.set_electorate(later(world_electorate(), 10 * DAY_MS))
        payload = proposal(ledger)
        assert payload is not None
        assert over.log not in {entry.log for entry in payload.logs}
        line = line_of(NETWORK, in_an_event(ledger, payload), payload)
        assert refusal(ledger, payload, line, [ledger.weights.electorate.digest], self.all_of(ledger)) is None

    @pytest.mark.parametrize("shown", ["verdict", "delegation"])
    def test_what_is_shown_of_one_behind_a_proposal_that_leaves_it_out_keeps_nobody_from_signing(
        self, shown: str
    ) -> None:
        """An event of before its end, or a further delegation, could else cost all others a number for each log."""
        ledger, over = self.ledger(first_days=3)
        self.delete(ledger)
        self.make(ledger, 9)
        with ledger.transaction():
            ledger.set_electorate(later(world_electorate(), 11 * DAY_MS))
        payload, before = proposal(ledger), self.all_of(ledger)
        assert payload is not None
        assert over.log not in {entry.log for entry in payload.logs}
        if shown == "verdict":
            over.verdict(bytes(32), at_ms=NOW_S * 1000 + 2 * DAY_MS + DAY_MS // 2)
        else:
            over.write(over.delegation(not_after=NOW_S + 99 * 86_400), at_ms=NOW_S * 1000 + DAY_MS)
        self.hear(ledger, over, days=10)
        line, electorates = line_of(NETWORK, in_an_event(ledger, payload), payload), [ledger.weights.electorate.digest]
        assert over.log in {entry.log for entry in cut_of(ledger, ledger.weights.electorate)}
        now = self.all_of(ledger)
        assert refusal(ledger, payload, line, electorates, before._replace(counted=now.counted)) is None
        assert "leaves out" in (refusal(ledger, payload, line, electorates, now) or "")

    def test_a_proposal_that_names_one_is_not_signed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It counted less than a margin ago where the cut that had no room for it was put in force just now."""
        for name, room in (("LOGS_PER_HOTKEY_CUT", 1), ("SURPLUS_PER_HOTKEY_MAX", 0)):
            monkeypatch.setattr(checkpoint, name, room)
        others, over = [*map(Author, VALIDATORS)], Author(VALIDATORS[1], number=7)
        for author, first, last in (*((each, 0, 90) for each in others), (over, 3, 5)):
            delegation = author.delegation(not_after=NOW_S + last * 86_400)
            author.write(delegation, at_ms=NOW_S * 1000 + first * DAY_MS)
        ledger = memory_ledger()
        self.hear(ledger, *others)
        self.make(ledger, 8)
        self.hear(ledger, over, days=8)
        before = self.all_of(ledger)
        self.make(ledger, 13)
        assert ledger.logs[over.log].displaced
        with ledger.transaction():
            ledger.set_electorate(later(world_electorate(), 14 * DAY_MS))
        payload, entry = proposal(ledger), entry_at(ledger, ledger.logs[over.log], 0)
        assert payload is not None
        assert entry is not None
        more = payload._replace(logs=tuple(sorted((*payload.logs, entry), key=lambda each: each.log)))
        for each, expected in ((payload, None), (more, f"log {over.log} is over")):
            line = line_of(NETWORK, in_an_event(ledger, each), each)
            assert refusal(ledger, each, line, [ledger.weights.electorate.digest], before) == expected

    @staticmethod
    def all_of(ledger: Ledger) -> Past:
        """Remember what is here now."""
        held = {log: each.head.seq for log, each in ledger.logs.items()}
        return Past(held, held)

    def test_one_in_which_something_counts_that_no_cut_has_reached_stays(self) -> None:
        """What was written between the last horizon and the end of the delegation is not in the live set in force."""
        ledger, over = self.ledger(first_days=3)
        self.delete(ledger)
        self.make(ledger, 9)
        assert not ledger.checkpoints.keeps_of(ledger.logs[over.log].key)
        (row,) = ledger.rows()
        over.write(Place(row.claim_id, (row.uuid,), *CHUTE), at_ms=NOW_S * 1000 + 2 * DAY_MS + DAY_MS // 2)
        self.hear(ledger, over, days=3)
        for days in (11, 12, 13):
            self.make(ledger, days)
            assert [row.chute for row in ledger.rows()] == [CHUTE], days

    @pytest.mark.parametrize("place", [None, 0, 1, 2, 3, 4, 5])
    def test_one_that_was_only_begun_to_be_loaded_when_a_later_cut_names_it_no_more_is_none(
        self, monkeypatch: pytest.MonkeyPatch, place: int | None
    ) -> None:
        """Its delegations may not have come: it would be a log without a beginning, and without any event."""
        for module in (checkpoint, checkpoints):
            monkeypatch.setattr(module, "SLICE_LEAVES_MAX", 1)
        ledger, over = self.ledger(last_days=self.DAYS)
        self.delete(ledger)
        self.make(ledger, 9)
        first = ledger.checkpoints.certificate(ledger.checkpoints.line.number)
        assert first is not None
        assert over.log in ledger.checkpoints.line.logs
        newcomer = memory_ledger()
        with newcomer.transaction():
            newcomer.begin_loading(first)
        if place is not None:
            leaves = read_slice(ledger.facts.connection, ledger.checkpoints.line.number, place)
            path = ledger.checkpoints.tree(ledger.checkpoints.line.number).path(place)
            with newcomer.transaction():
                newcomer.load(place, [(leaf.mask, event) for leaf, event in leaves], path)
        self.make(ledger, 10)
        second = ledger.checkpoints.certificate(ledger.checkpoints.line.number)
        assert second is not None
        with newcomer.transaction():
            newcomer.set_electorate(ledger.weights.electorate)
        load(ledger, newcomer, second, range(len(ledger.checkpoints.tree(ledger.checkpoints.line.number))))
        cut(newcomer)
        assert over.log not in newcomer.state.heads
        assert newcomer.state.events == self.stored(newcomer)
        assert newcomer.state.state_root == ledger.state.state_root
        assert newcomer.state.vector_digest == ledger.state.vector_digest
        assert Ledger(newcomer.facts.connection, NETWORK).state == newcomer.state

    def test_one_that_an_older_build_let_count_counts_no_more_from_the_first_start(self, tmp_path: Path) -> None:
        """Before it is forgotten, what it says has to be carried."""
        ledger, over = self.ledger()
        self.delete(ledger)
        self.make(ledger, 9)
        with pytest.MonkeyPatch.context() as older:
            older.setattr("p2pnodes.store.logs.is_over", lambda *_: False)
            self.make(ledger, 10)
        assert over.log in ledger.state.heads
        with closing(sqlite3.connect(tmp_path / "copy.db")) as copied:
            ledger.facts.connection.backup(copied)
        now = Ledger(ledger.facts.connection, NETWORK)
        assert now.logs[over.log].displaced
        assert over.log not in now.state.heads
        assert now.facts.cuts[now.logs[over.log].key] == 0
        assert audit(tmp_path / "copy.db", NETWORK).problems == []
        assert Ledger(ledger.facts.connection, NETWORK).state == now.state


class TestNoRoom:
    """What a log says that cuts have no room for is kept by nobody's live set: others carry it before it is too old."""

    def test_it_is_carried_by_whose_logs_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpoint, "LOGS_PER_CUT_MAX", 2)
        over = TestLogsThatAreOver
        authors = [Author(uri) for uri in VALIDATORS[:3]]
        named, young = authors[:2], authors[2]
        for author in named:
            author.write(author.delegation(not_after=NOW_S + 90 * 86_400), at_ms=NOW_S * 1000)
        named[0].add(add("//Bob", ["gpu-2"]), at_ms=NOW_S * 1000)
        ledger = memory_ledger()
        over.hear(ledger, *named)
        over.make(ledger, 8)
        since_ms = NOW_S * 1000 + 2 * DAY_MS
        young.write(young.delegation(not_after=NOW_S + 90 * 86_400), at_ms=since_ms)
        request = add("//Alice", ["gpu-1"], nonce_s=since_ms // 1000)
        registered = young.add(request, at_ms=since_ms)
        named[1].write(Place(request_id(NETWORK.id, request), ("gpu-1",), *CHUTE), at_ms=since_ms + 1)
        over.hear(ledger, young, named[1], days=9)
        assert self.needs(ledger, named[0]) == []  # it is not older than the horizon
        over.make(ledger, 10)
        assert young.log not in ledger.checkpoints.line.logs
        assert self.chutes(ledger) == [CHUTE, None]
        assert self.needs(ledger, young) == []
        assert self.needs(ledger, named[0]) == [ledger.facts.claim_key(request_id(NETWORK.id, request))]
        named[0].write(Carry((registered.wire,)), at_ms=NOW_S * 1000 + 10 * DAY_MS)
        over.hear(ledger, named[0], days=10)
        assert self.needs(ledger, named[0]) == []
        for days in (20, 30, 40):
            over.make(ledger, days)
            assert self.chutes(ledger) == [CHUTE, None]
            assert self.needs(ledger, named[0]) == []

    @staticmethod
    def chutes(ledger: Ledger) -> list[Chute | None]:
        """What runs on the GPUs, in ascending order."""
        return [row.chute for row in sorted(ledger.rows())]

    @staticmethod
    def needs(ledger: Ledger, author: Author) -> list[int]:
        """Claims that a validator would carry, by row key."""
        part = carrying.part(ledger.facts, carrying.Cursor(), ledger.weights, author.hotkey.public_key)
        return [need.key for need in part.needs]
