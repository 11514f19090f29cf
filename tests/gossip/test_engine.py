"""New events reach every peer once; what cannot be stored costs nobody but its author."""

import pytest

from p2pnodes.gossip import engine as engine_module
from p2pnodes.gossip.backoff import BACKOFF_MS, BACKOFF_MS_MAX, Backoffs
from p2pnodes.gossip.effects import NOTICES, QUEUE_BYTES_MAX
from p2pnodes.gossip.engine import (
    BEHIND_MS_MAX,
    BEHIND_OVER,
    QUEUE_BYTES_DRAINED,
    STORE_RETRY_MS,
    TICK_MS,
    Close,
)
from p2pnodes.gossip.frames import (
    ALL_SLICES,
    FRAME_BYTES_MAX,
    Digest,
    Events,
    Range,
    Vector,
    Want,
)
from p2pnodes.gossip.timeline import STEP_MS_MAX
from p2pnodes.model.clock import SKEW_AHEAD_MS_MAX
from p2pnodes.model.events import Event, LogId
from tests.gossip.harness import Net, Node, entry, peer_of
from tests.support import NOW_MS, VALIDATORS, Author, add, electorate, forks

A, B, C = VALIDATORS


def three() -> tuple[Net, Node, Node, Node]:
    """Three nodes that know each other's logs, with open sessions and nothing under way."""
    a, b, c = nodes = [Node(uri) for uri in VALIDATORS]
    known = [node.author.delegate() for node in nodes]
    for node in nodes:
        node.holds(*known)
    net = Net(a, b, c)
    net.join_all()
    net.run()
    for node in nodes:
        node.said.clear()
    return net, a, b, c


def said(node: Node, kind: type) -> int:
    return sum(isinstance(frame, kind) for frame in node.said)


class TestPush:
    """An event that is new here goes to every session whose peer is not known to hold it."""

    def test_what_is_stored_in_a_log_that_is_gone_by_now_is_not_pushed(self) -> None:
        """A certificate may have come with it whose live set does not name that log; what else was stored goes on."""
        net, a, b, _ = three()
        gone, other = Author(A, number=9).delegate(), a.author.add(add("//Alice", ["gpu-1"]))
        a.holds(other)
        a.do(a.engine.appended([gone, other], a.now_ms))
        net.run()
        assert (b.head(gone.log), b.head(other.log)) == (-1, 1)

    def test_an_own_event_reaches_all_peers(self) -> None:
        net, a, b, c = three()
        a.writes(a.author.add(add("//Alice", ["gpu-1"])))
        net.run()
        assert net.agree()
        assert b.ledger.state.nodes == c.ledger.state.nodes == 1

    def test_an_event_is_passed_on_to_peers_that_its_author_does_not_reach(self) -> None:
        net, a, b, c = three()
        net.cut(2)  # a and c
        a.writes(a.author.add(add("//Alice", ["gpu-1"])))
        net.run()
        assert c.head(a.author.log) == 1
        assert said(b, Events) == 1

    def test_an_event_is_not_sent_back_to_where_it_came_from(self) -> None:
        net, a, b, _ = three()
        net.cut(2)
        net.cut(3)
        a.writes(a.author.add(add("//Alice", ["gpu-1"])))
        net.run()
        assert b.head(a.author.log) == 1
        assert said(b, Events) == 0

    def test_events_of_one_moment_share_a_frame(self) -> None:
        net, a, b, _ = three()
        a.writes(*[a.author.verdict(bytes([number] * 32)) for number in range(100)])
        assert said(a, Events) == 2  # one to each peer
        net.run()
        assert b.head(a.author.log) == 100

    def test_history_is_not_pushed_back_to_peers_that_said_they_hold_it(self) -> None:
        a, b, new = (Node(uri) for uri in VALIDATORS)
        history = [a.author.delegate(), *[a.author.verdict(bytes([number] * 32)) for number in range(20)]]
        a.holds(*history)
        b.holds(*history)
        net = Net(a, b, new)
        net.join_all()
        net.run()
        assert new.head(a.author.log) == 20
        assert said(new, Events) == 0


