"""Metrics: the daemon's status, in Prometheus's format."""

import re

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from p2pnodes.metrics import status_registry
from tests.fake_daemon import FakeDaemon


def scrape(daemon: FakeDaemon) -> dict[str, float]:
    text = generate_latest(status_registry(daemon.status)).decode()
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_say_what_the_status_says() -> None:
    found = scrape(FakeDaemon())
    assert found["p2pnodes_nodes"] == 8
    assert found["p2pnodes_events"] == 42
    assert found["p2pnodes_ready"] == 1
    assert found["p2pnodes_writes_allowed"] == 1
    assert found["p2pnodes_own_log_seq"] == 41
    assert found["p2pnodes_peers"] == 2
    assert found["p2pnodes_sessions"] == 1
    assert found["p2pnodes_clock_offset_seconds"] == -1.5
    assert found["p2pnodes_electorate_block"] == 100
    assert found["p2pnodes_verifier_working"] == 1
    assert found["p2pnodes_checks_running"] == 2
    assert found["p2pnodes_queue_jobs{queue=writer}"] == 1
    assert found["p2pnodes_received_events_total{outcome=stored}"] == 40
    assert found["process_open_fds"] > 0


def test_a_daemon_that_is_not_ready_says_so() -> None:
    daemon = FakeDaemon()
    daemon.snapshot |= {"ready": ["writes are refused"], "writes": {"allowed": False, "reason": "clock"}}
    found = scrape(daemon)
    assert found["p2pnodes_ready"] == 0
    assert found["p2pnodes_writes_allowed"] == 0


def test_what_is_not_known_is_left_out() -> None:
    daemon = FakeDaemon()
    daemon.snapshot |= {"log": None, "clock_offset_ms": None, "verification": None}
    absent = {"p2pnodes_own_log_seq", "p2pnodes_clock_offset_seconds", "p2pnodes_verifier_working"}
    assert not absent & scrape(daemon).keys()


def test_a_verifier_with_a_problem_does_not_work() -> None:
    daemon = FakeDaemon()
    daemon.snapshot["verification"]["problem"] = "its service is down"
    assert scrape(daemon)["p2pnodes_verifier_working"] == 0


def test_names_and_units_are_prometheuss() -> None:
    assert all(re.fullmatch(r"(p2pnodes|process)_[a-z_]+(\{.*\})?", name) for name in scrape(FakeDaemon()))
