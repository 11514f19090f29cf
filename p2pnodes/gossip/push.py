"""Push: how new events reach every daemon fast and about once. Plumtree, over the links of the active view.

Links are *eager* or *lazy*, at both ends alike. An event goes on at once over eager links; over lazy ones it is
announced a moment later, many in one frame. Eager links come to be a tree:

- Who is sent events that came sooner from elsewhere makes the link lazy (PRUNE). Many authors share the tree, and where
  two waves meet differs from author to author: so only after several times, and one link at a time. Otherwise every
  event would rebuild the tree, and two ends of a circle would open it in two places.
- Who hears of an event that does not come makes a link eager over which it was announced (GRAFT), and fetches it.
- Announcements say how long ago the event was stored. Who finds that a lazy link would bring events sooner makes it
  eager, too; the slowest link of the circle that this closes is pruned then. So the tree grows short.

Source: Leitão, Pereira, Rodrigues: Epidemic Broadcast Trees, SRDS 2007; what they count in hops is measured in time
here. Events are chained in logs, so one number announces all of a log up to it, and what is missing is fetched as a
range (``sync``).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from p2pnodes.gossip import frames
from p2pnodes.gossip.effects import Outbox
from p2pnodes.gossip.frames import AGE_MS_MAX, HAVES_PER_FRAME_MAX, Have, Link, Mode, News, log_tag
from p2pnodes.gossip.rates import STRANGERS
from p2pnodes.gossip.session import Session, SessionId
from p2pnodes.gossip.timeline import Timeline
from p2pnodes.model.events import Event, LogId
from p2pnodes.store.state import State

ANNOUNCE_MS: Final = (400, 800)
"""From an event's storing to its announcement on lazy links; each time drawn between these. Nearly always the event is
there long before, by the tree. The end that announces first saves the other the announcement."""

GRAFT_MS: Final = 600
"""How long an announced event may take to come by the tree. Source: with ANNOUNCE_MS longer than the longest path of a
world-wide tree (tests/bench/gossip)."""

GRAFT_AGAIN_MS: Final = 1_000
"""After this long the next peer that announced it is asked: time for a round trip and a read at the other end. Nor is
another link made eager sooner: what else is missing is fetched only, one lost link is replaced by one."""

PRUNE_AFTER: Final = (5, 15)
"""Pushed frames with events that had come sooner from elsewhere, before a link becomes lazy; drawn for each link. With
one number for all, two links of a circle reach it together, and the tree falls apart: 15 times in 700 events at 64
peers (tests/bench/gossip). The more of them, the surer it is the slowest link of the circle that is pruned."""

LOOK_MS: Final = (250, 750)
"""Pause between two frames of a link that count for that, each time drawn between these. However many events there are,
links are made lazy no faster than it shows what follows from one. Without it, at 100 events a second, every link of a
circle is late often enough within a second, several are pruned before anybody hears of the first, and the tree keeps
falling apart: at 64 peers 435 to 470 grafts for 1,000 events, with it 0 to 6 (tests/bench/gossip, --load)."""

OVERLOOKED: Final = 0.25
"""Share of frames that are passed over, and the next one is looked at: who sends what is new first in every burst is to
be found late all the same. It is always a frame of this moment that counts: what was late a second ago may be all that
holds the tree together now."""

PRUNE_INTERVAL_MS: Final = 1_000
"""Shortest time between two links that are made lazy: what follows from one must be seen before the next."""

PRUNED_MS: Final = 60_000
"""A link that is pruned again within this time does not put off that of others: who asks to be sent all events, and
sends what is here already, must not keep all links eager."""

KEPT_MS: Final = 10_000
"""Shortest time between two links that are kept eager though the other end has pruned them, because they were the last:
two neighbours may prune a daemon at once, and know nothing of each other. Once in a while, so that nobody argues."""

GAIN_MS: Final = 50.0
"""How much sooner events would have to come on a lazy link, on the mean, for it to be made eager. Whatever the tree,
some do: an event of the other end is a little later by any detour. With 20 ms links come and go for ever."""

GAINS_MIN: Final = 8
"""Events over which that must be seen, at least."""

GAINS_MEAN: Final = 16
"""Events over which the mean runs, about."""

GAIN_INTERVAL_MS: Final = 10_000
"""Shortest time between two links that are made eager for being faster: a circle closes, and must open again first. At
1,024 peers on a world map these four make the tree's slowest hundredth twice as fast, for 2% more copies."""

