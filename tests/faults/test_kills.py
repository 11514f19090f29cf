"""The suite of absences kills a daemon that loads, not one that has yet to read in its file that it has to."""

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2pnodes.store.checkpoints import Stage
from tests.faults.kills import _is_up


def peer(tmp_path: Path, stage: Stage, loading: dict[str, Any] | None) -> Any:
    """A daemon whose file is that far, and that says of itself how far it is."""
    path = tmp_path / "p2pnodes.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE certificate (number INTEGER, stage TEXT)")
        connection.execute("INSERT INTO certificate VALUES (7, ?)", (stage,))

    async def status() -> dict[str, Any]:
        return {"checkpoint": {"loading": loading}}

    return SimpleNamespace(database=path, status=status)


@pytest.mark.parametrize(
    ("stage", "loading", "is_up"),
    [
        (Stage.LOADING, None, False),
        (Stage.LOADING, {"number": 7, "held": 0, "of": None}, True),
        (Stage.CUTTING, None, True),
        (Stage.DONE, None, True),
    ],
)
async def test_a_daemon_loads_by_its_own_word(
    tmp_path: Path, stage: Stage, loading: dict[str, Any] | None, *, is_up: bool
) -> None:
    assert await _is_up(peer(tmp_path, stage, loading)) is is_up
