"""Long dialogues of several miners with one daemon, against a model of compat.md and design.md in plain words.

The model knows nothing of events, rows or the store: it keeps what was said and answers from the text. What it
foretells of each answer is the status, the ``detail``, the task, and after every step all views of the inventory.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import pytest

from p2pnodes.model.electorate import Electorate, Pin
from p2pnodes.model.events import ABSTAIN, FAILED, VERIFIED
from p2pnodes.model.keys import Hotkey
from p2pnodes.store.database import Database
from tests.api.support import (
    ALICE,
    BOB,
    NOW_S,
    VALIDATOR,
    Answer,
    Client,
    Clock,
    Miner,
    claim_id_of,
    encode,
    gpu,
    server,
    vote,
)

STEPS: Final = 40
GPUS: Final = 4
CAROL: Final = Hotkey.from_uri("//Charlie")
MINERS: Final = (ALICE, BOB, CAROL)
TASK_GONE: Final = "the nodes of this task are deleted, or their miner is no longer registered"


class Claimed:
    """A registration that was accepted."""

    def __init__(self, miner: str, nonce: int, task: str, *, body: bytes, at_s: float, block: int) -> None:
        self.miner = miner
        self.nonce = nonce
        self.task = task
        self.body = body
        self.uuids: list[str] = [node["uuid"] for node in json.loads(body)["nodes"]]
        self.at_s = at_s
        self.block = block
        self.finding = "pending"
        self.voted = 0
        self.detail: str | None = None
        self.ended: set[str] = set()

    @property
    def stamp(self) -> tuple[int, str]:
        return self.nonce, self.task.partition("::")[2]


class Removal(NamedTuple):
    miner: str
    nonce: int
    uuid: str
    signature: str


class Model:
    """What compat.md and design.md say, for one daemon whose validator has all the stake."""

    def __init__(self) -> None:
        self.claims: list[Claimed] = []
        self.removals: list[Removal] = []
        self.sent: dict[str, Claimed] = {}
        self.registered = {miner.address: 50 for miner in MINERS}
        self.block = 100
        self.votes = 0

    def standing(self, uuid: str) -> list[Claimed]:
        return sorted(
            (claim for claim in self.claims if uuid in claim.uuids and uuid not in claim.ended and self.counts(claim)),
            key=lambda claim: claim.stamp,
        )

    def counts(self, claim: Claimed) -> bool:
        return claim.miner in self.registered and self.registered[claim.miner] <= claim.block

    def owner(self, uuid: str) -> Claimed | None:
        claims = self.standing(uuid)
        verified = [claim for claim in claims if claim.finding == "verified"]
        if verified:
            return min(verified, key=lambda claim: (claim.voted, claim.stamp))
        return claims[0] if claims else None

    def post(self, miner: str, nonce: int, signature: str, body: bytes, now_s: float) -> tuple[int, Any]:
        """Status, and the claim that is answered (None: a new one) or the detail."""
        if abs(int(now_s) - nonce) >= 600:
            return 401, "Invalid nonce!"
        if miner not in self.registered:
            return 401, "Hotkey is not registered on netuid 64"
        nodes = json.loads(body)["nodes"]
        if len(nodes) > 10:
            return 400, "Limit is 10 GPUs per server."
        uuids = list(dict.fromkeys(node["uuid"] for node in nodes))
        again = self.sent.get(signature)
        if again is not None and self.counts(again):
            return 202, again
        for claim in self.claims:
            if (
                claim.miner == miner
                and claim.body == body
                and now_s - claim.at_s < 600
                and all(claim in self.standing(uuid) for uuid in uuids)
            ):
                return 202, claim
        taken = [
            uuid
            for uuid in uuids
            if any(claim.miner == miner or claim.finding == "verified" for claim in self.standing(uuid))
        ]
        if taken:
            return 409, f"Nodes already exist in inventory, please contact chutes team to resolve: {taken}"
        if hops := self.hops(uuids, miner, now_s):
            return 429, f"Detected GPU hotkey hopping for nodes: {hops}"
        if any(node["verification_host"] == "10.0.0.1" for node in nodes):
            return 400, "One or more invalid verification_hosts provided."
        if any(node["verification_port"] == 79 for node in nodes):
            return 400, "GPU parameter validation error: Invalid verification_port: 79"
        twice = sorted(uuid for uuid, count in Counter(node["uuid"] for node in nodes).items() if count > 1)
        if twice:
            return 400, f"Duplicate node uuids in request: {twice}"
        later = [gone for gone in self.removals if gone.miner == miner and gone.uuid in uuids and gone.nonce > nonce]
        if later:
            return 409, [str(nonce), *{str(gone.nonce) for gone in later}]
        return 202, None

    def hops(self, uuids: Sequence[str], miner: str, now_s: float) -> str:
        found: list[tuple[str, int]] = []
        for uuid in uuids:
            history = [claim.miner for claim in self.claims if uuid in claim.uuids and now_s - claim.at_s < 86_400]
            if history and history[-1] == miner:
                history.pop()
            if len(history) > 2 and len(set(history)) > 1:
                found.append((uuid, len(history)))
        return ", ".join(f"{uuid} (used {count} times recently)" for uuid, count in sorted(found, key=lambda f: -f[1]))

    def delete(self, miner: str, nonce: int, signature: str, uuid: str, now_s: float) -> tuple[int, Any]:
        if abs(int(now_s) - nonce) >= 600:
            return 401, "Invalid nonce!"
        if miner not in self.registered:
            return 401, "Hotkey is not registered on netuid 64"
        used = {gone.uuid for gone in self.removals if gone.signature == signature}
        if uuid in used:
            return 200, None
        if used:
            return 401, [*used]
        own = [claim for claim in self.standing(uuid) if claim.miner == miner]
        if not own:
            return 404, "Node does not exist, or does not belong to you"
        if own[0].nonce > nonce:
            return 409, [str(nonce), str(own[0].nonce)]
        for claim in self.claims:  # also those that do not count now
            if claim.miner == miner and uuid in claim.uuids and (claim.nonce < nonce or claim in own):
                claim.ended.add(uuid)
        self.removals.append(Removal(miner, nonce, uuid, signature))
        return 200, None

    def status(self, claim: Claimed) -> dict[str, str]:
        answers: list[tuple[str, str | None]] = []
        for uuid in claim.uuids:
            claims = self.standing(uuid)
            if claim not in claims:
                continue
            holder = self.owner(uuid)
            assert holder is not None
            if holder.miner != claim.miner and holder.finding == "verified":
                answers.append(("failed", f"GPU {uuid} belongs to a verified claim of another hotkey"))
            else:
                leader = next((c for c in claims if c.miner == claim.miner and c.finding == "verified"), None)
                leader = leader or next(c for c in claims if c.miner == claim.miner)
                answers.append((leader.finding, leader.detail))
        if not answers:
            answers = [(claim.finding, claim.detail) if claim.finding != "pending" else ("failed", TASK_GONE)]
        for status in ("failed", "pending", "verified"):
            if found := [detail for said, detail in answers if said == status]:
                return {"status": status, "detail": found[0] or ""} if status == "failed" else {"status": status}
        raise AssertionError


class Dialogue:
    """One run."""

    def __init__(self, client: Client, clock: Clock, db: Database, seed: int) -> None:
        self.miners = [Miner(client, clock, hotkey) for hotkey in MINERS]
        self.clock, self.db = clock, db
        self.random = random.Random(seed)
        self.model = Model()
        self.posts: list[tuple[Miner, dict[str, str], bytes]] = []
        self.deletes: list[tuple[Miner, dict[str, str]]] = []
        self.said: list[str] = []

    async def step(self) -> None:
        act = self.random.choices(
            [self.post, self.post_again, self.delete, self.delete_again, self.vote, self.wait, self.pin],
            [30, 12, 22, 10, 16, 20, 4],
        )[0]
        await act()

    def nonce(self) -> str:
        return str(int(self.clock()) + self.random.choice([0, 0, 0, 0, 0, 0, -1, 1, 1, -30, 60, -599, 599, -600, 601]))

    def body(self) -> bytes:
        some = self.random
        uuids = some.sample(range(GPUS), some.choice([1, 1, 2, 2, 3]))
        nodes = [gpu(index) for index in uuids]
        if some.random() < 0.08:
            some.choice(nodes).update(verification_host="10.0.0.1")
        if some.random() < 0.08:
            some.choice(nodes).update(verification_port=79)
        if some.random() < 0.08:
            nodes.append(dict(nodes[0]))
        if some.random() < 0.03:
            nodes = [gpu(index) for index in range(11)]
        return encode({**server(1), "server_id": some.choice(["s1", "s1", "s2"]), "nodes": nodes})

    async def post(self) -> None:
        miner = self.random.choice(self.miners)
        old = [body for _, _, body in self.posts]
        body = self.random.choice(old) if old and self.random.random() < 0.3 else self.body()
        headers = miner.signed(body, self.nonce())
        self.posts.append((miner, headers, body))
        await self._post(miner, headers, body)

    async def post_again(self) -> None:
        if self.posts:
            await self._post(*self.random.choice(self.posts))

    async def _post(self, miner: Miner, headers: Mapping[str, str], body: bytes) -> None:
        address, nonce, signature = (headers[f"X-Chutes-{name}"] for name in ("Hotkey", "Nonce", "Signature"))
        status, what = self.model.post(address, int(nonce), signature, body, self.clock())
        answer = await miner.post(body, headers)
        gpus = [node["uuid"][-1] for node in json.loads(body)["nodes"]]
        self.note(f"POST {address[:4]} nonce {int(nonce) - NOW_S} {signature[:4]} {gpus}", answer)
        self.check(answer, status, what if isinstance(what, (str, list)) else None)
        if status != 202:
            return
        if what is None:
            what = Claimed(
                address,
                int(nonce),
                answer.body["task_id"],
                body=body,
                at_s=self.clock(),
                block=self.model.block,
            )
            if signature in self.model.sent:  # what was there did not count: the same claim is carried anew
                what = self.model.sent[signature]
                what.block = self.model.block
            else:
                assert answer.body["task_id"] not in {claim.task for claim in self.model.claims}
                self.model.claims.append(what)
            self.model.sent[signature] = what
        assert answer.body["task_id"] == what.task, self.story()
        assert [node["uuid"] for node in answer.body["nodes"]] == what.uuids
        assert {node["miner_hotkey"] for node in answer.body["nodes"]} == {what.miner}
        assert len({node["seed"] for node in answer.body["nodes"]}) == 1

    async def delete(self) -> None:
        miner = self.random.choice(self.miners)
        uuid = gpu(self.random.randrange(GPUS))["uuid"]
        headers = miner.headers(self.random.choice(["nodes", f"nodes:{uuid}"]), self.nonce())
        self.deletes.append((miner, headers))
        await self._delete(miner, headers, uuid)

    async def delete_again(self) -> None:
        if self.deletes:
            miner, headers = self.random.choice(self.deletes)
            await self._delete(miner, headers, gpu(self.random.randrange(GPUS))["uuid"])

    async def _delete(self, miner: Miner, headers: Mapping[str, str], uuid: str) -> None:
        address, nonce, signature = (headers[f"X-Chutes-{name}"] for name in ("Hotkey", "Nonce", "Signature"))
        answer = await miner.delete(uuid, headers)
        self.note(f"DELETE {address[:4]} nonce {int(nonce) - NOW_S} {signature[:4]} {uuid[-1]}", answer)
        if answer.status == 401 and isinstance(answer.detail, str) and answer.detail.startswith("Invalid request sign"):
            return  # bound to another GPU
        status, what = self.model.delete(address, int(nonce), signature, uuid, self.clock())
        self.check(answer, status, what)
        if status == 200:
            assert answer.body == {"node_id": uuid, "deleted": True}

    async def vote(self) -> None:
        if self.model.claims:
            claim = self.random.choice(self.model.claims)
            finding = self.random.choice([VERIFIED, VERIFIED, FAILED, ABSTAIN])
            hotkey = next(hotkey for hotkey in MINERS if hotkey.address == claim.miner)
            claim_id, detail = await claim_id_of(self.db, claim.task, hotkey), "slow" if finding == FAILED else ""
            await vote(self.db, self.clock, claim_id, finding, detail)
            self.model.votes += 1
            claim.voted = self.model.votes
            claim.finding = {VERIFIED: "verified", FAILED: "failed", ABSTAIN: "pending"}[finding]
            claim.detail = detail or None
            self.said.append(f"vote {finding} on {claim.task[-6:]}")

    async def wait(self) -> None:
        self.clock.s += self.random.choice([0.4, 1, 1, 1, 30, 300, 599, 600, 3600])
        self.said.append(f"now {self.clock.s - NOW_S}")

    async def pin(self) -> None:
        """The chain goes on: somebody leaves it, or comes back."""
        model = self.model
        model.block += 100
        who = self.random.choice(MINERS).address
        if who in model.registered:
            del model.registered[who]
        else:
            model.registered[who] = model.block - self.random.choice([0, 50, 100])
        blocks = {hotkey.public_key: model.registered.get(hotkey.address) for hotkey in MINERS}
        registered = {key: block for key, block in blocks.items() if block is not None}
        pin = Pin(model.block, int(self.clock() * 1000), {VALIDATOR.public_key: 100}, registered, {})
        await self.db.set_electorate(Electorate(pin))
        self.said.append(f"pin {model.block} {model.registered}")

    def note(self, what: str, answer: Answer) -> None:
        short = answer.body.get("task_id", "")[-6:] or answer.body.get("detail", "")
        self.said.append(f"{what} -> {answer.status} {short}")

    def story(self) -> str:
        return "\n".join(self.said)

    def check(self, answer: Answer, status: int, detail: str | list[str] | None) -> None:
        assert answer.status == status, f"expected {status} {detail}\n{self.story()}"
        if isinstance(detail, str):
            assert answer.detail == detail, self.story()
        elif detail is not None and status == 409:
            assert detail[0] in answer.detail, self.story()
            assert any(nonce in answer.detail for nonce in detail[1:]), self.story()
        elif detail is not None:
            assert any(part in answer.detail for part in detail), self.story()

    async def look(self) -> None:
        """All views show what the model says."""
        model, reader = self.model, self.miners[0]
        owners = {uuid: owner for index in range(11) if (owner := model.owner(uuid := gpu(index)["uuid"]))}
        compact = {"h100_sxm": {"provisioned": 0, "idle": len(owners)}} if owners else {}
        assert (await reader.get("/nodes/")).body == compact, self.story()
        held = Counter(claim.miner for claim in owners.values())
        detailed = {
            miner: {"provisioned": [], "idle": {"h100_sxm": count}}
            for miner, count in sorted(held.items(), key=lambda item: (-item[1], item[0]))
        }
        found = (await reader.get("/nodes/?detailed=true")).body
        assert list(found.items()) == list(detailed.items()), self.story()
        for miner in self.miners:
            address = miner.hotkey.address
            one = {address: detailed[address]} if address in detailed else {}
            assert (await reader.get(f"/nodes/?detailed=1&hotkey={address}")).body == one
            if address not in model.registered:
                assert (await miner.own_nodes()).status == 401
                continue
            events = ((await miner.own_nodes()).body or b"").decode().split("\n\n")
            listed = [json.loads(event.removeprefix("data: ")) for event in events if event]
            own = sorted(uuid for uuid, claim in owners.items() if claim.miner == address)
            assert sorted(node["uuid"] for node in listed) == own, self.story()
            for node in listed:
                claim = owners[node["uuid"]]
                assert (node["verified_at"] is not None) == (claim.finding == "verified"), self.story()
                assert node["verification_error"] == claim.detail, self.story()
            for claim in model.claims:
                if claim.miner == address:
                    said = (await miner.status(claim.task)).body
                    assert said == model.status(claim), f"{claim.task[-6:]}\n{self.story()}"


@pytest.mark.parametrize("seed", range(8))
async def test_a_dialogue_is_answered_as_the_text_says(client: Client, clock: Clock, db: Database, seed: int) -> None:
    registered = {hotkey.public_key: 50 for hotkey in MINERS}
    await db.set_electorate(Electorate(Pin(100, NOW_S * 1000, {VALIDATOR.public_key: 100}, registered, {})))
    dialogue = Dialogue(client, clock, db, seed)
    for _ in range(STEPS):
        await dialogue.step()
        await dialogue.look()
