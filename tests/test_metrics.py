"""Metrics: the daemon's status and what was told meanwhile, in Prometheus's format, as the table describes them."""

import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from p2pnodes import metrics
from p2pnodes.metrics import METRICS, OTHER, PEERS_MAX, TABLE, Instruments, Kind, status_registry
from p2pnodes.model.errors import StoreError, WritesRefusedError
from p2pnodes.model.events import Event
from p2pnodes.store import database as database_module
from p2pnodes.store.database import Database, Written
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.state import Outcome, Result
from tests.fake_daemon import FakeDaemon
from tests.support import NETWORK, NOW_MS, Author, electorate, program

NAME = re.compile(r"(p2pnodes|process)(_[a-z]+)+")
UNITS = {"seconds", "bytes", "total", "info"}
COUNTED = {
    "jobs", "events", "wants", "searches", "sessions", "peers", "members", "nodes", "fds", "forks", "logs", "requests",
    "validators", "running", "later", "slices",
}  # fmt: skip
"""Things that are counted; their number has no other unit."""

STATES = {"ready", "allowed", "working", "seq", "block", "behind", "differs"}
"""Last words of what is yes or no, or a number that names something."""


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """What a scrape shows: name, with labels in alphabetical order -> value."""
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def scrape(daemon: FakeDaemon) -> dict[str, float]:
    return samples(status_registry(daemon.status))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def instruments(registry: CollectorRegistry) -> Instruments:
    return Instruments(registry)


