"""Blocks over a clock: what a node knows about each of them."""

import bisect
import time
from collections.abc import Callable
from typing import Final, TypeVar

from p2pnodes.model.codec import digest
from tests.replay.recorded import RUNTIMES, Runtime
from tests.replay.subnets import Change, State, Subnet

GENESIS_HASH: Final = "0" * 64
"""No real chain has this one; devnets use it."""

BLOCK_MS: Final = 12_000
BLOCK_HASH_NUMBER_BYTES: Final = 4
"""The last bytes of a made-up block hash are the block's number, so that nothing need be kept to find it."""

T = TypeVar("T")


def wall_clock() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now_ms: int | None = None) -> None:
        """Show ``now_ms`` (Unix milliseconds), or the wall clock's time of this moment."""
        self.now_ms = wall_clock() if now_ms is None else now_ms

    def __call__(self) -> int:
        """Unix milliseconds."""
        return self.now_ms

    def blocks(self, count: int, block_ms: int = BLOCK_MS) -> None:
        """Let so many blocks pass."""
        self.now_ms += count * block_ms


class Chain:
    """A chain that replays one subnet.

    Args:
        subnet: What it begins with; blocks before the start show the same.
        spec: Version of its runtime, one of RUNTIMES.
        genesis_hash: Hex of block 0's hash; may be changed at any time, which makes it another chain.
        block_ms: Between two blocks.
        start_ms: Time of the subnet's ``start_block``, Unix milliseconds; now unless given.
        keep_blocks: State of blocks that lie further behind the head is pruned; None keeps all.
        clock: Unix milliseconds.
    """

    def __init__(
        self,
        subnet: Subnet,
        *,
        spec: int = 461,
        genesis_hash: str = GENESIS_HASH,
        block_ms: int = BLOCK_MS,
        start_ms: int | None = None,
        keep_blocks: int | None = None,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self.subnet = subnet
        self.genesis_hash = genesis_hash
        self.block_ms = block_ms
        self.start_ms = clock() if start_ms is None else start_ms
        self.keep_blocks = keep_blocks
        self._clock = clock
        self._runtimes = [(0, RUNTIMES[spec])]
        self._states: list[tuple[int, State]] = [(0, subnet.state)]
        self._stands_at: int | None = None
        self._behind = 0

    @property
    def head(self) -> int:
        """Number of the best block."""
        if self._stands_at is not None:
            return self._stands_at
        return self.subnet.start_block + (self._clock() - self.start_ms) // self.block_ms - self._behind

    @property
    def finalized(self) -> int:
        """Number of the finalized block."""
        return self.head - self.subnet.finality

    def stand(self) -> None:
        """Stop at the head of this moment, as a node does that lost its peers."""
        self._stands_at = self.head

    def go_on(self) -> None:
        """Follow the clock again."""
        self._stands_at = None

    def go_back(self, blocks: int) -> None:
        """Lie so many blocks further behind the clock: to whoever asks, the head goes back."""
        if self._stands_at is not None:
            self._stands_at -= blocks
        self._behind += blocks

    def time_ms(self, block: int) -> int:
        """``Timestamp.Now`` as of a block."""
        return self.start_ms + (block - self.subnet.start_block) * self.block_ms

    def hash_of(self, block: int) -> str:
        """Hash of a block in hex with ``0x``: recorded, the genesis hash, or made up from that and the number."""
        if block == 0:
            return f"0x{self.genesis_hash}"
        if block in self.subnet.hashes:
            return self.subnet.hashes[block]
        number = block.to_bytes(BLOCK_HASH_NUMBER_BYTES, "big")
        return f"0x{digest(bytes.fromhex(self.genesis_hash) + number, 32 - len(number)).hex()}{number.hex()}"

    def number_of(self, block_hash: str) -> int | None:
        """Number of a block by its hash; None when there is no such block, or not yet."""
        recorded = next((number for number, known in self.subnet.hashes.items() if known == block_hash), None)
        try:
            number = int(block_hash[-2 * BLOCK_HASH_NUMBER_BYTES :], 16) if recorded is None else recorded
        except ValueError:
            return None
        if block_hash == self.hash_of(0):
            number = 0
        return number if number <= self.head and self.hash_of(number) == block_hash else None

    def pruned(self, block: int) -> bool:
        """Whether the state as of a block is gone."""
        return self.keep_blocks is not None and block < self.head - self.keep_blocks

    def state_at(self, block: int) -> State:
        """The subnet as of a block."""
        return _latest(self._states, block)

    def runtime_at(self, block: int) -> Runtime:
        """The runtime in the state as of a block: it runs calls there, and the blocks that follow."""
        return _latest(self._runtimes, block)

    def change(self, change: Change, block: int | None = None) -> int:
        """Let something happen, in the next block unless told otherwise; returns the block's number.

        Raises:
            ValueError: The chain would refuse it, or something happened in a later block already.
        """
        at = self.head + 1 if block is None else block
        last, state = self._states[-1]
        if at < last:
            raise ValueError(f"block {at} lies before the last change, in block {last}")
        if at == last:
            self._states.pop()
        self._states.append((at, change.apply(state, at)))
        return at

    def upgrade(self, spec: int, block: int | None = None) -> int:
        """Change the runtime in a block, the next one unless told otherwise; returns the block's number.

        Raises:
            ValueError: No such runtime, or a later upgrade is there already.
        """
        at = self.head + 1 if block is None else block
        if spec not in RUNTIMES:
            raise ValueError(f"runtime {spec}: there are {', '.join(map(str, RUNTIMES))}")
        if at <= self._runtimes[-1][0]:
            raise ValueError(f"block {at} does not lie above the last upgrade, in block {self._runtimes[-1][0]}")
        self._runtimes.append((at, RUNTIMES[spec]))
        return at


def _latest(history: list[tuple[int, T]], block: int) -> T:
    return history[max(0, bisect.bisect_right(history, block, key=lambda entry: entry[0]) - 1)][1]