class TestOnce:
    """An event is stored once, however many peers send it."""

    def sent_by_two(self) -> tuple[Node, Event]:
        net, a, b, c = three()
        event = a.author.verdict(bytes(32))
        frame = Events([event.wire]).encode()
        b.hear(1, frame)
        b.hear(3, frame)
        del net, c
        return b, event

    def test_an_event_that_is_being_stored_is_not_stored_again(self) -> None:
        b, event = self.sent_by_two()
        assert [effect.events for effect in b.stores] == [(event,)]

    def test_an_event_that_was_just_stored_is_not_stored_again(self) -> None:
        b, event = self.sent_by_two()
        b.settle()
        b.hear(3, Events([event.wire]).encode())
        assert not b.stores
        assert b.row(1)["duplicates"] == 2

    def test_the_second_sender_is_not_sent_the_event(self) -> None:
        b, _ = self.sent_by_two()
        b.settle()
        assert said(b, Events) == 0

    def test_the_echo_of_an_own_event_is_not_stored(self) -> None:
        _, a, _, _ = three()
        event = a.author.verdict(bytes(32))
        a.writes(event)
        a.hear(1, Events([event.wire]).encode())
        assert not a.stores

    def test_an_event_whose_store_failed_is_taken_from_the_next_sender(self) -> None:
        b, event = self.sent_by_two()
        b.disk_fails = True
        b.settle()
        b.disk_fails = False
        b.tick(STORE_RETRY_MS)
        b.hear(3, Events([event.wire]).encode())
        b.settle()
        assert b.head(event.log) == 1

    def test_an_event_whose_session_ended_before_it_was_stored_is_taken_from_the_next_sender(self) -> None:
        b, event = self.sent_by_two()
        b.stores.clear()  # the driver dropped it with the session
        b.do(b.engine.closed(1, b.now_ms))
        b.hear(3, Events([event.wire]).encode())
        b.settle()
        assert b.head(event.log) == 1

    def test_an_event_that_is_stored_after_its_session_ended_is_passed_on(self) -> None:
        _, a, b, _ = three()
        b.hear(1, Events([a.author.verdict(bytes(32)).wire]).encode())
        b.do(b.engine.closed(1, b.now_ms))
        b.settle()
        assert b.head(a.author.log) == 1
        assert said(b, Events) == 1  # to c

    def test_a_broken_copy_does_not_keep_the_true_event_out(self) -> None:
        _, a, b, _ = three()
        event = a.author.verdict(bytes(32))
        broken = Author(A, seed=3).verdict(bytes(32))
        wire = event.wire.replace(event.signature, broken.signature)
        b.hear(3, Events([wire]).encode())
        b.hear(1, Events([event.wire]).encode())
        b.settle()
        assert b.head(event.log) == 1
        assert [close.session for close in b.closes] == [3]

    def test_a_replayed_frame_changes_nothing(self) -> None:
        net, a, b, _ = three()
        a.writes(a.author.add(add("//Alice", ["gpu-1"])))
        frame = a.outgoing[1][0]
        net.run()
        before = b.ledger.state
        for _ in range(3):
            b.hear(1, frame)
        net.run()
        assert b.ledger.state == before
        assert not b.closes

    def test_what_is_remembered_of_stored_events_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.gossip.intake.SEEN_MAX", 10)
        net, a, b, _ = three()
        net.cut(3)
        events = [a.author.verdict(bytes([number] * 32)) for number in range(30)]
        a.writes(*events)
        net.run()
        assert len(b.engine._intake._seen) == 10
        b.hear(1, Events([event.wire for event in events]).encode())  # forgotten: the store knows them
        assert [len(effect.events) for effect in b.stores] == [20]
        net.run()
        assert b.head(a.author.log) == 30
        assert not b.closes


