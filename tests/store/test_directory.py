"""The data directory belongs to one process at a time, and its files to its owner."""

import os
import stat
from pathlib import Path

import pytest

from p2pnodes.model.errors import ConfigError
from p2pnodes.store import directory


def test_it_is_made_for_its_owner_and_its_group(tmp_path: Path) -> None:
    directory.make(tmp_path / "var" / "data")
    assert stat.S_IMODE((tmp_path / "var" / "data").stat().st_mode) & ~directory.MODE == 0
    assert list((tmp_path / "var" / "data").iterdir()) == []
    directory.make(tmp_path / "var" / "data")


def test_one_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"data_dir {tmp_path}/file/data cannot be written"):
        directory.make(tmp_path / "file" / "data")


def test_one_process_at_a_time_holds_it(tmp_path: Path) -> None:
    with directory.hold(tmp_path):
        with pytest.raises(ConfigError, match=f"another daemon runs on {tmp_path}"):
            directory.hold(tmp_path)
        assert (tmp_path / directory.LOCK).exists()
    directory.hold(tmp_path).close()


def test_a_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / directory.LOCK).mkdir()
    with pytest.raises(ConfigError, match=f"{tmp_path}/lock: cannot be opened"):
        directory.hold(tmp_path)


def test_one_that_is_not_there_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"data_dir {tmp_path}/data: there is no such directory"):
        directory.hold(tmp_path / "data")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_makes_belongs_to_the_directorys_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, 23_456)
    directory.hold(tmp_path).close()
    lock = (tmp_path / directory.LOCK).stat()
    assert (lock.st_uid, lock.st_gid) == (12_345, 23_456)
