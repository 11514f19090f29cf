"""configs/nginx.conf before real daemons: miners by HTTPS, peers by wss, and nothing else.

nginx and openssl must be installed. Where ``TESTS_NEED`` names them, as in CI, it is a failure that they are not.
"""

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from p2pnodes.cli.demo import free_ports
from p2pnodes.miner.client import MinerClient
from p2pnodes.miner.example import example_server
from p2pnodes.miner.sse import SseParser
from p2pnodes.model.requests import BODY_BYTES_MAX
from tests.e2e.single import Single, settings_of, write_electorate
from tests.e2e.waiting import DEADLINE_S, eventually
from tests.support import has_ipv6, hotkey, program

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAMPLE: Final = Path(__file__).parents[2] / "configs" / "nginx.conf"
CERTIFICATES: Final = "/etc/letsencrypt/live/node.example.org"
BURST: Final = 4
EXTENSIONS: Final = """
subjectAltName = DNS:localhost, IP:127.0.0.1
basicConstraints = critical, CA:false
authorityKeyIdentifier = keyid
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
"""
MAIN: Final = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
worker_processes 1;
worker_shutdown_timeout 2s;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/p2pnodes.conf;
}}
"""


class Certificates(NamedTuple):
    """Of a throw-away authority: its own certificate, and key and certificate of ``localhost``."""

    authority: Path
    chain: Path
    key: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("certificates")
    (directory / "extensions").write_text(EXTENSIONS)

    def openssl(*arguments: str) -> None:
        ended = subprocess.run([program("openssl"), *arguments], cwd=directory, capture_output=True, check=False)
        assert ended.returncode == 0, ended.stderr

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=throw-away authority",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    openssl("req", *key, "-keyout", "privkey.pem", "-out", "request.pem", "-subj", "/CN=localhost")
    openssl(
        "x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", "extensions", "-out", "fullchain.pem",
    )  # fmt: skip
    return Certificates(directory / "ca.pem", directory / "fullchain.pem", directory / "privkey.pem")


def replaced(text: str, changes: dict[str, str]) -> str:
    """A text with each of these replaced; all of them must be in it."""
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    return text


class Proxy:
    """nginx with the sample as its only site, before one daemon."""

    def __init__(self, directory: Path, certificates: Certificates, daemon_port: int, http: int, https: int) -> None:
        self.directory = directory
        self.http, self.https = f"http://localhost:{http}", f"https://localhost:{https}"
        six = has_ipv6()
        changes = {
            f"{CERTIFICATES}/fullchain.pem": str(certificates.chain),
            f"{CERTIFICATES}/privkey.pem": str(certificates.key),
            "server 127.0.0.1:8000;": f"server 127.0.0.1:{daemon_port};",
            "listen 80;": f"listen 127.0.0.1:{http};",
            "listen [::]:80;": f"listen [::1]:{http};" if six else "",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{https} ssl http2;",
            "listen [::]:443 ssl http2;": f"listen [::1]:{https} ssl http2;" if six else "",
            "https://node.example.org$request_uri": f"{self.https}$request_uri",
            "server_name node.example.org;": "server_name localhost;",
        }
        write_site(directory, replaced(SAMPLE.read_text(), changes))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            program("nginx"), "-p", str(self.directory), "-c", str(self.directory / "nginx.conf"),
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        port = int(self.https.rpartition(":")[2])

        async def listens() -> bool:
            assert self._process is not None
            assert self._process.returncode is None, (self.directory / "error.log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        await eventually(listens)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await asyncio.wait_for(self._process.wait(), DEADLINE_S)


def write_site(directory: Path, site: str) -> None:
    main = MAIN.format(directory=directory)
    if os.geteuid() == 0:  # its workers would not get into the directory of a test
        main += "user root;\n"
    (directory / "nginx.conf").write_text(main)
    (directory / "p2pnodes.conf").write_text(site)


class Node(NamedTuple):
    """A daemon and the proxy before it."""

    daemon: Single
    proxy: Proxy


class Net(NamedTuple):
    """Two daemons that reach each other by their proxies alone."""

    nodes: tuple[Node, Node]
    certificates: Certificates

    @property
    def context(self) -> ssl.SSLContext:
        """Of a client that trusts the throw-away authority and no other."""
        return ssl.create_default_context(cafile=self.certificates.authority)

    def client(self, *, address: str = "127.0.0.2") -> aiohttp.ClientSession:
        """A miner with an address of its own: 127.0.0.1 is the proxy's."""
        connector = aiohttp.TCPConnector(ssl=self.context, local_addr=(address, 0), family=socket.AF_INET)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(DEADLINE_S))


