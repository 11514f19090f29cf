"""``p2pnodes top``: figures from two looks, and a screen of them that fits."""

import io
import os
import re
import signal
import sys
import termios
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

from p2pnodes.cli.output import terminated
from p2pnodes.cli.top import COLUMNS_MIN, LINES_MIN, Look, frame, measure, read_metrics, total, typed
from p2pnodes.metrics import Instruments, status_registry
from p2pnodes.model.errors import P2PNodesError
from tests.cli.conftest import Ask, Cli
from tests.fake_daemon import FakeDaemon
from tests.support import VALIDATORS, hotkey

module = sys.modules["p2pnodes.cli.top"]

METRICS = {
    'p2pnodes_received_events_total{kind="add",outcome="stored"}': 10.0,
    'p2pnodes_received_events_total{kind="verdict",outcome="known"}': 30.0,
    'p2pnodes_own_events_total{kind="verdict"}': 5.0,
    'p2pnodes_gossip_bytes_total{direction="sent"}': 1_000.0,
    'p2pnodes_gossip_bytes_total{direction="received"}': 2_000.0,
    'p2pnodes_gossip_frames_total{direction="sent"}': 10.0,
    'p2pnodes_gossip_frames_total{direction="received"}': 20.0,
    "p2pnodes_commit_seconds_count": 100.0,
    "p2pnodes_commit_seconds_sum": 1.0,
    "p2pnodes_commit_jobs_sum": 400.0,
    "process_cpu_seconds_total": 7.0,
    "process_resident_memory_bytes": 120_000_000.0,
    'p2pnodes_check_seconds_count{method="none",outcome="verified"}': 4.0,
}


def look(daemon: FakeDaemon, at_s: float = 0.0, **grown: float) -> Look:
    """What the daemon says; ``grown`` is added to the metrics that contain a word."""
    lines = (
        f"{name} {value + sum(more for word, more in grown.items() if word in name)}\n"
        for name, value in METRICS.items()
    )
    return Look(daemon.snapshot, read_metrics("".join(lines)), at_s)


def shown(figures: dict[str, Any], columns: int = 80, lines: int = 24, **how: Any) -> list[str]:
    """The lines of a screen, as a terminal of this size has them."""
    out = io.StringIO()
    Console(file=out, width=columns, height=lines, color_system=None).print(frame(figures, columns, lines, **how))
    return out.getvalue().splitlines()


@pytest.fixture
def daemon_said() -> FakeDaemon:
    return FakeDaemon()


class TestMeasure:
    """Rates are what two looks differ by, over the time between them."""

    def test_rates(self, daemon_said: FakeDaemon) -> None:
        figures = measure(
            look(daemon_said, 12.0, received_events=40, own_events=1, bytes=5_000, commit_seconds_count=10,
                 commit_seconds_sum=0.05, cpu=0.5, check_seconds=1),
            look(daemon_said, 10.0),
        )  # fmt: skip
        assert figures["seconds"] == 2.0
        assert figures["events"] | {"stored": 0} == {
            "stored": 0, "received_per_s": 40.0, "stored_per_s": 20.0, "own_per_s": 0.5, "apply_ms": None,
            "dropped": 4, "forks": 0,
        }  # fmt: skip
        assert figures["traffic"]["sent_bytes_per_s"] == 2_500.0
        assert figures["traffic"]["sent_frames_per_s"] == 0.0
        assert figures["writer"] | {"queued": 1} == {
            "queued": 1, "commits_per_s": 5.0, "jobs_per_s": 0.0, "commit_ms": 5.0, "work_ms": None, "refused": 0,
        }  # fmt: skip
        assert figures["loop"]["cpu_percent"] == 25.0
        assert figures["verification"]["checks_per_min"] == 30.0

    def test_one_look_has_no_rates(self, daemon_said: FakeDaemon) -> None:
        figures = measure(look(daemon_said), None)
        assert figures["seconds"] is None
        assert figures["events"]["received_per_s"] is None
        assert figures["events"]["stored"] == 42
        assert figures["loop"]["memory_bytes"] == 120_000_000

    def test_a_restart_in_between_has_no_negative_rates(self, daemon_said: FakeDaemon) -> None:
        figures = measure(look(daemon_said, 2.0, received_events=-10), look(daemon_said, 0.0))
        assert figures["events"]["received_per_s"] is None

    def test_a_restart_in_between_has_no_rates_though_counters_grew(self, daemon_said: FakeDaemon) -> None:
        before = look(daemon_said, 0.0)
        daemon_said.snapshot = daemon_said.snapshot | {"started_at": before.status["started_at"] + 60}
        figures = measure(look(daemon_said, 2.0, received_events=10), before)
        assert figures["events"]["received_per_s"] is None
        assert figures["seconds"] is None

    def test_metrics_are_read_as_prometheus_writes_them(self) -> None:
        daemon = FakeDaemon()
        metrics = read_metrics(generate_latest(status_registry(daemon.status)).decode())
        assert total(metrics, "p2pnodes_nodes") == 8.0
        assert total(metrics, "p2pnodes_queue_jobs", queue="writer") == 1.0
        assert total(metrics, "p2pnodes_queue_jobs") == 1.0
        assert total(metrics, "p2pnodes_none") is None

    def test_what_is_no_metrics_is_refused_in_one_line(self) -> None:
        with pytest.raises(P2PNodesError, match="/metrics is not in Prometheus' text format"):
            read_metrics("<html>\n")

    def test_no_more_metrics_are_read_than_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys.modules["p2pnodes.cli.top"], "SAMPLES_MAX", 2)
        assert read_metrics('# TYPE a gauge\na 1\nb{c="d"} 2.5\ne 3\n') == {
            ("a", frozenset()): 1.0,
            ("b", frozenset({("c", "d")})): 2.5,
        }

    def test_every_metric_that_is_read_is_one_that_there_is(self) -> None:
        """Names are in one place, the module's text, and are looked for in those of a daemon's registry."""
        registry = CollectorRegistry()
        Instruments(registry)
        text = generate_latest(status_registry(FakeDaemon().status, registry)).decode()
        there = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        source = sys.modules["p2pnodes.cli.top"].__file__
        assert source is not None
        with open(source) as file:  # noqa: PTH123 - a module's own text
            read = set(re.findall(r'"(p2pnodes_[a-z_]+|process_[a-z_]+)"', file.read()))
        assert read
        for name in read:
            assert name in there or name.removesuffix("_sum").removesuffix("_count") in there, name


