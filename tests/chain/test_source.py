"""The chain is asked in time, more than one endpoint must agree, and whatever they do costs nothing but a warning."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from p2pnodes.chain import source
from p2pnodes.chain.file import ElectorateFile
from p2pnodes.chain.process import ReaderProcess
from p2pnodes.chain.reading import Heads, HeadsRequest, Method, Pins, PinsRequest, ReadError
from p2pnodes.chain.source import (
    AHEAD_MS_MAX,
    BACKOFF_MS,
    BACKOFF_MS_MAX,
    BLOCK_MS,
    CLOCK_AHEAD_MS_MAX,
    CLOCK_BEHIND_MS_MAX,
    OFFSETS_APART_MS_MAX,
    ChainSource,
    ElectorateSource,
    make_source,
)
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.errors import ChainError, ConfigError
from p2pnodes.store.pins import EMPTY
from tests.replay.chain import Chain, Clock
from tests.replay.server import ReplayServer
from tests.replay.subnets import Change, made_up, made_up_hotkey
from tests.support import NETWORK

A: Final = "wss://user:word@a.example:443/token"
B: Final = "ws://b.example"
C: Final = "ws://c.example:9944"
SHOWN_A: Final = "wss://***@a.example:443/***"
START_MS: Final = 1_764_000_000_000
FINALITY: Final = 3
VOTER: Final = b"\x01" * 32
MINER: Final = b"\x02" * 32
LIAR: Final = b"\x66" * 32


def time_ms(block: int) -> int:
    """Own time of a block."""
    return START_MS + block * BLOCK_MS


def pin(block: int, method: Method = Method.METAGRAPH, *, stake: int = 10**12) -> Pin:
    """What an honest endpoint says of a block."""
    stakes = {VOTER: stake if method is Method.METAGRAPH else 65_535}
    return Pin(block, time_ms(block), stakes, {VOTER: 0, MINER: block // 1000}, {VOTER: "http://192.0.2.1:8000"})


@dataclass
class Node:
    """One endpoint.

    Attributes:
        lag: Blocks by which it is behind the chain.
        late: Whether it owns up to that by its block's time.
        ahead_ms: How much it adds to the times of its heads.
        error: Why it cannot be read, if so.
        hangs: Whether it never answers.
        method: How it can be read at best.
        refuses: How it cannot be read, though others can.
        pin: What it says of a block.
    """

    lag: int = 0
    late: bool = True
    ahead_ms: int = 0
    error: str | None = None
    hangs: bool = False
    pins_error: str | None = None
    method: Method = Method.METAGRAPH
    refuses: Method | None = None
    pin: Callable[[int, Method], Pin] = pin
    pruned: int = 0


@dataclass
class World:
    """A chain, its endpoints, a clock, and the daemon that holds an electorate; also the reader of all of them."""

    nodes: dict[str, Node]
    head: int = 1_050
    clock_off_ms: int = 0
    held: Electorate = EMPTY
    asked: list[tuple[str, Any]] = field(default_factory=list)
    closed: bool = False

    def now_ms(self) -> int:
        """This daemon's clock."""
        return time_ms(self.head) + self.clock_off_ms

    async def heads(self, request: HeadsRequest) -> Heads:
        assert request.genesis == bytes.fromhex(NETWORK.genesis_hash)
        node = self.nodes[request.url]
        self.asked.append((request.url, "heads"))
        if node.error is not None:
            raise ReadError(node.error)
        finalized = self.head - FINALITY - node.lag
        head = self.head - node.lag * node.late
        if node.hangs:
            await asyncio.Event().wait()
        return Heads(finalized, time_ms(head - FINALITY) + node.ahead_ms, time_ms(head) + node.ahead_ms, 7)

    async def pins(self, request: PinsRequest) -> Pins:
        assert request.netuid == NETWORK.netuid
        node = self.nodes[request.url]
        self.asked.append((request.url, request.blocks))
        if error := node.error or node.pins_error:
            raise ReadError(error)
        if min(request.blocks) < node.pruned:
            raise ReadError("pruned")
        method = request.method or node.method
        if method is Method.METAGRAPH and node.method is Method.MAPS:
            raise ReadError("does not decode")
        if method is node.refuses:
            raise ReadError("refused a call")
        return Pins(461, method, tuple(node.pin(block, method) for block in request.blocks))

    async def close(self) -> None:
        self.closed = True

    def source(self) -> ChainSource:
        return ChainSource(
            list(self.nodes), NETWORK, held=lambda: self.held, now_ms=self.now_ms, rng=random.Random(1), reader=self
        )

    def reads(self) -> list[tuple[str, Any]]:
        """Which blocks were read where since the last look."""
        found = [(url, blocks) for url, blocks in self.asked if blocks != "heads"]
        self.asked.clear()
        return found


def world(*urls: str, **options: Any) -> World:
    return World({url: Node() for url in urls or (A,)}, **options)


