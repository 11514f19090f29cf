"""Connections between simulated ends, as TCP and the encrypted channel make them: ordered, or over.

TCP does not lose a frame and go on. A lost segment is sent again after a pause, and holds up what comes behind it;
after several losses in a row the connection breaks. Where a way is cut, what was sent waits, and arrives late if the
way is open again before an end has given up. A frame that comes twice or out of order is none of TCP's doing: the
channel refuses it, and the session ends.

An end is anything that speaks: a whole simulated daemon, or a light one of a benchmark. It dials whom it likes.
"""

import itertools
import math
import random
from collections.abc import Callable, Collection, Hashable
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from tests.sim.clock import Clock
from tests.sim.trace import Trace

BYTES_PER_MS: Final = 2_000
"""Speed of a connection in each direction, 16 Mbit/s: large frames delay what comes behind them."""

JITTER_SHARE: Final = 0.1
"""A frame takes up to this much longer than the map says, drawn for each."""

FRAME_OVERHEAD_BYTES: Final = 17 + 4
"""What a frame costs on the wire beside its own bytes: the channel's tag and byte of kind (17, libsodium's
secretstream), and a WebSocket header (2 or 4, and 4 of mask from who dialled: 4 on average for short frames)."""

HEARTBEAT_MS: Final = 10_000
"""Who has sent nothing for so long sends an empty frame (the driver's HEARTBEAT_S); counted, not carried."""

SILENCE_MS: Final = (20_000.0, 30_000.0)
"""An end gives up when it has heard nothing for 30 s (the driver's SILENCE_S_MAX); the last heartbeat was up to 10 s
before the way was cut."""

HANDSHAKE_ROUND_TRIPS: Final = 1.5
"""Until the one who is dialled has seen the proof, and holds the session; the dialler does half a round trip later."""

HANDSHAKE_MS_MAX: Final = 10_000.0
"""A dial that leads nowhere fails after this time."""

SEGMENT_BYTES: Final = 1_400
"""What one packet carries: a longer frame is lost more easily."""

RETRY_MS_MIN: Final = 200.0
"""Lower bound of TCP's pause before it sends a segment again, and two round trips where these are longer; it doubles
with each loss of the same segment (RFC 6298, with Linux's minimum)."""

LOSSES_MAX: Final = 7
"""A connection breaks when one segment was lost so often: after some 25 s with the shortest pauses."""


class End(Protocol):
    """Who takes part.

    Attributes:
        index: Its place on the map; no two ends have the same.
        name: For people.
    """

    index: int
    name: str

    @property
    def reachable(self) -> bool:
        """Whether it answers who dials."""

    def opened(self, session: int, other: Any) -> None:
        """A session with another end is open: dialled by either."""

    def closed(self, session: int) -> None:
        """A session has ended, whoever ended it."""

    def received(self, session: int, frame: bytes) -> None:
        """A frame has arrived."""

    def sent(self, session: int, size: int) -> None:
        """Frames of so many bytes have left."""

    def dial_failed(self, other: Any) -> None:
        """What this end dialled last of that other one did not become a session."""


EndT = TypeVar("EndT", bound=End)


class Traffic:
    """What an end has sent: frames, and bytes on the wire; heartbeats beside them."""

    __slots__ = ("bytes", "frames", "heartbeats")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.frames = 0
        self.bytes = 0
        self.heartbeats = 0

    @property
    def total_bytes(self) -> int:
        """Bytes on the wire with those of the heartbeats."""
        return self.bytes + self.heartbeats * FRAME_OVERHEAD_BYTES


