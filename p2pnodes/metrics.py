"""Metrics in Prometheus's format: one table of all, what is read at every scrape, and what is counted meanwhile.

Most are read anew from the daemon's status, so the two never disagree. How long things took cannot be: it is told to
``Instruments`` where they happen, once for each commit, batch, check or request. Every label has few values: what
strangers choose never becomes one, and of peers only validators have a series each, ``PEERS_MAX`` of them.

``p2pnodes/docs/metrics.md`` is written from the table (``python -m tests.metrics_page``).
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, Final, NamedTuple

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from p2pnodes.api.overview import DIVERGED, EQUAL, UNHEARD, difference
from p2pnodes.gossip.bans import Offence
from p2pnodes.model.events import FINDINGS, PAYLOADS, Event
from p2pnodes.store.database import GROUP_JOBS_MAX, Written
from p2pnodes.store.state import Outcome, Result
from p2pnodes.verify.scheduler import UNAVAILABLE

# They would nearly double the series, and say no more than when the process started.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

PEERS_MAX: Final = 256
"""Validators with metrics of their own; a subnet has at most as many. Of more, the latest sessions are left out."""

OTHER: Final = "other"
"""Label of what is none of the values that this build knows: an event of a later version, a plug-in's own word."""

WAIT_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""For what should take milliseconds: a commit, an answer, a turn of the event loop."""

CHECK_BUCKETS_S: Final = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0)
"""For checks of claims: from a look at nothing to a proof by GPUs that are loaded first."""

JOB_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, GROUP_JOBS_MAX)

Status = Mapping[str, Any]
"""What ``Daemon.status`` says."""

Samples = Iterable[tuple[tuple[str, ...], float | None]]
"""Values of labels, and the value; None where it is not known, and left out."""


class Kind(StrEnum):
    """Types of metrics, by Prometheus's names; an info is a gauge that is always 1 and tells by its labels."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    INFO = "info"


class Described(NamedTuple):
    """One metric.

    Attributes:
        name: As it is exposed, without a histogram's ``_bucket``, ``_sum`` and ``_count``.
        kind: Its type.
        text: What it says, one sentence.
        labels: Name of each label, and what its values are.
        buckets: A histogram's upper bounds.
        read: Where it stands in the daemon's status; None for what ``Instruments`` or the process's collector keep.
    """

    name: str
    kind: Kind
    text: str
    labels: Mapping[str, str] = {}
    buckets: tuple[float, ...] = ()
    read: Callable[[Status], Samples] | None = None


# -- what stands in the status -----------------------------------------------------------------------------------------


def _one(value_of: Callable[[Status], float | None]) -> Callable[[Status], Samples]:
    """A metric without labels."""
    return lambda status: [((), value_of(status))]


def _of(section: str, value_of: Callable[[Status], float | None]) -> Callable[[Status], Samples]:
    """The same of a part of the status that may be absent (None), and the metric with it."""
    return _one(lambda status: None if status[section] is None else value_of(status[section]))


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _sessions(status: Status, *, observers: bool = True) -> list[Mapping[str, Any]]:
    """Open sessions, as the engine knows them; one that ends at this moment has no row of it any more."""
    return [
        peer
        for peer in status["gossip"]["peers"]
        if peer["connected"] and "link" in peer and (observers or not peer["observer"])
    ]


_ROLES: Final = ("validator", "observer")
_LINKS: Final = ("eager", "lazy", "visit")
_COMPARED: Final = ("equal", "events", "electorate", "checkpoint", "divergence", "nothing")
_DIRECTIONS: Final = ("sent", "received")
_LINK_CHANGES: Final = {"graft": "grafts", "prune": "prunes", "gain": "gains"}


def _role(observer: bool) -> str:  # noqa: FBT001 - a row's value
    return "observer" if observer else "validator"