def pins_of(electorate: Electorate | None) -> tuple[Pin, Pin | None] | None:
    """What an electorate consists of; None of none."""
    return None if electorate is None else (electorate.current, electorate.previous)


def lying(block: int, method: Method) -> Pin:
    """What a liar says of a block."""
    return pin(block, method)._replace(validators={LIAR: 1}, registered={LIAR: 0})


def error_of(chain: ChainSource, index: int = 0) -> str:
    return str(chain.status()["endpoints"][index]["error"])


class TestReading:
    """The electorate is the latest pinned block that is final, and the one before it."""

    async def test_the_first_poll_reads_both_pins(self) -> None:
        scene = world()
        assert pins_of(await scene.source().poll()) == (pin(1_000), pin(900))
        assert scene.reads() == [(A, (1_000, 900))]

    async def test_the_next_pin_is_read_alone(self) -> None:
        scene = world()
        chain = scene.source()
        scene.held = await chain.poll() or EMPTY
        scene.head = 1_105
        scene.reads()
        assert pins_of(await chain.poll()) == (pin(1_100), pin(1_000))
        assert scene.reads() == [(A, (1_100,))]

    async def test_after_a_missed_pin_both_are_read(self) -> None:
        scene = world()
        chain = scene.source()
        scene.held = await chain.poll() or EMPTY
        scene.head = 1_205
        scene.reads()
        assert pins_of(await chain.poll()) == (pin(1_200), pin(1_100))
        assert scene.reads() == [(A, (1_200, 1_100))]

    async def test_a_held_pin_that_another_run_read_is_read_again(self) -> None:
        scene = world(held=Electorate(pin(900), pin(800)))  # nobody knows in which unit its stakes are
        assert pins_of(await scene.source().poll()) == (pin(1_000), pin(900))
        assert scene.reads() == [(A, (1_000, 900))]

    async def test_nothing_newer_is_none_and_costs_no_read(self) -> None:
        scene = world(held=Electorate(pin(1_000), pin(900)))
        assert await scene.source().poll() is None
        assert scene.asked == [(A, "heads")]

    async def test_a_pin_that_is_not_final_is_not_read(self) -> None:
        scene = world(head=1_100 + FINALITY - 1, held=Electorate(pin(1_000), pin(900)))
        assert await scene.source().poll() is None
        scene.head += 1
        assert pins_of(await scene.source().poll()) == (pin(1_100), pin(1_000))

    async def test_the_first_pin_of_a_chain_has_none_before_it(self) -> None:
        assert pins_of(await world(head=150).source().poll()) == (pin(100), None)
        assert pins_of(await world(head=250).source().poll()) == (pin(200), pin(100))

    async def test_a_chain_without_a_pinned_block_says_so(self) -> None:
        scene = world(head=99)
        chain = scene.source()
        with pytest.raises(
            ChainError, match="no pinned block yet: its finalized block is 96, the first pinned one is 100"
        ):
            await chain.poll()
        assert chain.pause_s > 30

    async def test_what_was_not_kept_is_given_again(self) -> None:
        scene = world()
        chain = scene.source()
        first = await chain.poll()
        chain.forget()
        assert chain.pause_s == source.PAUSE_S_MIN
        assert pins_of(await chain.poll()) == pins_of(first)

    async def test_closing_closes_the_reader(self) -> None:
        scene = world()
        await scene.source().close()
        assert scene.closed


