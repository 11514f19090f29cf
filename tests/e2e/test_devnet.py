"""A devnet goes on where it stopped, also at other ports."""

from pathlib import Path

from p2pnodes.chain.file import read_electorate
from p2pnodes.cli.demo import free_ports
from p2pnodes.devnet import Devnet


async def test_a_devnet_that_is_moved_to_other_ports_goes_on_in_a_later_block(tmp_path: Path) -> None:
    """Its peers know each other by the old addresses, and may write nothing before they have heard each other."""
    blocks: list[int] = []
    for _ in range(2):
        net = Devnet(tmp_path, free_ports(2), report=lambda _: None)
        await net.start()
        blocks.append(read_electorate(tmp_path / "electorate.toml").block)
        await net.stop()
    assert blocks == [100, 200]