class Rule:
    """What happens to some frames between some ends, for as long as it is in force.

    Attributes:
        kind: ``loss`` (of a segment), ``delay``, ``duplicate``, ``reorder`` or ``reset``.
        share: Of the segments or frames.
        rng: Chooses them.
        ends: Whose frames, sent or received; all of them if empty.
        delay_ms: Shortest and longest delay.
    """

    def __init__(
        self,
        kind: str,
        share: float,
        rng: random.Random,
        *,
        ends: Collection[int] = (),
        delay_ms: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Describe the rule; ``Network.impose`` puts it in force."""
        self.kind = kind
        self.share = share
        self.rng = rng
        self.ends = frozenset(ends)
        self.delay_ms = delay_ms

    def strikes(self, sender: int, receiver: int, times: int = 1) -> bool:
        """Whether it hits a frame of so many segments."""
        if self.ends and sender not in self.ends and receiver not in self.ends:
            return False
        share = self.share if times == 1 else 1 - (1 - self.share) ** times
        return self.rng.random() < share


class _Flow(Generic[EndT]):
    """One direction of a connection."""

    __slots__ = (
        "arrives_ms", "beaten_ms", "held", "latency_ms", "leaves_ms", "receiver", "sender", "stalled_ms", "unsent"
    )  # fmt: skip

    def __init__(self, sender: EndT, receiver: EndT, latency_ms: float, now_ms: float) -> None:
        self.sender = sender
        self.receiver = receiver
        self.latency_ms = latency_ms
        self.leaves_ms = 0.0
        """When the line is free again."""
        self.arrives_ms = 0.0
        """When the last frame arrives."""
        self.beaten_ms = now_ms
        """Up to when heartbeats are counted."""
        self.stalled_ms: float | None = None
        """Since when nothing gets through; what is under way waits in ``held``."""
        self.held: list[bytes | None] = []
        self.unsent = 0


class _Connection(Generic[EndT]):
    """A session: the ends that still hold it open, and both directions."""

    __slots__ = ("broken", "flows", "number", "open")

    def __init__(self, number: int, flows: tuple[_Flow[EndT], _Flow[EndT]]) -> None:
        self.number = number
        self.flows = flows
        self.open = [True, True]
        """Of the dialler and of the one who was dialled."""
        self.broken = False

    def flow_of(self, sender: EndT) -> _Flow[EndT]:
        return self.flows[0] if self.flows[0].sender is sender else self.flows[1]

    def flow_to(self, receiver: EndT) -> _Flow[EndT]:
        return self.flows[1] if self.flows[0].sender is receiver else self.flows[0]

    def side(self, end: EndT) -> int:
        return 0 if self.flows[0].sender is end else 1


Blocked = Callable[[int, int], bool]
"""Whether nothing gets from one end to another, given by index; the way back is asked for apart."""


class Network(Generic[EndT]):
    """All connections of a run."""

    def __init__(self, clock: Clock, seed: str, trace: Trace, latency_ms: Callable[[int, int], float]) -> None:
        """Begin without any.

        Args:
            clock: Virtual time.
            seed: From which the jitter of every end follows.
            trace: Told of sessions that begin and end, and of frames.
            latency_ms: How long a packet takes from one end to another, given by index.
        """
        self._clock = clock
        self._seed = seed
        self._trace = trace
        self._latency_ms = latency_ms
        self._numbers = itertools.count(1)
        self._connections: dict[int, _Connection[EndT]] = {}
        self._pairs: dict[tuple[int, int], _Connection[EndT]] = {}
        self._rngs: dict[int, random.Random] = {}
        self._traffic: dict[int, Traffic] = {}
        self._cuts: dict[Hashable, Blocked] = {}
        self._rules: dict[str, list[Rule]] = {}
        self._slow: dict[int, float] = {}
        self._uplink_bytes_per_ms = math.inf
        self._uplinks: dict[int, float] = {}
        """When each end's uplink is free again."""
        self._left: list[tuple[_Connection[EndT], _Flow[EndT], int]] = []
        self.watch: Callable[[EndT, EndT, bytes], None] | None = None
        """Called with sender, receiver and frame when a frame leaves, for those who count."""
        self.healed = False
        self.frames = 0

    # -- what is counted ---------------------------------------------------------------------------------------------

    def traffic(self, index: int) -> Traffic:
        """What an end has sent so far."""
        found = self._traffic.get(index)
        if found is None:
            found = self._traffic[index] = Traffic()
        return found

    def count_heartbeats(self) -> None:
        """Bring the count of heartbeats up to now."""
        for connection in self._connections.values():
            for side, flow in enumerate(connection.flows):
                if connection.open[side]:
                    self._beat(flow)

    def _beat(self, flow: _Flow[EndT]) -> None:
        beats = int((self._clock.now_ms - flow.beaten_ms) // HEARTBEAT_MS)
        if beats > 0:
            self.traffic(flow.sender.index).heartbeats += beats
            flow.beaten_ms += beats * HEARTBEAT_MS

    def sessions(self, end: EndT) -> list[int]:
        """Numbers of the sessions that an end holds open."""
        return [
            number for number, connection in self._connections.items()
            if any(connection.open[side] and flow.sender is end for side, flow in enumerate(connection.flows))
        ]  # fmt: skip

    def numbers(self) -> list[int]:
        """Numbers of the sessions that an end holds open, in order."""
        return list(self._connections)

    def peers(self, number: int) -> tuple[EndT, EndT] | None:
        """Who dialled and who was dialled, if an end still holds the session open."""
        connection = self._connections.get(number)
        return None if connection is None else (connection.flows[0].sender, connection.flows[1].sender)

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def part(self, sides: dict[int, int]) -> None:
        """Let only ends of one side (index -> side) talk to each other; an empty mapping joins them again."""
        if sides:
            self.cut("sides", lambda sender, receiver: sides.get(sender) != sides.get(receiver))
        else:
            self.mend("sides")

    def cut(self, name: Hashable, blocked: Blocked) -> None:
        """Let nothing pass where ``blocked`` says so, until ``mend`` is called with the same name."""
        self._cuts[name] = blocked
        self._look_at_cuts()

    def mend(self, name: Hashable) -> None:
        """Undo a cut; other cuts stay."""
        if self._cuts.pop(name, None) is not None:
            self._look_at_cuts()

    def _look_at_cuts(self) -> None:
        for connection in self._connections.values():
            for flow in connection.flows:
                blocked = self.blocked(flow.sender.index, flow.receiver.index)
                if blocked and flow.stalled_ms is None:
                    self._stall(connection, flow)
                elif not blocked and flow.stalled_ms is not None and connection.open[connection.side(flow.sender)]:
                    self._resume_later(connection, flow, flow.stalled_ms)

    def blocked(self, sender: int, receiver: int) -> bool:
        """Whether a cut lets nothing pass from one end to another."""
        return any(blocked(sender, receiver) for blocked in self._cuts.values())

    def impose(self, rule: Rule) -> None:
        """Put a rule in force."""
        self._rules.setdefault(rule.kind, []).append(rule)

    def lift(self, rule: Rule) -> None:
        """Put a rule out of force."""
        if rule in (rules := self._rules.get(rule.kind, [])):
            rules.remove(rule)

    def slow(self, index: int, bytes_per_ms: float | None) -> None:
        """Let an end read and write no faster than this; None: as fast as all others."""
        if bytes_per_ms is None:
            self._slow.pop(index, None)
        else:
            self._slow[index] = bytes_per_ms

    def limit_uplinks(self, bytes_per_ms: float) -> None:
        """Let what an end sends on all its sessions share a line of this speed, besides each session's own."""
        self._uplink_bytes_per_ms = bytes_per_ms

    def heal(self) -> None:
        """No faults from now on."""
        self.healed = True
        self._rules.clear()
        self._slow.clear()
        self._cuts.clear()
        self._look_at_cuts()

    def _stall(self, connection: _Connection[EndT], flow: _Flow[EndT]) -> None:
        """Let nothing pass in one direction any more; its receiver gives up when it has heard nothing for long."""
        flow.stalled_ms = since_ms = self._clock.now_ms

        def give_up() -> None:
            if flow.stalled_ms == since_ms and connection.open[connection.side(flow.receiver)]:
                self.close(flow.receiver, connection.number, "nothing was heard for long")

        self._clock.after(self._rng(flow.receiver.index).uniform(*SILENCE_MS), give_up)

    def _resume_later(self, connection: _Connection[EndT], flow: _Flow[EndT], since_ms: float) -> None:
        """Let things pass again, once TCP tries: its pauses have grown to as long as the cut lasted."""
        lasted_ms = self._clock.now_ms - since_ms

        def resume() -> None:
            if flow.stalled_ms == since_ms and not self.blocked(flow.sender.index, flow.receiver.index):
                self._resume(connection, flow)

        self._clock.after(self._rng(flow.sender.index).uniform(0, lasted_ms), resume)

    def _resume(self, connection: _Connection[EndT], flow: _Flow[EndT]) -> None:
        flow.stalled_ms = None
        held, flow.held = flow.held, []
        for frame in held:
            if frame is None:
                self._end(connection, flow.receiver)
            else:
                self._arrive(connection, flow, frame)
        if flow.unsent and connection.open[connection.side(flow.sender)]:
            size, flow.unsent = flow.unsent, 0
            flow.sender.sent(connection.number, size)

    # -- sessions ----------------------------------------------------------------------------------------------------

    def dial(self, one: EndT, other: EndT) -> None:
        """Let one end dial another; it is told by ``opened`` or by ``dial_failed``."""
        there_ms, back_ms = self._latency(one, other), self._latency(other, one)
        if self.blocked(one.index, other.index) or self.blocked(other.index, one.index):
            self._clock.after(HANDSHAKE_MS_MAX, partial(self._fail, one, other))
        elif not other.reachable:
            self._clock.after(there_ms + back_ms, partial(self._fail, one, other))
        else:
            proved_ms = (there_ms + back_ms) * HANDSHAKE_ROUND_TRIPS
            self._clock.after(proved_ms, partial(self._proved, one, other, self._clock.now_ms))

    def _fail(self, one: EndT, other: EndT) -> None:
        if one.reachable:
            one.dial_failed(other)

    def _proved(self, one: EndT, other: EndT, began_ms: float) -> None:
        """The one who was dialled has seen the proof."""
        lost = (
            self.blocked(one.index, other.index)
            or self.blocked(other.index, one.index)
            or self._strikes("loss", one, other, LOSSES_MAX) is not None
        )
        if not one.reachable or not other.reachable or lost:
            rest_ms = HANDSHAKE_MS_MAX - (self._clock.now_ms - began_ms)
            self._clock.after(max(0.0, rest_ms), partial(self._fail, one, other))
            return
        held = self._pairs.get(_pair(one, other))
        if held is not None and held.open[held.side(one)]:
            self._fail(one, other)  # dials that crossed: the session that is there goes on
            return
        if held is not None and held.open[held.side(other)]:  # the dialler has lost it: the new one takes its place
            self._end(held, other)
        now_ms = self._clock.now_ms
        connection = _Connection(
            next(self._numbers),
            (
                _Flow(one, other, self._latency(one, other), now_ms),
                _Flow(other, one, self._latency(other, one), now_ms),
            ),
        )
        self._connections[connection.number] = self._pairs[_pair(one, other)] = connection
        self._trace(one.name, "session", f"{connection.number} with {other.name}")
        connection.open[0] = False  # not yet
        other.opened(connection.number, one)
        welcome = connection.flows[1]
        welcome.arrives_ms = max(welcome.arrives_ms, now_ms + welcome.latency_ms)
        self._clock.after(welcome.latency_ms, partial(self._welcomed, connection, one, other))

    def _welcomed(self, connection: _Connection[EndT], one: EndT, other: EndT) -> None:
        if (
            connection.broken
            or not connection.open[1]
            or not one.reachable
            or connection.flows[1].stalled_ms is not None
        ):
            self._fail(one, other)
            if connection.open[1]:
                self._clock.after(connection.flows[0].latency_ms, partial(self._end, connection, other))
            else:
                self._forget(connection)
            return
        connection.open[0] = True
        one.opened(connection.number, other)

    def close(self, end: EndT, number: int, reason: str) -> None:
        """Let one end end the session; the other hears of it behind what was sent before."""
        connection = self._connections.get(number)
        if connection is None or not connection.open[connection.side(end)]:
            return
        self._trace(end.name, "closes", f"{number}: {reason}")
        flow = connection.flow_of(end)
        self._end(connection, end)
        self._clock.after(
            max(flow.arrives_ms, self._clock.now_ms + flow.latency_ms) - self._clock.now_ms,
            partial(self._fin, connection, flow),
        )

    def _fin(self, connection: _Connection[EndT], flow: _Flow[EndT]) -> None:
        if flow.stalled_ms is None:
            self._end(connection, flow.receiver)
        else:
            flow.held.append(None)

    def crashed(self, end: EndT, *, silent: bool | None = None) -> None:
        """Note that an end is gone: the others find out by a reset, or, if its whole host went, by its silence.

        Args:
            end: It takes part no more until it is reachable again.
            silent: Whether its host went; drawn unless given.
        """
        if silent is None:
            silent = self._rng(end.index).random() < 0.5
        for number in self.sessions(end):
            connection = self._connections[number]
            flow = connection.flow_of(end)
            connection.open[connection.side(end)] = False
            if not connection.open[connection.side(flow.receiver)]:
                self._forget(connection)
            elif silent:
                if flow.stalled_ms is None:
                    self._stall(connection, flow)
            else:
                self._clock.after(flow.latency_ms, partial(self._fin, connection, flow))

    def reset(self, number: int, reason: str) -> None:
        """Break a session on its way: both ends find out, and what was under way is lost."""
        connection = self._connections.get(number)
        if connection is None or connection.broken:
            return
        connection.broken = True
        self._trace("net", "reset", f"{number}: {reason}")
        for flow in connection.flows:
            self._clock.after(flow.latency_ms, partial(self._end, connection, flow.receiver))

    def _end(self, connection: _Connection[EndT], end: EndT) -> None:
        side = connection.side(end)
        if connection.open[side]:
            connection.open[side] = False
            self._beat(connection.flows[side])
            if not connection.open[1 - side]:
                self._forget(connection)
            end.closed(connection.number)

    def _forget(self, connection: _Connection[EndT]) -> None:
        one, other = connection.flows[0].sender, connection.flows[1].sender
        self._connections.pop(connection.number, None)
        if self._pairs.get(_pair(one, other)) is connection:
            del self._pairs[_pair(one, other)]

    # -- frames ------------------------------------------------------------------------------------------------------

    def send(self, sender: EndT, number: int, frame: bytes) -> None:
        """Carry a frame to the other end of a session."""
        connection = self._connections.get(number)
        if connection is None or not connection.open[connection.side(sender)]:
            return
        flow = connection.flow_of(sender)
        size = len(frame) + FRAME_OVERHEAD_BYTES
        now_ms = self._clock.now_ms
        speed: float = BYTES_PER_MS
        if self._slow:
            speed = min(speed, *(self._slow.get(end.index, speed) for end in (sender, flow.receiver)))
        if self._uplink_bytes_per_ms != math.inf:
            free_ms = max(self._uplinks.get(sender.index, 0.0), now_ms)
            self._uplinks[sender.index] = free_ms + size / self._uplink_bytes_per_ms
            flow.leaves_ms = max(flow.leaves_ms, free_ms)
            speed = min(speed, self._uplink_bytes_per_ms)
        if flow.leaves_ms <= now_ms and size <= speed:
            flow.leaves_ms = now_ms + size / speed
            if not self._left:
                self._clock.after(0, self._flush)
            self._left.append((connection, flow, len(frame)))
        else:
            flow.leaves_ms = max(flow.leaves_ms, now_ms) + size / speed
            self._clock.after(flow.leaves_ms - now_ms, partial(self._leave, connection, flow, len(frame)))
        if now_ms - flow.beaten_ms >= HEARTBEAT_MS:
            self._beat(flow)
        flow.beaten_ms = now_ms
        traffic = self.traffic(sender.index)
        traffic.frames += 1
        traffic.bytes += size
        self.frames += 1
        self._trace.frame(frame)
        if self.watch is not None:
            self.watch(sender, flow.receiver, frame)
        jitter = 1 + JITTER_SHARE * self._rng(sender.index).random()
        arrives_ms = flow.leaves_ms + flow.latency_ms * jitter
        if self._rules:
            delay_ms = self._weather(connection, flow, size)
            if delay_ms is None:
                return
            arrives_ms += delay_ms
        flow.arrives_ms = arrives_ms = max(arrives_ms, flow.arrives_ms)
        self._clock.after(arrives_ms - now_ms, partial(self._arrive, connection, flow, frame))

    def _flush(self) -> None:
        """Report what small frames have left since the last event of the clock."""
        left, self._left = self._left, []
        sizes: dict[int, tuple[_Connection[EndT], _Flow[EndT], int]] = {}
        for connection, flow, size in left:
            before = sizes.get(id(flow))
            sizes[id(flow)] = connection, flow, size + (before[2] if before else 0)
        for connection, flow, size in sizes.values():
            self._leave(connection, flow, size)

    def _leave(self, connection: _Connection[EndT], flow: _Flow[EndT], size: int) -> None:
        if not connection.open[connection.side(flow.sender)]:
            return
        if flow.stalled_ms is None:
            flow.sender.sent(connection.number, size)
        else:  # the kernel takes nothing more
            flow.unsent += size

    def _arrive(self, connection: _Connection[EndT], flow: _Flow[EndT], frame: bytes) -> None:
        if connection.broken or not connection.open[connection.side(flow.receiver)]:
            return
        if flow.stalled_ms is None:
            flow.receiver.received(connection.number, frame)
        else:
            flow.held.append(frame)

    def _strikes(self, kind: str, sender: EndT, receiver: EndT, times: int = 1) -> Rule | None:
        for rule in self._rules.get(kind, ()):
            if rule.strikes(sender.index, receiver.index, times):
                return rule
        return None

    def _weather(self, connection: _Connection[EndT], flow: _Flow[EndT], size: int) -> float | None:
        """How much later a frame arrives by what the rules do to it; None if it takes its session with it."""
        one, other, delay_ms = flow.sender, flow.receiver, 0.0
        if self._rules.get("loss") and (rule := self._strikes("loss", one, other, math.ceil(size / SEGMENT_BYTES))):
            pause_ms, losses = max(RETRY_MS_MIN, 4 * flow.latency_ms), 1
            delay_ms += pause_ms
            while rule.rng.random() < rule.share:
                losses += 1
                pause_ms *= 2
                delay_ms += pause_ms
                if losses == LOSSES_MAX:
                    self._clock.after(delay_ms, partial(self.reset, connection.number, "a segment was lost too often"))
                    return None
        if self._rules.get("delay") and (rule := self._strikes("delay", one, other)):
            delay_ms += rule.rng.uniform(*rule.delay_ms)
        for kind, what in (("duplicate", "a frame came twice"), ("reorder", "frames came out of order")):
            if self._rules.get(kind) and self._strikes(kind, one, other):
                self._clock.after(
                    flow.latency_ms + delay_ms, partial(self.close, other, connection.number, f"{what}: not decrypted")
                )
        if self._rules.get("reset") and self._strikes("reset", one, other):
            self.reset(connection.number, "reset on the way")
            return None
        return delay_ms

    def _latency(self, one: EndT, other: EndT) -> float:
        return self._latency_ms(one.index, other.index)

    def _rng(self, index: int) -> random.Random:
        found = self._rngs.get(index)
        if found is None:
            found = self._rngs[index] = random.Random(f"{self._seed} network {index}")
        return found


def _pair(one: End, other: End) -> tuple[int, int]:
    return (one.index, other.index) if one.index < other.index else (other.index, one.index)
