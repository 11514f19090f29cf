"""The audit of what is locked: without a source that knows its business it is NOT AUDITED, never "nothing found"."""

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.audit import AUDITED, CANARY, FOUND, LOCK, NOT_AUDITED, Finding, NotAuditedError, main, pins, read
from tests.tools import made_tools

ADVISORY = {
    "id": "PYSEC-2026-1",
    "summary": "made up",
    "affected": [
        {
            "package": {"name": "other", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}],
        }
    ],
}


class TestPins:
    """Every version of a lock is asked for."""

    def test_it_takes_each_whatever_system_it_is_for(self) -> None:
        lock = "# one==1\na-b.c==1.0 \\\n    --hash=sha256:00\nd==2.0rc1 ; sys_platform == 'win32' \\\n    # via e==3\n"
        assert pins(lock) == ["a-b.c==1.0", "d==2.0rc1"]

    def test_it_takes_all_of_ours(self) -> None:
        lock = LOCK.read_text()
        assert len(pins(lock)) == sum("==" in line and line[0].isalnum() for line in lock.splitlines()) > 60


class TestReading:
    """An answer counts when it tells of everything."""

    def test_what_is_known_is_told(self) -> None:
        known = {"id": "PYSEC-2026-1", "fix_versions": ["9.9"], "aliases": [], "description": ""}
        answer = {"dependencies": [{"name": "a-b", "version": "1.0", "vulns": [known]}]}
        assert read(answer, ["A_b==1.0"]) == [Finding("a-b==1.0", "PYSEC-2026-1", ("9.9",))]

    def test_a_package_that_was_skipped_is_no_audit(self) -> None:
        """The answer that pip-audit 2.10.1 gives without ``--strict``, at exit 0, where PyPI's JSON is not served."""
        reason = "Dependency not found on PyPI and could not be audited: jinja2 (2.4.1)"
        answer = {"dependencies": [{"name": "jinja2", "skip_reason": reason}], "fixes": []}
        with pytest.raises(NotAuditedError, match="could not be audited"):
            read(answer, ["jinja2==2.4.1"])

    @pytest.mark.parametrize("version", [None, "2.0"])
    def test_a_package_of_which_nothing_is_said_is_no_audit(self, version: str | None) -> None:
        told = [] if version is None else [{"name": "a", "version": version, "vulns": []}]
        with pytest.raises(NotAuditedError, match="nothing was said of a==1"):
            read({"dependencies": told}, ["a==1.0"])


class Source:
    """A source of advisories on loopback: package -> its answer, a status to fail with, or nothing known."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {"jinja2": {"vulns": [{**ADVISORY, "id": "CVE-2019-10906"}]}}
        self.asked: list[str] = []
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = query["package"]["name"]
                source.asked.append(f"{name}=={query['version']}")
                answer = source.known.get(name, {})
                self.send_response(answer if isinstance(answer, int) else 200)
                self.end_headers()
                self.wfile.write(json.dumps(answer if isinstance(answer, Mapping) else {}).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1/query"


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    path.write_text("other==1.0 \\\n    --hash=sha256:00\nthird==2.0 ; sys_platform == 'win32'\n")
    return path


def run(source: str, lock: Path) -> int:
    return main(["--osv-url", source, "--lock", str(lock), "--tools", str(made_tools())])


class TestSource:
    """pip-audit itself, and a source of ours."""

    def test_one_that_answers_and_knows_nothing_of_what_is_locked_is_good(
        self, source: Source, lock: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(source.url, lock) == AUDITED
        assert capsys.readouterr().out == f"audited: 2 versions by {source.url}, no known vulnerability\n"
        assert source.asked[0] == CANARY
        assert sorted(source.asked[1:]) == ["other==1.0", "third==2.0"]

    def test_what_it_knows_is_told(self, source: Source, lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source.known["other"] = {"vulns": [ADVISORY]}
        assert run(source.url, lock) == FOUND
        assert "other==1.0: PYSEC-2026-1, mended in 9.9\n" in capsys.readouterr().out

    def test_one_that_knows_nothing_at_all_is_none(
        self, source: Source, lock: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source.known.clear()
        assert run(source.url, lock) == NOT_AUDITED
        assert capsys.readouterr().out.startswith(
            f"NOT AUDITED: {source.url}: it knows of no vulnerability of {CANARY}"
        )

    @pytest.mark.parametrize("package", ["jinja2", "other"])
    def test_one_that_fails_is_none(
        self, source: Source, lock: Path, capsys: pytest.CaptureFixture[str], package: str
    ) -> None:
        source.known[package] = 500
        assert run(source.url, lock) == NOT_AUDITED
        assert capsys.readouterr().out.startswith("NOT AUDITED: ")

    def test_one_that_is_not_there_is_none(self, lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
        gone = Source()
        gone.server.server_close()
        assert run(gone.url, lock) == NOT_AUDITED
        assert capsys.readouterr().out.startswith("NOT AUDITED: ")

    def test_a_lock_without_versions_is_no_audit(
        self, source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        empty = tmp_path / "empty"
        empty.write_text("# nothing\n")
        assert run(source.url, empty) == NOT_AUDITED
        assert capsys.readouterr().out == "NOT AUDITED: the lock holds no version\n"
