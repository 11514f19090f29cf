"""The console's pages: what each asks the daemon, and the answer to a browser.

A page is sent whole, or, to a script that fetches it anew, its live part alone. Both carry a hash of their content, so
that a page in which nothing has changed costs a few bytes.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import structlog
from aiohttp import hdrs, web

from p2pnodes.api.browser import LOOKS_KEY, PARAMETERS, PENDING_DEFAULT, STATUSES, look, pending_after
from p2pnodes.api.console.assets import assets
from p2pnodes.api.console.guides import guide
from p2pnodes.api.console.rendering import HEADERS, ROOT, load, render, segment
from p2pnodes.api.errors import STORE_RETRY_S, ApiError, echo, log_store_failure
from p2pnodes.api.naming import UUID_SEGMENT, claim_id, node, unknown_claim
from p2pnodes.api.overview import agreement
from p2pnodes.api.parameters import choice, once
from p2pnodes.api.tail import STATES, TAIL_KEY
from p2pnodes.documentation import topic, topics
from p2pnodes.model.codec import digest
from p2pnodes.model.codes import HEADER, Code
from p2pnodes.model.errors import P2PNodesError, StoreError
from p2pnodes.model.events import PAYLOADS
from p2pnodes.store.browse import Wanted

if TYPE_CHECKING:  # it is what serves these pages
    from p2pnodes.api.admin import DaemonView

log = structlog.get_logger(__name__)

EVENTS_SHOWN: Final = 100
"""Events that the page begins with; its tail goes on from there."""

KINDS: Final = tuple(sorted(PAYLOADS))

_PAGE_HEADERS: Final = {
    **HEADERS,
    hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-cache",
    hdrs.VARY: "HX-Request, HX-History-Restore-Request",
}
_ASSET_HEADERS: Final = {**HEADERS, hdrs.CACHE_CONTROL: "public, max-age=31536000, immutable"}
_ETAG_BYTES: Final = 16

Context = dict[str, Any]
Page = Callable[[web.Request], Awaitable[tuple[str, Context]]]
"""What a page is made of: its template, and the values for it."""


class _ElsewhereError(Exception):
    """What was asked for has an address of its own."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class Console:
    """The pages over one daemon."""

    def __init__(self, view: "DaemonView") -> None:
        """Show what ``view`` answers."""
        self._view = view
        load()
        for each in topics():
            guide(each)

    def add_to(self, app: web.Application) -> None:
        """Serve the pages in an application, which checks who asks."""
        router = app.router
        router.add_get("/", _to_overview)
        router.add_get(ROOT, _to_overview)
        pages: Mapping[str, Page] = {
            "": self._overview,
            "nodes": self._nodes,
            f"nodes/{UUID_SEGMENT}": self._node,
            "claims": self._claims,
            "claims/{claim}": self._claim,
            "peers": self._peers,
            "events": self._events,
            "electorate": self._electorate,
            "docs": self._docs,
            "docs/{topic}": self._doc,
            "keyboard": self._keyboard,
        }
        for path, page in pages.items():
            router.add_get(f"{ROOT}/{path}", _served(page))
        router.add_get(f"{ROOT}/static/{{mark}}/{{name:.+}}", _asset)
        router.add_get(f"{ROOT}/{{rest:.*}}", _served(_no_page))

    # -- pages -------------------------------------------------------------------------------------------------------

    async def _overview(self, _: web.Request) -> tuple[str, Context]:
        overview = await self._view.overview()
        return "overview.html", {"overview": overview, "sources": ["/overview"], "poll": True}

    async def _nodes(self, request: web.Request) -> tuple[str, Context]:
        query = {name: value for name, value in once(request).items() if value}
        seen = look(query)
        with request.app[LOOKS_KEY].take(request):
            page = await self._view.inventory(seen)
        return "nodes.html", {
            "page": page,
            "look": seen,
            "query": {name: query.get(name) for name in PARAMETERS if name not in {"after", "before"}},
            "filtered": seen.wanted != Wanted(),
            "models": [] if _is_partial(request) else await self._view.models(),
            "statuses": STATUSES,
            "sources": [_route("/inventory", query)],
            "poll": True,  # a new electorate and lapsed verdicts change rows without any event
        }

    async def _node(self, request: web.Request) -> tuple[str, Context]:
        uuid = request.match_info["uuid"]
        found = await node(self._view.node, uuid)
        rows = await self._view.query("inventory", {"uuid": uuid}, 1)
        claim = None if found["owner"] is None else await self._view.claim(bytes.fromhex(found["owner"]["claim_id"]))
        return "node.html", {
            "node": found,
            "row": rows[0] if rows else None,
            "claim": claim,
            "sources": [
                f"/nodes/{segment(uuid)}",
                _route("/nodes", {"uuid": uuid}),
                *([f"/claims/{found['owner']['claim_id']}"] if claim else []),
            ],
            "proof": f"/proof/{segment(uuid)}",
            "poll": True,
        }

    async def _claims(self, request: web.Request) -> tuple[str, Context]:
        query = once(request)
        if claim := query.get("claim", "").strip():  # what the form above the list sends
            raise _ElsewhereError(f"{ROOT}/claims/{segment(claim)}")
        after = pending_after(query.get("after"))
        with request.app[LOOKS_KEY].take(request):
            page = await self._view.pending(PENDING_DEFAULT, after)
        sources = [_route("/pending", {"after": query["after"]} if after else {})]
        return "claims.html", {"page": page, "first": after is None, "sources": sources, "poll": True}

    async def _claim(self, request: web.Request) -> tuple[str, Context]:
        name = request.match_info["claim"]
        found = await self._view.claim(await claim_id(self._view.find_claim, name))
        if found is None:
            raise unknown_claim(name)
        return "claim.html", {"claim": found, "sources": [f"/claims/{found['claim_id']}"], "poll": True}

    async def _peers(self, _: web.Request) -> tuple[str, Context]:
        gossip = self._view.status()["gossip"]
        compared = agreement(gossip["peers"])
        peers = [{**peer, "said": said} for peer, said in zip(gossip["peers"], compared["peers"], strict=False)]
        return "peers.html", {
            "gossip": gossip,
            "peers": peers,
            "left_out": compared["left_out"],
            "ends": await self._view.forks(),
            "sources": ["/peers", "/status", "/forks"],
            "poll": True,
        }

    async def _events(self, request: web.Request) -> tuple[str, Context]:
        query = {name: value for name, value in once(request).items() if value}
        where = {}
        if "kind" in query:
            where["kind"] = choice(query["kind"], "kind", KINDS)
        if "state" in query:
            where["state"] = choice(query["state"], "state", STATES)
        tail = request.app[TAIL_KEY]
        position = await tail.end()  # what comes while the rows are read is the tail's to tell
        rows = await tail.latest(where, EVENTS_SHOWN, until=position)
        return "events.html", {
            "rows": rows,
            "where": where,
            "kinds": KINDS,
            "states": STATES,
            "position": position,
            "shown": EVENTS_SHOWN,
            "sources": [_route("/events", {"newest_first": "true", **where}), "/events/stream"],
            "poll": False,
        }

    async def _electorate(self, _: web.Request) -> tuple[str, Context]:
        return "electorate.html", {
            "electorate": await self._view.electorate(),
            "sources": ["/electorate"],
            "poll": True,
        }

    async def _docs(self, _: web.Request) -> tuple[str, Context]:
        return "docs.html", {"topics": topics(), "poll": False}

    async def _doc(self, request: web.Request) -> tuple[str, Context]:
        name = request.match_info["topic"]
        try:
            found = topic(name)
        except P2PNodesError as error:
            raise ApiError(404, str(error), code=Code.ADMIN_UNKNOWN) from error
        return "doc.html", {"guide": guide(found), "topics": topics(), "poll": False}

    async def _keyboard(self, _: web.Request) -> tuple[str, Context]:
        return "keyboard.html", {"poll": False}


