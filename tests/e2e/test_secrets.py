"""A daemon's secrets are in its key files and its memory, and nowhere else, in no form."""

import asyncio
import base64
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import base58
import bip39
import pytest

from p2pnodes.chain.wallet import load_node_key
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from p2pnodes.model.keys import Hotkey
from tests.e2e.single import Single, settings_of, write_electorate
from tests.e2e.waiting import DEADLINE_S, eventually
from tests.support import hotkey

PHRASE: Final = "legal winner thank year wave sausage worth useful legal winner thank yellow"
"""A test vector of BIP-39: everybody knows it, and nothing here would write it by chance."""

SEED: Final = bytes(bip39.bip39_to_mini_secret(PHRASE, "", "en"))
VALIDATOR: Final = Hotkey.from_seed(SEED)
PASSWORD: Final = "correct-horse-battery"
ADMIN: Final = (
    "/status", "/peers", "/forks", "/keys/request", "/metrics", "/nodes", "/claims", "/verdicts", "/placements",
    "/events",
)  # fmt: skip
PUBLIC: Final = (
    "/nodes/",
    "/nodes/?detailed=true",
    "/nodes/supported",
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/docs",
)


def forms(secret: bytes) -> set[bytes]:
    """What 32 bytes or more look like in a text, a log, a dump or a database: any of these, wherever it begins."""
    assert len(secret) >= 32
    found = {secret, secret.hex().encode(), secret.hex().upper().encode(), base58.b58encode(secret)}
    for before in range(3):  # base64 of something that the secret is a part of
        encoded = base64.b64encode(bytes(before) + secret)[4 if before else 0 : len(secret)]
        found |= {encoded, encoded.translate(bytes.maketrans(b"+/", b"-_"))}
    numbers = ", ".join(map(str, secret[:16]))
    return found | {numbers.encode(), numbers.replace(" ", "").encode(), repr(secret)[2:-1].encode()}


def needles(*secrets: bytes) -> set[bytes]:
    return set().union(*map(forms, secrets)) | {PHRASE.encode(), " ".join(PHRASE.split()[3:7]).encode()}


def found_in(content: bytes, searched: set[bytes]) -> set[bytes]:
    return {needle for needle in searched if needle in content}


def write_wallet(path: Path, **changes: Any) -> None:
    """The validator's hotkey as btcli writes it, with every form of the secret in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    fields = {
        "accountId": f"0x{VALIDATOR.public_key.hex()}",
        "publicKey": f"0x{VALIDATOR.public_key.hex()}",
        "privateKey": f"0x{VALIDATOR.secret_key.hex()}",
        "secretPhrase": PHRASE,
        "secretSeed": f"0x{SEED.hex()}",
        "ss58Address": VALIDATOR.address,
    }
    path.write_text(json.dumps({**fields, **changes}))


@pytest.fixture
def daemon(tmp_path: Path) -> Single:
    """A validator with a wallet, at the most talkative log level."""
    settings = settings_of(tmp_path)
    (tmp_path / "hotkey").unlink()
    del settings["hotkey_file"]
    write_wallet(tmp_path / "wallets" / "validator" / "hotkeys" / "default")
    settings |= {"wallet": "validator", "wallet_path": "wallets", "log": {"format": "json", "level": "debug"}}
    settings["api"] = {"allow_private_hosts": True}
    write_electorate(tmp_path / "electorate.toml", validators=[{"hotkey": VALIDATOR.address, "stake": 100}])
    return Single(tmp_path, settings)


async def command(*arguments: object) -> bytes:
    """All that a command prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "p2pnodes", *map(str, arguments),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    stdout, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 0, stdout
    return stdout


async def answers(daemon: Single, url: str) -> dict[str, bytes]:
    """Everything that the daemon answers, by its path."""
    found: dict[str, bytes] = {}
    for path in ADMIN:
        answer = await daemon.ask(path)
        found[path] = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
    async with aiohttp.ClientSession(url) as session:
        for path in PUBLIC:
            async with session.get(path) as response:
                found[f"public {path}"] = await response.read()
    return found


