"""A validator that lies says one thing a hundred thousand times: what others do costs as much as before, or nearly."""

from functools import partial
from typing import Final

import pytest

from p2pnodes.model.checkpoint import line_of
from p2pnodes.model.events import Carry, Event
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.reweighed import UUID_LAST, Reweighed
from tests.store.steps import steps
from tests.store.test_branches import evidence_of
from tests.store.test_checkpoints import DAY_MS, certificate, cut, found, later, proposed
from tests.support import NETWORK, NOW_MS, NOW_S, VALIDATORS, Author, add, delete, electorate, memory_ledger

GPU: Final = "gpu-1"
REPEATS: Final = (2, 32)
"""Carries, of 64 times the same deletion each."""


WHO: Final = electorate(stakes={VALIDATORS[0]: 100, VALIDATORS[1]: 1})


def said(repeats: int) -> tuple[Ledger, Author, Event]:
    """A ledger that has heard a deletion so often, the log that says it, and the event that says it once more."""
    author, other = Author(VALIDATORS[0]), Author(VALIDATORS[1])
    ledger = memory_ledger(who=WHO)
    for each in (author, other):
        each.write(each.delegation(not_after=NOW_S + 99 * 86_400), at_ms=NOW_MS - 1000)
    author.add(add("//Alice", [GPU]))
    raw = Author("//Dave").delete(delete("//Alice", "nodes", NOW_S + 1), GPU).wire
    for _ in range(repeats):
        author.write(Carry((raw,) * 64))
    with ledger.transaction():
        ledger.receive([*other.events, *author.events], NOW_MS)
    return ledger, author, author.write(Carry((raw,) * 64))


def grows(costs: list[int]) -> float:
    """How many times as much the second one is."""
    return costs[1] / costs[0]


def test_a_deletion_under_a_signature_that_was_used_often_is_recorded_as_before() -> None:
    def cost(repeats: int) -> int:
        ledger, _, event = said(repeats)
        with ledger.transaction():
            return steps(ledger.facts.connection, partial(ledger.receive, [event], NOW_MS))

    assert grows([cost(repeats) for repeats in REPEATS]) < 1.5


def test_where_such_a_log_ends_a_part_costs_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pnodes.store.unsettled.EVENTS_PER_MOVE", 1)

    def cost(repeats: int) -> int:
        ledger, author, _ = said(repeats)
        with ledger.transaction():
            return steps(ledger.facts.connection, partial(ledger.receive_proofs, [evidence_of(author, 2)], NOW_MS))

    assert grows([cost(repeats) for repeats in REPEATS]) < 1.5


def test_other_weights_look_at_each_request_once() -> None:
    def cost(repeats: int) -> int:
        ledger, *_ = said(repeats)
        weights = memory_ledger(who=electorate(stakes={VALIDATORS[0]: 100})).weights
        reweighed = Reweighed(ledger.facts, ledger.weights, weights)
        return steps(ledger.facts.connection, partial(reweighed.gpus, "", UUID_LAST))

    assert grows([cost(repeats) for repeats in REPEATS]) < 2 * REPEATS[1] / REPEATS[0]


def test_a_checkpoint_looks_at_each_request_once_in_a_part() -> None:
    def cost(repeats: int) -> int:
        ledger, *_ = said(repeats)
        with ledger.transaction():
            ledger.set_electorate(later(WHO, 8 * DAY_MS))
        made = proposed(ledger)
        assert made is not None
        statement = found(ledger, line_of(NETWORK, *made))
        with ledger.transaction():
            at_ms = ledger.weights.electorate.time_ms
            ledger.checkpoints.take(certificate(made[0], statement, VALIDATORS[:1], at_ms))
            ledger.enforce()
        return steps(ledger.facts.connection, partial(cut, ledger))

    assert grows([cost(repeats) for repeats in REPEATS]) < 4 * REPEATS[1] / REPEATS[0]


def test_claims_on_one_gpu_do_not_show_on_another_that_the_first_of_them_names() -> None:
    """They are gathered in place: a copy for each made as many steps as their number squared."""
    author = Author(VALIDATORS[0])
    author.delegate()
    ledger = memory_ledger(who=WHO)
    for second, gpus in enumerate([[GPU, "gpu-2"], [GPU], [GPU, "gpu-3"]]):
        author.add(add("//Alice", gpus, NOW_S + second))
    with ledger.transaction():
        ledger.receive(author.events, NOW_MS)
    on = ledger.facts.claims_on([GPU, "gpu-2", "gpu-3"])
    assert {uuid: sorted(claims) for uuid, claims in on.items()} == {GPU: [1, 2, 3], "gpu-2": [1], "gpu-3": [3]}
