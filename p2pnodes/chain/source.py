"""Where the electorate comes from: endpoints of the chain, or a file that stands in for them.

The chain is asked when the next pinned block should be final, going by how long blocks took lately. With one endpoint
that one is believed. With more, the block is one that two of them have, and two must say the same of it; if they
contradict each other nothing is believed, and if all but one fail that one is, with a warning. Nobody is believed whose
time lies in this clock's future or before what is held: what is held never goes back, so a made-up future would stay.
An endpoint that fails is put off for 5 s, then twice as long each time, to 5 minutes. Whatever endpoints do, what is
held stays, and the reason is shown.
"""

import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import structlog

from p2pnodes.chain.file import ElectorateFile
from p2pnodes.chain.process import ChainReader, ReaderProcess
from p2pnodes.chain.reading import Heads, HeadsRequest, Method, Pins, PinsRequest, ReadError
from p2pnodes.model.addresses import without_credentials
from p2pnodes.model.clock import CLOCK_OFF_MS_MAX
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.errors import ChainError, ConfigError
from p2pnodes.model.network import Network

log = structlog.get_logger("p2pnodes.chain")

BLOCK_MS: Final = 12_000
"""Time between two blocks of finney; of other chains what the held electorate shows."""

PAUSE_S_MIN: Final = 1.0

PAUSE_S_MAX: Final = 300.0
"""Longest time between two polls: so old may be what ``status`` says of the endpoints and of the chain's clock."""

BACKOFF_MS: Final = 5_000
"""First pause of an endpoint that failed; each further one is twice as long."""

BACKOFF_MS_MAX: Final = 300_000

BEHIND_MS_MAX: Final = 300_000
"""How far the time of an endpoint's finalized head may lie behind this clock before another endpoint is preferred. The
finalized head is about 40 s old when all is well."""

AHEAD_MS_MAX: Final = 300_000
"""How far the time of a block may lie in this clock's future and still be believed."""

CLOCK_BEHIND_MS_MAX: Final = CLOCK_OFF_MS_MAX
CLOCK_AHEAD_MS_MAX: Final = 180_000
"""How far this clock may be behind the time of the chain's best block, and ahead of it: blocks take 12 s, and a chain
that is slow for a moment says nothing about the clock."""

OFFSETS_APART_MS_MAX: Final = 30_000
"""Two endpoints whose best blocks' times differ by no more say the same of this clock."""

PACE_MAX: Final = 2
"""How many times as fast as between the two held pins blocks may come, when one endpoint of several says so."""

_MINUTES: Final = f"{BEHIND_MS_MAX // 60_000} minutes"

_SHOWN_MAX: Final = 3
"""Endpoints whose reasons are told in one line."""


class ElectorateSource(Protocol):
    """Says what the electorate is now."""

    @property
    def pause_s(self) -> float:
        """Seconds after which to poll next."""

    async def poll(self) -> Electorate | None:
        """The electorate if there is a newer one than is held, else None.

        Raises:
            ChainError: The chain gives none; what is held stays.
            ConfigError: The file holds none.
        """

    def forget(self) -> None:
        """Give again at the next poll what the last one gave: it was not kept."""

    async def close(self) -> None:
        """End what runs for this source."""

    def status(self) -> dict[str, Any]:
        """What ``status`` shows of the source."""

    def clock_offset_ms(self) -> int | None:
        """Time of the chain's best block less this clock, by the latest answer; None if there is none."""

    def clock_trouble(self) -> int | None:
        """That offset if this clock is certainly wrong, by the latest poll; else None.

        Certain is what two endpoints say within OFFSETS_APART_MS_MAX of each other, or the only one there is; wrong is
        over CLOCK_BEHIND_MS_MAX, or below -CLOCK_AHEAD_MS_MAX.
        """

    def reasons(self) -> str | None:
        """Why there is nothing so far, in one line that names each part of the source that failed or is waited for.

        For who gave up waiting for ``poll``; None when there is nothing to say.
        """


class SourceSettings(Protocol):
    """``[electorate]`` of the settings: one of the two."""

    @property
    def file(self) -> Path | None:
        """The file that stands in for the chain."""

    @property
    def urls(self) -> Sequence[str]:
        """Endpoints of the chain, in the order of preference."""


