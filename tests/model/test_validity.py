"""The validity function: what makes an event void, one reason at a time, and that nothing else does."""

import json
from collections.abc import Callable

import pytest

from p2pnodes.model import codec
from p2pnodes.model.clock import hlc_at, hlc_ms
from p2pnodes.model.events import (
    AddPayload,
    Carry,
    Checkpoint,
    Close,
    CutLog,
    Delegation,
    DeletePayload,
    Event,
    Evidence,
    Head,
    LogId,
    Payload,
    Place,
    Propose,
    Release,
    Renew,
    Verdict,
    kind_of,
)
from p2pnodes.model.requests import NONCE_WINDOW_S, bound_purpose, request_id, sign_add
from p2pnodes.model.validity import EMPTY, Judgement, Prefix, judge
from tests.model.world import raw_event
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, delete, gpu, hotkey

CLAIM = b"c" * 32


def writer(uri: str = "//validator0", *, seed: int = 0) -> tuple[Author, Prefix]:
    """An author whose log begins with a delegation, and the prefix behind it."""
    author = Author(uri, seed=seed)
    return author, judge(author.delegate(), EMPTY).prefix


def void(event: Event, prefix: Prefix) -> str:
    """Why an event is void; it must be, and count for nothing."""
    judgement = judge(event, prefix)
    assert judgement.judged
    assert (judgement.payload, judgement.adds, judgement.deletes) == (None, (), ())
    assert judgement.prefix.delegation == prefix.delegation
    assert judgement.void is not None
    return judgement.void


def valid(event: Event, prefix: Prefix) -> Judgement:
    """The judgement of an event that must be valid."""
    judgement = judge(event, prefix)
    assert judgement.void is None
    assert judgement.payload is not None
    assert judgement.prefix.hlc == event.hlc
    return judgement


class TestLog:
    """What the log before an event has to do with it."""

    def test_a_log_begins_with_its_delegation(self) -> None:
        author = Author("//validator0")
        judgement = valid(author.delegate(), EMPTY)
        assert judgement.prefix.delegation == judgement.payload

    def test_without_a_delegation_nothing_else_is_valid(self) -> None:
        assert "no valid delegation" in void(Author("//validator0").verdict(CLAIM), EMPTY)

    def test_the_hlc_rises_strictly(self) -> None:
        author, prefix = writer()
        for hlc, is_void in ((prefix.hlc - 1, True), (prefix.hlc, True), (prefix.hlc + 1, False)):
            event = author.write(Verdict(CLAIM, "failed", "test", "", None), hlc=hlc)
            assert (judge(event, prefix).void is not None) is is_void

    def test_the_hlc_rises_also_above_void_events_and_unknown_ones(self) -> None:
        """A build that learns the kind judges all later events as those do that never heard of it."""
        for kind in ("add", "tomorrow"):
            author, prefix = writer()
            ahead = hlc_at(NOW_MS + 5_000)
            after = judge(raw_event(author, kind, b"\xc0", ahead), prefix).prefix
            assert after == Prefix(prefix.delegation, ahead)
            assert "HLC does not lie above" in void(author.verdict(CLAIM, at_ms=NOW_MS), after)
            valid(author.verdict(CLAIM, at_ms=NOW_MS + 5_001), after)

    def test_an_event_lies_in_the_window_of_the_latest_delegation(self) -> None:
        author = Author("//validator0")
        first = author.write(author.delegation(not_before=NOW_S - 10, not_after=NOW_S), at_ms=NOW_MS - 1_000)
        prefix = valid(first, EMPTY).prefix
        valid(author.verdict(CLAIM, at_ms=NOW_MS), prefix)
        assert "outside the window" in void(author.verdict(CLAIM, at_ms=NOW_MS + 1), prefix)
        renewal = author.write(author.delegation(not_before=NOW_S, not_after=NOW_S + 60), at_ms=NOW_MS + 2)
        prefix = valid(renewal, prefix).prefix
        valid(author.verdict(CLAIM, at_ms=NOW_MS + 60_000), prefix)
        assert "outside the window" in void(author.verdict(CLAIM, at_ms=NOW_MS + 60_001), prefix)

    @pytest.mark.parametrize(("not_before", "not_after"), [(NOW_S + 1, NOW_S + 2), (NOW_S - 2, NOW_S - 1), (NOW_S, 0)])
    def test_a_delegation_lies_in_its_own_window(self, not_before: int, not_after: int) -> None:
        author = Author("//validator0")
        event = author.write(author.delegation(not_before=not_before, not_after=not_after), at_ms=NOW_MS)
        assert "outside the window" in void(event, EMPTY)

    def test_a_log_speaks_for_one_hotkey_for_ever(self) -> None:
        author, prefix = writer()
        other = Author("//validator1")
        other.log = author.log
        event = author.write(other.delegation())
        assert "another hotkey" in void(event, prefix)

    def test_a_delegation_is_signed_by_its_hotkey_for_this_log(self) -> None:
        author, prefix = writer()
        said = author.delegation()
        for forged in (
            said._replace(not_after=said.not_after + 1),
            said._replace(signature=hotkey("//validator1").sign(b"x")),
            Author("//validator0", number=1).delegation(),
        ):
            assert "hotkey's signature for this log" in void(author.write(forged), prefix)

    def test_a_renewal_replaces_the_one_before_it(self) -> None:
        author, prefix = writer()
        renewal = author.delegation(not_after=NOW_S + 1)
        assert valid(author.write(renewal), prefix).prefix.delegation == renewal


