"""Miners that register, fight for, delete and register again a few GPUs, at any peer, and repeat themselves."""

import random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from p2pnodes.model.errors import P2PNodesError, WritesRefusedError
from p2pnodes.model.requests import PURPOSE_DELETE, Add, Delete, bound_purpose, request_id, sign_add, sign_delete
from p2pnodes.store.facts import StoredClaim
from tests.support import MINERS, body, hotkey

if TYPE_CHECKING:
    from tests.sim.world import World

GPUS: Final = tuple(f"gpu-{number:02}" for number in range(32))
ANYTHING: Final = tuple((miner, uuid) for miner in MINERS for uuid in GPUS)
PAUSE_MS: Final = (50.0, 1_500.0)
SHARED_BY: Final = 12
"""With more peers than this the pauses are longer by as much: every peer takes in all that others take in."""

BURST: Final = 12
BURST_SHARE: Final = 0.04
"""Now and then as many requests come in one moment, so that events share commits and frames."""

ANSWER_MS_MAX: Final = 2_000.0
"""A miner that hears nothing for this long takes the same request to the next peer (rule 2)."""

NONCE_OFF_S: Final = 3


class Acknowledged(NamedTuple):
    """What some peer answered with success; it must never be lost.

    Attributes:
        id: The claim's id, which may be that of an earlier request with the same body; or the delete's request id.
        uuid: The GPU of a delete, empty for a claim.
        label: For people.
        miner: Public key of who sent it.
        nonce: Of the request.
    """

    id: bytes
    uuid: str
    label: str
    miner: bytes
    nonce: int


class Workload:
    """Draws requests and keeps what was acknowledged."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._rng = random.Random(f"{world.seed} workload")
        self._ended = False
        self.posted: list[tuple[Add | Delete, str, str]] = []
        """Every request, with the GPU of a delete, and what it is called."""
        self._registered: list[tuple[str, str]] = []
        self.acknowledged: list[Acknowledged] = []

    def start(self) -> None:
        """Post now and then until ``end``."""
        pause_ms = self._rng.uniform(*PAUSE_MS) * max(1.0, len(self._world.peers) / SHARED_BY)
        self._world.clock.after(pause_ms, self._act)

    def end(self) -> None:
        """Post nothing new; what waits for an answer goes on."""
        self._ended = True

    def _act(self) -> None:
        if self._ended:
            return
        for _ in range(BURST if self._rng.random() < BURST_SHARE else 1):
            self._request()
        self.start()

    def _request(self) -> None:
        rng = self._rng
        kind = rng.choices(("add", "delete", "again"), (5, 3, 1))[0]
        if kind == "again" and self.posted:
            self._post(*rng.choice(self.posted), rng.randrange(len(self._world.peers)), retries=0)
        else:
            request, uuid, label = self._delete() if kind == "delete" else self._add()
            self.posted.append((request, uuid, label))
            first = rng.randrange(len(self._world.peers))
            self._post(request, uuid, label, first, retries=len(self._world.peers))
            if rng.random() < 0.2:  # rule 2: the same to another peer at the same time is the same claim
                self._post(request, uuid, label, first + 1, retries=0)

    def _nonce_s(self) -> int:
        return int(self._world.clock.now_ms) // 1000 + self._rng.randint(-NONCE_OFF_S, NONCE_OFF_S)

    def _add(self) -> tuple[Add, str, str]:
        rng = self._rng
        miner, nonce_s = rng.choice(MINERS), self._nonce_s()
        uuids = rng.sample(GPUS, rng.choice((1, 1, 2, 4)))
        request = sign_add(hotkey(miner), nonce_s, body(uuids))
        self._registered += [(miner, uuid) for uuid in uuids]
        return request, "", f"{miner} adds {' '.join(uuids)} at {nonce_s - self._world.start_s}"

    def _delete(self) -> tuple[Delete, str, str]:
        rng = self._rng
        nonce_s = self._nonce_s()
        # Mostly what the miner has registered; now and then what it has not.
        miner, uuid = rng.choice(self._registered or ANYTHING) if rng.random() < 0.9 else rng.choice(ANYTHING)
        purpose = bound_purpose(uuid) if rng.random() < 0.7 else PURPOSE_DELETE
        request = sign_delete(hotkey(miner), nonce_s, purpose)
        return request, uuid, f"{miner} deletes {uuid} at {nonce_s - self._world.start_s}"

    def _post(self, request: Add | Delete, uuid: str, label: str, index: int, *, retries: int) -> None:
        """Post to a peer, and to the next one when it is down, refuses to write or does not answer."""
        world = self._world
        peer = world.peers[index % len(world.peers)]
        answered = False

        def done(result: Any) -> None:
            nonlocal answered
            if answered:
                return
            if isinstance(result, WritesRefusedError):
                again()
                return
            answered = True
            if isinstance(result, P2PNodesError):
                world.trace(peer.name, "refuses", f"{label}: {type(result).__name__}")
                return
            world.trace(peer.name, "accepts", label)
            found = result.claim_id if isinstance(result, StoredClaim) else request_id(world.parameters.id, request)
            if peer.honest:  # what a liar says binds nobody
                self.acknowledged.append(Acknowledged(found, uuid, label, request.hotkey, int(request.nonce)))

        def again() -> None:
            nonlocal answered
            if not answered and retries:
                answered = True
                self._post(request, uuid, label, index + 1, retries=retries - 1)

        if peer.up:
            peer.submit(request, uuid, done)
        world.clock.after(ANSWER_MS_MAX, again)
