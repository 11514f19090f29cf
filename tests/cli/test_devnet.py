"""``devnet``: what is wrong with its ports is told before anything is made."""

import socket
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from p2pnodes.cli.devnet import CONSOLE_OFFSET, check_free
from p2pnodes.devnet import _CODED
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError
from tests.cli.conftest import Cli


def test_a_port_that_is_taken_is_told_with_the_option_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: Address already in use.*another --base-port") as told:
            check_free([port])
    assert told.value.code == Code.CONFIG_ADDRESS_TAKEN
    check_free([port])


def test_all_ports_are_looked_at_before_anything_is_made(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []

    def taken(ports: Iterable[int]) -> None:
        looked_at.extend(ports)
        raise ConfigError("taken", code=Code.CONFIG_ADDRESS_TAKEN)

    monkeypatch.setattr(sys.modules["p2pnodes.cli.devnet"], "check_free", taken)
    ended = cli("devnet", "--peers", 2, "--base-port", 8100, "--dir", tmp_path / "devnet")
    assert (ended.code, ended.error_code) == (1, "config-address-taken")
    assert looked_at == [8100, 8101, 8100 + CONSOLE_OFFSET, 8101 + CONSOLE_OFFSET]
    assert not (tmp_path / "devnet").exists()


def test_the_code_of_a_daemons_last_words_is_told_once() -> None:
    found = _CODED.fullmatch("cannot listen [here]: taken [config-address-taken]")
    assert found is not None
    assert found.groups() == ("cannot listen [here]: taken", "config-address-taken")
    assert _CODED.fullmatch("it wrote nothing") is None
