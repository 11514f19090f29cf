"""The benchmark on real processes: how notes become figures, and what is said where gossipsub cannot be had."""

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from p2pnodes.config import load_settings
from p2pnodes.devnet import Devnet
from tests.bench.load import drive, get
from tests.bench.loopback import Run, compared, cpu_of, prepare, run_of, table
from tests.bench.recorded import RECORD, RECORD_BYTES, RecordedDaemon
from tests.support import Author

KEYS = [bytes([number]) * 8 for number in range(4)]
MS = 1_000_000
FAST = Run(delivered=7, lost=0, per_s=300.0, p50_ms=1.0, p99_ms=2.0, cpu_ms=0.5, others=0.0)
SLOW = Run(delivered=6, lost=1, per_s=100.0, p50_ms=5.0, p99_ms=8.0, cpu_ms=1.5, others=0.5)


def notes(*arrivals: tuple[bytes, int]) -> bytes:
    return b"".join(RECORD.pack(key, at_ms * MS) for key, at_ms in arrivals)


class TestRun:
    """What receiving peers have noted becomes one run's figures."""

    def test_an_event_counts_once_for_each_peer_by_its_first_arrival(self) -> None:
        run = run_of({KEYS[0]: 0}, [notes((KEYS[0], 4), (KEYS[0], 9)), notes((KEYS[0], 6))], cpu_s=0.01, others=0.0)
        assert (run.delivered, run.lost, run.p50_ms, run.cpu_ms) == (2, 0, 5.0, 5.0)

    def test_what_did_not_arrive_is_lost_and_has_no_latency(self) -> None:
        moments = {KEYS[0]: 0, KEYS[1]: 10 * MS}
        run = run_of(moments, [notes((KEYS[0], 1), (KEYS[1], 11)), notes((KEYS[1], 20)), b""], cpu_s=0.0, others=0.0)
        assert (run.delivered, run.lost, run.p50_ms, run.p99_ms) == (3, 3, 1.0, 10.0)

    def test_the_rate_is_from_the_first_handed_over_to_the_last_that_arrived(self) -> None:
        run = run_of({KEYS[0]: 100 * MS, KEYS[1]: 300 * MS}, [notes((KEYS[1], 600), (KEYS[0], 200))], cpu_s=0, others=0)
        assert run.per_s == pytest.approx(4.0)

    def test_what_other_events_a_peer_notes_is_left_out(self) -> None:
        run = run_of({KEYS[0]: 0}, [notes((KEYS[2], 1), (KEYS[0], 3), (KEYS[3], 900))], cpu_s=0.0, others=0.0)
        assert (run.delivered, run.p99_ms) == (1, 3.0)

    def test_a_run_in_which_nothing_arrived_ends_the_benchmark(self) -> None:
        with pytest.raises(SystemExit, match="not one event"):
            run_of({KEYS[0]: 0}, [b"", b""], cpu_s=0.0, others=0.0)


class TestCpu:
    """The processor time of a side is that of all its processes."""

    @pytest.mark.parametrize("ended", [False, True])
    def test_a_childs_counts_while_it_runs_and_when_it_has_ended(self, ended: bool) -> None:
        code = "import time\nwhile time.process_time() < 0.2: pass\nprint()\ninput()"
        before_s = cpu_of(os.getpid())
        own_s = time.process_time()
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline()
            if ended:
                child.communicate(b"\n")
            found_s = cpu_of(os.getpid()) - before_s - (time.process_time() - own_s)
            child.kill()
        assert found_s > 0.15


class TestComparison:
    """Two sides' rounds become ratios, above 1 where we are better."""

    def test_ratios_say_how_many_times_better_ours_is_whether_more_or_less_is_better(self) -> None:
        comparison = compared(None, [FAST], [SLOW])
        assert comparison.ratios == {"per_s": 3.0, "p50_ms": 5.0, "p99_ms": 4.0, "cpu_ms": 3.0}
        assert comparison.better
        assert not compared(None, [SLOW], [FAST]).better

    def test_the_rate_decides_at_full_speed_alone(self) -> None:
        """With a pace it is the pace, on both sides."""
        late = FAST._replace(per_s=99.0)
        assert compared(10.0, [late], [SLOW]).better
        assert not compared(None, [late], [SLOW]).better

    def test_one_bad_round_of_three_changes_no_ratio(self) -> None:
        assert compared(None, [FAST, SLOW, FAST], [SLOW, FAST, SLOW]).ratios["p99_ms"] == 4.0

    def test_the_table_names_both_sides_and_what_was_lost(self) -> None:
        header, ours, rival, better = table([compared(None, [FAST], [SLOW])]).splitlines()
        assert header.split()[-3:] == ["lost", "others'", "cores"]
        assert ours.split() == ["full", "speed", "ours", "300", "1.0", "2.0", "0.50", "0", "0.00"]
        assert rival.split() == ["gossipsub", "100", "5.0", "8.0", "1.50", "1", "0.50"]
        assert better.split() == ["better", "3.0x", "5.0x", "4.0x", "3.0x"]


