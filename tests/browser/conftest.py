"""Chromium before a devnet of three daemons with 10,000 GPUs, and what a test asks of a page.

Debian's ``chromium`` must be on PATH; where ``TESTS_NEED`` names it, as in CI, it is a failure that it is not. Pictures
of every page land in ``test-output/console``, or in the directory that ``TESTS_OUTPUT`` names.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import MINERS, Devnet
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from tests.e2e.waiting import eventually
from tests.support import hotkey, program

GPUS: Final = 10_000
GPUS_PER_SERVER: Final = 10
ADDED_AT_ONCE: Final = 16
FLAGS: Final = (
    "--no-sandbox",  # Chromium's own sandbox needs privileges that test machines do not give
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ANSWER_MS_MAX: Final = 30_000.0
"""How long a page is waited for; a machine that is busy with other tests is slow."""

OUTPUT: Final = Path(os.environ.get("TESTS_OUTPUT", Path(__file__).parents[2] / "test-output")) / "console"
SIZES: Final = {"wide": (1440, 900), "tablet": (768, 1024), "phone": (390, 844)}


class Network(NamedTuple):
    """A devnet whose first daemon has its console on a port."""

    devnet: Devnet
    console: str


class Trouble:
    """What went wrong in a page that nobody sees: errors in its console, requests that failed or went elsewhere."""

    def __init__(self, page: Page, host: str) -> None:
        self.found: list[str] = []
        self._host = host
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("requestfailed", self._failed)
        page.on("request", self._asked)
        page.on("response", self._answered)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.found.append(f"{message.type}: {message.text}")

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # who leaves a page ends what it asked for, its stream of events too
            self.found.append(f"failed: {request.url} {request.failure}")

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).netloc != self._host:
            self.found.append(f"elsewhere: {request.url}")

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self.found.append(f"{response.status}: {response.url}")


Open = Callable[..., Awaitable[tuple[Page, Trouble]]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    path = program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def network(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    """Three daemons that hold 10,000 GPUs, which miners registered with the first one."""
    net = Devnet(tmp_path_factory.mktemp("net"), free_ports(3), report=lambda _: None)
    ports = free_ports(3)
    for peer, port in zip(net.peers, ports, strict=True):
        peer.environment |= {
            "P2PNODES_ADMIN__PORT": str(port),
            "P2PNODES_API__HOTKEY_BURST": "100000",
            "P2PNODES_API__ADDRESS_BURST": "100000",
        }
    await net.start()
    try:
        await register(net, GPUS // GPUS_PER_SERVER)

        async def all_hold_all() -> bool:
            states = [await peer.status() for peer in net.peers]
            verified = await net.peers[0].ask("/overview")
            return {state["nodes"] for state in states} == {GPUS} and verified["gpus"]["idle"] == GPUS

        await eventually(all_hold_all)
        yield Network(net, f"http://127.0.0.1:{ports[0]}/console/")
    finally:
        await net.stop()


async def register(net: Devnet, servers: int) -> None:
    """Register so many servers with the first daemon, by all four miners."""
    at_once = asyncio.Semaphore(ADDED_AT_ONCE)

    async def each(client: MinerClient, index: int) -> None:
        uuids = [f"gpu-{index:05}-{place}" for place in range(GPUS_PER_SERVER)]
        async with at_once:
            await client.add(example_server(uuids, server_id=f"rack-{index:04}"))

    for number, uri in enumerate(MINERS):
        async with MinerClient([net.urls[0]], hotkey(uri)) as client, asyncio.TaskGroup() as tasks:
            for index in range(number, servers, len(MINERS)):
                tasks.create_task(each(client, index))


@asynccontextmanager
async def opened(
    browser: Browser, url: str, *, size: str = "wide", theme: str = "light"
) -> AsyncIterator[tuple[Page, Trouble]]:
    """A new browser profile with one page, loaded and live."""
    width, height = SIZES[size]
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
    )
    context.set_default_timeout(ANSWER_MS_MAX)
    try:
        page = await context.new_page()
        trouble = Trouble(page, urlsplit(url).netloc)
        await page.goto(url)
        await live(page)
        yield page, trouble
    finally:
        await context.close()


async def live(page: Page) -> None:
    """Wait until the page hears of what happens."""
    await page.wait_for_selector('#link[data-state="live"]')
