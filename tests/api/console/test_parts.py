"""What pages are made of: pictures, words, documentation, files."""

import hashlib
import math
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.api import overview, voters
from p2pnodes.api.console import Console, console_url, drawing, guides, rendering
from p2pnodes.api.console.assets import STATIC, assets
from p2pnodes.api.console.drawing import MESH_WIDTH, PEERS_DRAWN_MAX, VISIBLE, WIDTH
from p2pnodes.documentation import Topic, topics
from p2pnodes.model.inventory import Mandate, Weights
from tests.fake_daemon import FakeDaemon
from tests.support import NETWORK, NOW_MS, NOW_S, electorate, hotkey

VENDORED: Final = {
    "vendor/htmx.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
    "vendor/idiomorph-ext.min.js": "5811b9a7eda14878b7dab4378bf60432e1bb6f11fcfb970cc26540642650181e",
}
"""SHA-256 of the files as the npm registry has them, see static/vendor/README.md."""


def peer(**changes: Any) -> dict[str, Any]:
    return {
        "hotkey": "5P",
        "url": "http://p",
        "connected": True,
        "link": "eager",
        "same_vector": True,
        "same_electorate": True,
        "same_checkpoint": True,
        "same_state_root": True,
        "we_lack": 0,
        "peer_lacks": 0,
        **changes,
    }


class TestAgreement:
    """Whether peers show the same inventory, and by what they differ."""

    @pytest.mark.parametrize(
        ("changes", "state", "by"),
        [
            ({}, "equal", []),
            ({"same_vector": False, "same_state_root": False}, "differs", ["vector"]),
            ({"same_electorate": False, "same_state_root": False}, "differs", ["electorate"]),
            ({"same_vector": False, "same_electorate": False}, "differs", ["vector", "electorate"]),
            ({"same_checkpoint": False, "same_state_root": False}, "differs", ["checkpoint"]),
            ({"same_state_root": False}, "diverged", []),
            ({"same_vector": None}, "not heard", []),
            ({"connected": False, "last_error": "refused"}, "not connected", []),
        ],
    )
    def test_one_peer(self, changes: dict[str, Any], state: str, by: list[str]) -> None:
        (found,) = overview.agreement([peer(**changes)])["peers"]
        assert (found["state"], found["by"]) == (state, by)
        assert bool(found["why"]) == (state != "equal")

    @pytest.mark.parametrize(
        ("peers", "state"),
        [
            ([], "alone"),
            ([peer(connected=False)], "alone"),
            ([peer(), peer(connected=False)], "equal"),
            ([peer(), peer(same_vector=False)], "differs"),
            ([peer(same_vector=False), peer(same_state_root=False)], "diverged"),
        ],
    )
    def test_the_worst_of_them_counts(self, peers: list[dict[str, Any]], state: str) -> None:
        assert overview.agreement(peers)["state"] == state

    def test_observers_do_not_count(self) -> None:
        """Anybody can be one, and claim to see something else."""
        found = overview.agreement([peer(), peer(observer=True, same_state_root=False)])
        assert (found["state"], found["counts"]["equal"], found["counts"]["diverged"]) == ("equal", 1, 0)
        assert [each["state"] for each in found["peers"]] == ["equal", "diverged"], "its own row says so"

    def test_a_ban_is_the_reason_before_an_old_error(self) -> None:
        banned = peer(connected=False, ban_reason="flood: pings", last_error="refused")
        assert overview.agreement([banned])["peers"][0]["why"] == "flood: pings"

    def test_so_many_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(overview, "PEERS_MAX", 2)
        found = overview.agreement([peer()] * 5)
        assert (len(found["peers"]), found["left_out"]) == (2, 3)


