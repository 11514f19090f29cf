"""Runs what the pages tell a reader to type, in a network namespace in which the ports of the text are free.

The info string of a ``sh`` block says what the reader knows from the text:

- ``needs=REASON``: not run here; ``documentation.NEEDS`` has the reasons.
- ``until="TEXT"``: it goes on in a terminal of its own; the next block follows once it has said TEXT.
- ``stopped``: before it, what runs in other terminals is stopped, as with Ctrl-C.
- ``exit=N``: it ends with this code instead of 0.

A block ``text output`` behind it is what it prints, line for line; ``…`` stands for anything, lines may be left out.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.docs.markdown import ROOT, Block
from tests.support import program

PROGRAMS: Final = ("curl", "sqlite3")
"""What the pages call that is not on every machine."""

PAGE_S_MAX: Final = 240
"""Bound of all blocks of one page."""

STOP_S_MAX: Final = 30
"""What the daemons of a page get to stop when that bound is passed."""

_PROLOGUE: Final = """
set -euo pipefail
terminals=()
stop() {
    for pid in ${terminals[@]+"${terminals[@]}"}; do
        kill -TERM -- "-$pid" 2>/dev/null || true
        wait "$pid" || true
    done
    terminals=()
}
trap stop EXIT
said() {
    until grep -qF -- "$2" "$1"; do
        kill -0 "$3" 2>/dev/null || { cat "$1"; echo "it ended without: $2"; exit 1; }
        sleep 0.1
    done
}
"$PYTHON" - <<'END'
import fcntl, socket, struct
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
END
"""
"""``stop`` ends what runs in other terminals, ``said`` waits for a text; the namespace's loopback is brought up."""

_MARK: Final = "\x1e"
"""Begins the line before each block's output."""


def kept(block: Block) -> bool:
    """Whether a block is for a shell and is run here."""
    return block.language == "sh" and "needs" not in block.attributes


def run(blocks: Sequence[Block]) -> None:
    """Run the blocks of one page in order, in one shell, from nothing; fail where one does not do what it should."""
    namespace = _namespace()
    todo = [block for block in blocks if kept(block)]
    for name in PROGRAMS:
        if any(re.search(rf"\b{name} ", block.code) for block in todo):
            program(name)
    with tempfile.TemporaryDirectory(prefix="docs-") as name:  # short: it begins the paths of sockets
        directory = Path(name)
        (directory / "clone").mkdir()
        for entry in ("configs", "tests", "p2pnodes"):
            (directory / "clone" / entry).symlink_to(ROOT / entry)
        script = _PROLOGUE + "".join(_part(number, block) for number, block in enumerate(todo))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("P2PNODES_")} | {
            "HOME": name,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHON": sys.executable,
            "COLUMNS": "200",
        }
        with (directory / "output").open("w+b") as output:
            process = subprocess.Popen(
                [*namespace, "bash", "-c", _moved(script, directory)],
                cwd=directory / "clone",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                code = process.wait(PAGE_S_MAX)
            except subprocess.TimeoutExpired:
                os.killpg(
                    process.pid, signal.SIGTERM
                )  # what hangs, and the shell, whose trap stops the other terminals
                process.wait(STOP_S_MAX)
                code = -1
        parts = (directory / "output").read_text("utf-8", "replace").split(_MARK)[1:]
        assert code == 0, _told(todo, parts, f"ended with {code}" if code >= 0 else f"not done in {PAGE_S_MAX} s")
        assert len(parts) == len(todo)
        for block, part in zip(todo, parts, strict=True):
            _compare(block, blocks, _moved_back(part.partition("\n")[2], directory))


def _namespace() -> list[str]:
    """Words before a command that is to have a network of its own."""
    words = [program("unshare"), "--map-root-user", "--net"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        reason = "`unshare --map-root-user --net` makes no network namespace here"
        if "unshare" in os.environ.get("TESTS_NEED", "").split():
            pytest.fail(reason)
        pytest.skip(reason)
    return words


def _part(number: int, block: Block) -> str:
    """A block as a part of the script."""
    attributes = block.attributes
    lines = ["stop"] if "stopped" in attributes else []
    lines.append(f"printf '{_MARK}%s\\n' {block.where}")
    if "until" in attributes:
        log = f"../terminal-{number}"
        lines += [
            f": >{log}",
            f"setsid bash -euo pipefail -c {_quoted(block.code)} >{log} 2>&1 &",
            "terminals+=($!)",
            f"said {log} {_quoted(attributes['until'])} $!",
            f"cat {log}",
        ]
    elif "exit" in attributes:
        lines += ["set +e", block.code, "code=$?", "set -e", f"[ $code -eq {int(attributes['exit'])} ]"]
    else:
        lines.append(block.code)
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _moved(text: str, directory: Path) -> str:
    """Text whose paths in /tmp are in the test's own directory instead."""
    return re.sub(r"(?<![\w/])/tmp/", f"{directory}/", text)


def _moved_back(text: str, directory: Path) -> str:
    return text.replace(f"{directory}/", "/tmp/")


def _told(todo: Sequence[Block], parts: Sequence[str], how: str) -> str:
    """What a failure says: the block, how it ended, and all that was printed from there on."""
    at = len(parts) - 1
    block = todo[at].where if parts else "the prologue"
    return f"{block}: {how}:\n{parts[at] if parts else ''}"


def _compare(block: Block, page: Sequence[Block], printed: str) -> None:
    """Compare with the output that the page shows behind a block, if it shows any."""
    following = page[page.index(block) + 1 :]
    if not following or following[0].language != "text" or "output" not in following[0].attributes:
        return
    lines = printed.splitlines()
    for shown in following[0].code.splitlines():
        pattern = ".*".join(re.escape(part) for part in re.split("…", re.sub(r"\s+", " ", shown).strip()))
        while lines and not re.fullmatch(pattern, re.sub(r"\s+", " ", lines[0]).strip()):
            lines.pop(0)
        assert lines, f"{following[0].where}: not printed: {shown!r}; printed was:\n{printed}"
        lines.pop(0)
