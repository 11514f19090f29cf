"""``p2pnodes db rebuild``: derive every row from the log again, and say what differed.

``hold`` and ``differences`` do that for ``db verify``, too, on a copy.
"""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError, StoreError
from p2pnodes.model.keys import KEY_BYTES, ss58_encode
from p2pnodes.model.network import Network
from p2pnodes.store import buckets
from p2pnodes.store.checkpoints import Stage, live_set_damage
from p2pnodes.store.copying import open_ours
from p2pnodes.store.ledger import DERIVED, Ledger, derive_anew, require_network
from p2pnodes.store.schema import CHECK, REFILL, open_writer, untyped, what_to_do

Progress = Callable[[str, int, int], None]
"""Called now and then with what is being done, how much of it is done, and of how much."""

PROBLEMS_MAX: Final = 100
"""Problems that are reported; a database with more is as broken."""

_JUDGEMENTS: Final = "judgements"
"""No table: what is in the events of a judgement that is not simply that they are valid."""

_COMPARED: Final = ("logs", "events", _JUDGEMENTS, "fork", "closing", "address", *DERIVED)
"""Every table that ``Ledger.rebuild`` derives from the log, and those in which it may only find what they hold."""

_MENDED: Final = frozenset({*DERIVED, "bucket_changed", "checks", "address"})
"""Tables that a rebuild fills, and the validator's own book of checks: what is struck out there is checked again."""


class RebuildReport(NamedTuple):
    """What was derived and what differed.

    Attributes:
        events: Events that it was derived from.
        rows: Inventory rows.
        state_root: Theirs, hex.
        state_root_before: Of the rows that were there, hex.
        differences: What differed, one line each, at most PROBLEMS_MAX; empty when nothing did.
    """

    events: int
    rows: int
    state_root: str
    state_root_before: str
    differences: list[str]


def rebuild(path: Path, network: Network, progress: Progress | None = None) -> RebuildReport:
    """Derive every row of a database from its log; the caller holds the data directory (``directory.hold``).

    One transaction: it is done whole or not at all, at whatever instruction it ends. Where something had to be struck
    out before it (``drop_untyped``), the next start does what it did not come to. The write-ahead log takes as much
    room meanwhile as the rows do.

    Args:
        path: The SQLite file.
        network: Its parameters.
        progress: See ``Progress``.

    Raises:
        StoreError: No such database, of another network, its log or the live set in force is damaged, or it cannot be
            written: nothing changed but what had to be struck out, which the error says then.
    """
    open_ours(path).close()  # a writer would make a database of an empty file, and of another program's one, too
    connection = open_writer(path)
    connection.text_factory = as_text
    changed = "nothing changed"
    try:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            mended = drop_untyped(connection)
            require_network(connection, network)
            if (damage := live_set_damage(connection, network)) is not None:  # its rows would be others than anybody's
                raise StoreError(f"{path}: nothing changed: {damage}; {REFILL}", code=Code.DATA_REBUILD_FAILED)
            before = _hold_all(connection) if mended else None
            if mended:
                derive_anew(connection)  # wherever this ends, nobody goes on with what is left
        if mended:
            changed = "what is wrong in it is struck out, and the next start derives it again"
        ledger = Ledger(connection, network)
        finish_cut(ledger)
        before = before or _hold_all(connection)
        found = mended + differences(ledger, progress)
        state = ledger.state
        return RebuildReport(state.events, state.nodes, state.state_root.hex(), before, found[:PROBLEMS_MAX])
    except sqlite3.Error as error:
        advice = what_to_do(error, CHECK)
        raise StoreError(
            f"{path}: cannot be rebuilt, {changed}: {error}{advice}", code=Code.DATA_REBUILD_FAILED
        ) from error
    except StoreError:
        raise
    except P2PNodesError as error:
        raise StoreError(
            f"{path}: its log is damaged, {changed}: {error}; {REFILL}", code=Code.DATA_REBUILD_FAILED
        ) from error
    finally:
        connection.close()


def _hold_all(connection: sqlite3.Connection) -> str:
    """``hold``, and the state root of the rows that are there, hex."""
    hold(connection)
    return buckets.of_rows(connection).root.root().hex()


def as_text(data: bytes) -> str:
    """A text as whoever compares reads it: a byte of it that flipped makes it differ, and keeps nobody from reading."""
    return data.decode(errors="backslashreplace")


def drop_untyped(connection: sqlite3.Connection) -> list[str]:
    """Forget what no ledger opens with, where it can be derived again or be done without.

    That is rows with values of other types than their columns', hashes of buckets that there are not, and addresses
    that are not their hotkeys'.

    Returns:
        What was wrong, a line each.

    Raises:
        StoreError: There are such values in what everything is derived from.
    """
    found = list(untyped(connection))
    for table, _, wrong in found:
        if table not in _MENDED:
            raise StoreError(f"{wrong}; {REFILL}", code=Code.DATA_DAMAGED)
    for table, condition, _ in found:
        connection.execute(f"DELETE FROM {table} WHERE {condition}")  # noqa: S608 - of our schema
    return [*(wrong for *_, wrong in found), *buckets.drop_strays(connection), *_drop_wrong_addresses(connection)]


