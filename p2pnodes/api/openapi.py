"""The OpenAPI document, from the models that parse and describe the messages, and the page that shows it."""

import hashlib
from base64 import b64encode
from html import escape
from typing import Any, Final, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from p2pnodes import __version__
from p2pnodes.api import auth, schemas

_IDENTIFIER: Final = str.maketrans("/.", "__", "{}")
REF: Final = "#/components/schemas/{model}"

SS58: Final = "ss58"
"""Format of an address whose checksum must hold."""


class Answer(NamedTuple):
    """One possible answer: its description, the model of its body (or of each of its events) or None, its type."""

    description: str
    model: type[BaseModel] | None
    media: str = "application/json"


class Route(NamedTuple):
    """What the document says of one route."""

    method: str
    path: str
    summary: str
    description: str
    signed: str | None
    parameters: tuple[dict[str, Any], ...]
    body: type[BaseModel] | None
    answers: dict[int, Answer]


def _parameter(
    name: str, kind: str, description: str, place: str = "query", *, required: bool = False, shape: str | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": required,
        "description": description,
        "schema": {"type": kind} | ({} if shape is None else {"format": shape}),
    }


_ETAG = _parameter("If-None-Match", "string", "ETag of an earlier answer: 304 while nothing changed.", "header")
_EVENTS: Final = "text/event-stream"
_UNCHANGED = Answer("Nothing changed since the given ETag.", None)
_INVALID = Answer("A value is not as it must be.", schemas.ValidationProblem)
_UNSIGNED = Answer("Not signed by a registered hotkey; the detail says which check failed.", schemas.Problem)
_LIMITED = Answer("Too many requests; Retry-After says when to come back.", schemas.Problem)
_NO_READS = Answer("This peer's database cannot be read; Retry-After says when to come back.", schemas.Problem)
_NO_WRITES = Answer(
    "This peer takes no writes now, or never, as an observer; Retry-After says when to come back.", schemas.NoWrites
)

ROUTES: Final = (
    Route(
        "post",
        "/nodes/",
        "Register the GPUs of one server",
        "The same signed request again, on any peer, is the same registration. The same body signed anew finds it too, "
        "for 600 seconds, while it stands on all of these GPUs.",
        "the sha256 of the body, hex",
        (),
        schemas.MultiNodeArgs,
        {
            202: Answer("Accepted, or accepted before.", schemas.Registration),
            400: Answer("More than 10 GPUs, a host that is not public, or a GPU that is not as it should be.",
                        schemas.Problem),
            401: _UNSIGNED,
            408: Answer("The body did not arrive in time.", schemas.Problem),
            403: Answer("This peer's operator refuses the hotkey, and why.", schemas.Problem),
            409: Answer("GPUs are registered already, or the nonce is older than what is recorded.", schemas.Problem),
            413: Answer("The body is over 64 KiB.", schemas.Problem),
            422: _INVALID,
            429: Answer("Too many requests; GPUs that several hotkeys registered more than twice within 24 hours, or "
                        "one 256 times; or too many registrations that wait for their vote. Retry-After says when to "
                        "come back.", schemas.Problem),
            503: _NO_WRITES,
        },
    ),
    Route(
        "get",
        "/nodes/",
        "The inventory",
        "Counts per GPU model or, detailed, per miner. Unverified GPUs count.",
        None,
        (
            _parameter("detailed", "boolean", "Per miner, with what runs on the GPUs."),
            _parameter("hotkey", "string", "Only the GPUs of this miner (SS58)."),
            _parameter("model", "string", "Only this GPU identifier."),
            _ETAG,
        ),
        None,
        {200: Answer("The inventory; a long detailed one comes in chunks.", schemas.InventoryView), 304: _UNCHANGED,
         422: _INVALID, 429: _LIMITED,
         503: Answer("This peer's database cannot be read, or it sends as many long lists as it may; Retry-After says "
                     "when to come back.", schemas.Problem)},
    ),
    Route(
        "get",
        "/nodes/supported",
        "The GPU models that can be registered",
        "A name belongs to the first model whose expression it matches.",
        None,
        (_ETAG,),
        None,
        {200: Answer("The GPU table.", schemas.SupportedGpus), 304: _UNCHANGED},
    ),
    Route(
        "get",
        "/nodes/verification_status",
        "Where a registration stands",
        "A task that this peer has not heard of yet is pending.",
        "`graval`",
        (_parameter("task_id", "string", "As POST /nodes/ returned it.", required=True),),
        None,
        {200: Answer("The vote so far.", schemas.TaskState),
         401: _UNSIGNED, 422: _INVALID, 429: _LIMITED, 503: _NO_READS},
    ),
    Route(
        "get",
        "/nodes/events",
        "Changes of GPUs and registrations, as they happen",
        "Server-sent events. `reset` begins a snapshot: forget what you have. `node` and `claim` tell what there is, "
        "`snapshot_end` ends it. Then come `node` (new or changed), `node_deleted` and `claim` as they happen; an "
        "event tells a state, and may repeat what you know. Registrations that own no GPU are in the snapshot for as "
        "long as a verdict lives. A stream that is resumed by its last id at the same peer goes on where it was; "
        "elsewhere, or too late, it begins with `reset`. Verification hosts and the names of private chutes are left "
        "out.",
        None,
        (
            _parameter("hotkey", "string", "Only the GPUs and registrations of this miner (SS58).", shape=SS58),
            _parameter("last_event_id", "string", "Id of the last event that was received; the header goes before it."),
            _parameter("Last-Event-ID", "string", "Id of the last event that was received.", "header"),
        ),
        None,
        {200: Answer("The events; the data of each is one of these.", schemas.StreamEvent, _EVENTS),
         422: _INVALID,
         429: _LIMITED,
         503: Answer("Too many streams; Retry-After says when to come back.", schemas.Problem)},
    ),
    Route(
        "get",
        "/miner/nodes/",
        "Your own GPUs",
        "One server-sent event for each GPU, `data` alone, then the stream ends.",
        "`miner`",
        (),
        None,
        {200: Answer("The GPUs; the data of each event is one.", schemas.Node, _EVENTS),
         401: _UNSIGNED, 429: _LIMITED, 503: _NO_READS},
    ),
    Route(
        "delete",
        "/nodes/{node_id}",
        "Delete one GPU",
        "One signature over `nodes` deletes one GPU; one over `nodes:<uuid>` is good for that GPU only.",
        "`nodes`, or `nodes:<uuid>`",
        (_parameter("node_id", "string", "GPU uuid.", "path", required=True),),
        None,
        {
            200: Answer("Deleted.", schemas.Deleted),
            401: _UNSIGNED,
            404: Answer("No such GPU of this hotkey.", schemas.Problem),
            409: Answer("The nonce is older than the registration's.", schemas.Problem),
            429: _LIMITED,
            503: _NO_WRITES,
        },
    ),
    Route("get", "/healthz", "Whether the process answers", "", None, (), None,
          {200: Answer("It does.", schemas.Health)}),
    Route("get", "/readyz", "Whether the daemon does its work", "", None, (), None,
          {200: Answer("Ready.", schemas.Readiness), 503: Answer("Not ready, and why.", schemas.Readiness)}),
)  # fmt: skip


