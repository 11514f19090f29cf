"""What the soak calls growth, and that its inventory does not grow."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import miners
from tests.faults.book import Book
from tests.faults.soak import MEMORY_GROWTH_MAX, Sample, Soak


def complaints(tmp_path: Path, *quarters: Sample) -> list[str]:
    """What the soak says of one daemon that looked like this in each quarter."""
    scene = Soak(tmp_path, random.Random(1))
    scene._samples["peer0"] = [sample for sample in quarters for _ in range(10)]
    asyncio.run(scene.heal())
    return scene.complaints


class TestGrowth:
    """The last quarter is held against the second: a start may take what it needs."""

    flat = Sample(memory_mb=100.0, files=20, wal_mb=60.0)

    def test_a_start_is_not_looked_at(self, tmp_path: Path) -> None:
        small = Sample(memory_mb=60.0, files=3, wal_mb=0.0)
        assert complaints(tmp_path, small, self.flat, self.flat, self.flat) == []

    def test_memory_that_goes_on_growing_is_a_leak(self, tmp_path: Path) -> None:
        large = self.flat._replace(memory_mb=100.0 * MEMORY_GROWTH_MAX + 1)
        assert complaints(tmp_path, self.flat, self.flat, self.flat, large) == ["peer0: memory grew from 100 to 111 MB"]

    def test_files_that_stay_open_are_one(self, tmp_path: Path) -> None:
        many = self.flat._replace(files=40)
        assert complaints(tmp_path, self.flat, self.flat, self.flat, many) == ["peer0: open files grew from 20 to 40"]

    def test_a_log_that_is_not_written_back_is_told(self, tmp_path: Path) -> None:
        long = self.flat._replace(wal_mb=200.0)
        assert complaints(tmp_path, self.flat, long, long, long) == ["peer0: the write-ahead log has 200 MB"]

    def test_one_look_of_many_is_none(self, tmp_path: Path) -> None:
        scene = Soak(tmp_path, random.Random(1))
        scene._samples["peer0"] = [*[self.flat] * 39, self.flat._replace(memory_mb=900.0)]
        asyncio.run(scene.heal())
        assert scene.complaints == []


class _Client:
    """Takes every write."""

    def __init__(self) -> None:
        self.held = 0
        self.most = 0

    async def add(self, server: dict[str, list[object]]) -> None:
        self.held += len(server["nodes"])
        self.most = max(self.most, self.held)

    async def delete(self, _: str) -> None:
        self.held -= 1


class TestMiner:
    """A miner's inventory grows to its size and stays there, however long the suite."""

    @pytest.fixture
    def book(self, tmp_path: Path) -> Iterator[Book]:
        book = Book(tmp_path / "book")
        yield book
        book.close()

    def test_it_holds_no_more_than_it_may(self, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(miners, "KEPT_MAX", 20)
        miner, client = miners.Miner("//Alice", {}, book, random.Random(1), 0.0), _Client()

        async def write() -> None:
            for _ in range(500):
                await miner._write("peer0", client)  # type: ignore[arg-type] # what it needs of a client

        asyncio.run(write())
        assert 20 <= client.most < 20 + miners.GPUS_MAX
        assert client.held >= 20 - miners.GPUS_MAX
        assert book.totals.listed == client.held
