"""The daemon does what its own document says, whatever schemathesis thinks of; short form of ``tests.fuzz.openapi``.

``.ci/run`` makes the environment with schemathesis and names it in ``TESTS_AUDIT``.
"""

import json
from pathlib import Path
from typing import Final

import pytest

from p2pnodes.api.openapi import document
from tests.e2e.single import Single, settings_of
from tests.fuzz.openapi import fuzz, fuzz_daemon
from tests.tools import made_tools

EXAMPLES: Final = 15


@pytest.fixture(scope="module")
def program() -> Path:
    return made_tools() / "bin/schemathesis"


@pytest.mark.timeout(400)
async def test_no_answer_is_other_than_documented(program: Path, tmp_path: Path) -> None:
    outcomes = await fuzz_daemon(program, tmp_path, examples=EXAMPLES, seed=1)
    assert list(outcomes) == ["unsigned", "signed"]
    for outcome in outcomes.values():
        assert outcome.complaints == [], outcome.text
        assert outcome.answers.total() > 300
    assert outcomes["unsigned"].answers["POST 202"] == 0


async def test_an_answer_that_the_document_does_not_have_is_found(program: Path, tmp_path: Path) -> None:
    told = document()
    del told["paths"]["/nodes/supported"]["get"]["responses"]["200"]
    false = tmp_path / "openapi.json"
    false.write_text(json.dumps(told))
    daemon = Single(tmp_path, settings_of(tmp_path))
    try:
        outcome = await fuzz(
            program, await daemon.listening(), tmp_path, examples=1, document=false,
            options=["--include-path", "/nodes/supported"],
        )  # fmt: skip
    finally:
        await daemon.stop()
    assert outcome.complaints
    assert "Undocumented" in outcome.text
