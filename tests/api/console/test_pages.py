"""The console's pages: whole without scripts, safe whatever strangers wrote, and never a traceback."""

import html
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import aiohttp
import pytest

from p2pnodes.api.admin import create_admin_app, start_admin
from p2pnodes.api.browser import Totals
from p2pnodes.api.console.assets import assets
from p2pnodes.api.console.pages import EVENTS_SHOWN
from p2pnodes.documentation import topics
from p2pnodes.metrics import status_registry
from p2pnodes.model.errors import StoreError
from p2pnodes.store.browse import OTHERS, ModelTotal
from p2pnodes.store.database import Database
from tests.api.console.conftest import Visit
from tests.api.support import Clock, Miner, claim_id_of, place, server, vote
from tests.fake_daemon import FakeDaemon

PAGES: Final = ("", "nodes", "claims", "peers", "events", "electorate", "docs", "keyboard")
HOSTILE: Final = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}\u202e\x1b[31m"
ROW: Final[dict[str, Any]] = {
    "uuid": "u1",
    "hotkey": "5Alice",
    "claim_id": "ab" * 32,
    "status": "verified",
    "gpu_identifier": "h100_sxm",
    "name": "NVIDIA H100",
    "created_at": "2026-01-01T00:00:00.000Z",
    "verified_at": None,
    "detail": "",
    "chute_id": None,
    "instance_id": None,
    "server_id": None,
    "bucket": 1,
}
NODE: Final[dict[str, Any]] = {
    "uuid": "u1",
    "owner": None,
    "rule": "no claim on it counts",
    "electorate": {"block": 1, "time": "2026-01-01T00:00:00.000Z"},
    "claims": [],
    "deletions": [],
    "placements": [],
    "history": [],
    "left_out": {"claims": 0, "history": 0},
}
EVENT: Final[dict[str, Any]] = {
    "position": 41,
    "node_key": "cd" * 32,
    "number": 7,
    "seq": 3,
    "id": "ef" * 32,
    "kind": "add",
    "at": "2026-01-01T00:00:00.000Z",
    "author": "5Validator",
    "state": "void",
    "reason": "no such thing",
    "bytes": 1276,
}


def _squeezed(text: str) -> str:
    """Without empty lines."""
    return re.sub(r"\n\s*\n+", "\n", text).strip()


class TestEveryPage:
    """What holds for all of them."""

    @pytest.mark.parametrize("name", PAGES)
    async def test_it_is_one_whole_document_with_landmarks(self, visit: Visit, name: str) -> None:
        seen = await visit(f"/console/{name}")
        assert seen.status == 200
        assert seen.headers["Content-Type"] == "text/html; charset=utf-8"
        for once in ("<!doctype html>", '<html lang="en">', "<main ", "<h1>", "<nav aria-label=", 'id="live"'):
            assert seen.text.count(once) == 1, once
        assert 'class="skip" href="#main"' in seen.text

    @pytest.mark.parametrize("name", PAGES)
    async def test_nothing_is_inline_and_nothing_is_from_elsewhere(self, visit: Visit, name: str) -> None:
        text = (await visit(f"/console/{name}")).text
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
        assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", text))
        for loaded in re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]*)"', text):
            assert loaded.startswith("/console/static/")

    @pytest.mark.parametrize("name", PAGES)
    async def test_tables_have_captions_and_headings(self, visit: Visit, daemon: FakeDaemon, name: str) -> None:
        daemon.rows = [EVENT if name == "events" else ROW]
        text = (await visit(f"/console/{name}")).text
        assert text.count("<table") == text.count("<caption")
        assert "<th>" not in text

    @pytest.mark.parametrize("name", PAGES)
    async def test_no_two_elements_have_one_name(self, visit: Visit, name: str) -> None:
        names = re.findall(r'\sid="([^"]*)"', (await visit(f"/console/{name}")).text)
        assert sorted(names) == sorted(set(names))

    @pytest.mark.parametrize("name", PAGES)
    async def test_a_script_gets_the_live_part_alone(self, visit: Visit, name: str) -> None:
        whole, part = await visit(f"/console/{name}"), await visit(f"/console/{name}", {"HX-Request": "true"})
        assert part.text.strip().startswith('<div id="live"')
        assert "<html" not in part.text
        assert _squeezed(part.text) in _squeezed(whole.text)
        assert "HX-Request" in part.headers["Vary"]

    @pytest.mark.parametrize("name", ["", "nodes", "nodes/u1", "claims", "peers", "electorate"])
    async def test_what_changes_without_an_event_is_asked_for_again(
        self, visit: Visit, daemon: FakeDaemon, name: str
    ) -> None:
        daemon.nodes["u1"] = NODE
        text = (await visit(f"/console/{name}")).text
        (live,) = re.findall(r'<div id="live"[^>]*>', text)
        assert " data-poll " in live

    async def test_going_back_gets_the_whole_page(self, visit: Visit) -> None:
        seen = await visit("/console/nodes", {"HX-Request": "true", "HX-History-Restore-Request": "true"})
        assert "<html" in seen.text

    @pytest.mark.parametrize("name", PAGES)
    async def test_what_has_not_changed_costs_no_body(self, visit: Visit, name: str) -> None:
        first = await visit(f"/console/{name}")
        again = await visit(f"/console/{name}", {"If-None-Match": first.headers["ETag"]})
        assert (again.status, again.text) == (304, "")

    async def test_what_has_changed_is_sent(self, visit: Visit, daemon: FakeDaemon) -> None:
        first = await visit("/console/")
        daemon.snapshot["events"] += 1
        assert (await visit("/console/", {"If-None-Match": first.headers["ETag"]})).status == 200

    async def test_the_current_page_is_marked(self, visit: Visit) -> None:
        for name in ("nodes", "peers"):
            found = re.findall(r'<a href="([^"]*)"[^>]*aria-current="page"', (await visit(f"/console/{name}")).text)
            assert found == [f"/console/{name}"]

    @pytest.mark.parametrize("name", ["", "nodes", "claims", "peers", "events", "electorate"])
    async def test_it_names_the_routes_that_have_its_figures(self, visit: Visit, name: str) -> None:
        (line,) = re.findall(r"as JSON: (.*)</p>", (await visit(f"/console/{name}")).text)
        routes = [html.unescape(route) for route in re.findall(r'href="([^"]*)"', line)]
        assert routes
        for route in routes:
            if route != "/events/stream":  # never ends
                answer = await visit(route)
                assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")


