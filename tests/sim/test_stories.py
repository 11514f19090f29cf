"""The turns that mutants need do take place where nothing is broken, and what they look at can fail."""

import re
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pnodes.gossip.bans import BAN_S_MAX
from p2pnodes.gossip.rates import LINKS
from tests.sim import stories
from tests.sim.crimes import Crimes
from tests.sim.mutation import Drawn, failure
from tests.sim.peer import CheckFailedError
from tests.sim.stories import Turn
from tests.sim.world import World

BAN_S = 60.0
MALLORY = b"mallory"


def lines_of(turn: Turn, *, faults: tuple[str, ...] = (), peers: int = 5, minutes: float = 1.0) -> list[str]:
    """What a run with a turn says."""
    world = World(1, peers=peers, minutes=minutes, faults=faults, tight=True)
    world.trace.lines = deque()  # all of them
    turn(world)
    world.run()
    return list(world.trace.lines)


def test_a_backup_comes_back_more_than_once_and_its_log_is_not_written_on() -> None:
    lines = [line for line in lines_of(stories.backup_returns, minutes=2.0) if re.search(r" p0 ", line)]
    assert sum("restore" in line for line in lines) > 1
    assert any("a foreign event in the own log" in line for line in lines)


def test_a_slow_reader_falls_behind() -> None:
    assert any("peer_behind" in line for line in lines_of(stories.slow_line))


def test_who_floods_a_session_with_links_is_banned() -> None:
    lines = lines_of(stories.flooded_with_links, faults=("hostile",))
    assert any("bans" in line and LINKS.what in line for line in lines)


def test_ways_that_are_too_long_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stories, "HOPS_MAX", 0)
    said = failure(Drawn((), peers=3, minutes=0.8, turn=stories.short_ways), 1)
    assert said == "the longest way between two peers has 1 links: at most 0 may it have"


def test_a_turn_is_named_with_its_run() -> None:
    assert str(Drawn((), turn=stories.slow_line)) == "6 peers, 1 min, faults none, slow line"


class TestBansInARow:
    """Each ban of one peer must be twice as long as the last: else it is back too soon."""

    def test_who_waits_for_the_end_of_each_ban_may_be_banned_again(self) -> None:
        crimes, peer = Crimes(), _peer()
        for now_s in (0.0, BAN_S, 3 * BAN_S, 7 * BAN_S):
            crimes.banned(peer, MALLORY, BAN_S, now_s)
        assert 7 * BAN_S < BAN_S_MAX

    @pytest.mark.parametrize("times", [(0.0, 59.0), (0.0, 60.0, 120.0), (0.0, 60.0, 180.0, 419.0)])
    def test_who_is_back_sooner_was_banned_for_too_short(self, times: tuple[float, ...]) -> None:
        crimes, peer = Crimes(), _peer()
        for now_s in times[:-1]:
            crimes.banned(peer, MALLORY, BAN_S, now_s)
        with pytest.raises(CheckFailedError, match="the bans before last"):
            crimes.banned(peer, MALLORY, BAN_S, times[-1])

    def test_a_restart_forgets_bans_and_everybody_has_their_own(self) -> None:
        crimes, peer = Crimes(), _peer()
        crimes.banned(peer, MALLORY, BAN_S, 0.0)
        crimes.banned(peer, b"mallet", BAN_S, 1.0)
        peer.starts += 1
        crimes.banned(peer, MALLORY, BAN_S, 2.0)


def _peer() -> Any:
    return cast("Any", SimpleNamespace(index=0, starts=1, name="p0"))