def node(directory: Path, index: int, certificates: Certificates, ports: list[int], bootstrap: str) -> Node:
    directory.mkdir()
    uris = ("//validator0", "//validator1")
    write_electorate(directory / "electorate.toml", *uris)
    port, http, https = ports
    proxy = Proxy(directory, certificates, port, http, https)
    settings = settings_of(directory, uris[index])
    settings["http"] = {"port": port, "url": proxy.https}
    settings["api"] = {
        "trusted_proxies": ["127.0.0.1/32"],
        "allow_private_hosts": True,
        "address_rate": 0.01,  # nobody waits for it to refill
        "address_burst": 1000 if index == 0 else BURST,
    }
    settings["gossip"] = {"allow_private_addresses": True, "bootstrap": [bootstrap]}
    return Node(Single(directory, settings, {"SSL_CERT_FILE": str(certificates.authority)}), proxy)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Net]:
    directory = tmp_path_factory.mktemp("nginx")
    ports = free_ports(6)
    urls = [f"https://localhost:{ports[2]}", f"https://localhost:{ports[5]}"]
    first = node(directory / "first", 0, certificates, ports[:3], urls[1])
    second = node(directory / "second", 1, certificates, ports[3:], urls[0])
    net = Net((first, second), certificates)
    try:
        for each in net.nodes:
            await each.proxy.start()
            await each.daemon.start()
        for each in net.nodes:
            await each.daemon.until("listening")
        yield net
    finally:
        for each in net.nodes:
            await each.daemon.stop()
            await each.proxy.stop()


async def ready(daemon: Single) -> bool:
    return not (await daemon.ask("/status"))["ready"]


