"""What a job costs the database, whatever else the machine does."""

import sqlite3
from collections.abc import Callable


def steps(connection: sqlite3.Connection, job: Callable[[], object], instructions: int = 10) -> int:
    """How many times as many instructions of SQLite's virtual machine a job takes."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    connection.set_progress_handler(count, instructions)
    job()
    connection.set_progress_handler(None, 0)
    return counted