def _sessions_by_kind(status: Status) -> Samples:
    found = Counts((_role(peer["observer"]), peer["link"]) for peer in _sessions(status))
    return [((role, link), found[role, link]) for role in _ROLES for link in _LINKS]


def _compared(status: Status) -> Samples:
    """Observers are left out: anybody can be one, and claim to see something else."""
    found = Counts(_cause(peer) for peer in _sessions(status, observers=False))
    return [((what,), found[what]) for what in _COMPARED]


def _cause(peer: Mapping[str, Any]) -> str:
    """In what a peer's latest digest differs from this daemon's state, the first cause first."""
    state, by = difference(peer)
    if by:
        return {"vector": "events"}.get(by[0], by[0])
    return {EQUAL: "equal", DIVERGED: "divergence", UNHEARD: "nothing"}[state]


def _loading_slices(status: Status) -> Samples:
    loading = status["checkpoint"]["loading"]
    if loading is None or loading["of"] is None:
        return []
    return [(("held",), loading["held"]), (("missing",), loading["of"] - loading["held"])]


def _banned(status: Status) -> Samples:
    found = Counts(_role(ban["observer"]) for ban in status["gossip"]["bans"])
    return [((role,), found[role]) for role in _ROLES]


def _by_peer(value_of: Callable[[Mapping[str, Any]], float | None]) -> Callable[[Status], Samples]:
    """A metric of each validator with a session; of several sessions of one hotkey the highest value."""

    def read(status: Status) -> Samples:
        highest: dict[str, float] = {}
        for peer in _sessions(status, observers=False):
            value, hotkey = value_of(peer), peer["hotkey"]
            if value is not None and (hotkey in highest or len(highest) < PEERS_MAX):
                highest[hotkey] = max(value, highest.get(hotkey, value))
        return [((hotkey,), value) for hotkey, value in highest.items()]

    return read


def _over_sessions(
    combined: Callable[[Iterable[int]], int], key: str, *, observers: bool = True
) -> Callable[[Status], Samples]:
    return _one(lambda status: combined([0, *(peer[key] for peer in _sessions(status, observers=observers))]))


# -- the table ---------------------------------------------------------------------------------------------------------

_PEER: Final = {"hotkey": f"a validator's, SS58; at most {PEERS_MAX}"}
_KINDS_OF_EVENTS: Final = f"{', '.join(PAYLOADS)}, or {OTHER}"

