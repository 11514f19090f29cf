"""``p2pnodes logs``: codes are explained without a daemon; the level of a running one is shown and changed."""

import sys
from types import SimpleNamespace

import pytest

from p2pnodes.cli.logs import FOR_MAX, LINE_BYTES_MAX, UNKNOWN_MAX
from p2pnodes.cli.spans import span_s
from p2pnodes.loglevel import FOR_S_MAX
from p2pnodes.model.codes import AREAS, Code
from p2pnodes.model.errors import ConfigError
from tests.cli.conftest import Ask, Cli
from tests.fake_daemon import FakeDaemon

LOG = b"""{"event": "writes_refused", "reason": "own head not heard", "code": "writes-unheard", "level": "warning"}
{"event": "listening", "url": "http://a", "level": "info"}
2026-01-31T00:00:00Z [warning  ] handshake_refused \x1b[36mcode\x1b[0m=\x1b[35mhandshake-version\x1b[0m remote=a
{"code":"writes-unheard","event":"writes_refused"}
p2pnodes: error: /k: mode 0644, others could read the secret: run `chmod 600 /k` [key-exposed]
< P2PNodes-Code: api-nonce
<4>{"event": "x", "code": "from-the-future"}
not a code: [two-words] in the middle of a line, nor "code": 7
"""


class TestExplain:
    """A code is explained by its meaning and by what to do."""

    def test_several_codes_are_explained_in_the_order_asked(self, cli: Cli) -> None:
        ended = cli("logs", "explain", "api-nonce", "[key-exposed]", "api-nonce", "--json")
        assert (ended.code, ended.err) == (0, "")
        assert ended.json == [
            {"code": code, "area": AREAS[code.area], "meaning": code.meaning, "advice": code.advice}
            for code in (Code.API_NONCE, Code.KEY_EXPOSED)
        ]

    def test_people_are_told_what_it_means_and_what_to_do(self, cli: Cli) -> None:
        out = cli("logs", "explain", "writes-foreign").out
        assert [line.split(maxsplit=1) for line in out.splitlines()] == [
            ["code", "writes-foreign"],
            ["means", Code.WRITES_FOREIGN.meaning],
            ["do", Code.WRITES_FOREIGN.advice],
        ]

    def test_an_unknown_code_suggests_near_ones_and_explains_nothing(self, cli: Cli) -> None:
        ended = cli("logs", "explain", "api-nonce", "write-unheard")
        assert (ended.code, ended.out, ended.error_code) == (1, "", Code.SYSTEM_UNKNOWN_NAME)
        assert ended.error.startswith("there is no code 'write-unheard'; did you mean writes-unheard")

    def test_one_that_is_like_none_points_to_the_list(self, cli: Cli) -> None:
        assert cli("logs", "explain", "QQQ").error == "there is no code 'QQQ'; `p2pnodes logs list` shows all"


