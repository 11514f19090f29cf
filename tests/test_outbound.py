"""Names are looked up in threads of their own, and why there is no TLS with a host is what its operator reads."""

import asyncio
import socket
import ssl
import threading
from unittest.mock import Mock

import aiohttp
import pytest

from p2pnodes import outbound
from p2pnodes.outbound import LookupsBusyError, ThreadResolver, look_up, tls_reason


def untrusted(code: int, message: str) -> aiohttp.ClientSSLError:
    """What aiohttp raises for a certificate; OpenSSL's verdict is set on the error, as the ssl module does."""
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1)")
    error.verify_code, error.verify_message = code, message
    return aiohttp.ClientConnectorCertificateError(Mock(host="h", port=443, is_ssl=True), error)


class TestTlsReason:
    """Plain words instead of an error number of OpenSSL's, which means something else to the system."""

    @pytest.mark.parametrize(
        ("code", "message", "reason"),
        [
            (18, "self-signed certificate", "self-signed certificate (SSL_CERT_FILE names another CA)"),
            (20, "unable to get local issuer", "unable to get local issuer (SSL_CERT_FILE names another CA)"),
            (10, "certificate has expired", "certificate has expired"),
            (62, "Hostname mismatch, certificate is not valid for 'h'.", "Hostname mismatch, certificate is not valid"),
        ],
    )
    def test_another_ca_is_a_way_out_where_none_is_known(self, code: int, message: str, reason: str) -> None:
        found = tls_reason(untrusted(code, message))
        assert found.startswith(f"certificate not trusted: {reason}")
        assert ("SSL_CERT_FILE" in found) is (code in {18, 20})

    def test_what_is_no_tls_is_said(self) -> None:
        error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1)")
        found = tls_reason(aiohttp.ClientConnectorSSLError(Mock(host="h", port=443), error))
        assert found.startswith("TLS failed: ")
        assert "wrong version number" in found


class TestThreads:
    """Where the system allows no more threads, that is no word on the name, and passes."""

    @pytest.fixture
    def full(self, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        return monkeypatch

    async def test_without_a_thread_it_is_busy(self, full: pytest.MonkeyPatch) -> None:
        with pytest.raises(LookupsBusyError, match="no more threads"):
            await look_up("host.example")

    async def test_a_resolver_resolves_again_once_there_are_threads(self, full: pytest.MonkeyPatch) -> None:
        full.setattr(outbound, "LOOKUPS_MAX", 2)
        resolver = ThreadResolver()
        for _ in range(2 + 1):
            with pytest.raises(LookupsBusyError, match="no more threads"):
                await resolver.resolve("host.example", 80)
            await asyncio.sleep(0)  # what has ended counts from the next turn on
        full.undo()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 0, 0, "", ("192.0.2.1", 80))])
            (found,) = await resolver.resolve("host.example", 80)
        assert found["host"] == "192.0.2.1"