TABLE: Final[Mapping[str, tuple[Described, ...]]] = {
    "Health": (
        Described(
            "p2pnodes_info",
            Kind.INFO,
            "Build, network and role of this daemon; always 1.",
            {"version": "of the package", "network_id": "32 hex digits", "role": " or ".join(_ROLES)},
            read=lambda status: [((status["version"], status["network_id"], status["role"]), 1)],
        ),
        Described(
            "p2pnodes_ready",
            Kind.GAUGE,
            "Whether this daemon is ready (1) or not (0).",
            read=_one(lambda status: not status["ready"]),
        ),
        Described(
            "p2pnodes_writes_allowed",
            Kind.GAUGE,
            "Whether writes are taken (1) or answered 503 (0), as an observer always does.",
            read=_one(lambda status: status["writes"]["allowed"]),
        ),
        Described(
            "p2pnodes_uptime_seconds",
            Kind.GAUGE,
            "Time since this daemon started.",
            read=_one(lambda status: status["uptime_s"]),
        ),
        Described(
            "p2pnodes_clock_offset_seconds",
            Kind.GAUGE,
            "Median of the peers' clocks less this one; absent without sessions.",
            read=_one(lambda status: _seconds(status["clock_offset_ms"])),
        ),
        Described(
            "p2pnodes_loop_lag_seconds",
            Kind.HISTOGRAM,
            "How late the event loop came to a tick that is due four times a second.",
            buckets=WAIT_BUCKETS_S,
        ),
        Described(
            "p2pnodes_queue_jobs",
            Kind.GAUGE,
            "Jobs that wait or are being done.",
            {"queue": "writer (of the database) or verifier"},
            read=lambda status: [((queue,), jobs) for queue, jobs in status["queues"].items()],
        ),
    ),
    "Own log and electorate": (
        Described(
            "p2pnodes_own_log_seq",
            Kind.GAUGE,
            "Seq of the last event of the own log; absent without one.",
            read=_of("log", lambda held: held["seq"]),
        ),
        Described(
            "p2pnodes_own_events_total",
            Kind.COUNTER,
            "Events that this daemon wrote.",
            {"kind": _KINDS_OF_EVENTS},
        ),
        Described(
            "p2pnodes_own_forks",
            Kind.GAUGE,
            "Logs of the own hotkey of which a fork is proved; they stay for ever.",
            read=_one(lambda status: sum(fork["own"] for fork in status["forks"])),
        ),
        Described(
            "p2pnodes_other_logs",
            Kind.GAUGE,
            "Open logs of the own hotkey that another node key has written in since this daemon began.",
            read=_one(lambda status: len(status["other_logs"])),
        ),
        Described(
            "p2pnodes_delegation_end_timestamp_seconds",
            Kind.GAUGE,
            "When the own log's delegation ends, Unix time; absent without one.",
            read=_of("delegation", lambda delegation: delegation["not_after"]),
        ),
        Described(
            "p2pnodes_carrying_requests",
            Kind.GAUGE,
            "Requests of miners that wait for this validator to carry them; absent for an observer.",
            read=_of("carrying", lambda carrying: carrying["waiting"]),
        ),
        Described(
            "p2pnodes_checkpoint_timestamp_seconds",
            Kind.GAUGE,
            "When the checkpoint in force was due, Unix time; absent before the first one.",
            read=_of("checkpoint", lambda checkpoint: checkpoint["due_at"]),
        ),
        Described(
            "p2pnodes_checkpoint_differs",
            Kind.GAUGE,
            "Whether the validators agreed on another live set than this daemon finds below the same cut: 0 or 1.",
            read=_of("checkpoint", lambda checkpoint: int(checkpoint["differs"])),
        ),
        Described(
            "p2pnodes_checkpoint_without_own_logs",
            Kind.GAUGE,
            "Own logs for which the checkpoint in force has no room though they are older: 0 or 1.",
            read=_of("checkpoint", lambda checkpoint: int(checkpoint["leaves_own_log_out"])),
        ),
        Described(
            "p2pnodes_electorate_block",
            Kind.GAUGE,
            "Pinned block of the electorate; 0 while there is none.",
            read=_one(lambda status: status["electorate"]["block"]),
        ),
        Described(
            "p2pnodes_electorate_age_seconds",
            Kind.GAUGE,
            "Age of that block by this clock.",
            read=_one(lambda status: status["electorate"]["age_s"]),
        ),
        Described(
            "p2pnodes_electorate_source_working",
            Kind.GAUGE,
            "Whether the electorate is as it should be (1), or could not be read the last time or is out of time (0).",
            read=_one(lambda status: status["electorate"]["error"] is None),
        ),
        Described(
            "p2pnodes_enrolled_validators",
            Kind.GAUGE,
            "Validators that may vote.",
            read=_one(lambda status: status["electorate"]["enrolled"]),
        ),
    ),
    "Inventory": (
        Described("p2pnodes_nodes", Kind.GAUGE, "GPUs in the inventory.", read=_one(lambda status: status["nodes"])),
        Described("p2pnodes_events", Kind.GAUGE, "Events stored.", read=_one(lambda status: status["events"])),
        Described(
            "p2pnodes_loading_slices",
            Kind.GAUGE,
            "Slices of a checkpoint's live set that is loaded from peers; absent while none is.",
            {"state": "held or missing"},
            read=_loading_slices,
        ),
        Described(
            "p2pnodes_received_events_total",
            Kind.COUNTER,
            "Events that peers sent, by what became of them; each is counted as often as it came.",
            {"kind": _KINDS_OF_EVENTS, "outcome": ", ".join(Result)},
        ),
        Described(
            "p2pnodes_apply_seconds",
            Kind.HISTOGRAM,
            "From handing a batch of received events to the database until they were durable and counted.",
            buckets=WAIT_BUCKETS_S,
        ),
        Described(
            "p2pnodes_forks",
            Kind.GAUGE,
            "Logs of which a fork is proved, anybody's; they stay for ever.",
            read=_one(lambda status: len(status["forks"])),
        ),
        Described(
            "p2pnodes_closed_logs",
            Kind.GAUGE,
            "Logs that their hotkeys have closed.",
            read=_one(lambda status: status["closed_logs"]),
        ),
    ),
    "Gossip": (
        Described(
            "p2pnodes_members",
            Kind.GAUGE,
            "Other validators that the electorate names.",
            read=_one(lambda status: status["gossip"]["view"]["members"]),
        ),
        Described(
            "p2pnodes_peers",
            Kind.GAUGE,
            "Sessions, and addresses without one.",
            read=_one(lambda status: len(status["gossip"]["peers"])),
        ),
        Described(
            "p2pnodes_sessions",
            Kind.GAUGE,
            "Open sessions.",
            {
                "role": f"the peer's: {' or '.join(_ROLES)}",
                "link": "eager (events are pushed), lazy (they are announced) or visit (neither)",
            },
            read=_sessions_by_kind,
        ),
        Described(
            "p2pnodes_sessions_behind",
            Kind.GAUGE,
            "Sessions to which nothing is pushed, because their peers read too slowly.",
            read=_over_sessions(sum, "behind"),
        ),
        Described(
            "p2pnodes_compared_sessions",
            Kind.GAUGE,
            "Sessions with validators, by how the peer's latest digest compares with the state of this daemon.",
            {
                "found": "equal; events (it held others then: usual while events come); electorate (it weighed with "
                "another one); checkpoint (another one was in force there, or one of the two still took away what it "
                "leaves out); divergence (all three are the same and the inventory is not: never right); or nothing "
                "(no digest yet)"
            },
            read=_compared,
        ),
        Described(
            "p2pnodes_sync_missing_events",
            Kind.GAUGE,
            "Events that are missing here and that one validator holds; the highest number of all sessions.",
            read=_over_sessions(max, "we_lack", observers=False),
        ),
        Described(
            "p2pnodes_sync_wants",
            Kind.GAUGE,
            "Ranges of missing events that were asked for and have not come.",
            read=_over_sessions(sum, "wants"),
        ),
        Described(
            "p2pnodes_sync_searches",
            Kind.GAUGE,
            "Searches for the point where a peer's branch of a log parts from ours.",
            read=_over_sessions(sum, "searches"),
        ),
        Described(
            "p2pnodes_peer_lag_events",
            Kind.GAUGE,
            "Events of ours that a validator lacks and that are not on their way to it; absent until compared.",
            _PEER,
            read=_by_peer(lambda peer: peer["peer_lacks"]),
        ),
        Described(
            "p2pnodes_peer_ahead_events",
            Kind.GAUGE,
            "Events that a validator holds and that are missing here.",
            _PEER,
            read=_by_peer(lambda peer: peer["we_lack"]),
        ),
        Described(
            "p2pnodes_peer_rtt_seconds",
            Kind.GAUGE,
            "How long a validator took to answer the last digest that asked.",
            _PEER,
            read=_by_peer(lambda peer: _seconds(peer["rtt_ms"])),
        ),
        Described(
            "p2pnodes_gossip_queue_bytes",
            Kind.GAUGE,
            "What waits in all sessions.",
            {"queue": "sending (to peers) or storing (events from peers, in the database)"},
            read=lambda status: [
                (("sending",), sum(peer["queue_bytes"] for peer in _sessions(status))),
                (("storing",), sum(peer["storing_bytes"] for peer in _sessions(status))),
            ],
        ),
        Described(
            "p2pnodes_gossip_frames_total",
            Kind.COUNTER,
            "Encrypted frames of sessions, heartbeats among them.",
            {"direction": " or ".join(_DIRECTIONS)},
            read=lambda status: [((way,), status["gossip"]["traffic"][way]["frames"]) for way in _DIRECTIONS],
        ),
        Described(
            "p2pnodes_gossip_bytes_total",
            Kind.COUNTER,
            "Size of these frames.",
            {"direction": " or ".join(_DIRECTIONS)},
            read=lambda status: [((way,), status["gossip"]["traffic"][way]["bytes"]) for way in _DIRECTIONS],
        ),
        Described(
            "p2pnodes_link_changes_total",
            Kind.COUNTER,
            "Links that this daemon made eager or lazy.",
            {
                "change": "graft (eager: events were missing), prune (lazy: they came sooner elsewhere) or gain "
                "(eager: it would bring them sooner)"
            },
            read=lambda status: [((change,), status["gossip"]["counts"][key]) for change, key in _LINK_CHANGES.items()],
        ),
        Described(
            "p2pnodes_dropped_events_total",
            Kind.COUNTER,
            "Events of peers that were not taken up, as the database had enough to do or had failed; they come again.",
            read=_one(lambda status: status["gossip"]["counts"]["dropped"]),
        ),
        Described(
            "p2pnodes_banned_peers",
            Kind.GAUGE,
            "Hotkeys that are refused for a while.",
            {"role": " or ".join(_ROLES)},
            read=_banned,
        ),
        Described(
            "p2pnodes_bans_total",
            Kind.COUNTER,
            "Bans, by what they were for.",
            {"offence": f"{', '.join(Offence)} (see gossip/bans.py)"},
            read=lambda status: [((offence,), count) for offence, count in status["gossip"]["ban_counts"].items()],
        ),
    ),
    "Verification": (
        Described(
            "p2pnodes_verifier_working",
            Kind.GAUGE,
            "Whether the verifier could check the last time that it was to (1) or not (0); absent without a hotkey.",
            read=_of("verification", lambda verification: verification["problem"] is None),
        ),
        Described(
            "p2pnodes_checks_running",
            Kind.GAUGE,
            "Claims that are being checked; absent without a hotkey.",
            read=_of("verification", lambda verification: verification["running"]),
        ),
        Described(
            "p2pnodes_claims_later",
            Kind.GAUGE,
            "Claims that are remembered for this validator's turn or until a host is free; absent without a hotkey.",
            read=_of("verification", lambda verification: verification["later"]),
        ),
        Described(
            "p2pnodes_check_seconds",
            Kind.HISTOGRAM,
            "How long checks of claims took, by what they came to.",
            {
                "method": "name of the verifier",
                "finding": f"{', '.join(sorted(FINDINGS))}, {UNAVAILABLE} (this validator could not check), or {OTHER}",
            },
            CHECK_BUCKETS_S,
        ),
        Described(
            "p2pnodes_passed_over_claims_total",
            Kind.COUNTER,
            "Claims that found the verifier's queue full, and were left to its scan; absent without a hotkey.",
            read=_of("verification", lambda verification: verification["passed_over"]),
        ),
    ),
    "HTTP": (
        Described(
            "p2pnodes_http_requests_total",
            Kind.COUNTER,
            "Requests on the public listener; those that last (events, gossip) are counted when they end.",
            {
                "route": f"template of the path, upstream (passed on), or {OTHER} (no such route)",
                "method": f"HTTP's own, or {OTHER}",
                "code": "status code of the answer, or cut (the connection ended before it)",
            },
        ),
        Described(
            "p2pnodes_http_request_seconds",
            Kind.HISTOGRAM,
            "From a request's head until its answer was ready, without those that last.",
            {"route": "the same", "method": "the same"},
            WAIT_BUCKETS_S,
        ),
    ),
    "Storage": (
        Described(
            "p2pnodes_database_working",
            Kind.GAUGE,
            "Whether the last transaction succeeded (1) or the database cannot write (0).",
            read=_one(lambda status: status["database"]["failure"] is None),
        ),
        Described(
            "p2pnodes_database_bytes",
            Kind.GAUGE,
            "Size of the database's files.",
            {"file": "database, or wal (its write-ahead log)"},
            read=lambda status: [
                (("database",), status["database"]["bytes"]),
                (("wal",), status["database"]["wal_bytes"]),
            ],
        ),
        Described(
            "p2pnodes_disk_free_bytes",
            Kind.GAUGE,
            "What may still be written on the disk with the database.",
            read=_one(lambda status: status["database"]["free_bytes"]),
        ),
        Described(
            "p2pnodes_disk_size_bytes",
            Kind.GAUGE,
            "Size of that disk.",
            read=_one(lambda status: status["database"]["disk_bytes"]),
        ),
        Described(
            "p2pnodes_commit_seconds",
            Kind.HISTOGRAM,
            "How long a transaction's COMMIT took, which waits for the disk (fsync).",
            buckets=WAIT_BUCKETS_S,
        ),
        Described(
            "p2pnodes_commit_work_seconds",
            Kind.HISTOGRAM,
            "How long the jobs of a transaction took besides, with the rows that they changed.",
            buckets=WAIT_BUCKETS_S,
        ),
        Described(
            "p2pnodes_commit_jobs",
            Kind.HISTOGRAM,
            "Jobs that shared a transaction, and so its fsync.",
            buckets=JOB_BUCKETS,
        ),
        Described(
            "p2pnodes_damaged_events_total",
            Kind.COUNTER,
            "Stored events that were found damaged when peers asked for them: look at the disk.",
            read=_one(lambda status: status["database"]["damaged_events"]),
        ),
        Described(
            "p2pnodes_refused_jobs_total",
            Kind.COUNTER,
            "Writes that were refused because too many waited for the disk.",
            read=_one(lambda status: status["database"]["refused_jobs"]),
        ),
    ),
    "Process": (
        Described("process_start_time_seconds", Kind.GAUGE, "When the process started, Unix time."),
        Described("process_cpu_seconds_total", Kind.COUNTER, "CPU time that the process took, user and system."),
        Described("process_resident_memory_bytes", Kind.GAUGE, "Memory that the process holds."),
        Described("process_virtual_memory_bytes", Kind.GAUGE, "Addresses that the process has mapped."),
        Described("process_open_fds", Kind.GAUGE, "Open files and connections."),
        Described("process_max_fds", Kind.GAUGE, "How many of them the system allows."),
    ),
}
"""Every metric, by the part of the daemon that it is about. Those of the process are prometheus-client's own."""

