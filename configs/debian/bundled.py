"""The packages beside p2pnodes in the Debian package, as paragraphs of its copyright file.

Run by the environment's own interpreter. Source: copyright-format 1.0, "Files paragraph".
"""

from importlib.metadata import Distribution, distributions
from pathlib import Path

CLASSIFIER = "License :: OSI Approved :: "
LINE_CHARS_MAX = 80
"""Longest field ``License`` that is taken for a licence's name: some packages put the licence itself there."""


def licence(found: Distribution) -> str:
    """Name of a package's licence, as its authors wrote it."""
    metadata = found.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    named = [each.removeprefix(CLASSIFIER) for each in metadata.get_all("Classifier", []) if CLASSIFIER in each]
    text = metadata.get("License", "").strip()
    return " and ".join(named) or (text if "\n" not in text and len(text) <= LINE_CHARS_MAX else "") or "see its files"


def author(found: Distribution) -> str:
    """Whom the package's metadata names."""
    for field in ("Author", "Author-email", "Maintainer", "Maintainer-email"):
        if name := found.metadata.get(field):
            return name.replace("\n", " ")
    return f"the authors of {found.name}"


if __name__ == "__main__":
    others = {found.name: found for found in distributions() if found.name != "p2pnodes"}
    for name in sorted(others, key=str.lower):
        place = Path(str(others[name].locate_file(""))).relative_to("/")
        top = sorted({path.parts[0] for path in others[name].files or () if path.parts[0] not in {"..", "__pycache__"}})
        print(f"Files: {' '.join(f'{place}/{part}' for part in top)}")
        print(f"Copyright: {author(others[name])}")
        print(f"License: {licence(others[name])}")
        print(f"Comment: {name} {others[name].version}\n")
