"""The console as operators use it: every page, live, by keyboard, through a restart of its daemon."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from tests.browser.conftest import ANSWER_MS_MAX, OUTPUT, SIZES, Network, Trouble, live, opened
from tests.support import hotkey

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

expect.set_options(timeout=ANSWER_MS_MAX)

PAGES: Final = {
    "overview": "",
    "nodes": "nodes",
    "nodes-filtered": "nodes?search=rack-0042&sort=uuid",
    "nodes-empty": "nodes?search=nowhere",
    "node": "nodes/gpu-00042-3",
    "claims": "claims",
    "peers": "peers",
    "events": "events",
    "electorate": "electorate",
    "docs": "docs",
    "doc": "docs/validators",
    "keyboard": "keyboard",
}
AXE: Final = Path(__file__).with_name("vendor") / "axe.min.js"


@pytest_asyncio.fixture(loop_scope="session")
async def nodes(chromium: Browser, network: Network) -> AsyncIterator[tuple[Page, Trouble]]:
    """The page of all GPUs."""
    async with opened(chromium, f"{network.console}nodes") as found:
        yield found


async def add(network: Network, peer: int, uuid: str) -> None:
    """Register one GPU with one of the daemons."""
    async with MinerClient([network.devnet.urls[peer]], hotkey("//Alice")) as client:
        await client.add(example_server([uuid], server_id=uuid))


async def shown(page: Page) -> list[str]:
    """GPUs of the table, in order."""
    return await page.locator('#live tbody th[data-label="GPU"]').all_inner_texts()


class TestPages:
    """Each page loads without an error, asks nobody else, is accessible, and looks as the pictures show."""

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("theme", ["light", "dark"])
    async def test_each_loads_without_trouble(self, chromium: Browser, network: Network, size: str, theme: str) -> None:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        async with opened(chromium, network.console, size=size, theme=theme) as (page, trouble):
            for name, path in PAGES.items():
                await page.goto(network.console + path)
                await live(page)
                await expect(page.locator("h1")).to_be_visible()
                assert trouble.found == []
                wider = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wider <= 0, f"{name} is {wider} px too wide"
                await page.screenshot(path=OUTPUT / f"{name}-{theme}-{size}.png", full_page=size != "phone")

    @pytest.mark.parametrize("theme", ["light", "dark"])
    async def test_none_breaks_a_rule_of_accessibility(self, chromium: Browser, network: Network, theme: str) -> None:
        async with opened(chromium, network.console, theme=theme) as (page, _):
            for name, path in PAGES.items():
                await page.goto(network.console + path)
                await live(page)
                await page.evaluate(AXE.read_text())
                found: Any = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
                broken = {
                    f"{each['id']}: {node['html'][:160]}" for each in found["violations"] for node in each["nodes"]
                }
                assert broken == set(), name

    async def test_without_scripts_it_can_be_read_and_filtered(self, chromium: Browser, network: Network) -> None:
        context = await chromium.new_context(java_script_enabled=False)
        page = await context.new_page()
        await page.goto(f"{network.console}nodes")
        await page.fill("#search", "gpu-00007-7")
        await page.press("#search", "Enter")
        await page.wait_for_url("**/nodes?*search=gpu-00007-7*")
        assert await shown(page) == ["gpu-00007-7"]
        await context.close()


class TestLive:
    """What happens on the network shows by itself."""

    async def test_a_gpu_that_another_peer_took_appears(self, network: Network, nodes: tuple[Page, Trouble]) -> None:
        page, trouble = nodes
        await page.evaluate("window.stays = true")
        await add(network, 1, "gpu-new-1")
        await expect(page.locator("#live")).to_contain_text("gpu-new-1")
        assert await page.evaluate("window.stays")
        assert trouble.found == []

    async def test_the_counts_of_the_overview_follow(self, chromium: Browser, network: Network) -> None:
        async with opened(chromium, network.console) as (page, _):
            total = page.locator(".tile .figure").first
            before = int((await total.inner_text()).replace(",", ""))
            await add(network, 2, "gpu-new-2")
            await expect(total).to_have_text(f"{before + 1:,}")

    async def test_the_tail_shows_events_pauses_and_filters(self, chromium: Browser, network: Network) -> None:
        async with opened(chromium, f"{network.console}events?kind=add") as (page, trouble):
            rows = page.locator("#tail tbody tr")
            await expect(rows.first).to_contain_text("add")
            top = await rows.first.inner_text()
            await add(network, 1, "gpu-new-3")
            await expect(rows.first).not_to_have_text(top)
            await expect(rows.first).to_contain_text("valid")
            await page.keyboard.press("s")
            held = await rows.first.inner_text()
            await add(network, 1, "gpu-new-4")
            await expect(page.locator("#pause")).to_have_text("Go on (1 new)")
            assert await rows.first.inner_text() == held
            await page.click("#pause")
            await expect(rows.first).not_to_have_text(held)
            kinds = set(await page.locator('#tail [data-label="Kind"]').all_inner_texts())
            assert kinds == {"add"}
            assert trouble.found == []

    async def test_a_tail_that_is_far_behind_begins_anew(self, chromium: Browser, network: Network) -> None:
        """As after a night in a hidden tab: it does not stream all that it missed."""
        async with opened(chromium, f"{network.console}docs") as (page, _):
            streams: list[str] = []
            page.on("request", lambda request: streams.append(request.url) if "/events/stream" in request.url else None)

            async def of_yesterday(route: Route) -> None:
                answer = await route.fetch()
                body = re.sub(r'data-position="\d+"', 'data-position="1"', await answer.text())
                await route.fulfill(response=answer, body=body)

            await page.route("**/console/events", of_yesterday, times=1)
            async with page.expect_request(lambda request: "/events/stream?after=" in request.url):
                await page.goto(f"{network.console}events")
            assert "after=1" not in {url.partition("?")[2] for url in streams}

    async def test_a_page_is_fetched_anew_when_its_stream_begins(self, chromium: Browser, network: Network) -> None:
        """What came after it was rendered and before the stream began is told by nothing else."""
        docs = f"{network.console}docs"  # which does not ask by itself
        async with (
            opened(chromium, f"{network.console}nodes") as (page, _),
            page.expect_request(lambda request: request.url == docs and "hx-request" in request.headers),
        ):
            await page.goto(docs)

    async def test_the_tail_goes_on_behind_a_restart(self, chromium: Browser, network: Network) -> None:
        async with opened(chromium, f"{network.console}events") as (page, _):
            peer = network.devnet.peers[0]
            peer.kill()
            await expect(page.locator("#link")).to_have_text("Reconnecting…")
            await live(page)
            await network.devnet.ready(peer)
            await add(network, 1, "gpu-new-7")
            await expect(page.locator("#tail tbody tr .kind", has_text="add").first).to_be_visible()

            async def positions() -> list[str]:
                return await page.locator('#tail [data-label="Position"]').all_inner_texts()

            await expect(page.locator("#tail tbody tr").nth(3)).to_be_visible()
            found = [int(text.replace(",", "")) for text in await positions()]
            assert found == sorted(set(found), reverse=True)

    async def test_a_hidden_page_asks_for_nothing(self, network: Network, nodes: tuple[Page, Trouble]) -> None:
        page, _ = nodes
        hide = "Object.defineProperty(document, 'hidden', {value: HIDDEN, configurable: true});"
        tell = "document.dispatchEvent(new Event('visibilitychange'))"
        await page.evaluate(hide.replace("HIDDEN", "true") + tell)
        await expect(page.locator("#link")).to_have_text("Paused")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await add(network, 1, "gpu-new-5")
        async with page.expect_request("**/events/stream*") as again:
            await page.evaluate(hide.replace("HIDDEN", "false") + tell)
        await again.value
        assert len([url for url in asked if "/events/stream" not in url]) <= 1
        await expect(page.locator("#live")).to_contain_text("gpu-new-5")

    async def test_it_survives_its_daemons_restart(self, network: Network, nodes: tuple[Page, Trouble]) -> None:
        page, _ = nodes
        peer = network.devnet.peers[0]
        await page.evaluate("window.stays = true")
        peer.kill()
        await expect(page.locator("#link")).to_have_text("Reconnecting…")
        await expect(page.locator("#stale")).to_be_visible()
        await page.screenshot(path=OUTPUT / "nodes-reconnecting.png")
        await live(page)
        await expect(page.locator("#stale")).to_be_hidden()
        await network.devnet.ready(peer)
        await add(network, 1, "gpu-new-6")
        await expect(page.locator("#live")).to_contain_text("gpu-new-6")
        assert await page.evaluate("window.stays")


class TestNodes:
    """Ten thousand GPUs: found, narrowed down, sorted, paged."""

    async def test_search_narrows_down_while_one_types(self, nodes: tuple[Page, Trouble]) -> None:
        page, trouble = nodes
        await page.evaluate("window.stays = true")
        await page.locator("#search").press_sequentially("RACK-0123")
        await expect(page.locator(".summary")).to_contain_text("1\N{EN DASH}10 of 10 GPUs")
        assert set(await shown(page)) == {f"gpu-00123-{place}" for place in range(10)}
        assert page.url.endswith("/console/nodes?search=RACK-0123")
        assert await page.evaluate("window.stays")
        await page.select_option("#busy", "true")
        await expect(page.locator("#live")).to_contain_text("Nothing matches")
        await page.go_back()
        await expect(page.locator(".summary")).to_contain_text("1\N{EN DASH}10 of 10 GPUs")
        await page.click("text=clear")
        await expect(page.locator(".summary")).to_contain_text(re.compile("1\N{EN DASH}50 of 10,0[0-9][0-9] GPUs"))
        assert trouble.found == []

    async def test_columns_sort_and_pages_turn(self, nodes: tuple[Page, Trouble]) -> None:
        page, trouble = nodes
        await page.click("thead >> text=GPU")
        await expect(page.locator("thead th").first).to_have_attribute("aria-sort", "ascending")
        first = await shown(page)
        assert first == sorted(first)
        assert first[0] == "gpu-00000-0"
        await page.keyboard.press("]")
        await expect(page.locator(".summary")).to_contain_text("51\N{EN DASH}100 of")
        second = await shown(page)
        assert second == sorted(second)
        assert not set(first) & set(second)
        await page.keyboard.press("[")
        await expect(page.locator(".summary")).to_contain_text("1\N{EN DASH}50 of")
        assert await shown(page) == first
        await page.fill("#search", "rack-0001")
        await expect(page.locator(".summary")).to_contain_text("1\N{EN DASH}10 of 10")
        assert "sort=uuid" in page.url
        assert trouble.found == []

    async def test_a_gpu_leads_to_its_claim_and_back(self, nodes: tuple[Page, Trouble]) -> None:
        page, trouble = nodes
        await page.goto(page.url + "/gpu-00042-3")
        await expect(page.locator("h1")).to_have_text("gpu-00042-3")
        await page.click("#live dl a.id >> nth=1")
        await expect(page.locator("h1")).to_contain_text("Claim")
        await expect(page.locator("#live")).to_contain_text("gpu-00042-9")
        assert trouble.found == []

    async def test_a_proof_can_be_downloaded(self, chromium: Browser, network: Network) -> None:
        async with opened(chromium, f"{network.console}nodes/gpu-00042-3") as (page, _):
            async with page.expect_download() as download:
                await page.click("text=Download")
            assert (await download.value).suggested_filename == "proof-gpu-00042-3.json"


class TestKeyboard:
    """No mouse is needed."""

    async def test_the_first_stop_skips_to_the_content(self, nodes: tuple[Page, Trouble]) -> None:
        page, _ = nodes
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await expect(page.locator(".skip")).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await expect(page.locator("#main")).to_be_focused()

    async def test_single_keys(self, nodes: tuple[Page, Trouble]) -> None:
        page, _ = nodes
        await page.keyboard.press("/")
        await expect(page.locator("#search")).to_be_focused()
        await page.keyboard.type("g?")  # typed, not obeyed
        await expect(page.locator("#search")).to_have_value("g?")
        await page.keyboard.press("Escape")
        for keys, title in (("gp", "Peers"), ("ge", "Events"), ("gv", "Electorate"), ("go", "Overview")):
            for key in keys:
                await page.keyboard.press(key)
            await expect(page.locator("h1")).to_have_text(title)
        await page.keyboard.press("?")
        await expect(page.locator("h1")).to_have_text("Keyboard")

    async def test_single_keys_can_be_turned_off(self, chromium: Browser, network: Network) -> None:
        async with opened(chromium, f"{network.console}keyboard") as (page, _):
            await page.uncheck("#keys-on")
            await page.keyboard.press("Escape")
            await page.evaluate("document.activeElement.blur()")
            await page.keyboard.press("g")
            await page.keyboard.press("n")
            await page.keyboard.press("t")
            assert page.url.endswith("/keyboard")
            await expect(page.locator("#theme")).to_have_text("Theme: auto")

    async def test_every_control_shows_that_it_has_the_focus(self, nodes: tuple[Page, Trouble]) -> None:
        page, _ = nodes
        for _ in range(16):
            await page.keyboard.press("Tab")
            outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", await page.evaluate("document.activeElement.outerHTML")

    async def test_the_theme_is_kept(self, nodes: tuple[Page, Trouble]) -> None:
        page, _ = nodes
        ground = "getComputedStyle(document.body).color"
        light = await page.evaluate(ground)
        await page.click("#theme")
        await page.click("#theme")
        await expect(page.locator("#theme")).to_have_text("Theme: dark")
        assert await page.evaluate(ground) != light
        await page.reload()
        await expect(page.locator("#theme")).to_have_text("Theme: dark")
        assert await page.evaluate(ground) != light
