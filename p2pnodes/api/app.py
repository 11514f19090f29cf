"""The public HTTP application: the ``/nodes`` routes, a miner's own list, health, and the OpenAPI document.

``create_app`` is the way in. Checks run in the order of compat.md, section 2; what they cost rises along it: limits,
size, JSON, signature, fields, hosts, the database.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from json import JSONDecodeError
from typing import Any, Final

import orjson
import structlog
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11
from pydantic import TypeAdapter, ValidationError

from p2pnodes.api import auth, openapi, views
from p2pnodes.api.bodies import read_body, too_large
from p2pnodes.api.cache import Content, Rendered, RootedCache, rendered
from p2pnodes.api.cors import allow_origins
from p2pnodes.api.denied import DenyList
from p2pnodes.api.errors import (
    ELSEWHERE_KEY,
    JSON_HEADERS,
    STORE_FAILURES_KEY,
    ApiError,
    Handler,
    answer_errors,
    bytes_response,
    field_error,
    invalid_json,
    invalid_values,
    join,
    json_response,
    missing,
    render,
)
from p2pnodes.api.hosts import HostCheck, Resolver, system_resolver
from p2pnodes.api.inventory import Inventory
from p2pnodes.api.limits import Places, client_address
from p2pnodes.api.listener import EVENT_STREAM_HEADERS
from p2pnodes.api.measure import Answered, measuring
from p2pnodes.api.proxy import Upstream, passing_on
from p2pnodes.api.schemas import MultiNodeArgs
from p2pnodes.api.server import cut, send_part
from p2pnodes.api.settings import ApiSettings
from p2pnodes.api.stream import EVENTS_KEY, NodeEvents
from p2pnodes.connections import while_open
from p2pnodes.inbound import make_runner
from p2pnodes.model.claims import (
    GPUS_PER_CLAIM_MAX,
    IDENTIFIER_CHARS_MAX,
    Body,
    body_of,
    duplicate_uuids,
    parse_body,
    parse_json,
    valid_uuid,
)
from p2pnodes.model.codec import digest
from p2pnodes.model.codes import Code, code_of
from p2pnodes.model.errors import InvalidBodyError, StoreError, WritesRefusedError
from p2pnodes.model.gpus import GpuSpecError, supported_gpus
from p2pnodes.model.keys import ss58_decode
from p2pnodes.model.network import Network
from p2pnodes.model.requests import (
    BODY_BYTES_MAX,
    PURPOSE_DELETE,
    PURPOSE_MINER,
    PURPOSE_STATUS,
    Add,
    Delete,
    body_tail,
    bound_purpose,
)
from p2pnodes.store.admission import (
    ClockError,
    ConflictError,
    HoppingError,
    NotOwnedError,
    ReusedSignatureError,
    TooManyClaimsError,
)
from p2pnodes.store.parts import batched
from p2pnodes.throttle import TokenBuckets, store_failures

log = structlog.get_logger(__name__)

__all__ = ["ApiSettings", "create_app", "make_runner"]

GOSSIP_PATH: Final = "/gossip"
TASK_HEX_CHARS: Final = 32
GPUS_HELD_MAX: Final = 32_768
"""GPUs up to which a detailed view is rendered as a whole and kept, some 6 MB; a larger one as it is sent."""

PART_BYTES: Final = 256 * 1024
"""Bytes of a large body that are written at once."""

PIECES_PER_PART: Final = 64
"""Pieces of the detailed view that are sent at once: 100 KB where a chute has ten GPUs, 3 MB at most."""

LISTS_MAX: Final = 8
LISTS_PER_ADDRESS_MAX: Final = 2
"""Detailed views that are being sent as they are rendered, over all and of one client address (IPv6: one /64): each
holds what it is rendered from, 200 bytes for each chute."""

LISTS_RETRY_S: Final = 5
LOADING_RETRY_S: Final = 10
OWN_LISTS_MAX: Final = 128
OWN_LISTS_PER_HOTKEY_MAX: Final = 4
"""Miners' own lists that are being sent, over all and of one hotkey: each holds the names of all the miner's GPUs and a
part of the list, 3 MB together with 2,048 open claims, and somebody may read as slowly as he likes."""

OWN_CLAIMS_PER_PART: Final = 32
"""Claims of a miner's own list that are read and sent at once, at most 320 GPUs."""

