"""Patient time: what a daemon did not live, or lived late, is no peer's fault."""

from p2pnodes.gossip.timeline import CALM_MS, LATE_MS, SLOWNESS_MAX, STEP_MS_MAX, STILL_MS, Timeline

TICK_MS = 250
WALL_MS = 1_700_000_000_000


class Daemon:
    """A timeline with a wall clock, ticked like an engine's."""

    def __init__(self) -> None:
        self.now_ms = WALL_MS
        self.time = Timeline()
        self.time.tick(self.now_ms, TICK_MS)

    def tick(self, after_ms: int = TICK_MS) -> None:
        self.now_ms += after_ms
        self.time.tick(self.now_ms, TICK_MS)

    def live(self, ms: int) -> None:
        for _ in range(ms // TICK_MS):
            self.tick()


class TestTimeInTicks:
    """While ticks are in time, all clocks agree."""

    def test_patient_time_is_steady_time(self) -> None:
        daemon = Daemon()
        daemon.live(60_000)
        assert daemon.time.patient_ms == daemon.time.ms == 60_000
        assert daemon.time.status() == {"lag_ms": 0, "slowness": 1}

    def test_a_tick_that_is_a_little_late_changes_nothing(self) -> None:
        daemon = Daemon()
        daemon.tick(TICK_MS + LATE_MS - 1)
        assert daemon.time.slowness == 1
        assert daemon.time.lag_ms == LATE_MS - 1

    def test_a_clock_set_back_moves_neither(self) -> None:
        daemon = Daemon()
        daemon.tick(-3_600_000)
        assert (daemon.time.ms, daemon.time.patient_ms, daemon.time.slowness) == (0, 0, 1)
        assert daemon.time.wall_ms == WALL_MS - 3_600_000
        daemon.live(1_000)
        assert daemon.time.ms == daemon.time.patient_ms == 1_000


class TestStandstill:
    """A process that was stopped, or a machine that was paused."""

    def test_a_standstill_counts_for_next_to_nothing(self) -> None:
        daemon = Daemon()
        daemon.tick(40_000)
        assert daemon.time.patient_ms <= STILL_MS
        assert daemon.time.ms == STEP_MS_MAX
        assert daemon.time.lag_ms == 40_000 - TICK_MS

    def test_that_holds_also_when_frames_are_handed_over_before_the_first_tick(self) -> None:
        daemon = Daemon()
        daemon.now_ms += 40_000
        daemon.time.advance(daemon.now_ms)
        daemon.tick(1)
        assert daemon.time.patient_ms <= STILL_MS + 1
        assert daemon.time.slowness == SLOWNESS_MAX

    def test_afterwards_peers_are_distrusted_little_by_little(self) -> None:
        daemon = Daemon()
        daemon.tick(40_000)
        assert daemon.time.slowness == SLOWNESS_MAX
        before = daemon.time.patient_ms
        daemon.live(CALM_MS)
        assert daemon.time.patient_ms - before <= CALM_MS // (SLOWNESS_MAX - 1)
        daemon.live(SLOWNESS_MAX * CALM_MS)
        assert daemon.time.slowness == 1


class TestLateLoop:
    """A loop that has too much to do."""

    def test_a_loop_that_stays_late_stretches_timeouts_up_to_the_bound(self) -> None:
        daemon = Daemon()
        for _ in range(100):
            daemon.tick(TICK_MS + LATE_MS)
        assert daemon.time.slowness == SLOWNESS_MAX
        steady, patient = daemon.time.ms, daemon.time.patient_ms
        for _ in range(40):
            daemon.tick(TICK_MS + LATE_MS)
        assert daemon.time.ms - steady == 40 * (TICK_MS + LATE_MS)
        assert daemon.time.patient_ms - patient == 40 * STILL_MS // SLOWNESS_MAX

    def test_many_small_steps_between_late_ticks_are_slowed_too(self) -> None:
        daemon = Daemon()
        for _ in range(20):
            for _ in range(50):  # frames, each in time
                daemon.now_ms += 40
                daemon.time.advance(daemon.now_ms)
            daemon.tick()
        assert daemon.time.slowness == SLOWNESS_MAX
        assert daemon.time.patient_ms < daemon.time.ms / 3

    def test_patient_time_never_stands_still_for_ever(self) -> None:
        daemon = Daemon()
        for _ in range(10_000):
            daemon.tick(3_000)
        assert daemon.time.patient_ms >= 10_000 * STILL_MS // SLOWNESS_MAX

    def test_neither_clock_ever_runs_backwards(self) -> None:
        daemon = Daemon()
        seen = [(0, 0)]
        for step in (1, 250, 5_000, -10_000, 0, 250, 90_000, 250, 250):
            daemon.tick(step)
            seen.append((daemon.time.ms, daemon.time.patient_ms))
        assert seen == sorted(seen)
