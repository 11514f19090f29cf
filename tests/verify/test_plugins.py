"""Any installed package can bring a verifier; what does not fit is told in one line. The documented example works."""

import importlib
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from p2pnodes.model.claims import parse_body
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED
from p2pnodes.model.inventory import PENDING, Tally
from p2pnodes.store.facts import StoredClaim
from p2pnodes.verify.exchange import Exchange
from p2pnodes.verify.finding import VerifierUnavailableError
from p2pnodes.verify.settings import VerifySettings
from p2pnodes.verify.verifier import NoneVerifier, Setup, Verifier, installed_verifiers, load_verifier, make_verifier
from tests.support import NETWORK, NOW_S, body, hotkey

DOCUMENT = Path(__file__).parents[2] / "p2pnodes/docs/plugins.md"

NAMED = """
from p2pnodes.verify.verifier import NoneVerifier

class Custom(NoneVerifier):
    method = "{method}"
"""

Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package of one module with one entry point, as pip would lay it."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules: list[str] = []

    def lay(name: str, value: str, source: str) -> None:
        module = value.partition(":")[0]
        modules.append(module)
        (site / f"{module}.py").write_text(source)
        info = site / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[p2pnodes.verifiers]\n{name} = {value}\n")
        importlib.invalidate_caches()

    yield lay
    for module in modules:
        sys.modules.pop(module, None)


class TestLoading:
    """A verifier is found by its name."""

    def test_ours_are_found_like_everybody_elses(self) -> None:
        assert {"none", "nvml", "graval"} <= installed_verifiers().keys()
        assert load_verifier("none") is NoneVerifier
        assert {name: load_verifier(name).method for name in ("none", "nvml", "graval")} == {
            "none": "none",
            "nvml": "nvml",
            "graval": "graval",
        }

    def test_another_packages_verifier_is_found(self, install: Install) -> None:
        install("custom", "custom_verifier:Custom", NAMED.format(method="custom"))
        assert load_verifier("custom").method == "custom"

    def test_an_unknown_name_is_refused_with_those_that_there_are(self) -> None:
        with pytest.raises(ConfigError, match=r"found 'nonesuch', expected one that is installed: .*graval, .*none"):
            load_verifier("nonesuch")

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("import nonesuch_module\n", "cannot be imported: ModuleNotFoundError"),
            ("raise RuntimeError('broken')\n", "cannot be imported: RuntimeError: broken"),
            ("Custom = 5\n", "no subclass"),
            ("class Custom: pass\n", "no subclass"),
            ("", "cannot be imported: AttributeError"),
            (NAMED.format(method=""), "has no method"),
            (NAMED.format(method="x" * 33), "has no method"),
        ],
    )
    def test_one_that_does_not_fit_is_refused_in_one_line(self, install: Install, source: str, expected: str) -> None:
        install("custom", "custom_verifier:Custom", source)
        with pytest.raises(ConfigError, match=expected) as caught:
            load_verifier("custom")
        assert "\n" not in str(caught.value)


class TestMaking:
    """A verifier that cannot be made is told in one line, whatever its constructor does."""

    @pytest.fixture
    def setup(self) -> Setup:
        exchange = Exchange(allow_private=True, online=lambda: True)
        return Setup(VerifySettings(), hotkey("//validator0"), NETWORK, exchange, lambda: NOW_S, os.urandom)

    def test_graval_without_its_service_names_the_setting(self, setup: Setup) -> None:
        with pytest.raises(ConfigError, match=r"verify\.graval\.url: missing"):
            make_verifier("graval", setup)

    def test_a_constructor_that_fails_is_no_traceback(self, install: Install, setup: Setup) -> None:
        install("custom", "custom_verifier:Custom", NAMED.format(method="m") + "    def __init__(self, setup): 1 / 0\n")
        with pytest.raises(ConfigError, match="cannot be made: ZeroDivisionError") as caught:
            make_verifier("custom", setup)
        assert "\n" not in str(caught.value)

    def test_one_of_ours_is_made(self, setup: Setup) -> None:
        assert isinstance(make_verifier("none", setup), NoneVerifier)


