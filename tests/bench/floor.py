"""What no daemon can save: writing a registration durably, into tables as the daemon has them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from p2pnodes.model import codec
from p2pnodes.model.requests import Add, request_id
from p2pnodes.model.stateroot import bucket_of
from p2pnodes.store.schema import open_writer
from tests.bench.world import uuids
from tests.support import NETWORK

GPUS_PER_POST: Final = 8


class Floor:
    """A database of which only what a registration leaves behind is written."""

    def __init__(self, path: Path) -> None:
        """Open or create it."""
        self.connection: Final = open_writer(path)

    def bytes(self, number: int, request: Add) -> None:
        """Commit the request as one row."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        execute("INSERT INTO meta VALUES (?, ?)", (str(number), request.body))
        execute("COMMIT")

    def rows(self, number: int, request: Add) -> None:
        """Commit what ``insert`` inserts for the ``number``-th server of the benchmarks."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.insert(number, request, uuids(number, GPUS_PER_POST))
        self.connection.execute("COMMIT")

    def insert(self, number: int, request: Add, names: Sequence[str]) -> None:
        """Its event, its claim, and for each GPU its row of the inventory; in a transaction."""
        claim_id = request_id(NETWORK.id, request)
        execute = self.connection.execute
        execute(
            "INSERT INTO events (log, seq, id, hlc, hlc_max, kind, judged, wire)"
            " VALUES (1, ?1, ?2, ?3, ?3, 'add', 1, ?4)",
            (number, claim_id, number, request.body + request.signature + request.hotkey),
        )
        execute(
            "INSERT INTO claim (claim, claim_id, miner, nonce, position, uuids, status, detail)"
            " VALUES (?, ?, ?, ?, ?, ?, 'pending', '')",
            (number, claim_id, request.hotkey, int(request.nonce), number, codec.pack(list(names))),
        )
        execute("INSERT INTO carriage VALUES (?, 1, ?, 0, 100, ?)", (number, number, number))
        self.connection.executemany(
            "INSERT INTO node (bucket, uuid, claim, miner, status, created_hlc, detail, gpu_identifier, name,"
            " server_id, digest) VALUES (?, ?, ?, ?, 'pending', ?, '', 'h100_sxm', 'NVIDIA H100 80GB HBM3', 's-1', ?)",
            [(bucket_of(name), name, number, request.hotkey, number, claim_id) for name in names],
        )
