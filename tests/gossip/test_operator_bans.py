"""The operator's bans in a running driver: sessions end, none is opened, and nothing is lost by it."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from p2pnodes.gossip import dials
from p2pnodes.gossip.handshake import RefusedByPeerError
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import LocalProtocolError
from tests.gossip.daemons import Node, stranger, until
from tests.support import VALIDATORS, Author

MALICE = Author(VALIDATORS[2])
REASON = "it talks nonsense; told by mail"


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dial again at once."""
    monkeypatch.setattr(dials, "PAUSE_S_MIN", 0.05)


class TestBan:
    """Whom the operator refuses is gone at once and stays away."""

    async def test_its_session_ends_at_once_and_it_is_listed_with_the_reason(self, pair: tuple[Node, Node]) -> None:
        first, second = pair
        first.dial(second)
        await until(lambda: first.session_with(second))
        with capture_logs() as lines:
            told = first.driver.ban(second.hotkey, REASON, 60)
            assert not first.sessions, "in this very turn"
            await until(lambda: [line for line in lines if line["event"] == "session_closed"])
        assert (told["ended"], told["ban"]["ban_reason"]) == (1, REASON)
        assert first.driver.bans() == first.driver.status()["bans"]
        (ban,) = first.driver.bans()
        assert (ban["hotkey"], ban["operator"], ban["code"]) == (
            second.author.hotkey.address, True, Code.SESSION_BANNED,
        )  # fmt: skip
        assert 0 < ban["banned_s"] <= 60
        (peer,) = first.driver.status()["peers"]
        assert (peer["ban_reason"], peer["ban_code"]) == (REASON, Code.SESSION_BANNED)
        assert first.driver.status()["ban_counts"]["operator"] == 1

    @pytest.mark.parametrize("key", [MALICE.hotkey.public_key, MALICE.node_key.public_key])
    async def test_it_is_refused_by_either_key_and_does_not_hear_why(
        self, honest: tuple[Node, Node], key: bytes
    ) -> None:
        first, _ = honest
        first.driver.ban(key, REASON, 60)
        async with stranger(first, MALICE) as guest:
            with pytest.raises(RefusedByPeerError, match="operator has banned this peer") as refused:
                await guest.shake()
        assert REASON not in str(refused.value)

    async def test_another_node_key_of_the_hotkey_is_refused_too_but_not_the_other_way_round(
        self, honest: tuple[Node, Node]
    ) -> None:
        first, _ = honest
        first.driver.ban(MALICE.node_key.public_key, "a clone", 60)
        async with stranger(first, Author(VALIDATORS[2], seed=7)) as guest:
            await guest.shake()
        first.driver.ban(MALICE.hotkey.public_key, "all of it", 60)
        async with stranger(first, Author(VALIDATORS[2], seed=8)) as guest:
            with pytest.raises(RefusedByPeerError, match="operator has banned"):
                await guest.shake()

    async def test_it_is_listed_by_the_key_that_was_named(self, pair: tuple[Node, Node]) -> None:
        """Known or not: nobody has written with this one yet."""
        first, _ = pair
        with capture_logs() as lines:
            first.driver.ban(b"\xf0" * 32, REASON, 60, is_node_key=True)
            first.driver.ban(MALICE.hotkey.public_key, REASON, 60)
            named = [(ban["hotkey"], ban["node_key"]) for ban in first.driver.bans()]
            first.driver.lift(b"\xf0" * 32)
        assert named == [(None, "f0" * 32), (MALICE.hotkey.address, None)]
        assert [line["peer"] for line in lines if line["event"] in {"peer_banned", "ban_lifted"}] == [
            "f0" * 32, MALICE.hotkey.address, "f0" * 32,
        ]  # fmt: skip

    async def test_who_is_banned_by_node_key_is_not_dialled_and_other_addresses_are(
        self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = pair
        first.dial(second)
        await until(lambda: first.session_with(second))
        first.know({second.hotkey: second.url})
        first.driver.ban(second.node_key, "a clone", 60, is_node_key=True)
        monkeypatch.setattr(first.driver._engine, "wanted", lambda: [second.hotkey])
        (dial,) = first.driver._dials.of(second.hotkey)
        dial.next_s, dial.active = 0.0, False
        assert dial.node_key == second.node_key
        assert list(first.driver._due()) == []
        assert dial.next_s > 0, "another address comes before it"
        first.driver.lift(second.node_key)
        dial.next_s = 0.0
        assert list(first.driver._due()) == [dial]

    async def test_it_is_dialled_again_when_the_ban_is_lifted(self, pair: tuple[Node, Node]) -> None:
        first, second = pair
        first.dial(second)
        await until(lambda: first.session_with(second))
        first.driver.ban(second.hotkey, REASON, 3600)
        await until(lambda: first.driver.status()["view"]["down"] == 1)
        assert first.driver.lift(second.hotkey)
        assert first.driver.bans() == []
        await until(lambda: first.session_with(second))
        assert not first.driver.lift(second.hotkey), "there is none any more"

    async def test_lifting_ends_a_ban_of_the_daemons_own_as_well(self, honest: tuple[Node, Node]) -> None:
        first, _ = honest
        async with stranger(first, MALICE) as guest:
            await guest.shake()
            await guest.send(b"\xc0")
            await guest.closed()
        (ban,) = first.driver.bans()
        assert (ban["operator"], ban["code"]) == (False, Code.SESSION_PROTOCOL)
        assert first.driver.lift(MALICE.hotkey.public_key)
        async with stranger(first, MALICE) as guest:
            await guest.shake()

    async def test_a_new_driver_of_the_process_still_refuses_it(self, pair: tuple[Node, Node]) -> None:
        """A rotation of the node key makes one."""
        first, second = pair
        first.driver.ban(second.hotkey, REASON, 60)
        assert [ban["ban_reason"] for ban in first.new_driver().bans()] == [REASON]

    async def test_a_key_of_its_own_is_refused(self, pair: tuple[Node, Node]) -> None:
        first, _ = pair
        for key in (first.hotkey, first.node_key):
            with pytest.raises(LocalProtocolError, match="this daemon's own") as refused:
                first.driver.ban(key, REASON, 60)
            assert refused.value.code == Code.ADMIN_NOT_NOW
        assert first.driver.bans() == []


class TestCorrectness:
    """A ban costs no event: what the banned one writes arrives through others."""

    async def test_events_of_a_banned_author_arrive_through_others(
        self, honest: tuple[Node, Node], tmp_path: Path
    ) -> None:
        first, second = honest
        third = Node(tmp_path, VALIDATORS[2])
        await third.start()
        try:
            second.dial(first, third)
            third.dial(second)
            await until(lambda: second.session_with(third))
            first.driver.ban(third.hotkey, REASON, 60)
            await third.post("u-of-the-banned")
            await until(lambda: third.sees_all_of(first, second))
            assert first.session_with(third) is None
        finally:
            await third.stop()

    async def test_who_bans_everybody_is_warned(self, honest: tuple[Node, Node]) -> None:
        first, second = honest
        other = MALICE.hotkey.public_key
        first.know({second.hotkey: second.url, other: "http://127.0.0.1:9"})
        assert first.driver.ban(other, REASON, 60)["warning"] is None
        warning = first.driver.ban(second.hotkey, REASON, 60)["warning"]
        assert warning is not None
        assert warning.startswith("every other validator is banned now")