class TestOutcomes:
    """What the store says about an event, and what follows."""

    def test_a_void_event_is_stored_passed_on_and_noticed_with_its_reason(self) -> None:
        net, a, b, c = three()
        request = add("//Alice", ["gpu-1"])
        forged = request._replace(signature=bytes(64))
        a.holds(event := a.author.add(forged))
        a.do(a.engine.appended([event], a.now_ms))
        net.run()
        assert c.head(a.author.log) == 1
        assert b.ledger.state.nodes == 0
        (noticed,) = b.noticed("void_event")
        assert noticed["reason"] == "the request does not carry its miner's signature"
        assert noticed["seq"] == 1
        assert not b.closes

    def test_a_forged_event_closes_the_session_and_bans_its_peer(self) -> None:
        _, a, b, c = three()
        event = a.author.verdict(bytes(32))
        wire = event.wire.replace(event.signature, bytes(64))
        b.hear(1, Events([wire]).encode())
        b.settle()
        (close,) = b.closes
        assert close.session == 1
        assert close.ban_s > 0
        assert "forged event, seq 1" in close.reason
        assert said(b, Events) == 0
        assert not c.closes

    def test_good_events_beside_a_forged_one_are_kept(self) -> None:
        _, a, b, _ = three()
        good, bad = a.author.verdict(bytes(32)), a.author.verdict(bytes(32))
        b.hear(1, Events([good.wire, bad.wire.replace(bad.signature, bytes(64))]).encode())
        b.settle()
        assert b.head(a.author.log) == 1
        assert said(b, Events) == 1  # to c
        assert len(b.closes) == 1

    def test_a_fork_is_noticed_and_costs_nobody_the_session(self) -> None:
        _, a, b, _ = three()
        twin = Author(A)
        twin.events, twin.head = a.author.events[:], a.author.head
        b.holds(a.author.verdict(bytes(32)))
        b.hear(1, Events([twin.verdict(b"x" * 32).wire]).encode())
        b.settle()
        (noticed,) = b.noticed("fork")
        assert noticed["seq"] == 1
        assert len(forks(b.ledger)) == 1
        assert not b.closes

    def test_an_event_ahead_of_the_clock_is_stored_once_the_clock_has_caught_up(self) -> None:
        net, a, b, c = three()
        ahead_ms = 10_000
        event = a.author.verdict(bytes(32), at_ms=NOW_MS + SKEW_AHEAD_MS_MAX + ahead_ms)
        a.now_ms += ahead_ms  # a's clock is ahead, and so it may store what the others must not yet
        a.writes(event)
        net.run()
        assert b.head(a.author.log) == 0
        assert b.noticed("event_ahead")
        net.run(ahead_ms - 2_000)
        assert b.head(a.author.log) == 0
        net.run(30_000)
        assert b.head(a.author.log) == c.head(a.author.log) == 1

    def test_an_unpermitted_log_is_refused_and_asked_for_less_and_less_often(self) -> None:
        a, b = Node(A), Node(B, electorate(stakes={A: 100, B: 100}))
        a.holds(a.author.delegate(), Author(C).delegate())
        net = Net(a, b)
        net.join_all()
        net.run()
        assert b.head(Author(C).log) == -1
        assert b.noticed("event_refused")
        assert not b.closes
        b.said.clear()
        net.run(20 * BACKOFF_MS)
        assert 1 <= said(b, Want) <= 4

    def test_a_refused_log_is_fetched_soon_after_its_author_got_a_permit(self) -> None:
        a, b = Node(A), Node(B, electorate(stakes={A: 100, B: 100}))
        author = Author(C)
        a.holds(a.author.delegate(), author.delegate(), author.verdict(bytes(32)))
        net = Net(a, b)
        net.join_all()
        net.run(60_000)
        assert b.head(author.log) == -1
        with b.ledger.transaction():
            b.ledger.set_electorate(electorate(block=200))
        net.run(1_000)
        assert b.head(author.log) == 1
        assert net.agree() is (a.ledger.state.state_root == b.ledger.state.state_root)

    def test_pushed_events_of_a_refused_log_do_not_reach_the_store(self) -> None:
        a, b = Node(A), Node(B)
        author = Author(C)
        known = [author.delegate()]
        a.holds(*known)
        b.holds(*known)
        b.open(1, peer_of(a.author))
        with b.ledger.transaction():
            b.ledger.set_electorate(electorate(block=200, stakes={A: 100, B: 100}))
        b.tick()
        refused = Events([author.verdict(bytes(32)).wire]).encode()
        b.hear(1, refused)
        b.settle()
        assert b.noticed("event_refused")
        b.hear(1, refused)
        assert not b.stores

    def test_after_a_failed_store_nothing_is_offered_to_it_for_a_while(self) -> None:
        net, a, b, _ = three()
        b.disk_fails = True
        a.writes(a.author.verdict(bytes(32)))
        net.run()
        a.writes(a.author.verdict(b"x" * 32))
        b.hear(1, a.write_out(1))
        assert not b.stores
        b.tick(STORE_RETRY_MS - 1)
        assert not any(isinstance(frame, Want) for frame in b.said)
        b.disk_fails = False
        net.run(1_000)
        assert b.head(a.author.log) == 2


