"""What the miner's client does and asserts (compat.md, section 4), in its own order."""

from typing import Any

import pytest

from p2pnodes.api.settings import ApiSettings
from p2pnodes.model.events import FAILED, VERIFIED
from p2pnodes.store.database import Database
from tests.api.conftest import MakeClient
from tests.api.support import ALICE, Answer, Clock, Miner, claim_id_of, gpu, server, vote

REFERENCE = "h100_sxm"


def accepted(answer: Answer, gpus: int) -> str:
    """Assert what the client asserts of a registration; its task id."""
    assert answer.status == 202
    nodes: list[dict[str, Any]] = answer.body["nodes"]
    assert len(nodes) == gpus
    (seed,) = {node["seed"] for node in nodes}
    assert type(seed) is int
    assert 1 <= seed < 2**63
    task_id: str = answer.body["task_id"]
    assert task_id
    return task_id


async def test_a_server_is_registered_polled_until_verified_and_deleted_gpu_by_gpu(
    alice: Miner, db: Database, clock: Clock
) -> None:
    supported = await alice.get("/nodes/supported")
    assert supported.status == 200
    assert REFERENCE in supported.body

    task_id = accepted(await alice.post(server(8)), 8)
    for _ in range(3):
        clock.s += 1
        assert (await alice.status(task_id)).body == {"status": "pending"}
    await vote(db, clock, await claim_id_of(db, task_id), VERIFIED)
    clock.s += 1
    assert (await alice.status(task_id)).body == {"status": "verified"}

    nonce = str(int(clock()))
    for index in range(8):  # all within one second, so with one nonce
        uuid = gpu(index)["uuid"]
        answer = await alice.delete(uuid, nonce=nonce)
        assert (answer.status, answer.body) == (200, {"node_id": uuid, "deleted": True})
    assert (await alice.get("/nodes/?detailed=true")).body == {}
    assert (await alice.status(task_id)).body["status"] != "pending"


async def test_a_retry_that_is_signed_anew_after_a_lost_answer_is_one_claim(
    alice: Miner, db: Database, clock: Clock
) -> None:
    first = await alice.post(server(8))
    answers = []
    for _ in range(5):
        clock.s += 3
        answers.append(await alice.post(server(8)))
    assert [answer.body for answer in answers] == [first.body] * 5
    assert db.state.nodes == 8


async def test_one_nonce_serves_every_request_of_a_second(alice: Miner, clock: Clock) -> None:
    answers = [await alice.post({**server(2, first), "server_id": str(first)}) for first in range(0, 20, 2)]
    assert {answer.status for answer in answers} == {202}
    assert len({answer.body["task_id"] for answer in answers}) == 10


async def test_a_failed_task_says_why(alice: Miner, db: Database, clock: Clock) -> None:
    task_id = accepted(await alice.post(server(1)), 1)
    await vote(db, clock, await claim_id_of(db, task_id), FAILED, "no answer to the challenge")
    answer = (await alice.status(task_id)).body
    assert answer["status"] == "failed"
    assert "no answer to the challenge" in answer["detail"]


async def test_what_a_newer_client_leaves_out_comes_from_the_table(alice: Miner) -> None:
    names = ["processors", "max_threads_per_processor", "major", "minor", "sxm", "concurrent_kernels", "ecc"]
    left_out: dict[str, Any] = dict.fromkeys(names)
    answer = await alice.post(server(1, **left_out))
    accepted(answer, 1)
    node = answer.body["nodes"][0]
    assert (node["processors"], node["max_threads_per_processor"]) == (132, 2048)
    assert (node["major"], node["minor"], node["sxm"]) == (9, 0, True)


async def test_a_signature_over_the_wrapped_message_and_upper_case_hex_are_good(alice: Miner, clock: Clock) -> None:
    nonce = str(int(clock()))
    message = f"<Bytes>{ALICE.address}:{nonce}:graval</Bytes>".encode()
    headers = {
        "x-chutes-hotkey": ALICE.address,
        "X-CHUTES-NONCE": nonce,
        "X-Chutes-Signature": ALICE.sign(message).hex().upper(),
    }
    answer = await alice.get(f"/nodes/verification_status?task_id={ALICE.address}::{'0' * 32}", headers)
    assert (answer.status, answer.body) == (200, {"status": "pending"})


@pytest.mark.parametrize("pace_s", [0.0, 1.0])
async def test_no_default_limit_trips_on_ten_deletes_or_a_poll_a_second(
    make_client: MakeClient, clock: Clock, pace_s: float
) -> None:
    miner = Miner(await make_client(ApiSettings()), clock)
    task_id = accepted(await miner.post(server(10)), 10)
    for _ in range(60):
        clock.s += pace_s
        assert (await miner.status(task_id)).status == 200
    assert {(await miner.delete(gpu(index)["uuid"])).status for index in range(10)} == {200}