@dataclass(eq=False)
class _Endpoint:
    """One endpoint and how it did.

    Attributes:
        url: With its credentials; never shown.
        shown: The URL without them.
        error: Why it is put off.
        block: Its finalized head when it was last asked.
        moved_ms: When that head was seen first.
        latency_ms: How long its last call took.
        offset_ms: Time of its best block less this clock when it was last asked; None when it did not answer.
        last_ok_ms: When it last gave what could be used.
        retry_ms: Until when it is put off.
        step_ms: The present length of the pause.
    """

    url: str
    shown: str
    error: str | None = None
    block: int | None = None
    moved_ms: int = 0
    latency_ms: int | None = None
    offset_ms: int | None = None
    last_ok_ms: int | None = None
    retry_ms: int = 0
    step_ms: int = 0


class _Usable(NamedTuple):
    endpoint: _Endpoint
    heads: Heads


class _Reading(NamedTuple):
    found: _Usable
    pins: Pins

    @property
    def endpoint(self) -> _Endpoint:
        return self.found.endpoint


class ChainSource:
    """The electorate as the chain has it, read through one or more endpoints."""

    def __init__(
        self,
        urls: Sequence[str],
        network: Network,
        *,
        held: Callable[[], Electorate],
        now_ms: Callable[[], int],
        rng: random.Random,
        reader: ChainReader | None = None,
    ) -> None:
        """Ask nothing yet.

        Args:
            urls: Endpoints, ``ws://`` or ``wss://``, in the order of preference; they may hold credentials.
            network: Whose genesis hash, netuid and epoch_blocks say what is read.
            held: The electorate that is weighed with now.
            now_ms: The wall clock, Unix milliseconds.
            rng: For the spread of pauses, so that daemons do not ask all at once.
            reader: What reads endpoints; a process of its own unless given.
        """
        self._endpoints = [_Endpoint(url, without_credentials(url)) for url in urls]
        self._genesis = bytes.fromhex(network.genesis_hash)
        self._netuid = network.netuid
        self._epoch_blocks = network.epoch_blocks
        self._held = held
        self._now_ms = now_ms
        self._rng = rng
        self._reader = reader or ReaderProcess()
        self._pause_s = PAUSE_S_MIN
        self._offset_ms: int | None = None
        self._last: Pins | None = None
        self._confirmed = False
        self._disputed: int | None = None
        self._waited_for: _Endpoint | None = None
        self._offsets: dict[_Endpoint, int] = {}

    @property
    def pause_s(self) -> float:
        """Seconds after which to poll next: when the next pin is due, or an endpoint is to be tried again."""
        return self._pause_s

    def forget(self) -> None:
        """Read again soon; what was given was not kept."""
        self._pause_s = PAUSE_S_MIN

    async def close(self) -> None:
        """End the process that reads."""
        await self._reader.close()

    def clock_offset_ms(self) -> int | None:
        """Time of the chain's best block less this clock, by the latest answer; None before the first.

        A best block is up to one block's time old.
        """
        return self._offset_ms

    def clock_trouble(self) -> int | None:
        """Time of the chain's best block less this clock, ms, if it shows that this clock is wrong, else None.

        By the latest poll, which asks endpoints until two agree about this clock, whatever they say of it.
        """
        offset_ms = self._agreed_offset_ms()
        return None if offset_ms is None or _is_plausible(offset_ms) else offset_ms

    def reasons(self) -> str | None:
        """Why each endpoint is put off, and which one has not answered yet; one line, None when all is well."""
        return self._told(self._endpoints) or None

    def status(self) -> dict[str, Any]:
        """What ``status`` shows: the endpoints, and how the last electorate was read.

        ``method`` is ``metagraph`` (stakes in rao) or ``maps`` (u16 shares), None before the first read; ``confirmed``
        tells whether two endpoints said the same of it. Times are Unix milliseconds.
        """
        return {
            "source": "chain",
            "block": self._last.pins[0].block if self._last else None,
            "method": self._last.method.value if self._last else None,
            "spec": self._last.spec if self._last else None,
            "confirmed": self._confirmed,
            "clock_offset_ms": self._offset_ms,
            "endpoints": [
                {
                    "url": endpoint.shown,
                    "error": endpoint.error,
                    "block": endpoint.block,
                    "latency_ms": endpoint.latency_ms,
                    "last_ok": endpoint.last_ok_ms,
                }
                for endpoint in self._endpoints
            ],
        }

    async def poll(self) -> Electorate | None:
        """The electorate of the latest pinned block if it is newer than the held one, else None.

        None also while a second endpoint, which keeps up, has not got to that block: it takes a few seconds more.

        Raises:
            ChainError: No endpoint gives what can be believed; ``status`` shows each one's reason.
        """
        due = [endpoint for endpoint in self._endpoints if self._is_due(endpoint)] or self._endpoints
        self._offsets = {}
        try:
            electorate = await self._poll(due)
        except ChainError:
            await self._compare_clocks()
            now_ms = self._now_ms()
            retries = [endpoint.retry_ms - now_ms for endpoint in self._endpoints if endpoint.retry_ms > now_ms]
            if retries:
                self._pause_s = min(max(min(retries) / 1000, PAUSE_S_MIN), PAUSE_S_MAX)
            raise
        await self._compare_clocks()
        return electorate

    async def _poll(self, due: Sequence[_Endpoint]) -> Electorate | None:
        held = self._held()
        usable: list[_Usable] = []
        async with aclosing(self._keeping_up(due, held)) as endpoints:
            async for found in endpoints:
                if not usable:
                    self._offset_ms = found.heads.head_ms - self._now_ms()
                    self._expect(found.heads.finalized, held)
                    if 0 < self._pinned(found.heads.finalized) <= held.block and not self._overdue(held):
                        self._well(found.endpoint)
                        return None
                usable.append(found)
                if self._suffice(usable, held):
                    break
            if not usable:
                said = [endpoint.offset_ms for endpoint in due if endpoint.offset_ms is not None]
                self._offset_ms = said[0] if said else self._offset_ms
                raise ChainError(self._reasons(due), code=Code.CHAIN_UNREAD)
            block = self._common_block(usable, held)
            if block is None:
                return None
            readings = await self._readings(block, usable, endpoints, held)
        return self._believed(block, readings, due, held)

    def _suffice(self, usable: Sequence[_Usable], held: Electorate) -> bool:
        """Whether the two endpoints that are furthest have the same new pinned block: then no other one is needed."""
        pinned = sorted((self._pinned(found.heads.finalized) for found in usable), reverse=True)[:2]
        return len(pinned) == 2 and pinned[0] == pinned[1] > held.block

    def _common_block(self, usable: Sequence[_Usable], held: Electorate) -> int | None:
        """The newest pinned block that two endpoints have, or the only one; None while the second is not there yet.

        Were one enough, an endpoint could make up a future that no other one can deny.

        Raises:
            ChainError: There is none yet, or the endpoints contradict each other about how far the chain is.
        """
        first, *others = sorted(usable, key=lambda found: -found.heads.finalized)
        finalized = others[0].heads.finalized if others else first.heads.finalized
        block = self._pinned(finalized)
        if block > held.block:
            return block
        apart = first.heads.finalized - finalized
        if apart * self._block_s(held) * 1000 > BEHIND_MS_MAX:
            said = (
                f"{first.endpoint.shown} is at block {first.heads.finalized}, {others[0].endpoint.shown} at {finalized}"
            )
            self._dispute([first.endpoint, others[0].endpoint], f"contradicted: {said}")
            raise ChainError(
                f"endpoints that claim to be up to date are far apart, so neither is believed: {said}",
                code=Code.CHAIN_CONTRADICTION,
            )
        for endpoint, _ in usable:
            self._well(endpoint)
        if block == 0:
            raise ChainError(
                f"the chain has no pinned block yet: its finalized block is {finalized}, the first pinned one is "
                f"{self._epoch_blocks}",
                code=Code.CHAIN_NO_PIN,
            )
        if self._pinned(first.heads.finalized) > held.block:  # the second one has it in a moment
            self._pause_s = max(self._block_s(held), PAUSE_S_MIN)
        return None

    async def _readings(
        self, block: int, usable: Iterable[_Usable], more: AsyncGenerator[_Usable], held: Electorate
    ) -> list[_Reading]:
        """What endpoints say of a block, until two agree.

        When the runtime call of some decodes and that of others does not, the storage maps of all are read, too: who
        answers the call as nobody else does is no better than who does not answer it.
        """
        readings: list[_Reading] = []
        read_twice: set[_Endpoint] = set()
        waiting = deque(usable)
        while found := waiting.popleft() if waiting else await anext(more, None):
            if found.heads.finalized < block:
                self._well(found.endpoint)
                continue
            reading = await self._reading(found, block, None, held)
            if reading is None:
                continue
            readings.append(reading)
            mixed = len({reading.pins.method for reading in readings}) > 1
            for other in [*readings] if mixed else []:
                if other.pins.method is Method.METAGRAPH and other.endpoint not in read_twice:
                    read_twice.add(other.endpoint)
                    again = await self._reading(other.found, block, Method.MAPS, held)
                    readings += [again] if again else []
            agreeing = _agreeing(readings)
            if agreeing and (agreeing[0].pins.method is Method.METAGRAPH or not mixed):
                break
        return readings

    def _believed(
        self, block: int, readings: Sequence[_Reading], due: Sequence[_Endpoint], held: Electorate
    ) -> Electorate:
        """The electorate that two endpoints agree on, or that the only one of them gives which answers.

        Raises:
            ChainError: None answers, or no two agree.
        """
        if not readings:
            raise ChainError(self._reasons(due), code=Code.CHAIN_UNREAD)
        if agreeing := _agreeing(readings):
            self._leave_others(block, readings, agreeing)
            return self._take(agreeing)
        if pairs := [pair for pair in combinations(readings, 2) if pair[0].endpoint is not pair[1].endpoint]:
            one, other = next((pair for pair in pairs if pair[0].pins.method is pair[1].pins.method), pairs[0])
            self._disputed = block
            difference = _difference(one.pins, other.pins)
            endpoints = list(dict.fromkeys(reading.endpoint for reading in readings))
            self._dispute(endpoints, f"disputed at block {block}: {difference}")
            raise ChainError(
                f"{one.endpoint.shown} and {other.endpoint.shown} contradict each other at block {block} "
                f"({difference}), so neither is believed: find out which one lies, and name others in [electorate] "
                "urls",
                code=Code.CHAIN_CONTRADICTION,
            )
        only = readings[0]
        if block == self._disputed:
            self._dispute([only.endpoint], f"disputed at block {block}, and no other endpoint answers")
            raise ChainError(
                f"only {only.endpoint.shown} answers now, and endpoints contradicted each other at block {block}: "
                "waiting for two that agree",
                code=Code.CHAIN_CONTRADICTION,
            )
        if len(self._endpoints) > 1:
            if self._too_fast(only.pins.pins[0], held):
                why = f"block {block} came over {PACE_MAX} times as fast as blocks did, and nobody else says so"
                self._put_off(only.endpoint, why)
                raise ChainError(
                    f"only {only.endpoint.shown} answers now, and is not believed: {why}", code=Code.CHAIN_UNCONFIRMED
                )
            log.warning(
                "electorate_unconfirmed", block=block, endpoint=only.endpoint.shown, code=Code.CHAIN_UNCONFIRMED
            )
        return self._take([only])

    def _leave_others(self, block: int, readings: Sequence[_Reading], agreeing: Sequence[_Reading]) -> None:
        """Put off who does not say what two others agree on; who could not be read in their way is put off already."""
        method = agreeing[0].pins.method
        agreed = {reading.endpoint for reading in agreeing}
        compared = {reading.endpoint for reading in readings if reading.pins.method is method}
        for endpoint in dict.fromkeys(reading.endpoint for reading in readings):
            if endpoint in compared - agreed:
                self._put_off(endpoint, f"contradicts two others at block {block}")
            elif endpoint not in compared and method is Method.METAGRAPH:
                shown = agreeing[0].endpoint.shown
                self._put_off(endpoint, f"its runtime call does not decode, that of {shown} does")

    def _take(self, readings: Sequence[_Reading]) -> Electorate:
        """Give out what one or two endpoints say, and remember it for the next one's grace."""
        pins = readings[0].pins
        current = pins.pins[0]
        if len(pins.pins) == 2:
            previous: Pin | None = pins.pins[1]
        else:
            known = self._known(current.block)
            previous = known and known.pins[0]
        if pins.method is Method.MAPS and (self._last is None or self._last.method is not Method.MAPS):
            log.warning(
                "electorate_from_maps",
                spec=pins.spec,
                note="this build cannot decode that runtime's calls",
                code=Code.CHAIN_UNDECODABLE,
            )
        electorate = Electorate(current, previous)
        self._last = pins
        self._confirmed = len(readings) > 1
        for reading in readings:
            self._well(reading.endpoint)
        self._expect(max(reading.endpoint.block or 0 for reading in readings), electorate)
        return electorate

    def _dispute(self, endpoints: Sequence[_Endpoint], why: str) -> None:
        """Put endpoints off that contradict each other, so that they are asked together the next time."""
        for endpoint in endpoints:
            self._put_off(endpoint, why)
        retry_ms = max(endpoint.retry_ms for endpoint in endpoints)
        for endpoint in endpoints:
            endpoint.retry_ms = retry_ms

    # -- endpoints ---------------------------------------------------------------------------------------------------

    async def _keeping_up(self, due: Sequence[_Endpoint], held: Electorate) -> AsyncGenerator[_Usable]:
        """Endpoints that answer and are not behind, in order; if all are behind this clock, then the best of them."""
        behind: list[_Usable] = []
        fresh = False
        for endpoint in due:
            heads = await self._heads(endpoint, held)
            if heads is None:
                continue
            found = _Usable(endpoint, heads)
            if self._now_ms() - heads.finalized_ms <= BEHIND_MS_MAX:
                fresh = True
                self._leave(behind)
                behind = []
                yield found
            elif fresh:
                self._leave([found])
            else:
                behind.append(found)
        newest_ms = max(
            (found.heads.finalized_ms for found in behind), default=0
        )  # this clock may be the one that is off
        for found in behind:
            if newest_ms - found.heads.finalized_ms <= BEHIND_MS_MAX:
                yield found
            else:
                self._leave([found])

    def _leave(self, endpoints: Sequence[_Usable]) -> None:
        for endpoint, heads in endpoints:
            self._put_off(endpoint, f"behind: its finalized block {heads.finalized} is over {_MINUTES} old")

    async def _heads(self, endpoint: _Endpoint, held: Electorate) -> Heads | None:
        """How far an endpoint is; None when it fails, stands still, is in the future or has not even what is held."""
        heads = await self._ask(endpoint)
        if heads is None:
            return None
        now_ms = self._now_ms()
        ahead_ms = max(heads.finalized_ms, heads.head_ms) - now_ms
        if ahead_ms > AHEAD_MS_MAX:
            why = (
                f"ahead: its latest block lies {ahead_ms // 1000} s in this clock's future: set the clock if it is off"
            )
        elif heads.finalized < held.block:
            why = f"behind: its finalized block is {heads.finalized}, and the electorate of {held.block} is held"
        elif now_ms - max(endpoint.moved_ms, heads.finalized_ms) > BEHIND_MS_MAX:
            why = f"stands still: its finalized block has been {heads.finalized} for over {_MINUTES}"
        else:
            return heads
        self._put_off(endpoint, why)
        return None

    async def _ask(self, endpoint: _Endpoint) -> Heads | None:
        """What an endpoint says of how far it is, noted but not judged; None when it fails."""
        self._waited_for = endpoint
        try:
            heads = await self._reader.heads(HeadsRequest(endpoint.url, self._genesis))
        except ReadError as error:
            endpoint.offset_ms = None
            self._put_off(endpoint, str(error))
            return None
        self._waited_for = None
        now_ms = self._now_ms()
        if endpoint.block != heads.finalized:
            endpoint.block, endpoint.moved_ms = heads.finalized, now_ms
        endpoint.latency_ms = heads.latency_ms
        endpoint.offset_ms = self._offsets[endpoint] = heads.head_ms - now_ms
        return heads

    async def _compare_clocks(self) -> None:
        """Ask further endpoints, for their clocks alone, until two agree about this one.

        Nobody needs to be asked when one says that all is well, as another did the last time. Who answers and is put
        off for what it said is asked all the same: it may be this clock that is wrong.
        """
        well = [offset_ms for offset_ms in self._offsets.values() if _is_plausible(offset_ms)]
        before = [other.offset_ms for other in self._endpoints if other not in self._offsets]
        if any(other is not None and _is_alike(other, offset_ms) for other in before for offset_ms in well):
            return
        for endpoint in self._endpoints:
            if not self._offsets or self._agreed_offset_ms() is not None:
                return
            wanted = endpoint.offset_ms is not None or self._is_due(endpoint)
            if wanted and endpoint not in self._offsets:
                await self._ask(endpoint)

    def _agreed_offset_ms(self) -> int | None:
        """What the first two endpoints say that agree about this clock, the milder of both, or the only one."""
        offsets = list(self._offsets.values())
        if len(self._endpoints) == 1:
            return offsets[0] if offsets else None
        agreeing = (pair for pair in combinations(offsets, 2) if _is_alike(*pair))
        return min(next(agreeing, ()), key=abs, default=None)

    async def _reading(self, found: _Usable, block: int, method: Method | None, held: Electorate) -> _Reading | None:
        """What an endpoint says of a block, and of the one before it unless that is known; None when it fails.

        Args:
            found: Which one, and how far it is.
            block: The pinned block.
            method: How to read it; None for the best way.
            held: The electorate that is weighed with now.
        """
        earlier, known = self._earlier(block), self._known(block)
        try:
            if earlier is None:
                return _Reading(found, await self._read(found, (block,), method, held))
            if known is not None and method in {None, known.method}:
                pins = await self._read(found, (block,), method, held)
                if pins.method is known.method:
                    return _Reading(found, pins)
                method = pins.method
            return _Reading(found, await self._read(found, (block, earlier), method, held))
        except ReadError as error:
            self._put_off(found.endpoint, str(error))
            return None

    async def _read(self, found: _Usable, blocks: tuple[int, ...], method: Method | None, held: Electorate) -> Pins:
        endpoint, heads = found
        self._waited_for = endpoint
        pins = await self._reader.pins(PinsRequest(endpoint.url, self._genesis, self._netuid, blocks, method))
        self._waited_for = None
        if tuple(pin.block for pin in pins.pins) != blocks:
            raise ReadError(f"asked for blocks {blocks}, answered with {tuple(pin.block for pin in pins.pins)}")
        times = [pin.time_ms for pin in pins.pins]
        if times != sorted(set(times), reverse=True):
            raise ReadError(f"the time of block {blocks[0]} does not lie above that of block {blocks[-1]}")
        if times[0] <= held.time_ms:
            raise ReadError(
                f"the time of block {blocks[0]} does not lie above that of block {held.block}, which is held"
            )
        if times[0] > heads.finalized_ms:
            raise ReadError(f"the time of block {blocks[0]} lies above that of its finalized block {heads.finalized}")
        if times[0] - self._now_ms() > AHEAD_MS_MAX:
            raise ReadError(f"the time of block {blocks[0]} lies in this clock's future")
        return pins

    def _pinned(self, finalized: int) -> int:
        """The latest pinned block at or below a finalized one; 0 is none."""
        return finalized - finalized % self._epoch_blocks

    def _earlier(self, block: int) -> int | None:
        """The pinned block before one; None where the chain has none (block 0 has no time)."""
        return block - self._epoch_blocks if block > self._epoch_blocks else None

    def _known(self, block: int) -> Pins | None:
        """What was read last, if that is the pin before a block and as certain as one that is read now can be."""
        last = self._last
        if last is None or last.pins[0].block != self._earlier(block):
            return None
        return last if self._confirmed or len(self._endpoints) == 1 else None

    def _is_due(self, endpoint: _Endpoint) -> bool:
        """Whether an endpoint may be asked; a pause that is longer than any began under a clock that ran ahead."""
        return not 0 < endpoint.retry_ms - self._now_ms() <= BACKOFF_MS_MAX

    def _well(self, endpoint: _Endpoint) -> None:
        if endpoint.error is not None:
            log.info("chain_endpoint_well", endpoint=endpoint.shown)
        endpoint.error, endpoint.retry_ms, endpoint.step_ms = None, 0, 0
        endpoint.last_ok_ms = self._now_ms()

    def _put_off(self, endpoint: _Endpoint, why: str) -> None:
        if why != endpoint.error:
            log.warning("chain_endpoint_put_off", endpoint=endpoint.shown, error=why, code=Code.CHAIN_ENDPOINT)
        endpoint.error = why
        endpoint.step_ms = min(2 * endpoint.step_ms, BACKOFF_MS_MAX) or BACKOFF_MS
        endpoint.retry_ms = self._now_ms() + round(endpoint.step_ms * self._rng.uniform(0.75, 1.0))

    def _reasons(self, due: Sequence[_Endpoint]) -> str:
        """One line for a poll in which no endpoint could be used."""
        return f"the chain gives no electorate: {self._told(due)}"

    def _told(self, endpoints: Sequence[_Endpoint]) -> str:
        """Which endpoints are put off and why, and which one is waited for; empty when none is."""
        told = [
            f"{endpoint.shown}: {endpoint.error or 'has not answered yet'}"
            for endpoint in endpoints
            if endpoint.error is not None or endpoint is self._waited_for
        ]
        more = f"; and {len(told) - _SHOWN_MAX} more" if len(told) > _SHOWN_MAX else ""
        return "; ".join(told[:_SHOWN_MAX]) + more

    # -- when to ask next --------------------------------------------------------------------------------------------

    def _expect(self, finalized: int, newest: Electorate) -> None:
        """Poll next when the pin after ``newest`` should be final, and within PAUSE_S_MAX."""
        blocks = newest.block + self._epoch_blocks - finalized
        pause_s = (max(blocks, 1) + self._rng.random()) * self._block_s(newest)
        self._pause_s = min(max(pause_s, PAUSE_S_MIN), PAUSE_S_MAX)

    def _overdue(self, held: Electorate) -> bool:
        """Whether the pin after the held one should have been final for BEHIND_MS_MAX, going by this clock."""
        age_s = (self._now_ms() - held.time_ms) / 1000
        return age_s > self._epoch_blocks * self._block_s(held) + BEHIND_MS_MAX / 1000

    def _too_fast(self, pin: Pin, held: Electorate) -> bool:
        """Whether blocks since the held pin would have come over PACE_MAX times as fast as before it."""
        return (pin.time_ms - held.time_ms) * PACE_MAX < (pin.block - held.block) * self._block_s(held) * 1000

    def _block_s(self, electorate: Electorate) -> float:
        """How long a block takes, by the two pins of an electorate."""
        current, previous = electorate.current, electorate.previous
        if previous is None:
            return BLOCK_MS / 1000
        return min((current.time_ms - previous.time_ms) / (current.block - previous.block), BLOCK_MS) / 1000