class TestWays:
    """Where addresses lead."""

    @pytest.mark.parametrize("path", ["/", "/console"])
    async def test_short_addresses_lead_to_the_overview(self, visit: Visit, path: str) -> None:
        seen = await visit(path)
        assert (seen.status, seen.headers["Location"]) == (302, "/console/")

    async def test_a_claim_that_is_typed_in_is_opened(self, visit: Visit) -> None:
        seen = await visit("/console/claims?claim=5A%3A%3A00")
        assert (seen.status, seen.headers["Location"]) == (303, "/console/claims/5A%3A%3A00")

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    async def test_nothing_can_be_changed_here(self, visit: Visit, method: str) -> None:
        for name in PAGES:
            assert (await visit(f"/console/{name}", method=method)).status == 405


class TestFailures:
    """What cannot be shown is a page, too, and says what to do."""

    @pytest.mark.parametrize(
        ("path", "status", "text"),
        [
            ("/console/nothing", 404, "there is no page"),
            ("/console/nodes/u1", 404, "no claim ever named a gpu"),
            ("/console/nodes/" + "u" * 5000, 404, "no claim ever named a gpu"),
            ("/console/claims/" + "00" * 32, 404, "is known here"),
            ("/console/claims/x", 400, "names no claim; expected a claim id"),
            ("/console/docs/nothing", 404, "no page"),
            ("/console/nodes?sort=colour", 400, "sort is"),
            ("/console/nodes?status=odd", 400, "expected one of pending, verified, failed"),
            ("/console/nodes?limit=0", 400, "expected an integer in 1..500"),
            ("/console/nodes?limit=501", 400, "expected an integer in 1..500"),
            ("/console/nodes?after=zz", 400, "expected the after of a page"),
            ("/console/nodes?search=" + "x" * 129, 400, "longer than 128 characters"),
            ("/console/nodes?search=%00", 400, "search holds a nul"),
            ("/console/nodes?server_id=" + "x" * 513, 400, "longer than 512 characters"),
            ("/console/nodes?status=failed&status=failed", 400, "given twice"),
            ("/console/nodes?colour=red", 400, "unknown parameter"),
            ("/console/claims?after=1", 400, "expected the after of a page"),
            ("/console/events?kind=odd", 400, "kind is"),
            ("/console/events?state=odd", 400, "state is"),
        ],
    )
    async def test_what_is_wrong_is_said(self, visit: Visit, path: str, status: int, text: str) -> None:
        seen = await visit(path)
        assert seen.status == status
        assert text in html.unescape(seen.text).lower()
        assert seen.headers["P2PNodes-Code"] in seen.text
        assert "<main " in seen.text

    async def test_an_unreadable_database_is_503_and_the_page_tries_again(
        self, visit: Visit, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: object, **__: object) -> dict[str, Any]:
            raise StoreError("the database cannot be read: disk I/O error")

        monkeypatch.setattr(daemon, "electorate", fail)
        seen = await visit("/console/electorate")
        assert (seen.status, seen.headers["Retry-After"]) == (503, "5")
        assert "disk I/O error" in seen.text
        assert "data-poll" in seen.text

    async def test_what_is_not_foreseen_is_no_traceback(
        self, visit: Visit, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(daemon, "electorate", None)
        seen = await visit("/console/electorate")
        assert seen.status == 500
        assert "Traceback" not in seen.text
        assert "<main " in seen.text


class TestHostileTexts:
    """What miners and peers wrote is shown as text, with its invisible characters made visible."""

    @pytest.mark.parametrize("name", ["nodes", "events", "peers", "claims", "electorate", ""])
    async def test_it_is_escaped(self, visit: Visit, daemon: FakeDaemon, name: str) -> None:
        daemon.rows = [
            dict.fromkeys(ROW, HOSTILE) if name == "nodes" else {**EVENT, "author": HOSTILE, "reason": HOSTILE}
        ]
        daemon.snapshot["gossip"]["peers"][0] |= {"hotkey": HOSTILE, "url": HOSTILE}
        daemon.snapshot["gossip"]["peers"][1] |= {"last_error": HOSTILE}
        daemon.snapshot["gossip"]["bans"] = [
            {"hotkey": HOSTILE, "observer": False, "operator": True, "banned_s": 5.0, "ban_reason": HOSTILE}
        ]
        daemon.snapshot["writes"] = {"allowed": False, "reason": HOSTILE}
        daemon.voters["validators"][0] |= {"url": HOSTILE, "why": HOSTILE}
        seen = await visit(f"/console/{name}")
        assert seen.status == 200
        assert "<script>alert" not in seen.text
        assert "<img src=x" not in seen.text
        assert "49" not in re.findall(r"alert\(1\)&gt;(\d+)", seen.text)
        assert not {"\u202e", "\x1b"} & set(seen.text)

    async def test_it_is_escaped_in_a_refusal(self, visit: Visit) -> None:
        seen = await visit("/console/nodes/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
        assert seen.status == 404
        assert "<script>alert" not in seen.text

    async def test_elements_are_named_without_a_strangers_characters(self, visit: Visit, daemon: FakeDaemon) -> None:
        daemon.rows = [{**ROW, "uuid": 'a"]b\\'}]
        (name,) = re.findall(r'<tr id="([^"]*)"', (await visit("/console/nodes")).text)
        assert re.fullmatch(r"k[0-9a-f]{16}", name)


class TestOverview:
    """The daemon at a glance."""

    async def test_counts_and_models_are_shown(self, visit: Visit) -> None:
        text = (await visit("/console/")).text
        assert "h100_sxm: 4 provisioned, 2 idle, 1 pending, 1 failed" in text
        assert "Writes</dt>" in text
        assert "All equal" in text

    async def test_why_it_is_not_ready_and_writes_are_refused(self, visit: Visit, daemon: FakeDaemon) -> None:
        daemon.snapshot |= {"ready": ["no electorate"], "writes": {"allowed": False, "reason": "own head not heard"}}
        text = (await visit("/console/")).text
        assert "This daemon is not ready" in text
        assert "no electorate" in text
        assert "own head not heard" in text

    async def test_what_claims_of_observers_is_no_alarm(self, visit: Visit, daemon: FakeDaemon) -> None:
        text = (await visit("/console/")).text
        assert "Another inventory from the same events" not in text
        assert "5Watcher" not in text

    async def test_gpus_that_cannot_be_counted_take_nothing_else_away(self, visit: Visit, daemon: FakeDaemon) -> None:
        daemon.totals = None
        seen = await visit("/console/")
        assert seen.status == 200
        assert "GPUs are not counted at the moment" in seen.text
        assert "Writes</dt>" in seen.text

    async def test_a_model_that_is_called_as_the_others_are_is_none_of_them(
        self, visit: Visit, daemon: FakeDaemon
    ) -> None:
        assert daemon.totals is not None
        models = [ModelTotal(OTHERS, 1, 0, 0, 0), ModelTotal(OTHERS, 0, 3, 0, 0, others=True)]
        daemon.totals = daemon.totals._replace(models=models)
        text = (await visit("/console/")).text
        assert text.count('<a href="/console/nodes?gpu_identifier=%28others%29">') == 1
        assert len(set(re.findall(r'<tr id="([^"]*)"', text))) == 2

    async def test_a_verifier_that_looks_at_nothing_is_a_warning(self, visit: Visit, daemon: FakeDaemon) -> None:
        assert "without a look" not in (await visit("/console/")).text
        daemon.snapshot["verification"]["method"] = "none"
        assert "without a look" in (await visit("/console/")).text

    @pytest.mark.parametrize(
        ("delegation", "why"), [({"url": ""}, "http.url is not set"), (None, "it has no delegation")]
    )
    async def test_a_daemon_that_peers_cannot_dial_says_so(
        self, visit: Visit, daemon: FakeDaemon, delegation: dict[str, Any] | None, why: str
    ) -> None:
        assert "peers cannot dial it" not in (await visit("/console/")).text
        daemon.snapshot["delegation"] = delegation and {**daemon.snapshot["delegation"], **delegation}
        assert f"peers cannot dial it: {why}" in (await visit("/console/")).text

    @pytest.mark.parametrize(
        ("differs", "said"),
        [
            (("electorate",), "Other electorate"),
            (("checkpoint",), "Other checkpoint"),
            (("vector", "electorate"), "Catching up"),
        ],
    )
    async def test_what_differs_is_said(
        self, visit: Visit, daemon: FakeDaemon, differs: tuple[str, ...], said: str
    ) -> None:
        daemon.snapshot["gossip"]["peers"][0] |= dict.fromkeys((f"same_{name}" for name in differs), False)
        text = (await visit("/console/")).text
        assert all(each in text for each in (said, "1 differs"))

    async def test_a_delegation_that_no_date_can_name_is_shown(self, visit: Visit, daemon: FakeDaemon) -> None:
        daemon.snapshot["delegation"]["not_after"] = 2**53
        assert "9999-12-31T23:59:59Z" in (await visit("/console/")).text

    async def test_a_diverged_peer_is_an_alarm(self, visit: Visit, daemon: FakeDaemon) -> None:
        daemon.snapshot["gossip"]["peers"][0]["same_state_root"] = False
        assert "Another inventory from the same events" in (await visit("/console/")).text

    async def test_a_new_daemon_is_shown_too(self, visit: Visit, daemon: FakeDaemon) -> None:
        daemon.totals = Totals([], 0, "01" * 32)
        daemon.snapshot["gossip"]["peers"] = []
        daemon.snapshot |= {"hotkey": None, "delegation": None, "verification": None, "clock_offset_ms": None}
        daemon.snapshot["database"] |= {"bytes": None, "wal_bytes": None, "free_bytes": None}
        text = (await visit("/console/")).text
        assert "No GPUs yet" in text
        assert "No peers known" in text


class TestPeers:
    """The mesh, and a table that says the same."""

    async def test_peers_links_and_bans(self, visit: Visit, daemon: FakeDaemon) -> None:
        text = (await visit("/console/peers")).text
        assert text.count('class="wire eager" x1="360"') == 1
        assert text.count('<g class="spot') == 4 + 4  # the peers, and the legend
        for said in ("Connection refused", "5Flood", "flood: pings", "40 s left", "20 ms"):
            assert said in text

    async def test_a_ban_by_a_node_key_shows_it_and_whose_ban_it_is(self, visit: Visit, daemon: FakeDaemon) -> None:
        text = (await visit("/console/peers")).text
        own, operators = re.findall(r'<li><div class="who">.*?</li>', text, re.DOTALL)
        assert 'title="5Flood"' in own
        assert "operator" not in own
        assert f'title="{"f0" * 32}"' in operators
        assert "node key" in operators
        assert "Banned by the operator" in operators

    async def test_a_session_that_ends_at_this_moment_is_shown_too(self, visit: Visit, daemon: FakeDaemon) -> None:
        daemon.snapshot["gossip"]["peers"] = [{"hotkey": "5P", "url": "", "connected": True, "direction": "dialled"}]
        assert "the session ends" in (await visit("/console/peers")).text

    async def test_forks_are_listed(self, visit: Visit, daemon: FakeDaemon) -> None:
        daemon.ended = [
            {"log": "ab/1", "hotkey": "5F", "own": True, "fork": 5, "good_events": 5, "closed": True, "seen_at": 0}
        ]
        text = (await visit("/console/peers")).text
        assert "forked at 5" in text
        assert "closed" in text


class TestNodes:
    """The inventory, page by page."""

    async def test_models_are_asked_for_with_the_whole_page_alone(
        self, visit: Visit, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(daemon, "overview", None)  # none of it is needed
        assert "<option>h100_sxm</option>" in (await visit("/console/nodes")).text
        monkeypatch.setattr(daemon, "models", None)
        assert (await visit("/console/nodes?search=a", {"HX-Request": "true"})).status == 200

    async def test_taking_a_filter_away_keeps_the_page_length(self, visit: Visit) -> None:
        text = (await visit("/console/nodes?hotkey=5A&server_id=s&limit=7")).text
        links = re.findall(r'<a href="/console/nodes\?([^"]*)" aria-label="Remove', text)
        assert [parse_qs(html.unescape(link)) for link in links] == [
            {"server_id": ["s"], "limit": ["7"]},
            {"hotkey": ["5A"], "limit": ["7"]},
        ]

    async def test_the_json_of_a_page_of_claims_is_of_that_page(self, visit: Visit) -> None:
        after = f"17-{'00' * 32}"
        assert f'href="/pending?after={after}"' in (await visit(f"/console/claims?after={after}")).text


class TestEvents:
    """The latest events, and what the tail needs to go on from there."""

    async def test_the_tail_goes_on_behind_what_is_shown(self, visit: Visit, daemon: FakeDaemon) -> None:
        daemon.rows = [EVENT]
        text = (await visit("/console/events?kind=add&state=void")).text
        assert 'data-position="41" data-where-kind="add" data-where-state="void"' in text
        assert "no such thing" in text
        assert daemon.queries == [
            ("event_log", {}, 1, None, True),  # the position first: what comes meanwhile is the tail's to tell
            ("event_log", {"kind": "add", "state": "void"}, EVENTS_SHOWN, 0, True),
        ]

    async def test_none_is_said(self, visit: Visit) -> None:
        assert "No such event yet" in (await visit("/console/events?kind=close")).text


class TestDocs:
    """The documentation that came with this version."""

    @pytest.mark.parametrize("name", [topic.name for topic in topics()])
    async def test_every_page_is_rendered_and_its_links_lead_somewhere(self, visit: Visit, name: str) -> None:
        seen = await visit(f"/console/docs/{name}")
        assert seen.status == 200
        (body,) = re.findall(r'<article class="guide">(.*)</article>', seen.text, re.DOTALL)
        assert not re.search(r"<(?:script|img|iframe|style)", body)
        own = set(re.findall(r'<h[1-6] id="([^"]*)"', body))
        for target in re.findall(r'href="([^"]*)"', body):
            if target.startswith("#"):
                assert target[1:] in own, target
            elif not target.startswith("https://"):
                assert re.match(r"/console/docs/[a-z-]+(?:#|$)", target), target
                assert (await visit(target.partition("#")[0])).status == 200


class TestDatabase:
    """Pages over a real database."""

    async def test_a_gpu_with_its_claim_vote_and_chute(
        self, look: Visit, alice: Miner, db: Database, clock: Clock
    ) -> None:
        task = (await alice.post(server(2))).body["task_id"]
        claim_id = await claim_id_of(db, task)
        uuid = f"{0:032x}"
        assert "stake</span> would verify it" in (await look(f"/console/claims/{claim_id.hex()}")).text
        assert "1</span> open claim" in (await look("/console/claims")).text
        await vote(db, clock, claim_id, "verified")
        await place(db, clock, claim_id, uuid, public=True)
        text = (await look(f"/console/nodes/{uuid}")).text
        for said in ("carol/chat", "Verified by quorum", "Chute placed", "the only standing claim", f"/proof/{uuid}"):
            assert said in text
        for name in (claim_id.hex(), task, claim_id.hex()[:32]):
            assert (await look(f"/console/claims/{name}")).status == 200
        assert "Nothing in flight" in (await look("/console/claims")).text

    async def test_a_deleted_gpu_keeps_its_history(self, look: Visit, alice: Miner, clock: Clock) -> None:
        await alice.post(server(1))
        clock.s += 1
        await alice.delete(f"{0:032x}")
        text = (await look(f"/console/nodes/{0:032x}")).text
        assert "Not in the inventory" in text
        assert "Deletions" in text

    async def test_nodes_are_searched_sorted_and_paged(self, look: Visit, alice: Miner) -> None:
        await alice.post(server(8))
        text = (await look("/console/nodes?limit=3&sort=uuid")).text
        shown = re.findall(r'data-label="GPU"><a class="id" href="/console/nodes/([0-9a-f]+)"', text)
        assert shown == [f"{index:032x}" for index in range(3)]
        assert '<span class="strong">1\N{EN DASH}3</span> of <span class="strong">8</span>' in text
        (following,) = {html.unescape(target) for target in re.findall(r'href="([^"]*after=[^"]*)"', text)}
        assert '<span class="strong">4\N{EN DASH}6</span>' in (await look(following)).text
        assert "Nothing matches" in (await look("/console/nodes?search=nowhere")).text
        assert f"{5:032x}" in (await look(f"/console/nodes?search={5:032x}")).text


class TestAssets:
    """Scripts and styles."""

    async def test_they_are_kept_for_ever_under_a_name_with_their_hash(self, visit: Visit) -> None:
        for name, asset in assets().items():
            seen = await visit(f"/console/static/{asset.mark}/{name}")
            assert seen.status == 200
            assert "immutable" in seen.headers["Cache-Control"]
            again = await visit(f"/console/static/{asset.mark}/{name}", {"If-None-Match": seen.headers["ETag"]})
            assert again.status == 304

    @pytest.mark.parametrize(
        "path", ["0000000000000000/console.css", "x/nothing.js", "x/../pages.py", "x/vendor/README.md"]
    )
    async def test_others_are_not_served(self, visit: Visit, path: str) -> None:
        assert (await visit(f"/console/static/{path}")).status == 404


class TestHeaders:
    """Of everything under /console."""

    @pytest.mark.parametrize("path", ["/console/", "/console", "/console/nothing", "/console/nodes?sort=x", "STATIC"])
    async def test_they_forbid_what_is_not_needed(self, visit: Visit, path: str) -> None:
        if path == "STATIC":
            path = f"/console/static/{assets()['console.js'].mark}/console.js"
        headers = (await visit(path)).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert set(policy.values()) <= {"'none'", "'self'"}
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Server"] == "p2pnodes"


class TestStrangers:
    """Over TCP: other names, and other sites' pages, get nothing."""

    @pytest.fixture
    async def port(self, daemon: FakeDaemon, tmp_path: Path) -> AsyncIterator[int]:
        runner = await start_admin(create_admin_app(daemon, status_registry(daemon.status)), tmp_path / "a.sock", 0)
        (port,) = [address[1] for address in runner.addresses if isinstance(address, tuple)]
        yield port
        await runner.cleanup()

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 200),
            ({"Host": "rebound.example:80"}, 403),
            ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
            ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
            ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
            ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
            ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
            ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
            ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
            ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 403),
        ],
    )
    async def test_who_may_read(self, port: int, headers: dict[str, str], status: int) -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            for path in ("/console/", "/overview", "/inventory"):
                async with session.get(path, headers=headers) as answer:
                    assert answer.status == status
