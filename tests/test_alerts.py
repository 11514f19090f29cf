"""configs/prometheus-rules.yml and configs/grafana-dashboard.json name what daemons expose, and nothing else."""

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from typing import Any, Final

import pytest
import typer

from p2pnodes.cli import app
from p2pnodes.metrics import METRICS, status_registry
from tests.fake_daemon import FakeDaemon
from tests.promql import TARGET_LABELS, described, named, unknown
from tests.support import program

pytest.importorskip("yaml", reason="PyYAML comes with the extra dev")
from tests.metrics_page import PAGE, RULES, page, rules

DASHBOARD: Final = RULES.with_name("grafana-dashboard.json")

ALERTS: Final = [rule for group in rules() for rule in group["rules"]]
BOARD: Final[dict[str, Any]] = json.loads(DASHBOARD.read_text())
PANELS: Final[list[dict[str, Any]]] = BOARD["panels"]
GRAPHS: Final = [panel for panel in PANELS if panel["type"] != "row"]

NAMES: Final = [rule["alert"] for rule in ALERTS]
TITLES: Final = [panel["title"] for panel in GRAPHS]

SUMMARY_CHARS_MAX: Final = 120
"""What fits into a line of a pager."""

GRID_COLUMNS: Final = 24
"""Of a Grafana dashboard."""


def values() -> dict[tuple[str, str], set[str]]:
    """(metric, label) -> the values that it can have, of those that are always exposed with all of them."""
    found: dict[tuple[str, str], set[str]] = {}
    for family in status_registry(FakeDaemon().status).collect():
        for sample in family.samples:
            for label, value in sample.labels.items():
                found.setdefault((sample.name, label), set()).add(value)
    return {key: known for key, known in found.items() if key[1] != "hotkey" and key[0] != "p2pnodes_info"}


VALUES: Final = values()


def absent_values(expression: str) -> list[str]:
    """Values that an expression asks for and that a label never has."""
    return [
        f'{series}{{{label}="{value}"}}'
        for series, matched in named(expression).metrics
        for label, value in matched.items()
        if (series, label) in VALUES and value not in VALUES[series, label]
    ]


class TestTheReader:
    """What these tests are made of finds what is wrong."""

    def test_a_metric_that_does_not_exist_is_found(self) -> None:
        assert unknown("rate(p2pnodes_nonsense_total[5m]) > 0") == ["p2pnodes_nonsense_total"]

    def test_a_histogram_has_three_series_and_none_of_its_own_name(self) -> None:
        assert unknown("p2pnodes_commit_seconds_sum / p2pnodes_commit_seconds_count") == []
        assert unknown("p2pnodes_commit_seconds") == ["p2pnodes_commit_seconds"]
        assert unknown("p2pnodes_nodes_sum") == ["p2pnodes_nodes_sum"]

    def test_a_label_that_does_not_exist_is_found(self) -> None:
        assert unknown('sum by (instance, rolle) (p2pnodes_sessions{rolle="validator"})') == ["rolle"]
        assert unknown("sum by (le) (p2pnodes_nodes)") == ["le"]

    def test_a_value_that_never_occurs_is_found(self) -> None:
        assert absent_values('p2pnodes_sessions{role="miner"} > 0') == ['p2pnodes_sessions{role="miner"}']
        assert absent_values('p2pnodes_sessions{role="observer"} > 0') == []

    @pytest.mark.parametrize("bad", ["rate(p2pnodes_nodes", "smu(p2pnodes_nodes)", "p2pnodes_nodes $ 3"])
    def test_what_is_no_expression_is_refused(self, bad: str) -> None:
        with pytest.raises(ValueError, match=re.escape(bad)):
            unknown(bad)


