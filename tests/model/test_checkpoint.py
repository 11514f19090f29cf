"""The pure parts of checkpoints: the tree, slices, lines, certificates, and what of a live set is judged."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnodes.model import checkpoint
from p2pnodes.model.checkpoint import (
    FLOOR_HORIZONS,
    LOGS_PER_HOTKEY_CUT,
    PER_HORIZON,
    SETTLED_PER_HOTKEY_MAX,
    SIGNERS_MAX,
    SLICE_BYTES,
    SLICE_LEAVES_MAX,
    SURPLUS_LOGS_MAX,
    SURPLUS_PER_HOTKEY_MAX,
    Certificate,
    Leaf,
    Signature,
    Slicer,
    Tree,
    awaited_hlc,
    believing,
    check,
    chosen,
    due_number,
    ending_requests,
    floor_of,
    horizon_of,
    judge_kept,
    line_of,
    needed_carriages,
    needed_deletions,
    proves,
    slice_digest,
    stakes_of,
    suffices,
)
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.codec import MalformedError, digest
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import (
    CLAIMS_PER_DELETE_MAX,
    LOGS_PER_CUT_MAX,
    Checkpoint,
    CutLog,
    Event,
    Head,
    LogId,
    Propose,
    Verdict,
)
from p2pnodes.model.inventory import (
    Carriage,
    Claim,
    DeleteCarriage,
    Deletion,
    Ending,
    counted_carriages,
    counts,
    ending,
    standing,
)
from p2pnodes.model.network import Network
from p2pnodes.model.requests import NONCE_WINDOW_S
from tests.support import BLOCK, NETWORK, NOW_MS, NOW_S, VALIDATORS, Author, add, covers, electorate, hotkey

SLICES_MAX: Final = 70
HASHES: Final = [digest(bytes([index])) for index in range(SLICES_MAX + 1)]
OTHER: Final = Network(genesis_hash="1" * 64, netuid=64)
E: Final = electorate(time_ms=NOW_MS)
NUMBER: Final = due_number(NETWORK, E)
OLD_MS: Final = horizon_of(NETWORK, E) - 1


def entry(uri: str, *, number: int = 0, **changes: object) -> CutLog:
    """What a cut names of a validator's log."""
    author = Author(uri, number=number)
    found = CutLog(
        author.log, author.hotkey.public_key, Head(0, bytes(32)), hlc_at(OLD_MS), NOW_S - 86_400, NOW_S + 86_400
    )
    return found._replace(**changes)  # type: ignore[arg-type]


def payload(*logs: CutLog, who: Electorate = E, number: int = NUMBER) -> Propose:
    """A proposal's payload."""
    return Propose(number, b"", who.canonical, tuple(sorted(logs)))


ALL: Final = tuple(entry(uri) for uri in VALIDATORS)


def proposed(said: Propose) -> Event:
    """It as an event."""
    author = Author(VALIDATORS[0], number=9)
    author.delegate()
    return author.write(said)


PROPOSAL: Final = proposed(payload(*ALL))
SAID: Final = Checkpoint(NUMBER, PROPOSAL.id, 3, 1, bytes(32))


def signature(uri: str, said: Checkpoint = SAID, *, number: int = 1, **window: int) -> Signature:
    """A validator's signature in a log of its own."""
    author = Author(uri, number=number)
    return Signature(author.write(author.delegation(**window)), author.write(said))


def certificate(*signatures: Signature, proposal: Event = PROPOSAL) -> Certificate:
    """A certificate of these."""
    return Certificate(proposal, signatures)


def broken(event: Event) -> Event:
    """An event whose signature does not hold."""
    return event._replace(signature=bytes(64))