METRICS: Final[Mapping[str, Described]] = {
    described.name: described for section in TABLE.values() for described in section
}
"""The same by name."""


# -- what is counted meanwhile -----------------------------------------------------------------------------------------


class Instruments:
    """What is counted and timed where it happens. The daemon hands its methods to those who tell; see ``TABLE``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Begin at zero; the metrics are shown through ``registry``."""
        self._registry = registry
        self._loop_lag = self._histogram("p2pnodes_loop_lag_seconds")
        self._own_events = self._counter("p2pnodes_own_events_total")
        self._received = self._counter("p2pnodes_received_events_total")
        self._apply = self._histogram("p2pnodes_apply_seconds")
        self._checks = self._histogram("p2pnodes_check_seconds")
        # Found by their labels once: prometheus-client's own look-up takes as long as what is counted then.
        self._requests = cache(self._counter("p2pnodes_http_requests_total").labels)
        self._request = cache(self._histogram("p2pnodes_http_request_seconds").labels)
        self._commit = self._histogram("p2pnodes_commit_seconds")
        self._commit_work = self._histogram("p2pnodes_commit_work_seconds")
        self._commit_jobs = self._histogram("p2pnodes_commit_jobs")

    def _counter(self, name: str) -> Counter:
        described = METRICS[name]
        return Counter(name, described.text, tuple(described.labels), registry=self._registry)

    def _histogram(self, name: str) -> Histogram:
        described = METRICS[name]
        return Histogram(
            name, described.text, tuple(described.labels), registry=self._registry, buckets=described.buckets
        )

    def ticked(self, late_s: float) -> None:
        """Take how late the event loop came to a tick; see ``Driver``."""
        self._loop_lag.observe(late_s)

    def appended(self, events: Sequence[Event]) -> None:
        """Count own events; see ``Commit.appended``."""
        for kind, count in Counts(_kind(event) for event in events).items():
            self._own_events.labels(kind).inc(count)

    def received(self, outcomes: Sequence[Outcome]) -> None:
        """Count what became of received events."""
        for (kind, result), count in Counts((_kind(each.event), each.result) for each in outcomes).items():
            self._received.labels(kind, result.value).inc(count)

    def applied(self, seconds: float) -> None:
        """Take how long the database took for a batch of received events; see ``Driver``."""
        self._apply.observe(seconds)

    def checked(self, method: str, finding: str, seconds: float) -> None:
        """Take a check of a claim; see ``Scheduler``."""
        known = finding if finding in FINDINGS or finding == UNAVAILABLE else OTHER
        self._checks.labels(method, known).observe(seconds)

    def answered(self, route: str, method: str, code: str, seconds: float | None) -> None:
        """Take an answer of the public listener; see ``api.measure.Answered``."""
        self._requests(route, method, code).inc()
        if seconds is not None:
            self._request(route, method).observe(seconds)

    def written(self, written: Written) -> None:
        """Take a transaction that was committed; see ``Database.on_written``."""
        self._commit.observe(written.commit_s)
        self._commit_work.observe(written.work_s)
        self._commit_jobs.observe(written.jobs)