async def test_the_sample_passes_nginx_t(certificates: Certificates, tmp_path: Path) -> None:
    """As it is shipped, but for the paths of the certificate (and low ports, where only root may have them)."""
    changes = {
        f"{CERTIFICATES}/fullchain.pem": str(certificates.chain),
        f"{CERTIFICATES}/privkey.pem": str(certificates.key),
    }
    if not has_ipv6():
        changes |= {"listen [::]:80;": "", "listen [::]:443 ssl http2;": ""}
    if os.geteuid() != 0:
        http, https = free_ports(2)
        changes |= {":80;": f":{http};", ":443 ": f":{https} ", "listen 80;": f"listen {http};"}
        changes |= {"listen 443 ": f"listen {https} "}
    write_site(tmp_path, replaced(SAMPLE.read_text(), changes))
    ended = subprocess.run(
        [program("nginx"), "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "[emerg]" not in ended.stderr


class TestPeers:
    """Peers dial the URL that is announced, over TLS that they check, and learn everything by it."""

    async def test_a_miner_posts_over_https_and_both_daemons_vote_over_wss(self, net: Net, tmp_path: Path) -> None:
        first, second = net.nodes
        for each in net.nodes:
            await eventually(lambda daemon=each.daemon: ready(daemon))  # type: ignore[misc]
        uuid = "a" * 32
        (tmp_path / "server.json").write_text(json.dumps(example_server([uuid], server_id="s")))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "p2pnodes", "miner", "add", str(tmp_path / "server.json"), "--uri", "//Alice",
            "--api", first.proxy.https, "--wait", "--timeout", str(DEADLINE_S),
            env=os.environ | {"SSL_CERT_FILE": str(net.certificates.authority)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        stdout, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert process.returncode == 0, stdout

        async def verified() -> bool:
            rows = await second.daemon.ask(f"/nodes?uuid={uuid}")
            return [row["status"] for row in rows] == ["verified"]

        await eventually(verified)
        verdicts = await second.daemon.ask("/verdicts")
        assert {row["validator"] for row in verdicts} == {hotkey(f"//validator{index}").address for index in (0, 1)}
        for each, other in (net.nodes, net.nodes[::-1]):
            peers = await each.daemon.ask("/peers")
            assert [peer["url"] for peer in peers if peer["connected"]] == [other.proxy.https]

    async def test_a_certificate_that_nobody_vouches_for_is_refused(self, net: Net, tmp_path: Path) -> None:
        settings = {**net.nodes[0].daemon.settings, "http": {"port": 0}}
        for name in ("hotkey", "electorate.toml"):
            shutil.copy(net.nodes[0].daemon.directory / name, tmp_path / name)
        stranger = Single(tmp_path, settings)  # trusts what the system trusts, and not the throw-away authority
        try:
            await stranger.listening()

            async def refused() -> bool:
                errors = [peer.get("last_error") or "" for peer in await stranger.ask("/peers")]
                return any("certificate" in error.lower() for error in errors)

            await eventually(refused)
            assert not any(peer["connected"] for peer in await stranger.ask("/peers"))
        finally:
            await stranger.stop()


class TestMiners:
    """What miners use works as it does without a proxy."""

    async def test_http_2_is_spoken(self, net: Net) -> None:
        context = net.context
        context.set_alpn_protocols(["h2", "http/1.1"])
        port = int(net.nodes[0].proxy.https.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        try:
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        finally:
            writer.transport.abort()  # nginx has begun to speak already, and nobody listens

    @pytest.mark.parametrize("path", ["/nodes/", "/nodes/supported", "/healthz", "/readyz", "/openapi.json", "/docs"])
    async def test_the_public_interface_is_there(self, net: Net, path: str) -> None:
        async with net.client() as client, client.get(net.nodes[0].proxy.https + path) as answer:
            assert answer.status == 200

    async def test_the_other_slash_leads_back_to_the_proxy(self, net: Net) -> None:
        async with net.client() as client, client.get(f"{net.nodes[0].proxy.https}/nodes") as answer:
            assert (answer.status, str(answer.url)) == (200, f"{net.nodes[0].proxy.https}/nodes/")

    async def test_plain_http_is_led_to_https_and_a_post_stays_one(self, net: Net) -> None:
        proxy = net.nodes[0].proxy
        async with net.client() as client:
            async with client.get(f"{proxy.http}/nodes/?hotkey=x", allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (308, f"{proxy.https}/nodes/?hotkey=x")
            async with client.post(f"{proxy.http}/nodes/", data=b"{}") as answer:
                assert str(answer.url) == f"{proxy.https}/nodes/"
                assert (answer.status, answer.content_type) == (
                    401,
                    "application/json",
                )  # not signed: the daemon says so

    async def test_events_come_as_they_happen(self, net: Net) -> None:
        first = net.nodes[0]
        uuid, parser = "b" * 32, SseParser()
        registration = example_server([uuid], server_id="stream")
        async with net.client() as client, client.get(f"{first.proxy.https}/nodes/events") as stream:

            async def event(kind: str, **fields: Any) -> None:
                async with asyncio.timeout(10):  # less than the 15 s after which a comment would push it on
                    while True:
                        for found in parser.feed(await stream.content.readany()):
                            data = json.loads(found.data)
                            if found.type == kind and fields.items() <= data.items():
                                return

            await event("snapshot_end")
            own = f"http://127.0.0.1:{first.daemon.settings['http']['port']}"
            async with MinerClient([own], hotkey("//Alice")) as miner:
                await miner.add(registration)
            await event("node", uuid=uuid)

    async def test_limits_count_the_miners_address_whatever_it_claims_to_be(self, net: Net) -> None:
        url = f"{net.nodes[1].proxy.https}/nodes/verification_status?task_id=x"

        async def ask(client: aiohttp.ClientSession, claimed: str) -> int:
            async with client.get(url, headers={"X-Forwarded-For": claimed}) as answer:
                return answer.status

        async with net.client(address="127.0.0.3") as greedy, net.client(address="127.0.0.4") as other:
            statuses = [await ask(greedy, f"203.0.113.{number}") for number in range(BURST + 2)]
            assert statuses == [401] * BURST + [429] * 2
            assert await ask(other, "127.0.0.3") == 401

    async def test_a_body_that_is_too_large_is_refused_by_the_daemon_and_a_huge_one_by_the_proxy(
        self, net: Net
    ) -> None:
        url = f"{net.nodes[0].proxy.https}/nodes/"
        async with net.client() as client:
            async with client.post(url, data=bytes(BODY_BYTES_MAX + 1)) as answer:
                assert (answer.status, answer.content_type) == (413, "application/json")
            async with client.post(url, data=bytes(4 * BODY_BYTES_MAX)) as answer:
                assert (answer.status, answer.content_type) == (413, "text/html")


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/status",
        "/peers",
        "/events",
        "/claims",
        "/verdicts",
        "/placements",
        "/proof/x",
        "/keys/request",
        "/",
    ],
)
async def test_what_is_the_operators_is_not_there(net: Net, path: str) -> None:
    async with net.client() as client, client.get(net.nodes[0].proxy.https + path) as answer:
        assert (answer.status, await answer.json()) == (404, {"detail": "Not Found"})


async def test_what_the_operator_does_is_not_taken(net: Net) -> None:
    async with net.client() as client:
        for path in ("/place", "/release", "/verify", "/keys/rotate", "/keys/revoke", "/keys/close"):
            async with client.post(net.nodes[0].proxy.https + path, json={}) as answer:
                assert answer.status == 404