class TestUnits:
    """Stakes in rao and u16 shares are never mixed in one electorate."""

    async def test_a_change_of_method_reads_the_earlier_pin_again(self) -> None:
        scene = world()
        chain = scene.source()
        scene.held = await chain.poll() or EMPTY
        scene.head = 1_105
        scene.nodes[A].method = Method.MAPS
        scene.reads()
        assert pins_of(await chain.poll()) == (pin(1_100, Method.MAPS), pin(1_000, Method.MAPS))
        assert scene.reads() == [(A, (1_100,)), (A, (1_100, 1_000))]
        assert chain.status()["method"] == "maps"

    async def test_two_endpoints_are_compared_in_one_unit(self) -> None:
        scene = world(A, B)
        scene.nodes[A].method = scene.nodes[B].method = Method.MAPS
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000, Method.MAPS), pin(900, Method.MAPS))
        assert (chain.status()["method"], chain.status()["confirmed"]) == ("maps", True)

    async def test_an_endpoint_whose_call_does_not_decode_gives_way_to_one_whose_does(self) -> None:
        scene = world(A, B, C)
        scene.nodes[A].method = Method.MAPS
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000), pin(900))
        assert (chain.status()["method"], chain.status()["confirmed"]) == ("metagraph", True)
        assert error_of(chain) == "its runtime call does not decode, that of ws://b.example does"

    @pytest.mark.parametrize("order", [(A, B), (B, A)])
    async def test_two_of_which_one_call_decodes_are_compared_by_their_maps(self, order: tuple[str, ...]) -> None:
        scene = world(*order)
        scene.nodes[B].method = Method.MAPS
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000, Method.MAPS), pin(900, Method.MAPS))
        assert (chain.status()["method"], chain.status()["confirmed"]) == ("maps", True)
        assert len(scene.reads()) == 3

    @pytest.mark.parametrize("order", [(A, B, C), (B, A, C), (B, C, A)])
    async def test_a_call_that_one_alone_answers_counts_no_more_than_maps(self, order: tuple[str, ...]) -> None:
        scene = world(*order)
        scene.nodes[A].pin = lying
        scene.nodes[B].method = scene.nodes[C].method = Method.MAPS
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000, Method.MAPS), pin(900, Method.MAPS))
        assert chain.status()["confirmed"]
        assert [error_of(chain, order.index(url)) for url in (B, C)] == ["None", "None"]

    async def test_nor_does_it_when_its_own_maps_are_right(self) -> None:
        scene = world(A, B, C)
        scene.nodes[A].pin = lambda block, method: (pin if method is Method.MAPS else lying)(block, method)
        scene.nodes[B].method = scene.nodes[C].method = Method.MAPS
        assert pins_of(await scene.source().poll()) == (pin(1_000, Method.MAPS), pin(900, Method.MAPS))

    async def test_who_refuses_to_be_compared_is_not_asked_for_it_twice(self) -> None:
        scene = world(A, B, C)
        scene.nodes[A].pin, scene.nodes[A].refuses = lying, Method.MAPS
        scene.nodes[B].method = scene.nodes[C].method = Method.MAPS
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000, Method.MAPS), pin(900, Method.MAPS))
        assert error_of(chain) == "refused a call"
        assert [url for url, _ in scene.reads()] == [A, B, A, C]

    async def test_two_that_cannot_be_compared_contradict_each_other(self) -> None:
        scene = world(A, B)
        scene.nodes[A].refuses = scene.nodes[B].method = Method.MAPS
        with pytest.raises(ChainError, match=r"contradict each other at block 1000 \(read in different ways\)"):
            await scene.source().poll()


