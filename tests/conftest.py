"""Settings of all suites: properties draw the same examples in every run, and a slow machine is no failure."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "p2pnodes",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("p2pnodes")


@pytest.fixture(autouse=True)
def _memory_databases_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close databases in memory behind each test: since Python 3.13, one that is collected open is a ResourceWarning.

    Databases in files are not touched: who leaves one of those open leaks it.
    """
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remembered(database: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(database, *arguments, **options)
        if database == ":memory:":
            opened.append(connection)
        return connection

    monkeypatch.setattr(sqlite3, "connect", remembered)
    yield
    for connection in opened:
        connection.close()
