"""The operator's word goes before our own bans, and observers' bans do not push out validators'."""

from p2pnodes.gossip.bans import BANS_MAX, Offence
from p2pnodes.gossip.refused import Refused
from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.keys import ss58_encode

HOTKEY, NODE_KEY, VISITOR = b"h" * 32, b"n" * 32, b"v" * 32
FLOOD = Reason("it said too much", Code.SESSION_FLOOD)


def refused() -> Refused:
    return Refused(lambda hotkey: hotkey == HOTKEY)


def test_the_operators_ban_is_found_before_our_own() -> None:
    bans = refused()
    bans.own(observer=False).add(HOTKEY, FLOOD, 600.0, 0.0)
    bans.add(NODE_KEY, "a clone", 60, 0.0, is_node_key=True)
    keys = HOTKEY, NODE_KEY
    assert [(found.reason, found.until_s) for found in [bans.find(keys, 1.0)] if found] == [("a clone", 60.0)]
    assert [found.reason for found in [bans.find(keys, 60.0)] if found] == [FLOOD], "when it is over"
    assert bans.by_operator(keys, 59.0)
    assert not bans.by_operator((HOTKEY,), 59.0), "our own is not the operator's"
    assert bans.find((VISITOR,), 1.0) is None


def test_any_number_of_banned_observers_leaves_a_validators_ban_standing() -> None:
    bans = refused()
    bans.own(observer=False).add(HOTKEY, FLOOD, 600.0, 0.0)
    for number in range(BANS_MAX + 1):
        bans.own(observer=True).add(number.to_bytes(32), FLOOD, 600.0, 0.0)
    assert bans.find((HOTKEY,), 1.0)
    assert bans.find((bytes(32),), 1.0) is None, "the oldest of theirs is forgotten"


def test_rows_and_counts_tell_whose_ban_it_is_and_what_it_is_for() -> None:
    bans = refused()
    bans.own(observer=False).add(HOTKEY, FLOOD, 600.0, 0.0, offence=Offence.FLOOD)
    bans.own(observer=True).add(VISITOR, "a lie", 60.0, 0.0)
    bans.add(VISITOR, "by mail", 60, 0.0)
    bans.add(NODE_KEY, "a clone", 60, 0.0, is_node_key=True)
    row = {"node_key": None, "observer": True, "banned_s": 59.0, "hotkey": ss58_encode(VISITOR)}
    assert bans.rows(1.0) == [
        {**row, "hotkey": ss58_encode(HOTKEY), "observer": False, "operator": False, "banned_s": 599.0,
         "ban_reason": FLOOD, "code": Code.SESSION_FLOOD},
        {**row, "operator": False, "ban_reason": "a lie", "code": Code.SESSION_PROTOCOL},
        {**row, "operator": True, "ban_reason": "by mail", "code": Code.SESSION_BANNED},
        {**row, "hotkey": None, "node_key": NODE_KEY.hex(), "observer": False, "operator": True,
         "ban_reason": "a clone", "code": Code.SESSION_BANNED},
    ]  # fmt: skip
    assert {name: count for name, count in bans.counts().items() if count} == {"flood": 1, "protocol": 1, "operator": 2}


def test_lifting_ends_every_ban_of_a_key_and_names_it() -> None:
    bans = refused()
    bans.own(observer=False).add(HOTKEY, FLOOD, 600.0, 0.0)
    bans.add(HOTKEY, "by mail", 60, 0.0)
    bans.add(NODE_KEY, "a clone", 60, 0.0, is_node_key=True)
    assert bans.lift(HOTKEY, 1.0) == ss58_encode(HOTKEY)
    assert bans.lift(NODE_KEY, 1.0) == NODE_KEY.hex()
    assert bans.lift(NODE_KEY, 1.0) is None, "it is lifted already"
    assert bans.rows(1.0) == []
