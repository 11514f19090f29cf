"""``python -m tests.fuzz TARGET``: look for input that a decoder does not expect; exit 1 when some was found.

Needs atheris (the extra ``fuzz``). With ``--keep``, small input that reaches new code joins the corpus of the tests.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.fuzz.targets import INPUT_BYTES_MAX, TARGETS

CORPUS: Final = Path(__file__).with_name("corpus")
SECONDS: Final = 60
START_S_MAX: Final = 180
"""What a process gets beyond that to instrument the code and to end."""

MEMORY_MB_MAX: Final = 1024
KEPT_MAX: Final = 64
KEPT_BYTES_MAX: Final = 2048
"""Inputs of a target that ``--keep`` adds at most, and how long one is."""

INPUT_S_MAX: Final = 10
"""A single input that takes longer is a finding."""


def main() -> int:
    """Fuzz what the command line says."""
    listed = "\n".join(f"  {name:12}{target.what}" for name, target in TARGETS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Coverage-guided fuzzing of the decoders of foreign bytes.",
        epilog=f"targets:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=[*TARGETS, "all"], metavar="TARGET", help="one of those below, or all")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each target")
    parser.add_argument("--keep", action="store_true", help="add what reaches new code to the corpus of the tests")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        return _fuzz(arguments.target, arguments.worker, arguments.seconds)
    failed = [
        name
        for name in (TARGETS if arguments.target == "all" else [arguments.target])
        if not _run(name, arguments.seconds, keep=arguments.keep)
    ]
    print(f"found something in: {', '.join(failed)}" if failed else "nothing found")
    return int(bool(failed))


def _run(name: str, seconds: int, *, keep: bool) -> bool:
    """Fuzz a target in a process of its own, which a finding ends; whether nothing was found."""
    with tempfile.TemporaryDirectory(prefix="p2pnodes-fuzz-") as temporary:
        corpus = Path(temporary)
        for seed in (*TARGETS[name].seeds(), *kept(name)):
            _add(corpus, seed)
        command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(seconds), "--worker", str(corpus)]
        try:
            code = subprocess.run(command, check=False, timeout=seconds + START_S_MAX).returncode
        except subprocess.TimeoutExpired:
            print(f"{name}: not done {START_S_MAX} s behind its time", file=sys.stderr)
            code = 1
        if keep:
            _keep(name, corpus)
    return code == 0


def kept(name: str) -> list[bytes]:
    """The inputs of a target that are part of the tests."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def _add(directory: Path, data: bytes) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / hashlib.blake2b(data, digest_size=10).hexdigest()).write_bytes(data)


def _keep(name: str, corpus: Path) -> None:
    """Keep the small inputs: large ones reach the same code."""
    for path in sorted(corpus.iterdir(), key=lambda path: path.stat().st_size)[:KEPT_MAX]:
        if path.stat().st_size <= KEPT_BYTES_MAX:
            _add(CORPUS / name, path.read_bytes())


def _fuzz(name: str, corpus: Path, seconds: int) -> int:
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed; expected the extra `fuzz`: pip install -e '.[fuzz]'")
    atheris.instrument_all()
    options = [f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", f"-rss_limit_mb={MEMORY_MB_MAX}"]
    options += [f"-timeout={INPUT_S_MAX}", f"-artifact_prefix={corpus}/", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name].run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