class TestTheDocumentedExample:
    """The code in docs/plugins.md is a verifier that works as the text says."""

    @pytest.fixture
    def example(self, install: Install) -> type[Verifier]:
        text = DOCUMENT.read_text()
        source = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        named = re.findall(r'verifiers"\]\n(\w+) = "([\w:]+)"', text)
        assert len(source) == len(named) == 1
        name, value = named[0]
        install(name, value, source[0])
        return load_verifier(name)

    @pytest.fixture
    async def exchange(self) -> AsyncIterator[Exchange]:
        exchange = Exchange(allow_private=True, online=lambda: True)
        await exchange.start()
        yield exchange
        await exchange.close()

    @pytest.fixture
    async def serve(self) -> AsyncIterator[Callable[..., Any]]:
        servers: list[TestServer] = []

        async def start(path: str, answer: Callable[[web.Request], Any]) -> TestServer:
            async def handle(request: web.Request) -> web.StreamResponse:
                response: web.StreamResponse = await answer(request)
                return response

            app = web.Application()
            app.router.add_route("*", path, handle)
            server = TestServer(app)
            await server.start_server()
            servers.append(server)
            return server

        yield start
        for server in servers:
            await server.close()

    @staticmethod
    def made_from(exchange: Exchange, **options: Any) -> Setup:
        settings = VerifySettings(verifier="tee", options=options)
        return Setup(settings, hotkey("//validator0"), NETWORK, exchange, lambda: NOW_S, os.urandom)

    @staticmethod
    def claim(port: int) -> StoredClaim:
        parsed = parse_body(body(["gpu-1"], verification_host="127.0.0.1", verification_port=port))
        return StoredClaim(bytes(32), hotkey("//Alice").public_key, NOW_S, parsed, 0, Tally(PENDING, None, ""))

    @pytest.mark.parametrize(
        ("status", "valid", "finding"),
        [(200, True, VERIFIED), (200, False, FAILED), (403, True, ABSTAIN), (500, True, FAILED)],
    )
    async def test_it_finds_what_the_text_says(  # noqa: PLR0917 - three fixtures and three columns
        self,
        example: type[Verifier],
        exchange: Exchange,
        serve: Callable[..., Any],
        status: int,
        valid: bool,
        finding: str,
    ) -> None:
        asked: list[str] = []

        async def attest(request: web.Request) -> web.Response:
            asked.append(request.query["nonce"])
            return web.Response(status=status, body=b"quote")

        async def check(request: web.Request) -> web.Response:
            assert await request.json() == {"nonce": asked[0], "quote": b"quote".hex()}
            return web.json_response({"valid": valid})

        host, service = await serve("/attestation", attest), await serve("/check", check)
        verifier = example(self.made_from(exchange, service=f"http://127.0.0.1:{service.port}"))
        found = await verifier.verify(self.claim(host.port))
        assert found.finding == finding
        assert bool(found.detail) is (finding != VERIFIED)
        assert "127.0.0.1" not in found.detail, "where a GPU is, is not public"

    async def test_a_service_that_is_down_is_nobody_elses_fault(
        self, example: type[Verifier], exchange: Exchange, serve: Callable[..., Any], unused_tcp_port: int
    ) -> None:
        async def attest(_: web.Request) -> web.Response:
            return web.Response(body=b"quote")

        host = await serve("/attestation", attest)
        verifier = example(self.made_from(exchange, service=f"http://127.0.0.1:{unused_tcp_port}"))
        with pytest.raises(VerifierUnavailableError, match="refused"):
            await verifier.verify(self.claim(host.port))

    async def test_a_missing_option_is_named(self, example: type[Verifier], exchange: Exchange) -> None:
        with pytest.raises(ConfigError, match=r"verify\.options\.service: missing"):
            example(self.made_from(exchange))
