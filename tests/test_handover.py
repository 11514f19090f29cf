"""Sockets go from one process of a daemon to the next where they fit, and are let go of where they do not."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from p2pnodes import handover, process
from p2pnodes.config import load_settings
from p2pnodes.daemon import Daemon
from p2pnodes.handover import SOCKETS_MAX, Handover, Place
from p2pnodes.inbound import BACKLOG, bind
from p2pnodes.model.errors import ConfigError
from p2pnodes.notify import Supervisor
from p2pnodes.service import unit
from tests.support import has_ipv6

PID = 7


class Holder(Supervisor):
    """A supervisor that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[str, int]] = []
        self.released: list[str] = []

    def keep(self, name: str, fds: object) -> None:
        assert isinstance(fds, list)
        self.kept.append((name, len(fds)))

    def release(self, name: str, *, within_s: float) -> None:
        self.released.append(name)


@pytest.fixture
def holder() -> Holder:
    return Holder()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where handed files begin: behind all that this process has open."""
    monkeypatch.setattr(handover, "FIRST_FD", 200)
    yield 200
    for fd in range(200, 200 + SOCKETS_MAX):
        try:
            os.close(fd)
        except OSError:
            continue


def environ(count: object = 1, names: str = "http", pid: int = PID) -> dict[str, str]:
    return {"LISTEN_FDS": str(count), "LISTEN_PID": str(pid), "LISTEN_FDNAMES": names, "HOME": "/"}


def port_of(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port


class TestEnvironment:
    """systemd's word for what it hands over."""

    def test_without_it_there_is_nothing(self, holder: Holder) -> None:
        assert Handover.from_environment({}, PID, holder).take([Place(socket.AF_INET, "127.0.0.1", 0)]) == []

    def test_the_socket_is_taken_and_the_word_of_it_with_it(
        self, holder: Holder, listening: socket.socket, handed: int
    ) -> None:
        os.dup2(listening.fileno(), handed, inheritable=True)
        told = environ()
        held = Handover.from_environment(told, PID, holder)
        assert told == {"HOME": "/"}
        assert not os.get_inheritable(handed), "programs that the daemon starts must not have it"
        (taken,) = held.take([Place.of(listening)])
        with taken:
            assert taken.getsockname() == listening.getsockname()

    def test_what_is_for_another_process_is_not_touched(
        self, holder: Holder, listening: socket.socket, handed: int
    ) -> None:
        os.dup2(listening.fileno(), handed)
        assert Handover.from_environment(environ(pid=8), PID, holder).take([Place.of(listening)]) == []
        os.fstat(handed)  # still open

    @pytest.mark.parametrize("count", ["", "-1", "two"])
    def test_a_count_that_cannot_be_is_told(self, holder: Holder, count: object) -> None:
        with pytest.raises(ConfigError, match=f"^LISTEN_FDS is '{count}'; expected a number: unset it$"):
            Handover.from_environment(environ(count), PID, holder)

    @pytest.mark.parametrize("count", [str(SOCKETS_MAX + 1), "9" * 5000], ids=len)
    def test_more_than_are_kept_are_passed_over_with_a_warning(
        self, holder: Holder, listening: socket.socket, handed: int, count: str
    ) -> None:
        for fd in range(handed, handed + SOCKETS_MAX + 1):
            os.dup2(listening.fileno(), fd)
        with capture_logs() as logs:
            held = Handover.from_environment(environ(count, "http:" * SOCKETS_MAX + "http"), PID, holder)
        (record,) = logs
        assert (record["event"], record["at_most"]) == ("sockets_not_taken", SOCKETS_MAX)
        taken = held.take([Place.of(listening)])
        assert len(taken) == SOCKETS_MAX
        for each in taken:
            each.close()
        os.close(handed + SOCKETS_MAX)  # as it was

    def test_a_process_that_ends_before_there_is_a_daemon_lets_go(
        self, holder: Holder, listening: socket.socket, handed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.dup2(listening.fileno(), handed)
        monkeypatch.setattr(Supervisor, "from_environment", lambda *_: holder)
        Handover.refuse(environ(), PID)
        assert holder.released == ["http"]
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handed)
        Handover.refuse(environ("two"), PID)  # what is wrong with that is not told besides

    def test_what_is_none_of_ours_is_passed_over_with_a_warning(
        self, holder: Holder, listening: socket.socket, handed: int
    ) -> None:
        reader, writer = os.pipe()
        with socket.socket() as idle, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            for offset, fd in enumerate((listening.fileno(), idle.fileno(), datagrams.fileno(), reader)):
                os.dup2(fd, handed + offset)
        os.close(reader)
        os.close(writer)
        with capture_logs() as logs:
            held = Handover.from_environment(environ(5, "other:http:http:http"), PID, holder)
        assert [record["reason"] for record in logs] == [
            "its name is not http",
            "it is no TCP socket that listens",
            "it is no TCP socket that listens",
            "Socket operation on non-socket",
            "Bad file descriptor",
        ]
        assert held.take([Place.of(listening)]) == []
        assert holder.released == []
        for fd in range(handed, handed + 4):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)


