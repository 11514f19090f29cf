"""What other weights can change of what is held, found by SQLite alone.

An electorate moves every few minutes and mostly turns nothing. So whoever changes it asks here first, a window of
claims or GPUs after the other, and computes anew only what is named. What is not named stays as it is, exactly:

- A tally follows from sums of stake: of who says verified or failed, of who abstains, of the young who voted, and of
  who said verified before, or up to, the held verified-since. Only a failing detail needs more than sums
  (``inventory.stays``).
- A row follows from tallies, from who is permitted and enrolled, and from which block claims name and miners
  registered at. Of a GPU nobody of whom any of this is different the row stays, and so does the order of its claims.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import orjson

from p2pnodes.model import inventory
from p2pnodes.model.codec import INT_MAX
from p2pnodes.model.inventory import Sums, Tally, Weights
from p2pnodes.store.facts import Facts

WINDOW: Final = 256
"""Claims or GPUs that are looked at by one statement: below a millisecond, and some with twenty voters."""

STAKE_MAX: Final = INT_MAX // 2
"""Enrolled stake above which SQLite's integers may not hold the sums, and every tally is counted anew: where two logs
of a hotkey share an HLC it is added twice."""

_NO_LOGS: Final = "[]"

_PLACED: Final = (
    " OR EXISTS (SELECT 1 FROM placement p WHERE p.claim_id = c.claim_id AND p.log IN (SELECT value FROM json_each(?)))"
)

UUID_LAST: Final = "\x7f"
"""Lies behind every uuid."""

_SUMS: Final = """
WITH voter AS MATERIALIZED (
    SELECT json_extract(value, '$[0]') AS log, json_extract(value, '$[1]') AS stake,
           json_extract(value, '$[2]') AS young, json_extract(value, '$[3]') AS siblings
    FROM json_each(?)
), vote AS MATERIALIZED (
    SELECT v.claim, v.hlc, v.finding, ifnull(v.since, 0) AS since, v.detail <> c.detail AS otherwise,
           c.since AS held, w.stake, w.young,
           CASE WHEN w.siblings NOTNULL THEN (
               SELECT max(o.hlc) FROM verdict o
               WHERE o.claim = v.claim AND o.log IN (SELECT value FROM json_each(w.siblings))
           ) END AS rival
    FROM claim c CROSS JOIN verdict v ON v.claim = c.claim CROSS JOIN voter w ON w.log = v.log
    WHERE c.claim > ? AND c.claim <= ? AND v.hlc >> 16 >= ?
)
SELECT claim,
       coalesce(sum(stake) FILTER (WHERE finding = 'verified'), 0),
       coalesce(sum(stake) FILTER (WHERE finding = 'failed'), 0),
       coalesce(sum(stake) FILTER (WHERE finding = 'abstain'), 0),
       coalesce(sum(stake) FILTER (WHERE young), 0),
       coalesce(sum(stake) FILTER (WHERE finding = 'verified' AND since < held), 0),
       coalesce(sum(stake) FILTER (WHERE finding = 'verified' AND since <= held), 0),
       coalesce(max(otherwise AND finding = 'failed'), 0),
       coalesce(max(rival = hlc), 0)
FROM vote WHERE rival IS NULL OR rival <= hlc GROUP BY claim
"""
"""The live votes of a window of claims in sums, and whether two logs of one hotkey say something at one HLC."""


_MOVED_GPUS: Final = """
WITH named AS MATERIALIZED (SELECT DISTINCT uuid, request_id FROM deletion d WHERE uuid > ? AND uuid <= ?),
     asked AS MATERIALIZED (SELECT DISTINCT request_id FROM named)
