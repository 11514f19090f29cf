"""Rules 1 and 2 of the design: the inventory is a function of the set of events, and a retry is free."""

from collections import Counter

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from p2pnodes.model.branches import ended_log
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.events import ABSTAIN, VERIFIED, Close, Event, Evidence, Header, Place, Release, Renew, Verdict
from p2pnodes.model.requests import request_id, seed_of, task_id_of
from tests.model.reference import Reference
from tests.model.world import VALIDATORS, Gatherer, Proof, World, arrivals, worlds
from tests.support import NETWORK
from tests.support import hotkey as hotkey_of

pytestmark = pytest.mark.timeout(400)  # hypothesis may look 300 s for a smaller example before it tells of a failure


class TestStateIsAFunctionOfTheSet:
    """Rule 1."""

    @settings(max_examples=150)
    @given(world=worlds(), data=st.data())
    def test_any_order_with_any_duplicates_gives_the_rows_that_the_design_says(
        self, world: World, data: st.DataObject
    ) -> None:
        """The model agrees, in whatever order it hears of things, with a plain reading of the design's text."""
        daemon = Gatherer(data.draw(arrivals(world.events)))
        for electorate in world.electorates:
            assert daemon.rows(electorate) == Reference(world.events, electorate, NETWORK).rows()
            assert daemon.root(electorate) == Gatherer(world.events).root(electorate)

    @settings(max_examples=250)
    @given(world=worlds(ends=True), data=st.data())
    def test_whatever_branch_it_stored_and_whenever_the_proofs_came_the_rows_are_those_of_the_design(
        self, world: World, data: st.DataObject
    ) -> None:
        """Forks and closings cut a log for everybody at one place: which branch a daemon heard first never matters."""
        daemon = Gatherer(data.draw(arrivals((*world.events, *world.proofs))))
        for electorate in world.electorates:
            assert daemon.rows(electorate) == Reference(world.events, electorate, NETWORK, world.loose).rows()

    @settings(max_examples=80)
    @given(world=worlds(ends=True), data=st.data())
    def test_every_task_answers_what_the_design_says(self, world: World, data: st.DataObject) -> None:
        daemon = Gatherer(data.draw(arrivals((*world.events, *world.proofs))))
        for electorate in world.electorates:
            reference = Reference(world.events, electorate, NETWORK, world.loose)
            tasks = daemon.tasks(electorate)
            assert {claim_id: (task.status, task.detail) for claim_id, task in tasks.items()} == {
                claim_id: reference.task(claim_id) for claim_id in tasks
            }

    @settings(max_examples=40)
    @given(world=worlds(ends=True), data=st.data())
    def test_daemons_that_merge_in_any_order_end_equal(self, world: World, data: st.DataObject) -> None:
        """However the events are dealt to three daemons, after they exchange what they hold all three are equal."""
        places = data.draw(st.lists(st.integers(0, 2), min_size=len(world.events), max_size=len(world.events)))
        held: list[list[Event]] = [[], [], []]
        for event, place in zip(world.events, places, strict=True):
            held[place].append(event)
        daemons = [Gatherer(events) for events in held]
        for place, daemon in enumerate(daemons):
            for other in data.draw(st.permutations([at for at in range(3) if at != place])):
                daemon.receive(held[other])
        for one in daemons:  # what each proved travels with the version vectors
            for another in daemons:
                one.receive(another.proofs())
        for electorate in world.electorates:
            assert len({daemon.root(electorate) for daemon in daemons}) == 1

    @settings(max_examples=40)
    @given(world=worlds(ends=True))
    def test_a_log_without_a_permit_cannot_matter(self, world: World) -> None:
        """Dropping every log whose hotkey holds no permit in E changes no row: nobody must store it.

        A proof in it is another matter: it holds by itself, whoever brings it.
        """
        whole = Gatherer((*world.events, *world.proofs))
        for electorate in world.electorates:
            permitted = [event for event in world.events if electorate.permitted(whole.author(event.log))]
            assert Gatherer((*permitted, *world.proofs)).rows(electorate) == whole.rows(electorate)

    @settings(max_examples=40)
    @given(world=worlds(ends=True), data=st.data())
    def test_no_judgement_changes_with_what_arrives_later(self, world: World, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, len(world.events)))
        early = Gatherer(world.events[:count]).judged
        assert early == Gatherer(world.events).judged[: len(early)]


