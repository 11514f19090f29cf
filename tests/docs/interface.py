"""The page of both HTTP interfaces: the public one from its OpenAPI document, the operator's from the table here."""

from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry

from p2pnodes.api.admin import BODY_BYTES_MAX, ROWS_DEFAULT, ROWS_MAX, TCP_CONNECTIONS_MAX, create_admin_app
from p2pnodes.api.app import GOSSIP_PATH
from p2pnodes.api.browser import TCP_LOOKS_MAX
from p2pnodes.api.console import ROOT as CONSOLE
from p2pnodes.api.openapi import document
from p2pnodes.api.tail import TAILS_MAX, TCP_TAILS_MAX
from tests.fake_daemon import FakeDaemon

_HEAD: Final = """# The HTTP interfaces

Written by `python -m tests.pages` from the OpenAPI document and from the routes of the operator's interface.

A daemon has two. The **public** one serves miners and peers at `[http] host` and `port`, and may be put on the Internet
behind a reverse proxy. The **operator's** one is served on a Unix socket, and to read on loopback, never in public.

## Public

Every daemon describes it: `/openapi.json` has every field, `/docs` is that as a page without any foreign host. The five
`/nodes` routes answer as the central API does, so that its clients work unchanged; `/nodes/events` and the probes are
p2pnodes' own. What a later release adds are routes, parameters and members: ignore members that you do not know. Errors
are `{"detail": ...}` with a status of 4xx or 5xx, and a code in the header `P2PNodes-Code` ([codes.md](codes.md)).

```sh until="devnet ready"
p2pnodes devnet --dir /tmp/devnet
```

```sh
curl -s http://127.0.0.1:8100/readyz
curl -s 'http://127.0.0.1:8100/nodes/?detailed=true'
curl -s http://127.0.0.1:8100/openapi.json > /tmp/openapi.json
```

**Signed requests** carry three headers: `X-Chutes-Hotkey` (the miner's SS58 address), `X-Chutes-Nonce` (Unix seconds,
within 600 seconds of the daemon's clock) and `X-Chutes-Signature`: the sr25519 signature, in hex, over
`hotkey:nonce:tail`, where the tail is named with each route. `p2pnodes miner` and the Python class
`p2pnodes.miner.MinerClient` sign for you.
"""

_GOSSIP: Final = f"""
### GET {GOSSIP_PATH}

The WebSocket of peers; [protocol.md](protocol.md) has all of it.
"""

_ADMIN_HEAD: Final = f"""
## Operator's

On the Unix socket `admin.sock` in the data directory (mode 0660: its owner and group), and to read on 127.0.0.1 where
`[admin] port` is set. On TCP the Host header must be localhost or 127.0.0.1, so that no web page of another name can
read it, and what changes something is refused. The commands for operators are clients of it; `--json` prints what it
answers.

```sh
curl -s --unix-socket /tmp/devnet/peer0/data/admin.sock http://localhost/status
curl -s --unix-socket /tmp/devnet/peer0/data/admin.sock 'http://localhost/events?kind=delegate&limit=2'
```

Lists take `limit` (1 to {ROWS_MAX:,}; {ROWS_DEFAULT} unless given) and the columns of their view as filters, each with
an exact value. Bodies are JSON of at most {BODY_BYTES_MAX // 1024} KiB; an unknown member is an error. Errors are
`{{"detail": ..., "code": ...}}` ([codes.md](codes.md)).

Any login of the machine can use TCP, so it has bounds of its own, and the Unix socket stays usable beside it. Of more
than {TCP_CONNECTIONS_MAX} connections the one that was quiet the longest is closed; more than {TCP_TAILS_MAX} event
streams (the socket: {TAILS_MAX}) or {TCP_LOOKS_MAX} looks through the inventory at once are answered 503.

| route | what it is |
| --- | --- |
"""