class TestRival:
    """Gossipsub comes from elsewhere; without it there is one line and no figure."""

    def test_an_interpreter_that_is_not_there_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit, match=r"^\S+ cannot import libp2p: [^\n]+$"):
            prepare(str(tmp_path / "python"), tmp_path)

    def test_an_interpreter_without_libp2p_is_one_line(self, tmp_path: Path) -> None:
        bare = tmp_path / "python"
        bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
        bare.chmod(0o700)
        with pytest.raises(SystemExit, match=r"^\S+ cannot import libp2p: [^\n]*No module named 'libp2p'$"):
            prepare(str(bare), tmp_path)


class _Accepting(BaseHTTPRequestHandler):
    """Answers each POST with 202."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """A chunked answer, whose last bytes come by themselves."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (b'5\r\n{"a":\r\n', b"2\r\n1}\r", b"\n0\r\n", b"\r\n"):
            self.wfile.write(part)
            self.wfile.flush()

    def do_DELETE(self) -> None:
        self.send_response(304)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def accepting() -> Iterator[int]:
    """A server on a free port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Accepting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class TestLoad:
    """What the generator of load says of when it sent is what latencies are measured from."""

    request = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"

    def test_with_a_pace_requests_are_due_at_even_distances_however_late_they_are_sent(self) -> None:
        with accepting() as port:
            load = drive([port], [self.request] * 20, 2, requests_per_s=200.0)
        assert [at_ns - load.moments[0] for at_ns in load.moments] == [index * 5 * MS for index in range(20)]
        assert load.statuses == {202: 20}

    def test_with_a_pace_nothing_is_sent_before_it_is_due(self) -> None:
        with accepting() as port:
            begin_ns = time.monotonic_ns()
            drive([port], [self.request] * 11, 4, requests_per_s=100.0)
        assert time.monotonic_ns() - begin_ns >= 100 * MS

    def test_without_a_pace_each_is_timed_when_it_is_sent(self) -> None:
        with accepting() as port:
            before_ns = time.monotonic_ns()
            load = drive([port], [self.request] * 10, 3, requests_per_s=math.inf)
        assert before_ns <= load.moments[0]
        assert load.moments == sorted(load.moments)
        assert load.moments[-1] <= time.monotonic_ns()

    @pytest.mark.parametrize(("request_", "status"), [(get("/"), 200), (b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", 304)])
    def test_answers_end_where_they_say_chunked_or_without_a_body(self, request_: bytes, status: int) -> None:
        with accepting() as port:
            load = drive([port], [request_] * 20, 2)
        assert load.statuses == {status: 20}

    def test_each_answer_has_its_latency(self) -> None:
        with accepting() as port:
            begin_s = time.monotonic()
            load = drive([port], [self.request] * 10, 1)
        assert len(load.latencies_s) == 10
        assert 0 < sum(load.latencies_s) <= time.monotonic() - begin_s


def test_a_recorded_daemon_notes_each_event_with_the_begin_of_its_id(tmp_path: Path) -> None:
    net = Devnet(tmp_path, [1], report=lambda _: None)
    (tmp_path / "network.toml").write_text(f'genesis_hash = "{net.network.genesis_hash}"\nnetuid = 64\n')
    net.peers[0].prepare({"file": "../electorate.toml"})
    events = [Author("//validator0").delegate()]
    record = os.open(tmp_path / "record", os.O_WRONLY | os.O_CREAT)
    try:
        daemon = RecordedDaemon(load_settings(net.peers[0].directory / "p2pnodes.toml", {}), record)
        before_ns = time.monotonic_ns()
        daemon._note(events)
    finally:
        os.close(record)
    written = (tmp_path / "record").read_bytes()
    assert len(written) == RECORD_BYTES
    key, at_ns = RECORD.unpack(written)
    assert key == events[0].id[:8]
    assert before_ns <= at_ns <= time.monotonic_ns()
