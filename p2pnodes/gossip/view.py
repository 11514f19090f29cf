"""The active view: with whom this daemon keeps links, out of everybody who may speak.

Who is in the network is known from the electorate and the delegations; a daemon needs no links with all of them. It
keeps a few, of three kinds:

- *Ring*: the nearest on either side among all members in the order of their node keys. Who is down is passed over,
  until somebody is linked; so whatever lives is one ring, and connected. Who was passed over stays wanted, and takes
  its place again once it is back: so partitions heal.
- *Own*: a few that are drawn at random; they make ways short, and hold the network together where the ring is torn.
  Every now and then one is replaced, so that no choice is for ever.
- *Taken*: those that drew us.

Each end decides for itself whom it has room for: a link is a session that both hold in their views, and either may take
its word back. The nearest by our own reckoning always get in; so nobody can be cut off by others who fill the places.
Sessions that are in neither view are visits: they answer, and end after a while. Those of a daemon without an address
do not: nobody can dial it, so it stays with everybody who may have to hear it.

Rules of this module:
- Members are hotkeys. What a hotkey's daemon is called, how often it started and how many node keys it has changes
  nothing about its one place.
- Nobody's word counts about whether a member lives but its own: it is up while there is a session with it, and down
  when our own dial has failed.
- A change of the members is compared with what was before, and touches only what differs. Whatever was missed, the next
  review finds: it looks at the whole view.
"""

import random
from collections.abc import Callable, Collection, Mapping
from enum import Enum, auto
from itertools import islice
from typing import Any, Final, NamedTuple

from p2pnodes.gossip.effects import Close, Outbox
from p2pnodes.gossip.frames import Link, Mode
from p2pnodes.gossip.ring import SIDES, Ring
from p2pnodes.gossip.session import Session, SessionId
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.codes import Code, Reason

VIEW_SIZE: Final = 8
"""Links with validators, by default. Ways grow with the logarithm of the network to the base of about this."""

VIEW_SIZE_MIN: Final = 3
"""The ring's two and one at random."""

VIEW_SIZE_MAX: Final = 64
"""More gains nothing: each link costs announcements of every event."""

MEMBERS_MAX: Final = 4_096
"""Members that are looked at; a subnet has at most 256."""

REVIEW_MS: Final = 1_000
"""How often the whole view is reviewed while something is under way, beside what happens to it."""

REVIEW_CALM_MS: Final = 5_000
"""How often it is while all is as it should be."""

VISIT_MS_MAX: Final = 60_000
"""How long a session lasts that is in nobody's view: longer than a hearing of the own head."""

VISIT_MS_MIN: Final = VISIT_MS_MAX // 2
"""How long a validator's only visit lasts at least, though there is no room for others: a hearing of the own head."""

CLAIM_MS_MAX: Final = 10_000
"""How long a peer may take to say whether it has room for us."""

PATIENCE_MS: Final = 3_000
"""How long the ring waits for one member to answer before the next one is tried as well."""

WALK_MAX: Final = 4
"""Members on each side of the ring that may be tried at once, without those that were found to be down."""

DOWN_WANTED_MAX: Final = 32
"""Members that are down and named by ``wanted`` at once, those first that were tried the longest ago. How often each
one is dialled, ``dials`` decides."""

PICK_MS_MAX: Final = 30_000
"""How long one that was drawn may take to become a link before another one is drawn."""

PICK_PAUSE_MS: Final = 1_000
PICK_PAUSE_MS_MAX: Final = 60_000
"""Pause after a draw that came to nothing: it begins with the one and doubles to the other."""

PICK_DRAWS: Final = 16
"""Members that are looked at for one draw, so that it costs the same in networks of every size."""

DOWN_DRAWN: Final = 1 / 8
"""How often one that is down is drawn although there are others: somebody must find out that it is back."""

REFRESH_MS: Final = 600_000
"""Mean time between two replacements of an own link; each pause is drawn from half of it to one and a half."""

REFUSED_MS: Final = 60_000
REFUSED_MS_MAX: Final = 600_000
"""How long one that had no room for us is not asked again; it doubles with each time in a row."""

