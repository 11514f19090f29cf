"""What a daemon tells its supervisor, and that it starts without one."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from p2pnodes.model.errors import ConfigError
from p2pnodes.notify import MESSAGE_BYTES_MAX, Supervisor

PID = 7


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    """The supervisor's end of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)
        yield ear


@pytest.fixture
def supervisor(ear: socket.socket) -> Supervisor:
    return Supervisor(ear.getsockname())


def heard(ear: socket.socket) -> list[str]:
    """The fields of the oldest message."""
    return ear.recv(2 * MESSAGE_BYTES_MAX).decode().split("\n")


class TestEnvironment:
    """Where the supervisor is, and what it wants, stands in the environment, for this process alone."""

    def test_without_a_socket_nobody_is_told(self) -> None:
        supervisor = Supervisor.from_environment({"WATCHDOG_USEC": "1000000"}, PID)
        assert (supervisor.address, supervisor.watchdog_s) == (None, None)
        with capture_logs() as logs:
            supervisor.ready("ready")
        assert logs == []

    def test_what_is_for_this_process_is_taken_out_of_the_environment(self) -> None:
        environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7", "HOME": "/"}
        supervisor = Supervisor.from_environment(environ, PID)
        assert (supervisor.address, supervisor.watchdog_s) == ("/run/notify", 30.0)
        assert environ == {"HOME": "/"}

    def test_a_watchdog_of_another_process_is_none(self) -> None:
        environ = {"NOTIFY_SOCKET": "@notify", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}
        assert Supervisor.from_environment(environ, PID).watchdog_s is None

    @pytest.mark.parametrize(
        ("environ", "found"),
        [
            ({"NOTIFY_SOCKET": "vsock:2:1234"}, "NOTIFY_SOCKET is 'vsock:2:1234'"),
            ({"NOTIFY_SOCKET": ""}, "NOTIFY_SOCKET is ''"),
            ({"NOTIFY_SOCKET": "@"}, "NOTIFY_SOCKET is '@'"),
            ({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "soon"}, "WATCHDOG_USEC is 'soon'"),
            ({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "0"}, "WATCHDOG_USEC is '0'"),
        ],
    )
    def test_what_cannot_be_is_told_in_one_line(self, environ: dict[str, str], found: str) -> None:
        with pytest.raises(ConfigError, match=found):
            Supervisor.from_environment(environ, PID)


class TestMessages:
    """One datagram for each, as sd_notify(3) has them."""

    def test_each_says_what_the_protocol_wants(self, ear: socket.socket, supervisor: Supervisor) -> None:
        supervisor.status("opening the database")
        supervisor.ready("ready; 2 GPUs")
        supervisor.alive("ready; 3 GPUs")
        supervisor.stopping()
        assert heard(ear) == ["STATUS=opening the database"]
        assert heard(ear) == ["READY=1", "STATUS=ready; 2 GPUs"]
        assert heard(ear) == ["WATCHDOG=1", "STATUS=ready; 3 GPUs"]
        assert heard(ear) == ["STOPPING=1", "STATUS=stopping"]

    def test_a_reload_says_when_it_began(self, ear: socket.socket, supervisor: Supervisor) -> None:
        supervisor.reloading()
        first, second = heard(ear)
        assert first == "RELOADING=1"
        name, _, value = second.partition("=")
        assert name == "MONOTONIC_USEC"
        assert int(value) > 0

    def test_a_status_is_one_line_and_bounded(self, ear: socket.socket, supervisor: Supervisor) -> None:
        supervisor.status("not ready: a\nREADY=1")
        assert heard(ear) == ["STATUS=not ready: a READY=1"]
        supervisor.status("x" * 2 * MESSAGE_BYTES_MAX)
        assert len(heard(ear)[0]) == MESSAGE_BYTES_MAX

    def test_an_abstract_socket_is_found(self, tmp_path: Path) -> None:
        name = f"p2pnodes-test-{tmp_path.name}-{id(tmp_path)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
            ear.bind(f"\0{name}")
            Supervisor(f"@{name}").status("starting")
            assert heard(ear) == ["STATUS=starting"]

    def test_a_supervisor_that_is_gone_costs_one_line_of_the_log(
        self, ear: socket.socket, supervisor: Supervisor, tmp_path: Path
    ) -> None:
        (tmp_path / "notify").rename(tmp_path / "away")
        with capture_logs() as logs:
            supervisor.status("one")
            supervisor.status("two")
            (tmp_path / "away").rename(tmp_path / "notify")
            supervisor.status("three")
            (tmp_path / "notify").unlink()
            supervisor.status("four")
        assert [entry["event"] for entry in logs] == ["supervisor_not_told"] * 2
        assert heard(ear) == ["STATUS=three"]


class TestFiles:
    """Open files that the supervisor holds for the process that comes next."""

    def test_files_go_with_their_name(self, supervisor: Supervisor, ear: socket.socket) -> None:
        reader, writer = os.pipe()
        supervisor.keep("http", [writer])
        said, fds, _, _ = socket.recv_fds(ear, MESSAGE_BYTES_MAX, 4)
        assert said.decode().split("\n") == ["FDSTORE=1", "FDNAME=http"]
        (copy,) = fds
        os.write(copy, b"the same pipe")
        assert os.read(reader, 100) == b"the same pipe"
        for fd in (reader, writer, copy):
            os.close(fd)

    def test_letting_go_of_them_waits_until_the_supervisor_did(
        self, supervisor: Supervisor, ear: socket.socket
    ) -> None:
        heard_of: list[str] = []

        def obey() -> None:
            for _ in range(2):
                said, fds, _, _ = socket.recv_fds(ear, MESSAGE_BYTES_MAX, 4)
                heard_of.append(said.decode())
                for fd in fds:
                    os.close(fd)

        ear.setblocking(True)
        manager = threading.Thread(target=obey)
        manager.start()
        with capture_logs() as logs:
            supervisor.release("http", within_s=30)
        manager.join(30)
        assert heard_of == ["FDSTOREREMOVE=1\nFDNAME=http", "BARRIER=1"]
        assert logs == []

    def test_a_supervisor_that_does_not_answer_is_not_waited_for_for_ever(self, supervisor: Supervisor) -> None:
        with capture_logs() as logs:
            supervisor.release("http", within_s=0.01)
        assert [(record["event"], record["error"]) for record in logs] == [("supervisor_not_told", "no answer")]

    def test_without_a_supervisor_nothing_is_held(self) -> None:
        with capture_logs() as logs:
            Supervisor().keep("http", [0])
            Supervisor().release("http", within_s=30)
        assert logs == []