class TestAgreement:
    """With several endpoints a pin is believed when two of them say the same of it."""

    async def test_two_that_agree_confirm_and_the_third_is_not_asked(self) -> None:
        scene = world(A, B, C)
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000), pin(900))
        assert chain.status()["confirmed"]
        assert scene.asked == [(A, "heads"), (B, "heads"), (A, (1_000, 900)), (B, (1_000, 900))]

    async def test_an_earlier_pin_that_one_alone_told_is_read_again(self) -> None:
        scene = world(A, B)
        chain = scene.source()
        scene.held = await chain.poll() or EMPTY
        scene.head = 1_105
        scene.nodes[B].error = "hiccup"
        scene.nodes[A].pin = lambda block, method: (lying if block == 1_100 else pin)(block, method)
        scene.held = await chain.poll() or EMPTY
        assert (scene.held.block, LIAR in scene.held.current.validators) == (1_100, True)
        assert not chain.status()["confirmed"]
        scene.head, scene.nodes[B].error = 1_205, None
        with pytest.raises(ChainError, match="contradict each other at block 1200"):
            await chain.poll()
        scene.nodes[A] = Node()
        scene.clock_off_ms = BACKOFF_MS
        assert pins_of(await chain.poll()) == (pin(1_200), pin(1_100))
        assert chain.status()["confirmed"]

    async def test_a_third_is_asked_when_two_differ(self) -> None:
        scene = world(A, B, C)
        scene.nodes[B].pin = lying
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000), pin(900))
        assert [url for url, what in scene.asked if what == "heads"] == [A, B, C]
        assert error_of(chain, 1) == "contradicts two others at block 1000"

    async def test_a_third_is_asked_when_two_are_not_at_the_same_pin(self) -> None:
        scene = world(A, B, C, head=1_103)
        scene.nodes[B].lag = 2
        assert pins_of(await scene.source().poll()) == (pin(1_100), pin(1_000))

    @pytest.mark.parametrize(
        ("lie", "difference"),
        [
            (lambda block, method: pin(block, method, stake=7), "4 stakes differ"),
            (lambda block, method: pin(block, method)._replace(registered={VOTER: 0}), "2 registrations differ"),
            (lambda block, method: pin(block, method)._replace(addresses={}), "2 addresses differ"),
            (lambda block, method: pin(block, method)._replace(time_ms=time_ms(block) + 1), "2 times differ"),
        ],
    )
    async def test_two_that_differ_are_refused(self, lie: Any, difference: str) -> None:
        scene = world(A, B)
        scene.nodes[B].pin = lie
        chain = scene.source()
        with pytest.raises(ChainError) as caught:
            await chain.poll()
        assert str(caught.value) == (
            f"{SHOWN_A} and ws://b.example contradict each other at block 1000 ({difference}), so neither is believed: "
            "find out which one lies, and name others in [electorate] urls"
        )
        assert error_of(chain) == error_of(chain, 1) == f"disputed at block 1000: {difference}"
        assert chain.status()["method"] is None

    async def test_a_lie_about_the_earlier_pin_alone_is_refused_too(self) -> None:
        scene = world(A, B)
        scene.nodes[B].pin = lambda block, method: pin(block, method, stake=7 if block == 900 else 10**12)
        with pytest.raises(ChainError, match="contradict each other"):
            await scene.source().poll()

    async def test_a_disputed_block_needs_two_that_agree(self) -> None:
        scene = world(A, B)
        scene.nodes[B].pin = lambda block, method: pin(block, method, stake=7)
        chain = scene.source()
        with pytest.raises(ChainError, match="contradict"):
            await chain.poll()
        scene.nodes[B].error = "gone"
        for _ in range(3):
            scene.head += 3
            with pytest.raises(ChainError, match=r"only wss://.* answers now"):
                await chain.poll()
        assert chain.pause_s > 4 * BACKOFF_MS / 1000
        scene.nodes[B] = Node()
        scene.head += 10
        assert pins_of(await chain.poll()) == (pin(1_000), pin(900))

    async def test_disputing_endpoints_are_asked_together_again(self) -> None:
        scene = world(A, B)
        scene.nodes[B].pin = lambda block, method: pin(block, method, stake=7)
        chain = scene.source()
        for _ in range(4):
            scene.reads()
            with pytest.raises(ChainError, match="contradict"):
                await chain.poll()
            assert [url for url, _ in scene.reads()] == [A, B]
            scene.clock_off_ms += round(chain.pause_s * 1000)

    async def test_a_third_decides_and_the_odd_one_is_put_off(self) -> None:
        scene = world(A, B, C)
        scene.nodes[A].pin = lambda block, method: pin(block, method, stake=7)
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000), pin(900))
        assert chain.status()["confirmed"]
        assert error_of(chain) == "contradicts two others at block 1000"

    async def test_one_that_answers_of_several_is_taken_unconfirmed(self) -> None:
        scene = world(A, B)
        scene.nodes[A].error = "cannot be reached: Connection refused"
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000), pin(900))
        assert not chain.status()["confirmed"]
        assert error_of(chain) == "cannot be reached: Connection refused"

    async def test_a_second_endpoint_that_is_not_there_yet_is_waited_for(self) -> None:
        scene = world(A, B, head=1_103, held=Electorate(pin(1_000), pin(900)))
        scene.nodes[B].lag = 2
        chain = scene.source()
        assert await chain.poll() is None
        assert 1 <= chain.pause_s <= 15
        scene.head += 2
        assert pins_of(await chain.poll()) == (pin(1_100), pin(1_000))
        assert chain.status()["confirmed"]

    async def test_a_second_endpoint_that_stopped_is_waited_for_until_it_is_behind(self) -> None:
        scene = world(A, B, head=1_103, held=Electorate(pin(1_000), pin(900)))
        chain = scene.source()
        lag = 5
        while lag + FINALITY <= 25:  # five minutes
            scene.nodes[B].lag = lag
            assert await chain.poll() is None
            scene.head += 1
            lag += 1
        scene.nodes[B].lag = lag
        assert pins_of(await chain.poll()) == (pin(1_100), pin(1_000))
        assert not chain.status()["confirmed"]
        assert error_of(chain, 1) == "behind: its finalized block 1095 is over 5 minutes old"

    async def test_a_daemon_that_holds_nothing_takes_what_both_have(self) -> None:
        scene = world(A, B, head=1_103)
        scene.nodes[B].lag = 2
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000), pin(900))
        assert chain.status()["confirmed"]

    @pytest.mark.parametrize("order", [(A, B), (B, A)])
    async def test_a_future_that_one_endpoint_makes_up_is_not_believed(self, order: tuple[str, ...]) -> None:
        scene = world(*order, held=Electorate(pin(1_000), pin(900)))
        scene.nodes[A].lag, scene.nodes[A].late = -5_000, False
        chain = scene.source()
        if order[0] == A:
            with pytest.raises(
                ChainError, match=r"are far apart, so neither is believed: .* is at block 6047, .* at 1047"
            ):
                await chain.poll()
        else:
            assert await chain.poll() is None
        scene.head, scene.clock_off_ms = 1_105, BACKOFF_MS
        assert pins_of(await chain.poll()) == (pin(1_100), pin(1_000))

    async def test_a_past_that_the_first_endpoint_makes_up_is_noticed(self) -> None:
        scene = world(A, B, head=1_150, held=Electorate(pin(1_000), pin(900)))
        scene.nodes[A].lag, scene.nodes[A].late = 100, False
        chain = scene.source()
        with pytest.raises(ChainError, match=r"far apart, .*: ws://b.example is at block 1147, .* at 1047"):
            await chain.poll()

    async def test_a_past_that_one_of_three_makes_up_stops_nobody(self) -> None:
        scene = world(A, B, C, head=1_105, held=Electorate(pin(1_000), pin(900)))
        scene.nodes[B].lag, scene.nodes[B].late = 100, False
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_100), pin(1_000))
        assert chain.status()["confirmed"]