class TestARetryIsFree:
    """Rule 2."""

    @settings(max_examples=40)
    @given(world=worlds())
    def test_one_signed_request_is_one_claim_on_whatever_daemon_it_is_posted(self, world: World) -> None:
        """Claims are as many as valid signed requests, however often and by whomever those were recorded."""
        daemon = Gatherer(world.events)
        requests = {add.payload.request for _, judgement in daemon.judged for add in judgement.adds}
        claims = daemon.claims()
        assert claims.keys() == {request_id(NETWORK.id, request) for request in requests}
        assert len({task_id_of("miner", claim_id) for claim_id in claims}) == len(claims)
        assert all(1 <= seed_of(claim_id) < 2**63 for claim_id in claims)


def test_drawn_worlds_reach_every_case() -> None:
    """The properties above are not empty: a few hundred worlds hold every situation that the rules speak of."""
    seen: Counter[str] = Counter()

    @settings(max_examples=300, phases=[Phase.generate], database=None)
    @given(world=worlds())
    def draw(world: World) -> None:
        seen.update(situations(world))

    draw()
    assert not EXPECTED - seen.keys()


def test_drawn_ends_reach_every_case() -> None:
    """So do the worlds in which logs fork and are closed."""
    seen: Counter[str] = Counter()

    @settings(max_examples=300, phases=[Phase.generate], database=None)
    @given(world=worlds(ends=True))
    def draw(world: World) -> None:
        seen.update(ended(world))

    draw()
    assert not EXPECTED_ENDS - seen.keys()


EXPECTED_ENDS = {
    "fork", "fork at the first event", "fork that only headers show", "request on both branches", "thief's verdict",
    "closing of nothing good", "closing at the head", "closing in the middle", "closing of the other branch",
    "closing at an event that does not exist", "closing ahead of its log", "stranger's closing", "several closings",
    "two closings of one seq", "fork and closing", "proof in an event", "loose proof", "proof in a log that is cut",
    "proof by who holds no permit", "request that is known and not carried", "earlier verdict counts again",
    "not renewed any more",
    "earlier place counts again", "rows change",
}  # fmt: skip


def ended(world: World) -> set[str]:
    """Which situations a world holds that have to do with the ends of logs."""
    found: set[str] = set()
    one, other = Gatherer((*world.events, *world.proofs)), Gatherer((*reversed(world.events), *world.proofs))
    for proof in world.proofs:
        found |= _ended_by(proof, one, other)
    found |= {"loose proof"} if world.loose else set()
    found |= {"fork that only headers show"} if {type(p) for p in world.loose} & {Evidence} else set()
    closings = [proof for proof in world.proofs if isinstance(proof, Close)]
    forked = {ended_log(proof) for proof in world.proofs if isinstance(proof, Evidence)}
    for log in {close.log for close in closings}:
        named = {(close.head.seq if close.head else -1, close.head) for close in closings if close.log == log}
        found |= {"several closings"} if len({seq for seq, _ in named}) > 1 else set()
        found |= {"two closings of one seq"} if len({seq for seq, _ in named}) < len(named) else set()
        found |= {"fork and closing"} if log in forked else set()
    carried = [{a.claim_id for _, judgement in daemon.judged for a in judgement.adds} for daemon in (one, other)]
    found |= {"request that is known and not carried"} if carried[0] - one.claims().keys() else set()
    found |= {"request on both branches"} if carried[0] != carried[1] else set()
    counted = {event.id for event, _ in one.counted()}
    said: dict[tuple[object, ...], bool] = {}
    for event, judgement in one.judged:
        payload = judgement.payload
        if isinstance(payload, Proof):
            found.add("proof in an event")
            found |= set() if event.id in counted else {"proof in a log that is cut"}
            permits = [electorate.permitted(one.author(event.log)) for electorate in world.electorates]
            found |= set() if all(permits) else {"proof by who holds no permit"}
        kind = "verdict" if isinstance(payload, Verdict | Renew) else "place"
        words: tuple[Verdict | Place | Release, ...] = ()
        if isinstance(payload, Verdict | Renew):
            words = payload.verdicts
        elif isinstance(payload, Place | Release):
            words = (payload,)
        for word in words:
            key = (kind, word.claim_id, event.log)
            if event.id not in counted:
                found |= {"thief's verdict"} if kind == "verdict" else set()
                found |= {f"earlier {kind} counts again"} if said.get(key) else set()
                found |= {"not renewed any more"} if event.kind == "renew" and said.get(key) else set()
            said[key] = event.id in counted
    for electorate in world.electorates:
        without = [event for event in world.events if event.kind not in {"close", "evidence"}]
        found |= {"rows change"} if one.rows(electorate) != Gatherer(without).rows(electorate) else set()
    return found


