"""docs/protocol.md is enough: what is written here from its text alone makes the golden vectors, byte by byte.

Nothing of ``p2pnodes`` is imported. sr25519 signatures are randomised, so they are taken from the vectors and checked.
"""

import json
from collections.abc import Callable
from hashlib import blake2b, sha256
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgpack
import pytest
import sr25519
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

FOLDER: Final = Path(__file__).parent
BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

x: Final = bytes.fromhex


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())
    assert found
    return found


# -- "Values", "Network", "Signatures" ---------------------------------------------------------------------------------


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def digest(data: bytes, size: int = 32) -> bytes:
    return blake2b(data, digest_size=size).digest()


def network_id(said: dict[str, Any]) -> bytes:
    shares = [round(said[share] * 1_000_000) for share in ("quorum", "min_share")]
    seconds = [said["verdict_ttl_s"], said["epoch_blocks"], said["horizon_s"]]
    parameters = [x(said["genesis_hash"]), said["netuid"], *shares, *seconds]
    return digest(pack(["p2pnodes network", *parameters]), 16)


def address(hotkey: bytes) -> str:
    data = b"\x2a" + hotkey
    value = int.from_bytes(data + digest(b"SS58PRE" + data, 64)[:2], "big")
    text = ""
    while value:
        value, digit = divmod(value, 58)
        text = BASE58[digit] + text
    return text


def signed(hotkey: bytes, message: bytes, signature: bytes) -> bool:
    forms = message, b"<Bytes>" + message + b"</Bytes>"
    return any(sr25519.verify(signature, form, hotkey) for form in forms)


def delegation_message(network: bytes, log: list[Any], fields: list[Any]) -> bytes:
    return b"p2pnodes delegation\n" + pack([network, *log, *fields])


def close_message(network: bytes, log: list[Any], head: list[Any] | None) -> bytes:
    return b"p2pnodes close\n" + pack([network, *log, head])


def request_message(hotkey: bytes, nonce: str, content: bytes | str) -> bytes:
    tail = sha256(content).hexdigest() if isinstance(content, bytes) else content
    return f"{address(hotkey)}:{nonce}:{tail}".encode()


# -- "Payloads": from the fields as the vectors show them, byte strings in hex -----------------------------------------


def head(shown: list[Any] | None) -> list[Any] | None:
    return None if shown is None else [shown[0], x(shown[1])]


def predecessor(shown: list[Any] | None) -> list[Any] | None:
    return None if shown is None else [x(shown[0]), shown[1], head(shown[2])]


def older_part(node: str, number: int, key: str, seq: int, last: str, *times: int) -> list[Any]:
    return [x(node), number, x(key), seq, x(last), *times]


PAYLOADS: Final[dict[str, Callable[..., list[Any]]]] = {
    "delegate": lambda key, url, low, high, before, sig: [x(key), url, low, high, predecessor(before), x(sig)],
    "close": lambda node, number, last, key, sig: [x(node), number, head(last), x(key), x(sig)],
    "add": lambda key, nonce, sig, body, block: [x(key), nonce, x(sig), x(body), block],
    "delete": lambda key, nonce, sig, why, uuid, ids: [x(key), nonce, x(sig), why, uuid, [x(one) for one in ids]],
    "carry": lambda events: [[x(event) for event in events]],
    "verdict": lambda claim, *rest: [x(claim), *rest],
    "renew": lambda method, claims: [method, [[x(claim), since] for claim, since in claims]],
    "place": lambda claim, *rest: [x(claim), *rest],
    "release": lambda claim, *rest: [x(claim), *rest],
    "evidence": lambda *four: [x(one) for one in four],
    "propose": lambda number, before, pins, parts: [number, x(before), x(pins), [older_part(*part) for part in parts]],
    "checkpoint": lambda number, proposal, leaves, slices, root: [number, x(proposal), leaves, slices, x(root)],
}


# -- "Frames": from the fields as the vectors show them ----------------------------------------------------------------


def mark(shown: list[Any] | None) -> list[Any] | None:
    return None if shown is None else [shown[0], head(shown[1])]


