"""Verification hosts: public addresses and names only, and an answer within the timeout."""

import asyncio
import threading
from ipaddress import ip_address

import pytest

from p2pnodes.api.hosts import LOOKUPS_MAX, LOOKUPS_PER_MINER_MAX, HostCheck, Resolver, system_resolver
from p2pnodes.api.settings import ApiSettings
from p2pnodes.model.addresses import is_public
from p2pnodes.model.errors import WritesRefusedError
from tests.api.conftest import MakeClient
from tests.api.support import Clock, FakeResolver, Miner, server

MINER = bytes(32)
PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8", "2002:808:808::1"]
PRIVATE = [
    "0.0.0.0",  # noqa: S104 - data
    "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.2.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1",
    "239.255.255.250", "255.255.255.255", "::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd12::1", "ff02::1",
    "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::1", "2002:a00:1::1", "64:ff9b::a00:1",
    "64:ff9b:1::1", "100::1", "::7f00:1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_public_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_any_other_address_is_not(address: str) -> None:
    assert not is_public(ip_address(address))


def check(resolver: Resolver, *, allow_private: bool = False, timeout_s: float = 5) -> HostCheck:
    return HostCheck(resolver, timeout_s=timeout_s, allow_private=allow_private)


async def test_every_address_of_a_name_must_be_public(resolver: FakeResolver) -> None:
    resolver.names |= {"both.example": ["8.8.8.8", "10.0.0.1"], "none.example": [], "odd.example": ["not an address"]}
    assert await check(resolver).acceptable(["public.example", "8.8.8.8"], MINER)
    for name in ("both.example", "none.example", "odd.example", "absent.example"):
        assert not await check(resolver).acceptable(["public.example", name], MINER)


async def test_equal_names_are_looked_up_once(resolver: FakeResolver) -> None:
    assert await check(resolver).acceptable(["public.example"] * 10, MINER)
    assert resolver.asked == ["public.example"]


@pytest.mark.parametrize(
    "host",
    [
        "", " ", "a b", "host:80", "[::1]", "http://x", "x/y", "-x", "x-", ".", "..", "a\n", "a\0b", "é.example",
        "x" * 300, "user@host",
    ],
)  # fmt: skip
@pytest.mark.parametrize("allow_private", [True, False])
async def test_what_is_no_host_is_never_looked_up(resolver: FakeResolver, host: str, *, allow_private: bool) -> None:
    assert not await check(resolver, allow_private=allow_private).acceptable([host], MINER)
    assert resolver.asked == []


async def test_an_address_of_one_link_is_not_public(resolver: FakeResolver) -> None:
    assert not await check(resolver).acceptable(["2606:2800:220:1::1%eth0"], MINER)


async def test_a_name_that_hangs_is_unresolvable_in_time(resolver: FakeResolver) -> None:
    assert not await asyncio.wait_for(check(resolver, timeout_s=0.01).acceptable(["hang.example"], MINER), 5)


async def test_a_miner_whose_names_hang_delays_nobody_else(resolver: FakeResolver) -> None:
    """Its lookups run on when nobody waits for them any more, and hold no more than its own slots."""
    patient, hosts = check(resolver), check(resolver, timeout_s=0.01)
    for _ in range(3 * LOOKUPS_PER_MINER_MAX):
        assert not await hosts.acceptable(["hang.example"], MINER)
    assert resolver.asked == ["hang.example"] * LOOKUPS_PER_MINER_MAX
    assert not await hosts.acceptable(["public.example"], MINER)
    assert await hosts.acceptable(["8.8.8.8"], MINER)
    assert await hosts.acceptable(["public.example"], b"another")
    assert await patient.acceptable(["public.example"], MINER)


async def test_lookups_of_all_miners_together_are_bounded(resolver: FakeResolver) -> None:
    hosts = check(resolver, timeout_s=0.01)
    for number in range(LOOKUPS_MAX):
        assert not await hosts.acceptable(["hang.example"], str(number).encode())
    with pytest.raises(WritesRefusedError, match="try again"):  # not: your host is invalid
        await hosts.acceptable(["public.example"], b"another")
    assert len(resolver.asked) == LOOKUPS_MAX


async def test_a_lookup_that_gets_no_thread_is_no_fault_of_the_miner(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = check(system_resolver)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(WritesRefusedError, match="try again"):
            await hosts.acceptable(["public.example"], MINER)
    assert not await hosts.acceptable(["..example"], MINER), "it is judged by its name again"


async def test_slots_are_free_again_when_lookups_end(resolver: FakeResolver) -> None:
    hosts = check(resolver)
    for number in range(2 * LOOKUPS_MAX):
        assert not await hosts.acceptable([f"absent{number}.example"], MINER)
    found = await asyncio.gather(*(hosts.acceptable(["public.example"], MINER) for _ in range(2 * LOOKUPS_MAX)))
    assert all(found)


async def test_a_devnet_may_allow_private_hosts_but_no_nonsense(make_client: MakeClient, clock: Clock) -> None:
    alice = Miner(await make_client(ApiSettings(allow_private_hosts=True)), clock)
    assert (await alice.post(server(1, verification_host="127.0.0.1"))).status == 202
    assert (await alice.post(server(1, 1, verification_host="absent.example"))).status == 400
    assert (await alice.post(server(1, 1, verification_host="127.0.0.1:80"))).status == 400


async def test_the_systems_resolver_knows_this_machine_and_what_no_name_can_be() -> None:
    assert "127.0.0.1" in await system_resolver("localhost")
    hosts = HostCheck(system_resolver, timeout_s=5, allow_private=True)
    assert await hosts.acceptable(["localhost"], MINER)
    assert not await hosts.acceptable(["a..b"], MINER)  # fails before any query: an empty label