class TestUnknown:
    """What this build cannot judge is neither valid nor void."""

    @pytest.mark.parametrize(("kind", "version"), [("tomorrow", 1), ("add", 2), ("tomorrow", 2)])
    def test_a_later_kind_or_version_is_not_judged(self, kind: str, version: int) -> None:
        author, prefix = writer()
        judgement = judge(raw_event(author, kind, b"?", hlc_at(NOW_MS), version=version), prefix)
        assert not judgement.judged
        assert (judgement.void, judgement.payload, judgement.adds, judgement.deletes) == (None, None, (), ())

    def test_neither_is_a_carry_of_one(self) -> None:
        author, prefix = writer()
        inner = raw_event(Author("//validator1"), "tomorrow", b"?", hlc_at(NOW_MS))
        assert not judge(author.write(Carry((inner.wire,))), prefix).judged


class TestPayload:
    """A payload that does not decode is void, and stops nothing."""

    @pytest.mark.parametrize("payload", [b"", b"\xc0", b"\x90", b"\xc1", b"\x91\xcc\x01", b"\x80"])
    @pytest.mark.parametrize(
        "kind",
        [
            "delegate",
            "close",
            "add",
            "delete",
            "carry",
            "verdict",
            "renew",
            "place",
            "release",
            "evidence",
            "propose",
            "checkpoint",
        ],
    )
    def test_garbage_of_every_kind(self, kind: str, payload: bytes) -> None:
        author, prefix = writer()
        event = raw_event(author, kind, payload, hlc_at(NOW_MS))
        void(event, prefix)
        valid(author.verdict(CLAIM, at_ms=NOW_MS + 1), judge(event, prefix).prefix)


