"""Anti-entropy: equal peers say little, different ones become equal, and nobody is sent more than it asked for."""

from itertools import pairwise

import pytest

from p2pnodes.gossip import fetch, frames, sync
from p2pnodes.gossip.engine import TICK_MS
from p2pnodes.gossip.fetch import SILENT_MS_MAX, STALL_MS, WANT_MS_MAX, WANTS_MAX
from p2pnodes.gossip.frames import (
    ALL_SLICES,
    WANT_BYTES_MAX,
    Digest,
    Events,
    Frame,
    Link,
    Mode,
    Range,
    Slices,
    Vector,
    Want,
    scope_of,
)
from p2pnodes.gossip.pace import DIGEST_INTERVAL_MS
from p2pnodes.gossip.rates import VECTORS
from p2pnodes.gossip.session import UNKNOWN_LOGS_MAX, VECTOR_INTERVAL_MS
from p2pnodes.model.events import EVENT_BYTES_MAX, Event, Head, LogId
from p2pnodes.store.vector import SLICES, slice_of
from tests.gossip.harness import Net, Node, entry, peer_of
from tests.support import VALIDATORS, Author, add, electorate

A, B, C = VALIDATORS
HASH = bytes(32)


def pair() -> tuple[Net, Node, Node]:
    """Two nodes that know each other's logs, not joined yet."""
    a, b = Node(A), Node(B)
    known = [a.author.delegate(), b.author.delegate()]
    a.holds(*known)
    b.holds(*known)
    return Net(a, b), a, b


def verdicts(author: Author, count: int) -> list[Event]:
    return [author.verdict(number.to_bytes(32, "big")) for number in range(count)]


def is_asking(frame: Frame) -> bool:
    return isinstance(frame, Digest) and frame.asks


def heads(node: Node) -> list[tuple[LogId, Head]]:
    return sorted(node.ledger.state.heads.items())


