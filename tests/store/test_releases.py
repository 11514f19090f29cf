"""A database that any release wrote opens in this build and shows what it showed then."""

import json
import shutil
from pathlib import Path

import pytest

from p2pnodes import __version__
from p2pnodes.store.audit import audit
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import SCHEMA, open_writer
from tests.store.release import DATABASES
from tests.support import NETWORK

RELEASES = sorted(DATABASES.glob("*.db"))


def test_this_release_is_among_those_that_are_kept() -> None:
    assert DATABASES / f"{__version__}.db" in RELEASES


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
def test_a_releases_database_is_migrated_and_shows_the_same(release: Path, tmp_path: Path) -> None:
    path = tmp_path / "p2pnodes.db"
    shutil.copy(release, path)
    wanted = json.loads(release.with_suffix(".json").read_text())
    connection = open_writer(path)
    ledger = Ledger(connection, NETWORK)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    state = ledger.state
    found = {
        "events": state.events,
        "rows": [[row.uuid, row.status, row.chute and row.chute.chute_id] for row in ledger.rows()],
        "state_root": state.state_root.hex(),
        "vector_digest": state.vector_digest.hex(),
    }
    assert found == wanted
    connection.close()
    assert audit(path, NETWORK).problems == []