def _kind(event: Event) -> str:
    return event.kind if event.kind in PAYLOADS else OTHER


# -- what is read at a scrape ------------------------------------------------------------------------------------------


class StatusCollector(Collector):
    """Turns ``Daemon.status()`` into metrics.

    Args:
        status: Called once for every scrape.
    """

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        """Metrics of this moment."""
        status = self._status()
        for described in METRICS.values():
            if described.read is not None:
                yield _family(described, described.read(status))


def _family(described: Described, samples: Samples) -> Metric:
    """A metric with its samples; those that are not known are left out."""
    name, text, labels = described.name, described.text, tuple(described.labels)
    known = [(values, value) for values, value in samples if value is not None]
    match described.kind:
        case Kind.INFO:
            info = InfoMetricFamily(name.removesuffix("_info"), text, labels=labels)
            for values, _ in known:
                info.add_metric((), dict(zip(labels, values, strict=True)))
            return info
        case Kind.COUNTER:
            counter = CounterMetricFamily(name, text, labels=labels)
            for values, value in known:
                counter.add_metric(values, value)
            return counter
        case _:
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for values, value in known:
                gauge.add_metric(values, float(value))
            return gauge


def status_registry(status: Callable[[], Status], registry: CollectorRegistry | None = None) -> CollectorRegistry:
    """Registry of one daemon: its status, and what its process takes (memory, CPU, open files).

    Args:
        status: Called once for every scrape.
        registry: What its ``Instruments`` show themselves through already; None for a new one, without any.
    """
    registry = registry or CollectorRegistry()
    registry.register(StatusCollector(status))
    ProcessCollector(registry=registry)
    return registry