GAIN_AGAIN_MS: Final = 60_000
"""Shortest time before that happens to the same link again: it was pruned meanwhile, so it was not faster. A peer that
lies about ages must not take every turn."""

STORED_MAX: Final = 1_024
"""Logs of whose latest event the time of its storing is remembered."""

MISSING_MAX: Final = 4_096
"""Logs with events that were announced and have not come; more are left to anti-entropy."""

ANNOUNCERS_MAX: Final = 8
"""Peers that are remembered as having announced what is missing of one log."""

NEWS_MAX: Final = 4_096
"""Logs with news that one lazy link is to be told of; beyond it, anti-entropy tells."""


class _Missing:
    """Events of one log that were announced and have not come.

    Attributes:
        low: The lowest seq that was announced and is waited for.
        due_ms: When to do something about it, in patient time: a daemon that stood still blames nobody.
        announcers: Sessions that announced some of it, first come first -> the highest seq that each announced. Who
            announced less than what is missing is not asked for it, whatever others announce.
    """

    __slots__ = ("announcers", "due_ms", "low")

    def __init__(self, seq: int, due_ms: int) -> None:
        self.low = seq
        self.due_ms = due_ms
        self.announcers: dict[SessionId, int] = {}


class Push:
    """The tree, as one daemon sees it."""

    def __init__(
        self,
        sessions: Mapping[SessionId, Session],
        *,
        next_seq: Callable[[LogId, State], int],
        fetch: Callable[[Session, LogId, int, State], None],
        outbox: Outbox,
        time: Timeline,
        rng: random.Random,
    ) -> None:
        """Begin without links.

        Args:
            sessions: The engine's.
            next_seq: First seq of a log that is neither stored nor on its way into the store.
            fetch: Takes note that a peer holds a log up to a seq, and wants what is missing here.
            outbox: Collects effects.
            time: The engine's.
            rng: For the times of announcements.
        """
        self._sessions = sessions
        self._next_seq = next_seq
        self._fetch = fetch
        self._outbox = outbox
        self._time = time
        self._rng = rng
        self._logs: dict[bytes, LogId] = {}
        self._newest_log: LogId | None = None
        self._missing: dict[bytes, _Missing] = {}
        self._stored: dict[LogId, tuple[int, int]] = {}
        """Seq of the latest event of a log, and when it was stored."""
        self._gained_ms = 0
        self._grafted_ms = -GRAFT_AGAIN_MS
        self._pruned_ms = -PRUNE_INTERVAL_MS
        self._kept_ms = -KEPT_MS
        self.grafts = 0
        """Links made eager since the start, because something was missing."""
        self.prunes = 0
        """Links made lazy since the start, because events came sooner elsewhere."""
        self.gains = 0
        """Links made eager since the start, because they would have brought events sooner."""

    # -- links -------------------------------------------------------------------------------------------------------

    def linked(self, session: Session) -> None:
        """Take a new link: eager, so that it is tried; it is pruned if others are faster."""
        self._set(session, eager=True)

    def unlinked(self, session: Session) -> None:
        """Push and announce no more on a session that goes on, or has ended."""
        self._set(session, eager=False)
        session.news.clear()

    def told(self, session: Session, mode: Mode) -> None:
        """Take what the other end makes of a link; a validator that prunes our last eager one is contradicted once."""
        eager = mode is Mode.EVENTS
        if not session.linked or session.eager is eager:
            return
        if (
            not eager
            and not session.peer.observer
            and self._time.ms >= self._kept_ms + KEPT_MS
            and self._is_last_eager(session)
        ):
            self._kept_ms = self._time.ms
            self._say(session, eager=True)
        else:
            self._set(session, eager=eager)

    def _set(self, session: Session, *, eager: bool) -> None:
        session.eager = eager
        session.late = session.gains = 0
        session.late_max = self._rng.randint(*PRUNE_AFTER)
        session.gain_ms = 0.0

    def _say(self, session: Session, *, eager: bool) -> None:
        """Make a link eager or lazy at both ends."""
        self._set(session, eager=eager)
        self._outbox.send(session, Link(Mode.EVENTS if eager else Mode.NEWS).encode())

    def _is_last_eager(self, session: Session) -> bool:
        """Whether a link is the only eager one; beside one with a validator, an observer's does not count."""
        return session.eager and not any(
            other.eager and (session.peer.observer or not other.peer.observer)
            for other in self._sessions.values()
            if other is not session
        )

    # -- events ------------------------------------------------------------------------------------------------------

    def push(self, events: Sequence[Event]) -> None:
        """Send new events over eager links to peers that are not known to hold them; remember to announce the rest."""
        if not events:
            return
        for event in events:
            self._stored.pop(event.log, None)
            self._stored[event.log] = event.seq, self._time.ms
        while len(self._stored) > STORED_MAX:
            del self._stored[next(iter(self._stored))]
        whole: list[bytes] | None = None
        for session in self._sessions.values():
            if session.behind or not session.linked:
                continue
            known, ahead = session.known, session.ahead
            lacking = [
                event
                for event in events
                if known.get(event.log, -1) < event.seq and ahead.get(event.log, -1) < event.seq
            ]
            if not session.eager:
                self._note(session, lacking)
                continue
            if len(lacking) == len(events):
                whole = whole or list(frames.batches(events))
                packed = whole
            else:
                packed = list(frames.batches(lacking))
            for frame in packed:
                if session.behind:  # the rest is left to the digest that is sent when the queue has drained
                    break
                self._outbox.send(session, frame)
            else:
                session.events_sent += len(lacking)
                for event in lacking:
                    known[event.log] = event.seq

    def _note(self, session: Session, events: Sequence[Event]) -> None:
        if events and not session.news:
            session.announce_ms = self._time.ms + self._rng.randint(*ANNOUNCE_MS)
        for event in events:
            if event.log in session.news or len(session.news) < NEWS_MAX:
                session.news[event.log] = event.seq
            else:
                session.digest_due = True

    def came(self, session: Session, late: float) -> None:
        """Note which share of a pushed frame's events had come sooner from elsewhere; prune, if it happens often.

        Also on lazy links: where GRAFT and PRUNE crossed, the other end may take the link for an eager one.
        """
        if self._time.ms < session.look_ms or self._rng.random() < OVERLOOKED:
            return
        session.look_ms = self._time.ms + self._rng.randint(*LOOK_MS)
        session.late += late
        if session.late < session.late_max or not session.linked:
            return
        again = self._time.ms < session.pruned_until_ms
        last_ms = session.pruned_until_ms - PRUNED_MS if again else self._pruned_ms
        if self._time.ms < last_ms + PRUNE_INTERVAL_MS:
            return
        if self._is_last_eager(session):
            return  # whatever was faster was no link
        session.pruned_until_ms = self._time.ms + PRUNED_MS
        if not again:
            self._pruned_ms = self._time.ms
        self.prunes += 1
        self._say(session, eager=False)

    # -- announcements -----------------------------------------------------------------------------------------------

    def heard(self, session: Session, have: Have, state: State) -> None:
        """Take an announcement: what is not here yet has a while to come by the tree. None is made on a visit."""
        if not session.linked:
            return
        self._learn_tags(state)
        for tag, seq, age_ms in have.news:
            log = self._logs.get(tag)
            if log is not None:
                session.holds(log, seq)
                if self._next_seq(log, state) > seq:
                    self._gain(session, self._stored.get(log), seq, age_ms)
                    continue
            missing = self._missing.get(tag)
            if missing is None:
                if log is None and not session.rates.take(STRANGERS, self._time.ms):
                    continue
                if len(self._missing) >= MISSING_MAX:
                    session.digest_due = True
                    continue
                missing = self._missing[tag] = _Missing(seq, self._time.patient_ms + GRAFT_MS)
            missing.low = min(missing.low, seq)
            if self._has_room(missing, session):
                missing.announcers[session.id] = max(seq, missing.announcers.get(session.id, -1))

    def _has_room(self, missing: _Missing, session: Session) -> bool:
        """Whether a peer is remembered as having announced something; observers make way for validators."""
        if session.id in missing.announcers or len(missing.announcers) < ANNOUNCERS_MAX:
            return True
        surplus = None if session.peer.observer else next(filter(self._observes, missing.announcers), None)
        if surplus is None:
            return False
        del missing.announcers[surplus]
        return True

    def _observes(self, number: SessionId) -> bool:
        """Whether a session is an observer's, or over."""
        session = self._sessions.get(number)
        return session is None or session.peer.observer

    def _gain(self, session: Session, stored: tuple[int, int] | None, seq: int, age_ms: int) -> None:
        """Learn how much sooner a lazy link would have brought an event; if it often would, make it eager.

        What took longer than a graft has not come by the tree, but around a gap in it: that says nothing of this link.
        """
        if session.eager or not session.linked or stored is None or stored[0] != seq:
            return
        gain_ms = stored[1] - (self._time.ms - age_ms)
        if gain_ms >= GRAFT_MS:
            return
        session.gains = min(session.gains + 1, GAINS_MEAN)
        session.gain_ms += (gain_ms - session.gain_ms) / session.gains
        if (
            session.gains >= GAINS_MIN
            and session.gain_ms > GAIN_MS
            and self._time.ms >= max(self._gained_ms + GAIN_INTERVAL_MS, session.gain_next_ms)
        ):
            self._gained_ms = self._time.ms
            session.gain_next_ms = self._time.ms + GAIN_AGAIN_MS
            self.gains += 1
            self._say(session, eager=True)

    def _learn_tags(self, state: State) -> None:
        newest = next(reversed(state.logs), None)  # where one was forgotten and another came, they are as many
        if len(self._logs) != len(state.logs) or newest != self._newest_log:
            self._logs, self._newest_log = {log_tag(log): log for log in state.logs}, newest

    def tick(self, state: State) -> None:
        """Announce what is due, and graft where something announced has not come."""
        for session in self._sessions.values():
            if session.news and session.announce_ms <= self._time.ms and not session.behind:
                self._announce(session)
        if self._missing:
            self._learn_tags(state)
            self._graft_due(state)

    def _announce(self, session: Session) -> None:
        news: list[News] = []
        for log, seq in session.news.items():
            if session.known.get(log, -1) < seq:
                stored = self._stored.get(log)
                age_ms = self._time.ms - stored[1] if stored is not None and stored[0] == seq else AGE_MS_MAX
                news.append(News(log_tag(log), seq, min(age_ms, AGE_MS_MAX)))
        session.news.clear()
        for start in range(0, len(news), HAVES_PER_FRAME_MAX):
            self._outbox.send(session, Have(news[start : start + HAVES_PER_FRAME_MAX]).encode())

    def _graft_due(self, state: State) -> None:
        grafted: set[SessionId] = set()
        for tag, missing in list(self._missing.items()):
            if missing.due_ms > self._time.patient_ms:
                continue
            log = self._logs.get(tag)
            following = -1 if log is None else self._next_seq(log, state)
            missing.announcers = {number: seq for number, seq in missing.announcers.items() if seq >= following}
            if not missing.announcers:
                del self._missing[tag]
            elif following > missing.low:  # the tree works; what was announced since has its own time
                missing.low, missing.due_ms = min(missing.announcers.values()), self._time.patient_ms + GRAFT_MS
            elif (asked := self._announcer(missing, grafted)) is None:
                del self._missing[tag]
            else:
                session, seq = asked
                missing.due_ms = self._time.patient_ms + GRAFT_AGAIN_MS
                self._graft(session)
                grafted.add(session.id)
                if log is None:
                    session.digest_due = True  # whose log it is, its vector tells
                else:
                    self._fetch(session, log, seq, state)

    def _announcer(self, missing: _Missing, grafted: set[SessionId]) -> tuple[Session, int] | None:
        """Who is asked next, and what it announced.

        Validators before observers; somebody grafted just now if possible, so that one lost link is replaced by one.
        """
        for number in sorted(missing.announcers, key=lambda number: (self._observes(number), number not in grafted)):
            seq = missing.announcers.pop(number)
            session = self._sessions.get(number)
            if session is not None and session.linked:
                return session, seq
        return None

    def _graft(self, session: Session) -> None:
        if not session.eager and self._time.ms >= self._grafted_ms + GRAFT_AGAIN_MS:
            self._grafted_ms = self._time.ms
            self.grafts += 1
            self._say(session, eager=True)
