"""Connections of the simulator: ordered or over, as long on the way as the map says, and harmed only as was asked."""

import itertools
import random
from typing import Any

import pytest

from tests.sim import atlas
from tests.sim.clock import Clock
from tests.sim.network import (
    BYTES_PER_MS,
    FRAME_OVERHEAD_BYTES,
    HANDSHAKE_MS_MAX,
    HEARTBEAT_MS,
    JITTER_SHARE,
    RETRY_MS_MIN,
    SILENCE_MS,
    Network,
    Rule,
)
from tests.sim.trace import Trace

ONE_WAY_MS = 40.0


class Toy:
    """An end that notes what happens to it, and when."""

    def __init__(self, index: int, clock: Clock) -> None:
        self.index = index
        self.name = f"toy{index}"
        self.reachable = True
        self.clock = clock
        self.open: list[int] = []
        self.happened: list[tuple[float, str, Any]] = []

    def _note(self, what: str, value: Any) -> None:
        self.happened.append((self.clock.now_ms, what, value))

    def opened(self, session: int, other: Any) -> None:
        self.open.append(session)
        self._note("opened", other.index)

    def closed(self, session: int) -> None:
        self.open.remove(session)
        self._note("closed", session)

    def received(self, session: int, frame: bytes) -> None:
        self._note("received", frame)

    def sent(self, session: int, size: int) -> None:
        self._note("sent", size)

    def dial_failed(self, other: Any) -> None:
        self._note("failed", other.index)

    def when(self, what: str) -> list[float]:
        return [at_ms for at_ms, happened, _ in self.happened if happened == what]

    @property
    def frames(self) -> list[bytes]:
        return [value for _, what, value in self.happened if what == "received"]


class Scene:
    """Two or more ends, all ONE_WAY_MS from each other."""

    def __init__(self, ends: int = 2) -> None:
        self.clock = Clock()
        self.network: Network[Toy] = Network(self.clock, "test", Trace(self.clock), lambda *_: ONE_WAY_MS)
        self.ends = [Toy(index, self.clock) for index in range(ends)]
        self.began_ms = self.clock.now_ms

    def connect(self) -> int:
        one, other = self.ends[:2]
        self.network.dial(one, other)
        self.clock.run_for(5 * ONE_WAY_MS)
        assert len(one.open) == len(other.open) == 1
        return one.open[0]

    def send(self, session: int, *frames: bytes, sender: int = 0) -> float:
        for frame in frames:
            self.network.send(self.ends[sender], session, frame)
        return self.clock.now_ms


class TestDialling:
    """A dial becomes a session of both ends, or the dialler is told that it failed."""

    def test_the_one_who_is_dialled_holds_the_session_half_a_round_trip_before_the_dialler(self) -> None:
        scene = Scene()
        scene.connect()
        one, other = scene.ends
        assert other.when("opened") == [scene.began_ms + 3 * ONE_WAY_MS]
        assert one.when("opened") == [scene.began_ms + 4 * ONE_WAY_MS]

    def test_dials_that_cross_become_one_session(self) -> None:
        scene = Scene()
        one, other = scene.ends
        scene.network.dial(one, other)
        scene.network.dial(other, one)
        scene.clock.run_for(HANDSHAKE_MS_MAX)
        assert one.open == other.open
        assert len(one.open) == 1
        assert len(one.when("failed")) + len(other.when("failed")) == 1

    def test_nobody_is_reached_who_is_down_or_cut_off_in_either_direction(self) -> None:
        scene = Scene(3)
        one, down, deaf = scene.ends
        down.reachable = False
        scene.network.cut("deaf", lambda sender, receiver: (sender, receiver) == (deaf.index, one.index))
        scene.network.dial(one, down)
        scene.network.dial(one, deaf)
        scene.clock.run_for(HANDSHAKE_MS_MAX)
        assert one.when("failed") == [scene.began_ms + 2 * ONE_WAY_MS, scene.began_ms + HANDSHAKE_MS_MAX]
        assert not one.open

    def test_a_new_session_takes_the_place_of_one_that_the_dialler_has_lost(self) -> None:
        scene = Scene()
        one, other = scene.ends
        lost = scene.connect()
        scene.network.crashed(one, silent=True)
        one.open.clear()
        scene.network.dial(one, other)
        scene.clock.run_for(5 * ONE_WAY_MS)
        assert one.open == other.open != [lost]