ADMIN: Final[Mapping[tuple[str, str], str]] = {
    ("GET", "/status"): "The daemon at a glance: `p2pnodes status --json`. Members may be added in any release.",
    ("GET", "/peers"): "Known peers with session, lag, traffic, and why there is no session.",
    ("GET", "/nodes"): (
        "Rows of the view `inventory`. Filters: `uuid`, `hotkey`, `claim_id`, `status`, `gpu_identifier`, `server_id`, "
        "`chute_id`."
    ),
    ("GET", "/nodes/{uuid}"): "Why a GPU has the row that it has: every claim on it, and why it stands or not.",
    ("GET", "/claims"): "Rows of the view `claims`. Filters: `claim_id`, `task_id`, `hotkey`, `status`.",
    ("GET", "/claims/{claim}"): (
        "Why a claim is where it is: votes with stake, what is missing, whose turn it is. By claim id, task id, or the "
        "32 hex digits of that."
    ),
    ("GET", "/verdicts"): "Rows of the view `verdicts`. Filters: `claim_id`, `validator`, `finding`, `method`.",
    ("GET", "/placements"): "Rows of the view `placements`. Filters: `uuid`, `claim_id`, `validator`.",
    ("GET", "/events"): (
        "Rows of the view `event_log`. Filters: `node_key`, `number`, `id`, `kind`, `author`, `state`; `after` a "
        "position; `newest_first`."
    ),
    ("GET", "/events/stream"): (
        "The same rows as they are stored, as server-sent events: `event: event`, `id:` the position, `data:` the row. "
        "Filters as for `/events`; `after` or the header `Last-Event-ID` resumes behind a position."
    ),
    ("GET", "/overview"): (
        "The daemon on one page: agreement with each peer, GPUs by model (null while they cannot be counted), and "
        "what of `/status` people look for."
    ),
    ("GET", "/electorate"): "Who votes, with which stake, and until when each validator's delegations hold.",
    ("GET", "/inventory"): (
        "Pages of the inventory, for people who look. `search`, `status`, `gpu_identifier`, `hotkey`, `server_id`, "
        "`chute_id`, `busy` filter; `sort`, `limit`; `after` and `before` as the page before gave them."
    ),
    ("GET", "/pending"): "Claims whose vote is open, the latest first, with whose turn it is. `limit`, `after`.",
    ("GET", "/forks"): "Every log that is known to end, each with its signed proof.",
    ("GET", "/proof/{uuid}"): "A proof that a GPU was registered and verified ([proof.md](proof.md)).",
    ("GET", "/keys/request"): "What the hotkey is to sign next where it is kept; `days` as for `keys request`.",
    ("GET", "/log"): "From which level on the daemon logs, and until when.",
    ("GET", "/bans"): "Who is refused for a while, why, and by whom.",
    ("GET", "/metrics"): "Prometheus text ([metrics.md](metrics.md)).",
    ("GET", "/healthz"): "Whether the process answers.",
    ("POST", "/place"): (
        "A chute runs on GPUs. `uuids`, `chute_id`, `instance_id`, `verified`, `private`; `name` and `username` unless "
        "private."
    ),
    ("POST", "/release"): "What this validator placed on GPUs runs there no more. `uuids`.",
    ("POST", "/verify"): "Check a claim now and vote. `claim_id`: in any form that `/claims/{claim}` takes.",
    ("POST", "/log"): "Log from another level on, for a while: `p2pnodes logs level`. `level`, `logger`, `for_s`.",
    ("POST", "/bans"): "Refuse a peer for a while. `key` (hotkey or node key), `reason`, `for_s`.",
    ("POST", "/bans/lift"): "End a peer's bans. `key`.",
    ("POST", "/keys/rotate"): "Replace the node key; the old log stays good up to its end. No body.",
    ("POST", "/keys/revoke"): (
        "Close a log behind its last good event. `log` (node key/number; the own one unless given), `last` (seq, "
        "-1 for none; the last that counts unless given)."
    ),
    ("POST", "/keys/close"): "Publish a closing that `keys close` signed elsewhere: the file's content as the body.",
}
"""Method and path of each route of the operator's interface -> what it is, with its parameters."""


_CONSOLE: Final = f"""
The **console** is the same for people: pages under `{CONSOLE}/` that show what these routes answer, and load
nothing from another host. They are not kept stable: {{routes}}.
"""


def page() -> str:
    """The page as it should be."""
    openapi = document()
    parts = [_HEAD]
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(method.upper(), path, operation))
    parts += [_GOSSIP, "\n### Bodies\n"]
    parts += [_model(name, schema) for name, schema in openapi["components"]["schemas"].items()]
    rows = (f"| `{method} {path}` | {text} |\n" for (method, path), text in ADMIN.items())
    console = ", ".join(f"`{path}`" for route in sorted(admin_routes()) if is_console(route) for path in route[1:])
    return "".join([*parts, _ADMIN_HEAD, *rows, _CONSOLE.format(routes=console)])


def is_console(route: tuple[str, str]) -> bool:
    """Whether a method and a path are those of a page of the console."""
    method, path = route
    return method == "GET" and (path in {"/", CONSOLE} or path.startswith(f"{CONSOLE}/"))


def admin_routes() -> set[tuple[str, str]]:
    """Method and path of each route of the operator's interface."""
    app = create_admin_app(FakeDaemon(), CollectorRegistry())
    return {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    lines = [f"\n### {method} {path}\n\n{operation['summary']}. {operation.get('description', '')}".rstrip() + "\n"]
    if body := operation.get("requestBody"):
        lines.append(f"\nBody: {_reference(body['content'])}.\n")
    if parameters := operation["parameters"]:
        lines.append("\n| parameter | in | meaning |\n| --- | --- | --- |\n")
        lines += [
            f"| `{each['name']}`{' (required)' if each.get('required') else ''} | {each['in']} | "
            f"{_cell(each['description'])} |\n"
            for each in parameters
        ]
    lines.append("\n| status | meaning | body |\n| --- | --- | --- |\n")
    for status, answer in operation["responses"].items():
        lines.append(f"| {status} | {_cell(answer['description'])} | {_reference(answer.get('content', {}))} |\n")
    return "".join(lines)


def _reference(content: Mapping[str, Any]) -> str:
    return ", ".join(_type(value["schema"]) for value in content.values())


def _model(name: str, schema: Mapping[str, Any]) -> str:
    lines = [f"\n#### {name}\n\n{schema.get('description', '')}\n"]
    required = set(schema.get("required", ()))
    if properties := schema.get("properties"):
        lines.append("\n| member | type | meaning |\n| --- | --- | --- |\n")
        lines += [
            f"| `{member}`{'' if member in required else ' (may be absent)'} | {_type(each)} | "
            f"{_cell(each.get('description', ''))} |\n"
            for member, each in properties.items()
        ]
    else:
        lines.append(f"\n{_type(schema)}\n")
    return "".join(lines)


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words; that of a server-sent event in those of its data."""
    if data := schema.get("properties", {}).get("data", {}).get("contentSchema"):
        return _type(data)
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if alternatives := schema.get("anyOf"):
        return " or ".join(_type(each) for each in alternatives)
    if "const" in schema:
        return f"`{schema['const']}`"
    if choices := schema.get("enum"):
        return ", ".join(f"`{each}`" for each in choices)
    match schema.get("type"):
        case "array":
            return f"array of {_type(schema['items'])}"
        case "object" if isinstance(more := schema.get("additionalProperties"), Mapping):
            return f"object of {_type(more)}"
        case str(name):
            return name
        case _:
            return "any"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