class TestRules:
    """Each alert is about metrics that exist, and tells whoever is woken what to do."""

    @pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
    def test_it_names_metrics_labels_and_values_that_exist(self, rule: dict[str, Any]) -> None:
        assert unknown(rule["expr"]) == []
        assert absent_values(rule["expr"]) == []

    @pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
    def test_it_has_all_that_an_alert_needs(self, rule: dict[str, Any]) -> None:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"P2pnodes[A-Z][A-Za-z]+", rule["alert"])
        assert re.fullmatch(r"[0-9]+[mh]", rule["for"])
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "runbook"}

    @pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
    def test_its_summary_is_one_line_with_labels_that_it_has(self, rule: dict[str, Any]) -> None:
        summary = rule["annotations"]["summary"]
        assert len(summary) <= SUMMARY_CHARS_MAX
        assert "\n" not in summary
        used = set(re.findall(r"\$labels\.([a-z]+)", summary))
        metrics = [described(series) for series, _ in named(rule["expr"]).metrics]
        assert "instance" in used, "whoever has several daemons must know which"
        assert used <= TARGET_LABELS | {label for metric in metrics if metric for label in metric.labels}

    @pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
    def test_its_runbook_names_metrics_that_exist(self, rule: dict[str, Any]) -> None:
        runbook = rule["annotations"]["runbook"]
        assert {name for name in re.findall(r"\b(?:p2pnodes|process)_[a-z_]+", runbook) if name not in METRICS} == set()

    @pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
    def test_its_runbook_sends_to_commands_that_exist(self, rule: dict[str, Any]) -> None:
        for line in re.findall(r"`(p2pnodes [^`]+)`", rule["annotations"]["runbook"]):
            command: Any = typer.main.get_command(app)
            for word in line.split()[1:]:
                if not hasattr(command, "commands"):
                    break
                assert word in command.commands, line
                command = command.commands[word]
            options = {option for parameter in command.params for option in parameter.opts}
            assert set(re.findall(r"--[a-z-]+", line)) <= options, line

    def test_each_has_a_name_of_its_own(self) -> None:
        assert len(set(NAMES)) == len(NAMES)

    def test_alerts_that_a_runbook_sends_to_exist(self) -> None:
        for rule in ALERTS:
            assert set(re.findall(r"\bP2pnodes[A-Z]\w+", rule["annotations"]["runbook"])) <= set(NAMES)

    def test_prometheuss_own_checker_finds_nothing(self) -> None:
        checked = subprocess.run(
            [program("promtool"), "check", "rules", str(RULES)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout + checked.stderr


class TestDashboard:
    """The dashboard shows metrics that exist, with units, and lies on the grid without gaps or overlaps."""

    def expressions(self, panel: dict[str, Any]) -> Iterator[str]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m")

    @pytest.mark.parametrize("panel", GRAPHS, ids=TITLES)
    def test_a_panel_names_metrics_labels_and_values_that_exist(self, panel: dict[str, Any]) -> None:
        for expression in self.expressions(panel):
            assert unknown(expression) == []
            assert absent_values(expression) == []

    @pytest.mark.parametrize("panel", GRAPHS, ids=TITLES)
    def test_a_panel_follows_the_variables_and_says_what_it_shows(self, panel: dict[str, Any]) -> None:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for expression in self.expressions(panel):
            found = named(expression)
            assert found.metrics
            assert expression.count('instance=~"$instance"') == len(found.metrics)
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])

    @pytest.mark.parametrize("panel", GRAPHS, ids=TITLES)
    def test_a_legend_names_labels_that_the_series_have(self, panel: dict[str, Any]) -> None:
        for target in panel["targets"]:
            metrics = [
                described(series) for series, _ in named(target["expr"].replace("$__rate_interval", "5m")).metrics
            ]
            known = TARGET_LABELS | {label for metric in metrics if metric for label in metric.labels}
            assert set(re.findall(r"\{\{([a-z_]+)\}\}", target["legendFormat"])) <= known

    def test_only_panels_that_grafana_brings_are_used(self) -> None:
        assert {panel["type"] for panel in PANELS} == {"row", "stat", "timeseries"}

    def test_there_is_a_row_for_each_part(self) -> None:
        rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
        assert rows == ["Health", "Inventory", "Gossip", "Verification", "HTTP", "Storage"]

    def test_it_asks_for_data_source_and_instances(self) -> None:
        variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
        assert variables.keys() == {"datasource", "instance"}
        assert variables["datasource"]["type"] == "datasource"
        assert unknown(f"sum by (instance) ({variables['instance']['definition'].split('(')[1].split(',')[0]})") == []

    def test_numbers_of_panels_are_unique(self) -> None:
        assert len({panel["id"] for panel in PANELS}) == len(PANELS)
        assert len(set(TITLES)) == len(TITLES)

    def test_no_panel_lies_on_another_or_outside(self) -> None:
        places = [panel["gridPos"] for panel in PANELS]
        for place in places:
            assert place["x"] >= 0
            assert place["x"] + place["w"] <= GRID_COLUMNS
            assert place["h"] > 0
        for one, other in combinations(places, 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or above, (one, other)

    def test_the_lines_of_the_grid_are_full(self) -> None:
        """A gap is a panel that somebody forgot to widen."""
        places = [panel["gridPos"] for panel in PANELS]
        height = max(place["y"] + place["h"] for place in places)
        assert sum(place["w"] * place["h"] for place in places) == GRID_COLUMNS * height

    def test_nearly_every_metric_is_shown_somewhere(self) -> None:
        shown = {
            metric.name
            for panel in GRAPHS
            for expression in self.expressions(panel)
            for series, _ in named(expression).metrics
            if (metric := described(series)) is not None
        }
        assert METRICS.keys() - shown <= NOT_SHOWN


NOT_SHOWN: Final = {
    "p2pnodes_loading_slices",  # of a daemon's first minutes; `p2pnodes status` has them
    "p2pnodes_checkpoint_without_own_logs",
    "p2pnodes_damaged_events_total",  # of a disk that fails; an alert tells of each
    "p2pnodes_own_log_seq",  # own events by kind are
    "p2pnodes_electorate_block",  # its age is
    "p2pnodes_electorate_source_working",
    "p2pnodes_enrolled_validators",
    "p2pnodes_events",
    "p2pnodes_members",
    "p2pnodes_peers",
    "p2pnodes_sessions_behind",
    "p2pnodes_peer_ahead_events",
    "p2pnodes_banned_peers",  # bans by offence are
    "p2pnodes_verifier_working",
    "p2pnodes_passed_over_claims_total",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
}
"""Metrics that are for alerts, or for a closer look."""


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.metrics_page"
