"""Logs of one's own hotkey that somebody else writes."""

from p2pnodes.model.clock import SKEW_AHEAD_MS_MAX
from p2pnodes.model.events import Event, LogId, closing, delegate
from p2pnodes.store.elsewhere import written_elsewhere
from tests.support import NETWORK, NOW_MS, NOW_S, Author, electorate, hotkey, memory_ledger


class TestWrittenElsewhere:
    """A second daemon of the own hotkey is seen by what it writes, and nothing of the past is taken for one."""

    def found(self, *events: Event, begun_ms: int = NOW_MS - 3_600_000, now_s: float = NOW_S) -> list[LogId]:
        """Logs that Alice's daemon finds."""
        ledger = memory_ledger(who=electorate())
        with ledger.transaction():
            ledger.receive(events, NOW_MS)
        validator = hotkey("//validator0").public_key
        own = Author("//validator0").node_key.public_key
        return [log.id for log in written_elsewhere(ledger.state.logs, validator, own, begun_ms, now_s)]

    def test_another_node_key_that_writes_is_found(self) -> None:
        other = Author("//validator0", seed=1)
        assert self.found(other.delegate()) == [other.log]

    def test_the_own_node_key_and_other_hotkeys_are_not(self) -> None:
        assert self.found(Author("//validator0").delegate(), Author("//validator1").delegate()) == []

    def test_what_was_written_before_this_daemon_began_is_not(self) -> None:
        other = Author("//validator0", seed=1)
        event = other.delegate(at_ms=NOW_MS)
        assert self.found(event, begun_ms=NOW_MS - SKEW_AHEAD_MS_MAX) == []
        assert self.found(event, begun_ms=NOW_MS - SKEW_AHEAD_MS_MAX - 1) == [other.log]

    def test_a_log_whose_delegation_ended_is_not(self) -> None:
        assert self.found(Author("//validator0", seed=1).delegate(), now_s=NOW_S + 31 * 86_400) == []

    def test_one_that_the_own_log_continues_is_not_unless_it_goes_on(self) -> None:
        own, before = Author("//validator0"), Author("//validator0", seed=1)
        first = before.delegate()
        end = before.head
        begin = own.write(
            delegate(
                own.hotkey, NETWORK.id, own.log, url="", not_before=NOW_S - 60, not_after=NOW_S + 60,
                predecessor=(before.log, end),
            )
        )  # fmt: skip
        assert self.found(first, begin) == []
        assert self.found(first, begin, before.delegate()) == [before.log]

    def test_a_closed_one_is_not(self) -> None:
        own, other = Author("//validator0"), Author("//validator0", seed=1)
        event = other.delegate()
        end = closing(other.hotkey, NETWORK.id, other.log, other.head)
        assert self.found(event, own.delegate(), own.write(end)) == []
