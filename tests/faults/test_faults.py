"""The survival suites in their short form, and that their book sees what is lost."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import pytest

from tests.faults import arena
from tests.faults.arena import Scene, in_time
from tests.faults.book import Book, Fate
from tests.faults.suites import SUITES

SUITE_S_MAX: Final = 600.0
SHORT: Final = sorted(name for name, suite in SUITES.items() if suite.short)


class TestBook:
    """What was acknowledged is missed, and nothing else is."""

    @pytest.fixture
    def book(self, tmp_path: Path) -> Iterator[Book]:
        book = Book(tmp_path / "book")
        book.note(["a", "b"], Fate.OPEN, "peer0")
        book.note(["a", "b"], Fate.LISTED, "peer0")
        book.note(["c"], Fate.OPEN, "peer0")
        book.note(["b"], Fate.GONE, "peer1")
        yield book
        book.close()

    def test_an_inventory_that_is_as_it_was_acknowledged_is_right_whatever_became_of_the_rest(self, book: Book) -> None:
        assert book.complaints({"a"}, "peer2") == []
        assert book.complaints({"a", "c"}, "peer2") == []

    @pytest.mark.parametrize(
        ("listed", "complaint"),
        [
            (set(), "peer2: 1 acknowledged registrations are missing: ['a']"),
            ({"a", "b"}, "peer2: 1 acknowledged deletions are undone: ['b']"),
            ({"a", "z"}, "peer2: 1 GPUs are listed that nobody registered: ['z']"),
        ],
    )
    def test_what_is_lost_undone_or_made_up_is_named(self, book: Book, listed: set[str], complaint: str) -> None:
        assert book.complaints(listed, "peer2") == [complaint]

    def test_only_answers_are_counted_as_acknowledged(self, book: Book) -> None:
        assert book.acknowledged == 2

    def test_every_answer_is_on_disk_at_once(self, book: Book, tmp_path: Path) -> None:
        lines = [json.loads(line) for line in (tmp_path / "book").read_bytes().splitlines()]
        assert lines[-1] == {"uuids": ["b"], "fate": "gone", "peer": "peer1"}
        assert len(lines) == 4


class NoNetwork(Scene):
    """No daemon, and a fault that never ends."""

    pause_s = 0.0

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__(directory, rng)
        self.net.peers.clear()

    async def begin(self) -> None:
        pass

    async def end(self) -> None:
        pass

    async def strike(self) -> str:
        with in_time("the sky falls", 0.0):
            await asyncio.wait_for(asyncio.Event().wait(), 0.0)
        raise AssertionError

    async def heal(self) -> None:
        self.figures["healed"] = True


async def test_a_suite_that_waits_in_vain_ends_with_what_it_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with a traceback: what was broken is healed, and the rest is checked."""
    for name in ("PROGRESS_S_MAX", "HEALED_S_MAX"):
        monkeypatch.setattr(arena, name, 0.0)
    monkeypatch.setattr(arena, "mining", lambda *_: nullcontext())
    book = Book(tmp_path / "book")
    outcome = await arena.play(NoNetwork(tmp_path, random.Random(1)), book, seed=1, strikes=2)
    book.close()
    assert "fault 1 of 2: waited 0 s in vain: the sky falls" in outcome.complaints
    assert outcome.figures == {"healed": True}


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces of its own need root")
@pytest.mark.timeout(SUITE_S_MAX + 20)
@pytest.mark.parametrize("suite", SHORT)
def test_nothing_is_lost(suite: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults", suite, "--json", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SUITE_S_MAX, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    outcome = json.loads(done.stdout)
    assert outcome["complaints"] == []
    assert sum(outcome["strikes"].values()) == SUITES[suite].short
    assert outcome["acknowledged"] > 0