class TestVoters:
    """Why a validator is not enrolled, and what is told of many."""

    @pytest.mark.parametrize(
        ("window", "why"),
        [
            ((NOW_S + 1, NOW_S + 9), "its delegation has not begun at the pinned block's time"),
            ((NOW_S - 9, NOW_S - 1), "its delegation had ended by the pinned block's time"),
            ((0, 2**60), ""),
        ],
    )
    def test_the_reason_is_said(self, window: tuple[int, int], why: str) -> None:
        mandates = {hotkey("//validator0").public_key: Mandate((window,), NOW_MS << 16)}
        found = voters.electorate(Weights(NETWORK, electorate(), mandates), mandates, {}, None)
        (own,) = [each for each in found["validators"] if each["hotkey"] == hotkey("//validator0").address]
        assert (own["why"], own["enrolled"], own["own"]) == (why, not why, False)

    def test_so_many_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(voters, "VOTERS_MAX", 2)
        found = voters.electorate(Weights(NETWORK, electorate(), {}), {}, {}, None)
        assert (len(found["validators"]), found["left_out"]) == (2, 1)

    def test_who_lost_the_permit_at_this_block_is_in_grace(self) -> None:
        before = electorate(100)
        now = electorate(200, NOW_MS + 1000, stakes={"//validator0": 100}, previous=before)
        found = voters.electorate(Weights(NETWORK, now, {}), {}, {}, None)
        assert [each["permit"] for each in found["validators"]].count("grace") == 2
        assert found["previous"]["block"] == 100


class TestBars:
    """Parts of a whole, side by side."""

    @given(st.lists(st.integers(0, 10**12), min_size=1, max_size=6), st.none() | st.integers(0, 10**13))
    def test_they_fit_and_none_is_lost(self, values: list[int], whole: int | None) -> None:
        parts = [(str(index), float(value)) for index, value in enumerate(values)]
        found = drawing.bars(parts, whole)
        assert [segment.kind for segment in found] == [kind for kind, value in parts if value]
        assert all(segment.width >= VISIBLE - 0.01 for segment in found)
        assert sum(segment.width for segment in found) <= WIDTH + 0.1
        for left, right in pairwise(found):
            assert math.isclose(left.x + left.width, right.x, abs_tol=0.03)

    def test_nothing_is_nothing(self) -> None:
        assert drawing.bars([("a", 0), ("b", 0)], 0) == []
        assert drawing.bars([("a", 0)], 100) == []


class TestMesh:
    """Peers around this daemon."""

    @pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 7, 17, PEERS_DRAWN_MAX, 200])
    def test_all_are_within_the_picture_and_apart(self, count: int) -> None:
        found = drawing.mesh([{**peer(), "said": {"state": "equal"}}] * count)
        assert len(found.spots) == min(count, PEERS_DRAWN_MAX)
        assert all(0 < spot.x < MESH_WIDTH and 0 < spot.y < found.height for spot in found.spots)
        assert len({(spot.x, spot.y) for spot in found.spots}) == len(found.spots)

    def test_a_peer_without_a_session_has_no_line(self) -> None:
        (spot,) = drawing.mesh([{**peer(connected=False), "said": {"state": "equal"}}]).spots
        assert (spot.link, spot.state) == ("none", "equal")


class TestWords:
    """Figures for people."""

    @pytest.mark.parametrize(
        ("share", "text"), [(0, "0%"), (1, "100%"), (0.5, "50%"), (1 / 3, "33.3%"), (0.000001, "<0.1%")]
    )
    def test_shares(self, share: float, text: str) -> None:
        assert rendering.percent(share) == text

    @pytest.mark.parametrize(
        ("count", "text"),
        [(None, "\N{EN DASH}"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**50, "1024.0 TiB")],
    )
    def test_sizes(self, count: int | None, text: str) -> None:
        assert rendering.size(count) == text

    def test_what_cannot_be_seen_is_shown(self) -> None:
        assert rendering.visible("a\u202eb\x00\u200bc") == "a\\u202eb\\x00\\u200bc"
        assert rendering.visible("a\u3164\u115f\u2800\u034f") == "a\\u3164\\u115f\\u2800\\u034f"
        assert rendering.visible("déjà vu ✓") == "déjà vu ✓"

    def test_a_moment_that_no_date_can_name_is_the_last_one(self) -> None:
        assert rendering.utc(2**60) == "9999-12-31T23:59:59Z"

    def test_addresses_leave_out_what_is_empty(self) -> None:
        assert rendering.url("nodes", status="", search=None, sort="a b&c") == "/console/nodes?sort=a+b%26c"

    def test_where_the_console_is(self) -> None:
        assert console_url(["/run/admin.sock"]) is None
        assert console_url(["/run/admin.sock", ("127.0.0.1", 9464)]) == "http://127.0.0.1:9464/console/"


