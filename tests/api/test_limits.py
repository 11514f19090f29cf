"""Rate limits: who asks too much is told when to come back, before anything costly, and nobody pays for another."""

from ipaddress import ip_network
from typing import Any, Final

import pytest

from p2pnodes.api import auth
from p2pnodes.api.limits import client_address
from p2pnodes.api.settings import ApiSettings
from p2pnodes.throttle import TokenBuckets
from tests.api.conftest import MakeClient
from tests.api.support import ALICE, BOB, Clock, Miner, encode, server

PROXIES: Final = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def test_a_miner_with_a_hundred_servers_never_meets_the_default_limits() -> None:
    settings = ApiSettings()
    hotkey = TokenBuckets(settings.hotkey_rate, settings.hotkey_burst)
    waits = {hotkey.take("m", second + part / 50) for second in range(600) for part in range(50)}
    waits |= {hotkey.take("m", 600.0) for _ in range(10)}
    assert waits == {0}


class TestClientAddress:
    """X-Forwarded-For is believed as far as trusted proxies wrote it; IPv6 clients count by /64."""

    @pytest.mark.parametrize(
        ("peer", "forwarded", "client"),
        [
            ("192.0.2.1", [], "192.0.2.1"),
            ("2001:db8::1", [], "2001:db8::/64"),
            ("2001:db8::ffff:1:2:3", [], "2001:db8::/64"),
            ("2001:db8:0:1::1", [], "2001:db8:0:1::/64"),
            ("::ffff:192.0.2.1", [], "192.0.2.1"),
            ("fe80::1%eth0", [], "fe80::/64"),
            (None, ["192.0.2.9"], "local"),
            ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),
            ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", ["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", ["198.51.100.1, 192.0.2.7, 10.0.0.2"], "192.0.2.7"),
            ("10.0.0.1", ["198.51.100.1", "192.0.2.7", "10.0.0.2"], "192.0.2.7"),
            ("10.0.0.1", ["2001:db8:9::9"], "2001:db8:9::/64"),
            ("fd00::1", ["192.0.2.7"], "192.0.2.7"),
            ("::ffff:10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", [], "10.0.0.1"),
            ("10.0.0.1", [""], "10.0.0.1"),
            ("10.0.0.1", ["unknown"], "10.0.0.1"),
            ("10.0.0.1", ["198.51.100.1, forged, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", ["198.51.100.1," + "10.0.0.2," * 40], "10.0.0.1"),
            ("10.0.0.1", ["198.51.100.1" + ",10.0.0.2" * 40], "10.0.0.2"),
        ],
    )
    def test_the_client_is_the_last_address_that_no_trusted_proxy_has(
        self, peer: str | None, forwarded: list[str], client: str
    ) -> None:
        assert client_address(peer, forwarded, PROXIES) == client

    def test_without_trusted_proxies_the_header_is_ignored(self) -> None:
        assert client_address("10.0.0.1", ["198.51.100.1"], ()) == "10.0.0.1"


class TestRoutes:
    """429 with Retry-After."""

    @pytest.mark.parametrize("route", ["POST /nodes/", "DELETE /nodes/x", "GET /nodes/verification_status?task_id=x"])
    async def test_an_address_over_its_limit_is_429_before_anything_is_looked_at(
        self, make_client: MakeClient, clock: Clock, route: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        method, path = route.split()

        def verify(*_: Any) -> bool:
            raise AssertionError("a signature was checked")

        monkeypatch.setattr(auth, "which_signed", verify)
        alice = Miner(await make_client(ApiSettings(address_rate=0.1, address_burst=2)), clock)
        statuses = [await alice.send(method, path, body=b"{") for _ in range(3)]
        assert [answer.status == 429 for answer in statuses] == [False, False, True]
        answer = await alice.send(method, path, alice.headers("x"), b"{")
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "10"
        assert answer.detail == "Too many requests from this address: try again in 10 s"

    async def test_a_hotkey_over_its_limit_is_429_before_its_signature_is_checked(
        self, make_client: MakeClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alice = Miner(await make_client(ApiSettings(hotkey_rate=0.5, hotkey_burst=2)), clock)
        for _ in range(2):
            assert (await alice.status(f"{ALICE.address}::0")).status == 200
        monkeypatch.setattr(auth, "which_signed", None)  # to call it would be a 500
        answer = await alice.status(f"{ALICE.address}::0")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
        assert answer.detail == "Too many requests from this hotkey: try again in 2 s"
        monkeypatch.undo()
        clock.s += 2
        assert (await alice.status(f"{ALICE.address}::0")).status == 200

    async def test_one_hotkey_does_not_use_up_anothers_limit(self, make_client: MakeClient, clock: Clock) -> None:
        client = await make_client(ApiSettings(hotkey_rate=0.5, hotkey_burst=1))
        alice, bob = Miner(client, clock), Miner(client, clock, BOB)
        assert (await alice.status(f"{ALICE.address}::0")).status == 200
        assert (await bob.status(f"{BOB.address}::0")).status == 200
        assert (await alice.status(f"{ALICE.address}::0")).status == 429

    async def test_a_stranger_cannot_use_up_a_hotkeys_limit(self, make_client: MakeClient, clock: Clock) -> None:
        alice = Miner(await make_client(ApiSettings(hotkey_rate=0.5, hotkey_burst=1)), clock)
        for _ in range(5):
            forged = {**alice.headers("other"), "Content-Type": "application/json"}
            assert (await alice.send("POST", "/nodes/", forged, b"{}")).status == 401
        assert (await alice.post(server(1))).status == 202

    async def test_a_replayed_request_costs_its_hotkey_nothing(self, make_client: MakeClient, clock: Clock) -> None:
        alice = Miner(await make_client(ApiSettings(hotkey_rate=0.001, hotkey_burst=2)), clock)
        body = server(1)
        headers = alice.signed(encode(body))
        for _ in range(5):
            assert (await alice.post(body, headers)).status == 202
        assert (await alice.delete(body["nodes"][0]["uuid"])).status == 200

    async def test_clients_behind_a_trusted_proxy_have_limits_of_their_own(
        self, make_client: MakeClient, clock: Clock
    ) -> None:
        settings = ApiSettings(address_rate=0.1, address_burst=1, trusted_proxies=(ip_network("127.0.0.0/8"),))
        alice = Miner(await make_client(settings), clock)
        statuses = [
            (await alice.get("/nodes/verification_status", {"X-Forwarded-For": client})).status
            for client in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1", "2001:db8::2")
        ]
        assert statuses == [401, 401, 429, 401, 429]

    async def test_without_trusted_proxies_a_forwarded_address_buys_nothing(
        self, make_client: MakeClient, clock: Clock
    ) -> None:
        alice = Miner(await make_client(ApiSettings(address_rate=0.1, address_burst=1)), clock)
        statuses = [
            (await alice.get("/nodes/verification_status", {"X-Forwarded-For": client})).status
            for client in ("192.0.2.1", "192.0.2.2")
        ]
        assert statuses == [401, 429]

    async def test_cached_reads_are_free_and_other_views_are_counted(
        self, make_client: MakeClient, clock: Clock
    ) -> None:
        alice = Miner(await make_client(ApiSettings(address_rate=0.1, address_burst=2)), clock)
        assert {(await alice.get("/nodes/")).status for _ in range(10)} == {200}
        assert {(await alice.get("/nodes/supported")).status for _ in range(10)} == {200}
        assert [(await alice.get(f"/nodes/?model={n}")).status for n in range(3)] == [200, 429, 429]
        assert (await alice.get("/nodes/")).status == 200
        assert (await alice.get("/healthz")).status == 200
