"""Every refusal of the public interface has its code in a header; bodies stay upstream's to the letter."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from p2pnodes.model.codes import HEADER, Code
from p2pnodes.model.errors import WritesRefusedError
from p2pnodes.store.database import Database
from tests.api.conftest import MakeClient
from tests.api.support import Answer, Clock, Miner, gpu, server

Ask = Callable[[Miner], Awaitable[Answer]]

REFUSED: dict[str, tuple[Ask, int, Code]] = {
    "no signature": (lambda alice: alice.send("DELETE", "/nodes/u1", {"Authorization": "x"}), 401, Code.API_UNSIGNED),
    "an old nonce": (lambda alice: alice.post(server(1), nonce="1"), 401, Code.API_NONCE),
    "another's body": (
        lambda alice: alice.send("POST", "/nodes/", alice.signed(b"{}"), b'{"nodes": []}'), 401, Code.API_SIGNATURE,
    ),
    "no nodes": (lambda alice: alice.post({"nodes": []}), 422, Code.API_FORM),
    "no JSON": (lambda alice: alice.send("POST", "/nodes/", alice.signed(b"{"), b"{"), 422, Code.API_FORM),
    "eleven GPUs": (lambda alice: alice.post(server(11)), 400, Code.API_TOO_MANY_GPUS),
    "a private host": (lambda alice: alice.post(server(1, verification_host="10.0.0.1")), 400, Code.API_HOST),
    "another memory": (lambda alice: alice.post(server(1, memory=7)), 400, Code.API_SPECS),
    "a uuid twice": (lambda alice: alice.post({"nodes": [gpu(1), gpu(1)]}), 400, Code.API_DUPLICATE),
    "an unknown GPU": (lambda alice: alice.delete("nobodys"), 404, Code.API_NOT_OWNED),
    "another's task": (lambda alice: alice.status("5Other::" + "0" * 32), 401, Code.API_FOREIGN_TASK),
    "no such path": (lambda alice: alice.get("/nowhere"), 404, Code.API_NO_ROUTE),
    "no such method": (lambda alice: alice.send("PATCH", "/nodes/u1"), 405, Code.API_NO_ROUTE),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
async def test_a_refusal_has_its_code_in_the_header_and_nothing_more_in_the_body(alice: Miner, what: str) -> None:
    ask, status, code = REFUSED[what]
    answer = await ask(alice)
    assert (answer.status, answer.headers[HEADER]) == (status, code)
    assert set(answer.body) == {"detail"}


async def test_what_is_served_has_none(alice: Miner) -> None:
    for answer in (await alice.post(server(1)), await alice.get("/nodes/"), await alice.get("/nodes/supported/")):
        assert answer.status < 400
        assert HEADER not in answer.headers


async def test_a_write_that_is_refused_has_the_code_of_its_reason(
    make_client: MakeClient, db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise WritesRefusedError("the clock is off", code=Code.WRITES_CLOCK)

    monkeypatch.setattr(db, "submit_add", refuse)
    answer = await Miner(await make_client(), clock).post(server(1))
    assert (answer.status, answer.headers[HEADER]) == (503, Code.WRITES_CLOCK)
