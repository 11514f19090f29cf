"""``python -m tests.audit``: known vulnerabilities in what is locked, as far as a source of advisories answers.

Without an answer pip-audit says "No known vulnerabilities found" and exits 0. Here that is NOT AUDITED, and exit 3: a
source counts when it knows of the vulnerabilities of a version that is known to have some, and when it knows every
locked version (``--strict``). Exit 0: nothing is known of any; exit 1: something is.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.tools import tools

LOCK: Final = Path(__file__).parents[1] / "configs/requirements.lock"

CANARY: Final = "jinja2==2.10"
"""A version with advisories, such as CVE-2019-10906: a source that has none for it has none for anything."""

SOURCES: Final[Mapping[str, Sequence[str]]] = {"PyPI": ("-s", "pypi"), "OSV": ("-s", "osv")}
"""Asked in this order; the first that knows the canary is taken."""

ANSWER_S_MAX: Final = 15
"""What one request may take."""

AUDIT_S_MAX: Final = 600.0
"""What all may take."""

AUDITED: Final = 0
FOUND: Final = 1
NOT_AUDITED: Final = 3


class NotAuditedError(Exception):
    """No source answered for all that was asked; the text says what there was instead."""


class Finding(NamedTuple):
    """A vulnerability: the package and version that has it, its name, and the versions that don't have it any more."""

    package: str
    name: str
    mended: tuple[str, ...]


class Outcome(NamedTuple):
    """What an audit came to: the source that answered, how many versions it was asked for, what it knows of them."""

    source: str
    versions: int
    findings: list[Finding]


def pins(lock: str) -> list[str]:
    """``name==version`` of all that a lock holds, for whatever system: an audit leaves none out."""
    return re.findall(r"^[\w.-]+==[^\s;\\]+", lock, re.MULTILINE)


def read(answer: Any, asked: Sequence[str]) -> list[Finding]:
    """The findings of pip-audit's JSON.

    Raises:
        NotAuditedError: It does not tell of everything that was asked.
    """
    told: list[str] = []
    findings: list[Finding] = []
    for each in answer["dependencies"]:
        if "skip_reason" in each:
            raise NotAuditedError(each["skip_reason"])
        told.append(package := f"{each['name']}=={each['version']}")
        findings += [Finding(package, known["id"], tuple(known["fix_versions"])) for known in each["vulns"]]
    if lacking := {_named(pin) for pin in asked} - {_named(pin) for pin in told}:
        raise NotAuditedError(f"nothing was said of {', '.join(sorted(lacking))}")
    return findings


def _named(pin: str) -> str:
    """A pin in one spelling of those that mean the same package."""
    name, _, version = pin.partition("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


def ask(program: Path, source: Sequence[str], asked: Sequence[str]) -> list[Finding]:
    """Let pip-audit ask a source.

    Args:
        program: pip-audit.
        source: Its options for the source.
        asked: ``name==version`` of each package.

    Raises:
        NotAuditedError: The source did not answer for each.
    """
    with tempfile.TemporaryDirectory(prefix="p2pnodes-audit-") as temporary:
        requirements, answer = Path(temporary, "requirements.txt"), Path(temporary, "answer.json")
        requirements.write_text("\n".join(asked) + "\n")
        command = [
            str(program), "--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", *source,
            "--timeout", str(ANSWER_S_MAX), "--cache-dir", temporary,  # what a source said yesterday is no answer
            "--format", "json", "--output", str(answer), "--requirement", str(requirements),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=AUDIT_S_MAX)
        except subprocess.TimeoutExpired as error:
            raise NotAuditedError(f"no answer within {AUDIT_S_MAX:g} s") from error
        # It exits 1 for what it found and for what went wrong, but writes an answer only when nothing went wrong.
        if done.returncode not in {0, 1} or not answer.exists():
            raise NotAuditedError((done.stderr.strip().splitlines() or [f"it exited {done.returncode}"])[-1])
        return read(json.loads(answer.read_text("utf-8")), asked)


def audit(program: Path, lock: str, sources: Mapping[str, Sequence[str]]) -> Outcome:
    """Look for known vulnerabilities of what a lock holds.

    Args:
        program: pip-audit.
        lock: Text of the lock.
        sources: Options of pip-audit by the source's name, the preferred one first.

    Raises:
        NotAuditedError: No source answers; the text says of each why it does not count.
    """
    asked = pins(lock)
    if not asked:
        raise NotAuditedError("the lock holds no version")
    reasons: list[str] = []
    for name, source in sources.items():
        try:
            if not ask(program, source, [CANARY]):
                raise NotAuditedError(f"it knows of no vulnerability of {CANARY}, so it is no source of advisories")
            return Outcome(name, len(asked), ask(program, source, asked))
        except NotAuditedError as error:
            reasons.append(f"{name}: {error}")
    raise NotAuditedError("; ".join(reasons))


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lock", type=Path, default=LOCK, help="what is audited; configs/requirements.lock unless given"
    )
    parser.add_argument("--osv-url", help="ask this source, which answers as api.osv.dev/v1/query does, and no other")
    parser.add_argument("--tools", type=Path, help="environment made from configs/audit.lock; made anew unless given")
    given = parser.parse_args(arguments)
    sources = SOURCES if given.osv_url is None else {given.osv_url: ("-s", "osv", "--osv-url", given.osv_url)}
    with tools(given.tools) as environment:
        try:
            outcome = audit(environment / "bin/pip-audit", given.lock.read_text("utf-8"), sources)
        except NotAuditedError as error:
            print(f"NOT AUDITED: {error}")
            return NOT_AUDITED
    for package, name, mended in outcome.findings:
        print(f"{package}: {name}, mended in {', '.join(mended) or 'no version'}")
    known = f"{len(outcome.findings)} known vulnerabilities" if outcome.findings else "no known vulnerability"
    print(f"audited: {outcome.versions} versions by {outcome.source}, {known}")
    return FOUND if outcome.findings else AUDITED


if __name__ == "__main__":
    sys.exit(main())
