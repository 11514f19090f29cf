"""GPUs that go from hotkey to hotkey are 429, from what the log remembers."""

from typing import Any

import pytest

from p2pnodes.store.database import Database
from tests.api.support import ALICE, BOB, Client, Clock, Miner, encode, fingerprint, gpu, server


async def hop(clock: Clock, *miners: Miner, count: int = 1) -> None:
    """Each miner in turn registers the GPUs and deletes them."""
    for miner in miners:
        assert (await miner.post(server(count))).status == 202
        clock.s += 1
        for index in range(count):
            assert (await miner.delete(gpu(index)["uuid"])).status == 200
        clock.s += 1


class TestHopping:
    """More than two registrations of one GPU within 24 hours by at least two hotkeys, and the next one is refused."""

    async def test_it_is_429_with_the_gpus_in_request_order_and_how_often_each_was_used(
        self, alice: Miner, bob: Miner, clock: Clock, db: Database
    ) -> None:
        await hop(clock, alice, bob, alice, count=2)
        before = await fingerprint(db)
        body = server(3)
        body["nodes"].reverse()
        answer = await bob.post(body)
        first, second = gpu(0)["uuid"], gpu(1)["uuid"]
        assert (answer.status, answer.detail) == (
            429,
            f"Detected GPU hotkey hopping for nodes: {second} (used 3 times recently), {first} (used 3 times recently)",
        )
        assert 86_000 < int(answer.headers["Retry-After"]) <= 86_400
        assert await fingerprint(db) == before

    async def test_one_hotkey_alone_does_not_hop(self, alice: Miner, clock: Clock) -> None:
        await hop(clock, *[alice] * 5)

    @pytest.mark.parametrize(
        "changes", [{"verification_host": "10.0.0.1"}, {"memory": 1}], ids=["hosts rank behind", "specs rank behind"]
    )
    async def test_it_ranks_before_hosts_and_specs(
        self, alice: Miner, bob: Miner, clock: Clock, changes: dict[str, Any]
    ) -> None:
        await hop(clock, alice, bob, alice)
        assert (await bob.post(server(1, **changes))).status == 429

    async def test_it_ranks_behind_conflicts(self, alice: Miner, bob: Miner, clock: Clock) -> None:
        await hop(clock, alice, bob)
        assert (await alice.post(server(1))).status == 202
        assert (await alice.post(server(2))).status == 409
        assert (await bob.post(server(1))).status == 429

    async def test_a_recorded_request_is_no_further_use(self, client: Client, clock: Clock) -> None:
        alice, bob = Miner(client, clock, ALICE), Miner(client, clock, BOB)
        await hop(clock, alice, bob)
        body = server(1)
        headers = alice.signed(encode(body))
        accepted = await alice.post(body, headers)
        clock.s += 5
        for again in (await alice.post(body, headers), await alice.post(body)):
            assert (again.status, again.body) == (202, accepted.body)