def _ended_by(proof: Proof, one: Gatherer, other: Gatherer) -> set[str]:
    """Situations that lie in one proof."""
    if isinstance(proof, Evidence):
        return {"fork", "fork at the first event"} if Header.decode(proof.first).seq == 0 else {"fork"}
    if proof.hotkey != one.author(proof.log):
        return {"stranger's closing"}
    if proof.head is None:
        return {"closing of nothing good"}
    stored = [{event.seq: event.id for event, _ in daemon.judged if event.log == proof.log} for daemon in (one, other)]
    seq, last = proof.head
    if last not in {*stored[0].values(), *stored[1].values()}:
        return {"closing ahead of its log"} if seq > max(stored[0]) else {"closing at an event that does not exist"}
    if last not in stored[0].values():
        return {"closing of the other branch"}
    return {"closing at the head"} if seq == max(stored[0]) else {"closing in the middle"}


EXPECTED = {
    "verified", "failed", "pending", "row with a chute", "released", "void", "void by its HLC", "unknown kind",
    "two miners stand on one GPU", "a verified claim owns before an earlier one", "failed claim owns nothing verified",
    "equal nonces of add and delete", "delete and later add in one second", "unbound signature for two GPUs",
    "unbound signature twice for one GPU", "delete that ends a claim", "recorded twice", "only carried",
    "ahead of the electorate", "verdict that lapsed", "verdict without permit", "verdict without enrolment",
    "abstainer", "young validator without a verdict", "quorum without the minimum share", "renewed verdict",
    "renewed in one event", "changed verdict", "permit in its grace", "permit regained", "miner left",
    "miner registered anew", "late enrolment", "equal HLCs of one hotkey", "rows change with the electorate alone",
    "verified before an earlier claim was", "deletes of one request that name different claims",
}  # fmt: skip


def situations(world: World) -> set[str]:
    """Which of the situations that matter a world holds."""
    daemon = Gatherer(world.events)
    found = _said(world, daemon)
    rows = []
    for electorate in world.electorates:
        reference = Reference(world.events, electorate, NETWORK)
        rows.append(reference.rows())
        found |= _decided(reference, daemon)
    found |= {"rows change with the electorate alone"} if any(one != rows[0] for one in rows) else set()
    for hotkey in {key for electorate in world.electorates for key in electorate.current.validators}:
        permits = [hotkey in electorate.current.validators for electorate in world.electorates]
        found |= {"permit regained"} if [True, False, True] in (permits[:3], permits[1:]) else set()
    return found


