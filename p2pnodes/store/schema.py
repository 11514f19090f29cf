"""Opening the database: migrations, pragmas, and who may open what.

``PRAGMA user_version`` holds the schema's number. Each migration is a plain SQL file; the ledger below says what
changed and which build is the oldest that may open the result.

**Upgrades.** A build opens the database of every earlier release: what is missing of its schema is added at the first
start, one transaction for each number, so that a kill leaves one number or the next. The own log goes on; kinds and
versions of events that the build before did not know are judged now. The views are made anew at every start. A frozen
database of each release is among the tests (``tests/store/databases``) and must show what it showed.

**Downgrades.** A database tells the lowest schema that a build must know to open it (``compatibility``). Whoever knows
that much opens it, and leaves its number as it is: a newer schema has only added what an older build need not know,
with defaults that hold for what it writes. Whoever knows less refuses it in one line before anything is changed. Then
install the newer build again, or ``restore`` a backup from before the upgrade: that opens a new log, and peers send
what the backup lacks.

**Mixed networks.** The protocol has a version of its own (``model.protocol.PROTOCOL_VERSION``): two peers speak the
highest that both know, and N speaks N-1, so validators upgrade one by one and skip no version. Events of a version or
kind that a build does not know are stored and forwarded, and count for nothing there until a build judges them.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Final

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import StoreError
from p2pnodes.store import indexes

SCHEMA: Final = 7
"""Schema that this build writes.

Changes:
    1: logs with the proofs of their ends, events, facts, nodes.
    2: 65,536 buckets in the state root, whose hashes are kept; a row's key begins with its bucket.
    3: GPUs are counted by miner, model and chute (supply, tenancy).
    4: checkpoints; places within a carry are counted over both kinds of requests.
    5: which buckets of the state root changed since their hashes were written; open rows are found by their claims.
    6: which claim is on a GPU is said by its row, beside it only of other ones; places are found by their claims.
    7: places are found by their GPUs and logs, too.
"""

LOWEST_SCHEMA_COMPATIBLE: Final = 6
"""Lowest schema number a build must know to open a database of this schema; written into it as a table of its own."""

BUSY_TIMEOUT_MS: Final = 5_000
"""How long a connection waits for another one's lock: only a second process ever holds one."""

TEMPORARY: Final = "SQLite's temporary directory ($SQLITE_TMPDIR, else /var/tmp or /tmp)"
"""Where a database without a name is, and what does not fit memory."""

WAL_PAGES_MAX: Final = 16_384
"""Pages of 4 KiB after which the write-ahead log is copied into the database: claims touch pages at random, and a page
that was written often is copied once."""

REFILL: Final = "restore a backup, or start empty and let peers refill it"
"""What to do about a database that cannot be read."""

CHECK: Final = "; check the path, its owner and the disk"
"""The same where it is not damaged, behind what SQLite says."""

FAILURES: Final = (sqlite3.Error, MemoryError)
"""What Python raises where SQLite fails; that it had no memory is no ``sqlite3.Error``.

Source: CPython's Modules/_sqlite/util.c, get_exception_class.
"""

_OF_THE_DISK: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
    }
)

_PACKAGE = "p2pnodes.store"

# Bytes and None go to SQLite as they are. Python looks for an adapter of each such value, and where it finds none it
# raises an AttributeError and drops it: a third of the time that a row takes to be inserted.
# Source: CPython's Modules/_sqlite/statement.c, need_adapt and bind_parameters.
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(NoneType, {None: None}.__getitem__)


def open_writer(path: Path | str, *, as_it_is: bool = False) -> sqlite3.Connection:
    """Open (or create) the database for its one writer, at the current schema.

    ``synchronous=FULL`` with WAL: a committed transaction survives the loss of power (rule 3).

    Args:
        path: The SQLite file; empty for one in TEMPORARY that is gone with the connection.
        as_it_is: Leave its schema, whatever that is; for who writes no rows.

    Raises:
        StoreError: Not a database, of a newer schema than this build may open, locked, or not writable.
    """
    with opening(f"cannot open the database {path or f'in {TEMPORARY}'}", CHECK) as opened:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
        opened.append(connection)
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = OFF")  # facts may name logs and claims that come later
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA temp_store = FILE")  # what waits to be sorted may be larger than memory should hold
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}")
        if not as_it_is:
            migrate(connection)
    return connection


def open_reader(path: Path, *, still: bool = False) -> sqlite3.Connection:
    """Open the database read-only, for one thread.

    Args:
        path: The SQLite file.
        still: Nobody writes it for as long as it is open: then it can be read where nothing can be written beside it.
    """
    with opening(f"cannot read the database {path}") as opened:
        uri = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if still else ''}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        opened.append(connection)
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA query_only = ON")
        with suppress(sqlite3.Error):  # whoever reads first says what it is
            connection.execute("SELECT 1 FROM sqlite_master")
    return connection


