"""The inventory as people look through it: pages, totals and open claims, kept while they hold.

The console's pages and the routes ``/inventory``, ``/pending`` and ``/overview`` share these functions. What was read
belongs to a state root: while that stays, asking again costs nothing. Totals are counted over all rows, so after a
change they are counted again at most as often as keeps that below a twentieth of one CPU; their ``state_root`` says of
which state they are.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple, TypeVar

from aiohttp import hdrs, web

from p2pnodes.api import explanations
from p2pnodes.api.errors import ApiError, echo
from p2pnodes.api.limits import Places
from p2pnodes.api.origin import over_unix
from p2pnodes.api.parameters import choice, integer
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.codes import Code
from p2pnodes.model.inventory import Weights
from p2pnodes.model.keys import ss58_encode
from p2pnodes.model.requests import task_id_of
from p2pnodes.store import browse
from p2pnodes.store.browse import ORDERS, PENDING_MAX, SEARCH_CHARS_MAX, Mark, ModelTotal, OpenClaim, Page, Wanted
from p2pnodes.store.database import BrowseError, Database
from p2pnodes.store.facts import Facts

PAGE_ROWS_DEFAULT: Final = 50
PENDING_DEFAULT: Final = 25
FILTER_CHARS_MAX: Final = 512
"""Longest value of a filter."""

PAGES_KEPT: Final = 32
"""Pages and counts that are kept, the least recently used is dropped: some 25 MB of the largest pages."""

TCP_LOOKS_MAX: Final = 8
"""Looks through the inventory at once over TCP, where any login can look: so many those at the socket wait for."""

TOTALS_WAIT_S: Final = 3.0
"""Seconds for which the overview waits for a count; then it shows the last one, or none."""

IDLE_PER_BUSY: Final = 20
"""Least time between two counts of everything, in times of what the last one took."""

BUSY_RETRY_S: Final = 5
"""When somebody shall come back whose look was refused or given up."""

STATUSES: Final = ("pending", "verified", "failed")

_FILTERS: Final = {"status", "gpu_identifier", "hotkey", "server_id", "chute_id", "busy", "search"}
PARAMETERS: Final = ("limit", "sort", "after", "before", *sorted(_FILTERS))
"""What ``GET /inventory`` takes."""

T = TypeVar("T")


class Look(NamedTuple):
    """What somebody wants to see of the inventory.

    Attributes:
        wanted: Which rows.
        order: A key of ``ORDERS``.
        limit: Rows of a page.
        after: The page begins behind this row.
        before: The page ends before this row; goes before ``after``.
    """

    wanted: Wanted = Wanted()
    order: str = "newest"
    limit: int = PAGE_ROWS_DEFAULT
    after: Mark | None = None
    before: Mark | None = None


class Totals(NamedTuple):
    """GPUs by model, and of which state.

    Attributes:
        models: The most frequent model first.
        pending_claims: Claims whose vote is open.
        state_root: Of the inventory that was counted, hex.
    """

    models: list[ModelTotal]
    pending_claims: int
    state_root: str


class PendingPage(NamedTuple):
    """Claims whose vote is open, the latest first; ``total`` counts all, ``after`` is where the next page begins."""

    claims: list[OpenClaim]
    total: int
    after: str | None


def look(query: Mapping[str, str]) -> Look:
    """Read the parameters of ``GET /inventory``; an empty one is as good as none, as forms send them.

    Raises:
        ApiError: 400, with what is expected.
    """
    given = {name: value for name, value in query.items() if value}
    if unknown := sorted(given.keys() - set(PARAMETERS)):
        raise ApiError(
            400,
            f"unknown parameter {echo(unknown[0])!r}; expected one of {', '.join(PARAMETERS)}",
            code=Code.API_FORM,
        )
    if "\0" in given.get("search", ""):  # SQLite's LIKE ends there, and so finds everything
        raise ApiError(400, "search holds a NUL; expected a text", code=Code.API_FORM)
    if len(given.get("search", "")) > SEARCH_CHARS_MAX:
        raise ApiError(400, f"search is longer than {SEARCH_CHARS_MAX} characters", code=Code.API_FORM)
    if any(len(value) > FILTER_CHARS_MAX for name, value in given.items() if name in _FILTERS):
        raise ApiError(400, f"a filter is longer than {FILTER_CHARS_MAX} characters", code=Code.API_FORM)
    busy = given.get("busy")
    order = choice(given.get("sort", "newest"), "sort", tuple(ORDERS))
    return Look(
        Wanted(
            given.get("search", "").strip(),
            choice(given["status"], "status", STATUSES) if "status" in given else None,
            given.get("gpu_identifier"),
            given.get("hotkey"),
            given.get("server_id"),
            given.get("chute_id"),
            None if busy is None else choice(busy, "busy", ("true", "false")) == "true",
        ),
        order,
        integer(given.get("limit", str(PAGE_ROWS_DEFAULT)), "limit", 1, browse.PAGE_ROWS_MAX),
        _mark(given.get("after"), "after", order),
        _mark(given.get("before"), "before", order),
    )


def _mark(text: str | None, name: str, order: str) -> Mark | None:
    if text is None:
        return None
    try:
        return browse.checked(Mark.decode(text), order)
    except ValueError as error:
        raise ApiError(
            400,
            f"{name} is {echo(text)!r}, {error}; expected the {name} of a page, in its order",
            code=Code.API_FORM,
        ) from error


def pending_after(text: str | None) -> tuple[int, bytes] | None:
    """Read the parameter ``after`` of ``GET /pending``.

    Raises:
        ApiError: 400: no page gave it.
    """
    if not text:
        return None
    nonce, _, claim_id = text.partition("-")
    if len(nonce) > 18 or not (nonce.isascii() and nonce.isdigit()) or len(claim_id) != 64:
        raise _no_mark(text)
    try:
        return int(nonce), bytes.fromhex(claim_id)
    except ValueError as error:
        raise _no_mark(text) from error


def _no_mark(text: str) -> ApiError:
    return ApiError(400, f"after is {echo(text)!r}; expected the after of a page", code=Code.API_FORM)


class Looks:
    """How many look through the inventory at once over TCP."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._places = Places()

    def take(self, request: web.Request) -> AbstractContextManager[None]:
        """Hold a place throughout a look; over the Unix socket none is needed.

        Raises:
            ApiError: 503: TCP_LOOKS_MAX look already.
        """
        if over_unix(request):
            return nullcontext()
        return self._places.take(
            "", "looks over TCP", most=TCP_LOOKS_MAX, most_each=TCP_LOOKS_MAX, retry_s=BUSY_RETRY_S
        )


