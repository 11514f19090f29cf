"""What tests of gossip share."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gossip.daemons import Node, restart_clock, until
from tests.gossip.past import pasts
from tests.support import VALIDATORS

__all__ = ["pasts"]


@pytest.fixture(autouse=True)
def _clock() -> None:
    restart_clock()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    """Two daemons that serve, and dial nobody yet."""
    first, second = Node(tmp_path, VALIDATORS[0]), Node(tmp_path, VALIDATORS[1])
    await asyncio.gather(first.start(), second.start())
    yield first, second
    await asyncio.gather(first.stop(), second.stop())


@pytest.fixture
async def honest(pair: tuple[Node, Node]) -> tuple[Node, Node]:
    """Two daemons with a session between them."""
    first, second = pair
    first.dial(second)
    await until(lambda: first.session_with(second) and second.session_with(first))
    return first, second
