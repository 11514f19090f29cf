"""A rolling upgrade: one daemon after the other is stopped in the build before and started in this one, under load.

The build before is the last release: the highest tag ``v*``, or what ``--from`` says: a git reference of this
repository, a directory that holds the package ``p2pnodes``, or one of an installed environment (``bin/python``). Peers
of both builds talk to each other meanwhile, and this build migrates what the other one left.

While there is no release, this very tree stands for it. Then its daemons would not differ in anything, so both things
that a release changes are put in their way: the build after speaks one protocol version more (``tests/e2e/newer``), and
finds its database in the schema of the release that is kept for the tests (``tests.store.release``).
"""

import asyncio
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import p2pnodes
from p2pnodes.devnet import DevnetError, Peer
from p2pnodes.store.schema import SCHEMA
from tests import e2e
from tests.e2e.waiting import eventually
from tests.faults.arena import PROGRESS_S_MAX, Scene
from tests.store.release import DATABASES

SOURCES: Final = Path(__file__).parents[2]
"""Of a checkout; where tests run apart from the package, only what is beside them."""

HERE: Final = Path(p2pnodes.__file__).parents[1]
"""What holds this build's package."""

NEWER: Final = Path(e2e.__file__).with_name("newer")
"""Lets a Python process speak one protocol version more."""

PACKAGE: Final = "p2pnodes"
COMMAND_S_MAX: Final = 60.0
KILLED: Final = 0.5
"""Share of the daemons that are killed in their first start in the build after."""

KILLED_S_MAX: Final = 1.5
"""So long after it began, at most: a start takes less than two seconds."""

_DERIVED_BY: Final = "('judged_by', 'derived_by')"
"""Where a build says that the rows are its own: the release's word, or the build after derives nothing anew."""

_ABOUT: Final = (
    "import json; from p2pnodes.gossip.handshake import LOWEST_VERSION, PROTOCOL_VERSION;"
    "from p2pnodes.store.schema import SCHEMA; import p2pnodes;"
    "print(json.dumps([p2pnodes.__file__, LOWEST_VERSION, PROTOCOL_VERSION, SCHEMA]))"
)


class Build(NamedTuple):
    """Something that runs a daemon.

    Attributes:
        name: For people.
        python: Its interpreter.
        path: ``PYTHONPATH``; empty for an installed environment.
    """

    name: str
    python: str
    path: str

    @property
    def program(self) -> Sequence[str]:
        """See ``Peer.program``; ``-P``: the current directory holds this tree, and must not be imported from."""
        return (self.python, "-P", "-m", PACKAGE, "run")

    @property
    def environment(self) -> dict[str, str]:
        """See ``Peer.environment``."""
        return {"PYTHONPATH": self.path}

    def about(self) -> "About":
        """Ask it.

        Raises:
            DevnetError: It does not run.
        """
        command = [self.python, "-P", "-c", _ABOUT]
        file, lowest, highest, schema = json.loads(_said(command, os.environ | self.environment))
        if self.path and not any(Path(file).is_relative_to(part) for part in self.path.split(os.pathsep)):
            raise DevnetError(f"{self.name}: {file} was imported instead of what is in {self.path}")
        return About(lowest, highest, schema)


class About(NamedTuple):
    """What differs between builds: lowest and highest protocol version, and the schema of the database."""

    lowest: int
    highest: int
    schema: int


def last_release() -> str | None:
    """The tag of the highest version; None where there is none."""
    if not (SOURCES / ".git").exists():
        return None
    tags = _said(["git", "-C", str(SOURCES), "tag", "--list", "v[0-9]*", "--sort=-version:refname"]).split()
    return tags[0] if tags else None