def _route(path: str, query: Mapping[str, str]) -> str:
    """A JSON route with parameters."""
    return f"{path}?{urlencode(query)}" if query else path


async def _no_page(request: web.Request) -> tuple[str, Context]:
    raise ApiError(404, f"there is no page {echo(request.path)!r}", code=Code.ADMIN_UNKNOWN)


async def _to_overview(_: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={**HEADERS, hdrs.LOCATION: f"{ROOT}/"})


def _served(page: Page) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A page as a handler: whatever is refused or fails is a page, too."""

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            template, context = await page(request)
            return _answer(request, 200, template, context)
        except _ElsewhereError as error:
            return web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: error.path})
        except ApiError as error:
            return _failed(request, error.status, str(error), error.code, error.headers or {})
        except StoreError as error:
            log_store_failure(request, error)
            return _failed(request, 503, str(error), error.code, {hdrs.RETRY_AFTER: str(STORE_RETRY_S)})
        except Exception:
            log.exception("request_failed", path=echo(request.path), code=Code.SYSTEM_BUG)
            return _failed(request, 500, "This page cannot be shown: the daemon's log says why.", Code.SYSTEM_BUG)

    return handler


def _failed(
    request: web.Request, status: int, detail: str, code: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    context = {"status": status, "detail": detail, "code": code, "poll": status >= 500}
    response = _answer(request, status, "error.html", context)
    response.headers.update({**(headers or {}), HEADER: code})
    return response


def _is_partial(request: web.Request) -> bool:
    """Whether a script asks for the live part alone."""
    return "HX-Request" in request.headers and "HX-History-Restore-Request" not in request.headers


def _answer(request: web.Request, status: int, template: str, context: Context) -> web.Response:
    body = render(
        template,
        {
            "layout": "fragment.html" if _is_partial(request) else "base.html",
            "here": request.rel_url.raw_path,
            "self_url": str(request.rel_url),
            "sources": [],
            **context,
        },
    )
    etag = digest(body, _ETAG_BYTES).hex()
    headers = {**_PAGE_HEADERS, hdrs.ETAG: f'"{etag}"'}
    if status == 200 and etag in {each.value for each in request.if_none_match or ()}:
        return web.Response(status=304, headers=headers)
    return web.Response(status=status, body=body, headers=headers)


async def _asset(request: web.Request) -> web.StreamResponse:
    name, mark = request.match_info["name"], request.match_info["mark"]
    found = assets().get(name)
    if found is None or found.mark != mark:  # of another release: the page that asks for it is loaded anew
        return _failed(request, 404, f"there is no file {echo(name)!r}", Code.ADMIN_UNKNOWN)
    headers = {**_ASSET_HEADERS, hdrs.CONTENT_TYPE: f"{found.content_type}; charset=utf-8", hdrs.ETAG: f'"{mark}"'}
    if mark in {each.value for each in request.if_none_match or ()}:
        return web.Response(status=304, headers=headers)
    return web.Response(body=found.content, headers=headers)
