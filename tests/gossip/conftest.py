"""What all tests of gossip share."""

import pytest

from tests.gossip.daemons import restart_clock


@pytest.fixture(autouse=True)
def _clock() -> None:
    restart_clock()
