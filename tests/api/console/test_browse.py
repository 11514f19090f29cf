"""Looking through the inventory: every page once, in order, whatever way it is found."""

import itertools
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.model import codec
from p2pnodes.model.requests import request_id, sign_add
from p2pnodes.store import browse
from p2pnodes.store.browse import MARK_CHARS_MAX, ORDERS, PAGE_ROWS_MAX, Mark, Wanted
from p2pnodes.store.facts import Facts
from p2pnodes.store.ledger import Ledger
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, body, delete, hotkey, memory_ledger

GPUS: Final = 34


@pytest.fixture(scope="module")
def facts() -> Iterator[Facts]:
    """Claims of three miners: verified, failed, pending and deleted ones, some with a chute."""
    ledger = memory_ledger()
    author = Author("//validator0")
    author.delegate()
    for index, miner in enumerate(("//Alice", "//Bob", "//Charlie", "//Alice")):
        request = sign_add(
            hotkey(miner),
            NOW_S + index,
            body([f"{codec.digest(bytes([index, place]), 4).hex()}-gpu" for place in range(10)]).replace(
                b"s-1", f"rack_{index}%".encode()
            ),
        )
        author.add(request)
        if index < 2:
            author.verdict(request_id(NETWORK.id, request), "verified" if index == 0 else "failed")
    for place in range(3):
        author.delete(
            delete("//Bob", f"nodes:{codec.digest(bytes([1, place]), 4).hex()}-gpu", NOW_S + 5),
            f"{codec.digest(bytes([1, place]), 4).hex()}-gpu",
        )
    author.add(add("//Dave", ["lonely"], NOW_S + 6))
    author.delete(delete("//Dave", "nodes:lonely", NOW_S + 7), "lonely")
    for place in range(3):
        author.add(add("//Bob", [f"{codec.digest(bytes([3, place]), 4).hex()}-gpu"], NOW_S + 8 + place))
    with ledger.transaction():
        ledger.receive(author.events, NOW_MS + 60_000)
    yield ledger.facts
    close(ledger)


def close(ledger: Ledger) -> None:
    ledger._connection.close()


def walked(facts: Facts, wanted: Wanted, order: str, limit: int) -> list[str]:
    """Every row, page by page from the first one."""
    found: list[str] = []
    mark = None
    while True:
        page = browse.page(facts, wanted, order, limit, after=mark)
        assert page.place == len(found)
        found += [row["uuid"] for row in page.rows]
        if page.after is None:
            return found
        mark = Mark.decode(page.after.encode())


def rows(facts: Facts) -> list[dict[str, Any]]:
    cursor = facts.connection.execute("SELECT * FROM inventory")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