class TestFailover:
    """An endpoint that fails is put off, longer each time, and the next one is asked."""

    async def test_the_next_endpoint_is_read_when_the_first_fails_midway(self) -> None:
        scene = world(A, B, C)
        scene.nodes[A].pins_error = "closed the connection"
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000), pin(900))
        assert (error_of(chain), chain.status()["confirmed"]) == ("closed the connection", True)

    async def test_when_all_fail_the_reasons_are_told_in_one_line(self) -> None:
        scene = world(A, B)
        scene.nodes[A].error, scene.nodes[B].pins_error = "refused a call: busy", "closed the connection"
        with pytest.raises(ChainError) as caught:
            await scene.source().poll()
        assert str(caught.value) == (
            f"the chain gives no electorate: {SHOWN_A}: refused a call: busy; ws://b.example: closed the connection"
        )

    async def test_the_line_names_three_of_many(self) -> None:
        scene = world(*(f"ws://{index}.example" for index in range(8)))
        for node in scene.nodes.values():
            node.error = "gone"
        with pytest.raises(ChainError, match=r"ws://2\.example: gone; and 5 more$"):
            await scene.source().poll()

    async def test_pauses_double_up_to_their_bound(self) -> None:
        scene = world()
        scene.nodes[A].error = "gone"
        chain = scene.source()
        pauses = []
        for _ in range(10):
            with pytest.raises(ChainError):
                await chain.poll()
            pauses.append(chain.pause_s * 1000)
            scene.clock_off_ms += round(pauses[-1])
        steps = [min(BACKOFF_MS * 2**turn, BACKOFF_MS_MAX) for turn in range(10)]
        assert all(0.75 * step <= pause <= step for pause, step in zip(pauses, steps, strict=True))

    async def test_an_endpoint_that_is_put_off_is_not_asked(self) -> None:
        scene = world(A, B, held=Electorate(pin(1_000), pin(900)))
        scene.nodes[A].error = "gone"
        chain = scene.source()
        assert await chain.poll() is None
        scene.asked.clear()
        assert await chain.poll() is None
        assert scene.asked == [(B, "heads")]

    async def test_a_pause_that_began_under_a_clock_that_ran_ahead_does_not_hold(self) -> None:
        """As on a machine that starts with a wrong clock and without a network, and gets both right."""
        scene = world(A, B, clock_off_ms=365 * 86_400_000, held=Electorate(pin(1_000), pin(900)))
        scene.nodes[A].error = scene.nodes[B].error = "no network"
        chain = scene.source()
        with pytest.raises(ChainError):
            await chain.poll()
        scene.nodes[A].error = scene.nodes[B].error = None
        scene.clock_off_ms = 0
        assert await chain.poll() is None
        scene.head = 1_105
        assert pins_of(await chain.poll()) == (pin(1_100), pin(1_000))
        assert chain.status()["confirmed"], "the second endpoint is not asked for a year"

    async def test_an_endpoint_that_is_well_again_is_preferred_again(self) -> None:
        scene = world(A, B, held=Electorate(pin(1_000), pin(900)))
        scene.nodes[A].error = "gone"
        chain = scene.source()
        assert await chain.poll() is None
        scene.nodes[A].error = None
        scene.head += 1
        scene.asked.clear()
        assert await chain.poll() is None
        assert scene.asked == [(A, "heads")]
        assert chain.status()["endpoints"][0]["error"] is None

    async def test_an_answer_about_other_blocks_is_refused(self) -> None:
        scene = world()
        scene.nodes[A].pin = lambda block, method: pin(block + 1, method)
        with pytest.raises(ChainError, match=r"asked for blocks \(1000, 900\), answered with \(1001, 901\)"):
            await scene.source().poll()

    async def test_time_that_does_not_go_on_is_refused(self) -> None:
        scene = world()
        scene.nodes[A].pin = lambda block, method: pin(block, method)._replace(time_ms=START_MS)
        with pytest.raises(ChainError, match="the time of block 1000 does not lie above that of block 900"):
            await scene.source().poll()


