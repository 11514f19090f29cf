"""A newcomer that reaches one daemon learns where the others are, by their owners' signatures alone."""

from collections.abc import Sequence

import pytest

from p2pnodes.gossip import book as book_module
from p2pnodes.gossip.book import MET_MAX
from p2pnodes.gossip.engine import BAN_S, BOOK_INTERVAL_MS, BOOK_RENEW_MS, Peer
from p2pnodes.gossip.frames import BOOK_PER_FRAME_MAX, Book, Digest
from p2pnodes.gossip.rates import BOOKS
from p2pnodes.model.events import Delegation, LogId, closing, delegate
from p2pnodes.model.protocol import PROTOCOL_VERSION
from tests.gossip.harness import Node
from tests.support import NETWORK, NOW_S, VALIDATORS, Author, electorate, hotkey

A, B, C = VALIDATORS
MANY = [f"//validator{index}" for index in range(12)]
WHO = electorate(stakes=dict.fromkeys(MANY, 100))


def delegation(author: Author, url: str, *, begin_s: int = NOW_S - 60, end_s: int = NOW_S + 3_600) -> Delegation:
    return delegate(author.hotkey, NETWORK.id, author.log, url=url, not_before=begin_s, not_after=end_s)


def peer(author: Author, url: str, *, begin_s: int = NOW_S - 60) -> Peer:
    return Peer(author.log, delegation(author, url, begin_s=begin_s), PROTOCOL_VERSION)


def books(node: Node, start: int = 0) -> list[Book]:
    return [frame for frame in node.said[start:] if isinstance(frame, Book)]


def told(node: Node, start: int = 0) -> set[str]:
    """URLs that a node told its peers."""
    return {delegation.url for frame in books(node, start) for _, delegation in frame.entries}


def node(*uris: str) -> Node:
    """A node that has a session with each of some validators, which are at http://192.0.2.N in order."""
    found = Node(A, WHO)
    for number, uri in enumerate(uris, 1):
        greet(found, number, peer(Author(uri), f"http://192.0.2.{number}"))
    return found


def greet(node: Node, session: int, who: Peer, vector: bytes = bytes(32)) -> None:
    """Open a session, whose peer says what it holds: something else, if nothing is said here."""
    node.open(session, who)
    node.hear(session, Digest(False, node.now_ms, vector, bytes(32), bytes(32)).encode())


