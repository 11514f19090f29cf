"""What the public interface needs of the inventory; ``p2pnodes.store.database.Database`` is the implementation."""

from typing import Protocol

from p2pnodes.model.claims import Body
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.inventory import TaskStatus
from p2pnodes.model.requests import Add, Delete
from p2pnodes.store.database import Detail
from p2pnodes.store.facts import StoredClaim
from p2pnodes.store.ledger import State


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

    async def submit_add(self, request: Add, body: Body, refusal: Exception | None) -> StoredClaim:
        """Record a registration durably, or find the claim that it repeats.

        Args:
            request: Signed by a registered miner.
            body: Its body, 1 to 10 GPUs.
            refusal: What is wrong with it beyond that; raised where no claim and no conflict answers first.

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