class TestBehind:
    """An endpoint that stopped following the chain is left, if there is a better one or it stands still."""

    BEHIND: Final = 30  # blocks: six minutes

    async def test_one_that_is_minutes_behind_gives_way(self) -> None:
        scene = world(A, B, C, head=1_110, held=Electorate(pin(1_000), pin(900)))
        scene.nodes[A].lag = self.BEHIND
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_100), pin(1_000))
        assert error_of(chain) == "behind: its finalized block 1077 is over 5 minutes old"
        assert chain.status()["confirmed"]

    async def test_a_clock_that_is_minutes_ahead_makes_no_endpoint_behind(self) -> None:
        scene = world(A, B, clock_off_ms=20 * 60_000)
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000), pin(900))
        assert chain.clock_offset_ms() == -20 * 60_000

    async def test_of_those_that_are_behind_the_best_is_used(self) -> None:
        scene = world(A, B, head=1_150)
        scene.nodes[A].lag, scene.nodes[B].lag = 120, self.BEHIND
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_100), pin(1_000))
        assert error_of(chain) == "behind: its finalized block 1027 is over 5 minutes old"

    async def test_one_that_stands_still_is_an_error_though_it_is_alone(self) -> None:
        scene = world(held=Electorate(pin(1_000), pin(900)))
        chain = scene.source()
        assert await chain.poll() is None
        scene.head += 26
        scene.nodes[A].lag = 26
        with pytest.raises(ChainError, match="stands still: its finalized block has been 1047 for over 5 minutes"):
            await chain.poll()
        scene.nodes[A].lag = 0
        scene.clock_off_ms += BACKOFF_MS
        assert await chain.poll() is None

    async def test_a_head_below_what_is_held_is_refused(self) -> None:
        scene = world(A, held=Electorate(pin(1_000), pin(900)))
        scene.nodes[A].lag = 60
        chain = scene.source()
        with pytest.raises(ChainError, match="behind: its finalized block is 987, and the electorate of 1000 is held"):
            await chain.poll()