def what_to_do(error: Exception, otherwise: str = "") -> str:
    """What follows SQLite's words about a database that cannot be opened, read or written.

    Where it is damaged, REFILL; where somebody else holds it, that.

    Args:
        error: What SQLite, or Python about its answer, said.
        otherwise: What follows where that means neither.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary one; Python's own errors have none
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return "; another program (sqlite3, datasette?) writes it: end that"
    damaged = isinstance(error, UnicodeDecodeError) or code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    return f"; {REFILL}" if damaged else otherwise


def told(error: BaseException) -> str:
    """The words of one of FAILURES; Python's has none."""
    return "out of memory" if isinstance(error, MemoryError) else f"{error}"


def is_of_the_disk(error: BaseException) -> bool:
    """Whether an error is about the disk, or another process that holds it: whatever was asked would have met it."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _OF_THE_DISK  # the rest says more exactly what it is


@contextmanager
def opening(what: str, advice: str = "") -> Iterator[list[sqlite3.Connection]]:
    """Close what was opened when the rest of the opening fails; SQLite's errors become a StoreError.

    Whoever opens a connection adds it to the list that is handed out. SQLite's words about a damaged schema quote that,
    and where it is no text any more Python has only its own error.
    """
    opened: list[sqlite3.Connection] = []
    try:
        yield opened
    except BaseException as error:
        for connection in opened:
            connection.close()
        if isinstance(error, (*FAILURES, UnicodeDecodeError)):
            advice = what_to_do(error, advice)
            raise StoreError(f"{what}: {told(error)}{advice}", code=Code.DATA_UNREADABLE) from error
        raise


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database to the current schema; a ``Ledger`` then derives what a migration took away.

    Raises:
        StoreError: It is of a newer schema than this build may open, or another program's.
    """
    found = require_known(connection)
    if not found and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise StoreError(
            "the database is another program's: it has tables, but no schema of p2pnodes; check the path",
            code=Code.DATA_MISSING,
        )
    if 0 < found < SCHEMA:
        indexes.lay_all(connection)  # migrations rely on what those before them made
    for number in range(found + 1, SCHEMA + 1):
        script = resources.files(_PACKAGE).joinpath(f"migrations/{number:04}.sql").read_text()
        connection.executescript(
            f"BEGIN IMMEDIATE; {script};"  # noqa: S608 - our own files and numbers
            f"CREATE TABLE IF NOT EXISTS compatibility (lowest INTEGER NOT NULL); DELETE FROM compatibility;"
            f"INSERT INTO compatibility VALUES ({LOWEST_SCHEMA_COMPATIBLE});"
            f"PRAGMA user_version = {number}; COMMIT;"
        )
    views = resources.files(_PACKAGE).joinpath("views.sql").read_text()
    connection.executescript(f"BEGIN IMMEDIATE; {views} COMMIT;")


def require_known(connection: sqlite3.Connection) -> int:
    """The number of a database's schema; 0 for none.

    Raises:
        StoreError: It is newer than this build may open.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > SCHEMA and _lowest_compatible(connection) > SCHEMA:
        raise StoreError(
            f"the database has schema {found}, this build knows {SCHEMA}: install a newer p2pnodes",
            code=Code.DATA_NEWER,
        )
    return int(found)


def untyped(connection: sqlite3.Connection) -> Iterator[tuple[str, str, str]]:
    """The tables that hold values of other types than their columns', as where a bit flipped.

    Whoever reads a table relies on its types, and SQLite does not see to them.

    Returns:
        For each its name, a condition that its other rows do not meet, and what is wrong, in words.
    """
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
    for (table,) in connection.execute(tables).fetchall():
        columns = 'SELECT name, lower(type), "notnull" OR pk FROM pragma_table_info(?)'
        allowed = {
            column: ([declared] if declared else ["integer", "real", "text", "blob"]) + ([] if required else ["null"])
            for column, declared, required in connection.execute(columns, (table,)).fetchall()
        }
        others = [f"typeof({column}) NOT IN {_listed(types)}" for column, types in allowed.items()]
        totals = ", ".join(f"total({other})" for other in others)
        counts = connection.execute(f"SELECT {totals} FROM {table}").fetchone()  # noqa: S608 - of our schema
        wrong = [
            f"{count:.0f} rows have another type in {column} than {' or '.join(types)}"
            for (column, types), count in zip(allowed.items(), counts, strict=True)
            if count
        ]
        if wrong:
            yield table, " OR ".join(others), f"table {table}: {', '.join(wrong)}"


def _listed(types: Sequence[str]) -> str:
    return "(" + ", ".join(f"'{name}'" for name in types) + ")"


def _lowest_compatible(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT lowest FROM compatibility").fetchone()
    return int(row[0]) if row else SCHEMA + 1
