"""``python -m tests.fuzz.openapi``: schemathesis holds a daemon to its own document; exit 1 when it found something.

One run with the three headers of a signature generated like all else, one in which a registered miner signs what is
generated (``tests.fuzz.signing``), so that it reaches the handlers. All checks are on, and all phases: examples, the
edges of every schema, random data, sequences of requests that use each other's answers.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.e2e.single import Single, settings_of
from tests.tools import tools

MINER: Final = "//Alice"

EXAMPLES: Final = 100
"""Random requests for each route, in each run."""

RUN_S_MAX: Final = 900.0

REQUEST_S_MAX: Final = 10
"""A request that is not answered within this is a finding."""

CONFIG: Final = f"""\
hooks = "tests.fuzz.signing"
request-timeout = {REQUEST_S_MAX}
max-stream-events = 1

[checks]
# What schemathesis expects, and 413: a body that is too large is not looked into.
negative_data_rejection.expected-statuses = [
    "400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429",
]

# What no schema tells: whether a host is there, a GPU is what its model is, a body of good parts is too large.
[[operations]]
include-operation-id = "post_nodes"
checks.positive_data_acceptance.expected-statuses = ["202", "400", "401", "409", "413", "429"]
"""


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
        text: What schemathesis says.
        answers: ``METHOD STATUS`` -> how many.
        complaints: What must not be; empty when all is well.
    """

    text: str
    answers: Counter[str]
    complaints: list[str]


async def fuzz(
    program: Path,
    url: str,
    directory: Path,
    *,
    examples: int = EXAMPLES,
    seed: int = 1,
    miner: str | None = None,
    document: Path | None = None,
    options: Sequence[str] = (),
) -> Outcome:
    """Run schemathesis against a daemon.

    Args:
        program: It.
        url: Of the daemon.
        directory: An empty one, for its files.
        examples: How many random requests for each route.
        seed: What repeats them.
        miner: Development key of the miner who signs; None to generate signatures.
        document: The document, unless it is the daemon's own.
        options: Further ones of ``st run``.
    """
    config, report, said = directory / "schemathesis.toml", directory / "report.ndjson", directory / "said"
    config.write_text(CONFIG)
    location = [f"{url}/openapi.json"] if document is None else [str(document), "--url", url]
    command = [
        str(program), "--config-file", str(config), "run", *location, "--checks", "all",
        "--max-examples", str(examples), "--seed", str(seed),
        "--report", "ndjson", "--report-ndjson-path", str(report), *options,
    ]  # fmt: skip
    root = str(Path(__file__).parents[2])
    environment: Mapping[str, str] = os.environ | {"PYTHONPATH": root} | ({} if miner is None else {"FUZZ_URI": miner})
    with said.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=directory
        )
        try:
            code = await asyncio.wait_for(process.wait(), RUN_S_MAX)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    complaints = [] if code == 0 else [f"schemathesis ended with {code}"]
    return Outcome(said.read_text("utf-8", "replace"), _answers(report), complaints)


def _answers(report: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in report.read_text("utf-8").splitlines() if report.exists() else ():
        scenario = json.loads(line).get("ScenarioFinished")
        for each in scenario["recorder"].get("interactions", {}).values() if scenario else ():
            answer = each["response"]
            found[f"{each['request']['method']} {answer['status_code'] if answer else 'none'}"] += 1
    return found


async def fuzz_daemon(program: Path, directory: Path, *, examples: int, seed: int) -> dict[str, Outcome]:
    """Both runs against a daemon of their own; what must not be in its log is part of the last outcome's complaints."""
    settings = settings_of(directory)
    plenty = {"hotkey_rate": 1e6, "hotkey_burst": 10**7, "address_rate": 1e6, "address_burst": 10**7}
    settings["api"] = {"allow_private_hosts": True, **plenty}  # it is the handlers that are tested, not the limits
    daemon = Single(directory, settings)
    outcomes: dict[str, Outcome] = {}
    try:
        url = await daemon.listening()
        for name, miner in (("unsigned", None), ("signed", MINER)):
            place = directory / name
            place.mkdir()
            outcomes[name] = await fuzz(program, url, place, examples=examples, seed=seed, miner=miner)
    finally:
        await daemon.stop()
    signed = outcomes["signed"]
    if not signed.answers["POST 202"]:
        signed.complaints.append("no registration was accepted: what is generated does not reach the handlers")
    signed.complaints.extend(
        f"the daemon's log has {text!r}: {daemon.log[-2000:]}"
        for text in ("Traceback (most recent call last)", '"request_failed"')
        if text in daemon.log
    )
    return outcomes


def main() -> int:
    """Run what the command line says; 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.openapi", description=__doc__)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="random requests for each route, in each run")
    parser.add_argument("--seed", type=int, default=1, help="repeats a run")
    parser.add_argument("--tools", type=Path, help="environment made from configs/audit.lock; made anew unless given")
    arguments = parser.parse_args()
    with tools(arguments.tools) as environment, tempfile.TemporaryDirectory(prefix="p2pnodes-fuzz-") as temporary:
        program = environment / "bin/schemathesis"
        outcomes = asyncio.run(fuzz_daemon(program, Path(temporary), examples=arguments.examples, seed=arguments.seed))
    failed = False
    for name, outcome in outcomes.items():
        answers = ", ".join(f"{count} {what}" for what, count in outcome.answers.most_common())
        print(f"{name}: {outcome.answers.total()} requests ({answers})")
        if outcome.complaints:
            failed = True
            print(outcome.text, *outcome.complaints, sep="\n")
    print("found something" if failed else "nothing found")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
