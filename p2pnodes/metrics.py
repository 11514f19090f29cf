"""Metrics in Prometheus's format: the daemon's own status, read anew at every scrape, so the two never disagree."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

_GAUGES: Final[tuple[tuple[str, str, Callable[[Mapping[str, Any]], float | None]], ...]] = (
    ("p2pnodes_nodes", "GPUs in the inventory.", lambda status: status["nodes"]),
    ("p2pnodes_events", "Events stored.", lambda status: status["events"]),
    ("p2pnodes_ready", "Whether this daemon is ready (1) or not (0).", lambda status: not status["ready"]),
    ("p2pnodes_writes_allowed", "Whether writes are taken (1) or answered 503 (0).", lambda s: s["writes"]["allowed"]),
    ("p2pnodes_own_log_seq", "Seq of the last event of the own log.", lambda s: s["log"] and s["log"]["seq"]),
    ("p2pnodes_forks", "Logs of which a fork is proved.", lambda status: len(status["forks"])),
    ("p2pnodes_closed_logs", "Logs that their hotkeys have closed.", lambda status: status["closed_logs"]),
    ("p2pnodes_electorate_block", "Pinned block of the electorate.", lambda status: status["electorate"]["block"]),
    ("p2pnodes_electorate_age_seconds", "Age of that block by this clock.", lambda s: s["electorate"]["age_s"]),
    (
        "p2pnodes_electorate_source_working",
        "Whether the electorate could be read the last time that it was to (1) or not (0).",
        lambda status: status["electorate"]["error"] is None,
    ),
    (
        "p2pnodes_delegation_end_seconds",
        "When the own log's delegation ends, Unix time; absent without one.",
        lambda status: status["delegation"] and status["delegation"]["not_after"],
    ),
    (
        "p2pnodes_carrying_requests",
        "Requests of miners that wait for this validator to carry them; absent for an observer.",
        lambda status: status["carrying"] and status["carrying"]["waiting"],
    ),
    ("p2pnodes_enrolled_validators", "Validators that may vote.", lambda status: status["electorate"]["enrolled"]),
    (
        "p2pnodes_clock_offset_seconds",
        "Median of the peers' clocks less this one; absent without sessions.",
        lambda status: None if status["clock_offset_ms"] is None else status["clock_offset_ms"] / 1000,
    ),
    ("p2pnodes_peers", "Peers known.", lambda status: len(status["gossip"]["peers"])),
    ("p2pnodes_sessions", "Open sessions.", lambda s: sum(bool(peer["connected"]) for peer in s["gossip"]["peers"])),
    (
        "p2pnodes_verifier_working",
        "Whether the verifier could check the last time that it was to (1) or not (0); absent without a hotkey.",
        lambda status: None if status["verification"] is None else status["verification"]["problem"] is None,
    ),
    (
        "p2pnodes_checks_running",
        "Claims that are being checked; absent without a hotkey.",
        lambda status: None if status["verification"] is None else status["verification"]["running"],
    ),
    ("p2pnodes_uptime_seconds", "Time since this daemon started.", lambda status: status["uptime_s"]),
)
"""Name, help, and where the value stands in ``Daemon.status()``; a value of None is left out."""


class StatusCollector(Collector):
    """Turns ``Daemon.status()`` into metrics.

    Args:
        status: Called once for every scrape.
    """

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        """Metrics of this moment."""
        status = self._status()
        yield InfoMetricFamily(
            "p2pnodes", "Build and network.", {"version": status["version"], "network_id": status["network_id"]}
        )
        for name, text, value_of in _GAUGES:
            value = value_of(status)
            if value is not None:
                yield GaugeMetricFamily(name, text, float(value))
        queues = GaugeMetricFamily("p2pnodes_queue_jobs", "Jobs that wait.", labels=["queue"])
        for queue, jobs in status["queues"].items():
            queues.add_metric([queue], jobs)
        yield queues
        received = CounterMetricFamily(
            "p2pnodes_received_events", "Events that peers sent, by what became of them.", labels=["outcome"]
        )
        for outcome, count in status["outcomes"].items():
            received.add_metric([outcome], count)
        yield received


def status_registry(status: Callable[[], Mapping[str, Any]]) -> CollectorRegistry:
    """Registry of one daemon: its status, and what its process takes (memory, CPU, open files)."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    ProcessCollector(registry=registry)
    return registry