class TestFrame:
    """A screen says what is wrong first, and never has more lines or columns than there is room for."""

    def test_a_glance(self, daemon_said: FakeDaemon) -> None:
        lines = shown(measure(look(daemon_said, 2.0, received_events=40), look(daemon_said)), footer="q quit")
        assert lines[0] == "p2pnodes 0.1.0  validator 5Validator  up 60 min  ready"
        assert lines[1] == "events   42 held, in 40/s (20/s new), own 0/s, apply -, dropped 4"
        text = "\n".join(lines)
        for part in (
            "traffic  in 0 bytes/s, 0/s frames; out 0 bytes/s",
            "sessions 1 (view of 8), 0 handshakes, 0 bans, 0 events to fetch, 0 forks",
            "verifier graval: 2 running, 0 queued, 5 later, 0/min",
            "writer   1 queued, 0/s commits (0/s jobs), fsync -, work -, 0 refused",
            "loop     lag 0 ms, mean -; cpu 0%, memory 120.0 MB",
            "http     0/s requests; 8 GPUs in the inventory",
            "chain    block 100, 12 s old, 3 validators (2 enrolled)",
            "disk     database 1.0 MB, log 4.1 kB, free 50.0 MB",
            "1 of 2 up, by lag",
        ):
            assert part in text
        (peer,) = [line for line in lines if line.startswith("5Peer")]
        assert peer.split() == ["5Peer", "eager", "6", "0", "20", "ms", "100", "bytes", "same", "http://peer"]
        assert next(line for line in lines if line.startswith("5Gone")).endswith("Connection refused")
        assert lines[-1] == "q quit"
        assert len(lines) == 24

    def test_what_is_wrong_comes_first(self, daemon_said: FakeDaemon) -> None:
        daemon_said.snapshot |= {"ready": ["own head not heard", "disk\x1b full", "c", "d"], "verification": None}
        daemon_said.snapshot["database"]["failure"] = "OperationalError: disk is full"
        daemon_said.snapshot["electorate"] |= {"error": "file is gone", "recounting": {"block": 200}}
        lines = shown(measure(look(daemon_said), None))
        assert lines[0].endswith("NOT READY")
        assert lines[1:4] == ["! own head not heard", r"! disk\x1b full", "! and 2 more: see p2pnodes status"]
        text = "\n".join(lines)
        assert "disk     CANNOT WRITE: OperationalError: disk is full; database 1.0 MB" in text
        assert "chain    file is gone; block 100" in text
        assert "(2 enrolled); counting for block 200" in "\n".join(shown(measure(look(daemon_said), None), 200))
        assert "none: this daemon has no hotkey to vote with" in text

    def test_a_daemon_that_is_away_is_told_of(self, daemon_said: FakeDaemon) -> None:
        assert shown(measure(look(daemon_said), None), away="12:00:00")[0].endswith("NO ANSWER since 12:00:00")

    def test_a_peer_with_another_root_stands_out(self, daemon_said: FakeDaemon) -> None:
        peer = daemon_said.snapshot["gossip"]["peers"][0]
        peer["same_state_root"] = False
        assert "OTHER" in "\n".join(shown(measure(look(daemon_said), None)))
        peer["same_vector"] = False  # then it has the right to differ
        assert "OTHER" not in "\n".join(shown(measure(look(daemon_said), None)))

    @pytest.mark.parametrize(("columns", "lines"), [(80, 24), (COLUMNS_MIN, LINES_MIN), (200, 60), (81, 13)])
    def test_it_fits(self, daemon_said: FakeDaemon, columns: int, lines: int) -> None:
        peer = daemon_said.snapshot["gossip"]["peers"][0]
        daemon_said.snapshot["gossip"]["peers"] = [
            peer | {"hotkey": hotkey(uri).address, "url": "http://" + "x" * 300, "peer_lacks": 10**9}
            for uri in VALIDATORS
        ] * 40
        daemon_said.snapshot["ready"] = ["because " * 60] * 9
        screen = shown(measure(look(daemon_said), None), columns, lines, footer="q quit")
        assert len(screen) == lines
        assert max(map(len, screen)) <= columns
        assert screen[-1] == "q quit"

    @pytest.mark.parametrize(
        ("sort", "order"),
        [("lag", ["B", "C", "A"]), ("rtt", ["C", "A", "B"]), ("queue", ["A", "B", "C"]), ("hotkey", ["A", "B", "C"])],
    )
    def test_peers_are_sorted(self, daemon_said: FakeDaemon, sort: str, order: list[str]) -> None:
        peer = daemon_said.snapshot["gossip"]["peers"][0]
        daemon_said.snapshot["gossip"]["peers"] = [
            peer | {"hotkey": "5C", "peer_lacks": 5, "we_lack": 2, "rtt_ms": 90, "queue_bytes": 0},
            peer | {"hotkey": "5A", "peer_lacks": 0, "we_lack": 0, "rtt_ms": 50, "queue_bytes": 9},
            peer | {"hotkey": "5B", "peer_lacks": None, "we_lack": 9, "rtt_ms": None, "queue_bytes": 0},
            {"hotkey": "50", "url": "http://gone", "connected": False},
        ]
        lines = shown(measure(look(daemon_said), None), sort=sort)
        assert [line[1] for line in lines if line.startswith(("5A", "5B", "5C", "50"))] == [*order, "0"]


