"""Why there is no TLS with a host: what its operator reads."""

import ssl
from unittest.mock import Mock

import aiohttp
import pytest

from p2pnodes.outbound import tls_reason


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
