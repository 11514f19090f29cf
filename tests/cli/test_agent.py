"""What a GPU host's commands print, and how they end: probe in this process, serve as a process of its own."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2pnodes import daemon
from p2pnodes.chain.wallet import write_hotkey_file
from p2pnodes.miner.hardware import HostAnswers
from p2pnodes.miner.probe import NO_HOST
from tests.cli.conftest import Cli
from tests.miner.agents import OTHER, VALIDATOR, ask
from tests.miner.nvml import RECORDINGS, FakeNvml, changed, recording
from tests.support import hotkey

ALICE = ("--uri", "//Alice")
H200 = RECORDINGS / "h200.json"


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A host with two RTX 4090; CUDA answers, too."""
    return FakeNvml(recording("rtx4090"), monkeypatch)


class TestProbe:
    """The body on stdout, where it comes from on stderr."""

    def test_the_body_goes_to_stdout_and_the_sources_to_stderr(self, cli: Cli, nvml: FakeNvml) -> None:
        ended = cli("miner", "probe", "--host", "203.0.113.7", "--server-id", "rack-1")
        assert ended.code == 0
        assert [node["clock_rate"] for node in ended.json["nodes"]] == [2_520_000.0] * 2
        assert (ended.json["server_id"], ended.json["nodes"][0]["verification_port"]) == ("rack-1", 30_000)
        assert (
            "p2pnodes: GPU 0-1: processors 128: SM count 128 = 16384 CUDA cores (NVML) / 128 per SM "
            "(compute capability 8.9)\n"
        ) in ended.err
        assert "GPU 0-1: sxm no: GPU table, 4090\n" in ended.err

    def test_json_is_the_body_alone(self, cli: Cli, nvml: FakeNvml) -> None:
        ended = cli("miner", "probe", "--host", "203.0.113.7", "--port", 8_000, "--json")
        assert (ended.code, ended.err) == (0, "")
        assert {node["verification_port"] for node in ended.json["nodes"]} == {8_000}

    def test_sources_are_a_table_or_json(self, cli: Cli, nvml: FakeNvml) -> None:
        table = cli("miner", "probe", "--host", "203.0.113.7", "--sources").out.splitlines()
        assert table[0].split() == ["gpus", "field", "value", "source"]
        assert any(line.startswith("0-1   processors ") for line in table)
        found = cli("miner", "probe", "--host", "203.0.113.7", "--sources", "--json").json
        assert {"field": "verification_host", "value": "203.0.113.7", "source": "--host", "gpus": [0, 1]} in found

    def test_without_a_host_the_body_waits_for_one(self, cli: Cli, nvml: FakeNvml) -> None:
        ended = cli("miner", "probe", "--json")
        assert ended.code == 0
        assert ended.json["nodes"][0]["verification_host"] == NO_HOST
        assert ended.err.startswith("p2pnodes: warning: verification_host is still to be filled in: give --host")

    def test_what_will_be_refused_is_a_warning(self, cli: Cli, nvml: FakeNvml) -> None:
        nvml.host = changed(nvml.host, 0, cuda_clock_rate_khz=None)
        ended = cli("miner", "probe", "--host", "203.0.113.7", "--json")
        assert ended.code == 0
        assert "p2pnodes: warning: GPU 0 (NVIDIA GeForce RTX 4090): the network will refuse it: Clock rate 3120MHz" in (
            ended.err
        )

    def test_a_recording_is_kept_and_probed_like_the_host(self, cli: Cli, nvml: FakeNvml, tmp_path: Path) -> None:
        file = tmp_path / "gpus.json"
        host = cli("miner", "probe", "--host", "203.0.113.7", "--record", file, "--json")
        assert HostAnswers.load(file).gpus == nvml.host.gpus
        assert HostAnswers.load(file).origin.startswith("NVML of a real host, p2pnodes ")
        again = cli("miner", "probe", "--host", "203.0.113.7", "--recording", file, "--json")
        assert again == host

    def test_a_recording_never_overwrites_a_file(self, cli: Cli, nvml: FakeNvml, tmp_path: Path) -> None:
        (tmp_path / "kept").write_text("mine")
        ended = cli("miner", "probe", "--record", tmp_path / "kept")
        assert ended.code == 1
        assert ended.error == f"{tmp_path / 'kept'}: cannot be written (File exists); choose another --record"
        assert (tmp_path / "kept").read_text() == "mine"

    def test_a_host_without_a_driver_is_one_line(self, cli: Cli, nvml: FakeNvml) -> None:
        nvml.failures = ["NVML Shared Library Not Found"] * 2
        ended = cli("miner", "probe")
        assert (ended.code, ended.out) == (1, "")
        assert ended.error == (
            "no NVIDIA driver answers on this host (NVML: NVML Shared Library Not Found); run it on the GPU host"
        )

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("mig", "GPU 1 (NVIDIA A100-SXM4-80GB): MIG is on"),
            ("unknown_capability", "GPU 0 (NVIDIA B300 SXM6 AC): found compute capability 10.3"),
            ("lost", "GPU 1: NVML does not tell its name: GPU is lost"),
        ],
    )
    def test_a_gpu_that_cannot_be_registered_is_one_line(self, cli: Cli, name: str, line: str) -> None:
        ended = cli("miner", "probe", "--recording", RECORDINGS / f"{name}.json")
        assert (ended.code, ended.out) == (1, "")
        assert ended.error.startswith(line)

    @pytest.mark.parametrize("port", [79, 65_536, "x"])
    def test_a_port_that_is_none_is_usage(self, cli: Cli, port: object) -> None:
        assert cli("miner", "probe", "--port", port).code == 2