SIGNATURES_KEPT: Final = 65_536
"""Signatures that are remembered as paid for, the oldest is forgotten; at the default limits, for a good while."""

BINDERS_MAX: Final = 4_096
"""Hotkeys that are remembered as binding the signatures of their deletions to the GPU; the oldest is forgotten, and its
next deletion takes one check of a signature more."""

_NODE_ID: Final = "{node_id:[^/]+}"
"""aiohttp's own pattern leaves out braces, which a uuid may hold."""

_BOOLEAN: Final = TypeAdapter(bool)


class NodesApi:
    """The handlers and what they share. Public handlers take an aiohttp request and return an answer or raise."""

    def __init__(
        self,
        db: Inventory,
        network: Network,
        settings: ApiSettings,
        *,
        now: Callable[[], float],
        readiness: Callable[[], Sequence[str]],
        behind: Callable[[], int],
        resolver: Resolver,
        denied: DenyList,
        refusal: str | None,
    ) -> None:
        """See ``create_app``."""
        self._db = db
        self._network = network
        self._settings = settings
        self._now = now
        self._readiness = readiness
        self._behind = behind
        self._denied = denied
        self._never = refusal
        self._hosts = HostCheck(resolver, timeout_s=settings.dns_timeout_s, allow_private=settings.allow_private_hosts)
        self._per_hotkey = TokenBuckets(settings.hotkey_rate, settings.hotkey_burst)
        self._per_address = TokenBuckets(settings.address_rate, settings.address_burst)
        self._paid: dict[bytes, None] = {}
        self._binders: dict[str, None] = {}
        self._cache = RootedCache(db)
        self._lists = Places()
        self._own_lists = Places()
        self._table = supported_gpus()
        content = orjson.dumps(self._table.data)
        self._supported = rendered(content, digest(content), "supported")
        document = openapi.document()
        self._openapi = orjson.dumps(document)
        self._docs = openapi.page(document)

    # -- writes ------------------------------------------------------------------------------------------------------

    async def add(self, request: web.Request) -> web.StreamResponse:
        """``POST /nodes/``."""
        self._limit(request)
        raw = await read_body(request, bytes_max=BODY_BYTES_MAX, timeout_s=self._settings.body_timeout_s)
        body = _parsed(request, raw)
        value = None if body is not None else _decode(request, raw)
        signed = self._authenticate(request, [body_tail(raw)])
        self._require_writes()
        if body is None:
            body = _validate(value)
        denial = self._denial(signed.hotkey)
        if len(body.nodes) > GPUS_PER_CLAIM_MAX:  # no claim has so many, so none can answer before this check
            raise denial or ApiError(
                400, f"Limit is {GPUS_PER_CLAIM_MAX} GPUs per server.", code=Code.API_TOO_MANY_GPUS
            )
        refusal = None if denial else await self._refusal(body, signed.hotkey)
        auth.require_fresh(signed.nonce, self._now())  # names took their time, and the event's own stamp must fit
        try:
            claim = await self._db.submit_add(
                Add(signed.hotkey, signed.nonce, signed.signature, raw), body, refusal, denial=denial
            )
        except ConflictError as error:
            raise ApiError(
                409,
                "Nodes already exist in inventory, please contact chutes team to resolve: " + join(error.uuids),
                code=error.code,
            ) from error
        except HoppingError as error:
            uses = ", ".join(f"{uuid} (used {count} times recently)" for uuid, count in error.uses)
            raise ApiError(
                429,
                f"Detected GPU hotkey hopping for nodes: {uses}",
                {hdrs.RETRY_AFTER: str(error.retry_after_s)},
                code=error.code,
            ) from error
        except ClockError as error:
            raise ApiError(409, str(error), code=error.code) from error
        except TooManyClaimsError as error:
            raise ApiError(429, str(error), {hdrs.RETRY_AFTER: str(error.retry_after_s)}, code=error.code) from error
        return bytes_response(202, views.registration(claim, self._table))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """``DELETE /nodes/{node_id}``."""
        self._limit(request)
        uuid = request.match_info["node_id"]
        valid = valid_uuid(uuid)
        bound = bound_purpose(uuid)
        purposes = [PURPOSE_DELETE, bound] if valid else [PURPOSE_DELETE]
        likely = bound if request.headers.get(auth.HOTKEY) in self._binders else None
        signed = self._authenticate(request, purposes, likely)
        self._binders.pop(signed.address, None)
        if signed.tail == bound:
            self._binders[signed.address] = None
            if len(self._binders) > BINDERS_MAX:
                del self._binders[next(iter(self._binders))]
        self._require_writes()
        try:
            if not valid:
                raise NotOwnedError("no GPU can have this uuid")
            await self._db.submit_delete(Delete(signed.hotkey, signed.nonce, signed.signature, signed.tail), uuid)
        except NotOwnedError as error:
            raise ApiError(404, "Node does not exist, or does not belong to you", code=error.code) from error
        except ClockError as error:
            raise ApiError(409, str(error), code=error.code) from error
        except ReusedSignatureError as error:
            raise ApiError(401, str(error), code=error.code) from error
        return json_response(200, {"node_id": uuid, "deleted": True})

    def _denial(self, hotkey: bytes) -> ApiError | None:
        """Why this miner may register nothing new here."""
        reason = self._denied.reason(hotkey)
        return (
            None
            if reason is None
            else ApiError(403, f"Your hotkey has been blacklisted: {reason}", code=Code.API_DENIED)
        )

    async def _refusal(self, body: Body, miner: bytes) -> ApiError | None:
        """What is wrong with a well-formed body that conflicts rank above: hosts, specs, uuids twice; in this order."""
        if not await self._hosts.acceptable((node.verification_host for node in body.nodes), miner):
            return ApiError(400, "One or more invalid verification_hosts provided.", code=Code.API_HOST)
        try:
            self._table.check(body.nodes)
        except GpuSpecError as error:
            return ApiError(400, f"GPU parameter validation error: {error}", code=Code.API_SPECS)
        if duplicates := duplicate_uuids(body):
            return ApiError(400, f"Duplicate node uuids in request: {join(duplicates)}", code=Code.API_DUPLICATE)
        return None

    # -- reads -------------------------------------------------------------------------------------------------------

    async def inventory(self, request: web.Request) -> web.StreamResponse:
        """``GET /nodes/``."""
        if request.query_string:
            return await self._filtered_inventory(request)
        held = self._cache.held("compact")
        if held is None:
            return await self._render(request, "compact", None, None, detailed=False)
        return _conditional(request, held)

    async def _filtered_inventory(self, request: web.Request) -> web.StreamResponse:
        detailed = _boolean(request, "detailed")
        hotkey, model = _last(request, "hotkey") or None, _last(request, "model") or None
        miner = None
        if hotkey is not None:
            try:
                miner = ss58_decode(hotkey)
            except ValueError:
                return _conditional(request, rendered(b"{}", bytes(32), "empty"))
        if model is not None and len(model) > IDENTIFIER_CHARS_MAX:
            return _conditional(request, rendered(b"{}", bytes(32), "empty"))
        return await self._render(request, "detailed" if detailed else "compact", miner, model, detailed=detailed)

    async def _render(
        self, request: web.Request, view: str, miner: bytes | None, model: str | None, *, detailed: bool
    ) -> web.StreamResponse:
        query = (
            view if miner is None and model is None else f"{view}:{'' if miner is None else miner.hex()}:{model or ''}"
        )
        held = self._cache.held(query)
        if held is not None:
            return await _answer(request, held)
        unread = rendered(b"", self._db.state.state_root, query)
        if _is_known(request, unread):
            return _conditional(request, unread)
        address = self.limit_address(request)  # every other query string is another read of the database

        async def render() -> Content:
            if not detailed:
                return views.compact(await self._db.totals(miner, model))
            details = await self._db.details(miner, model)
            whole = sum(detail.gpus for detail in details) <= GPUS_HELD_MAX
            return b"".join(views.detailed(details)) if whole else details

        place = self._lists.take(
            address, "lists", most=LISTS_MAX, most_each=LISTS_PER_ADDRESS_MAX, retry_s=LISTS_RETRY_S
        )
        with ExitStack() as stack:
            everybodys = detailed and miner is None and self._db.state.nodes > GPUS_HELD_MAX
            if everybodys:  # what it is rendered from takes a while to read, too
                stack.enter_context(place)
            answer = await self._cache.compute(query, render)
            if isinstance(answer.body, bytes) or _is_known(request, answer):
                return await _answer(request, answer)
            if not everybodys:
                stack.enter_context(place)
            pieces = batched(views.detailed(answer.body), PIECES_PER_PART)
            return await _send_parts(request, answer.headers, map(b"".join, pieces))

    async def supported(self, request: web.Request) -> web.StreamResponse:
        """``GET /nodes/supported``."""
        return _conditional(request, self._supported)

    async def verification_status(self, request: web.Request) -> web.StreamResponse:
        """``GET /nodes/verification_status``."""
        self._limit(request)
        signed = self._authenticate(request, [PURPOSE_STATUS])
        task_id = _last(request, "task_id")
        if task_id is None:
            raise missing(("query", "task_id"))
        owner, *rest = task_id.split("::")
        if len(rest) != 1 or owner != signed.address:
            raise ApiError(401, "go away", code=Code.API_FOREIGN_TASK)
        task = _task(rest[0])
        status = None if task is None else await self._db.task_status(signed.hotkey, task)
        return bytes_response(200, views.task_state(status))

    async def own_nodes(self, request: web.Request) -> web.StreamResponse:
        """``GET /miner/nodes/``."""
        self._limit(request)
        signed = self._authenticate(request, [PURPOSE_MINER])
        place = self._own_lists.take(
            signed.address,
            "lists",
            most=OWN_LISTS_MAX,
            most_each=OWN_LISTS_PER_HOTKEY_MAX,
            retry_s=LISTS_RETRY_S,
            client_is="hotkey",
        )
        with place:
            return await self._send_own_nodes(request, signed.hotkey)

    async def _send_own_nodes(self, request: web.Request, miner: bytes) -> web.StreamResponse:
        owned = await self._db.owned(miner)
        response = web.StreamResponse(headers=EVENT_STREAM_HEADERS)
        try:
            await response.prepare(request)
            for part in batched(owned, OWN_CLAIMS_PER_PART):
                claims = await self._db.stored_claims([key for key, _ in part])
                content = b"".join(
                    views.own_nodes(claim, uuids, self._table)
                    for key, uuids in part
                    # One that lost all meanwhile may be forgotten, and another have its key.
                    if (claim := claims.get(key)) is not None and claim.miner == miner
                )
                await send_part(request, response, content)
        except ConnectionError:  # the client went away, or stopped reading
            pass
        except StoreError as error:  # half a list must not look like a whole one
            log.error("list_cut", error=str(error), code=Code.API_CUT)
            cut(request)
        return response

    # -- about the daemon --------------------------------------------------------------------------------------------

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        """``GET /healthz``."""
        return json_response(200, {"status": "ok"})

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """``GET /readyz``."""
        reasons = list(self._readiness())
        codes = list(dict.fromkeys(code_of(reason, Code.SYSTEM_FAILED) for reason in reasons))
        answer = {"ready": not reasons, "reasons": reasons, "codes": codes, "behind": self._behind()}
        return json_response(503 if reasons else 200, answer)

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        """``GET /openapi.json``."""
        return bytes_response(200, self._openapi)

    async def docs(self, request: web.Request) -> web.StreamResponse:
        """``GET /docs``."""
        return bytes_response(200, self._docs, openapi.DOCS_HEADERS)

    # -- shared ------------------------------------------------------------------------------------------------------

    def _limit(self, request: web.Request) -> None:
        """Refuse who asks too much. A hotkey pays once for each signature that holds: no stranger can use up its limit.

        Whoever repeats what it signed (every peer can: events carry it) pays by address alone.
        """
        self.limit_address(request)
        hotkey = request.headers.get(auth.HOTKEY)
        if hotkey is not None and (wait_s := self._per_hotkey.wait_s(hotkey, self._now())):
            raise _limited("hotkey", wait_s)

    def limit_address(self, request: web.Request) -> str:
        """Refuse an address that asks too much; the key of those that don't."""
        address = client_address(
            request.remote, request.headers.getall("X-Forwarded-For", ()), self._settings.trusted_proxies
        )
        if wait_s := self._per_address.take(address, self._now()):
            raise _limited("address", wait_s)
        return address

    def _require_writes(self) -> None:
        if self._never is not None:
            raise WritesRefusedError(self._never)

    def _authenticate(self, request: web.Request, tails: Sequence[str], likely: str | None = None) -> auth.Signed:
        now_s = self._now()
        signed = auth.authenticate(
            request.headers,
            tails,
            now_s=now_s,
            electorate=self._db.electorate,
            netuid=self._network.netuid,
            likely=likely,
        )
        if signed.signature not in self._paid:
            if wait_s := self._per_hotkey.take(signed.address, now_s):
                raise _limited("hotkey", wait_s)
            self._paid[signed.signature] = None
            if len(self._paid) > SIGNATURES_KEPT:
                del self._paid[next(iter(self._paid))]
        return signed