def make_source(
    settings: SourceSettings,
    network: Network,
    *,
    held: Callable[[], Electorate],
    now_ms: Callable[[], int],
    rng: random.Random,
) -> ElectorateSource:
    """The source that the settings name; see ``ChainSource`` for the arguments.

    Raises:
        ConfigError: They name none.
    """
    if settings.file is not None:
        return ElectorateFile(settings.file)
    if not settings.urls:
        raise ConfigError("no electorate: expected urls or file in [electorate]", code=Code.CHAIN_NO_SOURCE)
    return ChainSource(settings.urls, network, held=held, now_ms=now_ms, rng=rng)


def _is_plausible(offset_ms: int) -> bool:
    """Whether the chain's best block less this clock is what a chain and a clock show that are well."""
    return -CLOCK_AHEAD_MS_MAX <= offset_ms <= CLOCK_BEHIND_MS_MAX


def _is_alike(one_ms: int, other_ms: int) -> bool:
    return abs(one_ms - other_ms) <= OFFSETS_APART_MS_MAX


def _agreeing(readings: Sequence[_Reading]) -> list[_Reading]:
    """Two readings or more that say the same in one unit, those by the runtime call first; empty if there are none."""
    for method in Method:
        alike = [reading for reading in readings if reading.pins.method is method]
        for reading in alike:
            same = [other for other in alike if other.pins.pins == reading.pins.pins]
            if len(same) > 1:
                return same
    return []


def _difference(one: Pins, other: Pins) -> str:
    """What two readings of the same blocks disagree on, in a few words."""
    if one.method is not other.method:
        return "read in different ways"
    counts = {"stakes": 0, "registrations": 0, "addresses": 0, "times": 0}
    for mine, theirs in zip(one.pins, other.pins, strict=True):
        counts["stakes"] += len(mine.validators.items() ^ theirs.validators.items())
        counts["registrations"] += len(mine.registered.items() ^ theirs.registered.items())
        counts["addresses"] += len(mine.addresses.items() ^ theirs.addresses.items())
        counts["times"] += mine.time_ms != theirs.time_ms
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) + " differ"
