"""What a ledger keeps in memory must be what the next start reads, wherever a transaction ended."""

from typing import Any, Final

from p2pnodes.model.inventory import Weights
from p2pnodes.model.stateroot import StateRoot
from p2pnodes.store.buckets import Held
from p2pnodes.store.checkpoints import Checkpoints
from p2pnodes.store.facts import Facts
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.logs import Logs
from p2pnodes.store.unsettled import Unsettled
from p2pnodes.store.upkeep import Upkeep
from p2pnodes.store.vector import Slices

_OF_THE_RUN: Final = {
    Ledger: {
        *("network", "_connection", "_node_key", "writes_refused", "foreign_own", "foreign_reason", "settled"),
        *("commit_s", "written", "temporary_failure", "_wrote", "_stale"),
        "news",  # whoever it is told has asked, or asks anew
        "_statements",  # knows nothing but what is written down already
        *("recount", "_live_set", "_cutting", "_settling", "_kept"),  # long work begins anew
        "clock",  # see ``assert_a_start_finds_it``
    },
    Checkpoints: {"_connection", "_network", "_lines", "_slices", "_kept", "lately", "_electorate"},
    Logs: {"changed", "_electorate"},
    Upkeep: {"_connection", "_facts", "_unsettled", "_changes"},
    Unsettled: set(),
    Facts: {"connection", "_hotkeys", "_bodies"},
    Slices: {"_logs"},
}
"""What is not compared, of each class: what one run is given, counts, or has read before."""


def assert_a_start_finds_it(ledger: Ledger) -> None:
    """Require that whoever opens this database now knows what the ledger knows, and has nothing to write.

    Call it outside of transactions. The clock may have gone by what was undone, so that it is ahead of that of a start;
    behind it, it would say what is void.
    """
    connection = ledger.facts.connection
    changes = connection.total_changes
    started = Ledger(connection, ledger.network)
    assert connection.total_changes == changes
    ours, theirs = _remembered(ledger), _remembered(started)
    assert {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]} == {}
    assert ledger.clock.latest >= started.clock.latest


def _remembered(ledger: Ledger) -> dict[str, Any]:
    """Everything that a ledger knows of its database, by attribute."""
    names = vars(ledger).keys() - _OF_THE_RUN[Ledger]
    found = {name: _plain(getattr(ledger, name)) for name in sorted(names)}
    found["slices_held"] = set(ledger.checkpoints.slices_held())
    if ledger.state.loading:  # the rows are some of before and some of it; nobody is answered
        found["_upkeep"] = found["_upkeep"]["weights"]
        found["state"] = ledger.state._replace(root=StateRoot().now(), nodes=0)
    return found


def _plain(value: Any) -> Any:
    """A value that equals another one if they say the same."""
    match value:
        case Weights():
            return value.electorate.current, value.electorate.previous, value.enrolled, value.young
        case Held():
            return value.root.now(), value.unwritten  # ``Upkeep.rows`` tells how many rows there are
        case Checkpoints() | Facts() | Slices() | Logs() | Upkeep() | Unsettled():
            names = vars(value).keys() - _OF_THE_RUN[type(value)]
            found = {name: _plain(getattr(value, name)) for name in sorted(names)}
            return {**found, "each": {**value}} if isinstance(value, Logs) else found
        case _:
            return value