def create_app(
    db: Inventory,
    network: Network,
    settings: ApiSettings,
    *,
    now: Callable[[], float],
    readiness: Callable[[], Sequence[str]],
    behind: Callable[[], int] = int,
    resolver: Resolver = system_resolver,
    gossip: Handler | None = None,
    refusal: str | None = None,
    elsewhere: Callable[[], Sequence[str]] = tuple,
    answered: Answered | None = None,
) -> web.Application:
    """Build the public application; serve it with ``inbound.make_runner``.

    Args:
        db: The local inventory.
        network: Its parameters.
        settings: What the operator chose.
        now: Wall clock, Unix seconds.
        readiness: Reasons why the daemon is not ready; empty when it is.
        behind: How many events a peer is known to hold that this daemon lacks.
        resolver: Looks up verification hosts.
        gossip: Handler of the peers' WebSocket at GOSSIP_PATH.
        refusal: Why this daemon never takes writes, for an observer; they are answered 503 once they are authenticated.
        elsewhere: Base URLs of other validators, see ``referrals``, for writes that are answered 503.
        answered: Hears what became of each request; see ``measure.measuring``.

    Returns:
        The application; whoever commits to ``db`` tells it so by ``app[EVENTS_KEY].committed``.

    Raises:
        ConfigError: The deny-list cannot be read.
    """
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[answer_errors])
    app[STORE_FAILURES_KEY] = store_failures()
    app[ELSEWHERE_KEY] = elsewhere
    denied = DenyList(settings.deny_file)
    app.cleanup_ctx.append(denied.watch)
    api = NodesApi(
        db,
        network,
        settings,
        now=now,
        readiness=readiness,
        behind=behind,
        resolver=resolver,
        denied=denied,
        refusal=refusal,
    )
    events = NodeEvents(db, limit=api.limit_address)
    app[EVENTS_KEY] = events
    app.on_shutdown.append(events.stop)
    if settings.upstream is not None:
        upstream = Upstream(settings.upstream, trusted_proxies=settings.trusted_proxies, limit=api.limit_address)
        app.cleanup_ctx.append(upstream.session)
        app.middlewares.append(passing_on(upstream))
    if settings.cors_origins:
        allow_origins(app, settings.cors_origins)
    if answered is not None:
        app.middlewares.insert(0, measuring(answered, upstream=settings.upstream is not None))
    app.add_routes(
        [
            web.get("/nodes/", _loaded(db, while_open(api.inventory)), allow_head=False),
            web.post("/nodes/", _loaded(db, api.add), expect_handler=_expect),
            web.get("/nodes/supported", api.supported, allow_head=False),
            web.get("/nodes/verification_status", _loaded(db, while_open(api.verification_status)), allow_head=False),
            web.get("/nodes/events", _loaded(db, while_open(events.handle)), allow_head=False),
            web.get("/miner/nodes/", _loaded(db, while_open(api.own_nodes)), allow_head=False),
            web.delete(f"/nodes/{_NODE_ID}", _loaded(db, api.delete)),
            web.get("/healthz", api.healthz, allow_head=False),
            web.get("/readyz", api.readyz, allow_head=False),
            web.get("/openapi.json", api.openapi, allow_head=False),
            web.get("/docs", api.docs, allow_head=False),
            web.route("*", "/nodes", _other_slash),
            web.route("*", "/nodes/supported/", _other_slash),
            web.route("*", "/nodes/verification_status/", _other_slash),
            web.route("*", "/nodes/events/", _other_slash),
            web.route("*", f"/nodes/{_NODE_ID}/", _other_slash),
            web.route("*", "/miner/nodes", _other_slash),
            *([] if gossip is None else [web.get(GOSSIP_PATH, gossip, allow_head=False)]),
        ]
    )
    return app