class TestRequests:
    """Adds and deletes: the miner's own signature, near in time."""

    def test_an_add_brings_its_claim(self) -> None:
        author, prefix = writer()
        request = add("//Alice", ["gpu-1", "gpu-2"])
        (carried,) = valid(event := author.add(request, block=300), prefix).adds
        assert carried.claim_id == request_id(NETWORK.id, request)
        assert [node.uuid for node in carried.body.nodes] == ["gpu-1", "gpu-2"]
        assert (carried.payload.electorate_block, carried.hlc) == (300, event.hlc)

    def test_a_delete_brings_its_deletion(self) -> None:
        author, prefix = writer()
        for purpose in ("nodes", "nodes:gpu-1"):
            request = delete("//Alice", purpose)
            (carried,) = valid(event := author.delete(request, "gpu-1", [CLAIM]), prefix).deletes
            assert carried == (request_id(NETWORK.id, request), DeletePayload(request, "gpu-1", (CLAIM,)), event.hlc, 0)

    @pytest.mark.parametrize("late_s", [-NONCE_WINDOW_S, NONCE_WINDOW_S])
    def test_the_nonce_lies_within_600_s_of_the_event(self, late_s: int) -> None:
        author, prefix = writer()
        beyond = 1 if late_s > 0 else -1
        for kind in ("add", "delete"):
            request = add("//Alice", ["gpu-1"], NOW_S) if kind == "add" else delete("//Alice", "nodes", NOW_S)
            for at_ms, is_void in ((NOW_MS + late_s * 1000, False), (NOW_MS + late_s * 1000 + beyond, True)):
                payload = AddPayload(request, 1) if kind == "add" else DeletePayload(request, "gpu-1", ())  # type: ignore[arg-type]
                judgement = judge(author.write(payload, hlc=hlc_at(at_ms)), Prefix(prefix.delegation, 0))
                assert ("nonce" in (judgement.void or "")) is is_void

    @pytest.mark.parametrize(
        "forge",
        [
            lambda request: request._replace(signature=bytes(64)),
            lambda request: request._replace(nonce=str(NOW_S + 1)),
            lambda request: request._replace(hotkey=hotkey("//Bob").public_key),
            lambda request: request._replace(hotkey=bytes(32), signature=bytes(63) + b"\x80"),
        ],
        ids=["signature", "nonce", "hotkey", "zero account"],
    )
    def test_no_validator_can_invent_or_alter_a_request(self, forge: Callable[..., object]) -> None:
        author, prefix = writer()
        added, deleted = add("//Alice", ["gpu-1"]), delete("//Alice", "nodes")
        event = author.write(AddPayload(forge(added), 1))  # type: ignore[arg-type]
        assert "miner's signature" in void(event, prefix)
        event = author.write(DeletePayload(forge(deleted), "gpu-1", ()))  # type: ignore[arg-type]
        assert "miner's signature" in void(event, prefix)

    def test_a_bound_delete_is_good_for_its_gpu_alone(self) -> None:
        author, prefix = writer()
        for purpose in (bound_purpose("gpu-2"), "graval", "nodes:", "nodes:gpu-1 "):
            event = author.delete(delete("//Alice", purpose), "gpu-1")
            assert "another GPU or purpose" in void(event, prefix)

    @pytest.mark.parametrize(
        ("uuids", "reason"),
        [
            ([f"gpu-{index}" for index in range(11)], "device_index|integer"),
            (["gpu-1", "gpu-1"], "occur twice"),
            ([], "at least one node"),
            (["gpu 1"], "printable ASCII"),
        ],
    )
    def test_a_body_that_is_no_claim(self, uuids: list[str], reason: str) -> None:
        author, prefix = writer()
        found = void(author.add(add("//Alice", uuids)), prefix)
        assert any(part in found for part in reason.split("|"))

    def test_specs_and_hosts_are_never_judged_here(self) -> None:
        """A new GPU model cannot split the network."""
        author, prefix = writer()
        unheard = gpu("gpu-1", name="Unheard Of 9000", memory=1, verification_host="127.0.0.1", verification_port=1)
        content = json.dumps({"nodes": [unheard]}).encode()
        valid(author.add(sign_add(hotkey("//Alice"), NOW_S, content)), prefix)


