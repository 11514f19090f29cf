"""Keep this release's database for the tests of later ones: ``python -m tests.store.release``.

Writes tests/store/databases/<version>.db with events of every kind, and beside it what they must come to. A file of a
version that is released is never written again.
"""

import json
import sys
from pathlib import Path
from typing import Final

from p2pnodes import __version__
from p2pnodes.model.events import Carry, Close, Evidence, Place, Release
from p2pnodes.model.requests import request_id
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.schema import open_writer
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, delete, electorate

DATABASES: Final = Path(__file__).parent / "databases"


def write(path: Path) -> dict[str, object]:
    """Write a database with events of every kind; what it must show."""
    path.unlink(missing_ok=True)
    ledger = Ledger(open_writer(path), NETWORK)
    first, second, third = (Author(f"//validator{index}") for index in range(3))
    for author in (first, second, third):
        author.delegate()
    request = add("//Alice", ["gpu-1", "gpu-2", "gpu-3"])
    claim_id = request_id(NETWORK.id, request)
    carried = first.add(request)
    first.add(request._replace(body=request.body + b" "))  # void
    for author in (first, second):
        author.verdict(claim_id)
    third.verdict(claim_id, "failed")
    second.write(Place(claim_id, ("gpu-1", "gpu-2"), "chute", "instance", True, True, "llama", "alice"))
    second.write(Release(claim_id, ("gpu-2",)))
    deleted = Author("//validator3").delete(delete("//Bob", "nodes"), "gpu-1")
    third.write(Carry((deleted.wire, carried.wire)))
    first.delete(delete("//Alice", "nodes:gpu-3", NOW_S + 1), "gpu-3", (claim_id,))
    close = Close(first.log, first.head, first.hotkey.public_key, b"")
    first.write(close._replace(signature=first.hotkey.sign(close.message(NETWORK.id))))
    rival = Author("//validator1", seed=9)
    rival.delegate()
    branch, rival.head = rival.head, rival.head
    one = rival.verdict(claim_id)
    rival.head = branch
    other = rival.verdict(claim_id, "abstain")
    low, high = sorted((one, other), key=lambda event: event.id)
    third.write(Evidence(low.header, low.signature, high.header, high.signature))
    with ledger.transaction():
        ledger.set_electorate(electorate())
        for author in (first, second, third):
            ledger.receive(author.events, NOW_MS)
    state = ledger.state
    found = {
        "events": state.events,
        "rows": [[row.uuid, row.status, row.chute and row.chute.chute_id] for row in ledger.rows()],
        "state_root": state.state_root.hex(),
        "vector_digest": state.vector_digest.hex(),
    }
    ledger.facts.connection.execute("PRAGMA journal_mode = DELETE")  # one file, without -wal and -shm
    ledger.facts.close()
    return found


def main() -> int:
    """Write the database of this version, unless it is there."""
    path = DATABASES / f"{__version__}.db"
    if path.exists() and "--force" not in sys.argv:
        sys.exit(f"{path} exists: a released version's database stays as it is (before its release: --force)")
    path.with_suffix(".json").write_text(json.dumps(write(path), indent=2) + "\n")
    sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