class TestTake:
    """Sockets are used where they listen where the settings say, and else make room."""

    def test_a_port_that_changed_is_listened_on_anew(self, holder: Holder) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        held = Handover(holder, [listening])
        assert held.take([Place(socket.AF_INET, "127.0.0.1", 1)]) == []
        assert listening.fileno() == -1
        assert holder.released == ["http"]
        assert held.take([]) == [], "once is enough"

    def test_any_port_will_do_where_none_is_named(self, holder: Holder, listening: socket.socket) -> None:
        assert Handover(holder, [listening]).take([Place(socket.AF_INET, "127.0.0.1", 0)]) == [listening]

    def test_another_address_is_another_place(self, holder: Holder) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        assert Handover(holder, [listening]).take([Place(socket.AF_INET, "127.0.0.2", 0)]) == []

    def test_some_of_the_addresses_of_a_name_will_do(self, holder: Holder, listening: socket.socket) -> None:
        wanted = [Place(socket.AF_INET6, "::1", port_of(listening)), Place.of(listening)]
        assert Handover(holder, [listening]).take(wanted) == [listening]

    @pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
    @pytest.mark.parametrize("dual", [True, False])
    def test_every_interface_is_one_socket_for_both_versions(self, holder: Holder, dual: bool) -> None:
        listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=dual)
        with listening:
            taken = Handover(holder, [listening]).take([Place.of(listening)], dual=True)
            assert bool(taken) is dual


class TestBind:
    """What a daemon listens on."""

    async def test_new_sockets_are_given_to_the_supervisor_and_held_ones_are_not_again(self, holder: Holder) -> None:
        first = await bind("127.0.0.1", 0, advice="", handover=Handover(holder))
        assert holder.kept == [("http", 1)]
        again = await bind("127.0.0.1", port_of(first[0]), advice="", handover=Handover(holder, first))
        assert again == first
        assert holder.kept == [("http", 1)]
        first[0].close()

    async def test_what_is_missing_of_a_name_is_bound_and_given_too(
        self, holder: Holder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def look_up(_host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
            return [(socket.AF_INET, 0, 0, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2")]

        (held,) = await bind("127.0.0.1", 0, advice="")
        monkeypatch.setattr("p2pnodes.inbound.look_up", look_up)
        found = await bind("name", port_of(held), advice="", handover=Handover(holder, [held]))
        try:
            assert [each.getsockname() for each in found] == [
                ("127.0.0.1", port_of(held)),
                ("127.0.0.2", port_of(held)),
            ]
            assert found[0] is held
            assert holder.kept == [("http", 1)]
        finally:
            for each in found:
                each.close()

    async def test_connections_wait_for_who_comes_next(self, holder: Holder) -> None:
        (listening,) = await bind("127.0.0.1", 0, advice="", handover=Handover(holder))
        with listening, socket.create_connection(listening.getsockname(), timeout=10) as waiting:
            waiting.sendall(b"anybody?")
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.recv(100) == b"anybody?"
        assert BACKLOG >= 128


def test_the_unit_lets_the_supervisor_hold_as_many() -> None:
    assert f"\nFileDescriptorStoreMax={SOCKETS_MAX}\n" in unit()
    assert f"\nFileDescriptorStoreMax={SOCKETS_MAX}\n" in unit(user=True)


class TestNoStart:
    """A daemon that cannot start lets go of its sockets: clients are refused instead of waiting for the next one."""

    async def test_a_start_that_fails(self, holder: Holder, tmp_path: Path) -> None:
        settings = load_settings(configuration(tmp_path))
        (tmp_path / "data").write_text("no directory")
        listening = socket.create_server(("127.0.0.1", 0))
        with pytest.raises(ConfigError):
            await Daemon(settings, handover=Handover(holder, [listening])).run()
        assert listening.fileno() == -1
        assert holder.released == ["http"]

    def test_settings_that_cannot_be_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        refused: list[int] = []
        monkeypatch.setattr(Handover, "refuse", lambda _, pid: refused.append(pid))
        for name in ("no_core_dumps", "raise_file_limit"):
            monkeypatch.setattr(process, name, lambda: None)
        monkeypatch.setitem(sys.modules, "rich", sys.modules.get("rich"))  # comes back behind the test
        path = configuration(tmp_path)
        path.write_text("data_dir = 7\n")
        with pytest.raises(SystemExit):
            process.main(str(path), "{}")
        assert refused == [os.getpid()]


def configuration(directory: Path) -> Path:
    path = directory / "p2pnodes.toml"
    path.write_text(
        'data_dir = "data"\nrole = "observer"\nelectorate = { file = "electorate.toml" }\n'
        f'network = {{ genesis_hash = "{"0" * 64}", netuid = 64 }}\n'
    )
    return path