class TestCarry:
    """Foreign requests count like the originals, and nothing else can be carried."""

    def test_it_brings_what_it_carries_whatever_became_of_the_authors(self) -> None:
        author, prefix = writer()
        lost = Author("//Dave")  # no delegation, no permit
        added, deleted = lost.add(add("//Alice", ["gpu-1"]), block=7), lost.delete(delete("//Bob", "nodes"), "gpu-2")
        later = author.write(Carry((added.wire, deleted.wire)), at_ms=NOW_MS + 9_999_999)
        judgement = valid(later, prefix)
        assert [(a.payload.electorate_block, a.hlc) for a in judgement.adds] == [(7, added.hlc)]
        assert [(d.payload.uuid, d.hlc) for d in judgement.deletes] == [("gpu-2", deleted.hlc)]

    def test_each_request_has_its_place_among_all(self) -> None:
        author, prefix = writer()
        lost = Author("//Dave")
        deletes = [lost.delete(delete("//Bob", "nodes", NOW_S + late), "gpu-2") for late in range(2)]
        adds = [lost.add(add("//Alice", ["gpu-1"], NOW_S + late)) for late in range(2)]
        carried = (deletes[0], adds[0], adds[1], deletes[1])
        judgement = valid(author.write(Carry(tuple(event.wire for event in carried))), prefix)
        assert [each.item for each in judgement.adds] == [1, 2]
        assert [each.item for each in judgement.deletes] == [0, 3]

    def test_the_nonce_is_measured_at_the_inner_event(self) -> None:
        author, prefix = writer()
        stale = Author("//Dave").add(add("//Alice", ["gpu-1"]), at_ms=NOW_MS + NONCE_WINDOW_S * 1000 + 1)
        assert "nonce" in void(author.write(Carry((stale.wire,)), at_ms=NOW_MS), prefix)

    def test_a_carried_event_is_signed_by_its_log(self) -> None:
        author, prefix = writer()
        inner = Author("//Dave").add(add("//Alice", ["gpu-1"]))
        forged = codec.pack([inner.header, bytes(64), inner.payload])
        assert "not signed by its log" in void(author.write(Carry((forged,))), prefix)

    def test_a_carried_event_is_of_this_network(self) -> None:
        author, prefix = writer()
        foreign = Author("//Dave")
        event = Event.create(
            foreign.node_key,
            bytes(16),
            log_number=0,
            seq=0,
            previous=b"",
            hlc=hlc_at(NOW_MS),
            payload=AddPayload(add("//Alice", ["gpu-1"]), 1),
        )
        assert "foreign" in void(author.write(Carry((event.wire,))), prefix)

    def test_only_adds_and_deletes_are_carried(self) -> None:
        author, prefix = writer()
        inner = Author("//Dave")
        carry = inner.write(Carry((inner.add(add("//Alice", ["gpu-1"])).wire,)))
        for event in (inner.verdict(CLAIM), inner.delegate(), carry, inner.write(Checkpoint(1, CLAIM, 2, 1, CLAIM))):
            assert "only add and delete" in void(author.write(Carry((event.wire,))), prefix)

    def test_one_bad_event_makes_the_whole_carry_void(self) -> None:
        author, prefix = writer()
        inner = Author("//Dave")
        good, bad = inner.add(add("//Alice", ["gpu-1"])), inner.add(add("//Alice", ["gpu-1", "gpu-1"]))
        assert void(author.write(Carry((good.wire, bad.wire))), prefix)
        assert void(author.write(Carry((good.wire, b"?"))), prefix)


class TestVerdict:
    """A run of verified began no later than its verdict."""

    def test_since_lies_at_or_below_the_verdict(self) -> None:
        author, prefix = writer()
        event = author.verdict(CLAIM)
        valid(event, prefix)
        hlc = event.hlc + 1
        assert "since" in void(author.write(Verdict(CLAIM, "verified", "test", "", hlc + 1), hlc=hlc), prefix)

    @pytest.mark.parametrize("finding", ["failed", "abstain"])
    def test_other_findings_have_no_since(self, finding: str) -> None:
        author, prefix = writer()
        valid(author.write(Verdict(CLAIM, finding, "test", "why", None)), prefix)

    def test_each_since_of_renewed_ones_lies_at_or_below_their_event(self) -> None:
        author, prefix = writer()
        valid(event := author.renew(CLAIM, bytes(32)), prefix)
        hlc = event.hlc + 1
        late = author.write(Renew("test", tuple(sorted([(CLAIM, hlc + 1), (bytes(32), hlc)]))), hlc=hlc)
        assert "since" in void(late, prefix)


