"""Saying again in the own log what the others of its validator say, so that cuts need not name these for ever.

A cut names a log as long as the live set keeps anything of it, and a miner's claim may stand for years. An honest
validator opens a log at each restore, each rotation, and each restart without peers: after some of them cuts would have
no room for the log that it writes. So a validator with more than LOGS_PER_HOTKEY_CUT logs says again in its own one

- the requests in its others: a ``carry`` with the raw events of their first authors, so that everything in them stays
  what it was;
- its last words on GPUs, where these are places: the same ``place``, with an HLC of now, or a ``release``; and from
  logs that cuts do not name the releases of what is placed still, which would come back;

of those that the cut in force names, though they are not the youngest LOGS_PER_HOTKEY_CUT, what the live set keeps; and
all of those that it does not name: cuts may never have room for them, and what is older than the horizon is lost then.

A live set keeps the copy in the youngest log (``needed_carriages``, ``needed_deletions``) and the latest word. So once
the copies lie below a cut nothing is kept of an older log, and the next cut behind its end does not name it. Until then
the originals count: nothing is lost, whenever this is cut off.

A place that another validator's later one of another chute hides is not said again, for that would put it above; nor
is it left to its log, for whoever placed something behind each place could keep that from going. Where it is older than
the horizon, or half of that in a log without a name, and no row shows it, it is released.

A walk looks at everything once; it finds again by itself what is said already.
"""

import sqlite3
from collections.abc import Collection
from itertools import islice
from typing import Final, NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.checkpoint import ITEMS_MAX, LOGS_PER_HOTKEY_CUT, by_age
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.events import (
    CARRIED_MAX,
    PAYLOAD_BYTES_MAX,
    PAYLOADS,
    AddPayload,
    Carry,
    DeletePayload,
    Event,
    Place,
    Release,
)
from p2pnodes.model.inventory import Chute, Placement, last_words, latest_place
from p2pnodes.model.requests import request_id
from p2pnodes.store.carrying import ITEM_BYTES, LIST_BYTES, raw_request
from p2pnodes.store.checkpoints import plain_mask
from p2pnodes.store.damage import stored_event
from p2pnodes.store.facts import Facts, chute_from
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.proposing import left_out
from p2pnodes.store.state import LogState

ITEMS_PER_STEP: Final = CARRIED_MAX
"""Requests that a step looks at: some milliseconds of the writer's."""

ROWS_PER_STEP: Final = 1_024
"""Events among which it looks for them."""

WORDS_PER_STEP: Final = 2_048
"""Last words, of anybody, that a step passes by, and"""

GPUS_PER_STEP: Final = 128
"""own ones that it decides about: some ten milliseconds."""

PLACES_PER_STEP: Final = 16
"""Places that a step says again."""

OLD_PART: Final = 2
"""A hidden place in a log without a name is released when it is older than the horizon divided by this: until then the
other one may end, or the log get its name. When it is too old to count, what it replaced would return."""


_REQUESTS: Final = frozenset(("add", "delete", "carry"))

At = tuple[int, int, int]
"""Row key of a log, seq, item."""


class Mark(NamedTuple):
    """How far a walk has come: first through requests, then through all last words.

    Attributes:
        request: The last request that was looked at; None when all were.
        word: Claim id, GPU and row key of the log of the last word that was looked at.
    """

    request: At | None = (0, -1, 0)
    word: tuple[bytes, str, int] = (b"", "", 0)


class Gathered(NamedTuple):
    """What a step has done.

    Attributes:
        mark: Where the next one begins; None when the walk is at its end.
        requests: How many were said again.
        places: How many events say places again, or release them.
        withdrawn: Of how many GPUs a place that another validator's hides is released.
    """

    mark: Mark | None
    requests: int = 0
    places: int = 0
    withdrawn: int = 0


class _Logs(NamedTuple):
    """The own validator's logs, by row key.

    Attributes:
        older: Those of which is said again what the live set in force keeps.
        unnamed: Those of which all is.
        stay: Those in which it is well kept.
    """

    older: Collection[int]
    unnamed: Collection[int]
    stay: Collection[int]


def concerns(logs: Collection[LogState], hotkey: bytes) -> bool:
    """Whether a validator has so many logs that something may have to be said again; almost always not."""
    return len(list(islice(_of(logs, hotkey), LOGS_PER_HOTKEY_CUT + 1))) > LOGS_PER_HOTKEY_CUT


def _of(logs: Collection[LogState], hotkey: bytes) -> "filter[LogState]":
    return filter(lambda state: state.hotkey == hotkey and not state.displaced, logs)


