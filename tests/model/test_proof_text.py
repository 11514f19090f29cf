"""docs/proof.md is enough: a checker that is written from it finds what ours does."""

import base64
import json
from itertools import product
from pathlib import Path
from typing import Any, Final

import msgpack
from nacl.signing import VerifyKey

import p2pnodes
from p2pnodes.model import proof
from p2pnodes.model.events import ABSTAIN
from p2pnodes.model.proof import EVENTS_MAX, PROOF_BYTES_MAX, Proof, Statement
from tests.model.proof_scene import Scene, proven, served
from tests.vectors import test_protocol_text as text_of


class Reader:
    """A checker that is written from docs/proof.md and docs/protocol.md alone, without what p2pnodes judges by.

    It takes for granted what the vectors show of the protocol already: that payloads of valid events are of their form.
    """

    def __init__(self, text: bytes) -> None:
        file = json.loads(text)
        said = file["network"]
        names = ["quorum_ppm", "min_share_ppm", "verdict_ttl_s", "epoch_blocks", "horizon_s"]
        shares = [said[name] for name in names]
        parameters = ["p2pnodes network", bytes.fromhex(said["genesis_hash"]), said["netuid"], *shares]
        self.network_id = text_of.digest(text_of.pack(parameters), 16)
        packed = base64.b64decode(file["electorate"])
        self.electorate_digest = text_of.digest(packed)
        (self.block, self.time, permits, registered), before = msgpack.unpackb(packed)
        self.stakes = {bytes(key): stake for pin in (before, [0, 0, permits, []]) if pin for key, stake in pin[2]}
        self.registered = {bytes(key): block for key, block in registered}
        self.quorum, self.min_share, self.ttl_ms = shares[0], shares[1], shares[2] * 1000
        self.claim_id = bytes.fromhex(file["claim"])
        self.events = [base64.b64decode(event) for event in file["events"]]

    def statement(self) -> tuple[Any, ...]:
        """Network id, digest, claim id, miner, carrier, (V, W, T) and the votes; fails where the proof does."""
        authors: dict[tuple[bytes, int], bytes] = {}
        windows: dict[tuple[bytes, int], tuple[int, int]] = {}
        last: dict[tuple[bytes, int], tuple[int, bytes, int]] = {}
        adds: list[tuple[bytes, list[Any]]] = []
        votes: dict[bytes, tuple[str, int, bytes]] = {}
        for wire in self.events:
            header, signature, packed = msgpack.unpackb(wire)
            version, network, node_key, number, seq, previous, hlc, kind, payload_hash = msgpack.unpackb(header)
            log, ms, event_id = (node_key, number), hlc >> 16, text_of.digest(header)
            assert version == 1
            assert network == self.network_id
            assert payload_hash == text_of.digest(packed)
            assert not last or (log, seq) > (next(reversed(last)), last[next(reversed(last))][0])
            VerifyKey(node_key).verify(header, signature)
            if log not in last:
                assert seq == 0
            elif seq == last[log][0] + 1:
                assert previous == last[log][1]
            assert hlc > last.get(log, (0, b"", -1))[2]
            last[log] = seq, event_id, hlc
            payload = msgpack.unpackb(packed)
            if kind == "delegate":
                hotkey_, url, low, high, predecessor, said = payload
                message = text_of.delegation_message(network, [*log], [hotkey_, url, low, high, predecessor])
                assert text_of.signed(hotkey_, message, said)
                assert authors.setdefault(log, hotkey_) == hotkey_
                windows[log] = low, high
            assert windows[log][0] * 1000 <= ms <= windows[log][1] * 1000
            if kind == "add":
                adds.append((authors[log], [(payload, ms)]))
            elif kind == "carry":
                inner = [msgpack.unpackb(event) for event in payload[0]]
                heads = [msgpack.unpackb(head) for head, _, _ in inner]
                for (head, mark, _), fields in zip(inner, heads, strict=True):
                    VerifyKey(fields[2]).verify(head, mark)
                carried = [
                    (msgpack.unpackb(body), fields[6] >> 16) for (*_, body), fields in zip(inner, heads, strict=True)
                ]
                adds.append((authors[log], carried))
            elif kind in {"verdict", "renew"}:
                renewed = dict.fromkeys(dict(payload[1]), "verified") if kind == "renew" else {}
                finding = {payload[0]: payload[1], **renewed}[self.claim_id]
                assert finding in {"verified", "abstain"}
                assert authors[log] not in votes
                votes[authors[log]] = finding, ms, event_id
        ((carrier, brought),) = adds
        assert votes
        counted = []
        for (miner, nonce, signature, body, block), ms in brought:
            if text_of.request_id(self.network_id, miner, nonce, signature, body) == self.claim_id:
                assert text_of.signed(miner, text_of.request_message(miner, nonce, body), signature)
                assert abs(ms - int(nonce) * 1000) <= 600_000
                counted.append((miner, block))
        assert carrier in self.stakes
        assert any(self.registered[miner] <= block <= self.block for miner, block in counted)
        for author, (_, ms, _) in votes.items():
            mine = [windows[log] for log, hotkey_ in authors.items() if hotkey_ == author]
            assert any(low * 1000 <= self.time <= high * 1000 for low, high in mine)
            assert ms >= self.time - self.ttl_ms
        assert set(authors.values()) <= {*votes, carrier}
        stake = dict.fromkeys(("verified", "abstain"), 0)
        for author, (finding, *_) in votes.items():
            stake[finding] += self.stakes[author]
        total = sum(self.stakes.values())
        weighed = total - stake["abstain"]
        assert 10**6 * stake["verified"] > self.quorum * weighed
        assert 10**6 * stake["verified"] >= self.min_share * total
        cast = {(author, finding, self.stakes[author], event_id) for author, (finding, *_, event_id) in votes.items()}
        numbers = stake["verified"], weighed, total
        return self.network_id, self.electorate_digest, self.claim_id, counted[0][0], carrier, numbers, cast


def as_reader(found: Statement) -> tuple[Any, ...]:
    return (
        found.network.id,
        found.electorate_digest,
        found.claim_id,
        found.miner,
        found.carrier,
        (found.verified, found.weighed, found.permitted),
        {(vote.validator, vote.finding, vote.stake, vote.event_id) for vote in found.votes},
    )


class TestText:
    """docs/proof.md is enough."""

    TEXT: Final = (Path(p2pnodes.__file__).parent / "docs/proof.md").read_text()

    def test_a_checker_that_is_written_from_it_finds_the_same(self) -> None:
        scene = Scene()
        for brought in (served(), scene.proof(), scene.proof(scene.vote("//validator2", ABSTAIN))):
            text = json.dumps(brought.document()).encode()
            assert Reader(text).statement() == as_reader(proof.check(Proof.decode(text)))

    def test_it_refuses_the_same_choices_of_events(self) -> None:
        honest = served()
        for kept in product((True, False), repeat=len(honest.events)):
            events = tuple(event for event, keep in zip(honest.events, kept, strict=True) if keep)
            brought = honest._replace(events=events)
            found = proven(lambda brought=brought: brought)  # type: ignore[misc]
            try:
                read = Reader(json.dumps(brought.document()).encode()).statement()
            except (AssertionError, ValueError, KeyError):
                assert found is None
            else:
                assert found is not None
                assert read == as_reader(found)

    def test_it_names_the_bounds(self) -> None:
        for bound in (PROOF_BYTES_MAX, EVENTS_MAX, proof.HOTKEYS_MAX):
            assert f"at most {bound:,} " in self.TEXT
        assert f"`{json.dumps(proof.FORMAT)}`" in self.TEXT
