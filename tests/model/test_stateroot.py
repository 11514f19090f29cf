"""The state root: equal rows have equal roots, and keeping it up to date gives what computing it anew gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.model.codec import digest
from p2pnodes.model.inventory import Chute, Row
from p2pnodes.model.stateroot import BUCKETS, BUCKETS_PER_GROUP, GROUPS, StateRoot, bucket_of, state_root

ROW = Row("gpu-1", b"c" * 32, b"m" * 32, "verified", 7, 9, "", Chute("chute", "instance", True, True, "llama", "ann"))


def rows(uuids: list[str]) -> list[Row]:
    return [ROW._replace(uuid=uuid) for uuid in uuids]


def _without(chute: Chute, place: int) -> list[object]:
    return [None if index == place else value for index, value in enumerate(chute)]


many = st.lists(st.text("abc", min_size=1, max_size=6), max_size=40, unique=True)


@given(uuids=many, data=st.data())
def test_the_order_of_rows_does_not_matter(uuids: list[str], data: st.DataObject) -> None:
    assert state_root(rows(data.draw(st.permutations(uuids)))) == state_root(rows(uuids))


@given(before=many, after=many)
def test_replacing_the_buckets_that_changed_gives_the_root_of_the_rows(before: list[str], after: list[str]) -> None:
    state = StateRoot()
    for uuids in (before, after):
        held = rows(sorted(uuids))
        for bucket in {bucket_of(uuid) for uuid in (*before, *after)}:
            state.set_bucket(bucket, (row.digest() for row in held if bucket_of(row.uuid) == bucket))
        assert state.root() == state_root(held)


def test_the_root_of_a_moment_stays_what_it_was_whenever_it_is_asked_for() -> None:
    state = StateRoot()
    state.set_bucket(5, [ROW.digest()])
    then = state.now()
    assert state.now() is then
    for bucket in (5, 6):
        state.set_bucket(bucket, [ROW._replace(uuid="gpu-2").digest()])
    later = state.now()
    again = StateRoot()
    again.set_bucket(5, [ROW.digest()])
    assert then.hash == again.root() != later.hash
    assert (then == again.now(), then == later) == (True, False)


def test_every_column_of_a_row_is_part_of_it() -> None:
    assert ROW.chute is not None
    changed = [
        ROW,
        ROW._replace(uuid="gpu-2"), ROW._replace(claim_id=b"d" * 32), ROW._replace(miner=b"n" * 32),
        ROW._replace(status="failed"), ROW._replace(created_hlc=8), ROW._replace(verified_since=None),
        ROW._replace(detail="no proof"), ROW._replace(chute=None),
        *(ROW._replace(chute=Chute._make(_without(ROW.chute, place))) for place in range(len(ROW.chute))),
    ]  # fmt: skip
    assert len({state_root([row]) for row in changed}) == len(changed)


def test_an_empty_inventory_is_empty_groups() -> None:
    assert state_root([]) == StateRoot().root() == digest(bytes(GROUPS * 32))


@pytest.mark.parametrize("bucket", [0, 5, BUCKETS_PER_GROUP, BUCKETS - 1])
def test_a_bucket_that_was_emptied_is_as_if_it_had_never_been_filled(bucket: int) -> None:
    state = StateRoot()
    state.set_bucket(bucket, [ROW.digest()])
    assert state.root() != state_root([])
    state.set_bucket(bucket, [])
    assert state.root() == state_root([])


def test_the_same_row_in_another_bucket_is_another_root() -> None:
    roots = set()
    for bucket in (0, 1, BUCKETS_PER_GROUP, BUCKETS - 1):
        state = StateRoot()
        state.set_bucket(bucket, [ROW.digest()])
        roots.add(state.root())
    assert len(roots) == 4


def test_buckets_are_used_evenly() -> None:
    used = {bucket_of(f"gpu-{number}") for number in range(200_000)}
    assert used <= set(range(BUCKETS))
    assert len(used) > BUCKETS * 0.94  # 1 - exp(-200,000 / 65,536) = 0.953