def build_before(source: str | None, directory: Path) -> Build:
    """The build to upgrade from; what it needs is put into a directory.

    Args:
        source: See this module; None for the last release.
        directory: Will be made where a tree has to be laid out.

    Raises:
        DevnetError: There is no such thing.
    """
    source = source or last_release()
    if source is None:
        shutil.copytree(HERE / PACKAGE, directory / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        return Build("this tree", sys.executable, str(directory))
    if (python := Path(source) / "bin" / "python").exists():
        return Build(source, str(python.absolute()), "")
    if (Path(source) / PACKAGE / "__init__.py").exists():
        return Build(source, sys.executable, str(Path(source).resolve()))
    directory.mkdir(parents=True)
    archive = directory / "archive.tar"
    _said(["git", "-C", str(SOURCES), "archive", "--output", str(archive), source, PACKAGE])
    shutil.unpack_archive(archive, directory, filter="data")
    return Build(source, sys.executable, str(directory))


def as_released(database: Path, release: Path) -> None:
    """Put a database into the schema of a release: the same rows in its tables, without what it did not have yet.

    The file of the release says what its tables are. That holds as long as a schema only adds to the ones before, or
    derives anew what it changes.
    """
    before = database.with_suffix(".released")
    with closing(sqlite3.connect(before.resolve().as_uri(), uri=True, isolation_level=None)) as connection:
        connection.execute("ATTACH ? AS release", (release.resolve().as_uri() + "?mode=ro",))
        connection.execute("ATTACH ? AS now", (str(database),))
        connection.execute("BEGIN IMMEDIATE")
        made = connection.execute(
            "SELECT type, name, sql FROM release.sqlite_master WHERE sql NOTNULL ORDER BY type = 'table' DESC"
        ).fetchall()
        for kind, name, sql in made:
            connection.execute(sql)
            if kind == "table":
                columns = ", ".join(_columns(connection, "release", name) & _columns(connection, "now", name))
                connection.execute(f"INSERT INTO main.{name} ({columns}) SELECT {columns} FROM now.{name}")
        connection.execute("DELETE FROM compatibility")
        connection.execute("INSERT INTO compatibility SELECT * FROM release.compatibility")
        connection.execute(f"DELETE FROM meta WHERE key IN {_DERIVED_BY}")
        connection.execute(f"INSERT INTO meta SELECT * FROM release.meta WHERE key IN {_DERIVED_BY}")
        connection.execute("COMMIT")
        (schema,) = connection.execute("PRAGMA release.user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {schema}")
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    before.replace(database)


def _columns(connection: sqlite3.Connection, schema: str, table: str) -> set[str]:
    return {name for _, name, *_ in connection.execute(f"PRAGMA {schema}.table_info({table})")}


def _said(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False)
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DevnetError(f"{command[0]} failed: {words}; expected a build to upgrade from (--from REF or DIR)")
    return done.stdout


class Upgrade(Scene):
    """This build takes over from the one before."""

    name = "upgrade"
    what = "one daemon after the other is stopped or killed in the last release and started in this build (see --from)"
    strikes = 12
    short = 3
    pause_s = 5.0
    """Both builds are at work for a while between two upgrades."""

    source: str | None = None
    """What to upgrade from, as on the command line."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        super().__init__(directory, rng)
        before = build_before(self.source, directory / "before")
        after = Build("this tree", sys.executable, str(HERE))
        was, will_be = before.about(), after.about()
        self._release: Path | None = None
        if before.name == after.name:
            after = after._replace(name="this tree, one protocol version more", path=f"{NEWER}{os.pathsep}{HERE}")
            self._release = max(DATABASES.glob("*.db"), key=lambda path: tuple(map(int, path.stem.split("."))))
            was = was._replace(schema=_schema(self._release))
            will_be = after.about()
        if not will_be.lowest <= was.highest:
            raise DevnetError(
                f"{before.name} speaks protocol {was.highest} at most, this build {will_be.lowest} at least: "
                "no network can hold both"
            )
        self._before, self._after = before.name, after
        self._old = list(self.net.peers)
        self.rng.shuffle(self._old)
        for peer in self.net.peers:
            peer.program, peer.environment = before.program, before.environment
        self.figures |= {
            "from": before.name,
            "protocol": [was.highest, will_be.highest],
            "schema": [was.schema, will_be.schema],
        }

    async def strike(self) -> str:
        """Upgrade a daemon; when there is none left, restart one in this build."""
        if not self._old:
            peer = self.rng.choice(self.net.peers)
            kind = await self._end(peer)
            self.revive(peer)
            return f"{kind} after the upgrade"
        return await self._upgrade(self._old.pop())

    async def heal(self) -> None:
        """Upgrade the rest."""
        while self._old:
            await self._upgrade(self._old.pop())

    async def _upgrade(self, peer: Peer) -> str:
        kind = await self._end(peer)
        if self._release is not None:
            await asyncio.to_thread(as_released, peer.database, self._release)
        peer.program, peer.environment = self._after.program, self._after.environment
        self.revive(peer)
        if self.rng.random() < KILLED:
            await asyncio.sleep(self.rng.uniform(0, KILLED_S_MAX))
            await self.kill(peer)
            self.revive(peer)
            kind += ", killed in its first start"

        async def upgraded() -> bool:
            status = await peer.status()
            return not status["ready"] and status["gossip"]["view"]["links"] == len(self.net.peers) - 1

        try:
            await eventually(upgraded, PROGRESS_S_MAX)
        except TimeoutError:
            self.complaints.append(
                f"{peer.name}: {PROGRESS_S_MAX:g} s after its upgrade it takes no writes, or has no link with each "
                f"other daemon, of which {len(self._old)} still run {self._before}"
            )
            return f"{kind} for an upgrade that failed"
        if (schema := _schema(peer.database)) != SCHEMA:
            self.complaints.append(f"{peer.name}: its database has schema {schema} after the upgrade, not {SCHEMA}")
        return f"{kind} for the upgrade"

    async def _end(self, peer: Peer) -> str:
        if self.rng.random() < 0.5:
            await self.kill(peer)
            return "killed"
        await self.shut(peer)
        return "stopped"


def _schema(database: Path) -> int:
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
    return int(found)
