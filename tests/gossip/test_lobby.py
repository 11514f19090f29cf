"""Strangers are bounded in number, and who dawdles makes room."""

from p2pnodes.gossip.lobby import GUESTS_MAX, GUESTS_PER_ADDRESS_MAX, Lobby


def test_the_oldest_of_an_address_leaves_for_the_next_of_that_address() -> None:
    lobby: Lobby[int] = Lobby()
    lobby.enter(-1, "honest")
    assert [lobby.enter(guest, "busy") for guest in range(GUESTS_PER_ADDRESS_MAX)] == [None] * GUESTS_PER_ADDRESS_MAX
    assert lobby.enter(1_000, "busy") == 0
    assert lobby.enter(1_001, "busy") == 1
    assert len(lobby) == GUESTS_PER_ADDRESS_MAX + 1


def test_when_all_is_full_the_most_crowded_address_makes_room() -> None:
    lobby: Lobby[str] = Lobby()
    lobby.enter("quiet", "quiet")
    for number in range(GUESTS_MAX - 1):
        lobby.enter(f"{number}", "busy" if number < GUESTS_PER_ADDRESS_MAX else f"address {number}")
    assert len(lobby) == GUESTS_MAX
    assert lobby.enter("new", "elsewhere") == "0"
    assert len(lobby) == GUESTS_MAX


def test_who_left_makes_room_and_may_leave_twice() -> None:
    lobby: Lobby[int] = Lobby()
    for guest in range(GUESTS_PER_ADDRESS_MAX):
        lobby.enter(guest, "busy")
    lobby.leave(0)
    lobby.leave(0)
    assert len(lobby) == GUESTS_PER_ADDRESS_MAX - 1
    assert lobby.enter(1_000, "busy") is None


def test_an_address_whose_guests_left_is_forgotten() -> None:
    lobby: Lobby[int] = Lobby()
    for guest in range(1_000):
        lobby.enter(guest, f"address {guest}")
        lobby.leave(guest)
    assert len(lobby) == 0
    assert not lobby._counts