def _loaded(db: Inventory, handler: Handler) -> Handler:
    """A handler that answers 503 while the inventory itself comes from peers: what is here meanwhile was never true."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if db.state.loading:
            raise ApiError(
                503,
                "This daemon loads the inventory from its peers; ask again later, or another daemon.",
                {hdrs.RETRY_AFTER: str(LOADING_RETRY_S)},
                code=Code.WRITES_LOADING,
            )
        return await handler(request)

    return answer


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answer ``Expect: 100-continue``: a body that is too large need not be sent at all."""
    if request.version < HttpVersion11:
        return None  # RFC 9110, 10.1.1: such an expectation is ignored
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        return json_response(417, {"detail": "Expectation Failed"})
    if (request.content_length or 0) > BODY_BYTES_MAX:
        return render(too_large(BODY_BYTES_MAX))
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # What was written is no part of the answer: with it counted, an error could not be answered any more.
    request.writer.output_size = 0
    return None


async def _other_slash(request: web.Request) -> web.StreamResponse:
    """307 to the same path with or without its last slash."""
    path = request.rel_url.raw_path
    other = path[:-1] if path.endswith("/") else f"{path}/"
    query = f"?{request.rel_url.raw_query_string}" if request.query_string else ""
    return web.Response(status=307, headers={**JSON_HEADERS, hdrs.LOCATION: f"{other}{query}"})


