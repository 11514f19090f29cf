"""``proof export`` and ``proof check``."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from p2pnodes.api.admin import create_admin_app, start_admin
from p2pnodes.metrics import status_registry
from p2pnodes.model import proof
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import Verdict
from p2pnodes.model.keys import ss58_encode
from p2pnodes.model.proof import PROOF_BYTES_MAX, Proof, ProofError
from tests.cli.conftest import Cli, Ended
from tests.fake_daemon import FakeDaemon
from tests.model.proof_scene import GPU_UUIDS, STAKES, Scene
from tests.support import BLOCK, NETWORK, NOW_S, electorate, hotkey

UNCOMPARED = ("not compared with an electorate of your own", "not compared with the one that you mean")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture
def file(scene: Scene, tmp_path: Path) -> Path:
    """A proof that holds."""
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(scene.proof().document()))
    return path


def electorate_file(path: Path, who: Electorate) -> Path:
    """An electorate as a file."""

    def table(pin: Pin) -> dict[str, Any]:
        validators = [{"hotkey": ss58_encode(key), "stake": stake} for key, stake in pin.validators.items()]
        registered = [{"hotkey": ss58_encode(key), "block": block} for key, block in pin.registered.items()]
        return {"block": pin.block, "time": pin.time_ms // 1000, "validators": validators, "registered": registered}

    previous = {"previous": table(who.previous)} if who.previous else {}
    path.write_text(tomli_w.dumps(table(who.current) | previous))
    return path


class TestCheck:
    """What a proof proves is printed and the exit code is 0, or one line says why it does not hold."""

    def test_the_statement_is_for_people(self, cli: Cli, scene: Scene, file: Path) -> None:
        ended = cli("proof", "check", file)
        assert ended.code == 0
        for text in (
            "the proof holds",
            NETWORK.id.hex(),
            "netuid 64, genesis " + "0" * 64,
            f"block {BLOCK} of 2025-11-24T16:00:00.000+00:00, digest {scene.who.digest.hex()}",
            hotkey("//Alice").address,
            f"{scene.claim_id.hex()}, nonce {NOW_S}",
            f"carried by {hotkey('//validator3').address}",
            "by a stake of 70, 70.0 % of 100; needed is 51",
            "that nothing followed",
            *GPU_UUIDS,
        ):
            assert text in ended.out
        votes = [line.split() for line in ended.out.splitlines() if " verified " in line and line.startswith("5")]
        assert [(vote[0], vote[2]) for vote in votes] == [
            (hotkey("//validator0").address, "40"),
            (hotkey("//validator1").address, "30"),
        ]

    def test_json_is_the_statement(self, cli: Cli, scene: Scene, file: Path) -> None:
        found = cli("proof", "check", file, "--json").json
        assert found["network"] == {
            "id": NETWORK.id.hex(),
            "genesis_hash": "0" * 64,
            "netuid": 64,
            "quorum": 0.5,
            "min_share": 0.2,
            "verdict_ttl_s": 86_400,
        }
        assert found["electorate"]["digest"] == scene.who.digest.hex()
        assert (found["claim_id"], found["nonce"]) == (scene.claim_id.hex(), NOW_S)
        assert found["stake"] == {"verified": 70, "weighed": 100, "needed": 51, "permitted": 100}
        assert [gpu["uuid"] for gpu in found["gpus"]] == list(GPU_UUIDS)
        assert found["votes"][0] == {
            "validator": hotkey("//validator0").address,
            "finding": "verified",
            "stake": 40,
            "method": "test",
            "at": "2025-11-24T16:00:00.000+00:00",
            "event_id": scene.votes[0].id.hex(),
        }

    @pytest.mark.parametrize("how", [(), ("--json",)])
    def test_hosts_and_ports_are_not_shown(self, cli: Cli, file: Path, how: tuple[str, ...]) -> None:
        assert "192.0.2.10" not in cli("proof", "check", file, *how).out

    def test_what_was_not_compared_is_a_warning(self, cli: Cli, file: Path) -> None:
        lines = cli("proof", "check", file).err.splitlines()
        assert len(lines) == len(UNCOMPARED)
        for line, warning in zip(lines, UNCOMPARED, strict=True):
            assert line.startswith("p2pnodes: warning: ")
            assert warning in line

    def test_what_was_compared_needs_no_warning(self, cli: Cli, scene: Scene, file: Path, tmp_path: Path) -> None:
        own = electorate_file(tmp_path / "electorate.toml", scene.who)
        ended = cli("proof", "check", file, "--electorate", own, "--network", NETWORK.id.hex().upper())
        assert (ended.code, ended.err) == (0, "")

    def test_both_pins_are_compared(self, cli: Cli, file: Path, tmp_path: Path) -> None:
        before = electorate(BLOCK - 100, 0, stakes={})
        own = electorate_file(tmp_path / "electorate.toml", electorate(stakes=STAKES, previous=before))
        ended = cli("proof", "check", file, "--electorate", own)
        assert ended.code == 1
        assert f"found block {BLOCK}, digest " in ended.error

    @pytest.mark.parametrize("stakes", [{**STAKES, "//validator0": 41}, {"//validator2": 1}])
    def test_another_electorate_is_refused(self, cli: Cli, file: Path, tmp_path: Path, stakes: dict[str, int]) -> None:
        own = electorate_file(tmp_path / "electorate.toml", electorate(stakes=stakes))
        ended = cli("proof", "check", file, "--electorate", own)
        assert (ended.code, ended.out) == (1, "")
        assert "the proof does not hold: its electorate is not yours" in ended.error

    def test_another_network_is_refused(self, cli: Cli, file: Path) -> None:
        ended = cli("proof", "check", file, "--network", "ab" * 16)
        assert (ended.code, ended.out) == (1, "")
        assert f"it is of network {NETWORK.id.hex()}, expected {'ab' * 16}" in ended.error

    def test_a_network_id_is_32_hex_digits(self, cli: Cli, file: Path) -> None:
        ended = cli("proof", "check", file, "--network", "xyz")
        assert ended.code == 2
        assert "32 hex digits" in ended.err

    def test_a_gpu_can_be_asked_for(self, cli: Cli, file: Path) -> None:
        for uuid in GPU_UUIDS:
            assert cli("proof", "check", file, "--gpu", uuid).code == 0
        ended = cli("proof", "check", file, "--gpu", "gpu-z")
        assert (ended.code, ended.out) == (1, "")
        assert ended.error.endswith("it is not of GPU gpu-z; it is of gpu-a, gpu-b")

    def test_a_proof_can_come_on_standard_input(self, cli: Cli, file: Path) -> None:
        assert cli("proof", "check", "-", stdin=file.read_bytes()).code == 0

    def test_a_proof_that_does_not_hold_is_one_line_and_1(self, cli: Cli, scene: Scene, file: Path) -> None:
        brought = scene.proof(without=[scene.votes[0], scene.delegation("//validator0")])
        file.write_text(json.dumps(brought.document()))
        ended = cli("proof", "check", file)
        assert (ended.code, ended.out) == (1, "")
        assert ended.error.startswith(f"{file}: the proof does not hold: validators with a stake of 30 ")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "not JSON"),
            (b"{}", "no proof"),
            (b'{"format": "p2pnodes-proof", "version": 9}', "install a newer one"),
            (b'{"format": "p2pnodes-proof", "\\u001b": 1}', "version: missing"),
            (b" " * (PROOF_BYTES_MAX + 5), "over 8388608 bytes"),
        ],
        ids=["empty", "no proof", "newer", "keys", "large"],
    )
    def test_a_file_that_is_no_proof_is_one_line_and_2(self, cli: Cli, file: Path, content: bytes, reason: str) -> None:
        file.write_bytes(content)
        ended = cli("proof", "check", file)
        assert (ended.code, ended.out) == (2, "")
        assert ended.error.startswith(f"{file}: ")
        assert reason in ended.error

    def test_files_that_cannot_be_read_are_one_line_and_2(self, cli: Cli, file: Path, tmp_path: Path) -> None:
        for arguments, reason in (
            ([tmp_path / "none.json"], "none.json: cannot be read (No such file or directory)"),
            ([tmp_path], "cannot be read (Is a directory)"),
            ([file, "--electorate", tmp_path / "none.toml"], "none.toml: cannot read the electorate"),
            ([file, "--electorate", file], "not an electorate"),
        ):
            ended = cli("proof", "check", *arguments)
            assert (ended.code, ended.out) == (2, "")
            assert reason in ended.error

    def test_what_a_validator_wrote_moves_no_cursor(self, cli: Cli, file: Path) -> None:
        scene = Scene()
        log = scene.logs["//validator2"]
        payload = Verdict(scene.claim_id, "verified", "\x1b[2J", "", 0)
        file.write_text(json.dumps(scene.proof(log.write(payload)).document()))
        ended = cli("proof", "check", file)
        assert ended.code == 0
        assert r"\x1b[2J" in ended.out
        assert "\x1b" not in ended.out


class TestExport:
    """A running daemon's proof is printed as it is, and what it gives away is said."""

    @pytest.fixture
    async def daemon(self, config: Path) -> AsyncIterator[FakeDaemon]:
        daemon = FakeDaemon()
        runner = await start_admin(
            create_admin_app(daemon, status_registry(daemon.status)), config.parent / "data" / "admin.sock"
        )
        yield daemon
        await runner.cleanup()

    async def export(self, cli: Cli, config: Path, uuid: str) -> Ended:
        return await asyncio.to_thread(cli, "proof", "export", uuid, "--config", config)

    async def test_it_can_be_checked(self, cli: Cli, config: Path, daemon: FakeDaemon, scene: Scene) -> None:
        daemon.proofs["gpu/a%?#"] = scene.proof().document()
        ended = await self.export(cli, config, "gpu/a%?#")
        assert ended.code == 0
        assert Proof.decode(ended.out.encode()) == scene.proof()
        (line,) = ended.err.splitlines()
        assert "verification host and port" in line
        assert (await asyncio.to_thread(cli, "proof", "check", "-", stdin=ended.out.encode())).code == 0

    async def test_its_size_is_the_one_that_is_bounded(
        self, cli: Cli, config: Path, daemon: FakeDaemon, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.proofs["u"] = scene.proof().document()
        ended = await self.export(cli, config, "u")
        monkeypatch.setattr(proof, "PROOF_BYTES_MAX", len(ended.out.strip()))
        proof.build(NETWORK, scene.who, scene.claim_id, scene.events())
        monkeypatch.setattr(proof, "PROOF_BYTES_MAX", len(ended.out.strip()) - 1)
        with pytest.raises(ProofError):
            proof.build(NETWORK, scene.who, scene.claim_id, scene.events())

    async def test_a_refusal_is_one_line_with_the_numbers(self, cli: Cli, config: Path, daemon: FakeDaemon) -> None:
        daemon.proofs["u"] = ProofError("a stake of 30 verified the claim; needed is 51")
        ended = await self.export(cli, config, "u")
        assert (ended.code, ended.out) == (1, "")
        assert ended.error == "the daemon answered 409: a stake of 30 verified the claim; needed is 51"

    async def test_an_unknown_gpu_is_one_line(self, cli: Cli, config: Path, daemon: FakeDaemon) -> None:
        ended = await self.export(cli, config, "u")
        assert (ended.code, ended.out) == (1, "")
        assert "404: GPU 'u' is not in the inventory" in ended.error

    def test_no_daemon_is_3(self, cli: Cli, config: Path) -> None:
        ended = cli("proof", "export", "u", "--config", config)
        assert (ended.code, ended.out) == (3, "")
        assert "no daemon answers" in ended.error