async def test_no_secret_of_a_running_daemon_leaves_it(daemon: Single) -> None:
    """Log at debug level, answers, commands, files, arguments and environment, of a daemon that signs and votes."""
    directory = daemon.directory
    try:
        url = await daemon.listening()
        async with MinerClient([url], hotkey("//Alice")) as client:
            registration = await client.add(example_server(["a" * 32], server_id="s"))

            async def verified() -> bool:
                return (await client.task_status(registration.task_id)).status == "verified"

            await eventually(verified)
        node_key = load_node_key(directory / "data" / "node.key")
        searched = needles(SEED, VALIDATOR.secret_key, VALIDATOR.secret_key[:32], node_key.secret_key[:32])

        outputs = await answers(daemon, url)
        config = ("--config", daemon.config)
        for arguments in (
            ("config", "show"), ("config", "show", "--json"), ("config", "check"), ("status",), ("status", "--json"),
            ("peers", "--json"), ("keys", "show"), ("keys", "show", "--json"), ("events", "--json"), ("db", "verify"),
            ("keys", "request", "--out", directory / "request.json"),
        ):  # fmt: skip
            outputs[" ".join(map(str, arguments))] = await command(*arguments, *config)
        process = Path(f"/proc/{daemon.pid}")
        if process.exists():
            outputs["cmdline"] = (process / "cmdline").read_bytes()
        if process.exists() and os.geteuid() == 0:
            outputs["environ"] = (process / "environ").read_bytes()
        outputs |= {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    finally:
        assert await daemon.stop() == 0
    outputs |= {f"{path} (stopped)": path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    outputs["log"] = daemon.log.encode()

    assert '"level": "debug"' in daemon.log
    assert (directory / "data" / "p2pnodes.db").stat().st_size > 10_000
    leaks = {name: found for name, content in outputs.items() if (found := found_in(content, searched))}
    keys = {directory / "data" / "node.key", directory / "wallets" / "validator" / "hotkeys" / "default"}
    assert leaks.keys() == {
        f"{path}{state}" for path in keys for state in ("", " (stopped)")
    }  # it does find them there
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)


@pytest.mark.parametrize(
    "changes",
    [
        {"ss58Address": hotkey("//Alice").address},
        {"publicKey": "0x" + "00" * 32},
        {"secretSeed": SEED.hex()[:-2], "secretPhrase": None, "privateKey": None},
        {"secretPhrase": f"{PHRASE} {PHRASE}", "secretSeed": None},
        {"secretPhrase": [PHRASE], "secretSeed": {"seed": SEED.hex()}},
        {"privateKey": f"0x{VALIDATOR.secret_key.hex()}zz", "secretPhrase": None, "secretSeed": None},
        {"cryptoType": 0},
    ],
    ids=["address", "public key", "short seed", "bad phrase", "wrong types", "bad hex", "crypto type"],
)
async def test_a_key_file_that_is_wrong_is_one_line_without_its_content(
    daemon: Single, changes: dict[str, Any]
) -> None:
    path = daemon.directory / "wallets" / "validator" / "hotkeys" / "default"
    write_wallet(path, **changes)
    line = await daemon.refused()
    assert str(path) in line
    assert found_in(daemon.log.encode(), needles(SEED, VALIDATOR.secret_key, VALIDATOR.secret_key[:32])) == set()


@pytest.mark.parametrize("content", ["{}{}", '{{"secretSeed": "{}"', "[{}]", "\x00{}\xff"])
async def test_a_key_file_that_is_no_json_is_one_line_without_its_content(daemon: Single, content: str) -> None:
    path = daemon.directory / "wallets" / "validator" / "hotkeys" / "default"
    path.write_bytes(content.replace("{}", SEED.hex()).encode("latin-1"))
    await daemon.refused()
    assert found_in(daemon.log.encode(), needles(SEED)) == set()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("hotkey_file", PHRASE), ("hotkey_file", f"0x{SEED.hex()}"), ("wallet", PHRASE), ("node_key_file", SEED.hex())],
    ids=["phrase as a path", "seed as a path", "phrase as a name", "node key as a path"],
)
@pytest.mark.parametrize("where", ["file", "environment"])
async def test_a_secret_where_its_file_belongs_is_refused_and_not_repeated(
    daemon: Single, setting: str, value: str, where: str
) -> None:
    daemon.settings.pop("wallet", None)
    if where == "file":
        daemon.settings[setting] = value
    else:
        daemon.environment[f"P2PNODES_{setting.upper()}"] = value
    line = await daemon.refused()
    assert "secret" in line
    assert found_in(daemon.log.encode(), needles(SEED)) == set()


async def test_credentials_of_a_chain_endpoint_are_not_shown(daemon: Single) -> None:
    """An endpoint that cannot be reached is named, without what is secret in its URL."""
    daemon.settings["electorate"] = {"urls": [f"ws://someone:{PASSWORD}@127.0.0.1:1/rpc?key={PASSWORD}"]}
    line = await daemon.refused()
    assert "127.0.0.1:1" in line
    shown = await command("config", "show", "--json", "--config", daemon.config)
    assert b"127.0.0.1:1" in shown
    for text in (daemon.log.encode(), shown):
        assert PASSWORD.encode() not in text
        assert base64.b64encode(f"someone:{PASSWORD}".encode()) not in text


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells it")
class TestMemory:
    """What holds secrets in memory turns core dumps off before it reads them."""

    def limits(self, pid: int) -> list[str]:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("Max core file size")]
        return line.removeprefix("Max core file size").split()[:2]

    def owner(self, pid: int) -> int:
        return Path(f"/proc/{pid}/environ").stat().st_uid

    @pytest.fixture(autouse=True)
    def _cores_are_on(self) -> Iterator[None]:
        """Without this the limit could be 0 by the machine's own choice."""
        before = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_CORE, before)

    async def test_a_daemon_dumps_no_core_and_its_files_in_proc_are_roots(self, daemon: Single) -> None:
        try:
            await daemon.listening()
            assert self.limits(daemon.pid) == ["0", "0"]
            assert self.owner(daemon.pid) == 0
        finally:
            assert await daemon.stop() == 0

    async def test_a_miners_agent_dumps_no_core(self, tmp_path: Path) -> None:
        write_wallet(tmp_path / "hotkey")
        recording = Path(__file__).parents[1] / "miner" / "recordings" / "h200.json"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "p2pnodes", "miner", "serve", "--hotkey-file", str(tmp_path / "hotkey"),
            "--allow", "any", "--port", "0", "--recording", str(recording),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(DEADLINE_S):
                while b"agent of" not in (line := await process.stdout.readline()):
                    assert line, "the agent ended"
            assert self.limits(process.pid) == ["0", "0"]
            assert self.owner(process.pid) == 0
        finally:
            process.terminate()
            await asyncio.wait_for(process.communicate(), DEADLINE_S)