class TestBackoffs:
    """Logs are left alone for a while, and for longer when that did not help."""

    LOG = Author(C).log

    def test_a_pause_doubles_each_time_up_to_its_bound(self) -> None:
        backoffs = Backoffs()
        time_ms, pauses = 0, []
        for _ in range(10):
            assert backoffs.fail(self.LOG, time_ms, refused=True)
            began = time_ms
            while backoffs.holds(self.LOG, time_ms):
                time_ms += BACKOFF_MS
            pauses.append(time_ms - began)
        assert pauses[:4] == [BACKOFF_MS, 2 * BACKOFF_MS, 4 * BACKOFF_MS, 8 * BACKOFF_MS]
        assert pauses[-1] == BACKOFF_MS_MAX

    def test_more_failures_during_a_pause_do_not_make_it_longer(self) -> None:
        backoffs = Backoffs()
        backoffs.fail(self.LOG, 0, refused=False)
        assert not backoffs.fail(self.LOG, 1, refused=False)
        assert not backoffs.holds(self.LOG, BACKOFF_MS)

    def test_a_new_electorate_frees_what_was_refused_and_not_what_forked(self) -> None:
        backoffs = Backoffs()
        forked = Author(B).log
        backoffs.fail(self.LOG, 0, refused=True)
        backoffs.fail(forked, 0, refused=False)
        backoffs.electorate_changed()
        assert not backoffs.holds(self.LOG, 1)
        assert backoffs.holds(forked, 1)

    def test_a_deferred_log_waits_no_longer_than_the_longest_pause(self) -> None:
        backoffs = Backoffs()
        backoffs.defer(self.LOG, 0, 10 * BACKOFF_MS_MAX)
        assert backoffs.holds(self.LOG, BACKOFF_MS_MAX - 1)
        assert not backoffs.holds(self.LOG, BACKOFF_MS_MAX)

    def test_beyond_the_bound_the_oldest_is_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.gossip.backoff.BACKOFFS_MAX", 3)
        backoffs = Backoffs()
        logs = [LogId(bytes([number] * 32), 0) for number in range(4)]
        for log in logs:
            backoffs.fail(log, 0, refused=True)
        assert [backoffs.holds(log, 0) for log in logs] == [False, True, True, True]


