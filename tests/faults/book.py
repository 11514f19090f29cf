"""What daemons acknowledged, kept outside of them."""

from enum import Enum
from pathlib import Path
from typing import IO, Final, NamedTuple

import orjson

LISTED_MAX: Final = 10
"""GPUs that a complaint names."""


class Fate(Enum):
    """What is known of a GPU from the answers alone."""

    LISTED = "listed"
    GONE = "gone"
    OPEN = "open"
    """A request was sent, and whether it was taken is not known: both are right."""


class Book:
    """The last known fate of every GPU, and each answer on disk as it comes: a killed supervisor loses nothing."""

    def __init__(self, path: Path) -> None:
        """Begin a book in a file."""
        self._file: IO[bytes] = path.open("ab")
        self._fates: dict[str, Fate] = {}
        self.acknowledged = 0
        """Writes that were answered with a 2xx."""

    def note(self, uuids: list[str], fate: Fate, peer: str) -> None:
        """Write down what an answer of ``peer``, or its absence, says about GPUs."""
        if fate is not Fate.OPEN:
            self.acknowledged += 1
        self._fates.update(dict.fromkeys(uuids, fate))
        self._file.write(orjson.dumps({"uuids": uuids, "fate": fate.value, "peer": peer}) + b"\n")
        self._file.flush()

    def complaints(self, listed: set[str], peer: str) -> list[str]:
        """What the inventory of ``peer`` has wrong: one line for each kind of loss."""
        missing = [uuid for uuid, fate in self._fates.items() if fate is Fate.LISTED and uuid not in listed]
        undead = [uuid for uuid, fate in self._fates.items() if fate is Fate.GONE and uuid in listed]
        foreign = listed - self._fates.keys()
        found = {
            "acknowledged registrations are missing": missing,
            "acknowledged deletions are undone": undead,
            "GPUs are listed that nobody registered": sorted(foreign),
        }
        return [f"{peer}: {len(uuids)} {what}: {uuids[:LISTED_MAX]}" for what, uuids in found.items() if uuids]

    @property
    def totals(self) -> "Totals":
        """How many GPUs have which fate."""
        fates = list(self._fates.values())
        return Totals(fates.count(Fate.LISTED), fates.count(Fate.GONE), fates.count(Fate.OPEN))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Totals(NamedTuple):
    """GPUs by fate."""

    listed: int
    gone: int
    open: int
