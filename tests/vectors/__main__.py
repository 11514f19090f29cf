"""Writes the golden vectors anew: ``python -m tests.vectors``."""

import sys

from tests.vectors.build import FOLDER, build, text_of


def main() -> int:
    """Write every file; say which have changed."""
    for name, cases in build(may_sign=True).items():
        path = FOLDER / f"{name}.json"
        text = text_of(cases)
        changed = not path.exists() or path.read_text() != text
        path.write_text(text)
        sys.stdout.write(f"{'changed' if changed else 'as before'}: {path.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
