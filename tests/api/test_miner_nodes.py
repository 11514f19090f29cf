"""GET /miner/nodes/: a miner's own GPUs as today's controllers read them."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from p2pnodes.api import app as api_app
from p2pnodes.model.errors import StoreError
from p2pnodes.model.events import FAILED, VERIFIED
from p2pnodes.model.keys import Hotkey
from p2pnodes.store.database import Database
from tests.api.support import ALICE, BOB, MALLORY, Answer, Client, Clock, Miner, claim_id_of, gpu, server, vote


def listed(answer: Answer) -> list[dict[str, Any]]:
    """The nodes as the controller reads them: lines that begin with ``data: ``."""
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream"
    text = (answer.body or b"").decode()
    assert text == "" or text.endswith("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n") if event]


class TestList:
    """One event for each GPU that the caller has here, with all columns of the 202."""

    async def test_the_columns_are_those_of_the_registration(self, alice: Miner) -> None:
        accepted = await alice.post(server(3))
        nodes = listed(await alice.own_nodes())
        assert nodes == accepted.body["nodes"]
        assert type(nodes[0]["seed"]) is int

    async def test_they_tell_how_the_vote_went(self, alice: Miner, db: Database, clock: Clock) -> None:
        good, bad = [(await alice.post(server(1, first))).body["task_id"] for first in (0, 20)]
        await vote(db, clock, await claim_id_of(db, good), VERIFIED)
        await vote(db, clock, await claim_id_of(db, bad), FAILED, "too slow")
        nodes = {node["uuid"]: node for node in listed(await alice.own_nodes())}
        first, second = nodes[gpu(0)["uuid"]], nodes[gpu(20)["uuid"]]
        assert (first["verified_at"][:4], first["verification_error"]) == ("2027", None)
        assert (second["verified_at"], second["verification_error"]) == (None, "too slow")

    async def test_a_miner_without_gpus_gets_an_empty_stream(self, alice: Miner, bob: Miner) -> None:
        await bob.post(server(1))
        assert listed(await alice.own_nodes()) == []

    async def test_deleted_gpus_and_those_that_another_owns_are_left_out(
        self, alice: Miner, bob: Miner, db: Database, clock: Clock
    ) -> None:
        await alice.post(server(3))
        await alice.delete(gpu(0)["uuid"])
        task = (await bob.post(server(1, 1))).body["task_id"]
        await vote(db, clock, await claim_id_of(db, task, BOB), VERIFIED)
        assert [node["uuid"] for node in listed(await alice.own_nodes())] == [gpu(2)["uuid"]]
        assert [node["uuid"] for node in listed(await bob.own_nodes())] == [gpu(1)["uuid"]]

    async def test_a_long_one_comes_in_parts(self, alice: Miner, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api_app, "OWN_CLAIMS_PER_PART", 2)
        reads: list[int] = []
        stored_claims = db.stored_claims

        async def counted(keys: list[int]) -> Any:
            reads.append(len(keys))
            return await stored_claims(keys)

        monkeypatch.setattr(db, "stored_claims", counted)
        for first in range(0, 50, 10):
            await alice.post(server(10, first))
        nodes = listed(await alice.own_nodes())
        assert len({node["uuid"] for node in nodes}) == len(nodes) == 50
        assert reads == [2, 2, 1]

    async def test_a_claim_that_is_forgotten_while_it_is_sent_is_left_out(
        self, alice: Miner, bob: Miner, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Checkpoints do so with what has ended: who reads slowly got half a list, and the log a traceback."""
        for first in (0, 10, 20):
            await alice.post(server(1, first))
        await bob.post(server(1, 30))
        (lost, _), (taken, _), _ = await db.owned(ALICE.public_key)
        ((others, _),) = await db.owned(BOB.public_key)
        stored_claims = db.stored_claims

        async def later(keys: list[int]) -> Any:
            found = await stored_claims([*keys, others])
            del found[lost]
            found[taken] = found.pop(others)
            return found

        monkeypatch.setattr(db, "stored_claims", later)
        assert [node["uuid"] for node in listed(await alice.own_nodes())] == [gpu(20)["uuid"]]


class TestBounds:
    """Each list that is being sent holds all that it names, for as long as its reader likes."""

    @pytest.mark.parametrize(
        ("bound", "status", "others"), [("OWN_LISTS_PER_HOTKEY_MAX", 429, 200), ("OWN_LISTS_MAX", 503, 503)]
    )
    async def test_lists_are_bounded_for_each_hotkey_and_in_all(  # noqa: PLR0917 - fixtures
        self,
        client: Client,
        clock: Clock,
        alice: Miner,
        db: Database,
        monkeypatch: pytest.MonkeyPatch,
        bound: str,
        status: int,
        others: int,
    ) -> None:
        monkeypatch.setattr(api_app, bound, 1)
        begun, go_on, owned = asyncio.Event(), asyncio.Event(), db.owned

        async def slow(miner: bytes) -> list[tuple[int, list[str]]]:
            if miner == ALICE.public_key:
                begun.set()
                await go_on.wait()
            return await owned(miner)

        monkeypatch.setattr(db, "owned", slow)
        first = asyncio.create_task(alice.own_nodes())
        async with asyncio.timeout(10):
            await begun.wait()
        refused = await alice.own_nodes()
        assert (refused.status, refused.headers["Retry-After"]) == (status, str(api_app.LISTS_RETRY_S))
        assert (await Miner(client, clock, BOB).own_nodes()).status == others
        go_on.set()
        assert (await first).status == (await alice.own_nodes()).status == 200


class TestRefusals:
    """It is the signer's own list."""

    async def test_it_must_be_signed_by_a_registered_hotkey(self, client: Client, clock: Clock, alice: Miner) -> None:
        unsigned = await alice.get("/miner/nodes/")
        assert unsigned.status == 401
        for tail in ("nodes", "graval", ""):
            assert (await alice.get("/miner/nodes/", alice.headers(tail))).status == 401
        assert (await alice.get("/miner/nodes/", alice.headers("miner", "0"))).detail == "Invalid nonce!"
        stranger = await Miner(client, clock, MALLORY).own_nodes()
        assert (stranger.status, stranger.detail) == (401, "Hotkey is not registered on netuid 64")

    async def test_a_signature_of_another_hotkey_is_refused(self, client: Client, clock: Clock) -> None:
        headers = Miner(client, clock, ALICE).headers("miner")
        forged = {**headers, "X-Chutes-Hotkey": Hotkey.from_uri("//Bob").address}
        assert (await Miner(client, clock, BOB).get("/miner/nodes/", forged)).status == 401

    async def test_a_read_that_fails_on_the_way_cuts_the_list_off(
        self, alice: Miner, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await alice.post(server(1))

        async def fail(*_: Any) -> None:
            raise StoreError("disk I/O error")

        monkeypatch.setattr(db, "stored_claims", fail)
        async with asyncio.timeout(20):
            with pytest.raises(aiohttp.ClientError):
                await alice.own_nodes()