class TestPages:
    """A page is what follows a row."""

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("limit", [1, 7, 100])
    def test_pages_together_are_every_row_once(self, facts: Facts, order: str, limit: int) -> None:
        found = walked(facts, Wanted(), order, limit)
        assert len(found) == len(set(found)) == len(rows(facts))

    @pytest.mark.parametrize("order", ORDERS)
    def test_going_back_shows_the_same_pages(self, facts: Facts, order: str) -> None:
        pages = [browse.page(facts, Wanted(), order, 7)]
        while (after := pages[-1].after) is not None:
            pages.append(browse.page(facts, Wanted(), order, 7, after=after))
        assert pages[0].before is None
        for earlier, later in itertools.pairwise(pages):
            assert later.before is not None
            back = browse.page(facts, Wanted(), order, 7, before=later.before)
            assert (back.rows, back.place) == (earlier.rows, earlier.place)

    @pytest.mark.parametrize("order", ["newest", "oldest"])
    @pytest.mark.parametrize("miner", [None, "//Alice", "//Bob", "//Dave"])
    def test_by_arrival_both_ways_of_reading_agree(
        self, facts: Facts, monkeypatch: pytest.MonkeyPatch, order: str, miner: str | None
    ) -> None:
        wanted = Wanted(hotkey=miner and hotkey(miner).address)
        by_claims = walked(facts, wanted, order, 4)
        monkeypatch.setattr(browse, "CLAIMS_PER_PAGE_MAX", 0)
        assert walked(facts, wanted, order, 4) == by_claims

    @pytest.mark.parametrize(
        ("order", "column"),
        [("uuid", "uuid"), ("model", "gpu_identifier"), ("status", "status"), ("server", "server_id")],
    )
    def test_they_are_in_order(self, facts: Facts, order: str, column: str) -> None:
        of = {row["uuid"]: row for row in rows(facts)}
        found = [(of[uuid][column] or "", uuid) for uuid in walked(facts, Wanted(), order, 5)]
        assert found == sorted(found)

    def test_one_asks_for_a_bounded_number_of_rows(self, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(browse, "PAGE_ROWS_MAX", 5)
        assert len(browse.page(facts, Wanted(), "uuid", PAGE_ROWS_MAX).rows) == 5

    def test_an_order_that_there_is_not_is_refused(self, facts: Facts) -> None:
        with pytest.raises(ValueError, match="expected one of newest"):
            browse.page(facts, Wanted(), "uuid; DROP TABLE node", 5)


class TestWanted:
    """Filters say what they mean."""

    @pytest.mark.parametrize(
        "wanted",
        [
            Wanted(status="failed"),
            Wanted(status="pending"),
            Wanted(gpu_identifier="h100_sxm"),
            Wanted(gpu_identifier="none"),
            Wanted(server_id="rack_1%"),
            Wanted(busy=False),
            Wanted(busy=True),
            Wanted(hotkey=hotkey("//Alice").address),
            Wanted(hotkey="nobody"),
            Wanted(hotkey=hotkey("//Alice").address, status="pending"),
            Wanted(search="RACK_0%"),
            Wanted(search="rack_"),
            Wanted(search="_"),
            Wanted(search="%"),
            Wanted(search="\\"),
            Wanted(search="' OR 1=1 --"),
            Wanted(search="h100"),
            Wanted(search=hotkey("//Bob").address),
            Wanted(search=hotkey("//Bob").address[5:20].lower()),
        ],
    )
    @pytest.mark.parametrize("order", ["newest", "uuid"])
    def test_rows_and_count_are_those_that_match(self, facts: Facts, wanted: Wanted, order: str) -> None:
        found = walked(facts, wanted, order, 6)
        expected = {row["uuid"] for row in rows(facts) if matches(row, wanted)}
        assert set(found) == expected
        assert browse.count(facts, wanted) == len(found) == len(expected)


def matches(row: dict[str, Any], wanted: Wanted) -> bool:
    """What the filters promise, in Python."""
    exact = ("status", "gpu_identifier", "server_id", "chute_id", "hotkey")
    if any(getattr(wanted, name) not in {None, row[name]} for name in exact):
        return False
    if wanted.busy is not None and wanted.busy != (row["chute_id"] is not None):
        return False
    looked_in = ("uuid", "server_id", "name", "gpu_identifier", "chute_id", "instance_id", "hotkey")
    return any(wanted.search.lower() in (row[name] or "").lower() for name in looked_in)


class TestMarks:
    """A mark is the text of a place; any other text is none."""

    @given(
        st.one_of(
            st.integers(0, 2**63 - 1),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=64),
            st.binary(max_size=32),
        )
    )
    def test_it_comes_back(self, value: int | str | bytes) -> None:
        mark = Mark(value, "u1", 3)
        assert len(mark.encode()) <= MARK_CHARS_MAX
        if not isinstance(value, str) or len(value) <= 256:
            assert Mark.decode(mark.encode()) == mark

    @settings(max_examples=200)
    @given(st.one_of(st.text(max_size=40), st.binary(max_size=40).map(bytes.hex)))
    def test_anything_else_is_refused(self, text: str) -> None:
        try:
            mark = Mark.decode(text)
        except ValueError:
            return
        assert mark.encode() == text.lower()

    @pytest.mark.parametrize(
        "text", ["", "zz", "c0", "93", "9301a17501" * 500, "93d3ffffffffffffffffa17501", "93c3a17500"]
    )
    def test_malformed_ones_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a place"):
            Mark.decode(text)

    def test_one_of_another_order_is_refused(self, facts: Facts) -> None:
        with pytest.raises(ValueError, match="another order"):
            browse.page(facts, Wanted(), "uuid", 5, after=Mark(3, "u1", 0))


class TestCounts:
    """Sums over everything."""

    def test_totals_do_not_overlap_and_are_all(self, facts: Facts) -> None:
        totals = browse.totals(facts)
        assert sum(sum(model[1:]) for model in totals) == len(rows(facts))
        of = {
            status: sum(row["status"] == status for row in rows(facts)) for status in ("pending", "failed", "verified")
        }
        assert sum(model.pending for model in totals) == of["pending"]
        assert sum(model.failed for model in totals) == of["failed"]
        assert sum(model.idle + model.provisioned for model in totals) == of["verified"]

    def test_the_rarest_models_are_summed_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(browse, "MODELS_MAX", 2)
        ledger = memory_ledger()
        author = Author("//validator0")
        author.delegate()
        for index, (model, gpus) in enumerate((("a", 4), ("b", 3), ("c", 2), ("d", 1))):
            uuids = [f"{model}{place}" for place in range(gpus)]
            author.add(sign_add(hotkey("//Alice"), NOW_S + index, body(uuids, gpu_identifier=model)))
        with ledger.transaction():
            ledger.receive(author.events, NOW_MS + 60_000)
        found = browse.totals(ledger.facts)
        assert [(each.gpu_identifier, each.pending) for each in found] == [("a", 4), ("b", 3), (browse.OTHERS, 3)]
