"""Signatures of a batch are checked by two threads, once each, and found by whoever asks for them then."""

import threading
from collections.abc import Iterator, Sequence

import pytest

from p2pnodes.gossip.driver import STORING_EVENTS_MAX
from p2pnodes.model.events import Event
from p2pnodes.model.keys import VERIFICATIONS_KEPT, verify_node
from p2pnodes.store.signatures import EVENTS_MIN, SharedCheck, check
from p2pnodes.store.state import Result
from tests.support import NOW_MS, Author, memory_ledger


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """No signature was ever checked."""
    verify_node.cache_clear()
    yield
    verify_node.cache_clear()


def checks() -> int:
    """Signatures that were checked."""
    return verify_node.cache_info().misses


def written(count: int) -> list[Event]:
    """The first events of a log."""
    author = Author("//validator1")
    author.delegate()
    for _ in range(count - 1):
        author.verdict(bytes(32))
    return author.events


class TestSharedCheck:
    """Each signature is checked once, by either thread."""

    def test_what_was_checked_is_known_to_who_asks_next(self) -> None:
        shared = SharedCheck()
        events = written(100)
        shared(events)
        shared.close()
        assert checks() == len(events)
        assert all(event.signed() for event in events)
        assert checks() == len(events)

    def test_both_threads_check(self, monkeypatch: pytest.MonkeyPatch) -> None:
        both = threading.Barrier(2, timeout=60)
        threads: set[str] = set()

        def signed(_: Event) -> bool:
            both.wait()  # neither goes on before the other has come to an event of its own
            threads.add(threading.current_thread().name)
            return True

        monkeypatch.setattr(Event, "signed", signed)
        shared = SharedCheck()
        shared(written(EVENTS_MIN))
        shared.close()
        assert len(threads) == 2

    def test_of_a_few_events_nothing_is_checked_ahead(self) -> None:
        shared = SharedCheck()
        shared(written(EVENTS_MIN - 1))
        shared.close()
        assert checks() == 0

    def test_a_thread_that_is_late_does_not_hold_up_the_writer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        main, late, go_on = threading.current_thread(), threading.Event(), threading.Event()
        waited: list[bool] = []

        def signed(_: Event) -> bool:
            if threading.current_thread() is main:
                return late.wait(60)
            late.set()
            waited.append(go_on.wait(60))
            return True

        monkeypatch.setattr(Event, "signed", signed)
        shared = SharedCheck()
        for _ in range(3):
            shared(written(EVENTS_MIN))
        go_on.set()
        shared.close()
        assert waited == [True]

    def test_nothing_is_checked_behind_a_forged_event(self) -> None:
        events = written(EVENTS_MIN)
        events[2] = events[2]._replace(signature=bytes(64))
        check(iter(events))
        assert checks() == 3

    def test_all_that_a_batch_has_is_remembered_until_the_writer_asks(self) -> None:
        assert STORING_EVENTS_MAX <= VERIFICATIONS_KEPT


class TestReceiving:
    """The ledger says whose signatures it will ask for."""

    def test_only_what_follows_is_checked(self) -> None:
        ledger, told = memory_ledger(), []
        events = written(6)
        other = Author("//validator2")
        other.delegate()

        def note(events: Sequence[Event]) -> None:
            told.append(list(events))

        with ledger.transaction():
            ledger.receive(events[:2], NOW_MS)
        with ledger.transaction():
            outcomes = ledger.receive([events[1], events[2], *other.events, events[3], events[5]], NOW_MS, note)
        assert told == [[events[2], *other.events, events[3]]]
        stored = Result.STORED
        assert [outcome.result for outcome in outcomes] == [Result.KNOWN, stored, stored, stored, Result.GAP]
