"""What changed for a miner, told line by line from a daemon's stream of events.

A stream begins with a snapshot, and so does each one that cannot be resumed. Only the first is told as a whole; of a
later one what differs from before, so that nothing is told twice and nothing that happened in between is missed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import RemoteProtocolError

FOLLOWED_MAX: Final = 200_000
"""GPUs and tasks that are kept in mind, some 40 MB; the whole inventory of a large subnet has 100,000 GPUs."""

TEXT_CHARS_MAX: Final = 500
"""Longest text of a daemon that is told."""

_NODE: Final = "node"
_TASK: Final = "task"
_Key = tuple[str, str]
_State = tuple[str, ...]


class Tail:
    """Keeps in mind what a stream has told, and says what is new."""

    def __init__(self) -> None:
        self._known: dict[_Key, _State] = {}
        self._snapshot: dict[_Key, _State] | None = None
        self._synced = False

    def take(self, kind: str, data: Mapping[str, Any]) -> list[str]:
        """Take the next event.

        Args:
            kind: Its type; one that is not known says nothing.
            data: What it is about.

        Returns:
            Lines to tell; none for most of a snapshot, and for what is known already.

        Raises:
            RemoteProtocolError: More than FOLLOWED_MAX GPUs and tasks.
        """
        match kind:
            case "reset":
                self._snapshot = {}
                return []
            case "snapshot_end":
                return list(self._end_snapshot())
            case "node":
                chute = data.get("chute")
                runs = f"runs {_text(chute, 'name')}" if isinstance(chute, Mapping) else ""
                state = (*_texts(data, "status", "gpu_identifier", "detail"), runs)
                return self._set((_NODE, _text(data, "uuid")), state)
            case "node_deleted":
                return self._delete((_NODE, _text(data, "uuid")))
            case "claim":
                return self._set((_TASK, _text(data, "task_id")), _texts(data, "status", "detail"))
            case _:
                return []

    def _set(self, key: _Key, state: _State) -> list[str]:
        current = self._known if self._snapshot is None else self._snapshot
        known = current.get(key) == state
        current[key] = state
        if len(current) > FOLLOWED_MAX:
            raise RemoteProtocolError(
                f"more than {FOLLOWED_MAX} GPUs and tasks; expected fewer: follow one hotkey", code=Code.MINER_INPUT
            )
        return [] if known or self._snapshot is not None else [_line(key, state)]

    def _delete(self, key: _Key) -> list[str]:
        current = self._known if self._snapshot is None else self._snapshot
        gone = current.pop(key, None) is not None
        return [_line(key, ("deleted",))] if gone and self._snapshot is None else []

    def _end_snapshot(self) -> Iterator[str]:
        if self._snapshot is None:
            return
        before, self._known, self._snapshot = self._known, self._snapshot, None
        if not self._synced:
            self._synced = True
            yield f"now: {_summary(self._known, _NODE)}; {_summary(self._known, _TASK)}"
            return
        for key in before.keys() - self._known.keys():
            yield _line(key, ("deleted" if key[0] == _NODE else "gone",))
        for key, state in self._known.items():
            if before.get(key) != state:
                yield _line(key, state)


def _texts(data: Mapping[str, Any], *names: str) -> _State:
    return tuple(_text(data, name) for name in names)


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    return "" if value is None else str(value)[:TEXT_CHARS_MAX]


def _line(key: _Key, state: Iterable[str]) -> str:
    return " ".join(part for part in (*key, *state) if part)


def _summary(known: Mapping[_Key, _State], kind: str) -> str:
    counts = Counter(state[0] for (of, _), state in known.items() if of == kind)
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    what = "GPU" if kind == _NODE else "task"
    total = sum(counts.values())
    return f"{total} {what}{'' if total == 1 else 's'}" + (f" ({by_status})" if by_status else "")