class TestTime:
    """Nothing is believed that lies in this clock's future or before what is held: it could never be taken back."""

    async def test_a_future_that_the_only_one_to_answer_makes_up_is_not_taken(self) -> None:
        scene = world(A, B, held=Electorate(pin(1_000), pin(900)))
        scene.nodes[B].error = "hiccup"
        scene.nodes[A].lag, scene.nodes[A].ahead_ms = -10_000, 1
        chain = scene.source()
        with pytest.raises(ChainError, match=r"ahead: its latest block lies 120000 s in this clock's future"):
            await chain.poll()
        scene.nodes |= {A: Node(), B: Node()}
        scene.head, scene.clock_off_ms = 1_105, BACKOFF_MS
        assert pins_of(await chain.poll()) == (pin(1_100), pin(1_000))

    async def test_the_bound_holds_for_all_that_agree(self) -> None:
        scene = world(A, B, clock_off_ms=-AHEAD_MS_MAX)
        chain = scene.source()
        assert pins_of(await chain.poll()) == (pin(1_000), pin(900))
        scene.clock_off_ms -= 1
        with pytest.raises(ChainError, match=r"ahead: .*ahead: "):
            await chain.poll()
        assert chain.clock_offset_ms() == chain.clock_trouble() == AHEAD_MS_MAX + 1

    @pytest.mark.parametrize(
        ("time", "message"),
        [
            (1, "the time of block 1100 does not lie above that of block 1000, which is held"),
            (time_ms(1_000), "the time of block 1100 does not lie above that of block 1000, which is held"),
            (time_ms(1_102) + 1, "the time of block 1100 lies above that of its finalized block 1102"),
            (time_ms(10**8), "the time of block 1100 lies above that of its finalized block 1102"),
        ],
    )
    async def test_a_pin_lies_between_what_is_held_and_the_finalized_head(self, time: int, message: str) -> None:
        scene = world()
        chain = scene.source()
        scene.held = await chain.poll() or EMPTY
        scene.head = 1_105
        scene.nodes[A].pin = lambda block, method: pin(block, method)._replace(time_ms=time)
        with pytest.raises(ChainError, match=message):
            await chain.poll()

    async def test_a_clock_that_is_set_back_meanwhile_makes_a_future_of_a_pin(self) -> None:
        scene = world()

        def set_back(block: int, method: Method) -> Pin:
            scene.clock_off_ms = -3_600_000
            return pin(block, method)

        scene.nodes[A].pin = set_back
        with pytest.raises(ChainError, match="the time of block 1000 lies in this clock's future"):
            await scene.source().poll()

    @pytest.mark.parametrize("spent", [BLOCK_MS // 2 - 1, BLOCK_MS // 2])
    async def test_blocks_that_come_too_fast_need_two_that_say_so(self, spent: int) -> None:
        scene = world(A, B, held=Electorate(pin(1_000), pin(900)), head=1_500)
        for node in scene.nodes.values():
            node.lag, node.late = -500, False
            node.pin = lambda block, method: pin(block, method)._replace(
                time_ms=time_ms(1_000) + (block - 1_000) * spent
            )
        scene.nodes[B].error = "gone"
        chain = scene.source()
        if spent < BLOCK_MS // 2:
            with pytest.raises(
                ChainError, match=r"block 1900 came over 2 times as fast as blocks did, and nobody else"
            ):
                await chain.poll()
            scene.nodes[B].error = None
            scene.clock_off_ms = BACKOFF_MS
        found = await chain.poll()
        assert found is not None
        assert found.block == 1_900


class TestClock:
    """That this clock is wrong is said when two endpoints agree on it, or the only one says so."""

    @pytest.mark.parametrize(
        ("off_ms", "expected"),
        [
            (0, None),
            (CLOCK_AHEAD_MS_MAX, None),
            (CLOCK_AHEAD_MS_MAX + 1, -CLOCK_AHEAD_MS_MAX - 1),
            (-CLOCK_BEHIND_MS_MAX, None),
            (-CLOCK_BEHIND_MS_MAX - 1, CLOCK_BEHIND_MS_MAX + 1),
            (-3_600_000, 3_600_000),
        ],
    )
    @pytest.mark.parametrize("urls", [(A,), (A, B)])
    async def test_a_clock_may_be_off_within_bounds(
        self, urls: tuple[str, ...], off_ms: int, expected: int | None
    ) -> None:
        scene = world(*urls, clock_off_ms=off_ms, held=Electorate(pin(1_000), pin(900)))
        chain = scene.source()
        assert chain.clock_trouble() is None
        try:
            await chain.poll()
        except ChainError:
            assert off_ms < -AHEAD_MS_MAX
        assert chain.clock_trouble() == expected

    @pytest.mark.parametrize("order", [(A, B), (B, A)])
    async def test_one_of_two_is_not_enough(self, order: tuple[str, ...]) -> None:
        scene = world(*order, held=Electorate(pin(1_000), pin(900)))
        scene.nodes[A].ahead_ms = 60_000
        chain = scene.source()
        await chain.poll()
        assert {url for url, _ in scene.asked} == {A, B}
        assert chain.clock_trouble() is None

    async def test_one_that_answers_of_two_is_not_enough(self) -> None:
        scene = world(A, B, clock_off_ms=-60_000)
        scene.nodes[B].error = "gone"
        chain = scene.source()
        await chain.poll()
        assert (chain.clock_trouble(), chain.clock_offset_ms()) == (None, 60_000)

    @pytest.mark.parametrize(
        ("apart_ms", "expected"), [(OFFSETS_APART_MS_MAX, 60_000), (OFFSETS_APART_MS_MAX + 1, None)]
    )
    async def test_two_agree_within_their_bound(self, apart_ms: int, expected: int | None) -> None:
        scene = world(A, B, clock_off_ms=-60_000)
        scene.nodes[A].ahead_ms = apart_ms
        chain = scene.source()
        await chain.poll()
        assert chain.clock_trouble() == expected

    async def test_a_third_is_asked_when_two_do_not_agree(self) -> None:
        scene = world(A, B, C, clock_off_ms=-60_000)
        scene.nodes[A].ahead_ms = -60_000
        chain = scene.source()
        await chain.poll()
        assert chain.clock_trouble() == 60_000

    async def test_while_all_is_well_one_is_asked_and_when_it_is_not_another_one(self) -> None:
        scene = world(A, B, C, held=Electorate(pin(1_000), pin(900)))
        chain = scene.source()
        for off_ms, asked in ((0, [A, B]), (0, [A]), (-60_000, [A, B]), (-60_000, [A, B]), (0, [A, B]), (0, [A])):
            scene.clock_off_ms = off_ms
            scene.asked.clear()
            assert await chain.poll() is None
            assert [url for url, _ in scene.asked] == asked
            assert chain.clock_trouble() == (-off_ms or None)

    async def test_it_is_said_for_as_long_as_it_lasts_though_endpoints_are_put_off(self) -> None:
        scene = world(A, B, clock_off_ms=-3_600_000)
        chain = scene.source()
        for _ in range(8):
            with pytest.raises(ChainError, match="ahead: "):
                await chain.poll()
            assert chain.clock_trouble() == -scene.clock_off_ms
            scene.head += max(1, round(chain.pause_s / 12))
        scene.clock_off_ms = 0
        assert await chain.poll() is not None
        assert chain.clock_trouble() is None

    async def test_nobody_who_is_gone_is_asked_for_the_time(self) -> None:
        scene = world(A, B, held=Electorate(pin(1_000), pin(900)))
        chain = scene.source()
        await chain.poll()
        scene.nodes[B].error, scene.clock_off_ms = "gone", -60_000
        for asked in ([A, B], [A]):
            scene.asked.clear()
            await chain.poll()
            assert [url for url, _ in scene.asked] == asked


class TestPauses:
    """The next poll comes when the next pin should be final; seldom enough not to burden anyone."""

    async def test_the_next_poll_is_due_with_the_next_pin(self) -> None:
        scene = world(head=1_090, held=Electorate(pin(1_000), pin(900)))
        chain = scene.source()
        assert await chain.poll() is None
        until_final_s = (1_100 + FINALITY - 1_090) * 12
        assert until_final_s <= chain.pause_s <= until_final_s + 12

    async def test_a_pause_is_bounded(self) -> None:
        scene = world(head=1_010, held=Electorate(pin(1_000), pin(900)))
        chain = scene.source()
        await chain.poll()
        assert chain.pause_s == source.PAUSE_S_MAX

    async def test_a_faster_chain_is_asked_more_often(self) -> None:
        fast = Electorate(pin(1_000)._replace(time_ms=time_ms(900) + 100 * 500), pin(900))
        scene = world(head=1_050, held=fast)
        chain = scene.source()
        await chain.poll()
        assert 53 * 0.5 <= chain.pause_s <= 54 * 0.5

    async def test_after_a_new_pin_the_next_one_is_an_epoch_away(self) -> None:
        scene = world(head=1_103)
        chain = scene.source()
        await chain.poll()
        assert chain.pause_s == source.PAUSE_S_MAX


class TestStatus:
    """``status`` shows each endpoint without its credentials, and how the electorate was read."""

    async def test_it_shows_what_was_found(self) -> None:
        scene = world(A, B)
        scene.nodes[B].error = "gone"
        chain = scene.source()
        await chain.poll()
        assert chain.status() == {
            "source": "chain",
            "block": 1_000,
            "method": "metagraph",
            "spec": 461,
            "confirmed": False,
            "clock_offset_ms": 0,
            "endpoints": [
                {"url": SHOWN_A, "error": None, "block": 1_047, "latency_ms": 7, "last_ok": scene.now_ms()},
                {"url": B, "error": "gone", "block": None, "latency_ms": None, "last_ok": None},
            ],
        }

    def test_before_the_first_poll_nothing_is_known(self) -> None:
        chain = world().source()
        assert chain.clock_offset_ms() is None
        assert chain.status()["block"] is None

    async def test_who_gave_up_waiting_learns_for_whom(self) -> None:
        scene = world(A, B, C)
        scene.nodes[A].error, scene.nodes[B].hangs = "gone", True
        chain = scene.source()
        assert chain.reasons() is None
        polling = asyncio.create_task(chain.poll())
        async with asyncio.timeout(10):
            while (B, "heads") not in scene.asked:
                await asyncio.sleep(0)
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
        assert chain.reasons() == f"{SHOWN_A}: gone; ws://b.example: has not answered yet"
        scene.nodes |= {A: Node(), B: Node()}
        scene.clock_off_ms = BACKOFF_MS
        await chain.poll()
        assert chain.reasons() is None

    async def test_no_credential_is_in_any_message(self) -> None:
        scene = world(A, B)
        scene.nodes[A].error = "gone"
        chain = scene.source()
        with capture_logs() as logged:
            await chain.poll()
        assert [entry["event"] for entry in logged] == ["chain_endpoint_put_off", "electorate_unconfirmed"]
        shown = f"{chain.status()} {logged}"
        assert not [secret for secret in ("user", "word", "token") if secret in shown]


class TestMakeSource:
    """The settings say which source it is."""

    def make(self, file: Path | None, urls: tuple[str, ...]) -> ElectorateSource:
        settings = SimpleNamespace(file=file, urls=urls)
        return make_source(settings, NETWORK, held=lambda: EMPTY, now_ms=lambda: 0, rng=random.Random(1))

    def test_a_file_is_a_file(self) -> None:
        assert isinstance(self.make(Path("electorate.toml"), ()), ElectorateFile)

    def test_urls_are_the_chain(self) -> None:
        assert isinstance(self.make(None, (A, B)), ChainSource)

    def test_neither_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="expected urls or file"):
            self.make(None, ())


class TestReplay:
    """The whole way: a replayed chain, the real library in its process, and what the daemon is given."""

    async def test_changes_of_the_chain_come_with_the_next_pin(self) -> None:
        clock = Clock()
        chain = Chain(made_up(), clock=clock)
        held = EMPTY
        loser, miner, newcomer = (made_up_hotkey(uid).public_key for uid in (0, 2, 1_000))
        async with ReplayServer(chain) as one, ReplayServer(chain) as other, ReaderProcess() as reader:
            polled = ChainSource(
                [one.url, other.url], NETWORK, held=lambda: held, now_ms=clock, rng=random.Random(1), reader=reader
            )
            first = await polled.poll()
            assert first is not None
            held = first
            assert first.block == 7_000_000
            assert await polled.poll() is None
            chain.change(Change("permit", loser, value=False))
            chain.change(Change("register", newcomer, 2))
            clock.blocks(103)
            second = await polled.poll()
            assert polled.status()["confirmed"]
            assert polled.clock_offset_ms() == chain.time_ms(chain.head) - clock()
        assert second is not None
        assert second.previous is not None
        assert (second.block, second.previous.block) == (7_000_200, 7_000_100)
        assert loser in second.previous.validators
        assert loser not in second.current.validators
        assert second.permitted(loser)  # one epoch of grace
        assert second.registration_block(miner) is None
        assert second.registration_block(newcomer) == 7_000_101
