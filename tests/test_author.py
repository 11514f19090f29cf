"""The own log of a running daemon: who may write it, under which key, and how it ends and begins anew."""

import asyncio
import errno
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
import tomli_w

from p2pnodes import author as author_module
from p2pnodes import daemon as daemon_module
from p2pnodes.author import alike, finish_rotation, pending_key_path
from p2pnodes.chain.delegation import SignedDelegation, log_name, parse_request, write_signed
from p2pnodes.chain.wallet import create_node_key, load_node_key
from p2pnodes.daemon import Daemon
from p2pnodes.gossip.contact import Contact
from p2pnodes.model.errors import ConfigError, StoreError, WritesRefusedError
from p2pnodes.model.events import Delegation, Head, LogId, closing, delegate
from p2pnodes.model.network import Network
from p2pnodes.steady import steady_ms
from p2pnodes.store.database import Database
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.ownlog import written_by
from tests.support import Author, hotkey, machine_sleeps
from tests.test_daemon import VALIDATOR, config, running, until, write_electorate

__all__ = ["config"]  # the fixture

DAY_S = 86_400


@pytest.fixture
def hotkey_elsewhere(config: Path) -> Path:
    """The same configuration without the hotkey."""
    text = config.read_text().replace('hotkey_file = "hotkey"', 'delegation_file = "delegation.json"')
    config.write_text(text)
    (config.parent / "hotkey").unlink()
    return config


