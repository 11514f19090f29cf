"""DELETE /nodes/{id}: one signature deletes one GPU, and a retry is free."""

from urllib.parse import quote

import pytest

from p2pnodes.api import app
from p2pnodes.model.keys import verify_sr25519
from p2pnodes.store.database import Database
from tests.api.support import MALLORY, Clock, Miner, fingerprint, gpu, server

FIRST, SECOND = gpu(0)["uuid"], gpu(1)["uuid"]
UNKNOWN = "Node does not exist, or does not belong to you"


@pytest.fixture(autouse=True)
async def registered(alice: Miner) -> None:
    """Alice has two GPUs."""
    assert (await alice.post(server(2))).status == 202


async def test_a_deleted_gpu_is_gone_and_the_others_stay(alice: Miner) -> None:
    answer = await alice.delete(FIRST)
    assert (answer.status, answer.body) == (200, {"node_id": FIRST, "deleted": True})
    assert (await alice.get("/nodes/")).body == {"h100_sxm": {"provisioned": 0, "idle": 1}}


async def test_a_signature_that_is_bound_to_the_gpu_is_good(alice: Miner) -> None:
    assert (await alice.delete(FIRST, alice.headers(f"nodes:{FIRST}"))).status == 200


async def test_the_form_that_a_miner_signed_last_is_tried_first(alice: Miner) -> None:
    """Each form that was not signed costs a check; a miner's client signs one and the same."""

    async def checks(uuid: str, tail: str) -> int:
        before = verify_sr25519.cache_info().misses
        await alice.delete(uuid, alice.headers(tail))
        return verify_sr25519.cache_info().misses - before

    bound = [await checks(uuid, f"nodes:{uuid}") for uuid in (FIRST, SECOND)]
    unbound = [await checks(uuid, "nodes") for uuid in ("some", "other")]
    assert (bound, unbound) == ([2, 1], [2, 1])


async def test_a_forgotten_miners_deletions_are_good_all_the_same(
    alice: Miner, bob: Miner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "BINDERS_MAX", 1)
    assert (await alice.delete(FIRST, alice.headers(f"nodes:{FIRST}"))).status == 200
    assert (await bob.delete(FIRST, bob.headers(f"nodes:{FIRST}"))).status == 404  # alice is forgotten
    before = verify_sr25519.cache_info().misses
    assert (await alice.delete(SECOND, alice.headers(f"nodes:{SECOND}"))).status == 200
    assert verify_sr25519.cache_info().misses == before + 2


async def test_a_signature_that_is_bound_to_another_gpu_is_401(alice: Miner, db: Database, clock: Clock) -> None:
    before = await fingerprint(db)
    answer = await alice.delete(FIRST, alice.headers(f"nodes:{SECOND}"))
    message = f"{alice.hotkey.address}:{int(clock())}:nodes"
    assert answer.status == 401
    assert answer.detail == f"Invalid request signature for hotkey {alice.hotkey.address}. Message: {message}"
    assert await fingerprint(db) == before
    await alice.delete(FIRST, alice.headers(f"nodes:{FIRST}"))
    answer = await alice.delete(SECOND, alice.headers(f"nodes:{FIRST}"))
    assert answer.detail.endswith(message), "whichever form is tried first"


async def test_the_same_signed_request_again_is_200_and_writes_nothing(alice: Miner, db: Database) -> None:
    headers = alice.headers("nodes")
    assert (await alice.delete(FIRST, headers)).status == 200
    before = await fingerprint(db)
    answer = await alice.delete(FIRST, headers)
    assert (answer.status, answer.body) == (200, {"node_id": FIRST, "deleted": True})
    assert await fingerprint(db) == before


async def test_one_unbound_signature_deletes_one_gpu(alice: Miner, db: Database) -> None:
    headers = alice.headers("nodes")
    assert (await alice.delete(FIRST, headers)).status == 200
    before = await fingerprint(db)
    answer = await alice.delete(SECOND, headers)
    assert answer.status == 401
    assert FIRST in answer.detail
    assert await fingerprint(db) == before


@pytest.mark.parametrize("uuid", ["unknown", "x" * 65, "%00", "%ff", "a%20b", "%ED%A0%80", "a%2Fb", "supported"])
async def test_a_gpu_that_nobody_has_is_404(alice: Miner, db: Database, uuid: str) -> None:
    before = await fingerprint(db)
    answer = await alice.delete(uuid)
    assert (answer.status, answer.detail) == (404, UNKNOWN)
    assert await fingerprint(db) == before


async def test_anothers_gpu_is_404(bob: Miner, db: Database) -> None:
    before = await fingerprint(db)
    answer = await bob.delete(FIRST)
    assert (answer.status, answer.detail) == (404, UNKNOWN)
    assert await fingerprint(db) == before


async def test_a_uuid_of_any_printable_characters_can_be_deleted(alice: Miner, db: Database) -> None:
    before = db.state.nodes
    for uuid in ("{x}", "a:b", "%41", "a+b"):
        assert (await alice.post(server(1, uuid=uuid))).status == 202
        assert (await alice.delete(quote(uuid, safe=""))).status == 200
    assert db.state.nodes == before


async def test_a_gpu_that_was_deleted_before_is_404_under_a_new_signature(alice: Miner) -> None:
    assert (await alice.delete(FIRST)).status == 200
    assert (await alice.delete(FIRST)).status == 404


async def test_a_delete_older_than_the_claim_that_it_means_is_409_and_names_both_nonces(
    alice: Miner, db: Database, clock: Clock
) -> None:
    claimed, older = str(int(clock())), str(int(clock()) - 1)
    before = await fingerprint(db)
    answer = await alice.delete(FIRST, nonce=older)
    assert answer.status == 409
    assert claimed in answer.detail
    assert older in answer.detail
    assert await fingerprint(db) == before


async def test_a_gpu_can_be_registered_again_within_the_same_second(alice: Miner) -> None:
    assert (await alice.delete(FIRST)).status == 200
    assert (await alice.delete(SECOND)).status == 200
    answer = await alice.post(server(2))
    assert answer.status == 202
    assert (await alice.get("/nodes/")).body == {"h100_sxm": {"provisioned": 0, "idle": 2}}


async def test_who_is_not_registered_is_401(alice: Miner, clock: Clock) -> None:
    answer = await Miner(alice.client, clock, MALLORY).delete(FIRST)
    assert (answer.status, answer.detail) == (401, "Hotkey is not registered on netuid 64")


async def test_nothing_can_be_deleted_unsigned(alice: Miner) -> None:
    assert (await alice.send("DELETE", f"/nodes/{FIRST}")).detail == "Invalid nonce!"
