"""What a miner is told of a stream: how things stand, then what changes, once."""

from typing import Any

import pytest

from p2pnodes.miner import tail as tail_module
from p2pnodes.miner.tail import Tail
from p2pnodes.model.errors import RemoteProtocolError


def told(tail: Tail, *events: tuple[str, dict[str, Any]]) -> list[str]:
    return [line for kind, data in events for line in tail.take(kind, data)]


def node(uuid: str, status: str = "pending", **more: Any) -> tuple[str, dict[str, Any]]:
    return "node", {"uuid": uuid, "status": status, "gpu_identifier": "h100", "detail": None, "chute": None, **more}


def claim(task_id: str, status: str, detail: str | None = None) -> tuple[str, dict[str, Any]]:
    return "claim", {"task_id": task_id, "status": status, "detail": detail}


RESET: tuple[str, dict[str, Any]] = ("reset", {})
END: tuple[str, dict[str, Any]] = ("snapshot_end", {})


class TestTelling:
    """A snapshot is one line, a change is one line, what is known is none."""

    def test_the_first_snapshot_is_summed_up(self) -> None:
        snapshot = [RESET, node("u1"), node("u2", "verified"), node("u3"), claim("t", "pending"), END]
        assert told(Tail(), *snapshot) == ["now: 3 GPUs (2 pending, 1 verified); 1 task (1 pending)"]
        assert told(Tail(), RESET, END) == ["now: 0 GPUs; 0 tasks"]

    def test_changes_are_told_as_they_come(self) -> None:
        tail = Tail()
        told(tail, RESET, node("u1"), END)
        assert told(tail, node("u1", "verified")) == ["node u1 verified h100"]
        assert told(tail, node("u1", "verified", chute={"name": "chat"})) == ["node u1 verified h100 runs chat"]
        assert told(tail, node("u2", "failed", detail="no answer")) == ["node u2 failed h100 no answer"]
        assert told(tail, claim("t", "failed", "no answer")) == ["task t failed no answer"]
        assert told(tail, ("node_deleted", {"uuid": "u1"})) == ["node u1 deleted"]

    def test_what_is_known_and_what_is_of_no_known_kind_is_not_told(self) -> None:
        tail = Tail()
        told(tail, RESET, node("u1"), END, claim("t", "pending"))
        again = [node("u1"), claim("t", "pending"), ("node_deleted", {"uuid": "u9"}), ("novelty", {}), END]
        assert told(tail, *again) == []

    def test_a_later_snapshot_tells_what_changed_meanwhile(self) -> None:
        tail = Tail()
        told(tail, RESET, node("u1"), node("u2"), claim("t", "pending"), END)
        later = [RESET, node("u1"), node("u3"), claim("t", "verified"), END]
        assert told(tail, *later) == ["node u2 deleted", "node u3 pending h100", "task t verified"]
        assert told(tail, *later) == []

    def test_half_a_snapshot_counts_for_nothing(self) -> None:
        tail = Tail()
        told(tail, RESET, node("u1"), END)
        assert told(tail, RESET, node("u2"), RESET, node("u1"), END) == []

    def test_data_of_any_shape_is_told_within_bounds(self) -> None:
        tail = Tail()
        (line,) = told(tail, ("node", {"uuid": 7, "status": ["x"], "detail": "y" * 10_000, "chute": "z"}))
        assert line.startswith("node 7 ['x'] yyy")
        assert len(line) < 600
        assert told(tail, ("claim", {})) == ["task"]


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "FOLLOWED_MAX", 2)
    with pytest.raises(RemoteProtocolError, match="follow one hotkey"):
        told(Tail(), RESET, node("u1"), node("u2"), claim("t", "pending"))