@contextmanager
def served(*arguments: object) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """An agent as a process: with its URL and the line that it began with."""
    command = [sys.executable, "-m", "p2pnodes", "miner", "serve", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield process, line.split(" at ")[-1].split(" ")[0], line
        finally:
            process.kill()


class TestServe:
    """An agent runs until it is told to stop, and shows who it is and who may ask."""

    def test_it_tells_what_it_shows_to_whom_answers_and_stops(self) -> None:
        with served(*ALICE, "--allow", VALIDATOR.address, "--allow", OTHER.address, "--recording", H200) as (
            process,
            url,
            line,
        ):
            who = ", ".join(sorted([VALIDATOR.address, OTHER.address]))
            assert line == f"agent of {hotkey('//Alice').address} at {url} shows 2 x NVIDIA H200 to {who}\n"
            assert asyncio.run(ask(url, time.time())).status == 200
            assert asyncio.run(ask(url, time.time(), validator=hotkey("//validator2"))).status == 403
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, "stopping\n")
        warning, *lines = err.splitlines()
        assert (
            warning
            == f"p2pnodes: warning: {H200}: these GPUs are a recording's, not this host's: for devnets and tests "
            "[agent-warning]"
        )
        events = [json.loads(line) for line in lines]
        assert [event["event"] for event in events] == ["challenge", "challenge_refused"]
        assert events[0]["validator"] == VALIDATOR.address

    def test_any_is_for_devnets_and_says_so(self, tmp_path: Path) -> None:
        write_hotkey_file(tmp_path / "hotkey", hotkey("//Bob"))
        with served("--hotkey-file", tmp_path / "hotkey", "--allow", "any", "--recording", H200) as (
            process,
            url,
            line,
        ):
            assert line.startswith(f"agent of {hotkey('//Bob').address} at {url} ")
            assert line.endswith(" to any validator\n")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "--allow any: whoever asks is told which GPUs are here" in err

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            ((), "missing option '--allow'"),
            (("--allow", "5Alice"), "expected an SS58 address, found '5Alice'"),
            (("--allow", "any", "--hotkey-file", "x"), "give exactly one of --wallet NAME (and --hotkey NAME), "),
        ],
    )
    def test_an_unusable_command_line_is_usage(self, cli: Cli, arguments: tuple[str, ...], line: str) -> None:
        ended = cli("miner", "serve", *ALICE, *arguments)
        assert ended.code == 2
        assert line in ended.err

    def test_a_recording_that_is_none_is_one_line(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "r").write_text("{}")
        ended = cli("miner", "serve", *ALICE, "--allow", "any", "--recording", tmp_path / "r")
        assert ended.code == 1
        assert ended.error.startswith(f"{tmp_path / 'r'}: no recording of NVML's answers: gpus: ")

    def test_a_host_without_a_driver_is_one_line(
        self, cli: Cli, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(daemon, "configure_logging", lambda _: None)  # it would be so for all tests to come
        nvml.failures = ["Driver Not Loaded"] * 2
        ended = cli("miner", "serve", *ALICE, "--allow", "any", "--port", 0)
        assert ended.code == 1
        assert ended.error == "no NVIDIA driver answers on this host (NVML: Driver Not Loaded); run it on the GPU host"