LONELY_MS: Final = 10_000
"""How long a daemon may be without a link before it visits members all the same, whether or not they had room for it:
where most have no address, those that have one cannot link with everybody."""

LONELY_VISITS: Final = 2
"""How many it visits at once: the one goes on while the other ends and begins anew."""

STRANGER_MS_MAX: Final = 30_000
"""How long a link with a validator is kept that is no member: the electorate had it before ``set_members`` has."""

SWEEP_AGAIN_MS: Final = 600_000
"""Pause before one that has been visited for the sake of the own head is visited again for it."""

VISIT_OVER: Final = Reason("the visit is over: neither end has the other in its view", Code.SESSION_NOT_NEEDED)
"""Reason for the end of a session; no fault of anybody's."""


class Member(NamedTuple):
    """A validator that may have a place in the view.

    Attributes:
        node_key: Of the log that it writes now, which gives its place on the ring; None while it is not known.
        dialable: Whether there is an address of it. One without can still dial us.
    """

    node_key: bytes | None
    dialable: bool


class _Kind(Enum):
    """By what right a session is in the view."""

    RING = auto()
    OWN = auto()
    TAKEN = auto()
    GUEST = auto()
    """An observer: it has a place of its own, which the driver bounds."""


class _Place:
    """A session that we hold in the view, whether or not the other end does."""

    __slots__ = ("kind", "patient_ms", "session", "since_ms")

    def __init__(self, session: Session, kind: _Kind, time: Timeline) -> None:
        self.session = session
        self.kind = kind
        self.since_ms = time.ms
        self.patient_ms = time.patient_ms


class _Pick(NamedTuple):
    """A member that was drawn and is no link yet.

    Attributes:
        hotkey: The member.
        replaces: The own link that it is to replace, if any.
        since_ms: When it was drawn.
    """

    hotkey: bytes
    replaces: SessionId | None
    since_ms: int


class _Refused(NamedTuple):
    """A member that had no room for us.

    Attributes:
        until_ms: Until when it is not asked again.
        pause_ms: How long that was.
        ring: Whether we claimed it as a neighbour; whom it has no room for as one of many, it may need as that.
    """

    until_ms: int
    pause_ms: int
    ring: bool