def gather(ledger: Ledger, mark: Mark, now_ms: int) -> Gathered:
    """Say the next part again, as far as one ``carry`` or PLACES_PER_STEP places hold it; call inside a transaction.

    Args:
        ledger: The own one.
        mark: Where the step before ended; ``Mark()`` begins.
        now_ms: Wall clock, Unix milliseconds.

    Raises:
        WritesRefusedError: This daemon may not write now.
    """
    logs = _logs(ledger)
    if logs is None:
        return Gathered(None)
    if ledger.state.settled is None:  # a live set is loaded or cut, or the end of a log is put in force: after that
        return Gathered(mark)
    if mark.request is not None:
        return _requests(ledger, logs, mark.request, now_ms)
    return _places(ledger, logs, mark.word, now_ms)


def _logs(ledger: Ledger) -> _Logs | None:
    """Which logs are concerned; None where none is, and where nothing that the own one says would last."""
    own = ledger.logs.get(ledger.own_log) if ledger.own_log is not None else None
    if own is None or own.displaced or own.hotkey not in ledger.weights.electorate.current.validators:
        return None  # what it says counts for nothing, or not for long
    if left_out(ledger) is not None or not concerns(ledger.logs.values(), own.hotkey):
        return None
    named = ledger.checkpoints.line.logs
    ordered = sorted(
        _of(ledger.logs.values(), own.hotkey), key=lambda each: by_age(ledger.facts.began(each.key), each.id)
    )
    # Of two copies the live set keeps the one in the younger log, so this log can be of use for older ones alone.
    first = max(LOGS_PER_HOTKEY_CUT, ordered.index(own) + 1)
    older = [state for state in ordered[first:] if state.id in named]
    unnamed = [state for state in ordered if state is not own and state.id not in named]
    stay = [state for state in ordered[:LOGS_PER_HOTKEY_CUT] if state.id in named]
    return _Logs(*([state.key for state in states] for states in (older, unnamed, (*stay, own))))


def _requests(ledger: Ledger, logs: _Logs, after: At, now_ms: int) -> Gathered:
    """Carry those of the next requests in older logs that are not well kept."""
    items, end = _items(ledger, logs, after)
    wires: list[bytes] = []
    left = PAYLOAD_BYTES_MAX - LIST_BYTES
    for at in items[:ITEMS_PER_STEP]:
        wire = raw_request(ledger.facts.connection, *at)
        if _is_needed(ledger.facts, stored_event(wire), at, logs.stay):
            left -= len(wire) + ITEM_BYTES
            if left < 0:
                break
            wires.append(wire)
        after = at
    else:
        if len(items) <= ITEMS_PER_STEP and end is not None:
            after = end
    if wires:
        payload = Carry(tuple(wires))
        ledger.append(lambda _: payload, now_ms)
    return Gathered(Mark(None if end is None else after), len(wires))


def _items(ledger: Ledger, logs: _Logs, after: At) -> "tuple[list[At], At | None]":
    """The next requests in older logs, in order, if more than ITEMS_PER_STEP not all; and how far that goes."""
    connection, number = ledger.facts.connection, ledger.checkpoints.line.number
    for log in sorted((*logs.older, *logs.unnamed)):
        if log < after[0]:
            continue
        first = after[1] if log == after[0] else 0
        if log in logs.older:
            query = (
                "SELECT seq, kind, mask FROM live JOIN events USING (log, seq)"
                " WHERE live.number = ? AND log = ? AND seq >= ? ORDER BY seq LIMIT ?"
            )
            rows = connection.execute(query, (number, log, first, ROWS_PER_STEP))
        else:
            query = (
                "SELECT seq, CASE WHEN judged AND void IS NULL THEN kind END, NULL FROM events"
                " WHERE log = ? AND seq >= ? ORDER BY seq LIMIT ?"
            )
            rows = connection.execute(query, (log, first, ROWS_PER_STEP))
        found: list[At] = []
        last, count = first, 0
        for seq, kind, held in rows:
            last, count = seq, count + 1
            if kind in _REQUESTS and not ledger.facts.is_void(log, seq):
                mask = _all_items(connection, log, seq, kind) if held is None else plain_mask(held)
                found.extend(at for item in range(ITEMS_MAX) if mask >> item & 1 and (at := (log, seq, item)) > after)
                if len(found) > ITEMS_PER_STEP:
                    break
        if found or count == ROWS_PER_STEP:
            return found, (log, last, ITEMS_MAX)
    return [], None


def _all_items(connection: sqlite3.Connection, log: int, seq: int, kind: str) -> int:
    """The mask of all items of an event that brings requests."""
    if kind != "carry":
        return 1
    (wire,) = connection.execute("SELECT wire FROM events WHERE log = ? AND seq = ?", (log, seq)).fetchone()
    return (1 << len(Carry.from_wire(codec.unpack(stored_event(wire).payload)).events)) - 1


