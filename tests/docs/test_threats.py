"""Tests that the pages name exist: a promise whose test was renamed or removed is found here."""

import ast
import re

import pytest

from p2pnodes.documentation import topic
from tests.docs.markdown import ROOT, code_spans, pages

NAMED = re.compile(r"tests/\S+\.py(::\w+)+")


def exists(name: str) -> bool:
    """Whether ``file::Class::test`` or ``file::test`` is defined."""
    file, *words = name.split("::")
    if not (ROOT / file).is_file():
        return False
    scope: ast.Module | ast.ClassDef = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for word in words[:-1]:
        inner = [each for each in scope.body if isinstance(each, ast.ClassDef) and each.name == word]
        if not inner:
            return False
        scope = inner[0]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return any(isinstance(each, functions) and each.name == words[-1] for each in scope.body)


@pytest.mark.parametrize(
    "name", sorted({span for page in pages() for span in code_spans(page) if NAMED.fullmatch(span)})
)
def test_a_test_that_a_page_names_exists(name: str) -> None:
    assert exists(name)


def test_one_that_does_not_exist_is_found() -> None:
    here = "tests/docs/test_threats.py"
    assert exists(f"{here}::test_one_that_does_not_exist_is_found")
    assert not exists(f"{here}::test_of_nothing")
    assert not exists(f"{here}::TestNothing::test_one_that_does_not_exist_is_found")
    assert not exists("tests/docs/test_nothing.py::test_of_nothing")


def test_every_row_of_the_threat_table_names_one() -> None:
    rows = [line for line in topic("threats").file.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    told = [row for row in rows if not row.startswith(("| attack |", "| what happens |", "| --- |"))]
    assert len(told) > 40
    assert [row for row in told if NAMED.search(row.rpartition(" | ")[2]) is None] == []