class TestFrames:
    """Frames come in the order in which they were sent, once each."""

    def test_a_frame_takes_as_long_as_the_map_says_and_a_little_jitter(self) -> None:
        scene = Scene()
        sent_ms = scene.send(scene.connect(), b"frame")
        scene.clock.run_for(1_000)
        (took_ms,) = (at_ms - sent_ms for at_ms in scene.ends[1].when("received"))
        assert ONE_WAY_MS <= took_ms <= ONE_WAY_MS * (1 + JITTER_SHARE) + 1

    def test_frames_keep_their_order_under_loss_and_delay(self) -> None:
        scene = Scene()
        session = scene.connect()
        for kind, share in (("loss", 0.2), ("delay", 0.5)):
            scene.network.impose(Rule(kind, share, random.Random(1), delay_ms=(1, 500)))
        frames = [bytes([number]) * 40 for number in range(200)]
        for frame in frames:
            scene.send(session, frame)
            scene.clock.run_for(3)
        scene.clock.run_for(60_000)
        assert scene.ends[1].frames == frames

    def test_a_lost_segment_is_sent_again_after_a_pause(self) -> None:
        scene = Scene()
        session = scene.connect()
        scene.network.impose(Rule("loss", 0.25, random.Random(2)))
        times_ms = []
        for _ in range(60):
            sent_ms = scene.send(session, b"frame")
            scene.clock.run_for(60_000)
            times_ms.append(scene.ends[1].when("received")[-1] - sent_ms)
        late = [took_ms for took_ms in times_ms if took_ms > ONE_WAY_MS * (1 + JITTER_SHARE) + 1]
        assert 5 <= len(late) <= 30
        assert min(late) >= RETRY_MS_MIN + ONE_WAY_MS
        assert max(late) >= 3 * RETRY_MS_MIN  # lost twice: the second pause is twice as long

    def test_a_large_frame_takes_its_time_and_holds_up_what_comes_behind_it(self) -> None:
        scene = Scene()
        session = scene.connect()
        sent_ms = scene.send(session, bytes(1_000_000), b"behind")
        scene.clock.run_for(10_000)
        assert [len(frame) for frame in scene.ends[1].frames] == [1_000_000, 6]
        assert scene.ends[1].when("received")[0] - sent_ms >= 1_000_000 / BYTES_PER_MS + ONE_WAY_MS
        assert sum(value for _, what, value in scene.ends[0].happened if what == "sent") == 1_000_006

    def test_a_slow_end_slows_what_it_is_sent_and_nobody_else(self) -> None:
        scene = Scene(3)
        one, slow, other = scene.ends
        scene.network.slow(slow.index, 1.0)
        scene.network.dial(one, slow)
        scene.network.dial(one, other)
        scene.clock.run_for(1_000)
        sent_ms = scene.send(one.open[0], bytes(5_000))
        scene.send(one.open[1], bytes(5_000))
        scene.clock.run_for(20_000)
        assert slow.when("received")[0] - sent_ms >= 5_000
        assert other.when("received")[0] - sent_ms < 100

    def test_all_sessions_of_an_end_share_its_line(self) -> None:
        scene = Scene(3)
        one, *others = scene.ends
        scene.network.limit_uplinks(10.0)
        for other in others:
            scene.network.dial(one, other)
        scene.clock.run_for(1_000)
        sent_ms = scene.clock.now_ms
        for session in one.open:
            scene.send(session, bytes(1_000 - FRAME_OVERHEAD_BYTES))
        scene.clock.run_for(1_000)
        for other, after_ms in zip(others, (100, 200), strict=True):
            took_ms = other.when("received")[0] - sent_ms
            assert after_ms + ONE_WAY_MS <= took_ms <= after_ms + ONE_WAY_MS * (1 + JITTER_SHARE)

    def test_what_is_sent_is_counted_with_what_the_channel_adds(self) -> None:
        scene = Scene()
        session = scene.connect()
        scene.send(session, b"12345", b"1234567890")
        traffic = scene.network.traffic(0)
        assert (traffic.frames, traffic.bytes) == (2, 15 + 2 * FRAME_OVERHEAD_BYTES)
        assert scene.network.traffic(1).frames == 0

    def test_heartbeats_of_quiet_sessions_are_counted(self) -> None:
        scene = Scene()
        session = scene.connect()
        scene.send(session, b"frame")
        scene.clock.run_for(3.5 * HEARTBEAT_MS)
        scene.network.count_heartbeats()
        assert [scene.network.traffic(index).heartbeats for index in (0, 1)] == [3, 3]
        assert scene.network.traffic(1).total_bytes == 3 * FRAME_OVERHEAD_BYTES