FRAMES: Final[dict[str, Callable[..., list[Any]]]] = {
    "digest": lambda asks, clock, vector, root, weights, number: [
        1,
        asks,
        clock,
        x(vector),
        x(root),
        x(weights),
        number,
    ],
    "vector": lambda part, last, scope, logs: [
        *(2, part, last, x(scope)),
        [[*log_of(log), head(at), mark(end)] for log, at, end in logs],
    ],
    "want": lambda log, first, count, size: [3, *log_of(log), first, count, size],
    "range": lambda log, first, events: [4, *log_of(log), first, [x(event) for event in events]],
    "events": lambda events: [5, [x(event) for event in events]],
    "proofs": lambda proofs: [6, [[kind, *PAYLOADS[kind](*payload)] for kind, *payload in proofs]],
    "book": lambda logs: [7, [[*log_of(log), PAYLOADS["delegate"](*said)] for log, said in logs]],
    "link": lambda mode: [8, mode],
    "have": lambda news: [9, [[x(tag), seq, age] for tag, seq, age in news]],
    "slices": lambda slices: [10, [x(one) for one in slices]],
    "certificatewant": lambda number: [11, number],
    "certificateanswer": lambda number, certificate: [12, number, x(certificate)],
    "leaveswant": lambda number, place: [13, number, place],
    "leaves": lambda number, place, leaves, path: [
        *(14, number, place),
        [[mask, x(event)] for mask, event in leaves],
        [x(hashed) for hashed in path],
    ],
}


def log_of(shown: list[Any]) -> list[Any]:
    return [x(shown[0]), shown[1]]


def request_id(network: bytes, hotkey: bytes, nonce: str, signature: bytes, content: bytes | str) -> bytes:
    return digest(pack([network, hotkey, nonce, content, signature]))


# -- "Electorate", "State root" ----------------------------------------------------------------------------------------


def pin(said: dict[str, Any]) -> list[Any]:
    lists = ([[x(key), value] for key, value in said[name].items()] for name in ("validators", "registered"))
    return [said["block"], said["time_ms"], *(sorted(pairs) for pairs in lists)]


def state_root(rows: list[list[Any]]) -> bytes:
    buckets: list[list[tuple[bytes, bytes]]] = [[] for _ in range(65_536)]
    for row in rows:
        uuid = row[0].encode()
        buckets[int.from_bytes(digest(uuid, 16)[:2], "big")].append((uuid, digest(pack(row))))
    hashes = [digest(b"".join(each for _, each in sorted(bucket))) if bucket else bytes(32) for bucket in buckets]
    groups = [hashes[first : first + 256] for first in range(0, 65_536, 256)]
    return digest(b"".join(digest(b"".join(group)) if any(map(any, group)) else bytes(32) for group in groups))


# -- "Rows" ------------------------------------------------------------------------------------------------------------


Log = tuple[bytes, int]


class Ends:
    """Where logs end, by the valid events; of each log one branch is held."""

    def __init__(self, wires: list[bytes]) -> None:
        self.ids: dict[Log, dict[int, bytes]] = {}
        self.forks: dict[Log, int] = {}
        self.closings: dict[Log, tuple[int, bytes]] = {}
        said = [
            (msgpack.unpackb(header), digest(header), msgpack.unpackb(packed)) for header, packed in map(split, wires)
        ]
        authors: dict[Log, bytes] = {}
        for (_, _, node_key, number, seq, *_), event_id, payload in said:
            authors.setdefault((node_key, number), payload[0])
            self.ids.setdefault((node_key, number), {})[seq] = event_id
        for (*_, kind, _), _, payload in said:
            if kind == "evidence":
                node_key, number, seq = msgpack.unpackb(payload[0])[2:5]
                self.forks[node_key, number] = min(seq, self.forks.get((node_key, number), seq))
            elif kind == "close" and payload[3] == authors[payload[0], payload[1]]:
                log, found = (payload[0], payload[1]), (payload[2][0] + 1, payload[2][1]) if payload[2] else (0, b"")
                self.closings[log] = min(found, self.closings.get(log, found))

    def mark(self, log: Log) -> list[Any] | None:
        fork, close = self.forks.get(log), self.closings.get(log)
        return None if fork is None and close is None else [fork, close and list(close)]

    def cut(self, log: Log) -> int:
        good, last = self.closings.get(log, (1 << 63, b""))
        held = self.ids[log].get(good - 1)
        return min(self.forks.get(log, 1 << 63), good if held in (None, last) else good - 1)


def split(wire: bytes) -> tuple[bytes, bytes]:
    header, _, packed = msgpack.unpackb(wire)
    return header, packed


Claim = tuple[bytes, bytes, int]
"""Id, miner and nonce."""


def endings(network: bytes, deletes: list[list[Any]], uuid: str, stamped: Claim) -> dict[bytes, int]:
    """Ids and nonces of the delete requests that end a claim on a GPU."""
    claim, miner, nonce = stamped
    carried: dict[bytes, list[list[Any]]] = {}
    for payload in deletes:
        carried.setdefault(request_id(network, *payload[:4]), []).append(payload)
    found: dict[bytes, int] = {}
    for request, said in carried.items():
        naming = [payload for payload in said if payload[4] == uuid]
        if not naming or naming[0][0] != miner or (naming[0][3] == "nodes" and len(naming) < len(said)):
            continue
        at = int(naming[0][1])
        if at > nonce or (at == nonce and all(claim in payload[5] for payload in naming)):
            found[request] = at
    return found


