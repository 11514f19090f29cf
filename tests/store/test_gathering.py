"""A validator that opens many logs keeps its voice, and all that it said, and cuts let its old logs go."""

from typing import Final

import pytest

from p2pnodes.model import checkpoint, codec
from p2pnodes.model.checkpoint import (
    LOGS_PER_HOTKEY_CUT,
    SETTLED_PER_HOTKEY_MAX,
    SURPLUS_PER_HOTKEY_MAX,
    line_of,
    stakes_of,
)
from p2pnodes.model.claims import parse_body
from p2pnodes.model.events import (
    CARRIED_MAX,
    PAYLOADS,
    AddPayload,
    Carry,
    CutLog,
    DeletePayload,
    Event,
    LogId,
    Payload,
    Place,
    Propose,
    Release,
    closing,
)
from p2pnodes.model.inventory import Chute, Row
from p2pnodes.model.keys import NodeKey
from p2pnodes.model.requests import bound_purpose, request_id
from p2pnodes.model.validity import contents
from p2pnodes.store import carrying, gathering
from p2pnodes.store.carrying import ITEM_BYTES, LIST_BYTES
from p2pnodes.store.gathering import Gathered, Mark
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.proposing import Past, left_out, proposal, refusal
from p2pnodes.store.rebuild import differences, hold
from tests.model.world import VALIDATORS
from tests.store.test_checkpoints import DAY_MS, certificate, cut, found, in_an_event, later, proposed
from tests.support import BLOCK, NETWORK, NOW_S, Author, add, delete, electorate, memory_ledger

BEGIN_MS: Final = NOW_S * 1000
YEAR_S: Final = 366 * 86_400
LASTS_DAYS: Final = 30
"""As daemons delegate by default."""