class TestTheTable:
    """It describes every metric that is exposed, by Prometheus's conventions."""

    def test_prometheuss_own_checker_finds_nothing(self, registry: CollectorRegistry, instruments: Instruments) -> None:
        text = generate_latest(status_registry(FakeDaemon().status, registry))
        checked = subprocess.run(
            [program("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=60, check=False
        )
        assert checked.returncode == 0, checked.stderr.decode()

    def test_what_is_exposed_is_what_it_describes(self, registry: CollectorRegistry, instruments: Instruments) -> None:
        status_registry(FakeDaemon().status, registry)
        suffixes = {"counter": "_total", "info": "_info"}
        exposed = {family.name + suffixes.get(family.type, ""): family for family in registry.collect()}
        assert exposed.keys() == METRICS.keys()
        for name, family in exposed.items():
            assert family.type == METRICS[name].kind
            if name.startswith("p2pnodes"):
                assert family.documentation == METRICS[name].text
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(METRICS[name].labels)

    @pytest.mark.parametrize("name", METRICS)
    def test_a_name_has_a_unit_or_says_what_is_counted(self, name: str) -> None:
        kind, last = METRICS[name].kind, name.rsplit("_", 1)[1]
        assert NAME.fullmatch(name)
        assert last in UNITS | COUNTED | STATES
        assert (last == "total") == (kind is Kind.COUNTER)
        assert (last == "info") == (kind is Kind.INFO)

    @pytest.mark.parametrize("name", METRICS)
    def test_each_has_a_sentence_and_says_which_values_its_labels_have(self, name: str) -> None:
        described = METRICS[name]
        assert described.text[0].isupper()
        assert described.text.endswith(".")
        assert all(described.labels.values())
        assert (described.kind is Kind.HISTOGRAM) == bool(described.buckets)
        assert sorted(set(described.buckets)) == list(described.buckets)

    def test_no_name_stands_in_it_twice(self) -> None:
        assert sum(len(section) for section in TABLE.values()) == len(METRICS)

    def test_no_series_tells_only_when_it_was_made(self, registry: CollectorRegistry, instruments: Instruments) -> None:
        instruments.answered("/nodes/", "GET", "200", 0.01)
        assert not [name for name in samples(registry) if "_created" in name]


class TestStatus:
    """What the status says, the metrics say."""

    def test_metrics_say_what_the_status_says(self) -> None:
        found = scrape(FakeDaemon())
        assert found["p2pnodes_nodes"] == 8
        assert found["p2pnodes_events"] == 42
        assert found["p2pnodes_ready"] == 1
        assert found["p2pnodes_writes_allowed"] == 1
        assert found["p2pnodes_own_log_seq"] == 41
        assert found["p2pnodes_own_forks"] == 0
        assert found["p2pnodes_members"] == 2
        assert found["p2pnodes_peers"] == 2
        assert found["p2pnodes_clock_offset_seconds"] == -1.5
        assert found["p2pnodes_electorate_block"] == 100
        assert found["p2pnodes_verifier_working"] == 1
        assert found["p2pnodes_checks_running"] == 2
        assert found["p2pnodes_passed_over_claims_total"] == 1
        assert found["p2pnodes_queue_jobs{queue=writer}"] == 1
        assert found["p2pnodes_gossip_frames_total{direction=sent}"] == 10
        assert found["p2pnodes_gossip_bytes_total{direction=received}"] == 5000
        assert found["p2pnodes_link_changes_total{change=prune}"] == 2
        assert found["p2pnodes_dropped_events_total"] == 4
        assert found["p2pnodes_bans_total{offence=flood}"] == 1
        assert found["p2pnodes_database_bytes{file=wal}"] == 4096
        assert found["p2pnodes_disk_free_bytes"] == 50_000_000
        assert found["process_open_fds"] > 0

    def test_build_and_role_are_labels(self) -> None:
        assert scrape(FakeDaemon())[f"p2pnodes_info{{network_id={'ab' * 16}}}{{role=validator}}{{version=0.1.0}}"] == 1

    def test_a_daemon_that_is_not_ready_says_so(self) -> None:
        daemon = FakeDaemon()
        daemon.snapshot |= {"ready": ["writes are refused"], "writes": {"allowed": False, "reason": "clock"}}
        found = scrape(daemon)
        assert found["p2pnodes_ready"] == 0
        assert found["p2pnodes_writes_allowed"] == 0

    def test_what_is_not_known_is_left_out(self) -> None:
        daemon = FakeDaemon()
        daemon.snapshot |= {"log": None, "delegation": None, "clock_offset_ms": None, "verification": None}
        daemon.snapshot |= {"carrying": None}
        daemon.snapshot["database"] |= {"wal_bytes": None, "free_bytes": None}
        absent = {
            "p2pnodes_own_log_seq", "p2pnodes_delegation_end_timestamp_seconds", "p2pnodes_clock_offset_seconds",
            "p2pnodes_verifier_working", "p2pnodes_carrying_requests", "p2pnodes_database_bytes{file=wal}",
            "p2pnodes_disk_free_bytes",
        }  # fmt: skip
        assert absent <= scrape(FakeDaemon()).keys()
        assert not absent & scrape(daemon).keys()

    def test_what_does_not_work_is_zero(self) -> None:
        daemon = FakeDaemon()
        daemon.snapshot["verification"]["problem"] = "its service is down"
        daemon.snapshot["electorate"]["error"] = "no endpoint answers"
        daemon.snapshot["database"]["failure"] = "OperationalError: disk I/O error"
        found = scrape(daemon)
        assert found["p2pnodes_verifier_working"] == 0
        assert found["p2pnodes_electorate_source_working"] == 0
        assert found["p2pnodes_database_working"] == 0

    def test_forks_of_the_own_hotkey_are_counted_apart(self) -> None:
        daemon = FakeDaemon()
        daemon.snapshot["forks"] = [{"log": f"{own}/0", "seq": 3, "own": own} for own in (True, False, False)]
        found = scrape(daemon)
        assert found["p2pnodes_forks"] == 3
        assert found["p2pnodes_own_forks"] == 1

    def test_other_daemons_with_the_hotkey_are_counted(self) -> None:
        daemon = FakeDaemon()
        daemon.snapshot["other_logs"] = [{"log": "ab/1", "written_at": 0}]
        assert scrape(daemon)["p2pnodes_other_logs"] == 1


class TestPeers:
    """Sessions are counted by what they are; only validators have series of their own, and not without end."""

    @pytest.fixture
    def daemon(self) -> FakeDaemon:
        daemon = FakeDaemon()
        daemon.peers().clear()
        return daemon

    def meet(self, daemon: FakeDaemon, hotkey: str = "5Peer", **changes: Any) -> None:
        (row,) = (peer for peer in FakeDaemon().peers() if peer["connected"])
        daemon.peers().append({**row, "hotkey": hotkey, **changes})

    def test_sessions_are_counted_by_role_and_link_all_of_them_also_where_there_are_none(
        self, daemon: FakeDaemon
    ) -> None:
        self.meet(daemon)
        self.meet(daemon, "5Other")
        self.meet(daemon, "5Third", link="visit")
        self.meet(daemon, "5Observer", observer=True, link="lazy")
        found = scrape(daemon)
        assert {name: value for name, value in found.items() if name.startswith("p2pnodes_sessions{")} == {
            "p2pnodes_sessions{link=eager}{role=validator}": 2,
            "p2pnodes_sessions{link=lazy}{role=validator}": 0,
            "p2pnodes_sessions{link=visit}{role=validator}": 1,
            "p2pnodes_sessions{link=eager}{role=observer}": 0,
            "p2pnodes_sessions{link=lazy}{role=observer}": 1,
            "p2pnodes_sessions{link=visit}{role=observer}": 0,
        }

    @pytest.mark.parametrize(
        ("vector", "electorate", "checkpoint", "root", "what"),
        [
            (None, None, None, None, "nothing"),
            (False, True, True, True, "events"),
            (False, False, False, False, "events"),
            (True, False, False, False, "electorate"),
            (True, True, False, False, "checkpoint"),
            (True, True, True, False, "divergence"),
            (True, True, True, True, "equal"),
        ],
    )
    def test_only_another_root_of_the_same_events_electorate_and_checkpoint_is_a_divergence(  # noqa: PLR0917
        self,
        daemon: FakeDaemon,
        vector: bool | None,
        electorate: bool | None,
        checkpoint: bool | None,
        root: bool | None,
        what: str,
    ) -> None:
        self.meet(
            daemon,
            same_vector=vector,
            same_electorate=electorate,
            same_checkpoint=checkpoint,
            same_state_root=root,
        )
        compared = {name: value for name, value in scrape(daemon).items() if name.startswith("p2pnodes_compared")}
        assert len(compared) == 6
        assert {name for name, value in compared.items() if value} == {f"p2pnodes_compared_sessions{{found={what}}}"}

    def test_how_far_a_live_set_is_loaded_is_told_while_it_is(self, daemon: FakeDaemon) -> None:
        for held, of in ((None, None), (3, 10)):
            assert not [name for name in scrape(daemon) if name.startswith("p2pnodes_loading_slices")]
            daemon.snapshot["checkpoint"]["loading"] = {"number": 20_000, "held": held, "of": of}
        found = scrape(daemon)
        assert found["p2pnodes_loading_slices{state=held}"] == 3
        assert found["p2pnodes_loading_slices{state=missing}"] == 7

    def test_an_observer_cannot_ring_the_alarm(self, daemon: FakeDaemon) -> None:
        self.meet(daemon, observer=True, same_state_root=False, we_lack=7)
        found = scrape(daemon)
        assert found["p2pnodes_compared_sessions{found=divergence}"] == 0
        assert found["p2pnodes_sync_missing_events"] == 0
        assert not [name for name in found if "hotkey=" in name]

    def test_of_two_sessions_of_one_hotkey_the_higher_value_is_shown(self, daemon: FakeDaemon) -> None:
        self.meet(daemon, peer_lacks=3, we_lack=9, rtt_ms=250)
        self.meet(daemon, peer_lacks=5, we_lack=2, rtt_ms=None)
        found = scrape(daemon)
        assert found["p2pnodes_peer_lag_events{hotkey=5Peer}"] == 5
        assert found["p2pnodes_peer_ahead_events{hotkey=5Peer}"] == 9
        assert found["p2pnodes_peer_rtt_seconds{hotkey=5Peer}"] == 0.25

    def test_a_peer_that_was_not_compared_yet_has_no_lag(self, daemon: FakeDaemon) -> None:
        self.meet(daemon, peer_lacks=None)
        assert "p2pnodes_peer_lag_events{hotkey=5Peer}" not in scrape(daemon)

    def test_there_is_a_bound_of_peers_with_series_of_their_own(self, daemon: FakeDaemon) -> None:
        for number in range(PEERS_MAX + 10):
            self.meet(daemon, f"5Peer{number}")
        found = scrape(daemon)
        assert sum(name.startswith("p2pnodes_peer_ahead_events") for name in found) == PEERS_MAX
        assert found["p2pnodes_sessions{link=eager}{role=validator}"] == PEERS_MAX + 10

    def test_what_all_sessions_come_to(self, daemon: FakeDaemon) -> None:
        self.meet(daemon, we_lack=4, wants=2, searches=1, behind=True, queue_bytes=10, storing_bytes=1)
        self.meet(daemon, "5Other", we_lack=9, wants=3, queue_bytes=20, storing_bytes=2)
        found = scrape(daemon)
        assert found["p2pnodes_sync_missing_events"] == 9, "both may hold the same ones"
        assert found["p2pnodes_sync_wants"] == 5
        assert found["p2pnodes_sync_searches"] == 1
        assert found["p2pnodes_sessions_behind"] == 1
        assert found["p2pnodes_gossip_queue_bytes{queue=sending}"] == 30
        assert found["p2pnodes_gossip_queue_bytes{queue=storing}"] == 3

    def test_a_session_that_ends_at_this_moment_and_an_address_without_one_are_no_sessions(
        self, daemon: FakeDaemon
    ) -> None:
        daemon.peers().append({"hotkey": "5Ending", "connected": True, "lag": 0})
        daemon.peers().append({"hotkey": "5Gone", "connected": False})
        found = scrape(daemon)
        assert sum(value for name, value in found.items() if name.startswith("p2pnodes_sessions{")) == 0
        assert found["p2pnodes_peers"] == 2

    def test_bans_in_force_are_counted_by_role(self, daemon: FakeDaemon) -> None:
        daemon.snapshot["gossip"]["bans"] = [{"hotkey": "5A", "observer": False}, {"hotkey": "5B", "observer": False}]
        found = scrape(daemon)
        assert found["p2pnodes_banned_peers{role=validator}"] == 2
        assert found["p2pnodes_banned_peers{role=observer}"] == 0


class TestInstruments:
    """What is told is counted under labels that have few values."""

    def outcome(self, kind: str, result: Result) -> Outcome:
        event = Author("//validator0").delegate()
        return Outcome(Event(**{**event._asdict(), "kind": kind}), result, "")

    def test_received_events_are_counted_by_kind_and_outcome(
        self, registry: CollectorRegistry, instruments: Instruments
    ) -> None:
        instruments.received([self.outcome("add", Result.STORED)] * 3 + [self.outcome("verdict", Result.KNOWN)])
        instruments.received([self.outcome("add", Result.STORED)])
        found = samples(registry)
        assert found["p2pnodes_received_events_total{kind=add}{outcome=stored}"] == 4
        assert found["p2pnodes_received_events_total{kind=verdict}{outcome=known}"] == 1

    def test_a_kind_of_a_later_version_makes_no_series_of_its_own(
        self, registry: CollectorRegistry, instruments: Instruments
    ) -> None:
        instruments.received([self.outcome(f"kind-{number}", Result.STORED) for number in range(3)])
        assert samples(registry)[f"p2pnodes_received_events_total{{kind={OTHER}}}{{outcome=stored}}"] == 3

    def test_own_events_are_counted_by_kind(self, registry: CollectorRegistry, instruments: Instruments) -> None:
        author = Author("//validator0")
        instruments.appended([author.delegate(), author.verdict(b"c" * 32), author.verdict(b"d" * 32)])
        instruments.appended([])
        found = samples(registry)
        assert found["p2pnodes_own_events_total{kind=delegate}"] == 1
        assert found["p2pnodes_own_events_total{kind=verdict}"] == 2

    def test_a_finding_that_a_plug_in_makes_up_makes_no_series_of_its_own(
        self, registry: CollectorRegistry, instruments: Instruments
    ) -> None:
        instruments.checked("mine", "splendid", 2.0)
        instruments.checked("mine", "unavailable", 3.0)
        found = samples(registry)
        assert found[f"p2pnodes_check_seconds_count{{finding={OTHER}}}{{method=mine}}"] == 1
        assert found["p2pnodes_check_seconds_sum{finding=unavailable}{method=mine}"] == 3.0

    def test_requests_that_last_are_counted_without_their_time(
        self, registry: CollectorRegistry, instruments: Instruments
    ) -> None:
        instruments.answered("/nodes/", "GET", "200", 0.004)
        instruments.answered("/gossip", "GET", "101", None)
        found = samples(registry)
        assert found["p2pnodes_http_requests_total{code=200}{method=GET}{route=/nodes/}"] == 1
        assert found["p2pnodes_http_requests_total{code=101}{method=GET}{route=/gossip}"] == 1
        assert found["p2pnodes_http_request_seconds_sum{method=GET}{route=/nodes/}"] == 0.004
        assert not [name for name in found if name.startswith("p2pnodes_http_request_seconds") and "gossip" in name]

    def test_times_land_in_their_buckets(self, registry: CollectorRegistry, instruments: Instruments) -> None:
        instruments.ticked(0.03)
        instruments.applied(0.2)
        instruments.written(Written(3, 0.002, 0.04))
        found = samples(registry)
        assert (found["p2pnodes_loop_lag_seconds_bucket{le=0.025}"], found["p2pnodes_loop_lag_seconds_sum"]) == (
            0,
            0.03,
        )
        assert found["p2pnodes_loop_lag_seconds_bucket{le=0.05}"] == 1
        assert found["p2pnodes_apply_seconds_sum"] == 0.2
        assert found["p2pnodes_commit_seconds_sum"] == 0.04
        assert found["p2pnodes_commit_work_seconds_sum"] == 0.002
        assert found["p2pnodes_commit_jobs_bucket{le=2.0}"] == 0
        assert found["p2pnodes_commit_jobs_bucket{le=4.0}"] == 1

    def test_the_largest_bucket_of_jobs_is_the_largest_group(self) -> None:
        assert metrics.JOB_BUCKETS[-1] == database_module.GROUP_JOBS_MAX


class TestDatabase:
    """The database tells of its commits, its size, and whom it turned away."""

    @pytest.fixture
    async def database(self, tmp_path: Path) -> AsyncIterator[Database]:
        database = await Database.open(
            tmp_path / "p2pnodes.db", NETWORK, Author("//validator0").node_key, now_ms=lambda: NOW_MS
        )
        await database.set_electorate(electorate())
        yield database
        await database.close()

    async def test_each_commit_is_told_once_with_its_jobs_and_times(self, database: Database) -> None:
        told: list[Written] = []
        database.on_written = told.append
        author = Author("//validator1")
        await database.receive([author.delegate(), author.verdict(b"c" * 32)], NOW_MS)
        (written,) = told
        assert written.jobs == 1
        assert written.work_s > 0
        assert written.commit_s > 0

    async def test_what_failed_is_not_told(self, database: Database) -> None:
        told: list[Written] = []
        database.on_written = told.append

        def fail(_: Ledger) -> None:
            raise StoreError("no room")

        with pytest.raises(StoreError):
            await database.write(fail)
        assert told == []
        assert database.status()["failure"] == "StoreError: no room"

    async def test_its_status_has_sizes_of_files_and_disk(self, database: Database) -> None:
        await database.receive([Author("//validator1").delegate()], NOW_MS)
        found = database.status()
        assert found["bytes"] == database.path.stat().st_size > 0
        assert found["wal_bytes"] > 0
        assert 0 < found["free_bytes"] <= found["disk_bytes"]
        assert found["failure"] is None

    async def test_a_file_that_is_gone_has_no_size(self, tmp_path: Path) -> None:
        database = Database(tmp_path / "none" / "p2pnodes.db", NETWORK, None, lambda: NOW_MS)
        found = database.status()
        assert (found["bytes"], found["wal_bytes"], found["free_bytes"], found["disk_bytes"]) == (None,) * 4

    async def test_writes_that_are_turned_away_are_counted(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "QUEUED_JOBS_MAX", 0)
        with pytest.raises(WritesRefusedError):
            await database.write(lambda _: None)
        assert database.status()["refused_jobs"] == 1