class TestEqual:
    """When nothing differs it costs one small frame each way."""

    def test_equal_peers_open_with_one_digest_each(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        said = [type(frame) for frame in a.said + b.said if not isinstance(frame, Link)]
        assert said == [Digest, Digest]

    def test_a_round_between_equal_peers_is_one_digest_each_way(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        a.said.clear()
        b.said.clear()
        while not a.said:
            a.tick()
        net.run()
        (asked,), (answer,) = a.said, b.said
        assert isinstance(asked, Digest)
        assert isinstance(answer, Digest)
        assert (asked.asks, answer.asks) == (True, False)
        assert len(asked.encode()) < 120

    def test_rounds_come_every_few_seconds_and_not_in_step(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        times = []
        for _ in range(400):
            before = len(a.said)
            a.tick()
            if len(a.said) > before:
                times.append(a.now_ms)
        pauses = [second - first for first, second in pairwise(times)]
        assert 0.8 < sum(pauses) / len(pauses) / DIGEST_INTERVAL_MS < 1.3
        assert len(set(pauses)) > 5

    def test_a_round_is_with_one_session(self) -> None:
        a = Node(A)
        for number, uri in enumerate((B, C), 1):
            a.open(number, peer_of(Author(uri)))
        a.said.clear()
        while not a.said:
            a.tick()
        assert len(a.said) == 1

    def test_rounds_are_with_validators_however_many_observers_there_are(self) -> None:
        """Silent ones took the turns, and made the pace the slow one: a validator had none in half an hour."""
        a = Node(A)
        a.open(1, peer_of(Author(B)))
        for number in range(2, 50):
            a.open(number, peer_of(Author("//Mallory", seed=number))._replace(observer=True))
        a.said.clear()
        for number in a.outgoing:
            a.hear(number, Link(Mode.EVENTS).encode())
            a.outgoing[number].clear()
        for _ in range(400):
            a.tick()
        asked = {number: len([*filter(is_asking, map(frames.decode, sent))]) for number, sent in a.outgoing.items()}
        assert asked[1] >= 400 * TICK_MS / DIGEST_INTERVAL_MS * 3 / 4
        assert sum(asked.values()) == asked[1]

    def test_with_observers_alone_they_are_with_these(self) -> None:
        a = Node(A)
        a.open(1, peer_of(Author("//Mallory"))._replace(observer=True))
        a.said.clear()
        for _ in range(4 * DIGEST_INTERVAL_MS // TICK_MS):
            a.tick()
        assert any(map(is_asking, a.said))


class TestDifferent:
    """What one holds and the other lacks comes over."""

    def test_both_get_what_they_lack(self) -> None:
        net, a, b = pair()
        a.holds(a.author.add(add("//Alice", ["gpu-1"])))
        b.holds(*verdicts(b.author, 3))
        net.join(a, b)
        net.run()
        assert net.agree()
        assert a.head(b.author.log) == 3
        assert b.ledger.state.nodes == 1

    def test_a_new_peer_gets_every_log_from_its_beginning(self) -> None:
        net, a, b = pair()
        authors = [Author(C, number=number) for number in range(20)]
        for author in authors:
            a.holds(author.delegate(), *verdicts(author, 5))
        net.join(a, b)
        net.run()
        assert net.agree()
        assert all(b.head(author.log) == 5 for author in authors)

    def test_a_long_log_comes_in_chunks_no_larger_than_the_credit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetch, "WANT_BYTES_MAX", 4_000)
        net, a, b = pair()
        a.holds(*verdicts(a.author, 200))
        net.join(a, b)
        net.run()
        assert b.head(a.author.log) == 200
        sizes = [sum(map(len, frame.wires)) for frame in a.said if isinstance(frame, Range)]
        assert len(sizes) > 10
        assert max(sizes) <= 4_000

    def test_an_event_larger_than_the_credit_comes_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetch, "WANT_BYTES_MAX", 10)
        net, a, b = pair()
        a.holds(*verdicts(a.author, 3))
        net.join(a, b)
        net.run()
        assert b.head(a.author.log) == 3
        assert [len(frame.wires) for frame in a.said if isinstance(frame, Range)] == [1, 1, 1]

    def test_peers_that_differ_after_the_session_opened_are_repaired_by_the_next_round(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        a.holds(a.author.add(add("//Alice", ["gpu-1"])))  # as if the push had been lost
        net.run(2 * DIGEST_INTERVAL_MS)
        assert net.agree()

    def test_vectors_to_one_peer_keep_their_distance(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        a.said.clear()
        for _ in range(5):
            a.hear(1, Digest(True, a.now_ms, HASH, HASH, HASH).encode())
            a.hear(1, Slices([HASH[:16]] * SLICES).encode())
        assert [sum(isinstance(frame, kind) for frame in a.said) for kind in (Slices, Vector)] == [1, 1]
        a.tick(VECTOR_INTERVAL_MS)
        assert [sum(isinstance(frame, kind) for frame in a.said) for kind in (Slices, Vector)] == [2, 2]

    def test_a_vector_longer_than_a_frame_arrives_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frames, "LOGS_PER_FRAME", 3)
        net, a, b = pair()
        for number in range(10):
            a.holds(Author(C, number=number).delegate())
        net.join(a, b)
        net.run()
        assert sum(isinstance(frame, Vector) for frame in a.said) == 4
        assert net.agree()

    def test_heads_that_differ_at_one_seq_are_noticed_once(self) -> None:
        net, a, b = pair()
        twin = Author(A)
        twin.events, twin.head = a.author.events[:], a.author.head
        a.holds(a.author.verdict(HASH))
        b.holds(twin.verdict(b"x" * 32))
        net.join(a, b)
        net.run(4_000)
        (noticed,) = a.noticed("heads_differ")
        assert (noticed["log"], noticed["seq"]) == (str(a.author.log), 1)

    def test_a_lie_about_a_head_keeps_nobody_from_fetching_the_log_elsewhere(self) -> None:
        node, owner, liar = Node(A), Author(C), Author(B)
        owner.delegate()
        node.holds(*owner.events)
        node.open(1, peer_of(liar))
        node.open(2, peer_of(owner))
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(owner.log, 0, b"x" * 32)]).encode())
        later = owner.verdict(HASH)
        node.hear(2, Vector(0, True, ALL_SLICES, [entry(owner.log, 1, later.id)]).encode())
        assert frames.decode(node.outgoing[2][-1]) == Want(owner.log, 1, 1, EVENT_BYTES_MAX)