STEPS_MAX: Final = 1_000
ROOM: Final = LOGS_PER_HOTKEY_CUT + SURPLUS_PER_HOTKEY_MAX + SETTLED_PER_HOTKEY_MAX


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a cut name four logs of a hotkey, and behind these only such as are settled."""
    monkeypatch.setattr(checkpoint, "SURPLUS_PER_HOTKEY_MAX", 0)
    monkeypatch.setattr(checkpoint, "SETTLED_PER_HOTKEY_MAX", SURPLUS_PER_HOTKEY_MAX)


def chute(number: int) -> Chute:
    return Chute(f"chute-{number}", "i", verified=True, public=False, name=None, username=None)


class Desk:
    """A daemon of validator 0, which opens one log after the other; two other validators have one each."""

    def __init__(self) -> None:
        """Hold what the others say; nothing of its own yet."""
        self.own = Author(VALIDATORS[0], seed=77)
        self.ledger = memory_ledger(NodeKey.from_seed(self.own.node_key.seed))
        self.others = [Author(uri) for uri in VALIDATORS[1:3]]
        self.opened: list[LogId] = []
        self.opened_ms: list[int] = []
        self.ms = BEGIN_MS
        self.moves = True
        for other in self.others:
            other.write(other.delegation(not_after=NOW_S + YEAR_S), at_ms=self.ms)
        self.hear(*self.others)

    def hear(self, *authors: Author) -> None:
        with self.ledger.transaction():
            outcomes = self.ledger.receive([each for author in authors for each in author.events], self.ms)
        assert {outcome.result for outcome in outcomes} <= {"stored", "known"}, outcomes

    def open(self) -> LogId:
        """Open another own log."""
        self.own.log = LogId(self.own.node_key.public_key, len(self.opened) + 1)
        delegation = self.own.delegation(not_before=NOW_S - 1, not_after=self.ms // 1000 + LASTS_DAYS * 86_400)
        with self.ledger.transaction():
            self.ledger.open_log(self.own.log.number, delegation, self.ms)
        self.ledger.writes_refused = None
        self.opened.append(self.own.log)
        self.opened_ms.append(self.ms)
        return self.own.log

    def renew(self) -> None:
        """Delegate to the own log anew."""
        self.say(self.own.delegation(not_before=NOW_S - 1, not_after=self.ms // 1000 + LASTS_DAYS * 86_400))

    def say(self, payload: Payload) -> Event:
        with self.ledger.transaction():
            return self.ledger.append(lambda _: payload, self.ms)

    def claim(self, number: int, *more: str) -> bytes:
        """Register GPUs, the first of them by a number; the claim's id."""
        request = add("//Alice", [f"gpu-{number}", *more], nonce_s=self.ms // 1000)
        self.say(AddPayload(request, BLOCK))
        return request_id(NETWORK.id, request)

    def use(self) -> None:
        """Open another log, and register and place in it."""
        self.open()
        number = len(self.opened)
        self.say(Place(self.claim(number), (f"gpu-{number}",), *chute(number)))

    def gather(self) -> list[Event]:
        """Say again whatever is to be said again; the events."""
        mark, before = (Mark() if self.moves else None), self.last_seq
        for _ in range(STEPS_MAX):
            if mark is None:
                break
            with self.ledger.transaction():
                mark = gathering.gather(self.ledger, mark, self.ms).mark
        assert mark is None
        return self.written(before)

    @property
    def last_seq(self) -> int:
        return self.ledger.logs[self.own.log].head.seq

    def written(self, after: int) -> list[Event]:
        """What lies in the own log behind a seq."""
        rows = self.ledger.facts.connection.execute(
            "SELECT wire FROM events WHERE log = ? AND seq > ? ORDER BY seq",
            (self.ledger.logs[self.own.log].key, after),
        )
        return [Event.decode(wire) for (wire,) in rows]

    def carry(self) -> None:
        """Carry what is at risk, as every validator does; the others are away."""
        hotkey = self.own.hotkey.public_key
        part = carrying.part(self.ledger.facts, carrying.Cursor(), self.ledger.weights, hotkey)
        keys = [need.key for need in part.needs]
        while keys:
            with self.ledger.transaction():
                keys = keys[carrying.carry(self.ledger, keys, hotkey, self.ms).done :]

    def checkpoint(self) -> None:
        """Put a checkpoint in force now."""
        ledger = self.ledger
        with ledger.transaction():
            ledger.set_electorate(later(electorate(), self.ms - BEGIN_MS))
        made = proposed(ledger)
        if made is None:
            return
        wire = certificate(made[0], found(ledger, line_of(NETWORK, *made)), VALIDATORS[:3], self.ms)
        with ledger.transaction():
            ledger.checkpoints.take(wire)
            ledger.enforce()
        cut(ledger)

    def until(self, days: float) -> None:
        """Let it be so many days after the beginning; each day brings a checkpoint, and what a daemon does then."""
        until_ms = BEGIN_MS + int(days * DAY_MS)
        while self.ms < until_ms:
            before, self.ms = self.ms, min(until_ms, (self.ms // DAY_MS + 1) * DAY_MS)
            if self.ms // DAY_MS > before // DAY_MS:
                self.checkpoint()
                if self.opened:
                    self.attend()

    def attend(self) -> None:
        """What a daemon does each day, and behind each log that it opens."""
        self.gather()
        self.carry()

    @property
    def named(self) -> set[LogId]:
        """Own logs that the cut in force names."""
        own = self.own.hotkey.public_key
        return {log for log, entry in self.ledger.checkpoints.line.logs.items() if entry.hotkey == own}

    @property
    def weighs(self) -> bool:
        """Whether the own signature weighs in the checkpoint in force."""
        return self.own.hotkey.public_key in stakes_of(self.ledger.checkpoints.line)

    @property
    def rows(self) -> dict[str, Row]:
        return {row.uuid: row for row in self.ledger.rows()}


class TestManyLogs:
    """However many logs an honest validator has opened, the one that it writes is named, and nothing is lost."""

    @pytest.mark.parametrize(("every_days", "count"), [(0.01, 20), (0.3, 40), (1, 20), (2.5, 20), (7.2, 20)])
    def test_the_one_that_is_written_has_room_and_the_others_go(self, every_days: float, count: int) -> None:
        at = Desk()
        rows: dict[str, Row] = {}
        for number in range(count):
            at.until(number * every_days)
            at.use()
            at.attend()
            rows[f"gpu-{number + 1}"] = at.rows[f"gpu-{number + 1}"]
            assert at.rows == rows
            assert number * every_days < 9 or at.weighs
        last = int(count * every_days) + 1
        for days in range(last, last + 60):
            at.until(days)
            if days % 15 == 0:
                at.renew()
            assert at.rows == rows
            assert len(at.named) <= ROOM
            assert left_out(at.ledger) is None
            if days > last + 9:
                assert at.own.log in at.named
                assert at.weighs
        assert at.own.log in at.named
        assert at.named <= {*at.opened[-LOGS_PER_HOTKEY_CUT:]}
        hold(at.ledger.facts.connection)
        assert differences(at.ledger) == []

    def test_those_of_a_lost_disk_go_too(self) -> None:
        """A log that another node key of the validator wrote is its own all the same."""
        at, other = Desk(), Author(VALIDATORS[0], seed=78)
        request = add("//Bob", ["gpu-x"], nonce_s=NOW_S)
        other.write(other.delegation(not_after=NOW_S + LASTS_DAYS * 86_400), at_ms=at.ms)
        other.add(request, at_ms=at.ms)
        other.write(Place(request_id(NETWORK.id, request), ("gpu-x",), *chute(99)), at_ms=at.ms)
        at.hear(other)
        for days in range(5):
            at.until(days + 0.5)
            at.use()
        rows = at.rows
        for days in (20, 40, 50):
            at.until(days)
            at.renew()
        assert other.log not in at.ledger.checkpoints.line.logs
        assert at.rows == rows


@pytest.mark.usefixtures("little_room")
class TestSettled:
    """Of one with many logs a cut names one more if it is the youngest, or a horizon younger than those named."""

    def desk(self, days: float) -> Desk:
        """A desk with four logs, and another one that begins so many days after them."""
        at = Desk()
        at.moves = False
        for number in range(LOGS_PER_HOTKEY_CUT):
            at.until(8 * number)
            at.use()
        at.until(8 * number + days)
        at.use()
        return at

    @staticmethod
    def past(ledger: Ledger) -> Past:
        held = {log: state.head.seq for log, state in ledger.logs.items()}
        return Past(held, held)

    @staticmethod
    def refusal(ledger: Ledger, payload: Propose, past: Past) -> str | None:
        line = line_of(NETWORK, in_an_event(ledger, payload), payload)
        return refusal(ledger, payload, line, [ledger.weights.electorate.digest], past)

    @pytest.mark.parametrize(
        ("days", "younger", "named"), [(2, False, True), (2, True, False), (6.9, True, False), (7.1, True, True)]
    )
    def test_it_is_named_then_and_not_else(self, *, days: float, younger: bool, named: bool) -> None:
        at = self.desk(days)
        log, began_days = at.own.log, (at.ms - BEGIN_MS) / DAY_MS
        if younger:
            at.until(began_days + 3)
            at.open()
        at.until(began_days + 9)
        assert {*at.opened[:LOGS_PER_HOTKEY_CUT]} <= at.named
        assert (log in at.named) is named

    def test_a_younger_one_that_is_shown_behind_a_proposal_or_ended_there_keeps_nobody_from_signing(self) -> None:
        at = self.desk(2)
        log, ledger = at.own.log, at.ledger
        began_days = (at.ms - BEGIN_MS) / DAY_MS
        at.until(began_days + 6)
        assert at.named == {*at.opened[:LOGS_PER_HOTKEY_CUT]}
        at.ms = BEGIN_MS + int((began_days + 8) * DAY_MS)
        with ledger.transaction():
            ledger.set_electorate(later(electorate(), at.ms - BEGIN_MS))
        first = proposal(ledger)
        assert first is not None
        assert log in {entry.log for entry in first.logs}
        past = self.past(ledger)
        assert self.refusal(ledger, first._replace(logs=without(first, log)), past) is not None
        younger = at.open()
        assert self.refusal(ledger, first, past) is None
        second = proposal(ledger)
        assert second is not None
        assert log not in {entry.log for entry in second.logs}
        past = self.past(ledger)
        end = closing(at.own.hotkey, NETWORK.id, younger, None)
        with ledger.transaction():
            ledger.receive_proofs([end], at.ms)
        assert self.refusal(ledger, second, past) is None


def without(payload: Propose, log: LogId) -> tuple[CutLog, ...]:
    return tuple(entry for entry in payload.logs if entry.log != log)


def burst(at: Desk, logs: int) -> None:
    """Open so many, one every ten minutes."""
    for _ in range(logs):
        at.ms += 600_000
        at.open()
        at.attend()


def settled(logs: int) -> Desk:
    """A desk with so many logs, in each of which one GPU is registered and placed; the cut in force names all."""
    at = Desk()
    at.moves = False
    for number in range(logs):
        at.until(8 * number)
        at.use()
    at.until(8 * logs + 1)
    assert at.named == {*at.opened}
    at.moves = True
    return at


@pytest.mark.usefixtures("little_room")
class TestGathering:
    """What is said again is what is needed of the older logs: once, as it was, and in parts that are bounded."""

    FEW: Final = LOGS_PER_HOTKEY_CUT

    def test_who_has_few_logs_says_nothing_again(self) -> None:
        assert settled(self.FEW).gather() == []

    def test_of_one_more_what_the_oldest_keeps_is_said_again(self) -> None:
        at = settled(self.FEW + 1)
        rows = at.rows
        carry, place = at.gather()
        said = Place.from_wire(codec.unpack(place.payload))
        assert (carry.kind, requests(carry), said.uuids, said[2:]) == ("carry", ["gpu-1"], ("gpu-1",), chute(1))
        assert at.rows == rows
        assert at.gather() == []
        at.until(60)
        assert at.named == {*at.opened[1:]}
        assert at.rows == rows

    def test_a_walk_begins_anew_where_the_copy_does_not_lie_below_a_cut_yet(self) -> None:
        at = settled(self.FEW + 1)
        at.gather()
        at.until((at.ms - BEGIN_MS) / DAY_MS + 3)
        assert at.opened[0] in at.named
        assert at.gather() == []

    def test_a_deletion_that_a_claim_needs_is_said_again(self) -> None:
        """Of two GPUs of a claim one was deleted in an older log: that must be known while the other one stands."""
        at = Desk()
        at.moves = False
        at.open()
        at.claim(1, "gpu-deleted")
        at.ms += 2_000
        request = delete("//Alice", bound_purpose("gpu-deleted"), nonce_s=at.ms // 1000)
        at.say(DeletePayload(request, "gpu-deleted", ()))
        for number in range(1, self.FEW + 1):
            at.until(8 * number)
            at.use()
        rows = at.rows
        at.until(45)
        at.moves = True
        (carry,) = at.gather()
        assert requests(carry) == ["gpu-1", "gpu-deleted"]
        at.until(60)
        assert at.opened[0] not in at.named
        assert at.rows == rows
        assert at.gather() == []

    def test_a_claim_that_is_carried_by_two_own_logs_is_kept_in_the_younger_one(self) -> None:
        at = settled(self.FEW + 1)
        at.gather()
        number = at.ledger.checkpoints.line.number
        at.until(60)
        assert at.ledger.checkpoints.line.number > number
        oldest, own = (at.ledger.logs[log].key for log in (at.opened[0], at.own.log))
        assert not at.ledger.checkpoints.keeps_of(oldest)
        assert at.ledger.checkpoints.keeps_of(own)

    def test_what_was_released_or_placed_anew_is_not_placed_again(self) -> None:
        at = settled(self.FEW + 2)
        claims = {row.uuid: row.claim_id for row in at.rows.values()}
        at.say(Release(claims["gpu-1"], ("gpu-1",)))
        at.say(Place(claims["gpu-2"], ("gpu-2",), *chute(77)))
        assert [event.kind for event in at.gather()] == ["carry", "carry"]
        assert at.rows["gpu-1"].chute is None
        assert at.rows["gpu-2"].chute == chute(77)

    @pytest.mark.parametrize("released", [False, True])
    def test_a_place_that_one_of_another_validator_hides_stays_hidden(self, *, released: bool) -> None:
        at = settled(self.FEW + 1)
        other = at.others[0]
        claim_id = at.rows["gpu-1"].claim_id
        other.write(Place(claim_id, ("gpu-1",), *chute(50)), at_ms=at.ms)
        if released:
            other.write(Release(claim_id, ("gpu-1",)), at_ms=at.ms)
        at.hear(other)
        rows = at.rows
        assert rows["gpu-1"].chute == (chute(1) if released else chute(50))
        assert [event.kind for event in at.gather()] == ["carry", "place" if released else "release"]
        assert at.rows == rows

    def test_a_log_without_room_has_its_claims_and_places_said_again_before_they_are_too_old(self) -> None:
        """Of ten that are opened within a day a cut names four, and each day one more if it is the youngest."""
        at = Desk()
        for _ in range(10):
            at.ms += 60_000
            at.use()
        said = at.gather()
        assert sorted(uuid for event in said if event.kind == "carry" for uuid in requests(event)) == sorted(
            f"gpu-{number}" for number in range(1, 10)
        )
        assert sum(event.kind == "place" for event in said) == 9
        assert at.gather() == []

    def test_a_place_that_is_said_again_before_its_claim_is_not_lost_with_a_cut_between_the_two(self) -> None:
        """As where the own log changes while a walk is under way."""
        at = Desk()
        at.moves = False
        for _ in range(10):
            at.ms += 60_000
            at.use()
        rows, before = at.rows, at.last_seq
        with at.ledger.transaction():
            assert gathering.gather(at.ledger, Mark(None), at.ms) == Gathered(None, places=9)
        placed = at.own.log
        assert [event.kind for event in at.written(before)] == ["place"] * 9
        at.until(7)
        at.open()
        for days in range(7, 40):
            at.until(days)
            assert at.rows == rows
            if placed not in at.named:
                assert at.written(0) == []
            if days % 15 == 0:
                at.renew()
        assert placed in at.named
        assert {event.kind for event in at.written(0)} == {"carry", "delegate"}

    def test_a_step_says_no_more_than_one_carry_holds_and_goes_on_where_it_ended(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = 2 * CARRIED_MAX + 5
        at = Desk()
        at.open()
        for number in range(100, 100 + count):
            at.ms += 1
            at.say(Place(at.claim(number), (f"gpu-{number}",), *chute(1)))
        for _ in range(self.FEW):
            at.ms += 60_000
            at.use()
        monkeypatch.setattr(gathering, "ROWS_PER_STEP", 50)
        monkeypatch.setattr(gathering, "WORDS_PER_STEP", 100)
        monkeypatch.setattr(gathering, "GPUS_PER_STEP", 40)
        mark: Mark | None = Mark()
        said: list[str] = []
        placed = 0
        while mark is not None:
            before = at.last_seq
            with at.ledger.transaction():
                gathered = gathering.gather(at.ledger, mark, at.ms)
            mark = gathered.mark
            events = at.written(before)
            assert len([event for event in events if event.kind == "carry"]) == (gathered.requests > 0)
            assert (
                len([event for event in events if event.kind == "place"])
                == gathered.places
                <= gathering.PLACES_PER_STEP
            )
            placed += gathered.places
            said += [uuid for event in events if event.kind == "carry" for uuid in requests(event)]
        assert sorted(said) == sorted(f"gpu-{number}" for number in (*range(100, 100 + count), *range(2, self.FEW + 1)))
        assert placed == len(said)
        assert at.gather() == []

    def test_carries_are_filled_up_to_what_an_event_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        at = Desk()
        at.open()
        sizes = []
        for number in range(3):
            at.claim(number)
            sizes.append(len(at.written(number)[0].wire))
        for _ in range(self.FEW):
            at.open()
        monkeypatch.setattr(gathering, "PAYLOAD_BYTES_MAX", LIST_BYTES + sizes[0] + sizes[1] + 2 * ITEM_BYTES)
        assert [requests(event) for event in at.gather()] == [["gpu-0", "gpu-1"], ["gpu-2"]]

    def test_what_is_over_is_not_said_again_and_again(self) -> None:
        """What was registered and deleted in logs without names: the copies would be next in line, for ever."""
        at = Desk()
        at.open()
        gpus = [f"gpu-{number}" for number in range(1, 6)]
        for number, uuid in enumerate(gpus, 1):
            at.say(Place(at.claim(number), (uuid,), *chute(number)))
        burst(at, 24)
        for uuid in gpus:
            at.ms += 2000
            request = delete("//Alice", bound_purpose(uuid), nonce_s=at.ms // 1000)
            at.say(DeletePayload(request, uuid, ()))
        walks = []
        for day in range(1, 45):
            before = at.last_seq
            at.until(day)
            walks.append(any(event.kind == "carry" for event in at.written(before)))
            if day % 15 == 0:
                at.renew()
        assert sum(walks) <= 2

    def test_one_signature_under_many_deletions_is_not_said_again_and_again(self) -> None:
        """Of more than two GPUs in one log nothing is recorded, as they end nothing."""
        at = Desk()
        at.open()
        gpus = [f"gpu-{number}" for number in range(6)]
        at.claim(0, *gpus[1:])
        at.ms += 2000
        request = delete("//Alice", "nodes", nonce_s=at.ms // 1000)
        for uuid in gpus:
            at.say(DeletePayload(request, uuid, ()))
        said = []
        for _ in range(14):
            at.ms += 600_000
            at.open()
            said.append(sum(len(requests(event)) for event in at.gather() if event.kind == "carry"))
        assert max(said) <= len(gpus)

    @pytest.mark.parametrize("said", ["the same", "another"])
    def test_whoever_places_something_behind_each_place_does_not_keep_its_log_from_going(self, said: str) -> None:
        at = Desk()
        (other, *_) = at.others
        shown: dict[str, Chute] = {}
        for number in range(1, 23):
            at.until(8 * number)
            at.use()
            at.ms += 1000
            uuid = f"gpu-{number}"
            shown[uuid] = chute(number if said == "the same" else 100)
            other.write(Place(at.rows[uuid].claim_id, (uuid,), *shown[uuid]), at_ms=at.ms)
            at.hear(other)
            at.attend()
            assert {uuid: row.chute for uuid, row in at.rows.items()} == shown
        for days in range(8 * 22, 8 * 22 + 20):
            at.until(days)
            assert {uuid: row.chute for uuid, row in at.rows.items()} == shown
        assert at.own.log in at.named

    @pytest.mark.parametrize("number", [1, 50])
    def test_a_place_below_another_one_is_said_again_if_both_are_of_one_chute_and_else_released(
        self, number: int
    ) -> None:
        at = settled(self.FEW + 1)
        other = at.others[0]
        claim_id = at.rows["gpu-1"].claim_id
        other.write(Place(claim_id, ("gpu-1",), *chute(number)), at_ms=at.ms)
        at.hear(other)
        rows = at.rows
        _, word = at.gather()
        said = PAYLOADS[word.kind].from_wire(codec.unpack(word.payload))
        assert said == (Place(claim_id, ("gpu-1",), *chute(1)) if number == 1 else Release(claim_id, ("gpu-1",)))
        assert at.rows == rows
        assert at.gather() == []

    def test_a_place_that_is_hidden_is_not_said_above_that_for_one_who_is_not_enrolled_and_says_the_same(self) -> None:
        at = settled(self.FEW + 1)
        claim_id = at.rows["gpu-1"].claim_id
        for other, number in zip(at.others, (50, 1), strict=True):
            at.ms += 1
            other.write(Place(claim_id, ("gpu-1",), *chute(number)), at_ms=at.ms)
        at.others[1].write(at.others[1].delegation(not_after=at.ms // 1000 + 60), at_ms=at.ms)
        at.hear(*at.others)
        with at.ledger.transaction():
            at.ledger.set_electorate(later(electorate(), at.ms - BEGIN_MS + 120_000))
        rows = at.rows
        assert rows["gpu-1"].chute == chute(50)
        assert [event.kind for event in at.gather()] == ["carry", "release"]
        assert at.rows == rows

    def test_a_place_that_none_hides_but_one_who_is_not_enrolled_is_said_again(self) -> None:
        """Else who lets his delegation end behind what he places would keep a log from going."""
        at = settled(self.FEW + 1)
        other = at.others[0]
        claim_id = at.rows["gpu-1"].claim_id
        other.write(Place(claim_id, ("gpu-1",), *chute(50)), at_ms=at.ms)
        other.write(other.delegation(not_after=at.ms // 1000 + 60), at_ms=at.ms)
        at.hear(other)
        with at.ledger.transaction():
            at.ledger.set_electorate(later(electorate(), at.ms - BEGIN_MS + 120_000))
        rows = at.rows
        assert rows["gpu-1"].chute == chute(1)
        assert [event.kind for event in at.gather()] == ["carry", "place"]
        assert at.rows == rows

    def test_what_was_released_in_a_log_without_a_name_does_not_come_back(self) -> None:
        at = Desk()
        at.use()
        at.until(9)
        assert at.opened[0] in at.named
        claim_id = at.rows["gpu-1"].claim_id
        at.open()
        at.say(Release(claim_id, ("gpu-1",)))
        burst(at, 20)
        assert at.opened[1] not in at.named
        at.until(30)
        assert at.rows["gpu-1"].chute is None

    def test_what_a_place_replaced_that_was_hidden_in_a_log_without_a_name_does_not_come_back(self) -> None:
        """The place itself is too old one day: the one before it was the last word of its validator again."""
        at = Desk()
        for number in range(self.FEW):
            at.until(number)
            at.use()
        claim_id, other = at.rows["gpu-4"].claim_id, at.others[0]
        at.until(9)
        hiding = at.open()
        at.say(Place(claim_id, ("gpu-4",), *chute(50)))
        other.write(Place(claim_id, ("gpu-4",), *chute(60)), at_ms=at.ms + 1)
        at.ms += 1000
        at.hear(other)
        burst(at, 2)
        for days in range(10, 25):
            at.until(days)
            assert hiding not in at.named
            assert at.rows["gpu-4"].chute == chute(60)
        assert at.named == {*at.opened[: self.FEW], at.own.log}
        other.write(Release(claim_id, ("gpu-4",)), at_ms=at.ms)
        at.hear(other)
        assert at.rows["gpu-4"].chute is None

    def test_what_is_hidden_in_a_log_without_a_name_waits_for_half_a_horizon(self) -> None:
        """The other place may end before, and the log may have a name by then."""
        at = Desk()
        for _ in range(10):
            at.ms += 60_000
            at.use()
        began_days, other = (at.ms - BEGIN_MS) / DAY_MS, at.others[0]
        claim_id = at.rows["gpu-5"].claim_id
        other.write(Place(claim_id, ("gpu-5",), *chute(50)), at_ms=at.ms)
        at.hear(other)
        assert {event.kind for event in at.gather()} == {"carry", "place"}
        at.until(began_days + 3.4)
        assert at.gather() == []
        at.ms += DAY_MS // 5
        assert [event.kind for event in at.gather()] == ["release"]

    def test_what_two_logs_say_at_one_time_is_said_once(self) -> None:
        at = Desk()
        at.moves = False
        request = add("//Bob", ["gpu-x"], nonce_s=NOW_S)
        twins = [Author(VALIDATORS[0], seed=seed) for seed in (78, 79)]
        for twin in twins:
            twin.write(twin.delegation(not_after=NOW_S + LASTS_DAYS * 86_400), at_ms=at.ms)
            twin.add(request, at_ms=at.ms)
            twin.write(Place(request_id(NETWORK.id, request), ("gpu-x",), *chute(99)), at_ms=at.ms)
        at.hear(*twins)
        for _ in range(5):
            at.ms += 60_000
            at.use()
        at.moves = True
        assert "place" in [event.kind for event in at.gather()]
        assert not at.ledger.facts.connection.execute("SELECT seq FROM events WHERE void NOTNULL").fetchall()

    def test_a_walk_waits_while_the_end_of_a_log_is_put_in_force(self, monkeypatch: pytest.MonkeyPatch) -> None:
        at = settled(6)
        mark = Mark()
        monkeypatch.setattr(at.ledger, "state", at.ledger.state._replace(cutting=True))
        with at.ledger.transaction():
            assert gathering.gather(at.ledger, mark, at.ms) == Gathered(mark)

    def test_nothing_is_said_again_without_a_permit_and_no_write_is_tried(self) -> None:
        at = settled(self.FEW + 1)
        stakes = dict.fromkeys(VALIDATORS[1:], 100)
        with at.ledger.transaction():
            at.ledger.set_electorate(
                electorate(BLOCK + 200, at.ms, stakes=stakes, previous=at.ledger.weights.electorate)
            )
        at.ledger.writes_refused = "the hotkey holds no permit"
        assert at.gather() == []

    def test_nothing_is_said_again_in_a_log_that_has_no_room_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        at = settled(self.FEW + 1)
        monkeypatch.setattr(gathering, "left_out", lambda _: at.own.log)
        assert at.gather() == []


def requests(carry: Event) -> list[str]:
    """GPUs of the requests that a ``carry`` holds: of claims the first one."""
    found = []
    for wire in Carry.from_wire(codec.unpack(carry.payload)).events:
        payload = contents(Event.decode(wire)).payload
        if isinstance(payload, DeletePayload):
            found.append(payload.uuid)
        else:
            assert isinstance(payload, AddPayload)
            found.append(parse_body(payload.request.body).nodes[0].uuid)
    return found
