"""GET /nodes/verification_status: the vote so far, for the task's own miner."""

import pytest

from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED
from p2pnodes.store.database import Database
from tests.api.support import ALICE, BOB, Clock, Miner, claim_id_of, gpu, server, vote


@pytest.mark.parametrize(
    ("finding", "expected"),
    [
        ((VERIFIED, ""), {"status": "verified"}),
        ((FAILED, "too slow"), {"status": "failed", "detail": "too slow"}),
        ((FAILED, ""), {"status": "failed", "detail": "verification failed"}),
        ((ABSTAIN, "not on the miner's allow-list"), {"status": "pending"}),
    ],
)
async def test_the_verdict_of_the_quorum_is_the_status(
    alice: Miner, db: Database, clock: Clock, finding: tuple[str, str], expected: dict[str, str]
) -> None:
    task_id = (await alice.post(server(1))).body["task_id"]
    assert (await alice.status(task_id)).body == {"status": "pending"}
    await vote(db, clock, await claim_id_of(db, task_id), *finding)
    answer = await alice.status(task_id)
    assert (answer.status, answer.body) == (200, expected)


async def test_a_task_answers_after_its_nodes_are_deleted(alice: Miner, db: Database, clock: Clock) -> None:
    task_id = (await alice.post(server(1))).body["task_id"]
    await vote(db, clock, await claim_id_of(db, task_id), VERIFIED)
    clock.s += 1
    assert (await alice.delete(gpu()["uuid"])).status == 200
    answer = await alice.status(task_id)
    assert answer.status == 200
    assert answer.body["status"] in {"verified", "failed"}


@pytest.mark.parametrize("task", ["0" * 32, "x", "", "0" * 31, "A" * 32, "é" * 32, "0" * 4000])
async def test_an_own_unknown_task_is_pending(alice: Miner, task: str) -> None:
    answer = await alice.status(f"{ALICE.address}::{task}")
    assert (answer.status, answer.body) == (200, {"status": "pending"})


@pytest.mark.parametrize(
    "task_id",
    [
        f"{BOB.address}::{'0' * 32}", f"{ALICE.address}", f"{ALICE.address}::0::0", f"{ALICE.address}:0", "::", "",
        f"{ALICE.address.lower()}::0",
    ],
)  # fmt: skip
async def test_anothers_task_and_what_is_no_task_id_is_401_go_away(alice: Miner, task_id: str) -> None:
    answer = await alice.status(task_id)
    assert (answer.status, answer.detail) == (401, "go away")


async def test_a_missing_task_id_is_422_after_auth(alice: Miner) -> None:
    answer = await alice.status(None)
    missing = {"type": "missing", "loc": ["query", "task_id"], "msg": "Field required", "input": None}
    assert (answer.status, answer.detail) == (422, [missing])
    assert (await alice.get("/nodes/verification_status")).status == 401


async def test_a_post_signature_is_no_signature_for_the_status(alice: Miner) -> None:
    answer = await alice.get(f"/nodes/verification_status?task_id={ALICE.address}::0", alice.headers("nodes"))
    assert answer.status == 401
    assert answer.detail.endswith(":graval")
