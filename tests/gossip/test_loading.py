"""Who does not hold what lies below a cut gets its live set from peers, proved slice by slice."""

import pytest

from p2pnodes.gossip import loading
from p2pnodes.gossip.bans import Offence
from p2pnodes.gossip.engine import BAN_S, Consider, Load, ReadLeaves
from p2pnodes.gossip.frames import (
    ALL_SLICES,
    CertificateAnswer,
    CertificateWant,
    Digest,
    Entry,
    Events,
    Leaves,
    LeavesWant,
    Vector,
    Want,
)
from p2pnodes.gossip.frames import Slices as Hashes
from p2pnodes.gossip.loading import (
    AGAIN_MS,
    CERTIFICATE_MS_MAX,
    CERTIFICATE_WAIT_MS,
    PENDING_MAX,
    SILENT_MS_MAX,
    SLICE_MS_MAX,
    STALL_MS,
    WANTS_MAX,
)
from p2pnodes.gossip.rates import CERTIFICATES
from p2pnodes.model import checkpoint, codec
from p2pnodes.model.codes import Code
from p2pnodes.model.events import Head
from p2pnodes.store import ledger as ledger_module
from p2pnodes.store.checkpoints import Donor, Stage
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.vector import SLICES
from tests.gossip.harness import Net, Node, peer_of
from tests.gossip.past import Past, restart
from tests.store.test_checkpoints import cut
from tests.store.test_leaving import strange
from tests.support import NETWORK, Author, electorate

NEWCOMER = "//validator2"
HASH = bytes(32)


@pytest.fixture(scope="module")
def past(pasts: list[Past]) -> Past:
    assert pasts[0].slices > PENDING_MAX + WANTS_MAX
    return pasts[0]


def digest(node: Node, number: int | None) -> bytes:
    """A digest of a peer that holds something else, with that checkpoint in force."""
    return Digest(False, node.now_ms, b"v" * 32, HASH, HASH, number).encode()


def peers(node: Node, past: Past, count: int, number: int | None = None) -> None:
    """Open sessions 1 to ``count`` with peers that name a checkpoint, of which nothing more is heard by itself."""
    for session in range(1, count + 1):
        node.open(session, peer_of(Author("//validator0", seed=session)))
        node.hear(session, digest(node, past.number if number is None else number))


