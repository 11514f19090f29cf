"""No key is loaded beyond its room, and nobody who waits for one is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.verify import loads as loads_module
from p2pnodes.verify.loads import Loads

HOST = {"host": 1}
MINER = {"host": 1, "miner": 2}


def claim(number: int) -> bytes:
    return number.to_bytes(32, "big")


class TestRoom:
    """A check loads all that it needs, or nothing."""

    def test_a_key_takes_as_many_as_it_has_room_for(self) -> None:
        loads = Loads()
        assert loads.take(claim(1), {"miner": 2})
        assert loads.take(claim(2), {"miner": 2})
        assert not loads.take(claim(3), {"miner": 2})

    def test_where_one_key_is_full_the_others_stay_free(self) -> None:
        loads = Loads()
        assert loads.take(claim(1), HOST)
        assert not loads.take(claim(2), MINER)
        assert loads.take(claim(3), {"miner": 1})

    def test_what_is_freed_can_be_taken_again(self) -> None:
        loads = Loads()
        loads.take(claim(1), MINER)
        assert loads.free(MINER) == []
        assert loads.take(claim(2), MINER)


class TestLine:
    """Who finds no room waits, and is called in order, one for each room."""

    def test_one_is_called_for_one_room(self) -> None:
        loads = Loads()
        loads.take(claim(0), HOST)
        for number in (1, 2, 3):
            loads.line_up(claim(number), HOST)
        assert (len(loads), claim(2) in loads) == (3, True)
        assert loads.free(HOST) == [claim(1)]
        assert loads.take(claim(1), HOST)
        assert loads.looked_at(claim(1)) == []
        assert loads.free(HOST) == [claim(2)]

    def test_who_is_called_and_does_not_begin_passes_it_on(self) -> None:
        loads = Loads()
        loads.take(claim(0), HOST)
        for number in (1, 2):
            loads.line_up(claim(number), HOST)
        assert loads.free(HOST) == [claim(1)]
        assert loads.looked_at(claim(1)) == [claim(2)]
        assert loads.looked_at(claim(2)) == []
        assert len(loads) == 0

    def test_a_room_that_somebody_else_took_calls_nobody_until_it_is_free_again(self) -> None:
        loads = Loads()
        loads.take(claim(0), HOST)
        for number in (1, 2):
            loads.line_up(claim(number), HOST)
        assert loads.free(HOST) == [claim(1)]
        assert loads.take(claim(9), HOST)
        assert not loads.take(claim(1), HOST)
        loads.line_up(claim(1), HOST)
        assert loads.looked_at(claim(1)) == []
        assert loads.free(HOST) == [claim(2)]

    def test_who_waits_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loads_module, "WAITING_MAX", 2)
        loads = Loads()
        loads.take(claim(0), HOST)
        for number in (1, 2, 2, 3):
            loads.line_up(claim(number), HOST)
        assert len(loads) == 2
        assert claim(3) not in loads

    @given(st.lists(st.sets(st.sampled_from("abc"), min_size=1), min_size=1, max_size=12), st.randoms())
    def test_everybody_who_waits_is_called_in_the_end(self, wants: list[set[str]], rng: object) -> None:
        """Whatever keys claims share, and however long a check takes: with the last one free, nobody waits."""
        room = {"a": 1, "b": 1, "c": 2}
        needs = {claim(n): {key: room[key] for key in sorted(want)} for n, want in enumerate(wants)}
        loads = Loads()
        looks, running, began = list(needs), list[bytes](), set[bytes]()
        while looks or running:
            if looks:
                looked = looks.pop(0)
                if loads.take(looked, needs[looked]):
                    running.append(looked)
                    began.add(looked)
                else:
                    loads.line_up(looked, needs[looked])
                looks += loads.looked_at(looked)
            else:
                ended = running.pop(rng.randrange(len(running)))  # type: ignore[attr-defined]
                looks += loads.free(needs[ended])
        assert began == needs.keys()
        assert len(loads) == 0
