"""A supervised daemon tells how it is: ready, alive, reading its settings again, stopping."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
import tomli_w

from tests.e2e.single import Single, settings_of, write_electorate
from tests.e2e.waiting import DEADLINE_S, eventually

WATCHDOG_S = 3.0


class Manager:
    """The supervisor's end: messages in the order that they came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[dict[str, str]] = []
        self.held: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._read = 0

    async def hears(self, field: str) -> dict[str, str]:
        """The next message with a field; those before it are passed over."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for number in range(self._read, len(self.messages)):
                    if field in self.messages[number]:
                        self._read = number + 1
                        return self.messages[number]
                await self._readable()
                said, fds, _, _ = socket.recv_fds(self._socket, 4_096, 8)
                self.messages.append(dict(line.split("=", 1) for line in said.decode().split("\n")))
                self.held += fds

    async def _readable(self) -> None:
        """Wait for a message, as ``sock_recv`` does, which would drop the files that come with it."""
        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        loop.add_reader(self._socket, came.set)
        try:
            await came.wait()
        finally:
            loop.remove_reader(self._socket)

    def close(self) -> None:
        self._socket.close()
        for fd in self.held:
            os.close(fd)


@pytest_asyncio.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


@pytest_asyncio.fixture
async def daemon(tmp_path: Path, manager: Manager) -> AsyncIterator[Single]:
    """The first validator of its network, which has no peer to hear from."""
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
    single = Single(tmp_path, settings_of(tmp_path), environment)
    yield single
    await single.stop()


async def test_it_is_ready_once_it_listens_lives_on_and_stops(daemon: Single, manager: Manager) -> None:
    await daemon.start()
    assert (await manager.hears("STATUS"))["STATUS"] == "opening the database"
    await manager.hears("READY")
    assert '"event":"listening"' in daemon.log.replace(" ", "")
    assert not any("WATCHDOG" in message for message in manager.messages), "no sign of life before it is ready"
    for _ in range(2):
        assert "peers connected" in (await manager.hears("WATCHDOG"))["STATUS"]
    os.kill(daemon.pid, signal.SIGTERM)
    assert (await manager.hears("STOPPING"))["STATUS"] == "stopping"
    assert await daemon.ended() == 0


async def test_the_status_says_why_it_is_not_ready(daemon: Single, manager: Manager, tmp_path: Path) -> None:
    daemon.settings["electorate"]["max_age_s"] = 60
    write_electorate(tmp_path / "electorate.toml", "//validator0", time=int(time.time()) - 3_600)
    await daemon.start()
    await manager.hears("READY")

    async def told() -> bool:
        return (await manager.hears("WATCHDOG"))["STATUS"].startswith("not ready: the electorate is ")

    await eventually(told)


async def test_a_hangup_makes_it_read_its_settings_again(daemon: Single, manager: Manager) -> None:
    await daemon.start()
    await manager.hears("READY")
    daemon.settings["log"]["level"] = "debug"
    daemon.settings["gossip"] = {"view_size": 12}
    rewrite(daemon)
    os.kill(daemon.pid, signal.SIGHUP)
    assert int((await manager.hears("RELOADING"))["MONOTONIC_USEC"]) > 0
    await manager.hears("READY")
    assert (await daemon.until("settings_read_again"))["changed"] == ["log.level"]
    assert (await daemon.until("settings_need_a_restart"))["settings"] == ["gossip.view_size"]


async def test_lines_for_the_journal_begin_with_their_priority(daemon: Single, manager: Manager) -> None:
    log = daemon.directory / "log"
    log.touch()
    daemon.environment["JOURNAL_STREAM"] = f"{log.stat().st_dev}:{log.stat().st_ino}"
    await daemon.start()
    await manager.hears("READY")
    lines = daemon.log.splitlines()
    assert {line[:3] for line in lines} == {"<4>", "<6>"}
    levels = {line[:3]: json.loads(line[3:])["level"] for line in lines}
    assert levels == {"<4>": "warning", "<6>": "info"}


async def test_settings_that_cannot_be_used_change_nothing(daemon: Single, manager: Manager) -> None:
    await daemon.start()
    await manager.hears("READY")
    daemon.settings["log"]["level"] = "loud"
    rewrite(daemon)
    os.kill(daemon.pid, signal.SIGHUP)
    await manager.hears("READY")
    assert "log.level" in (await daemon.until("settings_not_read_again"))["error"]
    await manager.hears("WATCHDOG")


def rewrite(daemon: Single) -> None:
    """Write its settings as they are now."""
    daemon.config.write_text(tomli_w.dumps(daemon.settings))


async def test_a_request_that_comes_while_it_is_down_is_answered_by_the_next_process(
    daemon: Single, manager: Manager
) -> None:
    url = await daemon.listening()
    assert (await manager.hears("FDSTORE"))["FDNAME"] == "http"
    assert len(manager.held) == 1
    os.kill(daemon.pid, signal.SIGKILL)
    await daemon.ended()
    # The kernel takes the connection; nobody is there to answer.
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    daemon.held = tuple(manager.held)
    assert await daemon.listening() == url, "the next one listens where the one before did"
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    before = len(manager.messages)
    await manager.hears("READY")
    assert not any("FDSTORE" in message for message in manager.messages[before:]), "it is held already"