def _limited(what: str, wait_s: float) -> ApiError:
    seconds = max(1, math.ceil(wait_s))
    return ApiError(
        429,
        f"Too many requests from this {what}: try again in {seconds} s",
        {hdrs.RETRY_AFTER: str(seconds)},
        code=Code.API_RATE,
    )


def _is_known(request: web.Request, answer: Rendered) -> bool:
    """Whether the client has the answer already (RFC 9110, 13.1.2: weak comparison)."""
    if answer.etag is None or hdrs.IF_NONE_MATCH not in request.headers:
        return False
    return any(tag.value in (answer.etag, "*") for tag in request.if_none_match or ())


def _conditional(request: web.Request, answer: Rendered) -> web.Response:
    """The answer, or 304 if the client has it already."""
    if _is_known(request, answer):
        headers = {name: value for name, value in answer.headers.items() if name != hdrs.CONTENT_TYPE}
        return web.Response(status=304, headers=headers)
    return web.Response(body=answer.body, headers=answer.headers)


async def _answer(request: web.Request, answer: Rendered) -> web.StreamResponse:
    """The same; a large body in parts, so that who does not read it costs one of them."""
    if isinstance(answer.body, bytes) and len(answer.body) > PART_BYTES and not _is_known(request, answer):
        return await _send_parts(request, answer.headers, _slices(answer.body), len(answer.body))
    return _conditional(request, answer)