class TestTrouble:
    """What goes wrong between two ends."""

    def test_a_short_cut_delays_frames_and_loses_none(self) -> None:
        scene = Scene()
        session = scene.connect()
        scene.network.part({0: 0, 1: 1})
        scene.send(session, b"a", b"b")
        scene.clock.run_for(5_000)
        assert not scene.ends[1].frames
        scene.network.part({})
        scene.clock.run_for(5_100)
        assert scene.ends[1].frames == [b"a", b"b"]

    def test_a_long_cut_ends_the_session_by_the_silence(self) -> None:
        scene = Scene()
        scene.connect()
        cut_ms = scene.clock.now_ms
        scene.network.part({0: 0, 1: 1})
        scene.clock.run_for(SILENCE_MS[1])
        assert not scene.ends[0].open
        assert not scene.ends[1].open
        assert all(end.when("closed")[0] - cut_ms >= SILENCE_MS[0] for end in scene.ends)

    def test_a_cut_of_one_direction_lets_the_other_pass(self) -> None:
        scene = Scene()
        session = scene.connect()
        scene.network.cut("one way", lambda sender, _: sender == 0)
        scene.send(session, b"not heard")
        scene.send(session, b"heard", sender=1)
        scene.clock.run_for(1_000)
        assert scene.ends[0].frames == [b"heard"]
        assert not scene.ends[1].frames

    def test_nothing_leaves_where_nothing_passes(self) -> None:
        scene = Scene()
        session = scene.connect()
        scene.network.part({0: 0, 1: 1})
        scene.send(session, bytes(10))
        scene.clock.run_for(1_000)
        assert not scene.ends[0].when("sent")
        scene.network.part({})
        scene.clock.run_for(2_000)
        assert scene.ends[0].when("sent")

    @pytest.mark.parametrize("kind", ["duplicate", "reorder", "reset"])
    def test_what_the_channel_refuses_ends_the_session_at_both_ends(self, kind: str) -> None:
        scene = Scene()
        session = scene.connect()
        scene.network.impose(Rule(kind, 1.0, random.Random(1)))
        scene.send(session, b"frame")
        scene.clock.run_for(1_000)
        assert not scene.ends[0].open
        assert not scene.ends[1].open

    def test_who_closes_is_heard_to_the_end(self) -> None:
        scene = Scene()
        session = scene.connect()
        scene.send(session, b"last words")
        scene.network.close(scene.ends[0], session, "enough")
        scene.clock.run_for(1_000)
        assert [what for _, what, _ in scene.ends[1].happened] == ["opened", "received", "closed"]

    @pytest.mark.parametrize(("silent", "within_ms"), [(False, 2 * ONE_WAY_MS), (True, SILENCE_MS[1])])
    def test_a_crash_is_noticed_by_a_reset_or_by_the_silence(self, silent: bool, within_ms: float) -> None:
        scene = Scene()
        scene.connect()
        crashed_ms = scene.clock.now_ms
        scene.network.crashed(scene.ends[0], silent=silent)
        scene.clock.run_for(within_ms)
        (noticed_ms,) = scene.ends[1].when("closed")
        assert (noticed_ms - crashed_ms >= SILENCE_MS[0]) is silent

    def test_a_rule_for_some_ends_leaves_the_others_alone(self) -> None:
        scene = Scene()
        session = scene.connect()
        scene.network.impose(Rule("reset", 1.0, random.Random(1), ends={7}))
        scene.send(session, b"frame")
        scene.clock.run_for(1_000)
        assert scene.ends[1].frames == [b"frame"]

    def test_healing_ends_all_of_it(self) -> None:
        scene = Scene()
        session = scene.connect()
        scene.network.impose(Rule("reset", 1.0, random.Random(1)))
        scene.network.slow(0, 0.001)
        scene.network.part({0: 0, 1: 1})
        scene.network.heal()
        scene.send(session, b"frame")
        scene.clock.run_for(1_000)
        assert scene.ends[1].frames == [b"frame"]


class TestAtlas:
    """A map that was measured: nobody is nearer than the shortest path."""

    def test_it_is_symmetric_and_no_way_is_shorter_than_the_shortest(self) -> None:
        for a, b in itertools.product(range(len(atlas.REGIONS)), repeat=2):
            assert atlas.one_way_ms(a, b) == atlas.one_way_ms(b, a) >= atlas.shortest(a, b) > 0

    def test_no_detour_is_shorter_than_the_shortest_way(self) -> None:
        for a, b, via in itertools.product(range(len(atlas.REGIONS)), repeat=3):
            if a != b:
                assert atlas.shortest(a, b) <= atlas.shortest(a, via) + atlas.shortest(via, b) + 1e-9

    def test_known_distances(self) -> None:
        east_us, uk, australia = map(atlas.REGIONS.index, ("East US", "UK South", "Australia East"))
        assert atlas.one_way_ms(east_us, uk) == pytest.approx(39.0)
        assert atlas.one_way_ms(uk, australia) == pytest.approx(130.5)

    def test_all_regions_have_peers(self) -> None:
        places = atlas.draw(3 * len(atlas.REGIONS), random.Random(1))
        assert all(places.count(region) == 3 for region in range(len(atlas.REGIONS)))