LOOKS_KEY: Final = web.AppKey("looks", Looks)


class Browser:
    """Reads of one database for people, and what is kept of them."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        """Read from ``db``; ``clock`` counts seconds and never goes backwards."""
        self._db = db
        self._clock = clock
        self._kept: OrderedDict[tuple[bytes, object], Any] = OrderedDict()
        self._totals: Totals | None = None
        self._totals_due_s = 0.0
        self._last: Totals | None = None
        self._counting: asyncio.Task[Totals] | None = None

    async def page(self, seen: Look) -> dict[str, Any]:
        """Answer to ``GET /inventory``.

        ``rows`` as ``/nodes`` has them; ``place``, how many rows come before them, ``total``, how many there are that
        are looked for; ``before`` and ``after``, parameters of the pages beside this one, or None.
        """
        found: Page = await self._held(
            seen,
            lambda: self._browse(
                lambda facts: browse.page(
                    facts, seen.wanted, seen.order, seen.limit, after=seen.after, before=seen.before
                )
            ),
        )
        return {
            "rows": found.rows,
            "place": found.place,
            "total": await self._count(seen.wanted),
            "before": found.before and found.before.encode(),
            "after": found.after and found.after.encode(),
        }

    async def _count(self, wanted: Wanted) -> int:
        if wanted == Wanted():
            return self._db.state.nodes
        return await self._held(wanted, lambda: self._browse(lambda facts: browse.count(facts, wanted)))

    async def totals(self) -> Totals | None:
        """GPUs by model, at most a little old; the last ones, or None, while others look or a count takes too long."""
        if self._counting is None:  # whoever comes while they are counted shares that
            self._counting = asyncio.create_task(self._count_all())
            self._counting.add_done_callback(self._counted)
        try:
            async with asyncio.timeout(TOTALS_WAIT_S):
                return await asyncio.shield(self._counting)
        except (TimeoutError, BrowseError):
            return self._last

    async def models(self) -> list[str]:
        """Names of the models, as far as they are told one by one, the most frequent first."""
        totals = await self.totals()
        return [] if totals is None else [model.gpu_identifier for model in totals.models if not model.others]

    def _counted(self, task: asyncio.Task[Totals]) -> None:
        self._counting = None
        if not task.cancelled() and task.exception() is None:
            self._last = task.result()

    async def _count_all(self) -> Totals:
        root = self._db.state.state_root.hex()
        held = self._totals
        if held is not None and (held.state_root == root or self._clock() < self._totals_due_s):
            return held._replace(pending_claims=await self._db.browse(browse.count_open))
        began_s = self._clock()
        before = self._db.settled_state
        models = await self._db.browse(browse.totals)
        counted = Totals(models, await self._db.browse(browse.count_open), root)
        ended_s = self._clock()
        if before is not None and self._db.settled_state is before:
            self._totals, self._totals_due_s = counted, ended_s + IDLE_PER_BUSY * (ended_s - began_s)
        return counted

    async def pending(self, limit: int, after: tuple[int, bytes] | None) -> PendingPage:
        """Claims whose vote is open, the latest first.

        Args:
            limit: Claims at most, 1 to PENDING_MAX.
            after: Of the page before, see ``pending_after``.
        """
        limit = min(limit, PENDING_MAX)

        def read(weights: Weights) -> Awaitable[tuple[list[OpenClaim], int]]:
            return self._browse(
                lambda facts: (browse.open_claims(facts, weights, limit + 1, after), browse.count_open(facts))
            )

        claims, total = await self._db.weighed(read)
        more = len(claims) > limit
        claims = claims[:limit]
        return PendingPage(claims, total, f"{claims[-1].nonce}-{claims[-1].claim_id.hex()}" if more else None)

    async def _browse(self, function: Callable[[Facts], T]) -> T:
        try:
            return await self._db.browse(function)
        except BrowseError as error:
            raise ApiError(503, str(error), {hdrs.RETRY_AFTER: str(BUSY_RETRY_S)}, code=error.code) from error

    async def _held(self, key: object, read: Callable[[], Awaitable[T]]) -> T:
        """What was read at this state root, or is read now and kept when no commit came in between."""
        before = self._db.settled_state
        root = self._db.state.state_root
        if (root, key) in self._kept:
            self._kept.move_to_end((root, key))
            kept: T = self._kept[root, key]
            return kept
        found = await read()
        if before is not None and self._db.settled_state is before:
            self._kept[root, key] = found
            while len(self._kept) > PAGES_KEPT:
                self._kept.popitem(last=False)
        return found


def pending_json(page: PendingPage, turns: Mapping[bytes, list[dict[str, Any]]]) -> dict[str, Any]:
    """Answer to ``GET /pending``.

    Args:
        page: The claims.
        turns: Claim id -> its turns, see ``explanations.turns``; of claims that are not checked there are none.
    """
    return {
        "claims": [
            {
                "claim_id": claim.claim_id.hex(),
                "task_id": task_id_of(ss58_encode(claim.miner), claim.claim_id),
                "hotkey": ss58_encode(claim.miner),
                "nonce": claim.nonce,
                "created_at": explanations.instant_ms(hlc_ms(claim.created_hlc)),
                "gpus": claim.gpus,
                "owned": claim.owned,
                "votes": claim.votes,
                "verified_stake": claim.scales.verified,
                "failed_stake": claim.scales.failed,
                "weighed_stake": claim.scales.weighed,
                "needed": {
                    "quorum": claim.scales.quorum, "share": claim.scales.share, "failed": claim.scales.failing,
                },
                "turns": turns.get(claim.claim_id, []),
            }
            for claim in page.claims
        ],
        "total": page.total,
        "after": page.after,
    }  # fmt: skip
