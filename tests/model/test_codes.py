"""Codes of errors: the list is frozen, each explains itself, and nothing fails or refuses without one."""

import ast
import copy
import json
from collections.abc import Iterator
from importlib import import_module
from itertools import groupby
from pathlib import Path
from pkgutil import walk_packages
from typing import Final, NamedTuple

import pytest

import p2pnodes
from p2pnodes.api.errors import ApiError
from p2pnodes.documentation import PAGES
from p2pnodes.gossip.handshake import HandshakeError
from p2pnodes.model.codes import AREAS, Code, Reason, code_of
from p2pnodes.model.errors import WIDE, ConfigError, P2PNodesError, WritesRefusedError
from tests import codes_page

ROOT: Final = Path(p2pnodes.__file__).parent
FROZEN: Final = Path(__file__).with_name("codes.txt")
"""Every code that was ever given. Add new ones; never remove or change a line: programs and notes rely on them."""

PROMISING: Final = {each.__name__ for each in (*WIDE, ApiError, HandshakeError)}
"""Classes that stand for many kinds of errors."""

LOGGED: Final = frozenset({"warning", "error", "critical", "exception"})
"""Levels at which a record is about something that is refused or fails."""

TOLD: Final = frozenset({"fail_line", "warn_line"})
"""Functions of ``cli.output`` that tell of an error or a warning."""


DOCTORS_ARGUMENTS: Final = 5
"""Of a finding, with its code."""


class Call(NamedTuple):
    """A call somewhere in the package: where, of what, and its tree."""

    where: str
    name: str
    tree: ast.Call

    @property
    def coded(self) -> bool:
        """Whether it is given a code."""
        return any(keyword.arg == "code" for keyword in self.tree.keywords)


def calls() -> Iterator[Call]:
    """Every call in the package."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield Call(f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), node)


def own_errors() -> list[type[P2PNodesError]]:
    """Every class of error in the package."""
    for module in walk_packages(p2pnodes.__path__, "p2pnodes."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    found: list[type[P2PNodesError]] = []
    waiting: list[type[P2PNodesError]] = [P2PNodesError]
    while waiting:
        each = waiting.pop()
        found += [each] if each.__module__.startswith("p2pnodes.") else []
        waiting += each.__subclasses__()
    return found


class TestTable:
    """What the table holds."""

    def test_no_code_is_ever_removed_renamed_or_added_unseen(self) -> None:
        """Who needs a new code adds a line to the frozen list; who drops one breaks what relies on it."""
        assert FROZEN.read_text().split() == sorted(Code)

    @pytest.mark.parametrize("code", Code)
    def test_each_has_a_readable_name_an_area_a_meaning_and_advice(self, code: Code) -> None:
        assert code.value == code.name.lower().replace("_", "-")
        assert code.area in AREAS
        for text in (code.meaning, code.advice):
            assert text.endswith(".")
            assert text[0].isupper() or text[0] in "`["
            assert 8 <= len(text) <= 200
            assert "|" not in text, "it would end a cell of the page's table"

    def test_areas_are_all_used_and_stand_together(self) -> None:
        assert [area for area, _ in groupby(Code, key=lambda code: code.area)] == list(AREAS)

    def test_no_two_mean_the_same(self) -> None:
        assert len({code.meaning for code in Code}) == len(Code)

    def test_the_page_is_that_of_the_table(self) -> None:
        assert (PAGES / "codes.md").read_text(encoding="utf-8") == codes_page.page(), "run `python -m tests.pages`"


class TestUse:
    """Nothing in the package fails or refuses without a code."""

    def test_every_error_of_a_class_for_many_kinds_is_given_its_code(self) -> None:
        """One that is made of a variable may be given a reason, which knows its own."""
        bare = [
            call.where
            for call in calls()
            if call.name.rpartition(".")[2] in PROMISING
            and not call.coded
            and any(isinstance(given, ast.Constant | ast.JoinedStr | ast.BinOp) for given in call.tree.args)
        ]
        assert not bare

    def test_every_other_class_of_error_says_its_code_itself(self) -> None:
        bare = [
            each.__qualname__
            for each in own_errors()
            if each.__name__ not in PROMISING and "code" not in vars(each) and each.__base__ in WIDE
        ]
        assert not bare

    def test_every_class_has_a_code_of_the_table(self) -> None:
        assert [each for each in own_errors() if each.code not in set(Code)] == []

    def test_every_warning_and_error_in_the_log_has_a_code(self) -> None:
        bare = [call.where for call in calls() if call.name in {f"log.{level}" for level in LOGGED} and not call.coded]
        assert not bare

    def test_every_notice_of_the_gossip_engine_has_a_code(self) -> None:
        bare = [call.where for call in calls() if call.name.endswith("outbox.notice") and not call.coded]
        assert not bare

    def test_every_line_of_a_command_about_an_error_has_a_code(self) -> None:
        bare = [call.where for call in calls() if call.name in TOLD and len(call.tree.args) < 2]
        assert not bare

    def test_every_problem_and_warning_that_doctor_finds_has_a_code(self) -> None:
        bare = [
            call.where
            for call in calls()
            if call.name == "Finding"
            and len(call.tree.args) < DOCTORS_ARGUMENTS
            and any(isinstance(arg, ast.Constant) and arg.value in {"problem", "warning"} for arg in call.tree.args)
        ]
        assert not bare

    def test_every_code_is_used(self) -> None:
        """What the table explains happens somewhere."""
        source = "".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py"))
        assert [code for code in Code if f"Code.{code.name}" not in source] == []


class TestReason:
    """A text that knows its code."""

    REASON: Final = Reason("the clock is off", Code.WRITES_CLOCK)

    def test_it_is_the_text_to_everybody_else(self) -> None:
        assert self.REASON == "the clock is off"
        assert json.dumps([self.REASON]) == '["the clock is off"]'
        assert f"{self.REASON}!" == "the clock is off!"

    def test_it_knows_its_code_and_so_do_copies(self) -> None:
        assert code_of(self.REASON, Code.SYSTEM_BUG) == Code.WRITES_CLOCK
        assert copy.copy(self.REASON).code == Code.WRITES_CLOCK
        assert copy.deepcopy(self.REASON).code == Code.WRITES_CLOCK

    def test_a_plain_text_has_the_code_that_it_is_given(self) -> None:
        assert code_of("the clock is off", Code.SYSTEM_BUG) == Code.SYSTEM_BUG


class TestErrors:
    """Which code an error has."""

    def test_the_one_of_its_class_unless_told(self) -> None:
        assert ConfigError("x").code == Code.CONFIG_VALUE
        assert ConfigError("x", code=Code.KEY_EXPOSED).code == Code.KEY_EXPOSED

    def test_that_of_the_reason_that_it_is_made_of(self) -> None:
        error = WritesRefusedError(TestReason.REASON)
        assert (str(error), error.code) == ("the clock is off", Code.WRITES_CLOCK)

    def test_it_is_a_reason_again(self) -> None:
        reason = ConfigError("x", code=Code.KEY_EXPOSED).reason()
        assert (reason, reason.code) == ("x", Code.KEY_EXPOSED)

    def test_a_copy_keeps_it(self) -> None:
        assert copy.copy(ConfigError("x", code=Code.KEY_EXPOSED)).code == Code.KEY_EXPOSED