class TestKeys:
    """Keys are characters, and the terminal is as before however the command ends."""

    @pytest.mark.parametrize(
        ("found", "keys"),
        [
            (b"q", "q"),
            (b"lr", "lr"),
            (b"\x1bOQ", ""),  # F2
            (b"\x1b[A\x1b[1;5Cq", "q"),  # arrows
            (b"\x1b[15~l", "l"),  # F5
            (b"\x1bq", ""),  # Alt
            (b"\x1b", ""),
            (b"\x1b[", ""),
            (b"\xff", "\ufffd"),
        ],
    )
    def test_what_is_no_character_is_dropped(self, found: bytes, keys: str) -> None:
        assert typed(found) == keys

    def test_keys_come_one_by_one_and_the_end_of_the_terminal_quits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal, shown = os.openpty()
        with open(shown, closefd=False) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            before = termios.tcgetattr(shown)
            with module._keys() as pressed:
                assert not termios.tcgetattr(shown)[3] & termios.ECHO
                assert pressed(0) == ""
                os.write(terminal, b"l\x1bOQr")
                assert [pressed(0), pressed(0), pressed(0)] == ["l", "r", ""]
                monkeypatch.setattr(os, "read", lambda *_: b"")
                os.write(terminal, b"x")
                assert pressed(0) == "q"
            assert termios.tcgetattr(shown) == before
        os.close(terminal)
        os.close(shown)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_unwinds(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as ended, terminated():
            os.kill(os.getpid(), number)
        assert ended.value.code == 128 + number
        assert signal.getsignal(number) is before


class TestCommand:
    """One screen, one object, or a terminal."""

    async def test_json_is_one_object_with_rates(self, ask: Ask, daemon: FakeDaemon) -> None:
        ended = await ask("top", "--json", "--interval", 0.5)
        assert ended.code == 0
        assert ended.json["seconds"] >= 0.5
        assert ended.json["events"]["stored"] == 42
        assert [peer["hotkey"] for peer in ended.json["peers"]] == ["5Peer", "5Gone"]

    async def test_once_is_one_screen(self, ask: Ask) -> None:
        ended = await ask("top", "--once", "--interval", 0.5, "--sort", "hotkey")
        assert ended.code == 0
        assert ended.out.startswith("p2pnodes 0.1.0  validator")
        assert "by hotkey" in ended.out
        assert "\x1b" not in ended.out

    async def test_without_a_terminal_it_says_what_else_there_is(self, ask: Ask) -> None:
        ended = await ask("top")
        assert ended.code == 1
        assert ended.error == (
            "top needs a terminal, found none; expected --once for one screen, or --json for programs"
        )

    def test_nobody_there_is_exit_code_3(self, cli: Cli, config: object) -> None:
        assert cli("top", "--once", "--config", config).code == 3