def _is_needed(facts: Facts, request: Event, at: At, stay: Collection[int]) -> bool:
    """Whether a raw ``add`` or ``delete`` is recorded of its event, and of no log in which just that is well kept.

    What is recorded of none is over: it would not be of the copy, either, and be said again by each walk.
    """
    payload = PAYLOADS[request.kind].from_wire(codec.unpack(request.payload))
    assert isinstance(payload, AddPayload | DeletePayload)
    name = request_id(request.network_id, payload.request)
    if isinstance(payload, AddPayload):
        rows = facts.connection.execute(
            "SELECT log, seq, item FROM claim CROSS JOIN carriage USING (claim)"
            " WHERE claim_id = ? AND carriage.electorate_block = ? AND carriage.hlc = ?",
            (name, payload.electorate_block, request.hlc),
        )
    else:
        rows = facts.connection.execute(
            "SELECT log, seq, item FROM deletion WHERE request_id = ? AND uuid = ? AND claim_ids = ?",
            (name, payload.uuid, codec.pack(list(payload.claim_ids))),
        )
    said: list[At] = rows.fetchall()
    return at in said and not any(log in stay and not facts.is_void(log, seq) for log, seq, _ in said)


def _anew(
    said: Placement, words: Collection[Placement], enrolled: Collection[bytes], *, old: bool
) -> tuple[Chute | None, ...]:
    """What to say of a GPU in place of a word in another own log: a chute, a release (None), or nothing.

    A place is said again where no later one of another chute hides it, of all who ever placed there, whether they count
    just now or not; a release where it ends a place. An ``old`` place that is hidden can wait no longer: it is said
    again if none that counts just now hides it, and else released. No row changes by either.

    Args:
        said: The word.
        words: All that are held on the GPU under its claim, it among them.
        enrolled: Whose places count.
        old: Whether it is older than the horizon, or will be too soon to wait.
    """
    last = last_words(words)
    if last[said.author, said.claim_id] != said:
        return ()
    if said.chute is None:
        return (None,) if any(word.author == said.author and word.chute is not None for word in words) else ()
    counted = [word for word in last.values() if word == said or word.author in enrolled]
    hidden, hidden_now = (_hides(latest_place(places), said) for places in (last.values(), counted))
    if (hidden or hidden_now) and not old:
        return ()
    return (None if hidden_now else said.chute,)


def _hides(latest: Placement | None, said: Placement) -> bool:
    return latest is not None and latest.chute != said.chute


def _places(ledger: Ledger, logs: _Logs, after: tuple[bytes, str, int], now_ms: int) -> Gathered:
    """Say those of the next places again that lie in older logs and are shown wherever their claim owns the GPU.

    And releases in logs that are not named, while a place that they end is held: else that came back.
    """
    facts = ledger.facts
    rows = facts.connection.execute(
        "SELECT claim_id, uuid, log, hlc, chute FROM placement WHERE (claim_id, uuid, log) > (?, ?, ?)"
        " ORDER BY claim_id, uuid, log LIMIT ?",
        (*after, WORDS_PER_STEP),
    ).fetchall()
    own = [row for row in rows if row[2] in logs.unnamed or (row[2] in logs.older and row[4] is not None)][
        :GPUS_PER_STEP
    ]
    uuids = list(dict.fromkeys(uuid for _, uuid, *_ in own))
    standing, placements = facts.standing(uuids, ledger.weights), facts.placements(facts.claims_on(uuids))
    groups: dict[tuple[bytes, Chute | None], dict[str, None]] = {}  # two logs may say the same at one time
    cut_off, withdrawn = len(own) == GPUS_PER_STEP, 0
    old_ms = now_ms - ledger.network.horizon_s * 1000 // OLD_PART
    for claim_id, uuid, log, hlc, data in own:
        if any(claim.id == claim_id for claim in standing[uuid].values()):
            said = Placement(facts.author(log), hlc, claim_id, chute_from(data))
            words = [word for word in placements[uuid] if word.claim_id == claim_id]
            found = _anew(said, words, ledger.weights.enrolled, old=log in logs.older or hlc_ms(hlc) <= old_ms)
            if len(groups) == PLACES_PER_STEP and any((claim_id, chute) not in groups for chute in found):
                cut_off = True
                break
            for chute in found:
                groups.setdefault((claim_id, chute), {})[uuid] = None
                withdrawn += chute != said.chute
        after = claim_id, uuid, log
    for (claim_id, chute), placed in groups.items():
        named = tuple(placed)  # a claim has at most 10 GPUs
        payload = Release(claim_id, named) if chute is None else Place(claim_id, named, *chute)
        ledger.append(lambda _: payload, now_ms)  # noqa: B023 - called at once
    following = Mark(None, after) if cut_off else Mark(None, rows[-1][:3]) if len(rows) == WORDS_PER_STEP else None
    return Gathered(following, places=len(groups), withdrawn=withdrawn)