class TestQueue:
    """A slow reader costs its own session, nobody else's."""

    def fill(self, node: Node, *, bytes_each: int) -> None:
        """Write events until the sessions' queues are over their bound."""
        while node.row()["queue_bytes"] <= QUEUE_BYTES_MAX:
            uuid = "g" * 64
            node.writes(node.author.add(add("//Alice", [uuid])._replace(body=b"[" * bytes_each)))

    def test_a_full_queue_stops_pushing_and_anti_entropy_repairs_it_when_it_has_drained(self) -> None:
        net, a, b, c = three()
        self.fill(a, bytes_each=64_000)
        assert a.row()["behind"]
        (noticed, _) = a.noticed("peer_behind")
        assert noticed["queue_bytes"] > QUEUE_BYTES_MAX
        queued = a.row()["queue_bytes"]
        a.writes(a.author.add(add("//Bob", ["gpu-2"])))
        assert a.row()["queue_bytes"] == queued
        net.run(2_000)
        assert not a.row()["behind"]
        assert net.agree()
        assert b.ledger.state.nodes == c.ledger.state.nodes == 1

    def test_pushing_goes_on_only_when_the_queue_has_drained(self) -> None:
        _, a, _, _ = three()
        self.fill(a, bytes_each=64_000)
        while a.row()["queue_bytes"] > QUEUE_BYTES_DRAINED:
            assert a.row()["behind"]
            a.write_out(1)
        assert not a.row()["behind"]
        assert isinstance(a.said[-1], Digest)
        assert a.said[-1].asks

    def test_a_peer_that_does_not_read_gets_a_bounded_queue_and_the_others_get_all(self) -> None:
        net, a, b, c = three()
        net.cut(3)
        del net.links[1]  # b reads nothing any more
        for _ in range(4):
            self.fill(a, bytes_each=64_000)
            net.run(1_000)
        assert c.head(a.author.log) == a.head(a.author.log)
        assert a.row(0)["queue_bytes"] < 2 * QUEUE_BYTES_MAX
        assert b.head(a.author.log) == 0

    def test_one_that_reads_too_slowly_for_long_loses_the_session_without_a_ban(self) -> None:
        _, a, _, _ = three()
        self.fill(a, bytes_each=64_000)
        while a.row()["queue_bytes"] > QUEUE_BYTES_MAX // 2:  # it reads, and is heard as well
            a.write_out(1)
        for _ in range(BEHIND_MS_MAX // TICK_MS - 1):
            a.tick()
        assert a.closes == []
        while a.row(1)["queue_bytes"] > QUEUE_BYTES_DRAINED:  # the other one has caught up in time
            a.write_out(2)
        a.tick()
        a.tick()
        assert a.closes == [Close(1, BEHIND_OVER, 0)]

    def test_the_time_of_one_that_is_slow_now_and_then_begins_anew(self) -> None:
        _, a, _, _ = three()
        for _ in range(2):
            self.fill(a, bytes_each=64_000)
            for _ in range(BEHIND_MS_MAX // TICK_MS * 3 // 4):
                a.tick()
            for session in (1, 2):
                while a.outgoing[session]:
                    a.write_out(session)
        assert a.closes == []

    def test_a_commit_of_many_large_events_goes_over_the_bound_by_one_frame_at_most(self) -> None:
        net, a, b, _ = three()
        request = add("//Alice", ["g" * 64])._replace(body=b"[" * 64_000)
        a.writes(*(a.author.add(request) for _ in range(2 * QUEUE_BYTES_MAX // 64_000)))
        for row in a.engine.status():
            assert QUEUE_BYTES_MAX < row["queue_bytes"] <= QUEUE_BYTES_MAX + FRAME_BYTES_MAX
            assert row["events_sent"] == 0
        net.run(15_000)
        assert net.agree()
        assert b.head(a.author.log) == a.head(a.author.log)

    def test_digests_that_a_slow_reader_asks_for_do_not_pile_up(self) -> None:
        _, a, _, _ = three()
        self.fill(a, bytes_each=64_000)
        queued = a.row()["queue_bytes"]
        for _ in range(100):
            a.hear(1, Digest(True, NOW_MS, bytes(32), bytes(32), bytes(32)).encode())
        assert a.row()["queue_bytes"] == queued

    def test_events_beyond_what_the_store_may_hold_are_dropped_and_fetched_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_module, "PENDING_BYTES_MAX", 1_000)
        net, a, b, _ = three()
        net.cut(3)
        for number in range(10):
            a.writes(a.author.verdict(bytes([number] * 32)))
            b.hear(1, a.write_out(1))
        assert b.row()["storing_bytes"] < 2_000
        net.run(2_000)
        assert b.head(a.author.log) == 10


class TestNotices:
    """Peers cause log lines, so their number is bounded."""

    def test_a_flood_of_void_events_is_a_few_lines_that_say_how_many_were_left_out(self) -> None:
        net, a, b, _ = three()
        void = [a.author.verdict(bytes(32), since=2**60) for _ in range(100)]
        a.holds(*void)
        a.do(a.engine.appended(void, a.now_ms))
        net.run()
        assert b.head(a.author.log) == 100
        assert len(b.notices) == NOTICES.burst
        net.run(10_000)
        a.writes(a.author.verdict(bytes(32), since=2**60))
        net.run()
        assert b.noticed("void_event")[-1]["left_out"] == 100 - NOTICES.burst

    def test_a_flood_of_one_kind_hides_no_other(self) -> None:
        net, a, b, _ = three()
        a.writes(*(a.author.verdict(bytes(32), since=2**60) for _ in range(100)))
        net.run()
        event = a.author.verdict(bytes(32), at_ms=b.now_ms + SKEW_AHEAD_MS_MAX + 5_000)
        a.now_ms += 10_000
        a.writes(event)
        net.run()
        assert len(b.noticed("event_ahead")) == 1

    def test_a_notice_names_the_peer(self) -> None:
        net, a, b, _ = three()
        a.writes(a.author.verdict(bytes(32), since=2**60))
        net.run()
        assert b.noticed("void_event")[0]["peer"] == a.author.hotkey.address


class TestStatus:
    """What an operator sees of a session."""

    def test_a_session_at_rest_shows_equality_and_no_lag(self) -> None:
        net, a, b, _ = three()
        net.run(20_000)
        row = a.row()
        assert row["hotkey"] == b.author.hotkey.address
        assert row["node_key"] == b.author.node_key.public_key.hex()
        assert row["url"] == "http://192.0.2.1"
        assert (row["peer_lacks"], row["we_lack"], row["queue_bytes"], row["wants"]) == (0, 0, 0, 0)
        assert row["same_vector"]
        assert a.engine.agreed()
        assert row["same_state_root"]
        assert row["same_electorate"]
        assert row["rtt_ms"] == 0

    def test_nobody_agrees_with_who_has_just_written(self) -> None:
        net, a, _, _ = three()
        net.run(20_000)
        a.writes(a.author.verdict(bytes(32)))
        assert not a.engine.agreed()
        net.run(20_000)
        assert a.engine.agreed()

    def test_lag_counts_events_on_both_sides(self) -> None:
        a, b = Node(A), Node(B)
        a.holds(a.author.delegate(), a.author.verdict(bytes(32)))
        b.holds(b.author.delegate())
        net = Net(a, b)
        net.join_all()
        assert a.row()["peer_lacks"] is None
        for _ in range(4):  # digests, links, slices, vectors
            net.step()
        assert a.row()["peer_lacks"] == 2
        assert a.row()["we_lack"] == 1
        assert b.row()["we_lack"] == 2

    def test_what_was_sent_as_a_range_is_no_lag(self) -> None:
        a = Node(A)
        a.holds(a.author.delegate(), a.author.verdict(bytes(32)), a.author.verdict(b"x" * 32))
        a.open(1, peer_of(Author(B)))
        a.hear(1, Vector(0, True, ALL_SLICES, []).encode())
        assert a.row()["peer_lacks"] == 3
        a.hear(1, Want(a.author.log, 0, 512, 250_000).encode())
        a.settle()
        assert a.row()["peer_lacks"] == 0

    def test_counters_count(self) -> None:
        net, a, b, _ = three()
        a.writes(a.author.verdict(bytes(32)))
        net.run()
        assert a.row()["events_sent"] == 1
        assert (b.row()["events_received"], b.row()["events_stored"]) == (1, 1)


class TestTime:
    """The wall clock is a suspect (rule 8)."""

    def test_the_clock_offset_is_the_median_over_the_sessions(self) -> None:
        nodes = [Node(uri) for uri in VALIDATORS]
        nodes[1].now_ms += 2_000
        nodes[2].now_ms += 50_000
        net = Net(*nodes)
        assert nodes[0].engine.clock_offset_ms() is None
        net.join_all()
        net.run()
        assert nodes[0].engine.clock_offset_ms() == 26_000
        assert nodes[1].engine.clock_offset_ms() == 23_000

    def test_a_hotkey_with_many_sessions_has_one_voice_about_the_time(self) -> None:
        node = Node(A)
        for session, uri in enumerate((B, C, C, C, C), 1):
            node.open(session, peer_of(Author(uri, seed=session)))
            off_ms = 40_000 if uri == C else 0
            node.hear(session, Digest(False, node.now_ms + off_ms, bytes(32), bytes(32), bytes(32)).encode())
        assert node.engine.clock_offset_ms() == 20_000

    def test_an_answer_corrects_the_offset_by_half_the_round_trip(self) -> None:
        _, a, _, _ = three()
        while not any(isinstance(frame, Digest) and frame.asks for frame in a.said):
            a.tick()
        session = 1 if a.outgoing[1] else 2
        a.tick(200)
        a.hear(session, Digest(False, a.now_ms - 100, bytes(32), bytes(32), bytes(32)).encode())
        row = a.row(session - 1)
        assert (row["rtt_ms"], row["offset_ms"]) == (200, 0)

    def test_a_clock_that_is_set_back_stops_nothing(self) -> None:
        net, a, b, _ = three()
        for node in net.nodes:
            node.now_ms -= 50_000
        a.said.clear()
        net.run(60_000)
        assert said(a, Digest) > 10
        b.holds(event := b.author.verdict(bytes(32)))
        net.run(20_000)
        assert a.head(event.log) == 1

    def test_a_clock_that_is_set_forward_lets_no_deadline_pass(self) -> None:
        _, a, b, _ = three()
        b.holds(b.author.verdict(bytes(32)))
        a.hear(1, Vector(0, True, ALL_SLICES, [entry(b.author.log, *b.ledger.state.heads[b.author.log])]).encode())
        assert a.row()["wants"] == 1
        a.tick(3_600_000)
        assert a.engine._time.ms <= 2 * STEP_MS_MAX
        assert not a.closes
        assert said(a, Range) == 0