class Inventory:
    """The rows of valid events, none of which is a carry, under an electorate; default quorum, share and ttl."""

    QUORUM, MIN_SHARE, TTL_MS = 500_000, 200_000, 86_400_000

    def __init__(self, wires: list[bytes], pins: list[dict[str, Any]]) -> None:
        current, before = map(pin, pins)
        self.block, self.time, permits, registered = current
        self.stakes: dict[bytes, int] = dict(before[2]) | dict(permits)
        self.registered: dict[bytes, int] = dict(registered)
        authors: dict[Log, bytes] = {}
        ends = Ends(wires)
        self.said: list[tuple[bytes, Log, int, str, list[Any]]] = []
        for header, packed in map(split, wires):
            _, network, node_key, number, seq, _, hlc, kind, _ = msgpack.unpackb(header)
            log, payload = (node_key, number), msgpack.unpackb(packed)
            author = authors.setdefault(log, payload[0])
            if author in self.stakes and seq < ends.cut(log):
                self.said.append((author, log, hlc, kind, payload))
            self.network = network
        self.enrolled = {key: stake for key, stake in self.stakes.items() if self._live(key)}
        self.total = sum(self.enrolled.values())

    def of(self, *kinds: str) -> list[tuple[bytes, Log, int, str, list[Any]]]:
        return [said for said in self.said if said[3] in kinds]

    def _live(self, hotkey: bytes) -> bool:
        latest = {log: payload for author, log, _, _, payload in self.of("delegate") if author == hotkey}
        return any(1000 * payload[2] <= self.time <= 1000 * payload[3] for payload in latest.values())

    def _young(self, hotkey: bytes) -> bool:
        first = min(hlc for author, _, hlc, _, _ in self.of("delegate") if author == hotkey)
        return bool(self.time - (first >> 16) < self.TTL_MS)

    def vote(self, claim: bytes) -> tuple[str, int | None, str]:
        cast: dict[bytes, tuple[Any, ...]] = {}
        verdicts = [(author, hlc, payload) for author, _, hlc, _, payload in self.of("verdict")]
        for author, _, hlc, _, (by, claims) in self.of("renew"):
            verdicts += [(author, hlc, [named, "verified", by, "", began]) for named, began in claims]
        for author, hlc, (about, finding, method, detail, since) in verdicts:
            if about == claim and author in self.enrolled:
                said = hlc, finding, since or 0, method, detail
                cast[author] = max(said, cast.get(author, said))
        live = {author: said for author, said in cast.items() if said[0] >> 16 >= self.time - self.TTL_MS}
        absent = {key for key in self.enrolled if key not in live and self._young(key)}
        absent |= {key for key, said in live.items() if said[1] == "abstain"}
        weighed = self.total - sum(self.enrolled[key] for key in absent)
        since = {key: said[2] for key, said in live.items() if said[1] == "verified"}
        failing = [key for key, said in live.items() if said[1] == "failed"]
        yes, no = (sum(self.enrolled[key] for key in keys) * 1_000_000 for keys in (since, failing))
        if yes > self.QUORUM * weighed and yes >= self.MIN_SHARE * self.total:
            for moment in sorted(since.values()):
                by_then = sum(self.enrolled[key] for key in since if since[key] <= moment)
                if by_then * 1_000_000 > self.QUORUM * weighed:
                    return "verified", moment, ""
        if no and no >= (1_000_000 - self.QUORUM) * weighed:
            return "failed", None, live[min(failing, key=lambda key: (-self.enrolled[key], key))][4]
        return "pending", None, ""

    def _ended(self, uuid: str, miner: bytes, nonce: int, claim: bytes) -> bool:
        return bool(endings(self.network, [said[4] for said in self.of("delete")], uuid, (claim, miner, nonce)))

    def _chute(self, uuid: str, claim: bytes) -> list[Any] | None:
        words: dict[bytes, tuple[int, bytes]] = {}
        for author, _, hlc, kind, (about, uuids, *chute) in self.of("place", "release"):
            if about == claim and uuid in uuids and author in self.enrolled:
                word = hlc, pack(chute) if kind == "place" else b""
                words[author] = max(word, words.get(author, word))
        places = [(*word, author) for author, word in words.items() if word[1]]
        return list(msgpack.unpackb(max(places)[1])) if places else None

    def rows(self) -> list[list[Any]]:
        carried: dict[bytes, list[tuple[int, int]]] = {}
        claims: dict[bytes, tuple[bytes, int, list[str]]] = {}
        for _, _, hlc, _, (miner, nonce, signature, body, block) in self.of("add"):
            claim = request_id(self.network, miner, nonce, signature, body)
            claims[claim] = miner, int(nonce), [node["uuid"] for node in json.loads(body)["nodes"]]
            if block <= self.block:
                carried.setdefault(claim, []).append((block, hlc))
        standing: dict[str, list[tuple[Any, ...]]] = {}
        for claim, carriages in carried.items():
            miner, nonce, uuids = claims[claim]
            if self.registered.get(miner, 1 << 64) > max(block for block, _ in carriages):
                continue
            status, since, detail = self.vote(claim)
            for uuid in uuids:
                if not self._ended(uuid, miner, nonce, claim):
                    rank = status != "verified", since or 0, nonce, claim
                    row = [claim, miner, status, min(hlc for _, hlc in carriages), since, detail]
                    standing.setdefault(uuid, []).append((rank, row))
        owners = {uuid: min(found)[1] for uuid, found in standing.items()}
        return [[uuid, *row, self._chute(uuid, row[0])] for uuid, row in sorted(owners.items())]


