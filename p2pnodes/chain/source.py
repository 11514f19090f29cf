"""Where the electorate comes from: endpoints of the chain, or a file that stands in for them.

The chain is asked when the next pinned block should be final, going by how long blocks took lately. With one endpoint
that one is believed. With more, the block is one that two of them have, and two must say the same of it; if they
contradict each other nothing is believed, and if all but one fail that one is, with a warning. An endpoint that fails
is put off for 5 s, then twice as long each time, to 5 minutes. Whatever endpoints do, what is held stays, and the
reason is shown.
"""

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import structlog

from p2pnodes.chain.file import ElectorateFile
from p2pnodes.chain.process import ChainReader, ReaderProcess
from p2pnodes.chain.reading import Heads, HeadsRequest, Method, Pins, PinsRequest, ReadError
from p2pnodes.model.addresses import without_credentials
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
        """That offset where endpoints agree that this clock is wrong; None where they don't say so."""


class SourceSettings(Protocol):
    """``[electorate]`` of the settings: one of the two."""

    @property
    def file(self) -> Path | None:
        """The file that stands in for the chain."""

    @property
    def urls(self) -> Sequence[str]:
        """Endpoints of the chain, in the order of preference."""


@dataclass
class _Endpoint:
    """One endpoint and how it did.

    Attributes:
        url: With its credentials; never shown.
        shown: The URL without them.
        error: Why it is put off.
        block: Its finalized head when it was last asked.
        moved_ms: When that head was seen first.
        latency_ms: How long its last call took.
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
    last_ok_ms: int | None = None
    retry_ms: int = 0
    step_ms: int = 0


class _Usable(NamedTuple):
    endpoint: _Endpoint
    heads: Heads


class _Reading(NamedTuple):
    endpoint: _Endpoint
    pins: Pins


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
        due = [endpoint for endpoint in self._endpoints if endpoint.retry_ms <= self._now_ms()] or self._endpoints
        try:
            return await self._poll(due)
        except ChainError:
            now_ms = self._now_ms()
            retries = [endpoint.retry_ms - now_ms for endpoint in self._endpoints if endpoint.retry_ms > now_ms]
            if retries:
                self._pause_s = min(max(min(retries) / 1000, PAUSE_S_MIN), PAUSE_S_MAX)
            raise

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
        if not usable:
            raise ChainError(self._reasons(due))
        block = self._common_block(usable, held)
        return None if block is None else self._believed(block, await self._readings(block, usable), due)

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
            raise ChainError(f"endpoints that claim to be up to date are far apart, so neither is believed: {said}")
        for endpoint, _ in usable:
            self._well(endpoint)
        if block == 0:
            raise ChainError(
                f"the chain has no pinned block yet: its finalized block is {finalized}, the first pinned one is "
                f"{self._epoch_blocks}"
            )
        if self._pinned(first.heads.finalized) > held.block:  # the second one has it in a moment
            self._pause_s = max(self._block_s(held), PAUSE_S_MIN)
        return None

    async def _readings(self, block: int, usable: Sequence[_Usable]) -> list[_Reading]:
        """What endpoints say of a block, in one unit, until one agrees with an earlier one."""
        readings: list[_Reading] = []
        for endpoint, heads in usable:
            if heads.finalized < block:
                self._well(endpoint)
                continue
            pins = await self._pins(endpoint, block, readings[0].pins.method if readings else None)
            if pins is None:
                continue
            for other in readings:
                if other.pins.method is not pins.method:  # then this one's is the better
                    self._put_off(other.endpoint, f"its runtime call does not decode, that of {endpoint.shown} does")
            readings = [other for other in readings if other.pins.method is pins.method]
            agreed = any(other.pins.pins == pins.pins for other in readings)
            readings.append(_Reading(endpoint, pins))
            if agreed:
                break
        return readings

    def _believed(self, block: int, readings: Sequence[_Reading], due: Sequence[_Endpoint]) -> Electorate:
        """The electorate that two endpoints agree on, or that the only one of them gives which answers.

        Raises:
            ChainError: None answers, or no two agree.
        """
        if not readings:
            raise ChainError(self._reasons(due))
        *others, last = readings
        agreeing = [reading for reading in readings if reading.pins.pins == last.pins.pins]
        if len(agreeing) > 1:
            for other in others:
                if other not in agreeing:
                    self._put_off(other.endpoint, f"contradicts two others at block {block}")
            return self._take(agreeing)
        if others:
            self._disputed = block
            difference = _difference(others[0].pins, last.pins)
            self._dispute([reading.endpoint for reading in readings], f"disputed at block {block}: {difference}")
            raise ChainError(
                f"{others[0].endpoint.shown} and {last.endpoint.shown} contradict each other at block {block} "
                f"({difference}), so neither is believed: find out which one lies, and name others in [electorate] urls"
            )
        if block == self._disputed:
            self._dispute([last.endpoint], f"disputed at block {block}, and no other endpoint answers")
            raise ChainError(
                f"only {last.endpoint.shown} answers now, and endpoints contradicted each other at block {block}: "
                "waiting for two that agree"
            )
        if len(self._endpoints) > 1:
            log.warning("electorate_unconfirmed", block=block, endpoint=last.endpoint.shown)
        return self._take(agreeing)

    def _take(self, readings: Sequence[_Reading]) -> Electorate:
        """Give out what one or two endpoints say, and remember it for the next one's grace."""
        pins = readings[0].pins
        current = pins.pins[0]
        if len(pins.pins) == 2:
            previous: Pin | None = pins.pins[1]
        else:
            previous = self._last.pins[0] if self._earlier(current.block) is not None and self._last else None
        if pins.method is Method.MAPS and (self._last is None or self._last.method is not Method.MAPS):
            log.warning("electorate_from_maps", spec=pins.spec, note="this build cannot decode that runtime's calls")
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
        """How far an endpoint is; None when it fails, stands still, or has not even what is held."""
        try:
            heads = await self._reader.heads(HeadsRequest(endpoint.url, self._genesis))
        except ReadError as error:
            self._put_off(endpoint, str(error))
            return None
        now_ms = self._now_ms()
        if endpoint.block != heads.finalized:
            endpoint.block, endpoint.moved_ms = heads.finalized, now_ms
        endpoint.latency_ms = heads.latency_ms
        if heads.finalized < held.block:
            why = f"behind: its finalized block is {heads.finalized}, and the electorate of {held.block} is held"
        elif now_ms - max(endpoint.moved_ms, heads.finalized_ms) > BEHIND_MS_MAX:
            why = f"stands still: its finalized block has been {heads.finalized} for over {_MINUTES}"
        else:
            return heads
        self._put_off(endpoint, why)
        return None

    async def _pins(self, endpoint: _Endpoint, block: int, method: Method | None) -> Pins | None:
        """What an endpoint says of a block, and of the one before it unless that is known; None when it fails.

        Args:
            endpoint: Which one.
            block: The pinned block.
            method: How another endpoint was read, so that the two can be compared.
        """
        earlier = self._earlier(block)
        last = self._last
        known = last if last is not None and last.pins[0].block == earlier else None
        if method is Method.MAPS:
            method = None  # perhaps the runtime call is better here
        try:
            if earlier is None:
                return await self._read(endpoint, (block,), method)
            if known is not None:
                pins = await self._read(endpoint, (block,), method)
                if pins.method is known.method:
                    return pins
                method = pins.method
            return await self._read(endpoint, (block, earlier), method)
        except ReadError as error:
            self._put_off(endpoint, str(error))
            return None

    async def _read(self, endpoint: _Endpoint, blocks: tuple[int, ...], method: Method | None) -> Pins:
        pins = await self._reader.pins(PinsRequest(endpoint.url, self._genesis, self._netuid, blocks, method))
        if tuple(pin.block for pin in pins.pins) != blocks:
            raise ReadError(f"asked for blocks {blocks}, answered with {tuple(pin.block for pin in pins.pins)}")
        times = [pin.time_ms for pin in pins.pins]
        if times != sorted(set(times), reverse=True):
            raise ReadError(f"the time of block {blocks[0]} does not lie above that of block {blocks[-1]}")
        return pins

    def _pinned(self, finalized: int) -> int:
        """The latest pinned block at or below a finalized one; 0 is none."""
        return finalized - finalized % self._epoch_blocks

    def _earlier(self, block: int) -> int | None:
        """The pinned block before one; None where the chain has none (block 0 has no time)."""
        return block - self._epoch_blocks if block > self._epoch_blocks else None

    def _well(self, endpoint: _Endpoint) -> None:
        if endpoint.error is not None:
            log.info("chain_endpoint_well", endpoint=endpoint.shown)
        endpoint.error, endpoint.retry_ms, endpoint.step_ms = None, 0, 0
        endpoint.last_ok_ms = self._now_ms()

    def _put_off(self, endpoint: _Endpoint, why: str) -> None:
        if why != endpoint.error:
            log.warning("chain_endpoint_put_off", endpoint=endpoint.shown, error=why)
        endpoint.error = why
        endpoint.step_ms = min(2 * endpoint.step_ms, BACKOFF_MS_MAX) or BACKOFF_MS
        endpoint.retry_ms = self._now_ms() + round(endpoint.step_ms * self._rng.uniform(0.75, 1.0))

    def _reasons(self, due: Sequence[_Endpoint]) -> str:
        """One line for a poll in which no endpoint could be used."""
        failed = [endpoint for endpoint in due if endpoint.error is not None]
        shown = [f"{endpoint.shown}: {endpoint.error}" for endpoint in failed[:_SHOWN_MAX]]
        more = f"; and {len(failed) - _SHOWN_MAX} more" if len(failed) > _SHOWN_MAX else ""
        return f"the chain gives no electorate: {'; '.join(shown)}{more}"

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
        raise ConfigError("no electorate: expected urls or file in [electorate]")
    return ChainSource(settings.urls, network, held=held, now_ms=now_ms, rng=rng)


def _difference(one: Pins, other: Pins) -> str:
    """What two readings of the same blocks disagree on, in a few words."""
    counts = {"stakes": 0, "registrations": 0, "addresses": 0, "times": 0}
    for mine, theirs in zip(one.pins, other.pins, strict=True):
        counts["stakes"] += len(mine.validators.items() ^ theirs.validators.items())
        counts["registrations"] += len(mine.registered.items() ^ theirs.registered.items())
        counts["addresses"] += len(mine.addresses.items() ^ theirs.addresses.items())
        counts["times"] += mine.time_ms != theirs.time_ms
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) + " differ"
