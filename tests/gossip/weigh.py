"""How much an object holds on to: every container that can be reached from it, found by looking, not by a list.

So a container that somebody adds and does not bound is found by the test that floods, without being named there.
"""

import random
import sys
from collections import defaultdict, deque
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

_OUTSIDE: Final = (type, FunctionType, MethodType, ModuleType, random.Random)
_INSIDE: Final = ("p2pnodes.gossip.", "p2pnodes.model.")


class Weight(NamedTuple):
    """What was found.

    Attributes:
        longest: Path of attributes -> items in the largest container there; elements of containers have no names of
            their own in a path, so that all sessions share one.
        size_bytes: Of everything, as ``sys.getsizeof`` has it.
    """

    longest: dict[str, int]
    size_bytes: int


def weigh(root: object) -> Weight:
    """Weigh what an object of the gossip package holds, but for the store, which is none of its parts."""
    longest: dict[str, int] = defaultdict(int)
    size_bytes = 0
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [(type(root).__name__, root)]
    while waiting:
        path, found = waiting.pop()
        if id(found) in seen or isinstance(found, _OUTSIDE):
            continue
        if hasattr(found, "__dict__") and not type(found).__module__.startswith(_INSIDE):
            continue
        seen.add(id(found))
        size_bytes += sys.getsizeof(found)
        if isinstance(found, dict | list | set | deque):
            longest[path] = max(longest[path], len(found))
        waiting.extend((path + name, part) for name, part in _parts(found))
    return Weight(dict(longest), size_bytes)


def _parts(found: Any) -> Iterator[tuple[str, object]]:
    if isinstance(found, dict):
        for key, value in found.items():
            yield "[]", key
            yield "[]", value
    elif isinstance(found, list | tuple | set | frozenset | deque):
        for item in found:
            yield "[]", item
    else:
        for name, value in getattr(found, "__dict__", {}).items():
            yield f".{name}", value
        for kind in type(found).__mro__:
            for name in getattr(kind, "__slots__", ()):
                if hasattr(found, name):
                    yield f".{name}", getattr(found, name)