class Clock:
    """The system clock of a daemon in this process; ``ahead_s`` is what is wrong with it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> int:
        return int((time.time() + self.ahead_s) * 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(daemon_module, "now_ms", clock)
    return clock


def delegation(*, begun_days_ago: int, days_left: float, url: str = "") -> Delegation:
    now_s = int(time.time())
    return delegate(
        VALIDATOR, bytes(16), LogId(bytes(32), 0), url=url,
        not_before=now_s - begun_days_ago * DAY_S, not_after=now_s + int(days_left * DAY_S),
    )  # fmt: skip


def own(daemon: Daemon) -> LogId:
    log_id = daemon._database.ledger.own_log
    assert log_id is not None
    return log_id


def writes(daemon: Daemon) -> LogId | None:
    """The log that the daemon writes on in, committed and known to itself."""
    held = author(daemon).delegation
    return None if held is None else held[0]


def key_file(daemon: Daemon) -> bytes:
    return load_node_key(daemon.settings.node_key_path).public_key


def author(daemon: Daemon) -> author_module.Author:
    assert daemon._author is not None
    return daemon._author


async def write(daemon: Daemon) -> None:
    """Any own event."""
    ledger = daemon._database.ledger
    held = ledger.delegation_of(own(daemon))
    assert held is not None
    await daemon._database.write(lambda ledger: ledger.renew(held, daemon_module.now_ms()))


class TestDelegation:
    """It is renewed when half of its days are left, and for no other reason than a new URL."""

    async def test_a_fresh_one_is_not_renewed_however_far_back_it_begins(self, config: Path) -> None:
        """It begins before the electorate's time, which may be a year old."""
        async with running(config) as daemon:
            assert not author(daemon).stale(delegation(begun_days_ago=400, days_left=30))

    async def test_one_with_less_than_half_of_its_days_left_is_renewed(self, config: Path) -> None:
        async with running(config) as daemon:
            assert not author(daemon).stale(delegation(begun_days_ago=14, days_left=15.1))
            assert author(daemon).stale(delegation(begun_days_ago=16, days_left=14.9))

    async def test_another_url_is_announced_at_once(self, config: Path) -> None:
        async with running(config) as daemon:
            assert author(daemon).stale(delegation(begun_days_ago=0, days_left=30, url="http://192.0.2.1"))

    async def test_one_that_ended_while_nothing_could_be_written_is_renewed(self, config: Path, clock: Clock) -> None:
        """As where a permit is lost for weeks and comes back, or a machine slept."""
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            log_id = own(daemon)
            clock.ahead_s = 31 * DAY_S
            await author(daemon).tend()
            await until(lambda: not daemon.readiness())
            assert own(daemon) == log_id
            await write(daemon)
            held = daemon._database.ledger.delegation_of(log_id)
            assert held is not None
            assert held.not_after > clock() // 1000

    async def test_one_that_ended_without_a_hotkey_to_renew_it_is_no_secret(self, config: Path) -> None:
        async with running(config) as daemon:
            writing = author(daemon)
            assert writing.delegation is not None
            log_id, held = writing.delegation
            writing._hotkey = None
            writing.delegation = log_id, held._replace(not_after=int(time.time()) - 1)
            await until(lambda: any("no hotkey to renew it with" in reason for reason in daemon.readiness()))

    async def test_a_first_log_that_cannot_be_opened_is_tried_again(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attempts = 0
        open_log = Ledger.open_log

        def failing_twice(ledger: Ledger, *arguments: Any, **more: Any) -> Any:
            nonlocal attempts
            attempts += 1
            if attempts <= 2:
                raise WritesRefusedError("the disk is full")
            return open_log(ledger, *arguments, **more)

        monkeypatch.setattr(Ledger, "open_log", failing_twice)
        monkeypatch.setattr(author_module, "REOPEN_BACKOFF_S", 0.05)
        async with running(config) as daemon:
            assert any("the disk is full" in reason for reason in daemon.readiness())
            await until(lambda: not daemon.readiness())
        assert attempts == 3


class TestAFullDisk:
    """What is due in the own log is not tried four times a second."""

    async def test_a_renewal_that_cannot_be_written_is_tried_again_after_a_pause(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running(config) as daemon:
            writing, tries = author(daemon), 0
            await until(lambda: not daemon.readiness())

            def full(*_: Any) -> Any:
                nonlocal tries
                tries += 1
                raise StoreError("the disk is full")

            with monkeypatch.context() as patch:
                patch.setattr(Ledger, "renew", full)
                patch.setattr(author_module.Author, "stale", lambda *_: True)
                await until(lambda: tries > 0 and not writing._busy.locked())
                before = tries
                for _ in range(3):
                    await writing.tend()
                assert tries == before
                writing._write_at = 0.0  # the pause is over
                await until(lambda: tries > before)


class TestItsNumber:
    """No two logs of one node key have one number, whatever a disk lost, and no number lies ahead of the clock."""

    async def test_a_log_that_a_crash_lost_is_not_begun_again_within_its_second(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        second_ms = daemon_module.now_ms() // 1000 * 1000
        monkeypatch.setattr(daemon_module, "now_ms", lambda: second_ms)
        async with running(config) as daemon:
            lost = own(daemon)
        for path in daemon.settings.database_path.parent.glob(f"{daemon.settings.database_path.name}*"):
            path.unlink()
        async with running(config) as daemon:
            assert own(daemon).node_key == lost.node_key
            assert own(daemon).number > lost.number

    async def test_the_second_of_the_next_number_is_waited_for(self, config: Path) -> None:
        """Else a process that lost the later log, and comes within that second, would begin it again."""
        async with running(config) as daemon:
            numbers = [own(daemon).number]
            for _ in range(2):
                await author(daemon)._open_log("a test")
                assert own(daemon).number * 1000 <= daemon_module.now_ms() + 1
                numbers.append(own(daemon).number)
        assert numbers[0] < numbers[1] < numbers[2]

    async def test_a_number_that_a_clock_ahead_gave_is_not_waited_for(self, config: Path, clock: Clock) -> None:
        clock.ahead_s = 3_600
        async with running(config) as daemon:
            ahead = own(daemon).number
            clock.ahead_s = 0
            await author(daemon)._open_log("a test")
            assert own(daemon).number == ahead + 1


class TestAHotkeyElsewhere:
    """Its signatures come in a file; until one does, nothing is written, and the operator is told what to do."""

    def bring(self, daemon: Daemon, **changes: Any) -> SignedDelegation:
        """Sign what the daemon asks for, where the hotkey is."""
        request = author(daemon).request(30)._replace(**changes)
        asked = parse_request(SignedRequest(request), "request")
        signed = asked.sign(VALIDATOR)
        path = daemon.settings.delegation_file
        assert path is not None
        path.unlink(missing_ok=True)
        write_signed(path, signed)
        return signed

    async def test_a_delegation_that_is_brought_opens_the_log(
        self, hotkey_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(author_module, "REOPEN_BACKOFF_S", 0.05)
        async with running(hotkey_elsewhere) as daemon:
            assert any("keys request" in reason for reason in daemon.readiness())
            signed = self.bring(daemon)
            await until(lambda: not daemon.readiness())
            assert own(daemon) == signed.log
            assert author(daemon).hotkey == VALIDATOR.public_key
            assert daemon.status()["delegation"]["signed"] == "elsewhere"
            await until(lambda: daemon._scheduler is not None)

    async def test_a_later_one_renews_it(self, hotkey_elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(author_module, "REOPEN_BACKOFF_S", 0.05)
        async with running(hotkey_elsewhere) as daemon:
            first = self.bring(daemon)
            await until(lambda: not daemon.readiness())
            later = self.bring(daemon, not_after=first.delegation.not_after + 5 * DAY_S)
            await until(lambda: daemon.status()["delegation"]["not_after"] == later.delegation.not_after)
            assert own(daemon) == first.log

    @pytest.mark.parametrize("restarted", [False, True])
    async def test_a_later_one_renews_it_also_once_it_has_ended(
        self, hotkey_elsewhere: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, *, restarted: bool
    ) -> None:
        """As whoever is late, and does what the refusal says."""
        monkeypatch.setattr(author_module, "REOPEN_BACKOFF_S", 0.05)
        async with running(hotkey_elsewhere) as daemon:
            first = self.bring(daemon)
            await until(lambda: not daemon.readiness())
            clock.ahead_s = 31 * DAY_S
            await until(lambda: any("bring a new delegation_file" in reason for reason in daemon.readiness()))
            later = self.bring(daemon)
            assert later.log == first.log
            if not restarted:
                await until(lambda: not daemon.readiness())
        async with running(hotkey_elsewhere) as daemon:
            await until(lambda: not daemon.readiness())
            await write(daemon)
            held = daemon._database.ledger.delegation_of(first.log)
            assert held is not None
            assert held.not_after == later.delegation.not_after

    async def test_nothing_is_written_before_the_one_that_renews_an_ended_one(
        self, hotkey_elsewhere: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> None:
        """It would be void."""
        monkeypatch.setattr(author_module, "REOPEN_BACKOFF_S", 0.05)
        async with running(hotkey_elsewhere) as daemon:
            self.bring(daemon)
            await until(lambda: not daemon.readiness())
            clock.ahead_s = 31 * DAY_S
            await until(lambda: any("bring a new delegation_file" in reason for reason in daemon.readiness()))
            ledger, allowed = daemon._database.ledger, list[bool]()
            assert daemon._author is not None
            refuse = daemon._author._refuse_writes

            def told(reason: str | None) -> None:
                if reason is None and ledger.writes_refused is not None:
                    held = ledger.delegation_of(ledger.own_log) if ledger.own_log else None
                    allowed.append(held is not None and held.not_after > clock() / 1000)
                refuse(reason)

            monkeypatch.setattr(daemon._author, "_refuse_writes", told)
            self.bring(daemon)
            await until(lambda: not daemon.readiness())
            assert allowed == [True]

    async def test_one_for_another_url_takes_its_place_although_it_ends_earlier(
        self, hotkey_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(author_module, "REOPEN_BACKOFF_S", 0.05)
        async with running(hotkey_elsewhere) as daemon:
            first = self.bring(daemon)
            await until(lambda: not daemon.readiness())
            self.bring(daemon, url="http://192.0.2.1", not_after=first.delegation.not_after - DAY_S)
            await until(lambda: daemon.status()["delegation"]["url"] == "http://192.0.2.1")

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"network_id": bytes(16)}, "for network"),
            ({"log": LogId(bytes(32), 1)}, "for node key"),
        ],
    )
    async def test_one_for_something_else_is_refused_in_words(
        self, hotkey_elsewhere: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], problem: str
    ) -> None:
        monkeypatch.setattr(author_module, "REOPEN_BACKOFF_S", 0.05)
        async with running(hotkey_elsewhere) as daemon:
            self.bring(daemon, **changes)
            await until(lambda: any(problem in reason for reason in daemon.readiness()))
            self.bring(daemon)
            await until(lambda: not daemon.readiness())

    async def test_one_by_another_hotkey_for_the_log_in_use_is_refused_in_words(
        self, hotkey_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(author_module, "REOPEN_BACKOFF_S", 0.05)
        async with running(hotkey_elsewhere) as daemon:
            self.bring(daemon)
            await until(lambda: not daemon.readiness())
            path = daemon.settings.delegation_file
            assert path is not None
            path.unlink()
            write_signed(path, author(daemon).request(60)._replace(hotkey=None).sign(hotkey("//Eve")))
            await until(lambda: "signed by" in (daemon.status()["delegation"]["error"] or ""))

    async def test_a_verifier_that_signs_its_checks_does_not_start_without_it(self, hotkey_elsewhere: Path) -> None:
        text = hotkey_elsewhere.read_text() + '\n[verify]\nverifier = "nvml"\n'
        hotkey_elsewhere.write_text(text)
        with pytest.raises(ConfigError, match="not on this machine"):
            async with running(hotkey_elsewhere):
                pass

    async def test_it_cannot_rotate_and_is_told_how(self, hotkey_elsewhere: Path) -> None:
        async with running(hotkey_elsewhere) as daemon:
            with pytest.raises(WritesRefusedError, match="keys close"):
                await daemon.rotate_key()


def SignedRequest(request: Any) -> bytes:  # noqa: N802 - reads as what it makes
    """The bytes of a request's file."""
    import orjson

    return orjson.dumps(request.fields())


class TestRotation:
    """A new key, a new log, the old one closed at its head; and at no moment another key in the file than in use."""

    async def test_the_old_log_is_closed_at_its_head_and_the_new_one_follows_it(self, config: Path) -> None:
        async with running(config) as daemon:
            await write(daemon)
            before, head = own(daemon), daemon._database.state.logs[own(daemon)].head
            answer = await daemon.rotate_key()
            after = own(daemon)
            assert after.node_key == key_file(daemon) == author(daemon).node_key.public_key
            assert answer["log"] == f"{after.node_key.hex()}/{after.number}"
            held = daemon._database.state.logs[before]
            assert (held.cut, held.counted) == (head.seq + 1, head)
            renewed = daemon._database.ledger.delegation_of(after)
            assert renewed is not None
            assert renewed.predecessor == (before, head)
            await until(lambda: not daemon.readiness())
            await write(daemon)
        async with running(config) as daemon:
            assert own(daemon) == after

    async def test_a_key_file_that_cannot_be_written_changes_nothing(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running(config) as daemon:
            before, key = own(daemon), key_file(daemon)

            def refuse(path: Path) -> Any:
                raise ConfigError(f"{path}: read-only")

            monkeypatch.setattr(author_module, "create_node_key", refuse)
            with pytest.raises(ConfigError, match="read-only"):
                await daemon.rotate_key()
            assert (own(daemon), key_file(daemon)) == (before, key)
            await write(daemon)

    async def test_a_log_that_cannot_be_opened_leaves_the_old_key(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running(config) as daemon:
            before, key = own(daemon), key_file(daemon)

            def refuse(*_: Any, **__: Any) -> Any:
                raise WritesRefusedError("the disk is full")

            with monkeypatch.context() as patch:
                patch.setattr(Ledger, "open_log", refuse)
                with pytest.raises(WritesRefusedError, match="the disk is full"):
                    await daemon.rotate_key()
            assert (own(daemon), key_file(daemon)) == (before, key)
            assert not pending_key_path(daemon.settings.node_key_path).exists()
            await until(lambda: not daemon.readiness())
            await write(daemon)

    async def test_a_crash_behind_the_commit_is_made_good_at_the_start(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running(config) as daemon:
            old = key_file(daemon)

            def crash(*_: Any) -> Any:
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", crash)
                with pytest.raises(KeyboardInterrupt):
                    await daemon.rotate_key()
            assert key_file(daemon) == old
            after = own(daemon)
        async with running(config) as daemon:
            assert own(daemon) == after
            assert key_file(daemon) == after.node_key

    async def test_a_key_file_that_cannot_be_replaced_is_made_good_at_the_next_rotation_or_start(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def mounted(*_: Any) -> Any:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

        async with running(config) as daemon:
            old, path = key_file(daemon), daemon.settings.node_key_path
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", mounted)
                with structlog.testing.capture_logs() as told:
                    await daemon.rotate_key()
                (line,) = (line for line in told if line["event"] == "node_key_not_replaced")
                assert line["code"] == "key-not-written"
                used = own(daemon)
                assert author(daemon).node_key.public_key == used.node_key != old == key_file(daemon)
                await until(lambda: not daemon.readiness())
                await write(daemon)
                with pytest.raises(ConfigError, match="busy"):  # else the only copy of the key in use would go
                    await daemon.rotate_key()
                assert own(daemon) == used
                assert load_node_key(pending_key_path(path)).public_key == used.node_key
            await daemon.rotate_key()
            assert key_file(daemon) == own(daemon).node_key not in {old, used.node_key}
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", mounted)
                await daemon.rotate_key()
            last = own(daemon)
        async with running(config) as daemon:
            assert own(daemon) == last
            assert key_file(daemon) == last.node_key

    async def test_a_disk_that_turned_read_only_is_told_in_words(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running(config) as daemon:
            before, path = own(daemon), daemon.settings.node_key_path
            create_node_key(pending_key_path(path))  # of a rotation that was cut short

            def read_only(*_: Any, **__: Any) -> Any:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))

            with monkeypatch.context() as patch:
                patch.setattr(Path, "unlink", read_only)
                with pytest.raises(ConfigError, match="Read-only"):
                    await daemon.rotate_key()
            assert own(daemon) == before

    def test_a_crash_before_the_commit_leaves_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "node.key"
        key = create_node_key(path)
        create_node_key(pending_key_path(path))
        finish_rotation(path, key.public_key)
        assert load_node_key(path).public_key == key.public_key
        assert not pending_key_path(path).exists()

    def test_one_that_is_torn_is_in_nobodys_way_while_the_key_in_use_is_there(self, tmp_path: Path) -> None:
        path = tmp_path / "node.key"
        key = create_node_key(path)
        pending_key_path(path).write_bytes(b"torn")
        finish_rotation(path, key.public_key)
        assert not pending_key_path(path).exists()
        pending_key_path(path).write_bytes(b"torn")
        with pytest.raises(ConfigError, match=r"node\.key\.next"):
            finish_rotation(path, bytes(32))

    def test_who_wrote_is_unknown_where_there_is_no_database(self, tmp_path: Path) -> None:
        assert written_by(tmp_path / "absent.db") is None
        (tmp_path / "none.db").write_bytes(b"no database at all, but as long as its header would be" * 9)
        with pytest.raises(StoreError, match="cannot read the database"):
            written_by(tmp_path / "none.db")


class TestRevocation:
    """A log ends where its hotkey says, and the key that may be stolen is not used again."""

    async def test_the_own_log_ends_at_the_named_event_under_a_new_key(self, config: Path) -> None:
        async with running(config) as daemon:
            before, key = own(daemon), key_file(daemon)
            await write(daemon)
            await write(daemon)
            answer = await daemon.revoke(None, 0)
            assert answer["good_events"] == 1
            assert daemon._database.state.logs[before].cut == 1
            assert key_file(daemon) != key
            await until(lambda: not daemon.readiness())
            await write(daemon)

    async def test_another_log_of_the_hotkey_is_closed_by_the_own_one(self, config: Path) -> None:
        async with running(config) as daemon:
            lost = own(daemon)
            await write(daemon)
        (config.parent / "data" / "node.key").unlink()
        async with running(config) as daemon:
            here, key = own(daemon), key_file(daemon)
            assert here.node_key != lost.node_key
            await until(lambda: not daemon.readiness())
            answer = await daemon.revoke(lost, -1)
            assert answer["good_events"] == 0
            assert daemon._database.state.logs[lost].counted is None
            assert (own(daemon), key_file(daemon)) == (here, key)

    async def test_another_daemon_with_the_hotkey_is_told_of_until_its_log_is_closed(self, config: Path) -> None:
        async with running(config) as daemon:
            other = own(daemon)
            await write(daemon)
        (config.parent / "data" / "node.key").unlink()
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            assert daemon.status()["other_logs"] == []  # of a lost disk: before this daemon began
            daemon.started_ms -= 3_600_000
            with structlog.testing.capture_logs() as logged:
                daemon._tell_strangers()
                daemon._tell_strangers()
            told = [line for line in logged if line["event"] == "hotkey_used_elsewhere"]
            assert [line["log"] for line in told] == [log_name(other)]
            assert [each["log"] for each in daemon.status()["other_logs"]] == [log_name(other)]
            await daemon.revoke(other, -1)
            assert daemon.status()["other_logs"] == []

    @pytest.mark.parametrize(
        ("last", "problem"), [(99, "no event at seq 99; expected 0 to 0"), (None, "is not held here")]
    )
    async def test_what_does_not_exist_is_refused_in_words(self, config: Path, last: int | None, problem: str) -> None:
        async with running(config) as daemon:
            log_id = own(daemon) if last is not None else LogId(bytes(32), 1)
            with pytest.raises(ConfigError, match=problem):
                await daemon.revoke(log_id, last)

    async def test_a_closing_of_anothers_log_is_refused(self, config: Path) -> None:
        async with running(config) as daemon:
            stranger = closing(hotkey("//Eve"), daemon.settings.network.id, own(daemon), None)
            with pytest.raises(ConfigError, match="only that one can close it"):
                await daemon.publish_closing(stranger)
            forged = closing(VALIDATOR, bytes(16), own(daemon), None)
            with pytest.raises(ConfigError, match="does not carry its hotkey's signature"):
                await daemon.publish_closing(forged)
            assert daemon._database.state.ends == {}

    async def test_a_closing_of_the_own_log_that_was_signed_elsewhere_opens_the_next_one(self, config: Path) -> None:
        async with running(config) as daemon:
            before = own(daemon)
            head = daemon._database.state.logs[before].head
            close = closing(VALIDATOR, daemon.settings.network.id, before, Head(*head))
            await daemon.publish_closing(close)
            await until(lambda: writes(daemon) != before)
            await until(lambda: not daemon.readiness())
            assert daemon._database.state.logs[before].cut == head.seq + 1


class TestAClockThatRanAhead:
    """Rule 8: nothing is written on it, and what was is left behind once it is right again."""

    async def test_the_log_is_closed_below_what_was_written_meanwhile(self, config: Path, clock: Clock) -> None:
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            before = own(daemon)
            good = daemon._database.state.logs[before].head
            clock.ahead_s = 300
            await write(daemon)
            clock.ahead_s = 0
            await until(lambda: writes(daemon) != before)
            await until(lambda: not daemon.readiness())
            held = daemon._database.state.logs[before]
            assert held.counted == good
            await write(daemon)

    async def test_it_is_closed_also_where_a_new_log_is_due_for_another_reason(
        self, config: Path, clock: Clock
    ) -> None:
        """Beside it none could be opened before the time has come to which the clock ran ahead."""
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            before, good = own(daemon), daemon._database.state.logs[own(daemon)].head
            async with author(daemon)._busy:  # all this between two looks at the own log
                clock.ahead_s = 300
                await write(daemon)
                close = closing(VALIDATOR, daemon.settings.network.id, before, daemon._database.state.logs[before].head)
                await daemon._database.write(lambda ledger: ledger.receive_proofs([close], clock()))
                clock.ahead_s = 0
            await until(lambda: writes(daemon) != before)
            assert daemon._database.state.logs[before].counted == good
            await until(lambda: not daemon.readiness())
            await write(daemon)

    async def test_and_where_the_node_key_was_lost(self, config: Path, clock: Clock) -> None:
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            before, good = own(daemon), daemon._database.state.logs[own(daemon)].head
            clock.ahead_s = 300
            await write(daemon)
        daemon.settings.node_key_path.unlink()
        clock.ahead_s = 0
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            assert own(daemon).node_key != before.node_key
            assert daemon._database.state.logs[before].counted == good
            await write(daemon)

    async def test_who_has_no_log_opens_one_ahead_of_its_clock_to_hear_what_the_time_is(
        self, config: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Peers talk to nobody without a delegation, and nothing is closed before one says that it was ahead."""
        other = Author("//validator1")
        write_electorate(config.parent, 100, {"hotkey": other.hotkey.address, "stake": 0})
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            before, good = own(daemon), daemon._database.state.logs[own(daemon)].head
            now_s = clock() // 1000
            other.write(other.delegation(not_before=now_s - 1, not_after=now_s + DAY_S), at_ms=clock())
            await daemon._database.write(lambda ledger: ledger.receive(other.events, clock()))
            clock.ahead_s = 300
            await write(daemon)
        daemon.settings.node_key_path.unlink()
        clock.ahead_s = 0
        write_electorate(config.parent, 200, {"hotkey": other.hotkey.address, "stake": 100})
        async with running(config) as daemon:
            log, logs = writes(daemon), daemon._database.state.logs
            assert log is not None
            with pytest.raises(WritesRefusedError):
                await write(daemon)
            assert logs[before].counted != good
            monkeypatch.setattr(daemon._driver, "clock_offset_ms", lambda: 0)
            await until(lambda: writes(daemon) != log)
            assert daemon._database.state.logs[before].counted == good
            assert daemon._database.state.logs[log].counted is None
            await until(lambda: not daemon.readiness())
            await write(daemon)

    async def test_while_another_validators_log_is_as_far_ahead_it_is_closed_and_none_is_opened(
        self, config: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Logs would follow each other, one a second, until there are 256; and the other one may wait for this end."""
        monkeypatch.setattr(author_module, "REOPEN_BACKOFF_S", 0.0)
        other = Author("//validator1")
        write_electorate(config.parent, 100, {"hotkey": other.hotkey.address, "stake": 0})
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            before, good = own(daemon), daemon._database.state.logs[own(daemon)].head
            clock.ahead_s = 300
            await write(daemon)
            now_s = clock() // 1000
            other.write(other.delegation(not_before=now_s - 1, not_after=now_s + DAY_S), at_ms=clock())
            await daemon._database.write(lambda ledger: ledger.receive(other.events, clock()))
            clock.ahead_s = 0
            await until(lambda: daemon._database.state.logs[before].counted == good)
            for _ in range(3):
                await author(daemon).tend()
            assert sum(log.hotkey != other.hotkey.public_key for log in daemon._database.state.logs.values()) == 1
            with pytest.raises(WritesRefusedError):
                await write(daemon)
            close = closing(other.hotkey, daemon.settings.network.id, other.log, None)
            await daemon._database.write(lambda ledger: ledger.receive_proofs([close], clock()))
            await until(lambda: writes(daemon) != before)
            await until(lambda: not daemon.readiness())
            await write(daemon)

    async def test_a_clock_that_went_back_by_less_is_waited_for(self, config: Path, clock: Clock) -> None:
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            before = own(daemon)
            clock.ahead_s = 30
            await write(daemon)
            clock.ahead_s = 0
            await author(daemon).tend()
            await write(daemon)
            assert own(daemon) == before


class TestContact:
    """What nobody hears of in time would be lost to a checkpoint (``gossip.contact``)."""

    async def test_writes_stop_without_a_quorum_and_go_on_with_it(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            with monkeypatch.context() as lonely:
                lonely.setattr(Contact, "lost", lambda *_: True)
                await author(daemon).tend()
                assert any("for half the horizon" in reason for reason in daemon.readiness())
                with pytest.raises(WritesRefusedError, match="half the horizon"):
                    await write(daemon)
            await author(daemon).tend()
            await write(daemon)

    async def test_a_restart_does_not_forget_how_long_ago_that_was(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who hears nobody at a start opens a new log and writes on: a restart every day would make it endless."""
        began: list[int] = []
        begin = Contact.__init__

        def noting(contact: Contact, network: Network, heard_ms: int) -> None:
            began.append(heard_ms - steady_ms())
            begin(contact, network, heard_ms)

        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            days_ago_ms = int(time.time() * 1000) - 3 * 86_400_000
            await daemon._database.write(lambda ledger: ledger.note_heard(days_ago_ms))
        monkeypatch.setattr(Contact, "__init__", noting)
        async with running(config):
            assert began[-1] == pytest.approx(-3 * 86_400_000, abs=60_000)

    async def test_neither_does_a_machine_that_sleeps(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked_ms: list[int] = []

        def lost(_: Contact, __: bytes | None, ___: Mapping[bytes, int], now_ms: int) -> bool:
            asked_ms.append(now_ms)
            return False

        monkeypatch.setattr(Contact, "lost", lost)
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            machine_sleeps(monkeypatch, 4 * 86_400)
            await author(daemon).tend()
        assert asked_ms[-1] - asked_ms[0] >= 4 * 86_400_000


def test_a_reason_is_news_by_its_words_and_not_by_its_numbers() -> None:
    assert alike("the clock is +31.5 s off") == alike("the clock is -1,200 s off")
    assert alike("the clock is off") != alike("the disk is full")


class TestPermit:
    """A daemon does not start as the validator that it is not."""

    async def test_a_hotkey_without_a_permit_is_told_and_ends_the_start(self, config: Path) -> None:
        content = {
            "block": 100,
            "time": int(time.time()),
            "validators": [{"hotkey": hotkey("//other").address, "stake": 1}],
        }
        (config.parent / "electorate.toml").write_text(tomli_w.dumps(content))
        with pytest.raises(ConfigError, match=r"holds no validator permit on netuid 64 .* not registered there either"):
            async with running(config):
                pass


class TestWhatRunsMeanwhile:
    """Writes that are acknowledged while the log changes count, and a stop in the middle loses no key."""

    async def test_a_rotation_closes_behind_every_write_that_came_before_it(self, config: Path) -> None:
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            before = own(daemon)
            over = asyncio.Event()

            async def keep_writing() -> None:
                while not over.is_set():
                    await write(daemon)

            writing = [asyncio.create_task(keep_writing()) for _ in range(3)]
            await until(lambda: daemon._database.state.logs[before].head.seq > 20)
            await daemon.rotate_key()
            over.set()
            await asyncio.gather(*writing, return_exceptions=True)
            held = daemon._database.state.logs[before]
            assert held.counted == held.head

    async def test_a_stop_while_the_key_is_committed_leaves_it_to_the_next_start(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running(config) as daemon:
            old = key_file(daemon)
            commit = Database.write

            async def commit_and_stop(database: Database, job: Any) -> Any:
                await commit(database, job)
                raise asyncio.CancelledError

            with monkeypatch.context() as patch:
                patch.setattr(Database, "write", commit_and_stop)
                with pytest.raises(asyncio.CancelledError):
                    await daemon.rotate_key()
            after = own(daemon)
            assert key_file(daemon) == old
        async with running(config) as daemon:
            assert own(daemon) == after
            assert key_file(daemon) == after.node_key != old

    async def test_peers_are_met_with_the_new_key(self, config: Path) -> None:
        async with running(config) as daemon:
            first = daemon._driver
            await daemon.rotate_key()
            await until(lambda: daemon._driver is not first)
            assert daemon._node_key == author(daemon).node_key

    async def test_at_the_bound_of_logs_the_daemon_keeps_its_key_and_says_why(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            before, key = own(daemon), key_file(daemon)
            with monkeypatch.context() as patch:
                patch.setattr("p2pnodes.store.logs.LOGS_PER_HOTKEY_MAX", 1)
                with pytest.raises(WritesRefusedError, match="has 1 logs"):
                    await daemon.rotate_key()
            assert (own(daemon), key_file(daemon)) == (before, key)
            await write(daemon)


class TestForksOfOthers:
    """Evidence of a fork is written once, however often its two events come."""

    async def test_a_fork_that_is_shown_again_and_again_is_told_once(self, config: Path) -> None:
        now_s = int(time.time())
        first, rival = (
            liar.write(liar.delegation(not_before=now_s - DAY_S, not_after=now_s + days * DAY_S), at_ms=now_s * 1000)
            for liar, days in ((Author("//validator0", seed=7), 30), (Author("//validator0", seed=7), 31))
        )
        async with running(config) as daemon:
            await until(lambda: not daemon.readiness())
            for event in (first, *[rival] * 5):
                daemon._received(await daemon._database.receive([event], daemon_module.now_ms()))
            kind = {"kind": "evidence"}
            async with asyncio.timeout(20):
                while not await daemon.query("event_log", kind, 10):
                    await asyncio.sleep(0.01)
            await author(daemon).tend()
            assert len(await daemon.query("event_log", kind, 10)) == 1
            (forked,) = await daemon.forks()
            assert (forked["fork"], forked["good_events"], forked["own"]) == (0, 0, True)