class TestLog:
    """A log on standard input: each code in it is explained once, the most frequent one first."""

    def test_codes_are_found_in_every_form_and_counted(self, cli: Cli) -> None:
        ended = cli("logs", "explain", "--json", stdin=LOG)
        assert [(each["code"], each["times"]) for each in ended.json] == [
            ("writes-unheard", 2),
            ("handshake-version", 1),
            ("key-exposed", 1),
            ("api-nonce", 1),
        ]
        assert ended.err == (
            "p2pnodes: codes that this build does not know, so a newer p2pnodes wrote them: from-the-future\n"
        )

    def test_people_see_how_often(self, cli: Cli) -> None:
        assert "times  2" in cli("logs", "explain", stdin=LOG).out

    def test_a_log_without_codes_says_so(self, cli: Cli) -> None:
        ended = cli("logs", "explain", stdin=b'{"event": "listening"}\n\xff\xfe\n')
        assert (ended.code, ended.out, ended.err) == (0, "no code of an error or refusal in it\n", "")

    def test_a_line_without_end_is_cut_and_does_not_count_twice(self, cli: Cli) -> None:
        line = b"x" * (LINE_BYTES_MAX + 10) + b" code=api-nonce\ncode=api-rate\n"
        assert [each["code"] for each in cli("logs", "explain", "--json", stdin=line).json] == ["api-rate"]

    def test_unknown_codes_are_bounded_in_number(self, cli: Cli) -> None:
        many = b"".join(
            b"code=x-%c%c%c\n" % (97 + i // 26 % 26, 97 + i % 26, 97 + i % 7) for i in range(3 * UNKNOWN_MAX)
        )
        err = cli("logs", "explain", stdin=many + b"code=api-rate\n").err
        assert err.count("x-") == UNKNOWN_MAX

    def test_a_terminal_is_not_waited_for(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
        monkeypatch.setattr(sys.modules["p2pnodes.cli.logs"], "sys", terminal)
        ended = cli("logs", "explain")
        assert ended.code == 2
        assert "expected a code, or a log on standard input" in " ".join(ended.err.split())


class TestList:
    """All codes, or those of an area."""

    def test_all(self, cli: Cli) -> None:
        assert [each["code"] for each in cli("logs", "list", "--json").json] == list(Code)
        assert cli("logs", "list").out.count("\n") == len(Code) + 1

    def test_of_an_area(self, cli: Cli) -> None:
        codes = [each["code"] for each in cli("logs", "list", "void", "--json").json]
        assert codes
        assert all(code.startswith("void-") for code in codes)

    def test_an_unknown_area_is_an_error_of_the_command_line(self, cli: Cli) -> None:
        ended = cli("logs", "list", "nothing")
        assert ended.code == 2
        assert "expected one of config, key" in " ".join(ended.err.split())


class TestLevel:
    """The level of a running daemon."""

    async def test_it_is_shown(self, ask: Ask) -> None:
        assert (await ask("log", "level")).out == "level  info, as configured\n"

    async def test_a_change_holds_for_ten_minutes_unless_told(self, ask: Ask) -> None:
        ended = await ask("logs", "level", "debug", "--logger", "p2pnodes.gossip")
        assert ended.out == "level  p2pnodes.gossip debug for 10 min more; configured is info\n"

    async def test_it_can_be_kept_and_taken_back(self, ask: Ask, daemon: FakeDaemon) -> None:
        assert (await ask("logs", "level", "warning", "--keep")).out == (
            "level  all warning until a restart; configured is info\n"
        )
        assert (await ask("logs", "level", "configured", "--json")).json == daemon.levels
        assert daemon.levels["changed"] == []

    def test_the_longest_time_is_the_daemon_s(self) -> None:
        assert span_s(FOR_MAX) == FOR_S_MAX

    async def test_a_span_is_seconds_minutes_hours_or_days(self, ask: Ask, daemon: FakeDaemon) -> None:
        for text, seconds in (("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86_400)):
            await ask("logs", "level", "debug", "--for", text)
            assert daemon.levels["changed"][0]["left_s"] == seconds

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["debug", "--for", "10"], "expected a number with s, m, h or d, such as 10m, found '10'"),
            (["debug", "--for", "0m"], "expected a number with s, m, h or d"),
            (["debug", "--for", "2d"], "expected 24h at most, found '2d'"),
            (["debug", "--for", "1h", "--keep"], "expected either --for or --keep, found both"),
            (["configured", "--keep"], "configured holds anyway"),
            (["--keep"], "need a LEVEL"),
            (["loud"], "is not one of"),
        ],
    )
    async def test_what_contradicts_itself_is_an_error_of_the_command_line(
        self, ask: Ask, daemon: FakeDaemon, arguments: list[str], reason: str
    ) -> None:
        ended = await ask("logs", "level", *arguments)
        assert ended.code == 2
        assert reason in " ".join(ended.err.replace("│", " ").split())
        assert daemon.levels["changed"] == []

    async def test_a_refusal_has_the_daemons_code(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.refusal = ConfigError("no such part", code=Code.ADMIN_UNKNOWN)
        ended = await ask("logs", "level", "debug", "--logger", "p2pnodes.x")
        assert (ended.code, ended.error, ended.error_code) == (
            1, "the daemon answered 404: no such part", "admin-unknown",
        )  # fmt: skip

    async def test_status_tells_when_it_differs(self, ask: Ask, daemon: FakeDaemon) -> None:
        assert "log level" not in (await ask("status")).out
        change = {"logger": None, "level": "debug", "left_s": 599.0}
        daemon.snapshot["logging"] = {"configured": "info", "changed": [change]}
        assert "log level          all debug for 10 min more; configured is info" in (await ask("status")).out.replace(
            "9 min", "10 min"
        )
