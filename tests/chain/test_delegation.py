"""Delegation files: what was signed is what is read, and nothing else passes."""

import json
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.chain.delegation import FILE_BYTES_MAX, SignedDelegation, read_delegation, write_delegation
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.events import LogId, delegate
from tests.support import NETWORK, NOW_S, hotkey

LOG = LogId(bytes(range(32)), 7)


@pytest.fixture
def signed() -> SignedDelegation:
    delegation = delegate(
        hotkey("//validator0"), NETWORK.id, LOG, url="https://v.example", not_before=NOW_S, not_after=NOW_S + 60
    )
    return SignedDelegation(NETWORK.id, LOG, delegation)


@pytest.fixture
def file(tmp_path: Path, signed: SignedDelegation) -> Path:
    write_delegation(tmp_path / "delegation.json", signed)
    return tmp_path / "delegation.json"


def test_what_is_written_is_read(file: Path, signed: SignedDelegation) -> None:
    assert read_delegation(file) == signed
    assert signed.signed()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("network_id", "00" * 16),
        ("node_key", "00" * 32),
        ("log", 8),
        ("hotkey", hotkey("//validator1").address),
        ("url", "https://evil.example"),
        ("not_before", NOW_S - 1),
        ("not_after", NOW_S + 61),
        ("signature", "00" * 64),
    ],
)
def test_a_delegation_that_was_changed_is_not_signed(file: Path, field: str, value: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(ConfigError, match="not signed by 5"):
        read_delegation(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected a delegation file"),
        (b"[]", "expected a delegation file"),
        (b"{}", "network_id: Field required"),
        (b" " * (FILE_BYTES_MAX + 1), "over 16384 bytes"),
    ],
)
def test_another_content_is_one_line(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_delegation(file)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"log": -1}, "log"),
        ({"log": "7"}, "log"),
        ({"not_after": 2**60}, "not_after"),
        ({"signature": "zz"}, "signature"),
        ({"url": "x" * 300}, "url"),
        ({"more": 1}, "more"),
        ({"hotkey": "5abc"}, "hotkey"),
        ({"hotkey": "0" * 48}, "hotkey"),
    ],
)
def test_a_bad_field_is_named(file: Path, change: dict[str, Any], place: str) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError, match=f"{file}: {place}: "):
        read_delegation(file)


def test_a_file_is_never_overwritten(file: Path, signed: SignedDelegation) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        write_delegation(file, signed)
    with pytest.raises(ConfigError, match="cannot be written here"):
        write_delegation(file / "below", signed)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_delegation(tmp_path / "absent")
