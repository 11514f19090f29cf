"""``keys``: making and showing keys, and what is signed where the hotkey is."""

import json
import time
from pathlib import Path

import pytest

from p2pnodes.chain.delegation import (
    DAY_S,
    DelegationRequest,
    log_name,
    read_closing,
    read_delegation,
    read_request,
    sign_closing,
    write_signed,
)
from p2pnodes.chain.wallet import load_hotkey, load_node_key, wallet_hotkey_path, write_hotkey_file
from p2pnodes.model.errors import WritesRefusedError
from p2pnodes.model.events import DELEGATION_BACKDATE_S, Head, LogId
from tests.cli.conftest import Ask, Cli
from tests.fake_daemon import FakeDaemon
from tests.support import NETWORK, hotkey

ALICE = hotkey("//Alice")
VALIDATOR = hotkey("//validator0")
LOG = LogId(b"\xcd" * 32, 7)


class TestNew:
    """A new key is its own file, mode 0600, and never replaces another."""

    def test_a_node_key_goes_where_the_configuration_says(self, cli: Cli, config: Path) -> None:
        path = config.parent / "data" / "node.key"
        path.unlink()
        path.parent.rmdir()
        ended = cli("keys", "new", "--config", config, "--json")
        assert ended.code == 0
        made = {"kind": "node key", "public_key": load_node_key(path).public_key.hex(), "file": str(path)}
        assert ended.json == made

    def test_a_hotkey_is_a_bittensor_file(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "hotkey"
        ended = cli("keys", "new", "--hotkey-file", path)
        assert ended.code == 0
        assert load_hotkey(path).address in ended.out

    def test_a_development_hotkey_is_made_from_its_uri(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "hotkey"
        assert cli("keys", "new", "--hotkey-file", path, "--uri", "//Alice").code == 0
        assert load_hotkey(path) == ALICE

    def test_a_file_that_exists_is_left_alone(self, cli: Cli, config: Path) -> None:
        path = config.parent / "data" / "node.key"
        before = path.read_bytes()
        ended = cli("keys", "new", "--config", config)
        assert ended.code == 1
        assert "exists already" in ended.error
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        "arguments",
        [[], ["--uri", "//Alice"], ["--hotkey-file", "a", "--node-key-file", "b"]],
        ids=["nothing", "no file", "both"],
    )
    def test_options_that_do_not_go_together_are_usage(self, cli: Cli, arguments: list[str]) -> None:
        assert cli("keys", "new", *arguments).code == 2


class TestShow:
    """Public parts only."""

    def test_the_keys_of_a_configuration(self, cli: Cli, config: Path) -> None:
        ended = cli("keys", "show", "--config", config, "--json")
        assert ended.code == 0
        validator, node_key = ended.json
        assert (validator["kind"], validator["address"]) == ("hotkey", hotkey("//validator0").address)
        assert node_key["public_key"] == load_node_key(config.parent / "data" / "node.key").public_key.hex()

    def test_before_the_first_start_there_is_no_node_key(self, cli: Cli, config: Path) -> None:
        path = config.parent / "data" / "node.key"
        path.unlink()
        ended = cli("keys", "show", "--config", config)
        assert (ended.code, ended.err) == (0, "")
        assert VALIDATOR.address in ended.out
        assert "not made yet: run makes it" in ended.out
        validator, node_key = cli("keys", "show", "--config", config, "--json").json
        assert validator["address"] == VALIDATOR.address
        assert node_key == {"kind": "node key", "public_key": None, "file": str(path)}
        assert not path.exists()

    def test_files_of_either_kind(self, cli: Cli, directory: Path) -> None:
        ended = cli("keys", "show", directory / "data" / "node.key", directory / "hotkey.json", "--json")
        assert [key["kind"] for key in ended.json] == ["node key", "hotkey"]

    def test_a_file_with_public_parts_only_shows_whose_it_is(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "pub.txt").write_text(json.dumps({"ss58Address": ALICE.address}))
        assert cli("keys", "show", tmp_path / "pub.txt", "--json").json[0]["address"] == ALICE.address

    def test_the_hotkey_of_a_wallet(self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.chain.wallet.WALLETS", tmp_path)
        path = wallet_hotkey_path(tmp_path, "w", "default")
        path.parent.mkdir(parents=True)
        write_hotkey_file(path, ALICE)
        assert cli("keys", "show", "--wallet", "w", "--json").json[0]["address"] == ALICE.address
        ended = cli("keys", "show", "--wallet", "w", "--hotkey", "h")
        assert (ended.code, ended.error) == (
            1,
            f"{path.with_name('h')}: no such file; expected a key file; the wallet w holds the hotkeys default",
        )

    def test_no_secret_is_printed(self, cli: Cli, directory: Path, config: Path) -> None:
        secrets = [
            json.loads((directory / "hotkey.json").read_text())["privateKey"].removeprefix("0x"),
            (directory / "data" / "node.key").read_text().split()[1],
        ]
        for form in ([], ["--json"]):
            out = cli("keys", "show", "--config", config, *form).out
            assert out
            assert not any(secret in out for secret in secrets)

    def test_a_development_key_is_known_by_its_uri(self, cli: Cli) -> None:
        assert ALICE.address in cli("keys", "show", "--uri", "//Alice").out

    @pytest.mark.parametrize(
        "command",
        [
            ["show"],
            ["new", "--hotkey-file", "hotkey"],
            ["delegate", "--network-id", "01" * 16, "--node-key", "01" * 32],
        ],
        ids=["show", "new", "delegate"],
    )
    def test_a_malformed_uri_is_usage(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        ended = cli("keys", *command, "--uri", "//")
        assert ended.code == 2
        assert "--uri: not a key URI: expected //Name" in ended.err
        assert list(tmp_path.iterdir()) == []

    def test_a_bad_file_is_one_line(self, cli: Cli, tmp_path: Path) -> None:
        ended = cli("keys", "show", tmp_path / "absent")
        assert ended.code == 1
        assert "no such file" in ended.error


class TestDelegate:
    """Signed where the hotkey is, checked anywhere."""

    SIGN = ("keys", "delegate", "--uri", "//Alice", "--network-id", NETWORK.id.hex(), "--node-key", "01" * 32)

    def test_what_is_signed_can_be_checked(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "delegation.json"
        ended = cli(*self.SIGN, "--log", 7, "--url", "https://v.example", "--days", 2, "--out", path, "--json")
        assert ended.code == 0
        signed = read_delegation(path)
        assert signed.fields() == ended.json
        assert (signed.network_id, signed.log.number) == (NETWORK.id, 7)
        assert signed.delegation.hotkey == ALICE.public_key
        assert signed.delegation.not_after - signed.delegation.not_before == 2 * 86_400 + 3600
        checked = cli("keys", "delegate", "--verify", path)
        assert checked.code == 0
        assert "good: signed by the hotkey" in checked.out

    def test_one_that_was_changed_is_refused(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "delegation.json"
        fields = cli(*self.SIGN, "--json").json
        path.write_text(json.dumps(fields | {"url": "https://evil.example"}))
        ended = cli("keys", "delegate", "--verify", path)
        assert ended.code == 1
        assert "not signed by" in ended.error

    def test_one_whose_time_is_over_is_refused(self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "delegation.json"
        with monkeypatch.context() as then:
            then.setattr("p2pnodes.cli.keys.time.time", lambda: 1_600_000_000.0)
            assert cli(*self.SIGN, "--out", path).code == 0
        ended = cli("keys", "delegate", "--verify", path)
        assert ended.code == 1
        assert "good from 2020-09-13 11:26:40 UTC to 2020-10-13 12:26:40 UTC, which is not now" in ended.error

    def test_its_begin_leaves_room_for_clocks_as_a_daemons_does(self, cli: Cli) -> None:
        fields = cli(*self.SIGN, "--days", 1, "--json").json
        assert fields["not_after"] - fields["not_before"] == 86_400 + DELEGATION_BACKDATE_S

    @pytest.fixture
    def request_file(self, tmp_path: Path) -> Path:
        now_s = int(time.time())
        asked = DelegationRequest(
            NETWORK.id, LOG, ALICE.public_key, "https://v.example", now_s - 60, now_s + DAY_S, (LOG, Head(4, bytes(32)))
        )
        write_signed(tmp_path / "request.json", asked)
        return tmp_path / "request.json"

    def test_a_request_is_signed_as_it_is(self, cli: Cli, tmp_path: Path, request_file: Path) -> None:
        out = tmp_path / "delegation.json"
        ended = cli("keys", "delegate", "--request", request_file, "--uri", "//Alice", "--out", out)
        assert ended.code == 0
        assert read_delegation(out) == read_request(request_file).sign(ALICE)._replace(
            delegation=read_delegation(out).delegation
        )
        shown = {line.split("  ")[0].strip(): line for line in ended.out.splitlines()}
        assert "https://v.example" in shown["url"]
        assert f"{log_name(LOG)}, 5 good events" in shown["predecessor"]
        assert "UTC" in shown["not_after"]

    def test_a_request_is_signed_by_nobody_else(self, cli: Cli, request_file: Path) -> None:
        ended = cli("keys", "delegate", "--request", request_file, "--uri", "//Bob")
        assert ended.code == 1
        assert f"asks {ALICE.address} to sign, found {hotkey('//Bob').address}" in ended.error

    @pytest.mark.parametrize("days", [-2, 400])
    def test_a_time_that_nobody_should_sign_is_refused(self, cli: Cli, request_file: Path, days: int) -> None:
        fields = json.loads(request_file.read_text())
        end = int(time.time()) + days * DAY_S
        request_file.write_text(json.dumps(fields | {"not_before": end - 60, "not_after": end}))
        ended = cli("keys", "delegate", "--request", request_file, "--uri", "//Alice")
        assert ended.code == 1
        assert "expected an end within the next 366 days" in ended.error

    @pytest.mark.parametrize("option", [("--url", "x"), ("--days", "2"), ("--log", "1"), ("--node-key", "01" * 32)])
    def test_a_request_says_it_all(self, cli: Cli, request_file: Path, option: tuple[str, str]) -> None:
        ended = cli("keys", "delegate", "--request", request_file, "--uri", "//Alice", *option)
        assert ended.code == 2
        assert f"--request says it all; leave out {option[0]}" in ended.err

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--uri", "//Alice", "--node-key", "01" * 32],
            ["--uri", "//Alice", "--network-id", "01" * 16, "--node-key", "zz"],
            ["--network-id", "01" * 16, "--node-key", "01" * 32],
        ],
    )
    def test_what_is_missing_is_usage(self, cli: Cli, arguments: list[str]) -> None:
        assert cli("keys", "delegate", *arguments).code == 2

    def test_without_a_request_it_is_said_where_one_comes_from(self, cli: Cli) -> None:
        ended = cli("keys", "delegate", "--uri", "//Alice")
        assert "give --request FILE, which `p2pnodes keys request` writes" in " ".join(
            ended.err.replace("│", "").split()
        )


class TestRequest:
    """What a hotkey elsewhere is to sign, from the running daemon, else from its files."""

    async def test_a_running_daemon_is_asked(self, ask: Ask, daemon: FakeDaemon, tmp_path: Path) -> None:
        asked = DelegationRequest(NETWORK.id, LOG, None, "", 1, 2, None)
        daemon.request = asked.fields()
        ended = await ask("keys", "request", "--out", tmp_path / "request.json")
        assert ended.code == 0
        assert read_request(tmp_path / "request.json") == asked
        assert "p2pnodes keys delegate --request request.json" in ended.out

    async def test_days_go_before_the_daemons(self, ask: Ask, daemon: FakeDaemon, tmp_path: Path) -> None:
        daemon.request = DelegationRequest(NETWORK.id, LOG, None, "", 1, 2, None).fields()
        assert (await ask("keys", "request", "--out", tmp_path / "a.json")).code == 0
        assert daemon.days == 30
        assert (await ask("keys", "request", "--out", tmp_path / "b.json", "--days", 3)).code == 0
        assert daemon.days == 3

    async def test_a_daemon_that_refuses_is_not_passed_over(self, ask: Ask, daemon: FakeDaemon, tmp_path: Path) -> None:
        daemon.refusal = WritesRefusedError("this daemon is an observer")
        ended = await ask("keys", "request", "--out", tmp_path / "request.json")
        assert ended.code == 1
        assert "this daemon is an observer" in ended.error
        assert not (tmp_path / "request.json").exists()

    async def test_an_answer_of_another_form_is_one_line(self, ask: Ask, tmp_path: Path) -> None:
        ended = await ask("keys", "request", "--out", tmp_path / "request.json")
        assert ended.code == 1
        assert "missing; expected a delegation request" in ended.error

    def test_without_a_daemon_its_files_tell(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        ended = cli("keys", "request", "--config", config, "--out", tmp_path / "request.json")
        assert ended.code == 0
        assert "its files are asked instead" in ended.err
        asked = read_request(tmp_path / "request.json")
        assert asked.log.node_key == load_node_key(config.parent / "data" / "node.key").public_key
        assert (asked.network_id, asked.hotkey, asked.predecessor) == (NETWORK.id, VALIDATOR.public_key, None)
        assert abs(asked.not_after - time.time() - 30 * DAY_S) < 60

    def test_without_a_node_key_one_is_made(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        path = config.parent / "data" / "node.key"
        path.unlink()
        path.parent.rmdir()
        config.write_text(config.read_text().replace('hotkey_file = "hotkey.json"', ""))
        assert cli("keys", "request", "--config", config, "--out", tmp_path / "request.json").code == 0
        asked = read_request(tmp_path / "request.json")
        assert (asked.log.node_key, asked.hotkey) == (load_node_key(path).public_key, None)

    def test_the_way_there_and_back(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        config.write_text(config.read_text().replace('hotkey_file = "hotkey.json"', 'delegation_file = "back.json"'))
        there, back = tmp_path / "request.json", tmp_path / "back.json"
        assert cli("config", "check", "--config", config).code == 1  # the file is not there yet
        assert cli("keys", "request", "--config", config, "--out", there).code == 0
        assert cli("keys", "delegate", "--request", there, "--uri", "//validator0", "--out", back).code == 0
        ended = cli("config", "check", "--config", config)
        assert (ended.code, ended.err) == (0, "")


class TestClose:
    """Signed where the hotkey is, published where the daemon is."""

    SIGN = ("keys", "close", "--uri", "//Alice", "--network-id", NETWORK.id.hex(), "--log", log_name(LOG))

    @pytest.mark.parametrize(
        ("options", "head"),
        [(("--good", 0), None), (("--good", 10, "--last-id", "02" * 32), Head(9, b"\x02" * 32))],
    )
    def test_what_is_signed_is_in_the_file(
        self, cli: Cli, tmp_path: Path, options: tuple[object, ...], head: Head | None
    ) -> None:
        out = tmp_path / "closing.json"
        ended = cli(*self.SIGN, *options, "--out", out, "--json")
        assert ended.code == 0
        signed = read_closing(out)
        assert ended.json == signed.fields()
        assert (signed.network_id, signed.close[:3]) == (NETWORK.id, (LOG, head, ALICE.public_key))

    @pytest.mark.parametrize(
        "options",
        [
            ("--good", 1),
            ("--good", 0, "--last-id", "02" * 32),
            ("--good", 1, "--last-id", "02"),
            ("--good", -1),
            ("--good", 0, "--log", "7"),
        ],
    )
    def test_what_names_no_event_is_usage(self, cli: Cli, tmp_path: Path, options: tuple[object, ...]) -> None:
        assert cli(*self.SIGN, *options, "--out", tmp_path / "closing.json").code == 2
        assert not (tmp_path / "closing.json").exists()

    async def test_a_running_daemon_gets_it(self, ask: Ask, daemon: FakeDaemon, tmp_path: Path) -> None:
        signed = sign_closing(ALICE, NETWORK.id, LOG, None)
        write_signed(tmp_path / "closing.json", signed)
        ended = await ask("keys", "publish", tmp_path / "closing.json", "--json")
        assert (ended.code, ended.json["good_events"]) == (0, 3)
        assert daemon.closings == [signed.close]

    async def test_one_that_was_changed_is_not_sent(self, ask: Ask, daemon: FakeDaemon, tmp_path: Path) -> None:
        signed = sign_closing(ALICE, NETWORK.id, LOG, None)
        (tmp_path / "closing.json").write_text(json.dumps(signed.fields() | {"log": log_name(LOG._replace(number=8))}))
        ended = await ask("keys", "publish", tmp_path / "closing.json")
        assert (ended.code, daemon.closings) == (1, [])


class TestRotateAndRevoke:
    """A running daemon is told."""

    async def test_a_rotation_shows_the_new_key(self, ask: Ask, daemon: FakeDaemon) -> None:
        ended = await ask("keys", "rotate", "--json")
        assert (ended.code, daemon.rotated) == (0, 1)
        assert ended.json == {"node_key": "01" * 32, "log": f"{'01' * 32}/9", "closed": log_name(LOG)}

    @pytest.mark.parametrize(
        ("options", "asked"),
        [
            ((), (None, None)),
            (("--last", 1207), (None, 1207)),
            (("--log", log_name(LOG), "--last", -1), (LOG, -1)),
            (("--log", log_name(LOG).upper()), (LOG, None)),
        ],
    )
    async def test_a_revocation_names_the_log_and_its_last_good_event(
        self, ask: Ask, daemon: FakeDaemon, options: tuple[object, ...], asked: tuple[LogId | None, int | None]
    ) -> None:
        ended = await ask("keys", "revoke", *options, "--yes")
        assert ended.code == 0
        assert daemon.revoked == [asked]
        assert "closed_by" in ended.out

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ((), f"log {'cd' * 32}/7: it ends with what counts of its 5 events; nothing that counts is voided"),
            (("--last", 1), f"log {'cd' * 32}/7: 3 events behind seq 1 are voided: 1 add, 2 verdict, up to seq 4"),
            (("--last", 4), f"log {'cd' * 32}/7: nothing is voided, its last event here is seq 4"),
            (
                ("--log", log_name(LOG), "--last", -1),
                f"log {log_name(LOG)}: 5 events behind seq -1 are voided: 1 add, 1 delegate, 3 verdict, up to seq 4",
            ),
        ],
    )
    async def test_it_says_what_would_be_voided_and_asks(
        self, ask: Ask, daemon: FakeDaemon, options: tuple[object, ...], said: str
    ) -> None:
        kinds = ("delegate", "verdict", "add", "verdict", "verdict")
        daemon.rows = [{"position": seq + 1, "seq": seq, "kind": kind} for seq, kind in enumerate(kinds)]
        ended = await ask("keys", "revoke", *options)
        assert ended.code == 2
        assert ended.err.splitlines()[0] == f"p2pnodes: {said}"
        assert "give --yes: there is no terminal to ask on" in ended.err
        assert daemon.revoked == []

    async def test_a_log_of_which_nothing_is_here_is_told_so(self, ask: Ask, daemon: FakeDaemon) -> None:
        ended = await ask("keys", "revoke", "--log", log_name(LOG))
        assert f"log {log_name(LOG)}: no event of it is held here" in ended.err
        daemon.snapshot["log"] = None
        assert "this daemon has no log to end" in (await ask("keys", "revoke")).err

    @pytest.mark.parametrize("options", [("--last", -2), ("--log", "7"), ("--log", f"{'0' * 64}/99999999999")])
    async def test_what_is_no_log_or_event_is_usage(
        self, ask: Ask, daemon: FakeDaemon, options: tuple[object, ...]
    ) -> None:
        assert (await ask("keys", "revoke", *options)).code == 2
        assert daemon.revoked == []

    @pytest.mark.parametrize("command", ["rotate", "revoke"])
    async def test_a_refusal_is_one_line(self, ask: Ask, daemon: FakeDaemon, command: str) -> None:
        daemon.refusal = WritesRefusedError("there is no hotkey at hand")
        ended = await ask("keys", command, *(["--yes"] if command == "revoke" else []))
        assert ended.code == 1
        assert "there is no hotkey at hand" in ended.error

    @pytest.mark.parametrize("command", ["rotate", "revoke"])
    def test_nobody_there_is_exit_code_3(self, cli: Cli, config: Path, command: str) -> None:
        assert cli("keys", command, "--config", config).code == 3

    def test_the_help_says_when_to_use_which(self, cli: Cli) -> None:
        rotate = " ".join(cli("keys", "rotate", "--help").out.split())
        revoke = " ".join(cli("keys", "revoke", "--help").out.split())
        assert "Everything that the old one wrote stays good" in rotate
        assert "When somebody else may have used the key, keys revoke" in rotate
        assert "Miners' requests are not lost" in revoke
