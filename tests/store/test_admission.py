"""A request is accepted, a retry, in conflict or too late: decided once, against the inventory as it stands."""

import pytest

from p2pnodes.model import inventory
from p2pnodes.model.claims import parse_body
from p2pnodes.model.errors import WritesRefusedError
from p2pnodes.model.requests import Add, Delete, request_id, sign_add
from p2pnodes.store import admission
from p2pnodes.store.admission import (
    RETRY_WINDOW_MS,
    ClockError,
    ConflictError,
    HoppingError,
    NotOwnedError,
    ReusedSignatureError,
    TooManyClaimsError,
)
from p2pnodes.store.facts import StoredClaim
from p2pnodes.store.ledger import Ledger
from tests.support import NETWORK, NOW_MS, NOW_S, VALIDATORS, Author, add, body, delete, electorate, hotkey


def admit(
    ledger: Ledger,
    request: Add,
    *,
    refusal: Exception | None = None,
    now_ms: int = NOW_MS,
    denial: Exception | None = None,
) -> StoredClaim:
    with ledger.transaction():
        return admission.admit_add(ledger, request, parse_body(request.body), refusal, now_ms, denial=denial)


def remove(ledger: Ledger, request: Delete, uuid: str, *, now_ms: int = NOW_MS) -> None:
    with ledger.transaction():
        admission.admit_delete(ledger, request, uuid, now_ms)


def verify(ledger: Ledger, claim: StoredClaim) -> None:
    """Two of three validators say verified."""
    for uri in VALIDATORS[1:]:
        author = Author(uri, seed=claim.claim_id[0])
        author.delegate()
        author.verdict(claim.claim_id)
        with ledger.transaction():
            ledger.receive(author.events, NOW_MS)