def _event(schema: dict[str, Any]) -> dict[str, Any]:
    """Schema of each server-sent event whose data are JSON of some schema, as OpenAPI 3.2 has it for ``itemSchema``."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    return {"type": "object", "required": ["data"], "properties": {"data": data}}


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    models = {route.body for route in ROUTES} | {a.model for route in ROUTES for a in route.answers.values()}
    named = sorted((model for model in models if model is not None), key=lambda model: model.__name__)
    references, definitions = models_json_schema([(model, "validation") for model in named], ref_template=REF)

    def content(model: type[BaseModel], media: str = "application/json") -> dict[str, Any]:
        schema = references[model, "validation"]
        return {media: {"schema": _event(schema) if media == _EVENTS else schema}}

    paths: dict[str, Any] = {}
    for route in ROUTES:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "operationId": f"{route.method}_{route.path.strip('/').translate(_IDENTIFIER)}",
            "parameters": [*route.parameters, *(_signature(route.signed) if route.signed else ())],
            "responses": {
                str(status): {"description": answer.description}
                | ({"content": content(answer.model, answer.media)} if answer.model else {})
                for status, answer in route.answers.items()
            },
        }
        if route.description:
            operation["description"] = route.description
        if route.body is not None:
            operation["requestBody"] = {"required": True, "content": content(route.body)}
        paths.setdefault(route.path, {})[route.method] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "p2pnodes",
            "version": __version__,
            "description": "The GPU inventory of a Bittensor subnet, kept by its validators together.",
        },
        "paths": paths,
        "components": {"schemas": definitions["$defs"]},
    }


def _signature(tail: str) -> tuple[dict[str, Any], ...]:
    return (
        _parameter(auth.HOTKEY, "string", "SS58 address of the miner's hotkey.", "header", required=True),
        _parameter(auth.NONCE, "string", "Unix seconds, within 600 seconds of now.", "header", required=True),
        _parameter(
            auth.SIGNATURE,
            "string",
            f"Hex of the hotkey's sr25519 signature over `hotkey:nonce:tail`; tail: {tail}.",
            "header",
            required=True,
        ),
    )


_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#222;background:#fff}"
    "h2{margin:2.5rem 0 .5rem;font-size:1.1rem}code{font-family:ui-monospace,monospace}"
    ".m{display:inline-block;min-width:4.5rem;text-transform:uppercase;color:#0a5}"
    "table{border-collapse:collapse;margin:.5rem 0}td{border-top:1px solid #ddd;padding:.25rem 1rem .25rem 0;"
    "vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}td{border-color:#333}.m{color:#5d9}}"
)

DOCS_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
        f"{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
    ),
    "Referrer-Policy": "no-referrer",
}


def page(openapi: dict[str, Any]) -> bytes:
    """The page at /docs: no script, nothing from another host."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(openapi['info']['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(openapi['info']['title'])} {escape(openapi['info']['version'])}</h1>",
        f"<p>{escape(openapi['info']['description'])} ",
        "<a href='/openapi.json'>/openapi.json</a> has every field.</p>",
    ]
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            parts.append(
                f"<h2><span class=m>{escape(method)}</span> <code>{escape(path)}</code> "
                f"{escape(operation['summary'])}</h2><p>{escape(operation.get('description', ''))}</p>"
            )
            rows = [(p["name"], f"{p['in']}: {p['description']}") for p in operation["parameters"]]
            rows += [(status, answer["description"]) for status, answer in operation["responses"].items()]
            parts.append("<table>")
            parts += [f"<tr><td><code>{escape(key)}</code><td>{escape(text)}" for key, text in rows]
            parts.append("</table>")
    return "".join(parts).encode()