def _said(world: World, daemon: Gatherer) -> set[str]:
    """Situations that lie in the events, whatever the electorate."""
    found: set[str] = set()
    claims, deletions = daemon.claims(), daemon.deletions()
    for event, judgement in daemon.judged:
        found |= {"void"} if judgement.void else set()
        found |= {"void by its HLC"} if "HLC does not lie above" in (judgement.void or "") else set()
        found |= set() if judgement.judged else {"unknown kind"}
        found |= {"released"} if judgement.payload and event.kind == "release" else set()
        renewed = judgement.payload.claims if isinstance(judgement.payload, Renew) else ()
        found |= {"renewed in one event"} if len(renewed) > 1 else set()
    carried = {add.claim_id for event, judgement in daemon.judged if event.kind == "carry" for add in judgement.adds}
    direct = {add.claim_id for event, judgement in daemon.judged if event.kind == "add" for add in judgement.adds}
    found |= {"only carried"} if carried - direct else set()
    found |= {"recorded twice"} if any(len(claim.carriages) > 1 for claim in claims.values()) else set()
    hlcs = Counter((daemon.author(event.log), event.hlc) for event in world.events)
    found |= {"equal HLCs of one hotkey"} if max(hlcs.values()) > 1 else set()
    for deletion in deletions.values():
        named = {frozenset(carriage.claim_ids) for carriage in deletion.carriages}
        found |= {"deletes of one request that name different claims"} if len(named) > 1 else set()
        uuids = Counter(carriage.uuid for carriage in deletion.carriages)
        if not deletion.bound:
            found |= {"unbound signature for two GPUs"} if len(uuids) > 1 else set()
            found |= {"unbound signature twice for one GPU"} if max(uuids.values()) > 1 else set()
        for claim in claims.values():
            if deletion.miner == claim.miner and deletion.nonce == claim.nonce:
                found.add("equal nonces of add and delete")
                found |= set() if any(claim.id in ids for ids in named) else {"delete and later add in one second"}
    for votes in daemon.votes().values():
        for author in {vote.author for vote in votes}:
            cast = [vote for vote in votes if vote.author == author]
            found |= {"changed verdict"} if len({vote.finding for vote in cast}) > 1 else set()
            since = [vote.since for vote in cast if vote.since is not None]
            found |= {"renewed verdict"} if len(set(since)) < len(since) else set()
    return found


def _decided(reference: Reference, daemon: Gatherer) -> set[str]:
    """Situations that an electorate makes of them."""
    found: set[str] = set()
    electorate, claims = reference.electorate, daemon.claims()
    for uuid, row in reference.rows().items():
        standing = reference.standing(uuid)
        earliest = min(standing, key=lambda claim: (claim.nonce, claim.claim_id))
        found.add(row.status)
        found |= {"row with a chute"} if row.chute else set()
        found |= {"two miners stand on one GPU"} if len({claim.miner for claim in standing}) > 1 else set()
        found |= {"a verified claim owns before an earlier one"} if earliest.claim_id != row.claim_id else set()
        verified = [claim for claim in standing if claim.status == VERIFIED]
        if verified and min(verified, key=lambda claim: (claim.nonce, claim.claim_id)).claim_id != row.claim_id:
            found.add("verified before an earlier claim was")
        if row.status != VERIFIED and any(claim.status == "failed" for claim in standing):
            found.add("failed claim owns nothing verified")
        dead = [claim for claim in claims.values() if uuid in claim.uuids and claim.miner == row.miner]
        found |= (
            {"delete that ends a claim"} if len(dead) > len([c for c in standing if c.miner == row.miner]) else set()
        )
    for claim_id, claim in claims.items():
        registered = electorate.registration_block(claim.miner)
        named = [carriage.electorate_block for carriage in claim.carriages]
        found |= {"miner left"} if registered is None else set()
        found |= {"miner registered anew"} if registered is not None and registered > max(named) else set()
        found |= {"ahead of the electorate"} if min(named) > electorate.block else set()
        live = reference.live_verdicts(claim_id)
        found |= {"abstainer"} if any(verdict.finding == ABSTAIN for verdict in live.values()) else set()
        young = [hotkey for hotkey in reference.enrolled if hotkey not in live and reference.young(hotkey)]
        found |= {"young validator without a verdict"} if live and young else set()
        for_it = sum(reference.enrolled[hotkey] for hotkey, verdict in live.items() if verdict.finding == VERIFIED)
        everything = sum(reference.enrolled.values())
        if NETWORK.quorum * reference.weighed(live) < for_it < NETWORK.min_share * everything:
            found.add("quorum without the minimum share")
    for votes in daemon.votes().values():
        for vote in votes:
            lapsed_before = electorate.time_ms - NETWORK.verdict_ttl_s * 1000
            found |= {"verdict that lapsed"} if hlc_ms(vote.hlc) < lapsed_before else set()
            if not electorate.permitted(vote.author):
                found.add("verdict without permit")
            elif vote.author not in reference.enrolled:
                found.add("verdict without enrolment")
    if any(hotkey not in electorate.current.validators for hotkey in electorate.stakes):
        found.add("permit in its grace")
    found |= {"late enrolment"} if hotkey_of(VALIDATORS[-1]).public_key in reference.enrolled else set()
    return found