class TestAdd:
    """In the order of compat.md: the same request, a re-signed retry, conflicts, what else is wrong, the clock."""

    def test_a_registration_is_recorded_as_pending(self, writer: Ledger) -> None:
        request = add("//Alice", ["gpu-1", "gpu-2"])
        claim = admit(writer, request)
        assert claim.claim_id == request_id(NETWORK.id, request)
        assert claim.tally.status == inventory.PENDING
        assert writer.state.nodes == 2

    def test_the_same_request_again_is_the_same_claim_and_no_event(self, writer: Ledger) -> None:
        request = add("//Alice", ["gpu-1"])
        first = admit(writer, request)
        events = writer.state.events
        assert admit(writer, request, refusal=ValueError("hosts do not resolve any more")) == first
        assert writer.state.events == events

    def test_the_same_request_stays_known_after_its_gpus_are_deleted(self, writer: Ledger) -> None:
        request = add("//Alice", ["gpu-1"])
        first = admit(writer, request)
        remove(writer, delete("//Alice", "nodes:gpu-1"), "gpu-1")
        assert admit(writer, request) == first
        assert writer.state.nodes == 0

    def test_a_request_that_a_liar_carries_so_that_it_does_not_count_is_carried_anew(self, writer: Ledger) -> None:
        request = add("//Alice", ["gpu-1"])
        liar = Author("//validator1")
        liar.delegate()
        liar.add(request, block=2**62)
        with writer.transaction():
            writer.receive(liar.events, NOW_MS)
        assert writer.state.nodes == 0
        claim = admit(writer, request)
        assert claim.claim_id == request_id(NETWORK.id, request)
        assert writer.state.nodes == 1

    def test_a_request_whose_only_author_lost_the_permit_is_carried_anew(self, writer: Ledger) -> None:
        request = add("//Alice", ["gpu-1"])
        author = Author("//validator1")
        author.delegate()
        author.add(request)
        with writer.transaction():
            writer.receive(author.events, NOW_MS)
        with writer.transaction():
            writer.set_electorate(electorate(200, NOW_MS + 1, stakes={"//validator0": 100}))
        assert writer.state.nodes == 0
        admit(writer, request)
        assert writer.state.nodes == 1

    def test_the_same_body_signed_anew_within_ten_minutes_is_the_same_claim(self, writer: Ledger) -> None:
        first = admit(writer, add("//Alice", ["gpu-1"]))
        later_ms = NOW_MS + RETRY_WINDOW_MS - 1
        assert admit(writer, add("//Alice", ["gpu-1"], later_ms // 1000), now_ms=later_ms) == first

    def test_the_same_body_signed_anew_is_a_conflict_once_one_of_its_gpus_was_deleted(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1", "gpu-2"]))
        remove(writer, delete("//Alice", "nodes:gpu-2", NOW_S + 1), "gpu-2")
        with pytest.raises(ConflictError) as found:
            admit(writer, add("//Alice", ["gpu-1", "gpu-2"], NOW_S + 2))
        assert found.value.uuids == ["gpu-1"]

    def test_the_same_body_signed_anew_later_is_a_conflict(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1"]))
        later_ms = NOW_MS + RETRY_WINDOW_MS
        with pytest.raises(ConflictError):
            admit(writer, add("//Alice", ["gpu-1"], later_ms // 1000), now_ms=later_ms)

    def test_another_body_that_names_an_own_standing_gpu_is_a_conflict(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1", "gpu-2"]))
        with pytest.raises(ConflictError) as found:
            admit(writer, add("//Alice", ["gpu-3", "gpu-2", "gpu-1"]))
        assert found.value.uuids == ["gpu-2", "gpu-1"]

    def test_another_miners_pending_gpu_may_be_claimed_and_votes_decide(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1"]))
        assert admit(writer, add("//Bob", ["gpu-1"])).miner == hotkey("//Bob").public_key

    def test_another_miners_verified_gpu_is_a_conflict(self, writer: Ledger) -> None:
        verify(writer, admit(writer, add("//Alice", ["gpu-1"])))
        with pytest.raises(ConflictError):
            admit(writer, add("//Bob", ["gpu-1"]))

    def test_a_conflict_is_told_before_what_else_is_wrong(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1"]))
        with pytest.raises(ConflictError):
            admit(writer, add("//Alice", ["gpu-1", "gpu-2"]), refusal=ValueError("specs"))

    def test_what_else_is_wrong_is_raised_when_nothing_answers_before(self, writer: Ledger) -> None:
        with pytest.raises(ValueError, match="specs"):
            admit(writer, add("//Alice", ["gpu-1"]), refusal=ValueError("specs"))
        assert writer.state.nodes == 0

    def test_a_registration_older_than_a_known_delete_of_its_gpu_is_refused_with_both_nonces(
        self, writer: Ledger
    ) -> None:
        admit(writer, add("//Alice", ["gpu-1"]))
        remove(writer, delete("//Alice", "nodes:gpu-1", NOW_S + 5), "gpu-1")
        with pytest.raises(ClockError, match=rf"{NOW_S}.*{NOW_S + 5}"):
            admit(writer, sign_add(hotkey("//Alice"), NOW_S, body(["gpu-1", "gpu-2"])))

    def test_a_gpu_is_registered_again_in_the_second_of_its_deletion(self, writer: Ledger) -> None:
        first = admit(writer, add("//Alice", ["gpu-1"]))
        remove(writer, delete("//Alice", "nodes:gpu-1"), "gpu-1")
        second = admit(writer, add("//Alice", ["gpu-1"]))
        assert second.claim_id != first.claim_id
        assert writer.state.nodes == 1

    def test_pending_claims_per_miner_are_bounded(self, writer: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(admission, "OPEN_CLAIMS_PER_MINER_MAX", 2)
        admit(writer, add("//Alice", ["gpu-1"]))
        admit(writer, add("//Alice", ["gpu-2"]))
        with pytest.raises(TooManyClaimsError):
            admit(writer, add("//Alice", ["gpu-3"]))
        admit(writer, add("//Bob", ["gpu-4"]))

    def test_a_verified_claim_does_not_count_towards_the_bound(
        self, writer: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admission, "OPEN_CLAIMS_PER_MINER_MAX", 1)
        verify(writer, admit(writer, add("//Alice", ["gpu-1"])))
        admit(writer, add("//Alice", ["gpu-2"]))

    def test_claims_that_lapsed_long_ago_do_not_count_towards_the_bound(
        self, writer: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admission, "OPEN_CLAIMS_PER_MINER_MAX", 1)
        admit(writer, add("//Alice", ["gpu-1"]))
        later_ms = NOW_MS + NETWORK.verdict_ttl_s * 1000 + 1000
        admit(writer, add("//Alice", ["gpu-2"], later_ms // 1000), now_ms=later_ms)

    def test_no_request_is_recorded_while_writes_are_refused(self, writer: Ledger) -> None:
        writer.writes_refused = "the clock is off"
        with pytest.raises(WritesRefusedError, match="the clock is off"):
            admit(writer, add("//Alice", ["gpu-1"]))


class TestDenial:
    """A denied miner registers nothing new; what is recorded stays recorded."""

    def test_a_denied_miner_is_refused_before_anything_else_is_looked_at(self, writer: Ledger) -> None:
        verify(writer, admit(writer, add("//Bob", ["gpu-1"])))
        with pytest.raises(PermissionError):
            admit(writer, add("//Alice", ["gpu-1"]), refusal=ValueError("specs"), denial=PermissionError())

    def test_a_request_that_is_recorded_is_found_all_the_same(self, writer: Ledger) -> None:
        request = add("//Alice", ["gpu-1"])
        claim = admit(writer, request)
        assert admit(writer, request, denial=PermissionError()) == claim
        again = add("//Alice", ["gpu-1"], NOW_S + 1)
        assert admit(writer, again, denial=PermissionError(), now_ms=NOW_MS + 1000) == claim


class TestHopping:
    """More than two claims on one GPU within 24 hours, by at least two hotkeys, and the next one is refused."""

    def claim(self, ledger: Ledger, miner: str, uuids: list[str], at_s: int) -> StoredClaim:
        """Register GPUs and delete them in the next second."""
        claim = admit(ledger, add(miner, uuids, at_s), now_ms=at_s * 1000)
        for uuid in uuids:
            remove(ledger, delete(miner, f"nodes:{uuid}", at_s + 1), uuid, now_ms=at_s * 1000 + 1000)
        return claim

    def refused(self, ledger: Ledger, miner: str, uuids: list[str], at_s: int) -> HoppingError:
        with pytest.raises(HoppingError) as found:
            admit(ledger, add(miner, uuids, at_s), now_ms=at_s * 1000, refusal=ValueError("hosts"))
        return found.value

    def test_the_fourth_claim_is_refused_and_the_gpus_are_named_the_most_used_first(self, writer: Ledger) -> None:
        for at, miner in enumerate(["//Alice", "//Bob", "//Alice"]):
            self.claim(writer, miner, ["gpu-1", "gpu-2"], NOW_S + 10 * at)
        self.claim(writer, "//Bob", ["gpu-3"], NOW_S + 30)
        error = self.refused(writer, "//Charlie", ["gpu-3", "gpu-2", "gpu-4", "gpu-1"], NOW_S + 40)
        assert error.uses == [("gpu-2", 3), ("gpu-1", 3)]
        self.claim(writer, "//Alice", ["gpu-1"], NOW_S + 50)  # she had it last
        error = self.refused(writer, "//Charlie", ["gpu-2", "gpu-1"], NOW_S + 60)
        assert error.uses == [("gpu-1", 4), ("gpu-2", 3)]

    def test_the_callers_own_latest_claim_does_not_count(self, writer: Ledger) -> None:
        for at, miner in enumerate(["//Alice", "//Bob", "//Alice"]):
            self.claim(writer, miner, ["gpu-1"], NOW_S + 10 * at)
        self.refused(writer, "//Bob", ["gpu-1"], NOW_S + 30)
        self.claim(writer, "//Alice", ["gpu-1"], NOW_S + 40)
        assert self.refused(writer, "//Alice", ["gpu-1"], NOW_S + 50).uses == [("gpu-1", 3)]

    def test_the_third_claim_is_taken(self, writer: Ledger) -> None:
        self.claim(writer, "//Alice", ["gpu-1"], NOW_S)
        self.claim(writer, "//Bob", ["gpu-1"], NOW_S + 10)
        admit(writer, add("//Charlie", ["gpu-1"], NOW_S + 20), now_ms=NOW_MS + 20_000)

    def test_one_hotkey_alone_does_not_hop(self, writer: Ledger) -> None:
        for at in range(5):
            self.claim(writer, "//Alice", ["gpu-1"], NOW_S + 10 * at)

    def test_one_hotkey_may_claim_a_gpu_so_often_in_a_day_and_then_waits_for_the_first_to_be_as_old(
        self, writer: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However it was decided: each claim makes whatever is decided about the GPU cost all daemons more."""
        monkeypatch.setattr(admission, "HISTORY_CLAIMS_MAX", 3)
        for at in range(3):
            verify(writer, self.claim(writer, "//Alice", ["gpu-1"], NOW_S + 10 * at))
        with pytest.raises(TooManyClaimsError, match="GPU gpu-1 was registered 3 times") as found:
            admit(writer, add("//Alice", ["gpu-2", "gpu-1"], NOW_S + 40), now_ms=NOW_MS + 40_000)
        then_s = NOW_S + 40 + found.value.retry_after_s
        assert then_s == NOW_S + 86_401
        admit(writer, add("//Alice", ["gpu-2", "gpu-1"], then_s), now_ms=then_s * 1000)

    def test_what_one_hotkey_claimed_so_often_another_may_claim(
        self, writer: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admission, "HISTORY_CLAIMS_MAX", 3)
        for at in range(3):
            self.claim(writer, "//Alice", ["gpu-1"], NOW_S + 10 * at)
        admit(writer, add("//Bob", ["gpu-1"], NOW_S + 40), now_ms=NOW_MS + 40_000)

    def test_standing_claims_count_too(self, writer: Ledger) -> None:
        for at, miner in enumerate(["//Alice", "//Bob", "//Charlie"]):
            admit(writer, add(miner, ["gpu-1"], NOW_S + at), now_ms=NOW_MS + 1000 * at)
        assert self.refused(writer, "//Dave", ["gpu-1"], NOW_S + 10).uses == [("gpu-1", 3)]

    def test_it_is_over_when_the_claims_are_a_day_old(self, writer: Ledger) -> None:
        for at, miner in enumerate(["//Alice", "//Bob", "//Alice"]):
            self.claim(writer, miner, ["gpu-1"], NOW_S + 100 * at)
        now_s = NOW_S + 1000
        error = self.refused(writer, "//Charlie", ["gpu-1"], now_s)
        assert error.retry_after_s == 86_400 - 1000 + 1  # then two of the three are younger than a day
        then_s = now_s + error.retry_after_s
        self.refused(writer, "//Charlie", ["gpu-1"], then_s - 2)
        admit(writer, add("//Charlie", ["gpu-1"], then_s), now_ms=then_s * 1000)

    def test_a_repeated_request_is_found_and_counts_once(self, writer: Ledger) -> None:
        self.claim(writer, "//Alice", ["gpu-1"], NOW_S)
        self.claim(writer, "//Bob", ["gpu-1"], NOW_S + 10)
        request = add("//Bob", ["gpu-1"], NOW_S + 20)
        claim = admit(writer, request, now_ms=NOW_MS + 20_000)
        assert admit(writer, request, now_ms=NOW_MS + 20_000) == claim
        remove(writer, delete("//Bob", "nodes:gpu-1", NOW_S + 21), "gpu-1", now_ms=NOW_MS + 21_000)
        assert admit(writer, request, now_ms=NOW_MS + 22_000).claim_id == claim.claim_id
        assert self.refused(writer, "//Alice", ["gpu-1"], NOW_S + 30).uses == [("gpu-1", 3)]

    def test_a_conflict_is_told_before(self, writer: Ledger) -> None:
        for at, miner in enumerate(["//Alice", "//Bob", "//Charlie"]):
            admit(writer, add(miner, ["gpu-1"], NOW_S + at), now_ms=NOW_MS + 1000 * at)
        with pytest.raises(ConflictError):
            admit(writer, add("//Alice", ["gpu-1", "gpu-2"], NOW_S + 5), now_ms=NOW_MS + 5000)

    def test_a_claim_is_as_old_as_its_first_event(self, writer: Ledger) -> None:
        requests = [add(miner, ["gpu-1"]) for miner in ("//Alice", "//Bob", "//Charlie")]
        for uri, at_ms in (("//validator1", NOW_MS), ("//validator2", NOW_MS + 500_000)):
            author = Author(uri)
            author.delegate()
            for request in requests:
                author.add(request, at_ms=at_ms)
            with writer.transaction():
                writer.receive(author.events, NOW_MS + 500_000)
        self.refused(writer, "//Dave", ["gpu-1"], NOW_S + 86_399)
        admit(writer, add("//Dave", ["gpu-1"], NOW_S + 86_401), now_ms=NOW_MS + 86_401_000)

    def test_of_a_long_history_the_claims_that_came_last_are_looked_at(
        self, writer: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        author = Author("//validator1")
        author.delegate()
        for miner in ("//Bob", *["//Alice"] * 5):
            author.add(add(miner, ["gpu-1"]))
        with writer.transaction():
            writer.receive(author.events, NOW_MS)
        assert self.refused(writer, "//Charlie", ["gpu-1"], NOW_S + 1).uses == [("gpu-1", 6)]
        monkeypatch.setattr(admission, "HISTORY_CLAIMS_MAX", 5)
        admit(writer, add("//Charlie", ["gpu-1"], NOW_S + 1), now_ms=NOW_MS + 1000)  # Bob's came before those


class TestDelete:
    """One signature deletes one GPU of the signer's, and the latest word counts."""

    def test_a_gpu_is_gone_and_its_server_stays(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1", "gpu-2"]))
        remove(writer, delete("//Alice", "nodes:gpu-1"), "gpu-1")
        assert [row.uuid for row in writer.rows()] == ["gpu-2"]

    def test_the_same_signature_for_the_same_gpu_again_changes_nothing(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1"]))
        request = delete("//Alice", "nodes")
        remove(writer, request, "gpu-1")
        events = writer.state.events
        remove(writer, request, "gpu-1")
        assert writer.state.events == events

    def test_a_deletion_whose_only_author_lost_the_permit_is_recorded_anew(self, writer: Ledger) -> None:
        claim = admit(writer, add("//Alice", ["gpu-1"]))
        request = delete("//Alice", "nodes:gpu-1")
        author = Author("//validator1")
        author.delegate()
        author.delete(request, "gpu-1", (claim.claim_id,))
        with writer.transaction():
            writer.receive(author.events, NOW_MS)
        with writer.transaction():
            writer.set_electorate(electorate(200, NOW_MS + 1, stakes={"//validator0": 100}))
        assert writer.state.nodes == 1
        remove(writer, request, "gpu-1")
        assert writer.state.nodes == 0

    def test_an_unbound_signature_does_not_delete_a_second_gpu(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1", "gpu-2"]))
        request = delete("//Alice", "nodes")
        remove(writer, request, "gpu-1")
        with pytest.raises(ReusedSignatureError, match="gpu-1"):
            remove(writer, request, "gpu-2")
        assert [row.uuid for row in writer.rows()] == ["gpu-2"]

    @pytest.mark.parametrize("who", ["//Bob", "//Alice"])
    def test_a_gpu_that_is_not_the_signers_is_not_there(self, writer: Ledger, who: str) -> None:
        admit(writer, add("//Charlie", ["gpu-1"]))
        with pytest.raises(NotOwnedError):
            remove(writer, delete(who, "nodes:gpu-1"), "gpu-1")
        assert writer.state.nodes == 1

    def test_more_standing_claims_than_a_deletion_can_name_all_end(
        self, writer: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admission, "CLAIMS_PER_DELETE_MAX", 2)
        author = Author("//validator1")
        author.delegate()
        for nonce in (NOW_S - 2, NOW_S - 1, NOW_S, NOW_S):  # as several daemons take them at once
            author.add(add("//Alice", ["gpu-1"], nonce))
        with writer.transaction():
            writer.receive(author.events, NOW_MS)
        remove(writer, delete("//Alice", "nodes:gpu-1"), "gpu-1")
        assert list(writer.rows()) == []

    def test_a_deletion_older_than_the_claim_is_refused_with_both_nonces(self, writer: Ledger) -> None:
        admit(writer, add("//Alice", ["gpu-1"], NOW_S + 5))
        with pytest.raises(ClockError, match=rf"{NOW_S}.*{NOW_S + 5}"):
            remove(writer, delete("//Alice", "nodes:gpu-1"), "gpu-1")
