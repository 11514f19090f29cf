"""A claim, its votes and their proof, honest or not; what the suites about proofs share."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Final

import pytest

from p2pnodes.model import proof
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import ABSTAIN, VERIFIED, Carry, Event
from p2pnodes.model.proof import MalformedProofError, Proof, ProofError, Statement
from p2pnodes.model.requests import request_id
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, electorate

GPU_UUIDS: Final = ("gpu-a", "gpu-b")
STAKES: Final = {"//validator0": 40, "//validator1": 30, "//validator2": 20, "//validator3": 10}
DAY_S: Final = 86_400


class Scene:
    """A claim of //Alice's that validators 0 and 1, with 70 of a stake of 100, have verified."""

    def __init__(self) -> None:
        self.who = electorate(stakes=STAKES)
        self.logs = {uri: Author(uri) for uri in STAKES}
        for log in self.logs.values():
            log.delegate()
        self.request = add("//Alice", GPU_UUIDS)
        self.claim_id = request_id(NETWORK.id, self.request)
        self.registration = self.logs["//validator3"].add(self.request)
        self.votes = [self.vote("//validator0"), self.vote("//validator1")]

    def vote(self, uri: str, finding: str = VERIFIED, **how: Any) -> Event:
        """Let a validator say what it finds."""
        return self.logs[uri].verdict(self.claim_id, finding, **how)

    def delegation(self, uri: str) -> Event:
        """The first event of a validator's log."""
        return self.logs[uri].events[0]

    def events(self, *more: Event, without: Iterable[Event] = ()) -> list[Event]:
        """The events of the proof: registration, votes and their delegations, and others."""
        held = [self.registration, *self.votes, *more]
        logs = {event.log for event in held}
        first = [log.events[0] for log in self.logs.values() if log.log in logs]
        left_out = {event.id for event in without}
        unique = {event.id: event for event in (*held, *first) if event.id not in left_out}
        return sorted(unique.values(), key=lambda event: (event.log, event.seq))

    def prove(self, *more: Event, without: Iterable[Event] = ()) -> Statement:
        """What these events prove."""
        return proof.check(self.proof(*more, without=without))

    def proof(self, *more: Event, without: Iterable[Event] = ()) -> Proof:
        """These events as a proof, unchecked: as a dishonest prover makes it."""
        return Proof(
            NETWORK,
            proof._electorate_bytes(self.who),
            self.claim_id,
            tuple(event.wire for event in self.events(*more, without=without)),
        )


@cache
def served() -> Proof:
    """A proof with everything in it: a carried registration, a renewed delegation and verdict, an abstention."""
    scene = Scene()
    renewed = scene.logs["//validator0"]
    renewal = renewed.write(renewed.delegation(not_after=NOW_S + 60 * DAY_S), at_ms=NOW_MS + 1)
    later = renewed.renew(bytes(32), scene.claim_id, at_ms=NOW_MS + 2)
    carrier = scene.logs["//validator1"]
    carry = carrier.write(Carry((scene.registration.wire,)), at_ms=NOW_MS + 3)
    abstention = scene.vote("//validator2", ABSTAIN, at_ms=NOW_MS + 4)
    events = [renewed.events[0], renewal, later, carrier.events[0], scene.votes[1], carry]
    events += [scene.delegation("//validator2"), abstention]
    return proof.build(NETWORK, scene.who, scene.claim_id, events)


def refused(brought: Proof) -> str:
    """Why a proof does not hold."""
    with pytest.raises(ProofError) as found:
        proof.check(brought)
    assert "\n" not in str(found.value)
    return str(found.value)


def proven(brought: Callable[[], Proof]) -> Statement | None:
    """What a tampered proof proves; None when it is refused in one of the two ways that there are."""
    try:
        return proof.check(brought())
    except (MalformedProofError, ProofError):
        return None


def full_server() -> Proof:
    """A proof as a real subnet has them: 8 GPUs, 20 voters, and two pins of 256 hotkeys."""
    scene = Scene()
    uris = [f"//voter{n}" for n in range(20)]
    pin = electorate(stakes=dict.fromkeys(uris, 100)).current
    strangers = {n.to_bytes(32, "big"): 1_000_000 for n in range(256 - len(pin.registered))}
    pin = pin._replace(block=10_000_000, registered={**pin.registered, **strangers})
    scene.who = Electorate(pin, pin._replace(block=9_999_900))
    scene.logs = {uri: Author(uri) for uri in uris}
    for log in scene.logs.values():
        log.delegate()
    scene.request = add("//Alice", [f"d52bd15208478ba8ca49e07ec1f002e{n}" for n in range(8)])
    scene.claim_id = request_id(NETWORK.id, scene.request)
    scene.registration = scene.logs[uris[0]].add(scene.request)
    scene.votes = [scene.vote(uri) for uri in uris]
    return scene.proof()
