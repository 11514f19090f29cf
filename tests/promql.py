"""As much of PromQL as says which metrics and labels an expression names; what it does not know is an error."""

import re
from typing import Final, NamedTuple

from p2pnodes.metrics import METRICS, Described, Kind

TARGET_LABELS: Final = frozenset({"instance", "job"})
"""Labels that Prometheus adds to whatever it scrapes."""

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<string>\"[^\"]*\")|(?P<range>\[[^\]]*\])|(?P<number>[0-9][0-9.a-z]*)|(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)"
    r"|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%<>=(){},]))"
)
_LISTS: Final = frozenset({"by", "without", "on", "ignoring"})
_WORDS: Final = frozenset({"and", "or", "unless", "offset"})
_FUNCTIONS: Final = frozenset(
    {
        "abs", "changes", "delta", "histogram_quantile", "increase", "label_values", "last_over_time", "min_over_time",
        "predict_linear", "rate", "sum", "time", "topk",
    }
)  # fmt: skip
_SUFFIXES: Final = ("_bucket", "_sum", "_count")


class Named(NamedTuple):
    """What an expression names.

    Attributes:
        metrics: Name of each series -> what it asks of labels with ``=``: label -> value.
        labels: Labels of any kind, grouped by or matched.
    """

    metrics: list[tuple[str, dict[str, str]]]
    labels: set[str]


def named(expression: str) -> Named:
    """What an expression names.

    Raises:
        ValueError: It is not one, or uses what this reader does not know.
    """
    tokens = _tokens(expression)
    found = Named([], set())
    position = 0
    while position < len(tokens):
        token, following = tokens[position], tokens[position + 1] if position + 1 < len(tokens) else ""
        position += 1
        if not re.match(r"[A-Za-z_:]", token) or token in _WORDS:
            continue
        if token in _LISTS:
            end = tokens.index(")", position)
            found.labels.update(tokens[position + 1 : end : 2])
            position = end + 1
        elif following == "(" or following in _LISTS:
            if token not in _FUNCTIONS:
                raise ValueError(f"{token!r} is no function that is known here: {expression}")
        else:
            matched: dict[str, str] = {}
            if following == "{":
                end = tokens.index("}", position)
                matchers = tokens[position + 1 : end]
                found.labels.update(matchers[::4])
                matched = {
                    label: value.strip('"')
                    for label, sign, value in zip(matchers[::4], matchers[1::4], matchers[2::4], strict=True)
                    if sign == "="
                }
                position = end + 1
            found.metrics.append((token, matched))
    return found


def _tokens(expression: str) -> list[str]:
    tokens, position = [], 0
    while (found := _TOKEN.match(expression, position)) is not None:
        tokens.append(found[0].strip())
        position = found.end()
    if expression[position:].strip():
        raise ValueError(f"{expression[position:]!r} cannot be read: {expression}")
    for opening, closing in ("()", "{}"):
        if tokens.count(opening) != tokens.count(closing):
            raise ValueError(f"{opening!r} and {closing!r} do not match: {expression}")
    return tokens


def described(series: str) -> Described | None:
    """The metric that a series belongs to: its own name, or a histogram's with ``_bucket``, ``_sum`` or ``_count``."""
    if (metric := METRICS.get(series)) is not None:
        return None if metric.kind is Kind.HISTOGRAM else metric
    base = METRICS.get(re.sub(f"({'|'.join(_SUFFIXES)})$", "", series))
    return base if base is not None and base.kind is Kind.HISTOGRAM else None


def unknown(expression: str) -> list[str]:
    """The metrics and labels in an expression that no daemon exposes; of ``up``, which is Prometheus's, nothing."""
    found = named(expression)
    missing, labels = [], set(TARGET_LABELS)
    for series, _ in found.metrics:
        metric = described(series)
        if metric is not None:
            labels |= set(metric.labels) | ({"le"} if series.endswith("_bucket") else set())
        elif series != "up":
            missing.append(series)
    return [*missing, *sorted(found.labels - labels)]
