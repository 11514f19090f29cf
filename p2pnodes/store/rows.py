"""What f makes of the stored facts, GPU by GPU, and how that differs from the rows that are held.

Whoever changes rows asks here what they must be: the ledger, which writes the difference at once, and a recount
(``p2pnodes.store.recount``), which keeps it until all of it is known.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import itemgetter
from typing import Any, Final, NamedTuple

from p2pnodes.model import inventory
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.inventory import Claim, Deletion, Row, Tally, Weights
from p2pnodes.model.stateroot import bucket_of
from p2pnodes.store.changes import Gone
from p2pnodes.store.facts import Facts, Held, chute_fields

TalliesOf = Callable[[Collection[int]], Mapping[int, Tally]]
"""Row keys of claims -> their tallies, from wherever."""

VARYING: Final = ("status", "created_hlc", "verified_since", "detail", "chute", "chute_id", "instance_id", "digest")
"""Columns of ``node`` that votes and places change."""

COLUMNS: Final = ("bucket", "uuid", *VARYING, "claim", "miner", "gpu_identifier", "name", "server_id")
"""All columns of ``node``, its key first; those that are not VARYING stay as long as one claim owns the GPU."""


INSERT: Final = f"INSERT INTO node ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
"""Writes the row of a GPU that has none; whoever does has it counted (``supply.add``), by COUNTED of it."""

COUNTED: Final = itemgetter(*map(COLUMNS.index, ("miner", "gpu_identifier", "chute")))


class Decision(NamedTuple):
    """What f says of one GPU: its row with that's digest, the row key of the owner, and what that was decided from.

    The first three are None where it has no row.
    """

    row: Row | None
    digest: bytes | None
    owner: int | None
    claims: Mapping[int, Claim]
    deletions: Sequence[Deletion]


class Written(NamedTuple):
    """A row as it must be: the row, the row key of its claim, the row's digest."""

    row: Row
    claim: int
    digest: bytes


class Difference(NamedTuple):
    """How the rows of some GPUs must change.

    Attributes:
        gone: GPUs that have a row and must have none.
        changed: Rows whose claims have them already: what the GPU is has not changed.
        new: Rows of GPUs that had none, or one of another claim.
        left: GPU -> row key of the claim that had its row and has it no more.
    """

    gone: list[str]
    changed: list[Written]
    new: list[Written]
    left: dict[str, int]

    @property
    def written(self) -> list[str]:
        """The GPUs whose rows are new or changed."""
        return [written.row.uuid for written in (*self.new, *self.changed)]

    @property
    def grown(self) -> int:
        """By how many rows there are more."""
        return sum(written.row.uuid not in self.left for written in self.new) - len(self.gone)


def decide(
    facts: Facts, uuids: Collection[str], tallies_of: TalliesOf, weights: Weights, held: Held | None = None
) -> dict[str, Decision]:
    """What f says of each of some GPUs; ``held`` as in ``Facts.naming``."""
    claims, deletions = facts.claims_on(uuids, held), facts.deletions(uuids)
    placements = facts.placements(claims)
    tallies = tallies_of({key for on in claims.values() for key in on})
    # Without deletions f asks for the uuid only to name it, and of one server's GPUs mostly the same is said.
    alike: dict[tuple[int, ...], tuple[Row | None, bytes, int | None]] = {}
    decided: dict[str, Decision] = {}
    for uuid, on in claims.items():
        said = (id(on), *map(id, placements[uuid]))  # what is said of several is one and the same
        found = None if deletions[uuid] else alike.get(said)
        if found is None:
            by_id = {claim.id: tallies[key] for key, claim in on.items()}
            row = inventory.decide(uuid, on.values(), deletions[uuid], by_id, placements[uuid], weights)
            owner = None if row is None else next(key for key, claim in on.items() if claim.id == row.claim_id)
            tail = b"" if row is None else row.tail()
            if not deletions[uuid]:
                alike[said] = row, tail, owner
        else:
            row, tail, owner = found
            row = row and Row(uuid, *row[1:])
        decided[uuid] = Decision(row, row and row.digest(tail), owner, on, deletions[uuid])
    return decided


def compare(decided: Mapping[str, Decision], held: Held) -> Difference:
    """How rows must change.

    Args:
        decided: GPUs as they must be.
        held: As they are.
    """
    found = Difference([], [], [], {})
    for uuid, (row, digest, key, *_) in decided.items():
        claim, before = held.get(uuid, (None, None))
        if row is None or digest is None or key is None:
            if claim is not None:
                found.gone.append(uuid)
                found.left[uuid] = claim
            continue
        if claim != key:
            found.new.append(Written(row, key, digest))
            if claim is not None:
                found.left[uuid] = claim
        elif digest != before:
            found.changed.append(Written(row, key, digest))
    return found


def lost(facts: Facts, decided: Mapping[str, Decision], left: Mapping[str, int]) -> Iterator[Gone]:
    """The rows that their miners lost, of those that claims lost (``Difference.left``)."""
    miners = facts.miners(left.values()) if left else {}
    for uuid, key in left.items():
        row = decided[uuid].row
        if row is None or row.miner != miners[key]:
            yield Gone(uuid, miners[key])


def turned(
    decided: Mapping[str, Decision],
    found: Difference,
    recounted: AbstractSet[int],
    electorates: tuple[Electorate, Electorate] | None,
) -> Iterator[str]:
    """The GPUs whose claims' tasks may have another status than before, though no request named them meanwhile.

    Args:
        decided: Each GPU that was looked at, as it is now.
        found: How their rows changed.
        recounted: Claims whose tallies changed, at least all of those on these GPUs.
        electorates: The one before and the one now, None while it is one and the same.
    """
    rows = {*found.written, *found.left} if electorates else ()
    for uuid, decision in decided.items():
        if not recounted.isdisjoint(decision.claims) or (
            electorates and _stands_otherwise(uuid, decision, *electorates, changed=uuid in rows)
        ):
            yield uuid


def _stands_otherwise(uuid: str, decision: Decision, before: Electorate, now: Electorate, *, changed: bool) -> bool:
    """Whether other claims stand on a GPU than did under the electorate before, or in another order."""
    if len(decision.claims) == 1:
        return changed  # a claim that is alone stands just where it has the row
    claims, deletions = decision.claims.values(), decision.deletions
    return inventory.standing(uuid, claims, deletions, before) != inventory.standing(uuid, claims, deletions, now)


def varying(written: Written) -> tuple[Any, ...]:
    """Values of VARYING."""
    row = written.row
    chute = row.chute
    return (
        row.status, row.created_hlc, row.verified_since, row.detail, chute_fields(chute),
        chute and chute.chute_id, chute and chute.instance_id, written.digest,
    )  # fmt: skip


def values(facts: Facts, written: Collection[Written]) -> Iterator[tuple[Any, ...]]:
    """Values of COLUMNS, with what the bodies of the claims say."""
    servers = facts.servers({each.claim: each.row.claim_id for each in written})
    for each in written:
        row, server = each.row, servers[each.claim]
        yield (bucket_of(row.uuid), row.uuid, *varying(each), each.claim, row.miner, *server.gpus[row.uuid], server.id)