class View:
    """Which sessions are links, and with whom there should be sessions."""

    def __init__(
        self,
        sessions: Mapping[SessionId, Session],
        *,
        node_key: bytes,
        linked: Callable[[Session], None],
        unlinked: Callable[[Session], None],
        outbox: Outbox,
        time: Timeline,
        rng: random.Random,
        size: int = VIEW_SIZE,
    ) -> None:
        """Begin without members: until it is told of some, whoever has a session is one.

        Args:
            sessions: The engine's, open ones.
            node_key: Our own, for our place on the ring.
            linked: Called when a session has become a link.
            unlinked: Called when a link has become a visit, or has ended.
            outbox: Collects effects.
            time: The engine's.
            rng: Draws links and pauses.
            size: Places for validators, VIEW_SIZE_MIN to VIEW_SIZE_MAX.
        """
        self._sessions = sessions
        self._linked = linked
        self._unlinked = unlinked
        self._outbox = outbox
        self._time = time
        self._rng = rng
        self._size = size
        free = size - len(SIDES)
        self._free = free
        """Places that are not the ring's."""
        self._reserved = free // 3
        """Those of them that nobody else can fill: who has many keys must not choose all our links."""
        self._own_max = max(1, free // 2)

        self._members: Mapping[bytes, Member] | None = None
        self._met: dict[bytes, bytes] = {}
        """Node keys of members with a session, for those whose logs do not tell."""
        self._ring = Ring(node_key, self._key_of)
        self._ring_stale = False
        self._by_hotkey: dict[bytes, list[Session]] = {}
        """Sessions with validators, oldest first."""
        self._places: dict[SessionId, _Place] = {}
        self._idle: dict[SessionId, int] = {}
        """Sessions that are in nobody's view -> since when."""
        self._down: dict[bytes, int] = {}
        """Members that our last dial did not reach -> when that was, the longest ago first."""
        self._refused: dict[bytes, _Refused] = {}
        self._tried: dict[bytes, int] = {}
        """Members of the ring that are being tried -> since when, in patient time."""
        self._pick: _Pick | None = None
        self._pick_next_ms = 0
        self._pick_pause_ms = PICK_PAUSE_MS
        self._refresh_next_ms = self._refresh_later()
        self._linked_ms = time.ms
        """When there was a link with a validator last, or the start."""
        self._hosts: dict[bytes, None] = {}
        """Members to be visited because there is no link."""
        self._hidden = False
        self._sweeping = False
        self._swept: dict[bytes, int] = {}
        """Members that were visited for the own head's sake -> until when they are left alone."""
        self._wanted: list[bytes] = []
        self._review_next_ms = 0

    # -- members -----------------------------------------------------------------------------------------------------

    def set_members(self, members: Mapping[bytes, Member]) -> None:
        """Say who the other validators are; those that are none any more lose their places at once.

        Args:
            members: By hotkey, without our own; the ones to visit first, when all are, come first. It is kept, and
                must not be changed afterwards.
        """
        if members is self._members or (members == self._members and [*members] == [*self._members]):
            return
        if len(members) > MEMBERS_MAX:
            members = dict(islice(members.items(), MEMBERS_MAX))
        before, self._members = self._members, members
        gone = [hotkey for hotkey in before or () if hotkey not in members]
        self._ring_stale = True
        for known in (self._met, self._down, self._refused, self._tried, self._swept, self._hosts):
            for hotkey in known.keys() - members.keys():
                del known[hotkey]
        if self._pick is not None and self._pick.hotkey not in members:
            self._pick = None
        for hotkey in gone:
            for session in self._by_hotkey.get(hotkey, ()):
                self._drop(session)
        self._review()

    def wanted(self) -> list[bytes]:
        """Hotkeys of members with whom there is no session and should be one, most urgent first; each has an address.

        At most two times WALK_MAX, one that was drawn, LONELY_VISITS, and DOWN_WANTED_MAX that are down; while the own
        head must be heard, or with no more members than places, all of them; without an address of our own, all that
        are not down. Those that are down come last: a dial that nobody answers lasts long.
        """
        return [hotkey for hotkey in self._wanted if hotkey not in self._by_hotkey]

    def failed(self, hotkey: bytes) -> None:
        """Note that our dial has not reached a member; it stays wanted where it was, and others are tried as well."""
        if self._members is None or hotkey not in self._members or hotkey in self._by_hotkey:
            return  # who has a session with us is up, whatever became of another dial
        self._found_down(hotkey)
        if self._pick is not None and self._pick.hotkey == hotkey:
            self._miss()
        self._review_next_ms = 0

    def _found_down(self, hotkey: bytes) -> None:
        self._down.pop(hotkey, None)
        self._down[hotkey] = self._time.ms
        self._tried.pop(hotkey, None)
        self._hosts.pop(hotkey, None)

    def sweep(self, on: bool) -> None:  # noqa: FBT001 - the name says it
        """Want a session with every member, to hear the own head, or no longer; they are visits, not links."""
        if on is not self._sweeping:
            self._sweeping = on
            self._swept.clear()
            self._review_next_ms = 0

    def hide(self, on: bool) -> None:  # noqa: FBT001 - the name says it
        """Say whether nobody can dial us; then there are visits with all members that can be dialled, for ever."""
        if on is not self._hidden:
            self._hidden = on
            self._review_next_ms = 0

    # -- sessions ----------------------------------------------------------------------------------------------------

    def gives_way(self, hotkey: bytes) -> SessionId | None:
        """The visit that is to end where there is no room for one more session, with a validator; None for none.

        An observer's before a validator's. Of these one of a hotkey that has several, as many as any has and more than
        the newcomer's; if there is none, and the newcomer's has none at all, one that has lasted for VISIT_MS_MIN. Of
        equal ones the oldest.
        """
        held = len(self._by_hotkey.get(hotkey, ()))
        found, most = None, max(1, held)
        for number in self._idle:  # the oldest first
            session = self._sessions[number]
            if session.peer.observer:
                return number
            count = len(self._by_hotkey[session.peer.hotkey])
            if count > most:
                found, most = number, count
        if found is None and not held:
            oldest = next(iter(self._idle), None)
            if oldest is not None and self._time.ms >= self._idle[oldest] + VISIT_MS_MIN:
                return oldest
        return found

    def opened(self, session: Session) -> None:
        """Take a new session; it is in nobody's view yet."""
        self._idle[session.id] = self._time.ms
        hotkey = session.peer.hotkey
        if session.peer.observer:
            return
        self._by_hotkey.setdefault(hotkey, []).append(session)
        self._down.pop(hotkey, None)
        member = self._member(hotkey)
        if member is not None and member.node_key is None and self._met.get(hotkey) != session.peer.node_key:
            self._met[hotkey] = session.peer.node_key
            self._ring_stale = True
        self._review()

    def closed(self, session: Session) -> None:
        """Forget a session that has ended."""
        self._idle.pop(session.id, None)
        self._leave(session)
        hotkey = session.peer.hotkey
        others = self._by_hotkey.get(hotkey)
        if others is None or session not in others:
            return
        others.remove(session)
        if not others:
            del self._by_hotkey[hotkey]
            if hotkey in self._tried:  # who takes dials and ends them must not hold the ring up
                self._found_down(hotkey)
            if self._members is None:
                self._met.pop(hotkey, None)
                self._refused.pop(hotkey, None)
                self._ring_stale = True
            if (
                self._sweeping
                and not self._hidden
                and self._member(hotkey) is not None
                and self._time.ms >= session.opened_ms + VISIT_MS_MIN
            ):
                self._swept[hotkey] = self._time.ms + SWEEP_AGAIN_MS
        self._review_next_ms = 0

    def told(self, session: Session, mode: Mode) -> None:
        """Take a peer's word about whether it has us in its view; ``push`` takes what else it says."""
        if mode is Mode.NOTHING:
            if session.ours:
                self._turned_down(session)
            self._leave(session)
        elif session.ours:
            if not session.theirs:
                session.theirs = True
                self._settled(session)
        elif mode is Mode.EVENTS:  # a claim; a PRUNE on what is no link has crossed our own last word, and is moot
            session.theirs = True
            kind = self._room_for(session)
            if kind is None:
                session.theirs = False  # it has to say so again
                self._outbox.send(session, Link(Mode.NOTHING).encode())
            else:
                self._claim(session, kind)

    def tick(self) -> list[Close]:
        """Do what is due; the visits that are over, to be closed."""
        if self._time.ms < self._review_next_ms:
            return []
        self._review()
        if self._sweeping:
            return []
        over_ms = self._time.ms - VISIT_MS_MAX
        return [
            Close(number, VISIT_OVER, 0)
            for number, since_ms in self._idle.items()
            if since_ms <= over_ms and not self._stays(self._sessions[number])
        ]

    def _stays(self, session: Session) -> bool:
        """Whether a visit does not end: one end has no address, and could not be dialled when it must be heard.

        Of a hotkey with several sessions the latest one stays.
        """
        hotkey = session.peer.hotkey
        member = None if self._members is None or session.peer.observer else self._members.get(hotkey)
        return member is not None and self._hidden is member.dialable and self._by_hotkey[hotkey][-1] is session

    # -- places ------------------------------------------------------------------------------------------------------

    def _claim(self, session: Session, kind: _Kind) -> None:
        """Give a session a place, and tell its peer."""
        self._places[session.id] = _Place(session, kind, self._time)
        self._idle.pop(session.id, None)
        session.ours = True
        self._outbox.send(session, Link(Mode.EVENTS).encode())
        if session.theirs:
            self._settled(session)

    def _settled(self, session: Session) -> None:
        """Note that a session is a link now."""
        hotkey = session.peer.hotkey
        self._refused.pop(hotkey, None)
        self._linked(session)
        pick = self._pick
        if pick is not None and pick.hotkey == hotkey:
            self._pick = None
            self._pick_pause_ms = PICK_PAUSE_MS
            replaced = None if pick.replaces is None else self._places.get(pick.replaces)
            if replaced is not None and replaced.kind is _Kind.OWN:
                self._drop(replaced.session)
        self._review_next_ms = 0

    def _drop(self, session: Session) -> None:
        """Take a session out of the view, and tell its peer."""
        if session.ours:
            self._leave(session)
            self._outbox.send(session, Link(Mode.NOTHING).encode())

    def _leave(self, session: Session) -> None:
        """Take a session out of the view at both ends."""
        was = session.linked
        self._places.pop(session.id, None)
        session.ours = session.theirs = False
        if session.id in self._sessions:
            self._idle.setdefault(session.id, self._time.ms)
        if was:
            self._unlinked(session)
            self._review_next_ms = 0

    def _turned_down(self, session: Session) -> None:
        """Note that a peer has no room for us, or needs its place again: leave it alone for a while."""
        hotkey = session.peer.hotkey
        if self._member(hotkey) is None:
            return
        before = self._refused.get(hotkey)
        pause_ms = REFUSED_MS if before is None else min(2 * before.pause_ms, REFUSED_MS_MAX)
        ring = self._places[session.id].kind is _Kind.RING
        self._refused[hotkey] = _Refused(self._time.ms + pause_ms, pause_ms, ring)
        self._tried.pop(hotkey, None)
        if self._pick is not None and self._pick.hotkey == hotkey:
            self._miss()
        self._review_next_ms = 0

    def _room_for(self, session: Session) -> _Kind | None:
        """By what right a peer that wants a place gets one; None when it gets none."""
        if session.peer.observer:
            return _Kind.GUEST
        hotkey = session.peer.hotkey
        held = self._place_of(hotkey)
        if held is not None:  # its one place goes to the daemon that writes now, or else to the one that came last
            member = self._member(hotkey)
            if member is not None and member.node_key == held.session.peer.node_key != session.peer.node_key:
                return None
            self._drop(held.session)
            return held.kind
        if self._is_nearest(hotkey):
            return _Kind.RING
        return _Kind.TAKEN if self._may_take() else None

    def _may_take(self) -> bool:
        """Whether there is a place for one that has drawn us."""
        own, taken = self._count(_Kind.OWN), self._count(_Kind.TAKEN)
        return taken < self._free - self._reserved and own + taken < self._free

    def _place_of(self, hotkey: bytes) -> _Place | None:
        """The place that a hotkey has."""
        for session in self._by_hotkey.get(hotkey, ()):
            if session.ours:
                return self._places[session.id]
        return None

    def _is_linked(self, hotkey: bytes) -> bool:
        return any(session.linked for session in self._by_hotkey.get(hotkey, ()))

    def _count(self, kind: _Kind) -> int:
        return sum(place.kind is kind for place in self._places.values())

    # -- the review --------------------------------------------------------------------------------------------------

    def _review(self) -> None:
        """Compare the whole view with what it should be: give up places, claim others, name whom to dial."""
        if self._ring_stale:
            self._sort_ring()
        for place in list(self._places.values()):
            self._expire(place)
        nearest = self._nearest()
        for place in list(self._places.values()):
            self._assign(place, nearest)
        self._draw(nearest)
        fresh: list[bytes] = []
        down: list[bytes] = []
        for hotkey in nearest:
            if not self._reach(hotkey, _Kind.RING):
                (down if hotkey in self._down else fresh).append(hotkey)
        if self._pick is not None and not self._reach(self._pick.hotkey, _Kind.OWN):
            fresh.append(self._pick.hotkey)
        if self._hidden:
            for hotkey in filter(self._to_visit, self._members or ()):
                (down if hotkey in self._down else fresh).append(hotkey)
        if not self._takes_all:
            down = sorted(down, key=self._down.__getitem__)[:DOWN_WANTED_MAX]
        visits = [*filter(self._to_visit, self._members or ())] if self._sweeping else []
        for hotkey in (*visits, *self._lonely()):
            (down if hotkey in self._down else fresh).append(hotkey)
        self._wanted = list(dict.fromkeys([*fresh, *down]))
        calm = not self._wanted and all(place.session.theirs for place in self._places.values())
        self._review_next_ms = self._time.ms + (REVIEW_CALM_MS if calm else REVIEW_MS)

    def _expire(self, place: _Place) -> None:
        """Give up a place whose peer never answered, or is no member."""
        session = place.session
        if not session.theirs and self._time.patient_ms >= place.patient_ms + CLAIM_MS_MAX:
            self._turned_down(session)
            self._drop(session)
        elif (
            place.kind is not _Kind.GUEST
            and self._members is not None
            and session.peer.hotkey not in self._members
            and self._time.ms >= place.since_ms + STRANGER_MS_MAX
        ):
            self._drop(session)

    def _assign(self, place: _Place, nearest: Collection[bytes]) -> None:
        """Say by what right a place is held now; it is given up where there is none left."""
        if place.kind is _Kind.GUEST:
            return
        if place.session.peer.hotkey in nearest:
            place.kind = _Kind.RING
        elif place.kind is _Kind.RING:  # somebody nearer is there now; it did not become one of our own choice by that
            if place.session.theirs and self._may_take():
                place.kind = _Kind.TAKEN
            else:
                self._drop(place.session)

    def _reach(self, hotkey: bytes, kind: _Kind) -> bool:
        """Claim a member that has a session, the one with the daemon that writes now or else the latest; whether so."""
        sessions = self._by_hotkey.get(hotkey)
        if sessions and self._place_of(hotkey) is None:
            node_key = self._key_of(hotkey)
            writing = [session for session in sessions if session.peer.node_key == node_key]
            self._claim((writing or sessions)[-1], kind)
        return bool(sessions)

    def _lonely(self) -> list[bytes]:
        """Members to be visited because nobody has had room for us for a while."""
        if any(place.session.linked for place in self._places.values() if place.kind is not _Kind.GUEST):
            self._linked_ms = self._time.ms
        if self._time.ms < self._linked_ms + LONELY_MS:
            self._hosts.clear()
            return []
        for hotkey in self._hosts.keys() & self._by_hotkey.keys():
            del self._hosts[hotkey]
        if len(self._hosts) + len(self._by_hotkey) < LONELY_VISITS:
            found = self._some(lambda hotkey: hotkey not in self._by_hotkey and self._is_dialable(hotkey))
            if found is not None:
                self._hosts[found] = None
        return list(self._hosts)

    def _is_dialable(self, hotkey: bytes) -> bool:
        member = self._member(hotkey)
        return member is not None and member.dialable

    def _to_visit(self, hotkey: bytes) -> bool:
        """Whether a member is to be visited: it is asked about the own head, or may ask about its own."""
        return (
            hotkey not in self._by_hotkey and self._swept.get(hotkey, 0) <= self._time.ms and self._is_dialable(hotkey)
        )

    # -- the ring ----------------------------------------------------------------------------------------------------

    def _member(self, hotkey: bytes) -> Member | None:
        """A member; until somebody says who is one, that is whoever has a session."""
        if self._members is not None:
            return self._members.get(hotkey)
        return Member(None, dialable=False) if hotkey in self._by_hotkey else None

    @property
    def _takes_all(self) -> bool:
        """Whether there is a place for everybody."""
        return len(self._everybody) <= self._size

    @property
    def _everybody(self) -> Collection[bytes]:
        """Hotkeys of all members."""
        return (self._by_hotkey if self._members is None else self._members).keys()

    def _key_of(self, hotkey: bytes) -> bytes:
        member = self._member(hotkey)
        return (member.node_key if member is not None else None) or self._met.get(hotkey, b"")

    def _sort_ring(self) -> None:
        self._ring_stale = False
        self._ring.sort(self._everybody)

    def _is_nearest(self, hotkey: bytes) -> bool:
        """Whether a member is a neighbour, with nobody between it and us on one side who is linked.

        Nor are there WALK_MAX who may yet be: before the ring is found, not everybody is the nearest.
        """
        if self._ring_stale:
            self._sort_ring()
        if self._takes_all:
            return self._member(hotkey) is not None
        for side in SIDES:
            before = 0
            for near in self._ring.walk(side):
                if near == hotkey:
                    return True
                before += near not in self._down and self._may_reach(near, ring=True)
                if before >= WALK_MAX or self._is_linked(near):
                    break
        return False

    def _nearest(self) -> dict[bytes, None]:
        """Members that have, or should have, a place as our neighbours.

        On each side these are the nearest one that is linked, and those before it that could be.
        """
        if self._takes_all:
            return {
                hotkey: None
                for hotkey in self._everybody
                if self._is_linked(hotkey) or self._may_reach(hotkey, ring=True)
            }
        found: dict[bytes, None] = {}
        trying: set[bytes] = set()
        for side in SIDES:
            tried, enough = 0, False
            for hotkey in self._ring.walk(side):
                if self._is_linked(hotkey):
                    found[hotkey] = None
                    break
                if enough or not self._may_reach(hotkey, ring=True):
                    continue
                found[hotkey] = None
                if hotkey in self._down:
                    continue
                tried += 1
                trying.add(hotkey)
                since_ms = self._tried.setdefault(hotkey, self._time.patient_ms)
                enough = tried >= WALK_MAX or self._time.patient_ms < since_ms + PATIENCE_MS
        for hotkey in self._tried.keys() - trying:
            del self._tried[hotkey]
        return found

    def _may_reach(self, hotkey: bytes, *, ring: bool) -> bool:
        """Whether there is a way to a member, and it has not turned us down just now, as a neighbour or at all."""
        refused = self._refused.get(hotkey)
        if refused is not None and refused.until_ms > self._time.ms and (refused.ring or not ring):
            return False
        return hotkey in self._by_hotkey or self._is_dialable(hotkey)

    # -- own draws ---------------------------------------------------------------------------------------------------

    def _draw(self, nearest: Collection[bytes]) -> None:
        """Draw a member for a place that is free, or for one that has been held long enough."""
        if self._takes_all:
            self._pick = None
            return
        own, taken = self._count(_Kind.OWN), self._count(_Kind.TAKEN)
        pick = self._pick
        if pick is not None:
            if self._time.ms >= pick.since_ms + PICK_MS_MAX:
                self._miss()
            elif own + taken >= self._free and pick.replaces is None and self._place_of(pick.hotkey) is None:
                self._pick = None  # others were faster
            return
        if self._time.ms < self._pick_next_ms:
            return
        replaces: SessionId | None = None
        if own >= self._reserved and (own >= self._own_max or own + taken >= max(1, self._free - 1)):
            if self._time.ms < self._refresh_next_ms:
                return
            links = [place.session.id for place in self._places.values() if place.kind is _Kind.OWN]
            if not links:
                return
            replaces = self._rng.choice(links)
        hotkey = self._drawn(nearest)
        if hotkey is None:
            self._miss()
            return
        if replaces is not None:
            self._refresh_next_ms = self._refresh_later()
        self._pick = _Pick(hotkey, replaces, self._time.ms)

    def _drawn(self, nearest: Collection[bytes]) -> bytes | None:
        """A random member that is not in the view."""
        return self._some(
            lambda hotkey: (
                hotkey not in nearest and self._place_of(hotkey) is None and self._may_reach(hotkey, ring=False)
            )
        )

    def _some(self, fits: Callable[[bytes], bool]) -> bytes | None:
        """A random member that fits; one that is down where no other was found, and now and then."""
        up: bytes | None = None
        down: bytes | None = None
        for hotkey in self._ring.drawn(self._rng, PICK_DRAWS):
            if not fits(hotkey):
                continue
            if hotkey in self._down:
                down = down or hotkey
            else:
                up = up or hotkey
        if down is not None and (up is None or self._rng.random() < DOWN_DRAWN):
            return down
        return up

    def _miss(self) -> None:
        """Give a draw up, and wait before the next one: longer each time."""
        self._pick = None
        self._pick_next_ms = self._time.ms + self._rng.randint(self._pick_pause_ms // 2, self._pick_pause_ms)
        self._pick_pause_ms = min(2 * self._pick_pause_ms, PICK_PAUSE_MS_MAX)

    def _refresh_later(self) -> int:
        return self._time.ms + self._rng.randint(REFRESH_MS // 2, 3 * REFRESH_MS // 2)

    # -- what others ask ---------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What operators see, JSON-able.

        ``size`` is how many places there are; of the ``members``, so many are ``links``, and could not be reached
        when they were dialled last (``down``). ``visits`` are all sessions that are in nobody's view.
        """
        return {
            "size": self._size,
            "members": len(self._everybody),
            "links": sum(place.session.linked for place in self._places.values() if place.kind is not _Kind.GUEST),
            "visits": len(self._idle),
            "down": len(self._down),
        }
