"""The cache of rendered reads: bytes belong to the root that they were read at, or to none."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from p2pnodes.api import cache
from p2pnodes.api.cache import RootedCache
from p2pnodes.api.inventory import Inventory
from p2pnodes.model.stateroot import StateRoot
from p2pnodes.store.state import State
from tests.support import memory_ledger


class Store:
    """States by the byte that fills the digest of their only row."""

    def __init__(self) -> None:
        self._base = memory_ledger().state
        self.state = self.at(1)
        self.settled = True
        self.renders = 0

    def at(self, root: int) -> State:
        """A state as another commit leaves it: a new object, be its root the same."""
        rows = StateRoot()
        rows.set_bucket(0, [bytes([root]) * 32])
        return self._base._replace(root=rows.now())

    @property
    def settled_state(self) -> State | None:
        return self.state if self.settled else None

    def cache(self) -> RootedCache:
        return RootedCache(cast("Inventory", self))

    def read(self, body: bytes, during: Callable[[], None] = lambda: None) -> Callable[[], Awaitable[bytes]]:
        async def render() -> bytes:
            self.renders += 1
            await asyncio.sleep(0)
            during()
            return body

        return render


async def test_an_answer_is_held_for_its_root_and_comes_back_with_it() -> None:
    store = Store()
    held = store.cache()
    first = await held.compute("q", store.read(b"one"))
    assert held.held("q") == first
    store.state = store.at(2)
    assert held.held("q") is None
    store.state = store.at(1)
    assert held.held("q") == first
    assert held.held("another view") is None


async def test_what_is_read_while_a_commit_comes_in_has_no_etag_and_is_not_held() -> None:
    store = Store()
    held = store.cache()

    def commit() -> None:
        store.state = store.at(2)

    answer = await held.compute("q", store.read(b"new", commit))
    assert (answer.body, answer.etag) == (b"new", None)
    assert held.held("q") is None
    store.state = store.at(1)
    assert held.held("q") is None


async def test_rows_that_are_ahead_of_the_state_are_not_held_under_the_old_root() -> None:
    """A commit is seen by readers a moment before ``state`` tells of it."""
    store = Store()
    held = store.cache()

    def under_way() -> None:
        store.settled = False

    assert (await held.compute("q", store.read(b"new", under_way))).etag is None
    assert (await held.compute("q", store.read(b"new"))).etag is None  # still under way when the read begins
    store.settled = True
    assert held.held("q") is None


async def test_many_who_ask_at_once_share_one_read() -> None:
    store = Store()
    held = store.cache()
    answers = await asyncio.gather(*(held.compute("q", store.read(b"one")) for _ in range(50)))
    assert store.renders == 1
    assert {answer.body for answer in answers} == {b"one"}


async def test_who_asks_after_a_commit_does_not_share_a_read_from_before() -> None:
    store = Store()
    held = store.cache()
    before = asyncio.create_task(held.compute("q", store.read(b"old")))
    await asyncio.sleep(0)
    store.state = store.at(2)
    after = await held.compute("q", store.read(b"new"))
    assert after.body == b"new"
    assert (await before).body == b"old"


async def test_one_caller_that_goes_away_leaves_the_read_to_the_others() -> None:
    store = Store()
    held = store.cache()
    leaving = asyncio.create_task(held.compute("q", store.read(b"one")))
    staying = asyncio.create_task(held.compute("q", store.read(b"one")))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).body == b"one"
    assert store.renders == 1


def keep_busy(held: cache.RootedCache, go_on: asyncio.Event) -> list[asyncio.Task[cache.Rendered]]:
    """Render as many answers as may be at once, until told to go on."""

    async def slow() -> bytes:
        await go_on.wait()
        return b"slow"

    return [asyncio.create_task(held.compute(f"slow {n}", slow)) for n in range(cache.COMPUTED_AT_ONCE_MAX)]


async def test_who_asks_and_leaves_has_nothing_wait_for_its_turn() -> None:
    """A stranger with an address for each request would have any number of them wait, each for another miner."""
    store, go_on = Store(), asyncio.Event()
    held = store.cache()
    running = keep_busy(held, go_on)
    await asyncio.sleep(0)
    leaving = [asyncio.create_task(held.compute(f"left {n % 50}", store.read(b"one"))) for n in range(100)]
    staying = asyncio.create_task(held.compute("left 7", store.read(b"one")))
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    await asyncio.wait(leaving)
    assert held.waiting == len(running) + 1
    again = asyncio.create_task(held.compute("left 8", store.read(b"two")))
    await asyncio.sleep(0)
    go_on.set()
    assert (await staying).body == b"one"
    assert (await again).body == b"two"
    assert {(await task).body for task in running} == {b"slow"}
    assert store.renders == 2
    assert held.waiting == 0


async def test_who_asks_in_the_moment_in_which_another_one_leaves_is_answered() -> None:
    """What nobody waited for is being cancelled then."""
    store, go_on = Store(), asyncio.Event()
    held = store.cache()
    running = keep_busy(held, go_on)
    leaving = asyncio.create_task(held.compute("one", store.read(b"one")))
    await asyncio.sleep(0)
    leaving.cancel()
    coming = asyncio.create_task(held.compute("one", store.read(b"one")))
    await asyncio.wait([leaving])
    go_on.set()
    assert (await coming).body == b"one"
    await asyncio.wait(running)


async def test_who_leaves_while_it_is_read_does_not_let_the_next_one_begin() -> None:
    """The database reads to the end what it has begun: it would have any number of reads to do at once."""
    store, go_on, begun = Store(), asyncio.Event(), 0
    held = store.cache()

    async def slow() -> bytes:
        nonlocal begun
        begun += 1
        await go_on.wait()
        return b"slow"

    for number in range(5 * cache.COMPUTED_AT_ONCE_MAX):
        task = asyncio.create_task(held.compute(str(number), slow))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert begun == cache.COMPUTED_AT_ONCE_MAX
    go_on.set()


async def test_entries_and_bytes_are_bounded() -> None:
    store = Store()
    held = store.cache()
    for number in range(cache.ENTRIES_MAX + 10):
        await held.compute(str(number), store.read(b"x"))
    assert held.held("0") is None
    assert held.held(str(cache.ENTRIES_MAX + 9)) is not None
    big = bytes(cache.BYTES_MAX // 4)
    for number in range(5):
        await held.compute(f"big {number}", store.read(big))
    assert [held.held(f"big {number}") is not None for number in range(5)] == [False, True, True, True, True]
    await held.compute("too big", store.read(bytes(cache.BYTES_MAX + 1)))
    assert held.held("too big") is None
    assert held.held("big 4") is not None


async def test_a_failed_read_is_told_to_all_and_tried_again() -> None:
    store = Store()
    held = store.cache()

    async def fail() -> bytes:
        raise OSError("disk")

    failed = await asyncio.gather(*(held.compute("q", fail) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in failed] == [OSError] * 3
    assert (await held.compute("q", store.read(b"one"))).body == b"one"
