"""What every benchmark is made of: slices turn about, and the ratio of their medians."""

import gc
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

ROUNDS: Final = 7


class Ratio(NamedTuple):
    """One result: ``ours`` and ``limit``, medians of rounds, in ``unit``; ``ratio`` the median of each round's.

    More is better of a ratio: it is ours / limit of what is counted per second, and limit / ours of costs.
    """

    name: str
    against: str
    ours: float
    limit: float
    ratio: float
    wanted: float
    unit: str = "/s"


def compare(
    name: str, against: str, wanted: float, ours: Callable[[int], float], limit: Callable[[int], float]
) -> Ratio:
    """Run both turn about; the first round warms up and is not counted."""
    pairs = []
    for number in range(ROUNDS + 1):
        gc.collect()
        order = (ours, limit) if number % 2 else (limit, ours)
        found = {each: each(number) for each in order}
        pairs.append((found[ours], found[limit]))
        progress(f"{name}: round {number} of {ROUNDS}")
    return of_pairs(name, against, wanted, pairs[1:])


def of_pairs(name: str, against: str, wanted: float, pairs: Sequence[tuple[float, float]]) -> Ratio:
    """The result of rounds, each (ours, limit) per second."""
    return Ratio(
        name,
        against,
        statistics.median(one for one, _ in pairs),
        statistics.median(two for _, two in pairs),
        statistics.median(one / two for one, two in pairs),
        wanted,
    )


def costs(name: str, against: str, wanted: float, unit: str, pairs: Sequence[tuple[float, float]]) -> Ratio:
    """The result of rounds, each (ours, limit) in a unit of which less is better."""
    turned = of_pairs(name, against, wanted, [(limit, ours) for ours, limit in pairs])
    return turned._replace(ours=turned.limit, limit=turned.ours, unit=unit)


def share(values: Sequence[float], part: float) -> float:
    """The value that ``part`` (0 to 1) of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def progress(line: str) -> None:
    """Show on a terminal what is under way."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr)
