"""What the public interface needs of the inventory; ``p2pnodes.store.database.Database`` is the implementation."""

from collections.abc import Collection
from typing import Protocol

from p2pnodes.model.claims import Body
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.inventory import TaskStatus
from p2pnodes.model.requests import Add, Delete
from p2pnodes.store.database import Detail
from p2pnodes.store.facts import StoredClaim, Task
from p2pnodes.store.snapshots import NodeRow, Part
from p2pnodes.store.state import State


class Inventory(Protocol):
    """The local inventory."""

    @property
    def state(self) -> State:
        """What the last commit left: a new object after each commit."""

    @property
    def settled_state(self) -> State | None:
        """``state``, or None while a commit is under way, when what is read may be ahead of it."""

    @property
    def electorate(self) -> Electorate:
        """Who is registered."""

    async def submit_add(
        self, request: Add, body: Body, refusal: Exception | None, *, denial: Exception | None = None
    ) -> StoredClaim:
        """Record a registration durably, or find the claim that it repeats.

        Args:
            request: Signed by a registered miner.
            body: Its body, 1 to 10 GPUs.
            refusal: What is wrong with it beyond that; raised where no claim and no conflict answers first.
            denial: Why its miner may register nothing new; raised where no claim answers first.

        Raises:
            P2PNodesError: Those of ``store.admission``, and WritesRefusedError.
        """

    async def submit_delete(self, request: Delete, uuid: str) -> None:
        """Record a deletion durably; raises as ``submit_add``."""

    async def task_status(self, miner: bytes, task: bytes) -> TaskStatus | None:
        """Status of a miner's task, by the first 16 bytes of its claim id; None when unknown."""

    async def totals(self, miner: bytes | None, model: str | None) -> list[tuple[str, int, int]]:
        """GPUs by model: identifier, provisioned, idle."""

    async def details(self, miner: bytes | None, model: str | None) -> list[Detail]:
        """GPUs by miner, model and chute."""

    async def owned(self, miner: bytes) -> list[tuple[int, list[str]]]:
        """The GPUs of a miner at one moment: row key of each claim that owns some, and these in request order."""

    async def stored_claims(self, keys: Collection[int]) -> dict[int, StoredClaim]:
        """Some claims with all that their miners are told of them, by row key."""

    async def snapshot_part(self, after: int, miner: bytes | None) -> Part:
        """The next rows and tasks of the inventory, of one miner or of all; ``after`` 0 begins."""

    async def changed(
        self, uuids: Collection[str], keys: Collection[int]
    ) -> tuple[dict[str, NodeRow], dict[int, Task]]:
        """The rows of some GPUs, of those that have one, and the tasks of some claims by row key."""