# -- "Checkpoints" -----------------------------------------------------------------------------------------------------


def tree_root(level: list[bytes]) -> bytes:
    while len(level) > 1:
        pairs = [digest(b"\1" + level[at] + level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0] if level else digest(b"")


Item = tuple[Log, int, int]
Said = tuple[Item, str, int, list[Any]]


class Before(NamedTuple):
    """The checkpoint in force: what it keeps, how far it goes in each log, h and the floor."""

    items: set[Item]
    last: dict[Log, int]
    horizon: int
    floor: int


class LiveSet:
    """What is kept of valid events below a cut, item by item."""

    def __init__(
        self,
        wires: list[bytes],
        pins: list[dict[str, Any]],
        older: list[list[Any]],
        floor: int,
        before: "Before | None" = None,
    ) -> None:
        current, earlier = map(pin, pins)
        self.block, self.floor, self.registered = current[0], floor, dict(current[3])
        self.readings = {*dict(earlier[2]), *dict(current[2])}, {part[2] for part in older}
        self.authors = {(part[0], part[1]): part[2] for part in older}
        last = {(part[0], part[1]): part[3] for part in older}
        self.said: list[Said] = []
        for wire in wires:
            _, self.network, node_key, number, seq, _, hlc, kind, _ = msgpack.unpackb(split(wire)[0])
            if seq <= last.get((node_key, number), -1):
                for at, (inner, inner_hlc, payload) in enumerate(self._items(wire, kind, hlc)):
                    self.said.append((((node_key, number), seq, at), inner, inner_hlc, payload))
        if before is not None:
            below = [said for said in self.said if said[0] in before.items]
            held = {request_id(self.network, *said[3][:4]) for said in below if said[1] in {"add", "delete"}}
            self.said = [said for said in self.said if said in below or self._counts(said, before, held)]

    def _counts(self, said: Said, before: "Before", held: set[bytes]) -> bool:
        """Whether what lies above the cut before counts, by the checkpoint in force."""
        (log, seq, _), kind, hlc, payload = said
        if seq <= before.last.get(log, -1):
            return False
        if kind in {"place", "release"}:
            return hlc >> 16 >= before.horizon
        if kind in {"add", "delete"}:
            return int(payload[1]) >= before.floor or request_id(self.network, *payload[:4]) in held
        return True

    @staticmethod
    def _items(wire: bytes, kind: str, hlc: int) -> list[tuple[str, int, list[Any]]]:
        payload = msgpack.unpackb(split(wire)[1])
        match kind:
            case "carry":
                parts = [
                    (msgpack.unpackb(header), msgpack.unpackb(packed)) for header, packed in map(split, payload[0])
                ]
                return [(header[7], header[6], packed) for header, packed in parts]
            case "place" | "release":
                return [(kind, hlc, [uuid, *payload]) for uuid in payload[1]]
        return [(kind, hlc, payload)]

    def of(self, kind: str, permits: set[bytes]) -> list[list[Any]]:
        return [
            payload for ((log, _, _), said, _, payload) in self.said if said == kind and self.authors[log] in permits
        ]

    def _claims(self, permits: set[bytes]) -> dict[Claim, list[str]]:
        """GPUs of what is carried and registered."""
        return {
            (request_id(self.network, *payload[:4]), payload[0], int(payload[1])): [
                node["uuid"] for node in json.loads(payload[3])["nodes"]
            ]
            for payload in self.of("add", permits)
            if self.registered.get(payload[0], 1 << 64) <= payload[4] <= self.block
        }

    def items(self) -> set[Item]:
        standing: set[tuple[str, bytes]] = set()
        counted: set[tuple[str, bytes]] = set()
        kept: dict[Claim, list[str]] = {}
        for permits in self.readings:
            deletes = self.of("delete", permits)
            for claim, uuids in self._claims(permits).items():
                counted |= {(uuid, claim[0]) for uuid in uuids}
                on = [uuid for uuid in uuids if not endings(self.network, deletes, uuid, claim)]
                standing |= {(uuid, claim[0]) for uuid in on}
                kept |= {claim: uuids} if on else {}
        requests: set[bytes] = set()
        for permits, (claim, uuids) in product(self.readings, kept.items()):
            for uuid in uuids:
                ends = endings(self.network, self.of("delete", permits), uuid, claim)
                requests |= {request for request, nonce in ends.items() if nonce == max(ends.values())}
        lasting = self._deleted(requests) | self._carried({claim for claim, _, _ in kept})
        lasting |= self._words(standing, counted)
        return lasting | self._delegations(lasting)

    def _delegations(self, lasting: set[Item]) -> set[Item]:
        """Of each log the first, the last, and the latest at each thing that is kept."""
        found: set[Item] = set()
        for log in self.authors:
            own = sorted(item for item, kind, _, _ in self.said if kind == "delegate" and item[0] == log)
            at = [own[-1], *(max(each for each in own if each < item) for item in lasting if item[0] == log)]
            found |= {own[0], *at}
        return found

    def _order(self, item: Item) -> tuple[int, Item]:
        """By which the youngest log comes first, and its items in order."""
        began = min(((said, hlc) for said, kind, hlc, _ in self.said if kind == "delegate" and said[0] == item[0]))[1]
        return -began, item

    def _deleted(self, requests: set[bytes]) -> set[Item]:
        """Of each author what it says of a delete request: one GPU and fewer and fewer claims, or two GPUs."""
        kept: dict[tuple[bytes, bytes], dict[Item, tuple[str, set[bytes]]]] = {}
        for item, kind, _, payload in sorted(self.said, key=lambda each: self._order(each[0])):
            request = request_id(self.network, *payload[:4]) if kind == "delete" else b""
            if kind != "delete" or (int(payload[1]) < self.floor and request not in requests):
                continue
            before = kept.setdefault((request, self.authors[item[0]]), {})
            uuids, listed = {uuid for uuid, _ in before.values()}, [claims for _, claims in before.values()]
            if len(uuids) < 2 and (payload[4] not in uuids or set.intersection(*listed) - set(payload[5])):
                before[item] = payload[4], set(payload[5])
        return {item for items in kept.values() for item in items}

    def _carried(self, claims: set[bytes]) -> set[Item]:
        """Of each author and claim the carriage with the lowest HLC, and the one with the highest block."""
        earliest: dict[tuple[bytes, bytes], tuple[int, Item]] = {}
        latest: dict[tuple[bytes, bytes], tuple[int, Item]] = {}
        for item, kind, hlc, payload in sorted(self.said, key=lambda each: self._order(each[0]), reverse=True):
            if kind != "add" or payload[4] > self.block:
                continue
            about = request_id(self.network, *payload[:4]), self.authors[item[0]]
            if about[0] in claims:
                if hlc <= earliest.get(about, (hlc, item))[0]:
                    earliest[about] = hlc, item
                if payload[4] >= latest.get(about, (0, item))[0]:
                    latest[about] = payload[4], item
        return {item for _, item in (*earliest.values(), *latest.values())}

    def _words(self, standing: set[tuple[str, bytes]], counted: set[tuple[str, bytes]]) -> set[Item]:
        since_ms = 1000 * max(0, self.floor - 600)
        words: dict[tuple[str, bytes, bytes], tuple[int, bytes, Item]] = {}
        # Of the same word in two logs, that of the lower one comes last.
        for item, kind, hlc, payload in sorted(self.said, reverse=True):
            if kind not in {"place", "release"}:
                continue
            claimed = payload[0], payload[1]
            if claimed in standing or (claimed not in counted and hlc >> 16 >= since_ms):
                about = *claimed, self.authors[item[0]]
                word = hlc, pack(payload[3:]) if kind == "place" else b"", item
                words[about] = word if about not in words or word[:2] >= words[about][:2] else words[about]
        return {item for _, chute, item in words.values() if chute}


def root_by_path(path: list[bytes], found: bytes, index: int, slices: int) -> bytes | None:
    rest = list(path)
    while slices > 1:
        if index % 2 or index + 1 < slices:
            if not rest:
                return None
            beside = rest.pop(0)
            found = digest(b"\1" + (beside + found if index % 2 else found + beside))
        index, slices = index // 2, (slices + 1) // 2
    return None if rest else found


def said_in(wire: bytes, network: bytes, kind: str) -> tuple[list[Any], list[Any], bytes] | None:
    """Header, payload and id of an event of a kind that its log signed."""
    header, signature, packed = msgpack.unpackb(wire)
    fields = msgpack.unpackb(header)
    try:
        VerifyKey(fields[2]).verify(header, signature)
    except BadSignatureError:
        return None
    if fields[1] != network or fields[7] != kind or fields[8] != digest(packed):
        return None
    return fields, msgpack.unpackb(packed), digest(header)


def certified(wire: bytes, network: bytes, horizon_s: int) -> list[Any] | None:
    """What a certificate proves; None for nothing. Default quorum."""
    proposal, pairs = msgpack.unpackb(wire)
    proposed = said_in(proposal, network, "propose")
    if proposed is None:
        return None
    _, (number, _, packed, logs), key = proposed
    now, before = msgpack.unpackb(packed)
    time, stakes = now[1], {**dict(before[2] if before else []), **dict(now[2])}
    horizon = time - 1000 * horizon_s
    if number != 7 * time // (1000 * horizon_s) or horizon <= 0 or any(log[5] >> 16 >= horizon for log in logs):
        return None
    weighing = {log[2] for log in logs if log[2] in stakes and 1000 * log[6] <= time <= 1000 * log[7]}
    signers: dict[bytes, set[bytes]] = {}
    for delegate, checkpoint in pairs:
        speaks, signs = said_in(delegate, network, "delegate"), said_in(checkpoint, network, "checkpoint")
        if speaks is None or signs is None or speaks[0][2:4] != signs[0][2:4] or signs[1][:2] != [number, key]:
            return None
        *fields, signature = speaks[1]
        window = range(1000 * fields[2], 1000 * fields[3] + 1)
        if not signed(fields[0], delegation_message(network, speaks[0][2:4], fields), signature):
            return None
        if speaks[0][6] >> 16 not in window or signs[0][6] >> 16 not in window:
            return None
        signers.setdefault(pack(signs[1]), set()).add(fields[0])
    for statement, hotkeys in signers.items():
        stake = sum(stakes[each] for each in hotkeys & weighing)
        if 3 * stake > 2 * sum(stakes[each] for each in weighing) and 2 * stake > sum(stakes.values()):
            found: list[Any] = msgpack.unpackb(statement)
            return found
    return None


# -- The claims --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("networks"), ids=lambda case: case["network_id"][:8])
def test_the_network_id_comes_out(case: dict[str, Any]) -> None:
    assert network_id(case).hex() == case["network_id"]


def test_addresses_come_out() -> None:
    hotkeys = [case for case in cases("keys") if case["kind"] == "sr25519"]
    assert {case["uri"]: address(x(case["public_key"])) for case in hotkeys} == {
        case["uri"]: case["address"] for case in hotkeys
    }


@pytest.mark.parametrize("case", cases("events"), ids=lambda case: f"{case['number']}-{case['seq']}-{case['kind']}")
class TestEvent:
    """An event of each kind, from its fields."""

    def test_header_signature_bytes_and_id_come_out(self, case: dict[str, Any]) -> None:
        payload = pack(PAYLOADS[case["kind"]](*case["payload"]))
        log = [x(case["node_key"]), case["number"]]
        place = [case["seq"], x(case["previous"]), case["hlc"]]
        header = pack([case["version"], x(case["network_id"]), *log, *place, case["kind"], digest(payload)])
        signature = SigningKey(x(case["node_seed"])).sign(header).signature
        assert digest(header).hex() == case["id"]
        assert pack([header, signature, payload]).hex() == case["wire"]

    def test_what_is_signed_inside_holds(self, case: dict[str, Any]) -> None:
        network, log = x(case["network_id"]), [x(case["node_key"]), case["number"]]
        payload = PAYLOADS[case["kind"]](*case["payload"])
        match case["kind"]:
            case "delegate":
                *fields, signature = payload
                assert signed(fields[0], delegation_message(network, log, fields), signature)
            case "close":
                node_key, number, last, hotkey, signature = payload
                assert signed(hotkey, close_message(network, [node_key, number], last), signature)
            case "add" | "delete":
                hotkey, nonce, signature, content, *_ = payload
                assert signed(hotkey, request_message(hotkey, nonce, content), signature)
            case "evidence":
                first, first_signature, second, second_signature = payload
                one, other = msgpack.unpackb(first), msgpack.unpackb(second)
                assert digest(first) < digest(second)
                assert one[1:6] == other[1:6]
                VerifyKey(one[2]).verify(first, first_signature)
                VerifyKey(other[2]).verify(second, second_signature)
            case "carry":
                for event in payload[0]:
                    header, signature, _ = msgpack.unpackb(event)
                    VerifyKey(msgpack.unpackb(header)[2]).verify(header, signature)
            case "propose":
                assert digest(payload[2]).hex() == cases("inventories")[0]["electorate_digest"]
                logs = [part[:2] for part in payload[3]]
                assert logs == sorted(logs)
            case kind:
                assert kind in {"verdict", "renew", "place", "release", "checkpoint"}


def test_every_kind_of_the_table_occurs() -> None:
    assert {case["kind"] for case in cases("events")} == PAYLOADS.keys()


def test_a_verdict_names_the_id_of_the_add_before_it() -> None:
    events = {case["kind"]: case for case in reversed(cases("events"))}
    hotkey, nonce, signature, body, _ = PAYLOADS["add"](*events["add"]["payload"])
    claim = request_id(x(events["add"]["network_id"]), hotkey, nonce, signature, body)
    assert events["verdict"]["payload"][0] == claim.hex()


def test_a_checkpoint_names_a_proposal_and_a_proposal_the_one_before_it() -> None:
    proposals = [case for case in cases("events") if case["kind"] == "propose"]
    checkpoints = [case for case in cases("events") if case["kind"] == "checkpoint"]
    assert [case["payload"][1] for case in proposals] == ["", proposals[0]["id"]]
    assert [case["payload"][:2] for case in checkpoints] == [[case["payload"][0], case["id"]] for case in proposals]


@pytest.mark.parametrize("case", cases("requests"), ids=lambda case: case["request_id"][:8])
def test_a_request_s_message_id_task_and_seed_come_out(case: dict[str, Any]) -> None:
    (hotkey,) = (x(key["public_key"]) for key in cases("keys") if key.get("address") == case["hotkey"])
    content = case["body"].encode() if "body" in case else case["purpose"]
    message = request_message(hotkey, case["nonce"], content)
    assert message.decode() == case["message"]
    assert signed(hotkey, message, x(case["signature"]))
    found = request_id(x(case["network_id"]), hotkey, case["nonce"], x(case["signature"]), content)
    assert found.hex() == case["request_id"]
    if "body" in case:
        assert f"{address(hotkey)}::{found[:16].hex()}" == case["task_id"]
        assert (int.from_bytes(found[16:24], "big") % 2**63 or 1) == case["seed"]


def test_the_messages_of_delegations_and_closings_come_out() -> None:
    said = {case["case"]: case for case in cases("delegations")}
    network = x(cases("networks")[0]["network_id"])
    logs = {name: [x(case["node_key"]), case["number"]] for name, case in said.items()}
    fields = PAYLOADS["delegate"](*cases("events")[0]["payload"])[:4]
    first, last = logs["first"], [41, digest(b"head")]
    found = {
        "first": delegation_message(network, first, [*fields, None]),
        "after an empty log": delegation_message(network, logs["after an empty log"], [*fields, [*first, None]]),
        "after a log": delegation_message(network, logs["after a log"], [*fields, [*first, last]]),
        "close of an empty log": close_message(network, first, None),
        "close": close_message(network, first, last),
    }
    assert {name: message.hex() for name, message in found.items()} == {
        name: case["message"] for name, case in said.items()
    }


def test_a_log_that_ended_occurs_in_each_way() -> None:
    ends = Ends([x(wire) for wire in cases("inventories")[-1]["events"]])
    assert ends.forks
    assert ends.closings


@pytest.mark.parametrize("case", cases("frames"), ids=lambda case: case["frame"])
def test_a_frame_comes_out(case: dict[str, Any]) -> None:
    assert pack(FRAMES[case["frame"]](*case["fields"])).hex() == case["wire"]


def test_every_frame_of_the_table_occurs() -> None:
    assert {case["frame"] for case in cases("frames")} == FRAMES.keys()


@pytest.mark.parametrize(
    "case", cases("inventories"), ids=["while votes live", "after they lapsed", "after logs have ended"]
)
class TestInventory:
    """The hashes of a digest frame, from events and an electorate."""

    def test_the_electorate_digest_comes_out(self, case: dict[str, Any]) -> None:
        assert digest(pack([pin(one) for one in case["electorate"]])).hex() == case["electorate_digest"]

    def test_the_vector_digest_comes_out(self, case: dict[str, Any]) -> None:
        ends = Ends([x(wire) for wire in case["events"]])
        counted = {log: [seq for seq in ids if seq < ends.cut(log)] for log, ids in ends.ids.items()}
        heads = {log: (max(seqs), ends.ids[log][max(seqs)]) for log, seqs in counted.items() if seqs}
        vector = [(log[0][0] % 64, [*log, *heads[log], ends.mark(log)]) for log in sorted(heads)]
        slices = [digest(pack([entry for part, entry in vector if part == number]), 16) for number in range(64)]
        assert digest(b"".join(slices)).hex() == case["vector_digest"]

    def test_the_rows_and_the_state_root_come_out(self, case: dict[str, Any]) -> None:
        rows = Inventory([x(wire) for wire in case["events"]], case["electorate"]).rows()
        assert [(row[0], row[1].hex(), row[3], digest(pack(row)).hex()) for row in rows] == [
            (row["uuid"], row["claim_id"], row["status"], row["digest"]) for row in case["rows"]
        ]
        assert state_root(rows).hex() == case["state_root"]


@pytest.mark.parametrize("case", cases("livesets"), ids=lambda case: f"{len(case['leaves'])}-{len(case['slices'])}")
def test_a_live_set_s_root_and_paths_come_out(case: dict[str, Any]) -> None:
    slices: list[bytes] = []
    hashed, size = b"", 0
    for leaf in case["leaves"]:
        found = digest(pack([x(leaf["node_key"]), leaf["number"], leaf["seq"], x(leaf["id"]), leaf["mask"]]))
        assert found.hex() == leaf["digest"]
        hashed, size = hashed + found, size + leaf["event_bytes"]
        if len(hashed) == 64 * 32 or size >= 262_144:
            slices.append(digest(b"\0" + hashed))
            hashed, size = b"", 0
    if hashed:
        slices.append(digest(b"\0" + hashed))
    assert [each.hex() for each in slices] == case["slices"]
    assert tree_root(slices).hex() == case["root"]
    for index, path in enumerate(case["paths"]):
        assert root_by_path(list(map(x, path)), slices[index], index, len(slices)) == x(case["root"])


@pytest.mark.parametrize("case", cases("cuts"), ids=["the first", "behind another one"])
class TestACut:
    """From events and a proposal to the live set below its cut."""

    @pytest.fixture
    def proposed(self, case: dict[str, Any]) -> list[Any]:
        header, packed = split(x(case["proposal"]))
        assert digest(header).hex() == case["statement"][1]
        payload: list[Any] = msgpack.unpackb(packed)
        return payload

    def test_the_horizon_and_the_floor_come_out(self, case: dict[str, Any], proposed: list[Any]) -> None:
        assert proposed[2] == pack([pin(one) for one in case["electorate"]])
        horizon = case["electorate"][0]["time_ms"] - 1000 * case["horizon_s"]
        assert case["horizon_ms"] == horizon
        assert case["floor_s"] == max(0, horizon // 1000 - 2 * case["horizon_s"] - 600)
        assert proposed[0] == 7 * case["electorate"][0]["time_ms"] // (1000 * case["horizon_s"])

    def before(self, case: dict[str, Any]) -> Before | None:
        """The checkpoint that is in force: that of the case before."""
        if case["before"] is None:
            return None
        first, certificate = cases("cuts")[0], x(case["before"])
        said = certified(certificate, x(cases("networks")[0]["network_id"]), first["horizon_s"])
        assert said == [
            first["statement"][0],
            x(first["statement"][1]),
            *first["statement"][2:4],
            x(first["statement"][4]),
        ]
        payload = msgpack.unpackb(split(msgpack.unpackb(certificate)[0])[1])
        items = {
            ((x(leaf["node_key"]), leaf["number"]), leaf["seq"], item)
            for leaf in first["leaves"]
            for item in range(64)
            if leaf["mask"] >> item & 1
        }
        last = {(part[0], part[1]): part[3] for part in payload[3]}
        return Before(items, last, first["horizon_ms"], first["floor_s"])

    def test_the_leaves_and_the_root_come_out(self, case: dict[str, Any], proposed: list[Any]) -> None:
        wires = [x(wire) for wire in case["events"]]
        masks: dict[tuple[Log, int], int] = {}
        kept = LiveSet(wires, case["electorate"], proposed[3], case["floor_s"], self.before(case))
        for log, seq, item in kept.items():
            masks[log, seq] = masks.get((log, seq), 0) | 1 << item
        assert [(*log, seq, mask) for (log, seq), mask in sorted(masks.items())] == [
            (x(leaf["node_key"]), leaf["number"], leaf["seq"], leaf["mask"]) for leaf in case["leaves"]
        ]
        ids = {(*msgpack.unpackb(header)[2:5],): digest(header) for header, _ in map(split, wires)}
        leaves = [pack([*log, seq, ids[*log, seq], mask]) for (log, seq), mask in sorted(masks.items())]
        root = digest(b"\0" + b"".join(map(digest, leaves)))  # of the only slice
        assert case["statement"] == [proposed[0], case["statement"][1], len(leaves), 1, root.hex()]


@pytest.mark.parametrize("case", cases("certificates"), ids=lambda case: case["case"])
def test_a_certificate_holds_or_does_not(case: dict[str, Any]) -> None:
    found = certified(x(case["wire"]), x(case["network_id"]), case["horizon_s"])
    assert (found is not None) is (case["case"] == "holds")
    said = case["statement"]
    assert found == (said and [said[0], x(said[1]), *said[2:4], x(said[4])])
