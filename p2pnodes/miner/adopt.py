"""Moving over: a miner's own nodes, as another API lists them, made into registrations that it can sign itself.

Rows of the central API carry no miner's signature, so only the miner can bring its GPUs over: it registers them again,
server by server. What is decided here needs no I/O: rows in, a plan out.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from p2pnodes.miner.client import without_nulls
from p2pnodes.model.claims import GPUS_PER_CLAIM_MAX, Node, body_of
from p2pnodes.model.errors import InvalidBodyError

_UNNAMED: Final = "?"


class Server(NamedTuple):
    """GPUs that are registered with one request, 1 to 10.

    Attributes:
        server_id: What the miner calls the server; None where the other API does not say.
        host: Verification host of its first GPU.
        nodes: Its GPUs, by device index.
    """

    server_id: str | None
    host: str
    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        """What to call it: its id, or its host."""
        return self.server_id if self.server_id is not None else self.host

    @property
    def uuids(self) -> list[str]:
        """Its GPUs."""
        return [node.uuid for node in self.nodes]

    def body(self) -> dict[str, Any]:
        """The body of ``POST /nodes/``: the fields of a request, nothing else that the other API knows."""
        body: dict[str, Any] = without_nulls(
            {"server_id": self.server_id, "nodes": [node._asdict() for node in self.nodes]}
        )
        return body


class Malformed(NamedTuple):
    """A row that cannot be registered.

    Attributes:
        uuid: Of the GPU, as far as the row tells; otherwise ``?``.
        reason: Why not.
    """

    uuid: str
    reason: str


class Plan(NamedTuple):
    """What is to be done.

    Attributes:
        servers: To be registered, in the order in which the other API lists their first GPUs.
        held: Uuids that need nothing, in the other API's order.
        malformed: Rows that are left out.
    """

    servers: tuple[Server, ...]
    held: tuple[str, ...]
    malformed: tuple[Malformed, ...]


def plan_adoption(rows: Iterable[Mapping[str, Any]], held: Collection[str], address: str) -> Plan:
    """Sort rows of ``GET /miner/nodes/`` into registrations.

    GPUs with one ``server_id`` are one server, those without one by their verification host; a server of more than 10
    GPUs is registered in parts, because no request may have more.

    Args:
        rows: As the other API lists them.
        held: Uuids that the daemons list for this miner already.
        address: The miner's hotkey, SS58: rows of another one are left out.
    """
    groups: dict[tuple[str | None, str], list[Node]] = {}
    present: list[str] = []
    malformed: list[Malformed] = []
    seen: set[str] = set()
    for row in rows:
        try:
            server_id, node = read_row(row, address)
        except InvalidBodyError as error:
            malformed.append(Malformed(_uuid_of(row), str(error)))
            continue
        if node.uuid in seen:
            malformed.append(Malformed(node.uuid, "is listed twice; the first row is taken"))
            continue
        seen.add(node.uuid)
        if node.uuid in held:
            present.append(node.uuid)
        else:
            key = (server_id, "" if server_id is not None else node.verification_host)
            groups.setdefault(key, []).append(node)
    return Plan(
        tuple(server for (server_id, _), nodes in groups.items() for server in _servers(server_id, nodes)),
        tuple(present),
        tuple(malformed),
    )


def read_row(row: Mapping[str, Any], address: str) -> tuple[str | None, Node]:
    """The server and the request fields of one row; its other columns are the other API's own.

    Raises:
        InvalidBodyError: A field is missing or not as daemons accept it, or the row is another miner's.
    """
    owner = row.get("miner_hotkey")
    if owner is not None and owner != address:
        raise InvalidBodyError(("miner_hotkey",), f"belongs to {owner!r:.80}, not to {address}")
    try:
        body = body_of({"server_id": row.get("server_id"), "nodes": [{name: row.get(name) for name in Node._fields}]})
    except InvalidBodyError as error:
        field = error.loc[-1] if error.loc else "row"
        found = "is missing" if row.get(str(field)) is None else f"is {row.get(str(field))!r:.80}"
        raise InvalidBodyError((field,), f"{field} {found}: {error}") from error
    return body.server_id, body.nodes[0]


def _servers(server_id: str | None, nodes: list[Node]) -> Iterable[Server]:
    ordered = sorted(nodes, key=lambda node: node.device_index)
    for first in range(0, len(ordered), GPUS_PER_CLAIM_MAX):
        part = tuple(ordered[first : first + GPUS_PER_CLAIM_MAX])
        yield Server(server_id, part[0].verification_host, part)


def _uuid_of(row: Mapping[str, Any]) -> str:
    uuid = row.get("uuid")
    return uuid[:64] if isinstance(uuid, str) and uuid else _UNNAMED
