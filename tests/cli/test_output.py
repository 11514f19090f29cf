"""What strangers wrote is shown as it is, and cannot act on the terminal."""

import pytest

from p2pnodes.cli.output import fail_line, note, print_fields, print_table, say
from p2pnodes.model.codes import Code

HOSTILE = "a\x1b[2J\r\n\u202e:warning: [red]b"
SHOWN = "a\\x1b[2J\\r\\n\\u202e:warning: [red]b"


class TestText:
    """Control characters become escapes; neither styles nor emoji codes of a text do anything."""

    def test_on_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        say(HOSTILE)
        assert capsys.readouterr().out == f"{SHOWN}\n"

    def test_on_stderr(self, capsys: pytest.CaptureFixture[str]) -> None:
        note(HOSTILE)
        fail_line(HOSTILE, Code.SYSTEM_FAILED)
        assert capsys.readouterr().err == f"p2pnodes: {SHOWN}\np2pnodes: error: {SHOWN} [system-failed]\n"

    def test_in_tables_and_fields(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_table(("detail",), [{"detail": HOSTILE}], empty="none")
        print_fields({"detail": HOSTILE})
        assert capsys.readouterr().out == f"detail\n{SHOWN}\ndetail  {SHOWN}\n"
