"""The JSON routes that the console shows: what they answer, what they refuse, and what they cost."""

import asyncio
import json
import threading
from typing import Any

import pytest

from p2pnodes.api import browser
from p2pnodes.api.browser import IDLE_PER_BUSY, PAGES_KEPT, Browser, Look
from p2pnodes.model.errors import StoreError
from p2pnodes.store import browse, database
from p2pnodes.store.browse import PENDING_MAX, Wanted
from p2pnodes.store.database import BrowseError, Database
from p2pnodes.store.facts import Facts
from tests.api.console.conftest import Visit
from tests.api.support import ALICE, VALIDATOR, Clock, Miner, claim_id_of, place, server, vote
from tests.fake_daemon import FakeDaemon


async def answer(visit: Visit, route: str, status: int = 200) -> Any:
    seen = await visit(route)
    assert seen.status == status, seen.text
    return json.loads(seen.text)


class Reads:
    """Counts the reads of a database that people cause."""

    def __init__(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        held = db.browse

        async def counted(function: Any) -> Any:
            self.count += 1
            return await held(function)

        monkeypatch.setattr(db, "browse", counted)


class TestInventory:
    """``GET /inventory``."""

    async def test_it_has_the_rows_of_nodes_and_how_many_there_are(self, look: Visit, alice: Miner) -> None:
        await alice.post(server(8))
        found = await answer(look, "/inventory?limit=5")
        assert len(found["rows"]) == 5
        assert (found["place"], found["total"], found["before"]) == (0, 8, None)
        rest = await answer(look, f"/inventory?limit=5&after={found['after']}")
        assert (len(rest["rows"]), rest["place"], rest["after"]) == (3, 5, None)
        assert await answer(look, f"/inventory?limit=5&before={rest['before']}") == found
        held = await answer(look, f"/nodes?uuid={found['rows'][0]['uuid']}")
        assert held == found["rows"][:1]

    async def test_empty_parameters_are_none_as_forms_send_them(self, visit: Visit, daemon: FakeDaemon) -> None:
        await answer(visit, "/inventory?search=&status=&busy=&gpu_identifier=&sort=")
        assert daemon.looks == [Look()]

    async def test_every_parameter_is_understood(self, visit: Visit, daemon: FakeDaemon) -> None:
        await answer(
            visit,
            "/inventory?search=%20a&status=failed&gpu_identifier=h100_sxm&hotkey=5A&server_id=s&chute_id=c&busy=true"
            "&sort=model&limit=7",
        )
        assert daemon.looks == [Look(Wanted("a", "failed", "h100_sxm", "5A", "s", "c", busy=True), "model", 7)]

    async def test_what_is_wrong_has_a_code(self, visit: Visit) -> None:
        assert (await answer(visit, "/inventory?sort=colour", 400))["code"] == "api-form"

    async def test_a_page_that_is_asked_for_again_is_not_read_again(
        self, db: Database, alice: Miner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await alice.post(server(2))
        reads = Reads(db, monkeypatch)
        kept = Browser(db, lambda: 0.0)
        seen = Look(Wanted(status="pending"))
        first = await kept.page(seen)
        assert reads.count == 2  # its rows, and how many match
        assert await kept.page(seen) == first
        assert reads.count == 2
        await alice.post(server(1, 5))
        assert (await kept.page(seen))["total"] == 3

    async def test_few_pages_are_kept(self, db: Database) -> None:
        kept = Browser(db, lambda: 0.0)
        for limit in range(1, PAGES_KEPT + 5):
            await kept.page(Look(limit=limit))
        assert len(kept._kept) == PAGES_KEPT


class TestOverview:
    """``GET /overview``."""

    async def test_gpus_are_counted_by_what_becomes_of_them(
        self, look: Visit, alice: Miner, db: Database, clock: Clock
    ) -> None:
        claim_id = await claim_id_of(db, (await alice.post(server(3))).body["task_id"])
        await vote(db, clock, claim_id, "verified")
        await place(db, clock, claim_id, f"{0:032x}", public=True)
        await alice.post(server(2, 5))
        found = await answer(look, "/overview")
        counts = {"provisioned": 1, "idle": 2, "pending": 2, "failed": 0, "total": 5}
        assert found["gpus"] == {
            **counts,
            "models": [{"gpu_identifier": "h100_sxm", "others": False, **counts}],
            "state_root": db.state.state_root.hex(),
        }
        assert found["pending_claims"] == 1

    async def test_everything_is_counted_again_only_after_a_change_and_a_pause(
        self, db: Database, alice: Miner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now_s = 0.0

        def clock() -> float:  # each count seems to take a second
            nonlocal now_s
            now_s += 1
            return now_s

        reads: list[object] = []
        held = db.browse

        async def noted(function: Any) -> Any:
            reads.append(function)
            return await held(function)

        monkeypatch.setattr(db, "browse", noted)
        kept = Browser(db, clock)
        first = await kept.totals()
        assert await kept.totals() == first
        assert reads.count(browse.totals) == 1
        await alice.post(server(1))
        held_on = await kept.totals()
        assert held_on is not None
        assert held_on.models == []
        assert reads.count(browse.totals) == 1
        now_s += IDLE_PER_BUSY * 2
        anew = await kept.totals()
        assert anew is not None
        assert anew.models[0].pending == 1

    async def test_the_last_count_is_shown_while_others_look(
        self, db: Database, alice: Miner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = Browser(db, lambda: 0.0)
        with monkeypatch.context() as busy:
            busy.setattr(database, "BROWSES_WAITING_MAX", 0)
            assert await kept.totals() is None
            assert await kept.models() == []
        await alice.post(server(1))
        first = await kept.totals()
        assert first is not None
        assert await kept.models() == ["h100_sxm"]
        with monkeypatch.context() as busy:
            busy.setattr(database, "BROWSES_WAITING_MAX", 0)
            assert await kept.totals() == first

    async def test_a_slow_count_is_not_waited_for(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(browser, "TOTALS_WAIT_S", 0.0)
        go_on = threading.Event()
        looking = asyncio.create_task(db.browse(lambda _: go_on.wait(20)))
        kept = Browser(db, lambda: 0.0)
        assert await kept.totals() is None
        counting = kept._counting
        assert counting is not None
        assert await kept.totals() is None
        assert kept._counting is counting, "the one under way goes on"
        go_on.set()
        await looking
        assert (await counting).models == []
        assert kept._last == counting.result()

    async def test_those_who_come_at_once_share_one_count(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        reads = Reads(db, monkeypatch)
        kept = Browser(db, lambda: 0.0)
        found = await asyncio.gather(*(kept.totals() for _ in range(20)))
        assert all(each == found[0] for each in found)
        assert reads.count == 2  # the models, and the open claims


class TestPending:
    """``GET /pending``."""

    async def test_open_claims_come_latest_first_with_their_stakes(
        self, look: Visit, alice: Miner, db: Database, clock: Clock
    ) -> None:
        tasks = []
        for first in range(3):
            tasks.append((await alice.post(server(1, first))).body["task_id"])
            clock.s += 1
        found = await answer(look, "/pending?limit=2")
        assert [claim["task_id"] for claim in found["claims"]] == [tasks[2], tasks[1]]
        assert found["total"] == 3
        assert found["claims"][0] == {
            "claim_id": (await claim_id_of(db, tasks[2])).hex(),
            "task_id": tasks[2],
            "hotkey": ALICE.address,
            "nonce": int(clock.s) - 1,
            "created_at": found["claims"][0]["created_at"],
            "gpus": 1,
            "owned": 1,
            "votes": 0,
            "verified_stake": 0,
            "failed_stake": 0,
            "weighed_stake": 0,
            "needed": {"quorum": 1, "share": 20, "failed": 1},
            "turns": [],
        }
        rest = await answer(look, f"/pending?limit=2&after={found['after']}")
        assert [claim["task_id"] for claim in rest["claims"]] == [tasks[0]]
        assert rest["after"] is None
        await vote(db, clock, await claim_id_of(db, tasks[0]), "verified")
        assert (await answer(look, "/pending"))["total"] == 2

    @pytest.mark.parametrize(
        "query", ["limit=0", f"limit={PENDING_MAX + 1}", "after=x", "after=1-zz", f"after={'9' * 30}-00"]
    )
    async def test_what_is_wrong_is_refused(self, visit: Visit, query: str) -> None:
        assert (await answer(visit, f"/pending?{query}", 400))["code"] == "api-form"


class TestElectorate:
    """``GET /electorate``."""

    async def test_validators_come_with_stake_delegation_and_enrolment(self, visit: Visit) -> None:
        found = await answer(visit, "/electorate")
        assert (found["enrolled"], found["enrolled_stake"], found["stake"]) == (1, 100, 300)
        by_own = {each["own"]: each for each in found["validators"]}
        own, other = by_own[True], by_own[False]
        assert (own["hotkey"], own["share"], own["enrolled"], own["permit"]) == (VALIDATOR.address, 1.0, True, "now")
        assert own["delegated_until"] is not None
        assert (other["share"], other["enrolled"]) == (0.0, False)
        assert other["why"] == "it has not delegated to a daemon"


class TestBounds:
    """Nobody's look keeps the others waiting for long."""

    async def test_a_look_that_takes_long_is_given_up(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "BROWSE_S_MAX", 0.01)
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        with pytest.raises(BrowseError, match="was given up: filter for less"):
            await db.browse(lambda facts: facts.connection.execute(endless).fetchall())
        assert await db.browse(lambda facts: browse.count(facts, Wanted())) == 0  # the next one is none the worse

    async def test_other_reads_go_on_beside_one(self, db: Database) -> None:
        go_on = threading.Event()
        looking = asyncio.create_task(db.browse(lambda _: go_on.wait(20)))
        assert await db.urls() != {}
        assert await db.query("inventory", {}, 1) == []
        go_on.set()
        assert await looking

    async def test_so_many_may_wait(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "BROWSES_WAITING_MAX", 1)
        go_on = threading.Event()
        looking = asyncio.create_task(db.browse(lambda _: go_on.wait(20)))
        await asyncio.sleep(0)  # it begins
        with pytest.raises(BrowseError, match="already: try again"):
            await db.browse(lambda _: None)
        go_on.set()
        await looking

    async def test_who_is_refused_is_told_when_to_come_back(
        self, look: Visit, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "BROWSES_WAITING_MAX", 0)
        assert json.loads((await look("/overview")).text)["gpus"] is None
        for route in ("/inventory", "/pending"):
            seen = await look(route)
            assert (seen.status, seen.headers["Retry-After"]) == (503, str(browser.BUSY_RETRY_S))
        seen = await look("/console/nodes")
        assert seen.status == 503
        assert "try again" in seen.text

    async def test_nothing_can_be_written_by_a_look(self, db: Database) -> None:
        def write(facts: Facts) -> None:
            facts.connection.execute("DELETE FROM events")

        with pytest.raises(StoreError, match="cannot be read"):
            await db.browse(write)