async def _send_parts(
    request: web.Request, headers: Mapping[str, str], parts: Iterable[bytes | memoryview], size_bytes: int | None = None
) -> web.StreamResponse:
    """Answer with a body part by part, each made when the client has read those before it."""
    response = web.StreamResponse(headers=headers)
    response.content_length = size_bytes
    try:
        await response.prepare(request)
        for part in parts:
            await send_part(request, response, part)
            await asyncio.sleep(0)  # a client that reads fast must not keep the others waiting
    except ConnectionError:  # the client went away, or stopped reading
        pass
    return response


def _slices(body: bytes) -> Iterator[memoryview]:
    """A body in parts of PART_BYTES."""
    view = memoryview(body)
    return (view[start : start + PART_BYTES] for start in range(0, len(body), PART_BYTES))


def _last(request: web.Request, name: str) -> str | None:
    """A query parameter; of several the last, as upstream takes it."""
    values = request.query.getall(name, ())
    return values[-1] if values else None


def _boolean(request: web.Request, name: str) -> bool:
    text = _last(request, name)
    if text is None:
        return False
    try:
        return _BOOLEAN.validate_python(text)
    except ValidationError as error:
        refused = invalid_values("query", error)
        assert not isinstance(refused.detail, str)
        raise ApiError(
            422, [{**entry, "loc": ("query", name)} for entry in refused.detail], code=Code.API_FORM
        ) from error