class TestGuides:
    """Documentation as pages: Markdown alone."""

    @pytest.fixture
    def rendered(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        def render(markdown: str) -> guides.Guide:
            monkeypatch.setattr(guides, "text", lambda _: markdown)
            return guides.guide.__wrapped__(Topic("a", "A", "About a"))

        return render

    def test_html_is_text(self, rendered: Any) -> None:
        body = rendered("# T\n\n<script>x</script> and <b>y</b>\n\n```\n<i>\n```\n").body
        assert "<script>" not in body
        assert "<b>" not in body
        assert "&lt;i&gt;" in body

    def test_links_lead_to_pages_or_nowhere(self, rendered: Any) -> None:
        body = rendered(
            "[v](validators.md#as-a-service) [s](../api/admin.py) [e](files/nginx.conf) [w](https://example.org)"
            " [j](javascript:alert(1)) ![p](picture.png)"
        ).body
        assert '<a href="/console/docs/validators#as-a-service">v</a>' in body
        assert body.count("<a ") == 2
        assert 'rel="noreferrer noopener"' in body
        assert "<img" not in body

    def test_headings_have_the_anchors_that_links_use(self, rendered: Any) -> None:
        found = rendered("# T\n\n## As a service\n\n### `run --config`, twice\n\n## As a service\n")
        assert [heading.anchor for heading in found.headings] == [
            "as-a-service",
            "run---config-twice",
            "as-a-service-1",
        ]

    def test_what_is_wide_is_scrolled_by_keyboard(self, rendered: Any) -> None:
        body = rendered("| a | b |\n| --- | --- |\n| 1 | 2 |\n\n```\nx\n```\n").body
        assert body.count('tabindex="0"') == 2
        assert "</table></div>" in body


class TestFiles:
    """What ships beside the pages."""

    def test_all_are_read_when_the_console_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An upgrade of the package under a running daemon does not mix its files with this code."""
        for each in (rendering.environment, guides.guide, assets):
            each.cache_clear()
        Console(FakeDaemon())
        assert not rendering.environment().auto_reload
        monkeypatch.setattr(Path, "read_text", None)
        monkeypatch.setattr(Path, "read_bytes", None)
        monkeypatch.setattr("builtins.open", None)
        found = rendering.environment()
        for name in found.list_templates():
            found.get_template(name)
        assert assets()
        assert all(guides.guide(each).body for each in topics())

    def test_vendored_scripts_are_as_published(self) -> None:
        for name, expected in VENDORED.items():
            assert hashlib.sha256(assets()[name].content).hexdigest() == expected
        assert {name for name in assets() if name.startswith("vendor/")} == set(VENDORED)

    def test_each_has_its_licence_and_a_line(self) -> None:
        readme = (STATIC / "vendor" / "README.md").read_text()
        for name in VENDORED:
            path = STATIC / name
            assert f"`{path.name}`" in readme
            assert (
                (path.with_name(path.name.removesuffix(".min.js") + ".LICENSE")).read_text().startswith("Zero-Clause")
            )

    def test_own_scripts_write_no_markup(self) -> None:
        for name in ("console.js", "theme.js"):
            text = assets()[name].content.decode()
            for forbidden in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
            ):
                assert forbidden not in text
