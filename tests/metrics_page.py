"""The page about metrics and alerts: ``python -m tests.metrics_page`` writes it from their table and the rules."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

import p2pnodes
from p2pnodes.metrics import PEERS_MAX, TABLE, Described

PAGE: Final = Path(p2pnodes.__file__).with_name("docs") / "metrics.md"
RULES: Final = Path(__file__).parent.parent / "configs" / "prometheus-rules.yml"

_HEAD: Final = f"""# Metrics and alerts

Written by `python -m tests.metrics_page` from the table in `p2pnodes/metrics.py` and `configs/prometheus-rules.yml`.

A daemon serves its metrics at `/metrics` of the admin interface, in Prometheus's text format: on the Unix socket, and
on 127.0.0.1 where `[admin] port` is set.

```sh needs=values
curl -s --unix-socket /var/lib/p2pnodes/admin.sock http://localhost/metrics
```

```yaml
scrape_configs:
  - job_name: p2pnodes
    static_configs: [{{targets: ["127.0.0.1:9464"]}}] # [admin] port
```

Metrics are read anew at each scrape; counters begin at zero when the daemon starts, those of gossip also when its node
key is replaced. What is not known is left out. Of peers, only validators have series of their own (label `hotkey`),
{PEERS_MAX} at most; no other label has a value that a stranger chooses. `p2pnodes docs --file grafana-dashboard.json`
prints a dashboard of them: import it in Grafana, and choose the data source.
"""

_ALERTS: Final = """
## Alerts

`p2pnodes docs --file prometheus-rules.yml` prints these rules. A critical one wakes somebody, a warning can wait for
the morning.
"""


def page() -> str:
    """The page as it should be."""
    parts = [_HEAD]
    for section, metrics in TABLE.items():
        rows = "".join(_row(metric) for metric in metrics)
        parts.append(f"\n## {section}\n\n| metric | type | what it says | labels |\n| --- | --- | --- | --- |\n{rows}")
    parts.append(_ALERTS)
    parts += [_alert(rule) for group in rules() for rule in group["rules"]]
    return "".join(parts)


def rules() -> list[dict[str, Any]]:
    """The groups of alert rules."""
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return found


def _row(metric: Described) -> str:
    labels = "<br>".join(f"`{name}`: {values}" for name, values in metric.labels.items())
    bounds = f" Up to {', '.join(f'{bound:g}' for bound in metric.buckets)}." if metric.buckets else ""
    return f"| `{metric.name}` | {metric.kind} | {metric.text}{bounds} | {labels} |\n"


def _alert(rule: Mapping[str, Any]) -> str:
    after = "" if rule["for"] == "0m" else f", after {rule['for']}"
    return (
        f"\n### {rule['alert']}\n\n{rule['labels']['severity'].capitalize()}{after}:\n\n"
        f"```promql\n{rule['expr']}\n```\n\n{rule['annotations']['runbook']}\n"
    )


def main() -> int:
    """Write the page."""
    PAGE.write_text(page())
    sys.stdout.write(f"wrote {PAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
