"""A devnet of real processes, shared by the tests of a module."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def devnet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Devnet]:
    """Three daemons that know each other."""
    net = Devnet(tmp_path_factory.mktemp("net"), free_ports(3), report=lambda _: None)
    await net.start()
    yield net
    await net.stop()
