"""What fuzzing found stays mended: every input of the corpus is read, or refused as documented."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.model.checkpoint import check
from tests.fuzz.__main__ import kept
from tests.fuzz.targets import TARGETS, certificate
from tests.support import NETWORK, electorate

NAMES = sorted(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_every_input_of_the_corpus_is_read_or_refused(name: str) -> None:
    target = TARGETS[name]
    inputs = [*target.seeds(), *kept(name)]
    assert inputs
    for data in inputs:
        target.run(data)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_so_is_what_is_near_to_it(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    seed = data.draw(st.sampled_from([*target.seeds(), *kept(name)]))
    at = data.draw(st.integers(0, len(seed)))
    length = data.draw(st.integers(0, 8))
    target.run(seed[:at] + data.draw(st.binary(max_size=8)) + seed[at + length :])


def test_the_seed_of_certificates_is_one_that_is_good() -> None:
    """What is not would be refused at once, and hardly a line of the check be reached."""
    found = check(NETWORK, certificate())
    assert found.line.logs.keys() == {signature.checkpoint.log for signature in certificate().signatures}
    assert found.stakes == electorate().stakes


def test_a_target_that_breaks_its_promise_fails() -> None:
    with pytest.raises(json.JSONDecodeError):
        TARGETS["body"]._replace(run=json.loads).run(b"{")
