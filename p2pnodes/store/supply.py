"""How many GPUs there are by miner, model and chute, kept beside the rows, so that no view counts these.

Rows that come are counted here, many at once: those of a server share a miner, a model and mostly a chute. Rows that
change or go are counted by triggers on ``node`` (migration 3), one by one: that happens less often, and to fewer.
"""

import sqlite3
from collections.abc import Mapping
from typing import Final

Key = tuple[bytes, str, bytes | None]
"""Miner, model and chute, as in ``node``."""

_ADD: Final = (
    "INSERT INTO supply {} ON CONFLICT (miner, gpu_identifier)"
    " DO UPDATE SET provisioned = provisioned + excluded.provisioned, idle = idle + excluded.idle"
)
_LET: Final = (
    "INSERT INTO tenancy {} ON CONFLICT (miner, gpu_identifier, chute) DO UPDATE SET gpus = gpus + excluded.gpus"
)


def add(connection: sqlite3.Connection, counts: Mapping[Key, int]) -> None:
    """Count rows that are inserted in the same transaction.

    Args:
        connection: The writer's.
        counts: How many there are of each.
    """
    connection.executemany(
        _ADD.format("VALUES (?, ?, ?, ?)"),
        [
            (miner, model, 0 if chute is None else count, count if chute is None else 0)
            for (miner, model, chute), count in counts.items()
        ],
    )
    connection.executemany(
        _LET.format("VALUES (?, ?, ?, ?)"), [(*key, count) for key, count in counts.items() if key[2] is not None]
    )


def add_from(connection: sqlite3.Connection, source: str) -> None:
    """Count rows of another table that are inserted in the same transaction.

    Args:
        connection: The writer's.
        source: The table with its condition, as behind FROM; it has these columns of ``node``.
    """
    connection.execute(
        _ADD.format(
            "SELECT miner, gpu_identifier, count(chute), count(*) - count(chute)"  # noqa: S608 - from our own code
            f" FROM {source} GROUP BY miner, gpu_identifier"
        )
    )
    connection.execute(
        _LET.format(
            f"SELECT miner, gpu_identifier, chute, count(*) FROM {source} AND chute NOTNULL"  # noqa: S608 - as above
            " GROUP BY miner, gpu_identifier, chute"
        )
    )
