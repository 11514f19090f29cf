"""Which of a failed run's faults are needed to make it fail: delta debugging (Zeller and Hildebrandt 2002, ddmin).

Leaving faults out changes what happens, so that a run may fail in another way than the first one did; whatever fails is
worth to be looked at, and fewer faults are easier to read.
"""

from collections.abc import Callable, Sequence

Fails = Callable[[tuple[int, ...]], bool]
"""Whether a run fails in which only these faults strike."""


def shrink(faults: Sequence[int], fails: Fails, runs_max: int) -> tuple[int, ...]:
    """Leave out faults for as long as the run still fails without them.

    Args:
        faults: Those with which it failed.
        fails: Runs it again.
        runs_max: Runs that it may take; what is found by then is the answer.

    Returns:
        Faults with which it fails; where the runs sufficed, it passes without any one of them.
    """
    found, parts, runs = tuple(faults), 2, 0
    while found:
        size = max(1, -(-len(found) // parts))
        for first in range(0, len(found), size):
            if runs >= runs_max:
                return found
            runs += 1
            fewer = found[:first] + found[first + size :]
            if fails(fewer):
                found, parts = fewer, max(2, parts - 1)
                break
        else:
            if size == 1:
                return found
            parts = min(2 * parts, len(found))
    return found
