"""What the attackers of the suite ``abuse`` have: addresses of their own, and requests over every bound."""

import asyncio
import random
from ipaddress import ip_address
from pathlib import Path

import pytest

from p2pnodes.devnet import HOST
from p2pnodes.inbound import HEADER_BYTES_MAX, HEADERS_MAX, REQUEST_LINE_BYTES_MAX
from p2pnodes.model.requests import BODY_BYTES_MAX
from tests.faults.abuse import AGAIN_MB, KINDS, MEMORY_MB, Abuse
from tests.faults.attacks import ATTACKS, CONNECTIONS, Siege, _oversized, address


class TestMemory:
    """What attacks leave is bounded, and what they leave again and again is a leak before it is over that bound."""

    @staticmethod
    def complaints(tmp_path: Path, *rounds_mb: float) -> list[str]:
        """What is said of a daemon that has grown by so much at the end of each round, and the other one by 5 MB."""
        scene = Abuse(tmp_path, random.Random(1))
        for round_mb in rounds_mb:
            for kind in KINDS:
                scene._weigh(kind, round_mb + 5.0, 5.0)
        return scene.complaints

    def test_what_the_first_round_takes_is_its_own(self, tmp_path: Path) -> None:
        assert self.complaints(tmp_path, MEMORY_MB, MEMORY_MB, MEMORY_MB) == []
        assert len(self.complaints(tmp_path, MEMORY_MB + 1)) == len(KINDS)

    def test_what_grows_with_each_round_is_a_leak(self, tmp_path: Path) -> None:
        assert self.complaints(tmp_path, 10, 10 + AGAIN_MB) == []
        assert self.complaints(tmp_path, 10, 20, 30, 40) == [
            "memory grows with each round of attacks, MB beyond the other's: 10, 20, 30, 40"
        ]


class TestAttackers:
    """They are many, and none of them has the address of the honest."""

    def test_each_connection_can_have_an_address_of_its_own(self) -> None:
        addresses = [ip_address(address(number)) for number in range(CONNECTIONS)]
        assert len(set(addresses)) == CONNECTIONS
        assert all(each.is_loopback for each in addresses)
        assert ip_address(HOST) not in addresses

    def test_each_kind_of_attack_is_part_of_the_short_form(self) -> None:
        assert set(ATTACKS) < set(KINDS)
        assert Abuse.short == len(KINDS) == len(set(KINDS)) > 14

    def test_everything_that_has_a_bound_is_sent_beyond_it(self) -> None:
        heads = [request.partition(b"\r\n\r\n")[0].split(b"\r\n") for request in _oversized()]
        assert any(len(head[0]) > REQUEST_LINE_BYTES_MAX for head in heads)
        assert any(len(line) > HEADER_BYTES_MAX for head in heads for line in head[1:])
        assert any(len(head) > HEADERS_MAX for head in heads)
        lengths = [int(line.split()[1]) for head in heads for line in head if line.startswith(b"Content-Length")]
        assert min(lengths) <= BODY_BYTES_MAX < max(lengths)

    async def test_an_answer_is_read_whole_and_counted(self) -> None:
        async def victim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nno, noHTTP/1.1 304 Not Modified\r\n\r\n"
            )
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(victim, HOST, 0)
        async with server:
            siege = Siege(server.sockets[0].getsockname()[1], 0, 60, random.Random(1))
            async with siege.connect(7) as connection:
                assert connection.writer.get_extra_info("sockname")[0] == address(7)
                await connection.send(b"GET / HTTP/1.1\r\n\r\n")
                await siege.hear(connection)
                await siege.hear(connection)
                with pytest.raises(asyncio.IncompleteReadError):
                    await siege.hear(connection)
        assert siege.counts == {"connections": 1, "401": 1, "304": 1}
