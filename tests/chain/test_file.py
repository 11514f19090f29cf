"""An electorate file says what a chain would say, and a bad one is refused with its reason."""

import os
import re
from pathlib import Path

import pytest
import tomli_w

from p2pnodes.chain.file import ElectorateFile, read_electorate
from p2pnodes.model.errors import ConfigError
from tests.support import hotkey

VALIDATOR = hotkey("//validator0")
MINER = hotkey("//Alice")


def shape(block: object = 100, **changes: object) -> dict[str, object]:
    return {
        "block": block,
        "time": 1_764_000_000,
        "validators": [{"hotkey": VALIDATOR.address, "stake": 100, "address": "http://127.0.0.1:8100"}],
        "registered": [{"hotkey": MINER.address, "block": 7}],
        **changes,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "electorate.toml"


def write(path: Path, content: dict[str, object]) -> None:
    path.write_text(tomli_w.dumps(content))
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))  # not the moment of the last write


def test_stakes_permits_registrations_and_addresses_are_read(path: Path) -> None:
    write(path, shape())
    electorate = read_electorate(path)
    assert (electorate.block, electorate.time_ms) == (100, 1_764_000_000_000)
    assert electorate.stakes == {VALIDATOR.public_key: 100}
    assert electorate.current.registered == {VALIDATOR.public_key: 0, MINER.public_key: 7}
    assert electorate.current.addresses == {VALIDATOR.public_key: "http://127.0.0.1:8100"}


def test_a_pipe_in_its_place_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="cannot read the electorate: not a regular file"):
        read_electorate(path)


def test_a_validator_without_a_permit_has_no_stake_but_is_registered(path: Path) -> None:
    write(path, shape(validators=[{"hotkey": VALIDATOR.address, "stake": 100, "permit": False}]))
    electorate = read_electorate(path)
    assert not electorate.permitted(VALIDATOR.public_key)
    assert VALIDATOR.public_key in electorate.current.registered


def test_a_permit_at_the_pin_before_is_one_epoch_of_grace(path: Path) -> None:
    write(path, shape(200, validators=[], previous=shape(100)))
    assert read_electorate(path).permitted(VALIDATOR.public_key)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"block": -1}, "block: found -1, expected at least 0"),
        ({"time": "now"}, 'time: found "now", expected an integer'),
        ({"tiem": 1}, "tiem: unknown key; did you mean time?"),
        ({"zzz": 1}, "zzz: unknown key; known at the top: block, time, validators, registered, previous"),
        (
            {"validators": [{"hotkey": VALIDATOR.address, "stak": 1}]},
            "validators.0.stake: missing; expected integer, in one unit for the whole file",
        ),
        (
            {"validators": [{"hotkey": VALIDATOR.address, "stake": 1, "permits": True}]},
            "validators.0.permits: unknown key; did you mean permit?",
        ),
        (
            {"previous": shape(0, registered=[{"hotkey": MINER.address, "block": 0, "bloc": 1}])},
            "previous.registered.0.bloc: unknown key; did you mean block?",
        ),
        ({"previous": {"block": 0, "time": 0, "blok": 0}}, "previous.blok: unknown key; did you mean block?"),
        (
            {"validators": [{"hotkey": "5oops", "stake": 1}]},
            'validators.0.hotkey: found "5oops", expected an SS58 address: ',
        ),
        (
            {"validators": [{"hotkey": VALIDATOR.address, "stake": -1}]},
            "validators.0.stake: found -1, expected at least 0",
        ),
        (
            {"validators": [{"hotkey": VALIDATOR.address, "stake": 1, "permit": 7}]},
            "validators.0.permit: found 7, expected true or false",
        ),
        ({"validators": {"hotkey": VALIDATOR.address}}, "validators: found "),
        ({"validators": ["5"]}, 'validators.0: found "5", expected a table [validators.0]'),
        (
            {"registered": [{"hotkey": MINER.address}]},
            "registered.0.block: missing; expected number of the block at which it registered",
        ),
        ({"previous": shape(100)}, "not an electorate: previous block 100 does not lie below"),
    ],
)
def test_a_wrong_entry_is_one_short_line_with_its_file(path: Path, content: dict[str, object], message: str) -> None:
    write(path, shape(**content))
    with pytest.raises(ConfigError) as caught:
        read_electorate(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: {message}")
    assert len(line.removeprefix(str(path))) < 200
    assert not re.search(r"\n|Value error|Input should|Extra inputs|Field required", line)


def test_a_file_that_is_not_toml_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\x00")
    with pytest.raises(ConfigError, match="not an electorate"):
        read_electorate(path)


async def test_an_absent_file_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        await ElectorateFile(path).poll()


async def test_a_file_is_read_again_only_when_it_changed(path: Path) -> None:
    write(path, shape(100))
    watched = ElectorateFile(path)
    first = await watched.poll()
    assert first is not None
    assert await watched.poll() is None
    write(path, shape(200))
    second = await watched.poll()
    assert second is not None
    assert second.block == 200


async def test_a_bad_change_is_told_until_a_good_one_is_read(path: Path) -> None:
    watched = ElectorateFile(path)
    write(path, shape(block=-1))
    with pytest.raises(ConfigError):
        await watched.poll()
    with pytest.raises(ConfigError):  # it is as bad as before, though nothing is read
        await watched.poll()
    write(path, shape(200))
    assert await watched.poll() is not None


async def test_a_file_that_was_away_is_read_again_though_it_is_the_same(path: Path) -> None:
    watched = ElectorateFile(path)
    write(path, shape(100))
    assert await watched.poll() is not None
    away = path.rename(path.with_suffix(".away"))
    for _ in range(2):
        with pytest.raises(ConfigError, match="No such file"):
            await watched.poll()
    away.rename(path)
    assert await watched.poll() is not None
    assert await watched.poll() is None


async def test_a_file_is_a_source_without_a_clock(path: Path) -> None:
    watched = ElectorateFile(path)
    assert watched.status() == {"source": "file", "file": str(path)}
    assert (watched.clock_offset_ms(), watched.clock_trouble(), watched.reasons()) == (None, None, None)
    await watched.close()