class TestTelling:
    """Peers are told whom a daemon has met: all when a session opens, later what is new."""

    def test_a_newcomer_is_told_of_all_at_once(self) -> None:
        old = node(*MANY[1:5])
        start = len(old.said)
        greet(old, 9, peer(Author(MANY[9]), "http://192.0.2.9"))
        (frame,) = books(old, start)
        assert told(old, start) == {f"http://192.0.2.{number}" for number in range(1, 5)}
        assert [log for log, _ in frame.entries] == sorted(log for log, _ in frame.entries)

    def test_who_holds_the_same_logs_is_not_told_what_they_say(self) -> None:
        old = node(B, C)
        author = Author(B)
        old.holds(author.write(delegation(author, "http://192.0.2.1")))
        start = len(old.said)
        greet(old, 9, peer(Author(MANY[9]), "http://192.0.2.9"), old.ledger.state.vector_digest)
        assert told(old, start) == {"http://192.0.2.2"}
        greet(old, 10, peer(Author(MANY[10]), "http://192.0.2.10"))
        assert "http://192.0.2.1" in told(old, start), "who holds others may lack this log"

    def test_those_who_were_there_before_hear_of_the_newcomer_once(self) -> None:
        old = node(B, C)
        for _ in range((BOOK_INTERVAL_MS + BOOK_RENEW_MS) // 250):
            old.tick()
        start = len(old.said)
        greet(old, 9, peer(Author(MANY[9]), "http://192.0.2.9"))
        for _ in range(2 * BOOK_INTERVAL_MS // 250):
            old.tick()
        news = [frame for frame in books(old, start) if frame.entries[0][1].url == "http://192.0.2.9"]
        assert [len(frame.entries) for frame in news] == [1, 1]

    def test_changes_are_not_told_faster_than_their_rate(self) -> None:
        old = node(B, C)
        for round_ in range(40):
            old.do(old.engine.closed(2, old.now_ms))
            greet(old, 100 + round_, peer(Author(C), f"http://192.0.2.{round_}", begin_s=NOW_S - 60 + round_))
            for _ in range(12):
                old.tick()
        assert 2 <= len([frame for frame in old.outgoing[1] if frame[1] == 7]) <= 40 * 3_000 // BOOK_INTERVAL_MS + 2

    def test_observers_are_not_told_of_and_are_told(self) -> None:
        old = node(B)
        start = len(old.said)
        greet(old, 8, peer(Author("//Mallory"), "http://192.0.2.66")._replace(observer=True))
        assert told(old, start) == {"http://192.0.2.1"}
        start = len(old.said)
        greet(old, 9, peer(Author(C), "http://192.0.2.9"))
        assert told(old, start) == {"http://192.0.2.1"}

    def test_who_was_met_lately_is_told_of_and_who_was_long_ago_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(book_module, "MET_MS_MAX", 60_000)
        old = node(B)
        for _ in range(20):
            old.tick(5_000)
        old.do(old.engine.closed(1, old.now_ms))
        for session, expected in ((2, {"http://192.0.2.1"}), (3, set())):
            start = len(old.said)
            greet(old, session, Peer(Author(C).log, delegation(Author(C), ""), PROTOCOL_VERSION))
            assert told(old, start) == expected
            for _ in range(13):
                old.tick(5_000)

    def test_a_delegation_that_is_renewed_in_its_log_is_told_anew(self) -> None:
        old = node(B, C)
        author = Author(B)
        author.delegate()
        later = delegation(author, "http://192.0.2.77", begin_s=NOW_S - 30)
        old.holds(*author.events, author.write(later))
        for _ in range((BOOK_INTERVAL_MS + BOOK_RENEW_MS) // 250):
            old.tick()
        assert "http://192.0.2.77" in told(old)

    def test_all_is_told_again_under_another_electorate(self) -> None:
        """Who had no permit where it was told of may have one now."""
        old = node(B, C)
        for _ in range((BOOK_INTERVAL_MS + BOOK_RENEW_MS) // 250):
            old.tick()
        start = len(old.said)
        with old.ledger.transaction():
            old.ledger.set_electorate(electorate(block=200, stakes=dict.fromkeys(MANY, 100)))
        for _ in range((BOOK_INTERVAL_MS + BOOK_RENEW_MS) // 250):
            old.tick()
        assert told(old, start) == {"http://192.0.2.1", "http://192.0.2.2"}

    def test_a_book_longer_than_a_frame_comes_in_several(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(book_module, "BOOK_PER_FRAME_MAX", 3)
        old = node(*MANY[1:9])
        start = len(old.said)
        greet(old, 9, peer(Author(MANY[9]), "http://192.0.2.9"))
        assert [len(frame.entries) for frame in books(old, start)] == [3, 3, 2]

    def test_those_who_were_met_are_bounded_and_the_latest_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(book_module, "MET_MAX", 3)
        old = node(*MANY[1:9])
        start = len(old.said)
        greet(old, 9, peer(Author(MANY[9]), "http://192.0.2.9"))
        assert told(old, start) == {"http://192.0.2.7", "http://192.0.2.8"}

    def test_two_hotkeys_that_delegate_to_one_log_make_no_bad_frame(self) -> None:
        shared = Author(B)
        old = Node(A, WHO)
        for number, uri in enumerate((B, C), 1):
            said = delegate(hotkey(uri), NETWORK.id, shared.log, url="", not_before=NOW_S - 60, not_after=NOW_S + 3_600)
            greet(old, number, Peer(shared.log, said, PROTOCOL_VERSION))
        start = len(old.said)
        greet(old, 9, peer(Author(MANY[9]), "http://192.0.2.9"))
        (frame,) = books(old, start)
        assert len(frame.entries) == 1


class TestTaking:
    """An address is believed from its owner's signed delegation, and from nothing else."""

    def hear(self, entries: Sequence[tuple[LogId, Delegation]]) -> Node:
        found = node(B)
        found.hear(1, Book(sorted(entries)).encode())
        return found

    def heard(self, entries: Sequence[tuple[LogId, Delegation]]) -> dict[bytes, str]:
        """Addresses of others than B."""
        found = self.hear(entries)
        assert not found.closes
        urls = found.engine.addresses()
        assert urls.pop(hotkey(B).public_key) == "http://192.0.2.1"
        return urls

    def test_what_a_peer_tells_is_known_with_whom_it_was_met_itself(self) -> None:
        author = Author(C)
        entries = [(author.log, delegation(author, "http://192.0.2.50"))]
        assert self.heard(entries) == {author.hotkey.public_key: "http://192.0.2.50"}

    def test_a_delegation_that_another_signed_costs_the_session(self) -> None:
        author = Author(C)
        forged = delegation(author, "http://192.0.2.50")._replace(url="http://192.0.2.66")
        found = self.hear([(author.log, forged)])
        (close,) = found.closes
        assert close.ban_s == BAN_S
        assert author.hotkey.address in close.reason
        assert found.engine.addresses().get(author.hotkey.public_key) is None

    def test_a_delegation_to_another_log_or_of_another_network_costs_the_session(self) -> None:
        author = Author(C)
        other = LogId(author.log.node_key, 7)
        assert self.hear([(other, delegation(author, "http://192.0.2.50"))]).closes
        foreign = delegate(author.hotkey, bytes(16), author.log, url="", not_before=NOW_S - 60, not_after=NOW_S + 3_600)
        assert self.hear([(author.log, foreign)]).closes

    @pytest.mark.parametrize(
        ("begin_s", "end_s"), [(NOW_S - 7_200, NOW_S - 3_600), (NOW_S + 3_600, NOW_S + 7_200)], ids=["over", "to come"]
    )
    def test_a_delegation_outside_its_window_says_nothing(self, begin_s: int, end_s: int) -> None:
        author = Author(C)
        entries = [(author.log, delegation(author, "http://192.0.2.50", begin_s=begin_s, end_s=end_s))]
        assert self.heard(entries) == {}

    def test_a_hotkey_without_a_permit_is_nobody(self) -> None:
        author = Author("//Mallory")
        assert self.heard([(author.log, delegation(author, "http://192.0.2.50"))]) == {}

    def test_who_only_dials_out_has_no_address(self) -> None:
        author = Author(C)
        assert self.heard([(author.log, delegation(author, ""))]) == {}

    @pytest.mark.parametrize("later_first", [True, False])
    def test_of_two_delegations_the_later_counts_whichever_came_first(self, *, later_first: bool) -> None:
        old, new = Author(C), Author(C, number=1)
        said = [
            (old.log, delegation(old, "http://192.0.2.50", begin_s=NOW_S - 90)),
            (new.log, delegation(new, "http://192.0.2.51", begin_s=NOW_S - 30)),
        ]
        found = node(B)
        for each in reversed(said) if later_first else said:
            found.hear(1, Book([each]).encode())
        assert found.engine.addresses()[hotkey(C).public_key] == "http://192.0.2.51"

    def test_a_delegation_to_a_log_that_was_closed_says_nothing(self) -> None:
        author = Author(C)
        author.delegate()
        found = node(B)
        found.holds(*author.events)
        found.hear(1, Book([(author.log, delegation(author, "http://192.0.2.50"))]).encode())
        assert hotkey(C).public_key in found.engine.addresses()
        found.hears_proofs(closing(author.hotkey, NETWORK.id, author.log, None))
        assert hotkey(C).public_key not in found.engine.addresses()
        successor = Author(C, seed=1)
        found.hear(1, Book([(successor.log, delegation(successor, "http://192.0.2.51", begin_s=NOW_S - 600))]).encode())
        assert found.engine.addresses()[hotkey(C).public_key] == "http://192.0.2.51"

    def test_what_is_remembered_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(book_module, "HEARD_MAX", 2)
        authors = [Author(uri) for uri in MANY[2:6]]
        found = self.hear([(author.log, delegation(author, "http://192.0.2.50")) for author in authors])
        assert len(found.engine._book._heard) == 2

    def test_signatures_of_what_is_known_are_not_checked_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        author = Author(C)
        entries = [(author.log, delegation(author, "http://192.0.2.50"))]
        found = self.hear(entries)
        monkeypatch.setattr(Delegation, "signed_for", lambda *_: pytest.fail("checked"))
        found.hear(1, Book(entries).encode())

    def test_books_without_end_cost_the_session(self) -> None:
        author = Author(C)
        frame = Book([(author.log, delegation(author, "http://192.0.2.50"))]).encode()
        found = node(B)
        for _ in range(BOOKS.burst):
            found.hear(1, frame)
        assert not found.closes
        found.tick(round(1000 / BOOKS.per_s))
        found.tick(round(1000 / BOOKS.per_s))
        found.hear(1, frame)
        assert not found.closes
        found.hear(1, frame)
        (close,) = found.closes
        assert f"over {BOOKS.burst} at once" in close.reason


def test_an_honest_peer_never_sends_books_faster_than_allowed() -> None:
    frames = -(-MET_MAX // BOOK_PER_FRAME_MAX)
    assert frames <= BOOKS.burst
    assert frames * round(1000 / BOOKS.per_s) <= BOOK_INTERVAL_MS
