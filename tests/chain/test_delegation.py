"""Delegation requests, delegations and closings: what was signed is what is read, and nothing else passes."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.chain.delegation import (
    FILE_BYTES_MAX,
    DelegationRequest,
    SignedClosing,
    SignedDelegation,
    log_name,
    misfits,
    parse_closing,
    parse_log,
    read_closing,
    read_delegation,
    read_request,
    sign_closing,
    window,
    write_signed,
)
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.events import DELEGATION_BACKDATE_S, LOG_NUMBER_MAX, Head, LogId
from tests.support import NETWORK, NOW_S, hotkey

LOG = LogId(bytes(range(32)), 7)
BEFORE = LogId(bytes(range(32)), 6)
VALIDATOR = hotkey("//validator0")
REQUEST = DelegationRequest(
    NETWORK.id, LOG, VALIDATOR.public_key, "https://v.example", NOW_S, NOW_S + 60, (BEFORE, Head(4, b"\x01" * 32))
)
SIGNED = REQUEST.sign(VALIDATOR)
CLOSING = sign_closing(VALIDATOR, NETWORK.id, LOG, Head(9, b"\x02" * 32))

READ: dict[str, Callable[[Path], Any]] = {
    "request": read_request,
    "delegation": read_delegation,
    "closing": read_closing,
}
FORMS: dict[str, DelegationRequest | SignedDelegation | SignedClosing] = {
    "request": REQUEST,
    "delegation": SIGNED,
    "closing": CLOSING,
}


def position(log: LogId, head: Head | None) -> dict[str, Any]:
    return {"log": log_name(log), "good_events": 0 if head is None else head.seq + 1, "last_id": head and head.id.hex()}


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def file(tmp_path: Path, form: str) -> Path:
    write_signed(tmp_path / "file.json", FORMS[form])
    return tmp_path / "file.json"


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


class TestForms:
    """Every form is read as it was written; anything else is one line that names the file and the field."""

    def test_what_is_written_is_read(self, file: Path, form: str) -> None:
        assert READ[form](file) == FORMS[form]

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            (REQUEST._replace(hotkey=None, url="", predecessor=None), read_request),
            (REQUEST._replace(predecessor=(BEFORE, None)), read_request),
            (REQUEST._replace(url="", predecessor=None).sign(VALIDATOR), read_delegation),
            (REQUEST._replace(predecessor=(BEFORE, None)).sign(VALIDATOR), read_delegation),
            (sign_closing(VALIDATOR, NETWORK.id, LOG, None), read_closing),
        ],
    )
    def test_what_may_be_absent_is_read_as_such(
        self,
        tmp_path: Path,
        written: DelegationRequest | SignedDelegation | SignedClosing,
        read: Callable[[Path], Any],
    ) -> None:
        write_signed(tmp_path / "file.json", written)
        assert read(tmp_path / "file.json") == written

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "no JSON object"),
            (b"[]", "no JSON object"),
            (b"[" * 10_000, "no JSON object"),
            (b"\xff", "no JSON object"),
            (b" " * (FILE_BYTES_MAX + 1), "over 16384 bytes"),
            (b"{}", ": missing; expected "),
        ],
    )
    def test_another_content_is_one_line(self, file: Path, form: str, content: bytes, reason: str) -> None:
        file.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            READ[form](file)
        assert reason in str(caught.value)
        assert str(caught.value).startswith(f"{file}: ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("changed", "place"),
        [
            ({"network_id": "00"}, "network_id"),
            ({"log": "7"}, "log"),
            ({"log": 7}, "log"),
            ({"log": f"{'00' * 32}/{LOG_NUMBER_MAX + 1}"}, "log"),
            ({"log": f"{'00' * 32}/07"}, "log"),
            ({"hotkey": "5abc"}, "hotkey"),
            ({"hotkey": "0" * 48}, "hotkey"),
            ({"more": 1}, "more: unknown field"),
            ({"kind": "p2pnodes-delegation-2"}, "kind"),
            ({"kind": None}, "kind"),
        ],
    )
    def test_a_bad_field_is_named(self, file: Path, form: str, changed: dict[str, Any], place: str) -> None:
        change(file, **changed)
        with pytest.raises(ConfigError, match=f"{file}: {place}.*; expected a"):
            READ[form](file)

    def test_a_file_of_another_form_is_told_what_it_is_for(self, file: Path, form: str) -> None:
        for other in READ.keys() - {form}:
            with pytest.raises(ConfigError, match=f"expected a .*; this is a .*{form}: "):
                READ[other](file)

    def test_a_file_is_never_overwritten(self, file: Path, form: str) -> None:
        with pytest.raises(ConfigError, match="exists already"):
            write_signed(file, FORMS[form])
        with pytest.raises(ConfigError, match="cannot be written here"):
            write_signed(file / "below", FORMS[form])

    def test_one_that_cannot_be_written_whole_is_not_left_behind(self, tmp_path: Path, form: str) -> None:
        path, (soft, hard) = tmp_path / "file.json", resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as a full disk: the first bytes are written
        try:
            with pytest.raises(ConfigError, match="cannot be written here"):
                write_signed(path, FORMS[form])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(tmp_path.iterdir()) == []
        write_signed(path, FORMS[form])
        assert READ[form](path) == FORMS[form]

    def test_a_pipe_in_its_place_is_not_waited_for(self, tmp_path: Path, form: str) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ConfigError, match=r"pipe: cannot be read \(not a regular file\); expected a file of"):
            READ[form](tmp_path / "pipe")

    def test_an_absent_file_is_named(self, tmp_path: Path, form: str) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            READ[form](tmp_path / "absent")


class TestDelegations:
    """A delegation is what the hotkey signed, whole."""

    @pytest.fixture
    def form(self) -> str:
        return "delegation"

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("network_id", "00" * 16),
            ("log", log_name(LOG._replace(number=8))),
            ("log", log_name(LOG._replace(node_key=bytes(32)))),
            ("hotkey", hotkey("//validator1").address),
            ("url", "https://evil.example"),
            ("url", ""),
            ("not_before", NOW_S - 1),
            ("not_after", NOW_S + 61),
            ("predecessor", None),
            ("predecessor", position(BEFORE, None)),
            ("predecessor", position(BEFORE, Head(5, b"\x01" * 32))),
            ("predecessor", position(LOG, Head(4, b"\x01" * 32))),
            ("signature", "00" * 64),
        ],
    )
    def test_one_that_was_changed_is_not_signed(self, file: Path, field: str, value: Any) -> None:
        change(file, **{field: value})
        with pytest.raises(ConfigError, match="not signed by 5"):
            read_delegation(file)

    @pytest.mark.parametrize(
        ("changed", "place"),
        [
            ({"not_after": 2**60}, "not_after"),
            ({"not_after": NOW_S}, "expected not_after behind not_before"),
            ({"not_before": "1"}, "not_before"),
            ({"not_before": True}, "not_before"),
            ({"signature": "zz"}, "signature"),
            ({"url": "https://" + "x" * 300}, "url"),
            ({"url": "ftp://v.example"}, "url"),
            ({"url": "https://v.example/"}, "url"),
            ({"url": "https://u:p@v.example"}, "url"),
            ({"hotkey": None}, "hotkey"),
            ({"predecessor": {}}, r"predecessor\.log: missing"),
            ({"predecessor": {"log": log_name(BEFORE), "good_events": 1, "last_id": None}}, "predecessor: expected"),
            (
                {"predecessor": {"log": log_name(BEFORE), "good_events": 0, "last_id": "01" * 32}},
                "predecessor: expected",
            ),
            ({"predecessor": {"log": log_name(BEFORE), "good_events": -1, "last_id": None}}, "predecessor.good_events"),
        ],
    )
    def test_a_bad_field_of_its_own_is_named(self, file: Path, changed: dict[str, Any], place: str) -> None:
        change(file, **changed)
        with pytest.raises(ConfigError, match=place):
            read_delegation(file)

    def test_the_password_of_an_url_is_not_repeated(self, file: Path) -> None:
        change(file, url="https://user:geheim@v.example")
        with pytest.raises(ConfigError, match="url") as caught:
            read_delegation(file)
        assert "geheim" not in str(caught.value)

    def test_a_request_is_signed_by_whom_it_asks(self) -> None:
        assert SIGNED.signed()
        with pytest.raises(ConfigError, match=f"asks {VALIDATOR.address} to sign, found 5"):
            REQUEST.sign(hotkey("//validator1"))

    def test_a_request_that_asks_nobody_is_signed_by_anybody(self) -> None:
        assert REQUEST._replace(hotkey=None).sign(hotkey("//validator1")).signed()


class TestMisfits:
    """A delegation is used by the daemon that it was signed for."""

    NODE_KEY = LOG.node_key

    @pytest.mark.parametrize(
        ("network_id", "node_key", "hotkey_here"),
        [(NETWORK.id, NODE_KEY, VALIDATOR.public_key), (NETWORK.id, NODE_KEY, None), (NETWORK.id, None, None)],
        ids=["all", "no hotkey here", "no node key yet"],
    )
    def test_one_that_fits(self, network_id: bytes, node_key: bytes | None, hotkey_here: bytes | None) -> None:
        assert misfits(SIGNED, Path("d.json"), network_id, node_key, hotkey_here) == []

    def test_each_that_does_not_fit_is_a_line(self) -> None:
        other = hotkey("//validator1")
        new = "make a new request with `p2pnodes keys request`"
        assert misfits(SIGNED, Path("d.json"), bytes(16), bytes(32), other.public_key) == [
            f"d.json: for network {NETWORK.id.hex()}; expected {'00' * 16}: {new}",
            f"d.json: for node key {LOG.node_key.hex()}; expected {'00' * 32}: {new}",
            (
                f"d.json: signed by {VALIDATOR.address}; expected {other.address}, the configured hotkey: sign it with "
                "that one"
            ),
        ]


class TestClosings:
    """A closing is what the hotkey signed, whole."""

    @pytest.fixture
    def form(self) -> str:
        return "closing"

    @pytest.mark.parametrize(
        "changed",
        [
            {"network_id": "00" * 16},
            {"log": log_name(BEFORE)},
            {"good_events": 9},
            {"last_id": "03" * 32},
            {"good_events": 0, "last_id": None},
            {"hotkey": hotkey("//validator1").address},
            {"signature": "00" * 64},
        ],
    )
    def test_one_that_was_changed_is_not_signed(self, file: Path, changed: dict[str, Any]) -> None:
        change(file, **changed)
        with pytest.raises(ConfigError, match="not signed by 5"):
            read_closing(file)

    def test_one_that_names_an_event_without_its_id_is_refused(self, file: Path) -> None:
        change(file, last_id=None)
        with pytest.raises(ConfigError, match="expected last_id for good_events"):
            read_closing(file)

    def test_a_body_is_named_as_its_caller_does(self) -> None:
        with pytest.raises(ConfigError, match=r"^body: "):
            parse_closing(b"{}", "body")


class TestLogs:
    """A log is named in full: the node key, a slash, its number."""

    @pytest.mark.parametrize("number", [0, 7, LOG_NUMBER_MAX])
    def test_a_name_is_read_as_it_is_written(self, number: int) -> None:
        log = LogId(bytes(range(32)), number)
        assert parse_log(log_name(log)) == log

    @pytest.mark.parametrize("name", ["", "ab/1", f"{'0' * 64}", f"{'0' * 64}/", f"{'A' * 64}/1", f"{'0' * 64}/1\n"])
    def test_another_form_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="expected a log"):
            parse_log(name)


class TestWindow:
    """A delegation begins before now, and before the time of the electorate."""

    def test_it_begins_an_hour_before_now(self) -> None:
        assert window(NOW_S, 2) == (NOW_S - DELEGATION_BACKDATE_S, NOW_S + 2 * 86_400)

    @pytest.mark.parametrize(("electorate_s", "begin"), [(NOW_S - 1200, NOW_S - 1200), (NOW_S + 5, NOW_S), (0, NOW_S)])
    def test_an_electorate_that_is_older_counts(self, electorate_s: int, begin: int) -> None:
        assert window(NOW_S, 1, electorate_s) == (begin - DELEGATION_BACKDATE_S, NOW_S + 86_400)
