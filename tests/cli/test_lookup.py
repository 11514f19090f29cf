"""``p2pnodes claim show`` and ``node show``: what people read of a real explanation."""

from typing import Any

import pytest

from p2pnodes.api import explanations
from p2pnodes.model.events import Place
from p2pnodes.model.inventory import Chute
from p2pnodes.model.requests import request_id
from p2pnodes.store.checks import Check
from p2pnodes.store.ledger import Ledger
from p2pnodes.verify.turns import turns
from tests.cli.conftest import Ask, Cli, Ended
from tests.fake_daemon import FakeDaemon
from tests.support import NETWORK, NOW_MS, NOW_S, Author, add, delete, electorate, hotkey, memory_ledger

STAKES = {"//validator0": 40, "//validator1": 30, "//validator2": 20, "//validator3": 10}
CHUTE = Chute("chute-1", "instance-1", verified=True, public=True, name="llama", username="ann")
ADD, OTHER = add("//Alice", ["gpu-1", "gpu-2"]), add("//Bob", ["gpu-1"], NOW_S + 1)
CLAIM, BOBS = request_id(NETWORK.id, ADD), request_id(NETWORK.id, OTHER)
DAY_MS = 86_400_000


def world(*, liar: bool = False) -> Ledger:
    """Four old validators of stakes 40/30/20/10. Alice claims two GPUs, Bob one of them; she deletes the other."""
    ledger = memory_ledger(who=electorate(stakes=STAKES))
    authors = [Author(uri) for uri in STAKES]
    for author in authors:
        author.write(author.delegation(not_before=NOW_S - 10 * 86_400), at_ms=NOW_MS - 2 * DAY_MS)
    first, second, third, _ = authors
    first.add(ADD)
    first.verdict(CLAIM, at_ms=NOW_MS + 1_000)
    second.add(OTHER, at_ms=NOW_MS + 1_000)
    second.verdict(CLAIM, "failed" if liar else "abstain", at_ms=NOW_MS + 2_000)
    third.delete(delete("//Alice", "nodes:gpu-2", NOW_S + 3), "gpu-2", at_ms=NOW_MS + 3_000)
    third.write(Place(CLAIM, ("gpu-1",), *CHUTE), at_ms=NOW_MS + 4_000)
    with ledger.transaction():
        ledger.receive([event for author in authors for event in author.events], NOW_MS)
    return ledger


def explained_claim(ledger: Ledger, claim_id: bytes = CLAIM) -> dict[str, Any]:
    case = ledger.facts.explain_claim(claim_id, ledger.weights)
    assert case is not None
    votes = [voice.vote for voice in case.poll.voices if voice.vote]
    found = turns(claim_id, NOW_MS, votes, ledger.weights, 60_000, NOW_MS)
    own = Check(NOW_MS + 5_000, 0, 1, "the GraVal service is down")
    return {
        **explanations.claim(case),
        "turns": explanations.turns(found, NOW_MS),
        "own_check": explanations.check(own),
    }


def explained_node(ledger: Ledger, uuid: str) -> dict[str, Any]:
    case = ledger.facts.explain_node(uuid, ledger.weights)
    assert case is not None
    return explanations.node(case)


def section(ended: Ended, title: str) -> list[str]:
    """Lines of a table, without its heading."""
    lines = ended.out.splitlines()
    begin = lines.index(f"{title}:") + 2
    end = lines.index("", begin) if "" in lines[begin:] else len(lines)
    return lines[begin:end]


def fields(ended: Ended) -> dict[str, str]:
    """Name -> value of the lines before the first table."""
    lines = ended.out.splitlines()
    head = lines[: lines.index("")]
    return {name.strip(): value.strip() for name, _, value in (line.partition("  ") for line in head)}