class TestClose:
    """A close is signed by the hotkey it names; whose log it may close is a matter of counting."""

    def test_the_hotkey_signed_log_and_head(self) -> None:
        author, prefix = writer()
        said = Close(author.log, Head(3, CLAIM), author.hotkey.public_key, b"")
        said = said._replace(signature=author.hotkey.sign(said.message(NETWORK.id)))
        valid(author.write(said), prefix)
        for forged in (
            said._replace(head=None),
            said._replace(log=author.log._replace(number=1)),
            said._replace(hotkey=hotkey("//validator1").public_key),
            said._replace(signature=author.hotkey.sign(said.message(bytes(16)))),
        ):
            assert "hotkey's signature" in void(author.write(forged), prefix)


class TestEvidence:
    """Two signed headers of one log, one seq, one previous id."""

    @staticmethod
    def _rivals() -> tuple[Event, Event, Author]:
        author = Author("//validator1", seed=5)
        author.delegate()
        fork = author.head
        one = author.verdict(CLAIM)
        author.head = fork
        other = author.verdict(CLAIM, "failed")
        first, second = sorted((one, other), key=lambda event: event.id)
        return first, second, author

    @staticmethod
    def _of(first: Event, second: Event) -> Evidence:
        return Evidence(first.header, first.signature, second.header, second.signature)

    def test_a_fork_is_proved_by_whoever_brings_it(self) -> None:
        author, prefix = writer()
        first, second, _ = self._rivals()
        valid(author.write(self._of(first, second)), prefix)

    def test_one_fork_has_one_encoding(self) -> None:
        author, prefix = writer()
        first, second, _ = self._rivals()
        assert "ascending order" in void(author.write(self._of(second, first)), prefix)
        assert "ascending order" in void(author.write(self._of(first, first)), prefix)

    def test_events_one_after_another_are_no_fork(self) -> None:
        author, prefix = writer()
        _, _, rival = self._rivals()
        one, other = sorted((rival.verdict(CLAIM), rival.verdict(CLAIM)), key=lambda event: event.id)
        assert "not rivals" in void(author.write(self._of(one, other)), prefix)

    def test_events_of_two_logs_are_no_fork(self) -> None:
        author, prefix = writer()
        logs = (Author("//validator1", number=number).delegate() for number in (0, 1))
        one, other = sorted(logs, key=lambda event: event.id)
        assert "not rivals" in void(author.write(self._of(one, other)), prefix)

    def test_both_headers_are_signed_by_the_log(self) -> None:
        author, prefix = writer()
        first, second, _ = self._rivals()
        for forged in (
            self._of(first, second)._replace(first_signature=second.signature),
            self._of(first, second)._replace(second_signature=first.signature),
        ):
            assert "log's signature" in void(author.write(forged), prefix)

    def test_a_fork_of_another_network_is_not_ours(self) -> None:
        author, prefix = writer()
        rival = Author("//validator1", seed=5)
        foreign = (
            Event.create(
                rival.node_key,
                bytes(16),
                log_number=0,
                seq=0,
                previous=b"",
                hlc=hlc,
                payload=Verdict(CLAIM, "failed", "test", "", None),
            )
            for hlc in (1, 2)
        )
        one, other = sorted(foreign, key=lambda event: event.id)
        assert "another network" in void(author.write(self._of(one, other)), prefix)


@pytest.mark.parametrize(
    "payload",
    [
        Place(CLAIM, ("gpu-1",), "chute", "instance", True, False, None, None),
        Release(CLAIM, ("gpu-1",)),
        Propose(1, b"", b"no electorate", (CutLog(LogId(CLAIM, 7), CLAIM, Head(3, CLAIM), 0, 0, 0),)),
        Checkpoint(1, CLAIM, 2, 1, CLAIM),
    ],
    ids=kind_of,
)
def test_some_kinds_are_valid_as_they_decode(payload: Payload) -> None:
    author, prefix = writer()
    assert valid(author.write(payload), prefix).payload == payload


def test_a_judgement_takes_nothing_but_its_arguments() -> None:
    author, prefix = writer()
    event = author.add(add("//Alice", ["gpu-1"]))
    assert judge(event, prefix) == judge(Event.decode(event.wire), Prefix(*prefix))
    assert hlc_ms(prefix.hlc) < NOW_MS
    assert isinstance(prefix.delegation, Delegation)