def _task(text: str) -> bytes | None:
    """The 16 bytes of a task id's hex, None when it is none that we ever gave out."""
    if len(text) != TASK_HEX_CHARS:
        return None
    try:
        task = bytes.fromhex(text)
    except ValueError:
        return None
    return task if task.hex() == text else None


def _parsed(request: web.Request, raw: bytes) -> Body | None:
    """What the pinned parser reads in a body; None when it finds a fault, which pydantic then tells in full."""
    if not _is_json(request):
        return None
    try:
        body = parse_body(raw)
    except InvalidBodyError:
        return None
    # Peers read a null server_name as an absent one, while upstream refuses it: pydantic shall look.
    return None if body.server_name is None and b'"server_name"' in raw else body


def _is_json(request: web.Request) -> bool:
    # An empty one is none, as upstream takes it.
    kind = request.content_type if request.headers.get(hdrs.CONTENT_TYPE) else "application/json"
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _decode(request: web.Request, raw: bytes) -> Any:
    """The body's JSON value. Like upstream, a body under another content type is a text, whatever it holds."""
    if not raw:
        return None
    if not _is_json(request):
        return raw.decode("utf-8", "replace")
    try:
        return parse_json(raw)
    except JSONDecodeError as error:
        raise invalid_json(error.pos, error.msg) from error
    except UnicodeDecodeError as error:
        raise invalid_json(error.start, f"not UTF-8: {error.reason}") from error
    except ValueError as error:  # NaN, a number of thousands of digits, nesting
        raise invalid_json(0, str(error)) from error


def _validate(value: Any) -> Body:
    """The body that a JSON value means, by pydantic for the list of errors and by the pinned parser for good."""
    if value is None:
        raise missing(("body",))
    try:
        MultiNodeArgs.model_validate(value, from_attributes=True)
    except ValidationError as error:
        raise invalid_values("body", error) from error
    try:
        return body_of(value)
    except InvalidBodyError as error:
        found = value
        for step in error.loc:
            found = found.get(step) if isinstance(found, dict) else found[step]
        raise ApiError(
            422,
            [field_error("value_error", ("body", *error.loc), f"Value error, {error}", found, {"error": str(error)})],
            code=Code.API_FORM,
        ) from error