class TestClaim:
    """How the vote on a claim stands."""

    async def test_it_says_who_voted_what_and_what_is_missing(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.claims[CLAIM] = explained_claim(world())
        ended = await ask("claim", "show", CLAIM.hex())
        assert (ended.code, ended.err) == (0, "")
        shown = fields(ended)
        assert shown["claim"] == CLAIM.hex()
        assert shown["counts"] == "yes"
        # validator1 abstains: 70 are weighed, of which more than 35 verify.
        assert shown["stake"] == "100 enrolled, 70 weighed"
        assert shown["vote"] == shown["miner is told"] == "verified"
        assert shown["for it"] == "40; enough to exceed the quorum"
        assert shown["against"] == "0; 35 more would fail it"
        votes = [line.split() for line in section(ended, "votes")]
        assert [(stake, finding, state) for _, stake, finding, state, *_ in votes] == [
            ("40", "verified", "counts"),
            ("30", "abstain", "abstains"),
            ("20", "-", "awaited"),
            ("10", "-", "awaited"),
        ]
        assert votes[0][0] == hotkey("//validator0").address
        assert votes[1][-3:] == ["abstain", "by", "test"]

    async def test_an_open_vote_says_how_much_would_close_it(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.claims[CLAIM] = explained_claim(world(liar=True))
        shown = fields(await ask("claim", "show", CLAIM.hex()))
        assert shown["vote"] == "pending"
        assert shown["for it"] == "40; 11 more would exceed the quorum"
        assert shown["against"] == "30; 20 more would fail it"
        daemon.claims[CLAIM]["vote"]["missing"] = {"quorum": 1, "share": 20, "failed": 1}
        assert fields(await ask("claim", "show", CLAIM.hex()))["for it"] == "40; 20 more would reach the minimum share"

    async def test_each_gpu_says_whose_it_is_and_why(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.claims[CLAIM] = explained_claim(world())
        first, second = section(await ask("claim", "show", CLAIM.hex()), "GPUs")
        assert first.split()[:3] == ["gpu-1", "owner", CLAIM.hex()]
        assert "verified, the only verified claim" in first
        assert second.split()[:3] == ["gpu-2", "deleted", "-"]
        assert f"of nonce {NOW_S + 3}, with a higher nonce" in second

    async def test_what_keeps_this_validator_from_checking_is_told(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.claims[CLAIM] = explained_claim(world(liar=True))
        shown = fields(await ask("claim", "show", CLAIM.hex()))
        assert shown["own check"].endswith("; it could not, 1 times in a row: the GraVal service is down")

    async def test_turns_are_ranked(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.claims[CLAIM] = explained_claim(world(liar=True))
        lines = section(await ask("claim", "show", CLAIM.hex()), "turns")
        assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
        voted = {hotkey(uri).address for uri in ("//validator0", "//validator1")}
        assert {line.split()[1] for line in lines if "has voted" in line} == voted
        assert sum("may check now" in line for line in lines) <= 1
        assert sum("waits for its turn" in line or "may check now" in line for line in lines) == 2

    async def test_a_claim_that_does_not_count_says_who_carries_it(self, ask: Ask, daemon: FakeDaemon) -> None:
        ledger = world()
        with ledger.transaction():
            ledger.set_electorate(electorate(200, stakes={"//validator1": 30}))
        daemon.claims[CLAIM] = explained_claim(ledger)
        ended = await ask("claim", "show", CLAIM.hex())
        assert fields(ended)["counts"].startswith("no: no event that carries it counts")
        (line,) = section(ended, "carried by")
        assert line.startswith(hotkey("//validator0").address)
        assert line.endswith("author not permitted")

    async def test_json_is_the_daemons_answer(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.claims[CLAIM] = explained_claim(world())
        assert (await ask("claim", "show", CLAIM.hex(), "--json")).json == daemon.claims[CLAIM]

    async def test_a_task_id_leads_to_it(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.claims[CLAIM] = explained_claim(world())
        alice = hotkey("//Alice")
        assert (await ask("claim", "show", f"{alice.address}::{CLAIM.hex()[:32]}")).code == 0
        assert daemon.looked_for == [(CLAIM[:16], alice.public_key)]

    @pytest.mark.parametrize(("name", "status"), [("00" * 32, 404), ("x/../y", 400), ("", 400)])
    async def test_what_names_no_claim_is_one_line(self, ask: Ask, name: str, status: int) -> None:
        ended = await ask("claim", "show", name)
        assert ended.code == 1
        if name:
            assert f"the daemon answered {status}: " in ended.error


class TestNode:
    """Why a GPU has its owner."""

    async def test_it_says_who_owns_it_by_which_rule_and_what_runs(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.nodes["gpu-1"] = explained_node(world(), "gpu-1")
        ended = await ask("node", "show", "gpu-1")
        assert (ended.code, ended.err) == (0, "")
        shown = fields(ended)
        assert shown["owner"] == hotkey("//Alice").address
        assert shown["because"] == "the only verified claim"
        assert (shown["claim"], shown["status"]) == (CLAIM.hex(), "verified")
        assert shown["runs"] == "ann/llama, chute chute-1, instance instance-1 (verified)"
        first, second = section(ended, "claims, in order of their requests")
        assert first.split()[:3] == [CLAIM.hex(), "owner", "verified"]
        assert second.split()[:3] == [BOBS.hex(), "stands", "pending"]
        (placement,) = section(ended, "chutes, by the word of validators")
        assert placement.split()[:2] == [hotkey("//validator2").address, "counts"]
        assert [line.split()[1] for line in section(ended, "history")] == ["add", "add", "verified", "place"]

    async def test_a_deleted_one_names_the_delete(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.nodes["gpu-2"] = explained_node(world(), "gpu-2")
        ended = await ask("node", "show", "gpu-2")
        assert (fields(ended)["owner"], fields(ended)["because"]) == ("nobody", "no claim stands")
        (claim,) = section(ended, "claims, in order of their requests")
        assert claim.split()[1] == "deleted"
        (deletion,) = section(ended, "deletions")
        assert deletion.split()[:3] == [daemon.nodes["gpu-2"]["deletions"][0]["request_id"], str(NOW_S + 3), "counts"]
        assert "ends claims of its miner below nonce" in deletion

    async def test_a_private_chute_is_shown_without_a_name(self, ask: Ask, daemon: FakeDaemon) -> None:
        found = explained_node(world(), "gpu-1")
        found["owner"]["chute"] |= {"public": False, "name": None, "username": None, "verified": False}
        daemon.nodes["gpu-1"] = found
        shown = fields(await ask("node", "show", "gpu-1"))
        assert shown["runs"] == "a private chute, chute chute-1, instance instance-1 (unverified)"

    async def test_what_is_left_out_is_said(self, ask: Ask, daemon: FakeDaemon) -> None:
        found = explained_node(world(), "gpu-1")
        found["left_out"] |= {"claims": 3, "history": 7}
        daemon.nodes["gpu-1"] = found
        ended = await ask("node", "show", "gpu-1")
        assert ended.err == "p2pnodes: not shown: 3 claims, 7 history, see the views of the database\n"

    async def test_json_is_the_daemons_answer(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.nodes["gpu-1"] = explained_node(world(), "gpu-1")
        assert (await ask("node", "show", "gpu-1", "--json")).json == daemon.nodes["gpu-1"]

    async def test_any_uuid_can_be_asked_for(self, ask: Ask, daemon: FakeDaemon) -> None:
        daemon.nodes["a/b?c%d"] = explained_node(world(), "gpu-1")
        assert (await ask("node", "show", "a/b?c%d")).code == 0

    async def test_an_unknown_gpu_is_one_line(self, ask: Ask) -> None:
        ended = await ask("node", "show", "gpu-9")
        assert (ended.code, ended.out) == (1, "")
        assert "the daemon answered 404: no claim ever named a GPU 'gpu-9'" in ended.error


@pytest.mark.parametrize("arguments", [("claim", "show", "00"), ("node", "show", "u1"), ("verify", "00")])
def test_no_daemon_is_exit_code_3(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli(*arguments, "--socket", "/nowhere/admin.sock").code == 3
