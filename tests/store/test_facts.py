"""``Facts.servers``: what rows show of a body is what the pinned parser reads in it."""

import json
from itertools import product

import pytest

from p2pnodes.model.claims import Body, parse_body
from p2pnodes.model.errors import StoreError
from p2pnodes.model.requests import request_id, sign_add
from p2pnodes.store.facts import Facts, Server, unpack_chute, unpack_uuids
from p2pnodes.store.ledger import Ledger
from tests.support import NETWORK, NOW_S, Author, body, gpu, hotkey, memory_ledger

NODE = json.dumps(gpu("gpu-1"))


def told(data: bytes) -> tuple[Ledger, bytes]:
    """A ledger that a registration with this body has come to, and the claim's id."""
    ledger, author = memory_ledger(), Author("//validator0")
    author.delegate()
    request = sign_add(hotkey("//Alice"), NOW_S, data)
    author.add(request)
    with ledger.transaction():
        ledger.receive(author.events, NOW_S * 1000 + 10_000)
    return ledger, request_id(NETWORK.id, request)


def shown(read: Body) -> Server:
    return Server(read.server_id, {node.uuid: (node.gpu_identifier, node.name) for node in read.nodes})


@pytest.mark.parametrize(
    "data",
    [
        body(["gpu-1", "gpu-2"]),
        f'{{"nodes": [{NODE}]}}'.encode(),
        f'{{"server_id": null, "nodes": [{NODE}]}}'.encode(),
        f'{{"server_id": "a", "server_id": "b", "nodes": [], "nodes": [{NODE}]}}'.encode(),
        f'{{"server_id": "\\u00e9\\ud83d\\ude00", "nodes": [{NODE}]}}'.encode(),
        f'{{"else": "\\ud800", "nodes": [{NODE}]}}'.encode(),  # what else is there is not looked at
        f'{{"else": 1e999, "nodes": [{NODE}]}}'.encode(),
        f'{{"else": {"9" * 600}, "nodes": [{NODE}]}}'.encode(),
    ],
    ids=range(8),
)
def test_it_is_the_same(data: bytes) -> None:
    ledger, claim_id = told(data)
    key = ledger.facts.claim_key(claim_id)
    assert key is not None
    expected = {key: shown(parse_body(data))}
    assert ledger.facts.servers({key: claim_id}) == expected  # kept since it was stored
    assert Facts(ledger.facts.connection).servers({key: claim_id}) == expected  # read from the log


def test_a_body_that_is_gone_is_damage() -> None:
    ledger, claim_id = told(body(["gpu-1"]))
    key = ledger.facts.claim_key(claim_id)
    assert key is not None
    ledger.facts.connection.execute("DELETE FROM events WHERE kind = 'add'")
    with pytest.raises(StoreError, match=claim_id.hex()):
        Facts(ledger.facts.connection).servers({key: claim_id})


@pytest.mark.parametrize("holes", [[], [1], [3, 4, 5], [8, 9]])
def test_the_last_event_below_a_time_is_found_without_a_walk(holes: list[int]) -> None:
    ledger, author = memory_ledger(), Author("//validator0")
    author.delegate()
    for _ in range(9):
        author.verdict(bytes(32))
    with ledger.transaction():
        ledger.receive(author.events, NOW_S * 1000 + 10_000)
    facts, key = ledger.facts, ledger.logs[author.log].key
    facts.connection.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq in holes])  # a checkpoint does so
    held = [event for event in author.events if event.seq not in holes]
    statements: list[str] = []
    facts.connection.set_trace_callback(statements.append)
    for low, high, hlc in product(range(-1, 10), range(-1, 10), {each.hlc + by for each in held for by in (0, 1)}):
        last = facts.last_below(key, low, high, hlc)
        below = [event.seq for event in held if low < event.seq <= high and event.hlc < hlc]
        above = [event.seq for event in held if low < event.seq <= high and event.hlc >= hlc]
        assert max(below, default=low) <= last <= min([*above, max(low, high) + 1]) - (1 if above else 0)
        if not holes:
            assert last == max(below, default=low)
        assert len(statements) <= 4  # halves of eleven
        statements.clear()


NO_TEXTS = pytest.mark.parametrize(
    "data", [b"", b"\x91", b"\xc1", b"\x91\xa1\xff", b"\x05", b"\x91\x05", b"\x81\x90\x01"]
)


@NO_TEXTS
def test_a_list_of_gpus_that_is_none_is_damage(data: bytes) -> None:
    with pytest.raises(StoreError, match="the database is damaged: the GPUs of a claim cannot be read"):
        unpack_uuids(data)


@NO_TEXTS
def test_a_chute_that_is_none_is_damage(data: bytes) -> None:
    with pytest.raises(StoreError, match="the database is damaged: what runs on a GPU cannot be read"):
        unpack_chute(data)
