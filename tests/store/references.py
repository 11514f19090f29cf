"""What one table says of another must be there: every reference in a database, checked in SQL."""

import sqlite3
from typing import Final

import msgpack

from p2pnodes.store.checkpoints import Stage

_STATED: Final = {
    "carriage": ("add", "carry"),
    "deletion": ("delete", "carry"),
    "verdict": ("verdict", "renew"),
    "placement": ("place", "release"),
    "delegations": ("delegate",),
    "proposal": ("propose",),
    "signature": ("checkpoint",),
}
"""Tables of what valid events state -> the kinds of these events."""

_ALWAYS: Final = {
    "events of no log": "SELECT log, seq FROM events WHERE log NOT IN (SELECT log FROM logs)",
    "logs without events": (
        "SELECT log FROM logs WHERE NOT EXISTS (SELECT 1 FROM events WHERE events.log = logs.log)"
        " AND NOT EXISTS (SELECT 1 FROM certificate WHERE stage <> 'known')"
    ),
    "claims that are read from nowhere": (
        "SELECT claim, position FROM claim WHERE miner NOTNULL AND position NOT IN (SELECT position FROM events)"
    ),
    "claims that are read from where they are not carried": (
        "SELECT claim, position FROM claim WHERE miner NOTNULL"
        " AND EXISTS (SELECT 1 FROM carriage WHERE carriage.claim = claim.claim)"
        " AND NOT EXISTS (SELECT 1 FROM events JOIN carriage"
        " USING (log, seq) WHERE events.position = claim.position AND carriage.claim = claim.claim)"
    ),
    "claims that are known in part": (
        "SELECT claim FROM claim"
        " WHERE (miner ISNULL) + (nonce ISNULL) + (position ISNULL) + (uuids ISNULL) NOT IN (0, 4)"
    ),
    **{
        f"{table} of no claim": f"SELECT claim FROM {table} WHERE claim NOT IN (SELECT claim FROM claim)"
        for table in ("carriage", "verdict", "claim_gpu")
    },
    "carriage of a claim of which nothing is known": (
        "SELECT claim FROM carriage JOIN claim USING (claim) WHERE miner ISNULL"
    ),
    "claim_gpu of a claim of which nothing is known": (
        "SELECT claim FROM claim_gpu JOIN claim USING (claim) WHERE miner ISNULL"
    ),
    **{
        f"{table} of no such event": (
            f"SELECT log, seq FROM {table} WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.log = {table}.log"
            f" AND e.seq = {table}.seq AND judged AND void ISNULL AND kind IN ({', '.join(map(repr, kinds))}))"
        )
        for table, kinds in _STATED.items()
    },
}

_SETTLED: Final = {
    "claims that nothing carries": (
        "SELECT claim FROM claim WHERE miner NOTNULL AND claim NOT IN (SELECT claim FROM carriage)"
    ),
    "node of a claim of another miner": (
        "SELECT uuid, claim FROM node JOIN claim USING (claim) WHERE claim.miner IS NOT node.miner"
    ),
    "claims that are told by row and beside it": "SELECT uuid, claim FROM node JOIN claim_gpu USING (uuid, claim)",
    "live sets of before": (
        "SELECT number FROM live WHERE number < (SELECT max(number) FROM certificate WHERE stage <> 'known')"
    ),
    "slices of before": (
        "SELECT number FROM live_slice WHERE number < (SELECT max(number) FROM certificate WHERE stage <> 'known')"
    ),
    "leaves of no event": "SELECT number, log, seq FROM live WHERE (log, seq) NOT IN (SELECT log, seq FROM events)",
    "slices that begin with no leaf": (
        "SELECT number, slice FROM live_slice WHERE (number, log, seq) NOT IN (SELECT number, log, seq FROM live)"
    ),
}
"""What holds where no live set is being loaded, and none is being cut."""

_NAMED: Final = "SELECT claim, uuids FROM claim WHERE uuids NOTNULL"


def dangling(connection: sqlite3.Connection) -> list[str]:
    """What is named somewhere in a database and is not there, a line for each kind."""
    stages = {stage for (stage,) in connection.execute("SELECT stage FROM certificate")}
    queries = _ALWAYS if stages & {Stage.LOADING, Stage.CUTTING} else _ALWAYS | _SETTLED
    found = [f"{what}: {rows}" for what, query in queries.items() if (rows := connection.execute(query).fetchall())]
    if queries is not _ALWAYS:
        named = {(uuid, key) for key, uuids in connection.execute(_NAMED).fetchall() for uuid in msgpack.unpackb(uuids)}
        query = "SELECT uuid, claim FROM claim_gpu UNION SELECT uuid, claim FROM node"
        noted = set(connection.execute(query).fetchall())
        found += [f"claims and GPUs that name one another alone: {sorted(named ^ noted)}"] if named != noted else []
    return found