class TestTree:
    """A path proves one slice at one place of one number of slices, and nothing else."""

    @given(slices=st.integers(1, SLICES_MAX), data=st.data())
    def test_each_slice_is_proved_by_its_path(self, slices: int, data: st.DataObject) -> None:
        tree, index = Tree(HASHES[:slices]), data.draw(st.integers(0, slices - 1))
        assert len(tree) == slices
        assert proves(tree.path(index), HASHES[index], index, slices, tree.root)

    @pytest.mark.parametrize("slices", range(1, SLICES_MAX + 1))
    def test_no_other_place_hash_or_path_is_proved(self, slices: int) -> None:
        tree = Tree(HASHES[:slices])
        for index in {0, slices // 2, slices - 1}:
            path = tree.path(index)
            assert not proves([*path, HASHES[-1]], HASHES[index], index, slices, tree.root)
            assert not proves(path, HASHES[-1], index, slices, tree.root)
            assert not proves(path, HASHES[index], index, slices, HASHES[-1])
            for at in range(len(path)):
                assert not proves(path[:at] + path[at + 1 :], HASHES[index], index, slices, tree.root)
                forged = [*path[:at], HASHES[-1], *path[at + 1 :]]
                assert not proves(forged, HASHES[index], index, slices, tree.root)
            for other in range(slices):
                assert proves(path, HASHES[index], other, slices, tree.root) is (other == index)

    def test_without_slices_nothing_is_proved_and_the_root_is_that_of_nothing(self) -> None:
        assert Tree().root == digest(b"")
        assert Tree([HASHES[0]]).root == HASHES[0]

    @given(slices=st.integers(2, SLICES_MAX))
    def test_the_root_of_an_inner_node_is_no_slice(self, slices: int) -> None:
        tree = Tree(HASHES[:slices])
        assert not proves([], tree.root, 0, slices, tree.root)


class TestSlicer:
    """Slices are bounded in leaves and in bytes, and every leaf is in one."""

    @given(sizes=st.lists(st.sampled_from((100, 1_000, 99_000, SLICE_BYTES)), max_size=200))
    def test_a_slice_ends_when_it_is_full_and_not_before(self, sizes: list[int]) -> None:
        slicer, leaves = Slicer(), []
        slices: list[list[int]] = []
        for seq, size in enumerate(sizes):
            leaves.append(Leaf(LogId(bytes(32), 0), seq, bytes(32), 1))
            if slicer.add(leaves[-1], size):
                slices.append([])
            slices[-1].append(seq)
        tree = slicer.tree()
        assert slicer.leaves == len(sizes)
        assert slicer.digests == [slice_digest(leaves[seq].digest() for seq in part) for part in slices]
        assert tree.root == Tree(slicer.digests).root
        for part in slices:
            assert len(part) <= SLICE_LEAVES_MAX
            assert sum(sizes[seq] for seq in part[:-1]) < SLICE_BYTES
        for part in slices[:-1]:
            assert len(part) == SLICE_LEAVES_MAX or sum(sizes[seq] for seq in part) >= SLICE_BYTES

    def test_every_field_of_a_leaf_is_in_its_digest(self) -> None:
        leaf = Leaf(LogId(bytes(32), 0), 1, bytes(32), 1)
        others = [
            leaf._replace(log=LogId(bytes(32), 1)),
            leaf._replace(log=LogId(b"\1" * 32, 0)),
            leaf._replace(seq=2),
            leaf._replace(id=b"\1" * 32),
            leaf._replace(mask=3),
        ]
        assert len({each.digest() for each in (leaf, *others)}) == 6


class TestLine:
    """A proposal draws a line only below the horizon of its electorate, and for its number."""

    def test_what_it_draws(self) -> None:
        line = line_of(NETWORK, PROPOSAL, payload(*ALL))
        assert (line.number, line.proposal) == (NUMBER, PROPOSAL.id)
        assert line.horizon_hlc == hlc_at(NOW_MS - NETWORK.horizon_s * 1000)
        assert line.floor_s == NOW_S - (1 + FLOOR_HORIZONS) * NETWORK.horizon_s - NONCE_WINDOW_S
        assert covers(line, ALL[0].log, 0)
        assert not covers(line, ALL[0].log, 1)
        assert not covers(line, LogId(bytes(32), 0), 0)

    @pytest.mark.parametrize("number", [NUMBER - 1, NUMBER + 1])
    def test_another_number_is_refused(self, number: int) -> None:
        with pytest.raises(MalformedError, match="checkpoint number"):
            line_of(NETWORK, PROPOSAL, payload(*ALL, number=number))

    def test_an_event_at_the_horizon_is_refused(self) -> None:
        with pytest.raises(MalformedError, match="not below the horizon"):
            line_of(NETWORK, PROPOSAL, payload(entry(VALIDATORS[0], hlc=hlc_at(OLD_MS + 1))))

    def test_an_electorate_from_before_the_first_horizon_is_refused(self) -> None:
        early = electorate(time_ms=NETWORK.horizon_s * 1000)
        with pytest.raises(MalformedError, match="horizon"):
            line_of(NETWORK, PROPOSAL, payload(*ALL, who=early, number=due_number(NETWORK, early)))

    def test_an_electorate_that_cannot_be_read_is_refused(self) -> None:
        with pytest.raises(MalformedError):
            line_of(NETWORK, PROPOSAL, payload(*ALL)._replace(pins=b"\xc1"))

    def test_as_many_numbers_are_due_in_a_horizon_as_are_said(self) -> None:
        later = electorate(time_ms=NOW_MS + NETWORK.horizon_s * 1000)
        assert due_number(NETWORK, later) - NUMBER == PER_HORIZON

    def test_the_floor_is_never_below_zero(self) -> None:
        assert floor_of(NETWORK, 1) == 0

    @given(nonce_s=st.integers(0, 60), recorded_ms=st.integers(-600_000, 600_000), placed_after=st.integers(1, 1 << 20))
    def test_a_place_under_a_claim_that_may_count_above_it_is_not_too_old(
        self, nonce_s: int, recorded_ms: int, placed_after: int
    ) -> None:
        line = line_of(NETWORK, PROPOSAL, payload(*ALL))
        recorded_hlc = hlc_at((line.floor_s + nonce_s) * 1000 + recorded_ms)
        assert recorded_hlc + placed_after > awaited_hlc(line)

    def test_nor_is_it_by_more_than_that(self) -> None:
        line = line_of(NETWORK, PROPOSAL, payload(*ALL))
        assert awaited_hlc(line) == hlc_at((line.floor_s - NONCE_WINDOW_S) * 1000)
        assert awaited_hlc(line._replace(floor_s=NONCE_WINDOW_S - 1)) == 0

    def test_those_who_are_believed_are_the_authors_in_the_cut(self) -> None:
        line = line_of(NETWORK, PROPOSAL, payload(ALL[0], entry("//Alice")))
        assert set(believing(line).stakes) == {hotkey(uri).public_key for uri in (VALIDATORS[0], "//Alice")}


def fit(
    logs: Iterable[CutLog],
    who: Electorate = E,
    named: Iterable[CutLog] = (),
    began: Mapping[LogId, int] | None = None,
    settled: Container[LogId] | None = None,
) -> list[CutLog]:
    """What a cut names of logs, those of the highest numbers having begun last, and all settled, unless it is said."""
    logs = list(logs)
    begun = {each.log: each.log.number for each in logs} | dict(began or {})
    return list(chosen(logs, who, begun, {each.log for each in named}, begun if settled is None else settled))


def after_many(logs: Sequence[CutLog], who: Electorate = E) -> list[CutLog]:
    """What a cut names of logs after many cuts, of each hotkey more and more."""
    named = fit(logs, who)
    while len(more := fit(logs, who, named)) > len(named):
        named = more
    return named


class TestChosen:
    """A cut that cannot name all logs names those of whoever has few."""

    ANY: Final = LOGS_PER_HOTKEY_CUT + SURPLUS_PER_HOTKEY_MAX
    ROOM: Final = ANY + SETTLED_PER_HOTKEY_MAX
    SUBNET: Final = tuple(f"//Subnet{number}" for number in range(64))
    E64: Final = electorate(stakes=dict.fromkeys(SUBNET, 100), time_ms=NOW_MS)

    @staticmethod
    def logs(uri: str, count: int, first: int = 0) -> list[CutLog]:
        return [entry(uri, number=number) for number in range(first, first + count)]

    def test_all_that_fit_are_named_in_order(self) -> None:
        assert fit(reversed(ALL)) == sorted(ALL, key=lambda each: each.log)

    def test_who_opens_logs_without_end_takes_no_room_from_others(self) -> None:
        many = self.logs(VALIDATORS[0], LOGS_PER_CUT_MAX)
        for found in (fit([*many, *ALL[1:]]), after_many([*many, *ALL[1:]])):
            assert set(ALL[1:]) <= set(found)
        assert len(found) == len(ALL[1:]) + self.ROOM

    def test_beyond_twelve_one_more_is_named_at_a_time_if_it_is_settled(self) -> None:
        """So those that come first, and never hold what the others say, take no room from the one that is written."""
        many = self.logs(VALIDATORS[0], self.ROOM + 1)
        assert set(named := fit(many)) == set(many[-self.ANY :])
        assert set(fit(many, named=named)) == {*named, many[-self.ANY - 1]}
        assert set(after_many(many)) == set(many[1:])
        younger = self.logs(VALIDATORS[0], 3, first=self.ROOM + 1)
        assert fit([*many, *younger], named=named, settled={each.log for each in (*many, *younger[:-1])}) == named
        assert set(fit([*many, *younger], named=named, settled={younger[-1].log})) == {*named, younger[-1]}

    def test_one_that_is_not_settled_any_more_gives_its_room_to_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A younger log of its hotkey, shown behind a proposal, would have others ask for a log that has no room."""
        monkeypatch.setattr(checkpoint, "SURPLUS_LOGS_MAX", 1 + 2 * SURPLUS_PER_HOTKEY_MAX)
        first, second = sorted(VALIDATORS[:2], key=lambda uri: hotkey(uri).public_key)
        logs = [*self.logs(first, self.ANY + 1), *self.logs(second, self.ANY + 1)]
        named = fit(logs)
        assert [each.hotkey for each in fit(logs, named=named) if each not in named] == [hotkey(first).public_key]
        of_second = {each.log for each in logs if each.hotkey == hotkey(second).public_key}
        assert fit(logs, named=named, settled=of_second) == named

    def test_four_of_everybody_have_room_beside_all_who_do_so(self) -> None:
        """All who do so come first, and stay: the others had three of four, and a new validator none."""
        *rogues, new = self.SUBNET
        rogues, others = rogues[:20], [*rogues[20:], new]
        many = [log for uri in rogues for log in self.logs(uri, 99)]
        named = after_many(many, self.E64)
        assert len(named) == len(rogues) * LOGS_PER_HOTKEY_CUT + SURPLUS_LOGS_MAX
        theirs = [log for uri in others for log in self.logs(uri, LOGS_PER_HOTKEY_CUT)]
        assert set(theirs) < set(fit([*many, *theirs], self.E64, named))

    def test_the_log_that_is_written_now_has_room_beside_eleven_older_ones_whatever_one_other_does(self) -> None:
        many, own = self.logs(VALIDATORS[0], LOGS_PER_CUT_MAX), self.logs(VALIDATORS[1], 11)
        named = after_many([*many, *own])
        now = entry(VALIDATORS[1], number=11)
        assert now in fit([*many, *own, now], named=named, settled=())

    def test_each_of_256_has_room_for_one_whoever_came_first(self) -> None:
        everybody = [f"//Any{number}" for number in range(256)]
        who = electorate(stakes=dict.fromkeys(everybody, 100), time_ms=NOW_MS)
        many = [log for uri in everybody[:100] for log in self.logs(uri, 99)]
        named = after_many(many, who)
        assert len(named) == LOGS_PER_CUT_MAX - 156
        found = fit([*many, *map(entry, everybody[100:])], who, named)
        assert {each.hotkey for each in found} == who.stakes.keys()
        assert len(found) == LOGS_PER_CUT_MAX

    def test_of_one_with_many_logs_those_are_named_that_have_begun_last(self) -> None:
        many = self.logs(VALIDATORS[0], LOGS_PER_CUT_MAX)
        assert set(fit(many)) == set(many[-self.ANY :])
        assert set(after_many(many)) == set(many[-self.ROOM :])
        first = many[0]
        assert first in fit(many, began={first.log: LOGS_PER_CUT_MAX})

    def test_logs_without_a_permit_come_last(self) -> None:
        strangers = [entry(f"//Stranger{number}") for number in range(LOGS_PER_CUT_MAX)]
        found = set(fit([*strangers, *ALL]))
        assert set(ALL) <= found
        assert len(found) == LOGS_PER_CUT_MAX

    def test_what_the_cut_in_force_names_stays_whoever_else_comes(self) -> None:
        many = self.logs(VALIDATORS[0], LOGS_PER_CUT_MAX)
        strangers = [entry(f"//Stranger{number}") for number in range(LOGS_PER_CUT_MAX)]
        for before in (many, strangers):
            assert set(fit([*ALL[1:], *before], named=before)) == set(before)

    @settings(max_examples=300)
    @given(data=st.data())
    def test_what_comes_behind_a_proposal_makes_it_lack_nothing(self, data: st.DataObject) -> None:
        """Whoever signs it asks whether something must be named that it does not name."""
        uris = self.SUBNET[:6]
        who = electorate(stakes=dict.fromkeys(uris[:5], 100), time_ms=NOW_MS)
        drawn = st.lists(st.tuples(st.sampled_from(uris), st.integers(0, 9)), max_size=20, unique=True)
        logs = [entry(uri, number=number) for uri, number in data.draw(drawn)]
        began = {log.log: data.draw(st.integers(0, 3)) for log in logs}
        named = [log for log in logs if data.draw(st.booleans())][:4]
        first = [log for log in logs if log in named or data.draw(st.booleans())]
        settled = {log.log for log in logs if data.draw(st.booleans())}
        settled_then = {log for log in settled if data.draw(st.booleans())}
        settled |= {log.log for log in logs if log not in first}
        settled_then |= {log.log for log in logs if log not in first}
        longer = [log._replace(hlc=log.hlc - data.draw(st.integers(0, 3))) for log in logs]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (("HOTKEY_CUT", 1), ("CUT_MAX", 8)):
                patch.setattr(checkpoint, f"LOGS_PER_{name}", value)
            for name, value in (("SURPLUS_LOGS", 4), ("SURPLUS_PER_HOTKEY", 1), ("SETTLED_PER_HOTKEY", 2)):
                patch.setattr(checkpoint, f"{name}_MAX", value)
            before = {log.log for log in fit(first, who, named, began, settled)}
            after = {log.log for log in fit(longer, who, named, began, settled_then)}
        assert after & {log.log for log in first} <= before


class TestSuffices:
    """More than two thirds of what is enrolled at the cut, and a quorum of all that is permitted."""

    @staticmethod
    def _enough(stakes: list[int], signers: int, left_out: int = 0) -> bool:
        uris = [f"//validator{index}" for index in range(len(stakes))]
        who = electorate(stakes=dict(zip(uris, stakes, strict=True)))
        logs = payload(*(entry(uri) for uri in uris[: len(uris) - left_out]), who=who)
        line = line_of(NETWORK, PROPOSAL, logs)
        return suffices(NETWORK, line, [hotkey(uri).public_key for uri in uris[:signers]])

    @pytest.mark.parametrize(
        ("stakes", "signers", "enough"),
        [([67, 33], 1, True), ([66, 34], 1, False), ([2, 1], 1, False), ([1, 1, 1], 2, False), ([1, 1, 1], 3, True)],
    )
    def test_two_thirds_are_not_enough_and_one_more_is(self, stakes: list[int], signers: int, enough: bool) -> None:
        assert self._enough(stakes, signers) is enough

    def test_who_leaves_logs_out_is_not_all_that_is_left_to_agree(self) -> None:
        assert not self._enough([50, 50], 1, left_out=1)
        assert self._enough([51, 49], 1, left_out=1)

    @pytest.mark.parametrize("window", [{"not_after": NOW_S - 1}, {"not_before": NOW_S + 1}])
    def test_a_delegation_that_does_not_live_then_weighs_nothing(self, window: dict[str, int]) -> None:
        line = line_of(NETWORK, PROPOSAL, payload(*ALL[1:], entry(VALIDATORS[0], **window)))
        assert set(stakes_of(line)) == {each.hotkey for each in ALL[1:]}

    def test_who_has_no_permit_weighs_nothing(self) -> None:
        line = line_of(NETWORK, PROPOSAL, payload(*ALL, entry("//Alice")))
        assert set(stakes_of(line)) == {each.hotkey for each in ALL}


class TestCertificate:
    """It holds with enough good signatures of one statement, and each thing that is wrong with it is told."""

    def test_it_says_what_its_signers_found(self) -> None:
        found = check(NETWORK, certificate(*map(signature, VALIDATORS)))
        assert found.statement == SAID
        assert found.stakes == {each.hotkey: 100 for each in ALL}
        assert (found.previous, found.line.number) == (b"", NUMBER)

    def test_it_comes_back_from_its_bytes(self) -> None:
        made = certificate(*map(signature, VALIDATORS))
        assert Certificate.decode(made.encode()) == made

    @pytest.mark.parametrize("data", [b"", b"\x90", b"\x92\xc4\x00\x90", b"\x92\x01\x90"])
    def test_other_bytes_are_refused(self, data: bytes) -> None:
        with pytest.raises(MalformedError):
            Certificate.decode(data)

    def test_more_signatures_than_there_may_be_are_refused(self) -> None:
        made = certificate(*[signature(VALIDATORS[0])] * (SIGNERS_MAX + 1))
        with pytest.raises(MalformedError):
            Certificate.decode(made.encode())

    def test_one_signer_of_three_is_not_enough_however_often_it_signs(self) -> None:
        often = [signature(VALIDATORS[0], number=number) for number in range(1, 5)]
        with pytest.raises(MalformedError, match="fewer"):
            check(NETWORK, certificate(*often))

    def test_signers_who_found_different_sets_are_not_added_up(self) -> None:
        differs = SAID._replace(root=b"\1" * 32)
        split = [signature(VALIDATORS[0]), *(signature(uri, differs) for uri in VALIDATORS[1:])]
        with pytest.raises(MalformedError, match="fewer"):
            check(NETWORK, certificate(*split))

    def test_a_stranger_adds_nothing(self) -> None:
        with pytest.raises(MalformedError, match="fewer"):
            check(NETWORK, certificate(*map(signature, (*VALIDATORS[:2], "//Alice", "//Bob"))))

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda good: good._replace(checkpoint=broken(good.checkpoint)), "expected a signed checkpoint"),
            (lambda good: good._replace(delegation=broken(good.delegation)), "expected a signed delegation"),
            (lambda good: good._replace(checkpoint=good.delegation), "expected a signed checkpoint"),
            (lambda good: good._replace(delegation=good.checkpoint), "expected a signed delegation"),
            (lambda good: good._replace(delegation=signature(VALIDATORS[1]).delegation), "of another log"),
            (lambda _: signature(VALIDATORS[0], not_after=NOW_S - 1), "does not cover it"),
            (lambda _: signature(VALIDATORS[0], SAID._replace(proposal=bytes(32))), "of another proposal"),
            (lambda _: signature(VALIDATORS[0], SAID._replace(number=NUMBER + 1)), "of another proposal"),
        ],
    )
    def test_one_bad_signature_spoils_it(self, spoil: Callable[[Signature], Signature], said: str) -> None:
        good = signature(VALIDATORS[0])
        with pytest.raises(MalformedError, match=said):
            check(NETWORK, certificate(spoil(good), *map(signature, VALIDATORS[1:])))

    def test_a_proposal_that_is_forged_or_of_another_network_is_refused(self) -> None:
        signatures = tuple(map(signature, VALIDATORS))
        for network, proposal in ((NETWORK, broken(PROPOSAL)), (OTHER, PROPOSAL), (NETWORK, signatures[0].checkpoint)):
            with pytest.raises(MalformedError, match="expected a signed propose"):
                check(network, certificate(*signatures, proposal=proposal))

    def test_a_newcomer_trusts_signers_with_a_quorum_of_todays_stake_alone(self) -> None:
        found = check(NETWORK, certificate(*map(signature, VALIDATORS)))
        assert found.trusted(E, NETWORK.quorum_ppm)
        half = electorate(stakes={VALIDATORS[0]: 50, "//Alice": 50})
        assert not found.trusted(half, NETWORK.quorum_ppm)
        assert found.trusted(electorate(stakes={VALIDATORS[0]: 51, "//Alice": 49}), NETWORK.quorum_ppm)
        assert not found.trusted(electorate(stakes={"//Alice": 1}), NETWORK.quorum_ppm)


class TestKept:
    """An event of a live set is judged by itself."""

    def test_what_stood_before_it_is_not_asked(self) -> None:
        author = Author(VALIDATORS[0])
        delegation = author.delegate()
        assert judge_kept(delegation).void is None
        assert judge_kept(author.add(add("//Alice", ["gpu-0"]))).void is None

    def test_what_it_says_and_the_signatures_in_it_are(self) -> None:
        author = Author(VALIDATORS[0])
        request = add("//Alice", ["gpu-0"])
        assert judge_kept(author.add(request._replace(signature=bytes(64)))).void is not None
        hlc = hlc_at(NOW_MS)
        assert judge_kept(author.write(Verdict(bytes(32), "verified", "t", "", hlc + 1), hlc=hlc)).void is not None
        stranger = Author(VALIDATORS[1])
        assert judge_kept(author.write(stranger.delegation())).void is not None


AUTHORS: Final = [hotkey(uri).public_key for uri in VALIDATORS]


@st.composite
def carriages(draw: st.DrawFn) -> list[Carriage]:
    """Draw who carries a claim, with blocks around that of E."""
    blocks = st.integers(BLOCK - 3, BLOCK + 3)
    return draw(st.lists(st.builds(Carriage, st.sampled_from(AUTHORS), blocks, st.integers(1, 4)), max_size=12))


class TestNeededCarriages:
    """Whoever carries a claim again and again is heard as if it had done so twice."""

    MINER: Final = hotkey("//Alice").public_key

    def _shown(self, carried: list[Carriage], who: Electorate) -> tuple[bool, int]:
        claim = Claim(bytes(32), self.MINER, NOW_S, ("gpu-0",), tuple(carried))
        counted = counted_carriages(claim, who)
        return counts(claim, who), min((carriage.hlc for carriage in counted), default=0)

    @given(
        below=carriages(),
        above=carriages(),
        permitted=st.sets(st.sampled_from(AUTHORS)),
        registered=st.integers(BLOCK - 4, BLOCK + 4),
        block=st.integers(BLOCK, BLOCK + 4),
    )
    def test_the_others_change_nothing_whoever_counts_from_then_on(
        self, below: list[Carriage], above: list[Carriage], permitted: set[bytes], registered: int, block: int
    ) -> None:
        pin = E.current._replace(
            block=block, validators=dict.fromkeys(permitted, 1), registered={self.MINER: registered}
        )
        known = [carriage for carriage in below if carriage.electorate_block <= BLOCK]
        needed = needed_carriages(enumerate(below), BLOCK)
        kept = [below[place] for place in sorted(needed)]
        assert self._shown([*kept, *above], Electorate(pin)) == self._shown([*known, *above], Electorate(pin))

    @given(below=carriages())
    def test_they_are_two_of_each_author_at_most(self, below: list[Carriage]) -> None:
        kept = [below[place].author for place in needed_carriages(enumerate(below), BLOCK)]
        assert all(kept.count(author) <= 2 for author in AUTHORS)
        assert set(kept) == {carriage.author for carriage in below if carriage.electorate_block <= BLOCK}

    def test_of_those_that_say_the_same_it_is_the_first(self) -> None:
        same = Carriage(AUTHORS[0], BLOCK, 1)
        assert needed_carriages([("a", same), ("b", same)], BLOCK) == {"a"}

    def test_one_that_names_a_later_electorate_is_left_out(self) -> None:
        assert needed_carriages([("a", Carriage(AUTHORS[0], BLOCK + 1, 1))], BLOCK) == set()

    @given(below=carriages(), above=carriages(), block=st.integers(BLOCK, BLOCK + 3))
    def test_one_checkpoint_after_another_leaves_what_the_last_one_alone_does(
        self, below: list[Carriage], above: list[Carriage], block: int
    ) -> None:
        ordered = list(enumerate([*(each for each in below if each.electorate_block <= BLOCK), *above]))
        older = ordered[: len(ordered) - len(above)]
        first = needed_carriages(older, BLOCK)
        left = [each for each in ordered if each not in older or each[0] in first]
        assert needed_carriages(left, block) == needed_carriages(ordered, block)


GPUS: Final = ("gpu-0", "gpu-1", "gpu-2")


@st.composite
def deletions(draw: st.DrawFn, gpus: tuple[str, ...]) -> dict[tuple[int, int], DeleteCarriage]:
    """Draw what logs, the i-th of author i modulo 3, say of one delete request: (log, seq) -> event, in order."""
    named = st.frozensets(st.sampled_from([bytes([name]) for name in range(3)]))
    said = draw(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(gpus), named), max_size=12))
    found = {
        (log, seq): DeleteCarriage(AUTHORS[log % 3], uuid, claim_ids) for seq, (log, uuid, claim_ids) in enumerate(said)
    }
    return dict(sorted(found.items()))


def needed_of_all(said: dict[tuple[int, int], DeleteCarriage]) -> dict[tuple[int, int], DeleteCarriage]:
    """What is needed of the events of all authors."""
    keys: set[tuple[int, int]] = set()
    for author in AUTHORS:
        keys |= needed_deletions((key, carriage) for key, carriage in said.items() if carriage.author == author)
    return {key: carriage for key, carriage in said.items() if key in keys}


class TestNeededDeletions:
    """Whoever records a deletion again and again is heard as far as that says something new."""

    @given(data=st.data(), bound=st.booleans(), permitted=st.sets(st.sampled_from(AUTHORS)))
    def test_the_others_change_nothing_whoever_counts_from_then_on(
        self, data: st.DataObject, permitted: set[bytes], *, bound: bool
    ) -> None:
        gpus = GPUS[:1] if bound else GPUS
        below, above = data.draw(deletions(gpus)), data.draw(deletions(gpus))
        who = Electorate(E.current._replace(validators=dict.fromkeys(permitted, 1)))
        kept = needed_of_all(below)
        for uuid in gpus:
            all_, left = (
                ending(Deletion(bytes(32), bytes(32), 1, bound, (*said.values(), *above.values())), uuid, who)
                for said in (below, kept)
            )
            assert type(all_) is type(left)
            assert all_ == left or not isinstance(all_, Ending)  # why it ends nothing may be told otherwise

    @given(said=deletions(GPUS))
    def test_an_author_whose_gpus_are_left_out_has_two_others(
        self, said: dict[tuple[int, int], DeleteCarriage]
    ) -> None:
        kept = needed_of_all(said)
        for author in AUTHORS:
            named = list(dict.fromkeys(each.uuid for each in said.values() if each.author == author))
            assert list(dict.fromkeys(each.uuid for each in kept.values() if each.author == author)) == named[:2]

    @given(said=deletions(GPUS))
    def test_what_is_said_again_in_a_younger_log_is_not_needed_of_the_older_one(
        self, said: dict[tuple[int, int], DeleteCarriage]
    ) -> None:
        own = {key: carriage for key, carriage in said.items() if carriage.author == AUTHORS[0]}
        needed = needed_deletions(own.items())
        again = {("again", *key): own[key] for key in sorted(needed)}
        assert needed_deletions([*again.items(), *own.items()]) <= again.keys()

    def test_two_lists_that_take_turns_are_kept_once_each(self) -> None:
        lists = [frozenset((bytes([name]),)) for name in range(2)]
        said = [DeleteCarriage(AUTHORS[0], "gpu-0", lists[turn % 2]) for turn in range(9)]
        assert needed_deletions(enumerate(said)) == {0, 1}

    def test_they_are_no_more_than_claims_in_one_and_two(self) -> None:
        ids = [bytes([name]) for name in range(CLAIMS_PER_DELETE_MAX)]
        fewer = [DeleteCarriage(AUTHORS[0], "gpu-0", frozenset(ids[:end])) for end in range(len(ids), -1, -1)]
        said = [each for each in fewer for _ in range(3)]
        said += [DeleteCarriage(AUTHORS[0], uuid, frozenset()) for uuid in ("gpu-1", "gpu-2", "gpu-1", "gpu-0")]
        assert needed_deletions(enumerate(said)) == {*range(0, 3 * len(fewer), 3), 3 * len(fewer)}
        assert len(needed_deletions(enumerate(said))) == CLAIMS_PER_DELETE_MAX + 2


class TestEndingRequests:
    """Of each claim the requests with the highest nonce do what all lower ones did."""

    MINER: Final = hotkey("//Alice").public_key
    AUTHOR: Final = hotkey(VALIDATORS[0]).public_key

    def _claim(self, nonce: int) -> Claim:
        return Claim(nonce.to_bytes(32, "big"), self.MINER, nonce, ("gpu-0",), (Carriage(self.AUTHOR, BLOCK, 1),))

    def _deletion(self, name: int, nonce: int) -> Deletion:
        carriage = DeleteCarriage(self.AUTHOR, "gpu-0", frozenset())
        return Deletion(bytes([name]) * 32, self.MINER, nonce, True, (carriage,))

    @given(nonces=st.lists(st.integers(1, 30), max_size=6), claimed=st.sets(st.integers(1, 30), max_size=4))
    def test_they_end_what_all_ended(self, nonces: list[int], claimed: set[int]) -> None:
        deletions = [self._deletion(name, nonce) for name, nonce in enumerate(nonces)]
        claims = [self._claim(nonce) for nonce in claimed]
        needed = ending_requests("gpu-0", claims, deletions, E)
        left = [deletion for deletion in deletions if deletion.request_id in needed]
        assert standing("gpu-0", claims, left, E) == standing("gpu-0", claims, deletions, E)
        assert {deletion.nonce for deletion in left} <= {max(nonces, default=0)}

    def test_a_deletion_that_ends_none_of_them_is_not_needed(self) -> None:
        assert ending_requests("gpu-0", [self._claim(9)], [self._deletion(0, 8)], E) == set()
        assert ending_requests("gpu-0", [self._claim(7)], [self._deletion(0, 8)], E) == {bytes(32)}
