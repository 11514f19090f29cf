"""``p2pnodes doctor``: everything that is commonly wrong, looked at in one go."""

import asyncio
import os
import random
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from p2pnodes.cli.asking import ask
from p2pnodes.cli.output import (
    ExitCode,
    JsonOption,
    UnreachableError,
    kept_copies,
    print_json,
    print_table,
    say,
)
from p2pnodes.cli.settings import ConfigOption
from p2pnodes.cli.signing import HotkeyFileOption, HotkeyOption, WalletOption, hotkey_settings
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError, StoreError

if TYPE_CHECKING:
    from p2pnodes.config import Settings
    from p2pnodes.doctor import Finding

PROBE_S_MAX: Final = 10.0
"""How long the public address may take to answer."""

CHAIN_S_MAX: Final = 60.0
"""How long the chain's endpoints may take, all of them together."""

DATABASE_S_MAX: Final = 20.0
"""After this long the look into the database is cut off: ``db verify`` looks at all of it."""

LOOKED: Final = "p2pnodes doctor only looks whether it comes through"
"""What the daemon at the public address is told."""

_STEPS_BETWEEN_LOOKS: Final = 100_000
"""SQLite's instructions between two looks at the clock."""


def doctor(
    config: ConfigOption,
    *,
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Ask neither the chain nor the public address; look at this machine alone."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at everything that is commonly wrong with a daemon, and say what to do.

    Configuration, keys, clock, disk, database, ports, the way from outside to this daemon, the chain; and of a running
    daemon its peers, whether it agrees with them, its writes, delegation and verifier. Nothing is changed.

    Exit code 1 when there is a problem; warnings change no exit code. That the daemon does not answer is a problem, but
    none with --offline, as before its first start. Run it as the daemon's user.
    """
    found = list(_examine(config, hotkey_settings(hotkey_file, wallet, hotkey), offline=offline))
    problems = sum(finding.level == "problem" for finding in found)
    if as_json:
        print_json([finding._asdict() for finding in found])
    else:
        print_table(("check", "level", "found", "advice", "code"), [finding._asdict() for finding in found], empty="")
        say(f"problems found: {problems}" if problems else "no problems found")
    raise typer.Exit(ExitCode.FAILED if problems else ExitCode.DONE)


def _examine(config: Path, options: dict[str, Any], *, offline: bool) -> Iterator["Finding"]:
    from p2pnodes import doctor
    from p2pnodes.cli.findings import of_configuration
    from p2pnodes.config import InvalidSettingsError, load_settings
    from p2pnodes.doctor import Finding

    try:
        findings = of_configuration(config, options)
        settings = load_settings(config, options)
    except InvalidSettingsError as error:
        for problem in error.problems:
            advice = "edit it; `p2pnodes config show` explains each setting"
            yield Finding("configuration", "problem", problem, advice, error.code)
        return
    for problem in findings.problems:
        yield Finding("configuration", "problem", problem, "see `p2pnodes config check`", Code.CONFIG_VALUE)
    for warning in findings.warnings:
        yield Finding("configuration", "warning", warning, "see `p2pnodes config check`", Code.CONFIG_WARNING)
    if not findings.problems:
        yield Finding("configuration", "ok", f"{config} can be used")
    yield from _disk(settings)
    yield from _copies(settings)
    yield from _database(settings)
    hidden = False
    try:
        status = ask(settings.admin_socket_path, "/status")
    except UnreachableError as error:
        status = None
        hidden = isinstance(error.__cause__, PermissionError)  # it may run: its ports would be no fault
        advice = "run this as the daemon's user" if hidden else "start it, and run this again: it knows more"
        if offline:
            yield Finding("daemon", "not checked", str(error), advice)
        else:
            yield Finding("daemon", "problem", str(error), advice, error.code)
    if status is None:
        if not hidden:
            yield from _ports(settings)
        if not offline and not findings.problems:
            yield asyncio.run(_chain(settings))
    else:
        yield Finding("daemon", "ok", f"runs for {status['uptime_s']} s, version {status['version']}")
        yield from doctor.of_status(status, time.time())
    if settings.http.url is None:
        unset = "http.url is unset: peers and miners cannot dial this daemon"
        yield Finding("address", "warning", unset, "set it", Code.CONFIG_NO_URL)
    elif not offline:
        yield asyncio.run(_address(settings.http.url, running=status is not None))


def _disk(settings: "Settings") -> Iterator["Finding"]:
    from p2pnodes.cli.findings import nearest
    from p2pnodes.doctor import Finding, of_disk
    from p2pnodes.store.directory import status_of

    path = settings.database_path
    try:
        disk = os.statvfs(nearest(settings.data_dir)[0])
        files = (status_of(path.with_name(path.name + suffix)) for suffix in ("", "-wal"))
        yield of_disk(disk.f_bavail * disk.f_frsize, sum(file.st_size for file in files if file is not None))
    except OSError as error:
        yield Finding("disk", "not checked", f"{settings.data_dir}: {error.strerror}", "run this as the daemon's user")


def _copies(settings: "Settings") -> Iterator["Finding"]:
    """Mention what ``restore`` put aside, which takes as much room as the database and is easily forgotten."""
    from rich.filesize import decimal

    from p2pnodes.doctor import Finding
    from p2pnodes.store import COPY_DAYS_DEFAULT
    from p2pnodes.store.prune import copies

    try:
        found = copies(settings.database_path)
    except StoreError as error:
        yield Finding("copies", "not checked", str(error), "run this as the daemon's user")
        return
    if not found:
        return
    size = decimal(sum(size_bytes for _, size_bytes, _ in found))
    oldest, _, at_s = found[0]
    days = (time.time() - at_s) / 86_400
    what = f"{size} in databases that `restore` put aside, the oldest {days:.0f} days ago: {oldest.name}"
    old = days >= COPY_DAYS_DEFAULT
    yield Finding(
        "copies",
        "warning" if old else "ok",
        what if old else f"{what}; {kept_copies({at_s for *_, at_s in found}, COPY_DAYS_DEFAULT)}",
        "when all is well: `p2pnodes db prune` removes them" if old else "",
    )


def _database(settings: "Settings") -> Iterator["Finding"]:
    """Look whether SQLite finds the file whole, and whether it is this network's."""
    from p2pnodes.doctor import Finding
    from p2pnodes.store.copying import open_ours
    from p2pnodes.store.directory import status_of
    from p2pnodes.store.ledger import stored_network
    from p2pnodes.store.schema import REFILL, require_known

    path = settings.database_path
    deadline_s = time.monotonic() + DATABASE_S_MAX
    try:
        found = status_of(path)
        if found is None or not found.st_size:  # empty where a first start was killed at once
            yield Finding("database", "ok", f"{path}: not there yet, made at the first start")
            return
        connection = open_ours(path)
        try:
            require_known(connection)
            connection.set_progress_handler(lambda: time.monotonic() > deadline_s, _STEPS_BETWEEN_LOOKS)
            held = stored_network(connection)
            (integrity,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except OSError as error:
        yield Finding("database", "not checked", f"{path}: {error.strerror}", "run this as the daemon's user")
        return
    except (sqlite3.Error, StoreError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            yield Finding(
                "database",
                "ok",
                f"no damage found within {DATABASE_S_MAX:g} s",
                "`p2pnodes db verify` looks at all of it",
            )
        else:
            told = isinstance(error, StoreError)  # with what to do
            code = error.code if isinstance(error, StoreError) else Code.DATA_DAMAGED
            found_text = f"{error}" if f"{path}" in f"{error}" else f"{path}: {error}"
            yield Finding("database", "problem", found_text, "" if told else REFILL, code)
        return
    if integrity != "ok":
        yield Finding("database", "problem", f"{path}: SQLite finds it damaged: {integrity}", REFILL, Code.DATA_DAMAGED)
    elif held is not None and held != settings.network.id:
        yield Finding(
            "database", "problem", f"{path} is of network {held.hex()}, the settings say {settings.network.id.hex()}",
            "use that network's parameters, or another data_dir", Code.DATA_OTHER_NETWORK,
        )  # fmt: skip
    else:
        yield Finding("database", "ok", f"SQLite finds {path} whole; `p2pnodes db verify` looks at what it says")


def _ports(settings: "Settings") -> Iterator["Finding"]:
    """Look whether the ports are free that a daemon would take."""
    from p2pnodes.doctor import Finding

    wanted = [(settings.http.host, settings.http.port, "[http] port")]
    if settings.admin.port is not None:
        wanted.append(("127.0.0.1", settings.admin.port, "[admin] port"))
    for host, port, name in wanted:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            yield Finding(
                "port", "problem", f"{host} port {port} cannot be listened on: {error.strerror}",
                f"stop what listens there, or set another {name}", Code.CONFIG_ADDRESS_TAKEN,
            )  # fmt: skip
        else:
            yield Finding("port", "ok", f"{host} port {port} is free")


async def _chain(settings: "Settings") -> "Finding":
    """Read the electorate as a first start does."""
    from p2pnodes.chain.source import make_source
    from p2pnodes.doctor import Finding
    from p2pnodes.store.pins import EMPTY

    advice = "check [electorate], and that this machine may dial out"
    reasons: str | None = None
    try:
        source = make_source(
            settings.electorate,
            settings.network,
            held=lambda: EMPTY,
            now_ms=lambda: time.time_ns() // 1_000_000,
            rng=random.Random(os.urandom(16)),
        )
        try:
            async with asyncio.timeout(CHAIN_S_MAX):
                electorate = await source.poll()
            trouble_ms = source.clock_trouble()
        finally:
            reasons = source.reasons()
            await source.close()
    except TimeoutError:
        return Finding("chain", "problem", reasons or f"no answer within {CHAIN_S_MAX:g} s", advice, Code.CHAIN_UNREAD)
    except P2PNodesError as error:
        return Finding("chain", "problem", str(error), advice, error.code)
    if trouble_ms is not None:
        return Finding(
            "clock",
            "problem",
            f"{-trouble_ms / 1000:+.0f} s off the chain's latest block",
            "set it right (NTP)",
            Code.CHAIN_CLOCK,
        )
    if electorate is None:
        return Finding("chain", "problem", "it has no electorate for this network", advice, Code.CHAIN_UNREAD)
    return _permit(settings, electorate)


def _permit(settings: "Settings", electorate: Any) -> "Finding":
    """Whether the hotkey may speak."""
    from p2pnodes.chain.wallet import read_hotkey_file
    from p2pnodes.doctor import Finding
    from p2pnodes.model.keys import ss58_encode

    found = f"electorate of block {electorate.block}, {len(electorate.stakes)} validators"
    path = settings.hotkey_path
    if settings.role == "observer" or path is None:
        return Finding("chain", "ok", found)
    public_key = read_hotkey_file(path).public_key
    if not electorate.permitted(public_key):
        return Finding(
            "permit", "problem", f"{found}: {ss58_encode(public_key)} holds no validator permit",
            'use the validator\'s wallet, wait for a permit, or set role = "observer"', Code.CHAIN_NO_PERMIT,
        )  # fmt: skip
    return Finding("chain", "ok", f"{found}; the hotkey may validate")


async def _address(url: str, *, running: bool) -> "Finding":
    """Come to this daemon as peers do, from this machine: over its public address, with a WebSocket."""
    import aiohttp

    from p2pnodes.api.app import GOSSIP_PATH
    from p2pnodes.doctor import Finding
    from p2pnodes.gossip.handshake import refusal
    from p2pnodes.outbound import tls_reason

    advice = "check the name, the firewall, and the proxy (`p2pnodes docs --file nginx.conf` is one that works)"
    timeout = aiohttp.ClientTimeout(PROBE_S_MAX)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(f"{url}/healthz", allow_redirects=False) as answer:
                if answer.status != 200:
                    found = f"{url}/healthz answered {answer.status}"
                    return Finding("address", "problem", found, advice, Code.CONFIG_UNREACHABLE)
            async with session.ws_connect(url + GOSSIP_PATH) as socket:
                await socket.send_bytes(refusal(LOOKED))  # else the daemon's log would hold a warning
    except aiohttp.ClientSSLError as error:
        return Finding("address", "problem", f"{url}: {tls_reason(error)}", advice, Code.CONFIG_UNREACHABLE)
    except aiohttp.WSServerHandshakeError as error:
        return Finding(
            "address",
            "problem",
            f"{url}{GOSSIP_PATH} answered {error.status}: WebSockets do not pass",
            advice,
            Code.CONFIG_UNREACHABLE,
        )
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        what = str(error) or f"no answer within {PROBE_S_MAX:g} s"
        if not running:
            return Finding("address", "not checked", f"{url}: {what}; the daemon does not run", "start it first")
        return Finding("address", "problem", f"{url}: {what}", advice, Code.CONFIG_UNREACHABLE)
    return Finding("address", "ok", f"{url} leads here, WebSockets, too; from this machine")