def wait(node: Node, ms: int) -> None:
    """Pass patient time."""
    for _ in range(ms // 250 + 1):
        node.tick()


def asked(node: Node, session: int) -> list[int]:
    """Slices that a session is asked for, and that it has not answered."""
    return [place for _, place in node.engine._sessions[session].leaves_wanted]


def wants(node: Node) -> list[CertificateWant]:
    return [frame for frame in node.said if isinstance(frame, CertificateWant)]


def who_was_asked(node: Node) -> list[int]:
    """Sessions that are asked for a certificate and have not answered."""
    return [number for number, session in node.engine._sessions.items() if session.certificate_wanted]


def begin(node: Node, past: Past) -> None:
    """Let a daemon without anything get the certificate; what it wants of slices is open."""
    (session,) = who_was_asked(node)
    node.hear(session, CertificateAnswer(past.number, past.certificate).encode())
    while node.parts:
        node.part_one()
    assert node.state.loading


def slice_of(past: Past, place: int) -> Leaves:
    """A slice as an honest peer has it."""
    return Leaves(past.number, place, *Donor().slice(past.disk, past.number, place))


def give(node: Node, past: Past, session: int, place: int) -> None:
    """Let a session bring a slice, and the store take it."""
    node.hear(session, slice_of(past, place).encode())
    if not node.holds_parts:
        node.settle()


class TestANewcomer:
    """An empty disk, and peers who have cut their logs."""

    def test_it_ends_with_the_rows_of_all_others(self, past: Past) -> None:
        holders = [past.holder(uri) for uri in ("//validator0", "//validator1")]
        newcomer = past.node(NEWCOMER)
        net = Net(newcomer, *holders)
        net.join_all()
        net.run(5_000)
        cut(newcomer.ledger)
        ours, theirs = newcomer.ledger.state, holders[0].ledger.state
        assert (ours.vector_digest, ours.state_root) == (theirs.vector_digest, theirs.state_root)
        assert ours.settled == past.number
        assert list(newcomer.ledger.rows()) == list(holders[0].ledger.rows()) != []
        assert ours.events == theirs.events
        assert not any(node.closes for node in net.nodes)

    def test_its_peers_share_the_work_and_each_slice_comes_once(self, past: Past) -> None:
        holders = [past.holder(uri) for uri in ("//validator0", "//validator1")]
        newcomer = past.node(NEWCOMER)
        net = Net(newcomer, *holders)
        net.join_all()
        net.run()
        sent = [[frame.place for frame in node.said if isinstance(frame, Leaves)] for node in holders]
        assert sorted([*sent[0], *sent[1]]) == list(range(past.slices))
        assert min(map(len, sent)) >= past.slices // 4

    def test_it_wants_nothing_and_lists_nothing_before_all_is_here(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        newcomer.said.clear()
        log = past.above[0].log
        listed = Entry(log, Head(past.above[0].seq, past.above[0].id), None)
        newcomer.hear(1, Vector(0, True, ALL_SLICES, [listed]).encode())
        newcomer.hear(1, Hashes([HASH[:16]] * SLICES).encode())  # asks for our vector
        newcomer.hear(1, Events([past.above[0].wire]).encode())
        wait(newcomer, 3_000)
        assert not [frame for frame in newcomer.said if isinstance(frame, Want | Vector)]
        assert not newcomer.stores
        while newcomer.state.loading:
            assert newcomer.state.settled is None
            give(newcomer, past, 1, asked(newcomer, 1)[0])
        said = [frame for frame in newcomer.said if isinstance(frame, Digest)]
        assert said[-1].asks
        newcomer.hear(1, Vector(0, True, ALL_SLICES, [listed]).encode())
        assert [frame.log for frame in newcomer.said if isinstance(frame, Want)] == [log]

    def test_its_digests_name_no_checkpoint_before_all_is_here(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        newcomer.said.clear()
        newcomer.hear(1, Digest(True, newcomer.now_ms, HASH, HASH, HASH, past.number).encode())
        (said,) = [frame for frame in newcomer.said if isinstance(frame, Digest)]
        assert said.checkpoint is None
        assert not newcomer.row()["same_checkpoint"]

    def test_the_operator_hears_how_far_it_is(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        assert newcomer.engine.loading() is None
        peers(newcomer, past, 1)
        begin(newcomer, past)
        held = 0
        while newcomer.state.loading:
            assert newcomer.engine.loading() == {"number": past.number, "held": held, "of": past.slices}
            give(newcomer, past, 1, asked(newcomer, 1)[0])
            held += 1
        assert held == past.slices
        assert newcomer.engine.loading() is None
        assert [fields["number"] for fields in newcomer.noticed("checkpoint_loading")] == [past.number]
        assert len(newcomer.noticed("checkpoint_slices")) == 10
        assert [fields["number"] for fields in newcomer.noticed("checkpoint_loaded")] == [past.number]


class TestACertificate:
    """Asked for from one peer at a time, when it is time."""

    def test_whoever_holds_nothing_asks_at_once(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 3)
        assert wants(newcomer) == [CertificateWant(past.number)]

    def test_whoever_holds_something_waits_for_the_signatures_to_come_as_events(self, past: Past) -> None:
        node = past.node(NEWCOMER)
        node.holds(*past.events[:3])
        peers(node, past, 1)
        wait(node, CERTIFICATE_WAIT_MS - 1_000)
        assert wants(node) == []
        node.hear(1, digest(node, 0))  # it was another one's: the wait begins anew
        node.hear(1, digest(node, past.number))
        wait(node, CERTIFICATE_WAIT_MS - 1_000)
        assert wants(node) == []
        wait(node, 1_000)
        assert wants(node) == [CertificateWant(past.number)]

    def test_a_peer_that_names_none_for_a_moment_is_waited_for_no_longer(self, past: Past) -> None:
        """It takes away what its checkpoint leaves out; who has one every few seconds does so half of the time."""
        node = past.node(NEWCOMER)
        node.holds(*past.events[:3])
        peers(node, past, 1)
        wait(node, CERTIFICATE_WAIT_MS - 2_000)
        node.hear(1, digest(node, None))
        wait(node, 500)
        node.hear(1, digest(node, past.number))
        assert wants(node) == []
        wait(node, 2_000)
        node.hear(1, digest(node, past.number))
        assert who_was_asked(node) == [1]

    def test_the_next_checkpoint_is_waited_for_anew_when_the_one_that_was_named_is_in_force(
        self, past: Past, pasts: list[Past]
    ) -> None:
        """Its signatures come as events, too: whoever names none meanwhile has not named that one for a while."""
        node, following = past.node(NEWCOMER), pasts[1].number
        node.holds(*past.events[:3])
        peers(node, past, 1)
        node.hear(1, digest(node, None))
        node.ledger = Ledger(past.copy(), NETWORK)
        wait(node, CERTIFICATE_WAIT_MS)
        node.hear(1, digest(node, following))
        wait(node, CERTIFICATE_WAIT_MS - 1_000)
        assert wants(node) == []
        wait(node, 1_000)
        assert wants(node) == [CertificateWant(following)]

    def test_whoever_was_away_loads_what_it_lacks(self, past: Past) -> None:
        node = past.node(NEWCOMER)
        node.holds(*past.events[:5])
        net = Net(node, past.holder("//validator0"))
        net.join_all()
        net.run(CERTIFICATE_WAIT_MS + 5_000)
        cut(node.ledger)
        assert node.ledger.state.state_root == net.nodes[1].ledger.state.state_root
        assert node.ledger.state.events == net.nodes[1].ledger.state.events

    def test_whoever_holds_all_below_the_cut_loads_nothing(self, past: Past) -> None:
        node = past.node(NEWCOMER)
        node.holds(*past.events)
        peers(node, past, 1)
        wait(node, CERTIFICATE_WAIT_MS)
        node.hear(1, CertificateAnswer(past.number, past.certificate).encode())
        node.settle()
        assert (node.state.certificate, node.state.checkpoint, node.state.loading) == (past.number, 0, False)
        said = len(wants(node))
        wait(node, CERTIFICATE_WAIT_MS - 1_000)
        assert len(wants(node)) == said

    @pytest.mark.parametrize("forged", [b"none", b""], ids=["no certificate", "with a signature too few"])
    def test_a_forged_one_costs_its_sender_the_session(self, past: Past, forged: bytes) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 2)
        (liar,) = who_was_asked(newcomer)
        if not forged:
            good = checkpoint.Certificate.decode(past.certificate)
            forged = good._replace(signatures=good.signatures[:1]).encode()
        newcomer.hear(liar, CertificateAnswer(past.number, forged).encode())
        newcomer.settle()
        (close,) = newcomer.closes
        assert (close.session, close.ban_s, close.offence) == (liar, BAN_S, Offence.FORGERY)
        newcomer.tick()
        assert who_was_asked(newcomer) == [3 - liar]

    def test_one_of_another_checkpoint_is_forged(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 1, past.number + 1)
        newcomer.hear(1, CertificateAnswer(past.number + 1, past.certificate).encode())
        newcomer.settle()
        assert [close.offence for close in newcomer.closes] == [Offence.FORGERY]
        assert not newcomer.state.loading

    def test_one_that_nobody_wanted_breaks_the_protocol(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 2)
        other = 3 - who_was_asked(newcomer)[0]
        newcomer.hear(other, CertificateAnswer(past.number, past.certificate).encode())
        assert [(close.session, close.offence) for close in newcomer.closes] == [(other, Offence.PROTOCOL)]
        assert not newcomer.parts

    def test_a_daemon_that_knows_no_electorate_blames_nobody_and_asks_again_once_it_does(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER, who=electorate(stakes={}))
        peers(newcomer, past, 1)
        newcomer.hear(1, CertificateAnswer(past.number, past.certificate).encode())
        newcomer.settle()
        assert not newcomer.closes
        assert not newcomer.state.loading
        wait(newcomer, AGAIN_MS // 2)
        assert len(wants(newcomer)) == 1
        with newcomer.ledger.transaction():
            newcomer.ledger.set_electorate(past.electorate)
        newcomer.tick()
        begin(newcomer, past)

    def test_a_silent_peer_is_left_for_another_one_and_loses_its_session_in_the_end(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 2)
        (silent,) = who_was_asked(newcomer)
        wait(newcomer, CERTIFICATE_MS_MAX)
        assert who_was_asked(newcomer) == [1, 2]
        newcomer.hear(3 - silent, CertificateAnswer(past.number, b"").encode())
        wait(newcomer, SILENT_MS_MAX)
        assert silent in [close.session for close in newcomer.closes if not close.ban_s]

    def test_peers_that_are_silent_one_after_the_other_keep_a_newcomer_from_all_others_once(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        held: list[bool] = []
        for session in range(1, 16):
            newcomer.open(session, peer_of(Author(f"//validator{session % 2}", seed=session)))
            newcomer.hear(session, digest(newcomer, past.number))
            held.append(newcomer.engine._loading.holds_back(newcomer.state))
            wait(newcomer, CERTIFICATE_MS_MAX)
            assert who_was_asked(newcomer)
        assert held[0]
        assert not any(held[-5:])

    def test_a_store_that_fails_is_left_in_peace_for_a_while(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        newcomer.disk_fails = True
        peers(newcomer, past, 1)
        newcomer.hear(1, CertificateAnswer(past.number, past.certificate).encode())
        newcomer.settle()
        wait(newcomer, AGAIN_MS - 1_000)
        assert len(wants(newcomer)) == 1
        newcomer.disk_fails = False
        wait(newcomer, 1_000)
        begin(newcomer, past)


class TestSlices:
    """Each proves itself; who does not bring what it names is passed over."""

    def forge(self, past: Past, place: int, how: str) -> Leaves:
        good, other = slice_of(past, place), slice_of(past, (place + 1) % past.slices)
        (mask, wire), *rest = good.leaves
        match how:
            case "path":
                return good._replace(path=[bytes(32), *good.path[1:]])
            case "slice":
                return other._replace(place=place)
            case "mask":
                return good._replace(leaves=[(mask ^ 2, wire), *rest])
            case "leaf less":
                return good._replace(leaves=good.leaves[:-1])
            case "signature":
                header, _, payload = codec.unpack(wire)  # type: ignore[misc]
                return good._replace(leaves=[(mask, codec.pack([header, bytes(64), payload])), *rest])
            case _:
                return good._replace(leaves=[(mask, b"no event"), *rest])

    @pytest.mark.parametrize("how", ["path", "slice", "mask", "leaf less", "signature", "event"])
    def test_a_forged_one_costs_its_sender_the_session_and_comes_from_another(self, past: Past, how: str) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 2)
        begin(newcomer, past)
        place = asked(newcomer, 1)[0]
        newcomer.hear(1, self.forge(past, place, how).encode())
        newcomer.settle()
        (close,) = newcomer.closes
        assert (close.session, close.ban_s, close.offence) == (1, BAN_S, Offence.FORGERY)
        assert close.reason.code == "checkpoint-forged"
        while newcomer.state.loading:
            give(newcomer, past, 2, asked(newcomer, 2)[0])
        cut(newcomer.ledger)
        assert len(list(newcomer.ledger.rows())) > 0

    def test_one_that_nobody_wanted_breaks_the_protocol(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 2)
        begin(newcomer, past)
        newcomer.hear(2, slice_of(past, asked(newcomer, 1)[0]).encode())
        assert [(close.session, close.offence) for close in newcomer.closes] == [(2, Offence.PROTOCOL)]

    def test_what_a_silent_peer_leaves_comes_from_another(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 2)
        begin(newcomer, past)
        held = asked(newcomer, 1)
        assert len(held) == WANTS_MAX
        wait(newcomer, SLICE_MS_MAX)
        while newcomer.state.loading:
            give(newcomer, past, 2, asked(newcomer, 2)[0])
        assert asked(newcomer, 1) == held  # and nothing more
        wait(newcomer, SILENT_MS_MAX - SLICE_MS_MAX)
        silent = [close for close in newcomer.closes if close.reason.code == Code.SESSION_SILENT]
        assert [(close.session, close.ban_s) for close in silent] == [(1, 0.0)]

    def test_what_comes_late_is_taken_if_nobody_has_brought_it(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        first, second = asked(newcomer, 1)
        wait(newcomer, SLICE_MS_MAX)
        give(newcomer, past, 1, first)
        assert first not in asked(newcomer, 1)
        assert newcomer.engine.loading() == {"number": past.number, "held": 1, "of": past.slices}
        give(newcomer, past, 1, second)
        assert not newcomer.closes

    def test_a_peer_that_does_not_have_it_is_asked_for_nothing_for_a_while(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        for place in asked(newcomer, 1):
            newcomer.hear(1, Leaves(past.number, place, [], []).encode())
        wait(newcomer, STALL_MS - 1_000)
        assert asked(newcomer, 1) == []
        wait(newcomer, 1_000)
        assert len(asked(newcomer, 1)) == WANTS_MAX
        assert not newcomer.closes

    def test_only_peers_that_name_this_checkpoint_are_asked(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        for session, number in ((2, None), (3, 0), (4, past.number + 1)):
            newcomer.open(session, peer_of(Author("//validator1", seed=session)))
            newcomer.hear(session, digest(newcomer, number))
        assert [len(asked(newcomer, session)) for session in (1, 2, 3, 4)] == [WANTS_MAX, 0, 0, 0]

    def test_who_only_names_the_checkpoint_does_not_hold_the_places_of_those_who_have_it(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        give(newcomer, past, 1, asked(newcomer, 1)[0])
        for session in range(2, 40):
            newcomer.open(session, peer_of(Author("//validator1", seed=session)))
            newcomer.hear(session, digest(newcomer, past.number))
        while wanted := asked(newcomer, 1):
            give(newcomer, past, 1, wanted[0])
        left = PENDING_MAX - WANTS_MAX
        assert newcomer.engine.loading() == {"number": past.number, "held": past.slices - left, "of": past.slices}

    def test_validators_are_asked_before_observers(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        for session in range(1, 40):
            peer = peer_of(Author("//validator0" if session % 13 == 0 else "//Mallory", seed=session))
            newcomer.open(session, peer._replace(observer=session % 13 != 0))
            newcomer.hear(session, digest(newcomer, past.number))
        begin(newcomer, past)
        assert [len(asked(newcomer, session)) for session in (13, 26, 39)] == [1, 1, 1]

    def test_memory_is_bounded_over_all_sessions(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 12)
        begin(newcomer, past)
        newcomer.holds_parts = True
        under_way = 0
        for _ in range(past.slices):
            wanted = [(session, place) for session in range(1, 13) for place in asked(newcomer, session)]
            under_way = max(under_way, len(wanted) + len(newcomer.parts))
            if not wanted:
                break
            give(newcomer, past, *wanted[0])
        assert under_way == len(newcomer.parts) == PENDING_MAX
        newcomer.part_one()
        assert sum(len(asked(newcomer, session)) for session in range(1, 13)) == 1

    def test_what_a_full_store_did_not_take_is_wanted_again(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        newcomer.disk_fails = True
        for place in asked(newcomer, 1):
            give(newcomer, past, 1, place)
        newcomer.disk_fails = False
        newcomer.tick()
        while newcomer.state.loading:
            give(newcomer, past, 1, asked(newcomer, 1)[0])
        assert not newcomer.closes

    def test_after_a_restart_only_what_is_missing_is_wanted(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        done = []
        for _ in range(past.slices // 2):
            done.append(asked(newcomer, 1)[0])
            give(newcomer, past, 1, done[-1])
        restart(newcomer)
        assert newcomer.state.loading
        newcomer.tick()
        newcomer.settle()
        peers(newcomer, past, 1)
        while newcomer.state.loading:
            give(newcomer, past, 1, asked(newcomer, 1)[0])
        wanted = [frame.place for frame in newcomer.said if isinstance(frame, LeavesWant)]
        assert sorted(wanted + done) == list(range(past.slices))

    def test_a_session_that_ends_leaves_its_slices_to_others_and_what_it_sent_is_stored(self, past: Past) -> None:
        newcomer = past.node(NEWCOMER)
        peers(newcomer, past, 2)
        begin(newcomer, past)
        newcomer.holds_parts = True
        give(newcomer, past, 1, asked(newcomer, 1)[0])
        newcomer.do(newcomer.engine.closed(1, newcomer.now_ms))
        newcomer.holds_parts = False
        newcomer.settle()
        assert newcomer.engine.loading() == {"number": past.number, "held": 1, "of": past.slices}
        while newcomer.state.loading:
            give(newcomer, past, 2, asked(newcomer, 2)[0])

    def test_while_only_rows_have_to_follow_no_other_checkpoint_is_asked_for(
        self, pasts: list[Past], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        past, following = pasts
        newcomer = past.node(NEWCOMER, who=following.electorate)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        monkeypatch.setattr(newcomer, "settle_loaded", lambda: None)
        while not newcomer.state.loaded:
            give(newcomer, past, 1, asked(newcomer, 1)[0])
        newcomer.hear(1, digest(newcomer, following.number))
        wait(newcomer, 2 * CERTIFICATE_WAIT_MS)
        assert [want.number for want in wants(newcomer)] == [past.number]
        monkeypatch.undo()
        newcomer.settle_loaded()
        assert newcomer.state.settled == past.number

    def test_while_something_has_to_go_neither_slices_nor_another_checkpoint_are_asked_for(
        self, pasts: list[Past], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However long it takes; then those who have the slices get their time."""
        past, following = pasts
        monkeypatch.setattr(ledger_module, "EVENTS_PER_PART", 2)
        node = past.node(NEWCOMER, strange(past).facts.connection, following.electorate)
        peers(node, past, 1)
        wait(node, CERTIFICATE_WAIT_MS)
        with monkeypatch.context() as patch:
            patch.setattr(node, "settle_loaded", lambda: None)
            begin(node, past)
            node.hear(1, digest(node, following.number))
            wait(node, 2 * CERTIFICATE_WAIT_MS)
            assert node.state.leaving
            assert node.engine.loading() == {"number": past.number, "held": None, "of": None}
        node.tick()
        node.settle()
        assert not node.state.leaving
        peers(node, past, 2)
        assert len(asked(node, 1)) > 0
        node.hear(2, digest(node, following.number))
        wait(node, SLICE_MS_MAX // 2)
        assert [want.number for want in wants(node)] == [past.number]


class TestTheNextCheckpoint:
    """Comes before all of the one before is here, and then nobody can have that any more."""

    def test_it_is_loaded_instead_once_nobody_has_that(self, pasts: list[Past]) -> None:
        past, following = pasts
        newcomer = past.node(NEWCOMER, who=following.electorate)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        for _ in range(3):
            give(newcomer, past, 1, asked(newcomer, 1)[0])
        newcomer.do(newcomer.engine.closed(1, newcomer.now_ms))
        newcomer.now_ms = following.now_ms
        holder = following.holder("//validator0")
        net = Net(newcomer, holder)
        net.join_all()
        net.run(5_000)
        cut(newcomer.ledger)
        ours, theirs = newcomer.ledger.state, holder.ledger.state
        assert ours.settled == theirs.settled == following.number > past.number
        assert (ours.vector_digest, ours.state_root, ours.events) == (
            theirs.vector_digest, theirs.state_root, theirs.events
        )  # fmt: skip
        assert list(newcomer.ledger.rows()) == list(holder.ledger.rows())

    def test_peers_that_go_on_to_it_are_asked_for_it_at_once_when_the_last_one_has(self, pasts: list[Past]) -> None:
        past, following = pasts
        newcomer = past.node(NEWCOMER, who=following.electorate)
        peers(newcomer, past, 3)
        begin(newcomer, past)
        newcomer.said.clear()
        for session in (1, 2, 3):
            assert wants(newcomer) == []
            for place in asked(newcomer, session):
                newcomer.hear(session, Leaves(past.number, place, [], []).encode())
            newcomer.hear(session, digest(newcomer, following.number))
        assert wants(newcomer) == [CertificateWant(following.number)]
        begin(newcomer, following)
        assert newcomer.state.checkpoint == following.number
        assert [len(asked(newcomer, session)) for session in (1, 2, 3)] == [WANTS_MAX] * 3

    def test_it_is_loaded_instead_if_nothing_comes_of_that(self, pasts: list[Past]) -> None:
        past, following = pasts
        newcomer = past.node(NEWCOMER, who=following.electorate)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        newcomer.said.clear()
        newcomer.open(2, peer_of(Author("//validator1")))  # it says nothing
        newcomer.hear(1, digest(newcomer, following.number))
        wait(newcomer, CERTIFICATE_WAIT_MS - 1_000)
        assert wants(newcomer) == []
        wait(newcomer, 1_000)
        assert wants(newcomer) == [CertificateWant(following.number)]

    def test_a_peer_that_brings_a_slice_now_and_then_holds_nobody_at_it(
        self, pasts: list[Past], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Certificates never end: anybody can bring an old one, and its live set as slowly as he likes."""
        monkeypatch.setattr(loading, "PACE_PARTS", 1)
        past, following = pasts
        newcomer = past.node(NEWCOMER, who=following.electorate)
        peers(newcomer, past, 1)
        begin(newcomer, past)
        newcomer.said.clear()
        newcomer.open(2, peer_of(Author("//validator1")))
        newcomer.hear(2, digest(newcomer, following.number))
        for _ in range(6):
            wait(newcomer, SLICE_MS_MAX - 1_000)
            assert wants(newcomer) == []
            give(newcomer, past, 1, asked(newcomer, 1)[0])
            give(newcomer, past, 1, asked(newcomer, 1)[0])
        assert newcomer.state.loading
        wait(newcomer, SLICE_MS_MAX - 1_000)
        assert wants(newcomer) == [CertificateWant(following.number)]


class TestLending:
    """What is served, and to whom."""

    def wanted(self, node: Node, number: int, place: int = 0) -> Leaves:
        node.hear(1, LeavesWant(number, place).encode())
        node.settle()
        last = node.said[-1]
        assert isinstance(last, Leaves)
        return last

    def test_slices_of_the_one_in_force_and_of_no_other(self, past: Past) -> None:
        holder = past.holder("//validator0")
        holder.open(1, peer_of(Author(NEWCOMER)))
        assert self.wanted(holder, past.number, 3) == slice_of(past, 3)
        for number, place in ((past.number - 1, 0), (past.number + 1, 0), (past.number, past.slices)):
            assert self.wanted(holder, number, place) == Leaves(number, place, [], [])

    def test_also_while_the_rest_is_taken_away_but_not_while_it_is_loaded(self, past: Past) -> None:
        holder = past.holder("//validator0")
        holder.open(1, peer_of(Author(NEWCOMER)))
        for stage, served in ((Stage.CUTTING, True), (Stage.LOADING, False)):
            with holder.ledger.transaction():
                holder.ledger.checkpoints.reach(stage)
            assert bool(self.wanted(holder, past.number).leaves) is served

    def test_a_certificate_that_is_not_here_is_answered_with_none(self, past: Past) -> None:
        holder = past.holder("//validator0")
        holder.open(1, peer_of(Author(NEWCOMER)))
        for number, wire in ((past.number, past.certificate), (past.number + 1, b"")):
            holder.hear(1, CertificateWant(number).encode())
            holder.settle()
            assert holder.said[-1] == CertificateAnswer(number, wire)

    @pytest.mark.parametrize(
        "frames",
        [
            [CertificateWant(1)] * 2,
            [LeavesWant(1, 1)] * 2,
            [LeavesWant(1, place) for place in range(WANTS_MAX + 1)],
        ],
        ids=["two certificates", "a slice twice", "too many slices"],
    )
    def test_who_does_not_wait_for_answers_breaks_the_protocol(
        self, past: Past, frames: list[CertificateWant | LeavesWant]
    ) -> None:
        holder = past.holder("//validator0")
        holder.open(1, peer_of(Author(NEWCOMER)))
        for frame in frames[:-1]:
            holder.hear(1, frame.encode())
        assert not holder.closes
        holder.hear(1, frames[-1].encode())
        assert [close.offence for close in holder.closes] == [Offence.PROTOCOL]

    def test_who_asks_for_certificates_all_the_time_floods(self, past: Past) -> None:
        holder = past.holder("//validator0")
        holder.open(1, peer_of(Author(NEWCOMER)))
        for _ in range(CERTIFICATES.burst + 1):
            assert not holder.closes
            holder.hear(1, CertificateWant(past.number).encode())
            holder.settle()
        assert [close.offence for close in holder.closes] == [Offence.FLOOD]

    def test_a_slow_reader_is_sent_no_more_than_it_takes(self, past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("p2pnodes.gossip.lending.SERVE_QUEUE_BYTES_MAX", 500)
        holder = past.holder("//validator0")
        holder.open(1, peer_of(Author(NEWCOMER)))
        while holder.outgoing[1]:
            holder.write_out(1)
        holder.hear(1, LeavesWant(past.number, 0).encode())
        holder.settle()
        holder.hear(1, LeavesWant(past.number, 1).encode())
        assert not holder.reads
        holder.write_out(1)
        assert [type(read) for read in holder.reads] == [ReadLeaves]


def test_what_goes_to_the_store_is_a_certificate_or_a_slice(past: Past) -> None:
    newcomer = past.node(NEWCOMER)
    peers(newcomer, past, 1)
    newcomer.hear(1, CertificateAnswer(past.number, past.certificate).encode())
    assert list(newcomer.parts) == [Consider(1, past.number, past.certificate)]
    while newcomer.parts:
        newcomer.part_one()
    newcomer.holds_parts = True
    give(newcomer, past, 1, 0)
    (effect,) = newcomer.parts
    assert isinstance(effect, Load)
    assert (effect.number, effect.place, list(effect.leaves)) == (past.number, 0, list(slice_of(past, 0).leaves))