class TestGap:
    """An event that cannot follow yet brings what is missing, at once."""

    def test_a_gap_in_pushed_events_is_filled_without_a_round(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        a.holds(*verdicts(a.author, 2))  # never pushed
        a.writes(a.author.verdict(b"x" * 32))
        net.run()
        assert b.head(a.author.log) == 3

    def test_an_event_of_an_unknown_log_brings_the_log(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        author = Author(C)
        a.holds(author.delegate())
        a.writes(author.verdict(HASH))
        net.run()
        assert b.head(author.log) == 1

    def test_events_behind_a_gap_do_not_go_to_the_store(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        events = verdicts(a.author, 3)
        b.hear(1, Events([events[2].wire]).encode())
        assert not b.stores
        assert b.said[-1] == Want(a.author.log, 1, 2, 2 * EVENT_BYTES_MAX)

    def test_events_that_follow_on_what_is_being_stored_are_no_gap(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        first, second = verdicts(a.author, 2)
        b.hear(1, Events([first.wire]).encode())
        b.hear(1, Events([second.wire]).encode())
        assert [effect.events for effect in b.stores] == [(first,), (second,)]
        b.settle()
        assert b.head(a.author.log) == 2


class TestWants:
    """A want is the credit for one range; a log is wanted from one peer at a time."""

    def asker(self, logs: int = 1) -> tuple[Node, list[Author]]:
        """A node with two sessions, whose peers both hold logs that it lacks."""
        node = Node(A)
        authors = [Author(C, number=number) for number in range(logs)]
        for author in authors:
            author.delegate()
        for session, uri in enumerate((B, C), 1):
            node.open(session, peer_of(Author(uri)))
            held = sorted(entry(author.log, 0, author.events[0].id) for author in authors)
            node.hear(session, Vector(0, True, ALL_SLICES, held).encode())
        return node, authors

    def wants(self, node: Node, session: int) -> list[Want]:
        sent = [frames.decode(frame) for frame in node.outgoing[session]]
        return [frame for frame in sent if isinstance(frame, Want)]

    def answer(self, node: Node, session: int, author: Author) -> None:
        node.hear(session, Range(author.log, 0, [author.events[0].wire]).encode())

    def test_a_log_is_wanted_from_one_peer(self) -> None:
        node, _ = self.asker()
        assert len(self.wants(node, 1)) == 1
        assert self.wants(node, 2) == []

    def test_wants_without_an_answer_are_few_and_shared_between_the_peers(self) -> None:
        node, authors = self.asker(10)
        first, second = self.wants(node, 1), self.wants(node, 2)
        assert len(first) == len(second) == WANTS_MAX
        assert len({want.log for want in first + second}) == 2 * WANTS_MAX
        self.answer(node, 1, next(author for author in authors if author.log == first[0].log))
        assert len(self.wants(node, 1)) == WANTS_MAX + 1

    def test_a_late_answer_makes_the_log_be_wanted_from_another(self) -> None:
        node, authors = self.asker()
        for _ in range(WANT_MS_MAX // 250 + 1):
            node.tick()
        assert len(self.wants(node, 2)) == 1
        self.answer(node, 1, authors[0])
        self.answer(node, 2, authors[0])
        node.settle()
        assert node.head(authors[0].log) == 0
        assert not node.closes

    def test_a_peer_that_left_a_want_unanswered_is_not_asked_again_for_a_while(self) -> None:
        node, _ = self.asker()
        for _ in range((SILENT_MS_MAX - 1_000) // 250):
            node.tick()
        assert len(self.wants(node, 1)) == 1
        assert len(self.wants(node, 2)) == 1

    def test_a_peer_that_never_answers_loses_the_session_without_a_ban(self) -> None:
        node, _ = self.asker()
        for _ in range(SILENT_MS_MAX // 250 + 1):
            node.tick()
        (close,) = node.closes
        assert (close.session, close.ban_s) == (1, 0)

    def test_an_empty_answer_is_no_answer(self) -> None:
        node, authors = self.asker()
        node.hear(1, Range(authors[0].log, 0, []).encode())
        node.tick()
        assert len(self.wants(node, 2)) == 1
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(authors[0].log, 0, HASH)]).encode())
        node.hear(2, Range(authors[0].log, 0, []).encode())
        for _ in range(STALL_MS // 250 - 2):
            node.tick()
        assert len(self.wants(node, 1)) == 1

    def test_after_an_empty_answer_the_log_is_wanted_when_the_peer_says_again_that_it_holds_it(self) -> None:
        node = Node(A)
        author = Author(C)
        vector = Vector(0, True, ALL_SLICES, [entry(author.log, 0, author.delegate().id)]).encode()
        node.open(1, peer_of(Author(B)))
        node.hear(1, vector)
        node.hear(1, Range(author.log, 0, []).encode())
        for _ in range(STALL_MS // 250 + 1):
            node.tick()
        assert len(self.wants(node, 1)) == 1
        node.hear(1, vector)
        assert len(self.wants(node, 1)) == 2

    def test_a_late_answer_makes_its_peer_be_asked_again(self) -> None:
        node, authors = self.asker(WANTS_MAX + 1)
        node.do(node.engine.closed(2, node.now_ms))
        for _ in range(WANT_MS_MAX // 250 + 1):
            node.tick()
        asked = {want.log for want in self.wants(node, 1)}
        for author in authors:
            if author.log in asked:
                self.answer(node, 1, author)
        node.settle()
        assert {want.log for want in self.wants(node, 1)} == {author.log for author in authors}

    def test_a_session_that_ends_leaves_its_wants_to_others(self) -> None:
        node, _ = self.asker()
        node.do(node.engine.closed(1, node.now_ms))
        node.tick()
        assert len(self.wants(node, 2)) == 1

    def test_nothing_is_wanted_while_the_store_has_much_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetch, "STORING_BYTES_MAX", 100)
        node, authors = self.asker(10)
        first = self.wants(node, 1)[0]
        self.answer(node, 1, next(author for author in authors if author.log == first.log))
        assert len(self.wants(node, 1)) == WANTS_MAX
        node.settle()
        assert len(self.wants(node, 1)) == WANTS_MAX + 1

    def test_a_peer_that_answers_with_less_than_it_could_leaves_the_log_to_others(self) -> None:
        node, author = Node(A), Author(C)
        events = [author.delegate(), *verdicts(author, 3)]
        for session, uri in enumerate((B, C), 1):
            node.open(session, peer_of(Author(uri)))
            node.hear(session, Vector(0, True, ALL_SLICES, [entry(author.log, 3, events[3].id)]).encode())
        node.hear(1, Range(author.log, 0, [events[0].wire]).encode())
        node.settle()
        node.tick()
        assert len(self.wants(node, 1)) == 1
        assert self.wants(node, 2) == [Want(author.log, 1, 3, WANT_BYTES_MAX)]

    def test_the_next_range_is_wanted_while_the_last_one_is_being_stored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetch, "WANT_BYTES_MAX", 500)
        node = Node(A)
        author = Author(C)
        events = [author.delegate(), *verdicts(author, 3)]
        node.open(1, peer_of(Author(B)))
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(author.log, 3, events[3].id)]).encode())
        node.hear(1, Range(author.log, 0, [events[0].wire]).encode())
        assert node.stores
        assert self.wants(node, 1)[-1].first_seq == 1

    def test_what_is_remembered_of_unknown_logs_is_bounded(self) -> None:
        node = Node(A)
        node.open(1, peer_of(Author(B)))
        for part in range(4):
            keys = [(part * 2048 + number).to_bytes(32, "big") for number in range(2048)]
            held = [entry(LogId(key, 0), 9, HASH) for key in keys]
            node.hear(1, Vector(part, part == 3, ALL_SLICES, held).encode())
        session = node.engine._sessions[1]
        assert len(session.ahead) == UNKNOWN_LOGS_MAX
        assert len(session.known) == len(session.lacks) == len(session.told) == 0
        assert session.partial == []


class TestServing:
    """What a peer wants is read and sent, as far as it reads."""

    def server(self) -> tuple[Node, list[Author]]:
        node = Node(A)
        authors = [Author(C, number=number) for number in range(WANTS_MAX + 1)]
        for author in authors:
            node.holds(author.delegate(), *verdicts(author, 3))
        node.open(1, peer_of(Author(B)))
        return node, authors

    def test_a_want_is_answered_with_the_events_as_they_were_signed(self) -> None:
        node, authors = self.server()
        node.hear(1, Want(authors[0].log, 1, 512, 250_000).encode())
        node.settle()
        assert node.said[-1] == Range(authors[0].log, 1, [event.wire for event in authors[0].events[1:]])

    @pytest.mark.parametrize("first_seq", [4, 2**62])
    def test_a_want_beyond_the_head_is_answered_with_nothing(self, first_seq: int) -> None:
        node, authors = self.server()
        node.hear(1, Want(authors[0].log, first_seq, 512, 250_000).encode())
        node.settle()
        assert node.said[-1] == Range(authors[0].log, first_seq, [])

    def test_a_want_for_an_unknown_log_is_answered_with_nothing(self) -> None:
        node, _ = self.server()
        unknown = LogId(HASH, 0)
        node.hear(1, Want(unknown, 0, 512, 250_000).encode())
        node.settle()
        assert node.said[-1] == Range(unknown, 0, [])

    def test_a_range_holds_no_more_events_than_were_wanted(self) -> None:
        node, authors = self.server()
        node.hear(1, Want(authors[0].log, 0, 2, 250_000).encode())
        node.settle()
        answer = node.said[-1]
        assert isinstance(answer, Range)
        assert len(answer.wires) == 2

    def test_no_range_is_read_while_much_waits_to_be_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sync, "SERVE_QUEUE_BYTES_MAX", 500)
        node, authors = self.server()
        for author in authors[:WANTS_MAX]:
            node.hear(1, Want(author.log, 0, 512, 250_000).encode())
            node.settle()
        assert sum(isinstance(frame, Range) for frame in node.said) == 1
        while node.outgoing[1]:
            node.write_out(1)
            node.settle()
        assert sum(isinstance(frame, Range) for frame in node.said) == WANTS_MAX

    def test_live_events_overtake_a_long_catch_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A pushed event waits for WANTS_MAX ranges at most, however long the log is that is being fetched."""
        monkeypatch.setattr(fetch, "WANT_BYTES_MAX", 2_000)
        net, a, b = pair()
        author = Author(C)
        a.holds(author.delegate(), *verdicts(author, 500))
        net.join(a, b)
        for _ in range(6):
            net.step()
        assert 0 < b.head(author.log) < 100
        a.writes(a.author.verdict(HASH))
        for _ in range(WANTS_MAX + 2):
            net.step()
        assert b.head(a.author.log) == 1
        assert b.head(author.log) < 200


class TestOwnHeadReports:
    """Rule 4 counts a peer's own complete word in this session, nothing else."""

    def test_an_equal_digest_is_a_report(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        assert a.engine.own_head_reports(a.author.log) == {}
        net.run()
        assert a.engine.own_head_reports(a.author.log) == {b.author.hotkey.public_key: a.author.head}

    def test_a_complete_vector_is_a_report(self) -> None:
        _, a, b = pair()
        a.open(1, peer_of(b.author))
        head = a.author.head
        assert head is not None
        a.hear(1, Digest(False, a.now_ms, HASH, HASH, HASH).encode())
        assert a.engine.own_head_reports(a.author.log) == {}
        a.hear(1, Vector(0, False, ALL_SLICES, [entry(a.author.log, *head)]).encode())
        assert a.engine.own_head_reports(a.author.log) == {}
        a.hear(1, Vector(1, True, ALL_SLICES, []).encode())
        assert a.engine.own_head_reports(a.author.log) == {b.author.hotkey.public_key: head}

    def test_a_vector_without_the_log_reports_that_the_peer_holds_nothing_of_it(self) -> None:
        _, a, b = pair()
        a.open(1, peer_of(b.author))
        a.hear(1, Vector(0, True, ALL_SLICES, []).encode())
        assert a.engine.own_head_reports(a.author.log) == {b.author.hotkey.public_key: None}

    def test_a_head_above_our_own_is_reported_as_the_peer_said_it(self) -> None:
        _, a, b = pair()
        a.open(1, peer_of(b.author))
        a.hear(1, Vector(0, True, ALL_SLICES, [entry(a.author.log, 9, HASH)]).encode())
        assert a.engine.own_head_reports(a.author.log) == {b.author.hotkey.public_key: Head(9, HASH)}

    def test_an_equal_digest_after_both_moved_on_is_a_new_report(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        a.writes(a.author.verdict(HASH))
        net.run(4 * DIGEST_INTERVAL_MS)
        assert a.engine.own_head_reports(a.author.log) == {b.author.hotkey.public_key: a.author.head}

    def test_an_equal_slice_is_a_report_whatever_the_others_are(self) -> None:
        _, a, b = pair()
        a.open(1, peer_of(b.author))
        other = (slice_of(a.author.log) + 1) % SLICES
        slices = list(a.ledger.state.slices)
        slices[other] = HASH[:16]
        a.hear(1, Slices(slices).encode())
        assert a.engine.own_head_reports(a.author.log) == {b.author.hotkey.public_key: a.author.head}
        assert a.row()["peer_lacks"] is None

    def test_a_vector_of_other_slices_is_no_report(self) -> None:
        _, a, b = pair()
        a.open(1, peer_of(b.author))
        others = scope_of(number for number in range(SLICES) if number != slice_of(a.author.log))
        a.hear(1, Vector(0, True, others, []).encode())
        assert a.engine.own_head_reports(a.author.log) == {}
        a.hear(1, Vector(0, True, scope_of([slice_of(a.author.log)]), []).encode())
        assert a.engine.own_head_reports(a.author.log) == {b.author.hotkey.public_key: None}
        assert a.row()["peer_lacks"] == 2

    def test_a_report_says_what_the_peer_held_then_whatever_was_stored_since(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        head = a.author.head
        a.holds(a.author.verdict(HASH))
        assert a.engine.own_head_reports(a.author.log) == {b.author.hotkey.public_key: head}

    def test_a_report_ends_with_its_session(self) -> None:
        net, a, b = pair()
        net.join(a, b)
        net.run()
        net.cut(1)
        assert a.engine.own_head_reports(a.author.log) == {}

    def test_of_two_daemons_of_one_hotkey_the_higher_head_is_reported(self) -> None:
        _, a, b = pair()
        for session, seq in ((1, 3), (2, 9), (3, 5)):
            a.open(session, peer_of(Author(B, seed=session)))
            a.hear(session, Vector(0, True, ALL_SLICES, [entry(a.author.log, seq, HASH)]).encode())
        assert a.engine.own_head_reports(a.author.log) == {b.author.hotkey.public_key: Head(9, HASH)}


class TestElectorate:
    """A new electorate is a reason to compare at once."""

    def test_every_session_is_asked_when_the_electorate_changes(self) -> None:
        node = Node(A)
        for number, uri in enumerate((B, C), 1):
            node.open(number, peer_of(Author(uri)))
        node.said.clear()
        with node.ledger.transaction():
            node.ledger.set_electorate(electorate(block=200))
        node.tick()
        assert [frame.asks for frame in node.said if isinstance(frame, Digest)] == [True, True]


def test_vectors_that_pile_up_in_a_slow_network_are_no_crime() -> None:
    node = Node(A)
    node.open(1, peer_of(Author(B)))
    for _ in range(VECTORS.burst):
        node.hear(1, Vector(0, True, ALL_SLICES, [entry(log, *head) for log, head in heads(node)]).encode())
    assert not node.closes
