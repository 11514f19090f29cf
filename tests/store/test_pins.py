"""The last good electorate survives a restart."""

from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.store import pins
from p2pnodes.store.schema import open_writer
from tests.support import NOW_MS, electorate


def test_a_new_database_permits_nobody() -> None:
    held = pins.load(open_writer(":memory:"))
    assert held.digest == pins.EMPTY.digest
    assert held.stakes == {}


def test_an_electorate_is_read_back_equal_with_the_one_before_it() -> None:
    connection = open_writer(":memory:")
    before = electorate(100)
    current = Electorate(
        Pin(200, NOW_MS + 1, {bytes(32): 7}, {bytes(32): 3}, {bytes(32): "http://192.0.2.1"}), before.current
    )
    pins.save(connection, before)
    pins.save(connection, current)
    loaded = pins.load(connection)
    assert (loaded.current, loaded.previous) == (current.current, current.previous)
    assert loaded.digest == current.digest