def _drop_wrong_addresses(connection: sqlite3.Connection) -> Iterator[str]:
    """Forget SS58 addresses that are not their hotkeys'; a rebuild writes them anew."""
    for hotkey, address in connection.execute("SELECT hotkey, address FROM address").fetchall():
        if len(hotkey) != KEY_BYTES or ss58_encode(hotkey) != address:
            connection.execute("DELETE FROM address WHERE hotkey = ?", (hotkey,))
            yield f"table address: {hotkey.hex()} is not {address}"


def hold(connection: sqlite3.Connection) -> None:
    """Keep what is there beside it, for ``differences``; a ledger has derived before what a migration took away.

    SQLite keeps it in a temporary file, so that memory stays bounded.
    """
    for table in _COMPARED:
        connection.execute(f"CREATE TEMP TABLE held_{table} AS {_content(connection, table)}")
    buckets.write(connection, buckets.load(connection), "held_bucket")  # a rebuild writes all hashes


def finish_cut(ledger: Ledger) -> None:
    """Bring rows in step with a checkpoint and with ends of logs, where a daemon had not come to the end of these.

    What they leave out is taken away. While a live set is not whole everything follows from what is here of it, and
    what was said below its cut before says nothing.
    """
    while ledger.leaving or ledger.checkpoints.loaded:
        with ledger.transaction():
            ledger.cut()
    if ledger.checkpoints.stage is Stage.LOADING:
        with ledger.transaction():
            ledger.rebuild()
    while ledger.moving:
        with ledger.transaction():
            ledger.move_on()
    while ledger.checkpoints.stage is Stage.CUTTING:
        with ledger.transaction():
            ledger.cut()


def differences(ledger: Ledger, progress: Progress | None = None) -> list[str]:
    """Rebuild in a transaction of its own; what differs now from what was held, a line each.

    Args:
        ledger: Of a connection on which nobody else writes.
        progress: See ``Progress``.
    """
    told = progress or _ignore
    with ledger.transaction():
        ledger.rebuild(lambda done, of: told("deriving rows", done, of))
        told("settling rows", 0, 1)  # takes about as long again, and tells nothing of itself
    told("settling rows", 1, 1)
    connection = ledger.facts.connection
    found: list[str] = []
    for number, table in enumerate(_COMPARED, 1):
        told("comparing", number, len(_COMPARED))
        held, rebuilt = f"SELECT * FROM held_{table}", _content(connection, table)  # noqa: S608 - names of our own schema
        found += (f"{table}: a rebuild lacks {_short(row)}" for row in _difference(connection, held, rebuilt))
        found += (f"{table}: only a rebuild has {_short(row)}" for row in _difference(connection, rebuilt, held))
    return found


def _content(connection: sqlite3.Connection, table: str) -> str:
    """Query for a table's rows with claims named by their ids: row keys and positions differ between rebuilds."""
    if table == "claim":
        return (  # what no more than verdicts that do not count name may have been forgotten
            "SELECT claim_id, miner, nonce, uuids, status, since, detail FROM claim"
            " WHERE miner NOTNULL OR claim IN (SELECT claim FROM verdict)"
        )
    if table == "logs":
        return "SELECT log, node_key, number, cut FROM logs"
    if table == "events":  # what it replaces matters of a word that counts alone; that may be gone with a checkpoint
        return (
            "SELECT log, seq, before FROM events JOIN logs USING (log)"
            " WHERE before NOTNULL AND (cut IS NULL OR seq < cut)"
            " AND NOT EXISTS (SELECT 1 FROM certificate WHERE stage <> 'known')"
        )
    if table == _JUDGEMENTS:
        return "SELECT log, seq, judged, void FROM events WHERE NOT judged OR void NOTNULL"
    columns = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
    named = "(SELECT claim_id FROM claim c WHERE c.claim = t.claim)"
    shown = [f"{named} AS claim_id" if column == "claim" else f"t.{column}" for column in columns]
    return f"SELECT {', '.join(shown)} FROM {table} t"  # noqa: S608 - names of our own schema


def _difference(connection: sqlite3.Connection, one: str, other: str) -> Iterator[tuple[object, ...]]:
    return iter(connection.execute(f"{one} EXCEPT {other} LIMIT {PROBLEMS_MAX}"))


def _ignore(_what: str, _done: int, _of: int) -> None:
    """Nobody looks."""


def _short(row: tuple[object, ...]) -> str:
    shown = ", ".join(value.hex()[:16] if isinstance(value, bytes) else str(value) for value in row[:4])
    return f"({shown}, ...)" if len(row) > 4 else f"({shown})"