SELECT uuid FROM named WHERE request_id IN (
    SELECT request_id FROM asked WHERE EXISTS (
        SELECT 1 FROM deletion o WHERE o.request_id = asked.request_id AND o.log IN (SELECT value FROM json_each(?))
    )
)
"""
"""GPUs on which deletions in some logs are recorded: each request is looked at once, however often a log says it."""


class Claims(NamedTuple):
    """A window of claims.

    Attributes:
        last: Its last row key; the next window begins behind it.
        size: How many claims it has; 0 when there are no more.
        tallies: Those whose tallies may be others.
        stirred: Those that may count, or since when, otherwise than before, and those under which places may count that
            did not, or no more: their GPUs' rows may be others.
    """

    last: int
    size: int
    tallies: list[int]
    stirred: list[int]


class Reweighed:
    """What a change of weights can change. Reads as ``facts`` does, when it is asked."""

    def __init__(self, facts: Facts, before: Weights, now: Weights) -> None:
        """Compare weights.

        Args:
            facts: What is stored.
            before: Those that what is held was computed with.
            now: Those that are to be in force.
        """
        self._connection: Final = facts.connection
        self._now = now
        old, new = before.electorate, now.electorate
        self._miners = sorted(_moved(old.current.registered, new.current.registered))
        self._permitted = old.stakes.keys() ^ new.stakes.keys()
        self._enrolled = before.enrolled.keys() ^ now.enrolled.keys()
        self._blocks = sorted((old.block, new.block))
        self._last_log = -1  # row keys of logs rise
        self._permits = self._enrolments = _NO_LOGS
        self._voters: str | None = None
        self._learn_logs()
        self._young = sum(now.enrolled[hotkey] for hotkey in now.young)

    def _learn_logs(self) -> None:
        """Learn which logs matter, where one was opened since: a recount asks here again and again meanwhile."""
        (last,) = self._connection.execute("SELECT coalesce(max(log), 0) FROM logs").fetchone()
        if last == self._last_log:
            return
        self._last_log = last
        hotkeys: dict[int, bytes] = dict(self._connection.execute("SELECT log, hotkey FROM logs").fetchall())
        self._permits = _json(_logs_of(hotkeys, self._permitted))
        self._enrolments = _json(_logs_of(hotkeys, self._enrolled))
        self._voters = _json(_voters(hotkeys, self._now)) if self._now.total <= STAKE_MAX else None

    def claims(self, above: int) -> Claims:
        """The window of claims above a row key."""
        self._learn_logs()
        held: list[tuple[Any, ...]] = self._connection.execute(
            "SELECT claim, status, since, detail FROM claim WHERE claim > ? ORDER BY claim LIMIT ?", (above, WINDOW)
        ).fetchall()
        if not held:
            return Claims(above, 0, [], [])
        last: int = held[-1][0]
        if self._voters is None:
            tallies = [key for key, *_ in held]
        else:
            sums = self._sums(self._voters, above, last)
            silent = Sums(0, 0, self._young, 0, 0, otherwise=False)
            tallies = [
                key
                for key, *tally in held
                if (found := sums.get(key, silent)) is None or not inventory.stays(Tally(*tally), found, self._now)
            ]
        return Claims(last, len(held), tallies, self._stirred(above, last))

    def window(self, above: str) -> str | None:
        """The last uuid of the window of GPUs above a uuid; None when there are no more of which ``gpus`` can tell."""
        if self._permits == _NO_LOGS:
            return None
        last: str | None = self._connection.execute(
            "SELECT max(uuid) FROM (SELECT uuid FROM deletion WHERE uuid > ? ORDER BY uuid LIMIT ?)", (above, WINDOW)
        ).fetchone()[0]
        return last

    def gpus(self, above: str, last: str) -> set[str]:
        """GPUs above a uuid and up to another one on which deletions may count that did not, or no more."""
        self._learn_logs()
        if self._permits == _NO_LOGS:
            return set()
        found = self._connection.execute(_MOVED_GPUS, (above, last, self._permits))
        return {uuid for (uuid,) in found}

    def _sums(self, voters: str, above: int, last: int) -> dict[int, Sums | None]:
        """Sums of the votes on the claims of a window; None for one that sums cannot tell."""
        weights = self._now
        deadline_ms = weights.electorate.time_ms - weights.network.verdict_ttl_s * 1000
        found: dict[int, Sums | None] = {}
        for key, verified, failed, abstain, young, *rest, tied in self._connection.execute(
            _SUMS, (voters, above, last, deadline_ms)
        ):
            found[key] = None if tied else Sums(verified, failed, abstain + self._young - young, *rest)
        return found

    def _stirred(self, above: int, last: int) -> list[int]:
        low, high = self._blocks
        query = (
            "SELECT claim FROM claim c WHERE claim > ? AND claim <= ?"  # noqa: S608 - question marks of our own
            f" AND (miner IN ({', '.join('?' * len(self._miners))}) OR EXISTS (SELECT 1 FROM carriage r"
            " WHERE r.claim = c.claim AND (r.electorate_block > ? AND r.electorate_block <= ?"
            " OR r.log IN (SELECT value FROM json_each(?))))"
            f"{'' if self._enrolments == _NO_LOGS else _PLACED})"
        )
        moved = (self._permits,) if self._enrolments == _NO_LOGS else (self._permits, self._enrolments)
        found = self._connection.execute(query, (above, last, *self._miners, low, high, *moved))
        return [key for (key,) in found]


def windows(reweighed: Reweighed) -> Iterator[Claims]:
    """All windows of claims, read while the caller writes."""
    window = reweighed.claims(0)
    while window.size:
        yield window
        window = reweighed.claims(window.last)


def _moved(one: Mapping[bytes, int], other: Mapping[bytes, int]) -> set[bytes]:
    """Keys that have not the same value in both."""
    return {key for key, _ in one.items() ^ other.items()}


def _logs_of(hotkeys: Mapping[int, bytes], moved: Collection[bytes]) -> list[int]:
    return [log for log, hotkey in hotkeys.items() if hotkey in moved]


def _voters(hotkeys: Mapping[int, bytes], weights: Weights) -> Iterator[tuple[int, int, bool, str | None]]:
    """Each log whose verdicts count: stake, whether its hotkey is young, and the hotkey's other logs, if any."""
    logs: dict[bytes, list[int]] = {}
    for log, hotkey in hotkeys.items():
        logs.setdefault(hotkey, []).append(log)
    for log, hotkey in hotkeys.items():
        if hotkey in weights.enrolled:
            siblings = [other for other in logs[hotkey] if other != log]
            yield log, weights.enrolled[hotkey], hotkey in weights.young, _json(siblings) if siblings else None


def _json(values: Iterable[Any]) -> str:
    return orjson.dumps(list(values)).decode()
