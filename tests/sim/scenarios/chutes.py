"""Chutes on GPUs whose owner changes."""

from typing import Any

from p2pnodes.model import codec
from p2pnodes.model.events import VERIFIED, Event, Place, Release
from p2pnodes.model.inventory import Chute
from tests.sim.scenarios.cast import ALICE, BOB, GPU, anywhere, rivals, stakes, verified_everywhere
from tests.sim.stage import Posted, Stage


class _Words:
    """What validators said about one GPU, and what it comes to."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._number = 0
        self._last: dict[tuple[bytes, int], tuple[int, Chute | None]] = {}

    def draw(self, posted: Posted) -> None:
        """Let some validator place a chute under a claim, or release its own."""
        stage = self._stage
        peer = stage.rng.choice(stage.up)
        chute = self._chute() if stage.rng.random() < 0.7 else None
        payload = Place(posted.claim_id, (GPU,), *chute) if chute else Release(posted.claim_id, (GPU,))
        stage.trace(peer.name, "chute", f"{posted.miner}: {chute.chute_id if chute else 'release'}")

        def done(result: Any) -> None:
            assert isinstance(result, Event), result
            self._last[posted.claim_id, peer.index] = result.hlc, chute

        peer.say(lambda _: payload, done)

    def _chute(self) -> Chute:
        self._number += 1
        public = self._stage.rng.random() < 0.5
        name, username = ("llama", "ann") if public else (None, None)
        return Chute(f"chute-{self._number}", f"instance-{self._number}", True, public, name, username)

    def under(self, posted: Posted) -> Chute | None:
        """What runs on the GPU where a claim owns it: the latest place of those that their authors did not end."""
        places = [
            (hlc, codec.pack(list(chute)), chute)
            for (claim_id, _), (hlc, chute) in self._last.items()
            if claim_id == posted.claim_id and chute is not None
        ]
        return max(places)[2] if places else None


def places_while_the_owner_changes(stage: Stage) -> None:
    """Validators place and release chutes under two claims, while a GPU goes from one to the other and back.

    Only what was placed under the claim that owns the GPU counts, whenever it was placed.
    """
    stage.open(stakes(stage))
    stage.truth.give(GPU, ALICE)
    owner, rival = rivals(stage)
    verified_everywhere(stage, owner)
    words = _Words(stage)

    def talk() -> None:
        for _ in range(stage.rng.randint(1, 5)):
            words.draw(stage.rng.choice((owner, owner, rival)))
            stage.run(stage.rng.choice((0, 0.5, 2)))

    talk()
    stage.settle()
    stage.owns(GPU, owner, VERIFIED)
    stage.chute(GPU, words.under(owner))
    stage.resume()
    stage.truth.give(GPU, BOB)
    stage.delete(ALICE, GPU, anywhere(stage))
    talk()
    verified_everywhere(stage, rival)
    talk()
    stage.settle()
    stage.owns(GPU, rival, VERIFIED)
    stage.chute(GPU, words.under(rival))
