"""What valid events say, in tables: recorded, taken back where a log's cut falls, said again where it rises, forgotten.

One row for each statement, never for an opinion of who counts. What a row of the inventory may follow from is marked as
not settled (``store.unsettled``).
"""

import sqlite3
from collections.abc import Callable, Collection, Iterable
from functools import partial
from itertools import chain, islice
from typing import Final

from p2pnodes.model import codec, inventory
from p2pnodes.model.events import Checkpoint, Delegation, DeletePayload, Event, Place, Propose, Release, Renew, Verdict
from p2pnodes.model.keys import ss58_encode
from p2pnodes.model.requests import parse_nonce
from p2pnodes.model.validity import CarriedAdd, CarriedDelete, Contents, Judgement, contents
from p2pnodes.store import words
from p2pnodes.store.checkpoints import Checkpoints, Stage
from p2pnodes.store.cutting import read_elsewhere
from p2pnodes.store.damage import stored_event
from p2pnodes.store.facts import Facts, unpack_uuids
from p2pnodes.store.news import News
from p2pnodes.store.unsettled import Unsettled

ADDRESSES_KEPT: Final = 16_384
"""Hotkeys of which it is remembered that their address is written down; of others it is written again, which changes
nothing. Requests name whom they like, so their number has no bound."""

DROPPED_PER_READ: Final = 256
"""Events that are read at once while what they said is forgotten."""


class Statements:
    """The writer of these tables, inside the ledger's transactions.

    Attributes:
        rebuilding: Whether everything is derived anew just now.
    """

    def __init__(self, facts: Facts, checkpoints: Checkpoints, unsettled: Unsettled, news: News) -> None:
        """Begin behind a commit, or with what a start finds.

        Args:
            facts: What is stored, on the writer's connection.
            checkpoints: What lets it count.
            unsettled: Where it is marked what rows have to follow.
            news: Where claims and votes are told.
        """
        self.rebuilding = False
        self._connection: sqlite3.Connection = facts.connection
        self._facts = facts
        self._checkpoints = checkpoints
        self._unsettled = unsettled
        self._news = news
        self._addresses: dict[bytes, None] = {}
        """Hotkeys whose address is written down, some of them."""

    def record(self, event: Event, log: int, position: int, judgement: Judgement, *, counted: bool) -> None:
        """Record what an event says, as far as the checkpoint in force lets it count; but not what it proves of a log.

        Requests and delegations are recorded whether their log's cut lets them count or not, words only if it does.

        Args:
            event: That event.
            log: Row key of its log.
            position: Where it is stored.
            judgement: What it says, nothing if it is void.
            counted: Whether its log's cut lets it count.
        """
        keeps = self._checkpoints.keeps_request
        for add in judgement.adds:
            nonce = parse_nonce(add.payload.request.nonce) or 0
            held = partial(self._checkpoints.holds_claim, add.claim_id)
            if keeps(log, event.seq, add.item, nonce, held):
                self._record_add(add, log, event.seq, position, nonce, counted=counted)
        for delete in judgement.deletes:
            nonce = parse_nonce(delete.payload.request.nonce) or 0
            held = partial(self._checkpoints.holds_deletion, delete.request_id)
            if keeps(log, event.seq, delete.item, nonce, held):
                self._record_delete(delete, log, event.seq, nonce, counted=counted)
        match judgement.payload:
            case Propose() as payload if payload.number >= self._checkpoints.line.number:
                self._checkpoints.proposed(event, log, payload)
            case Checkpoint() as payload if payload.number >= self._checkpoints.line.number:
                self._checkpoints.signed(event, log, payload)
            case (Verdict() | Renew() | Place() | Release()) as word:
                heard = self._heard(word, log, event.seq, event.hlc)
                if heard is not None:
                    self._record_word(heard, log, event, counted=counted)
            case Delegation() as delegation:
                self._connection.execute(
                    "INSERT INTO delegations VALUES (?, ?, ?, ?, ?, ?)",
                    (log, event.seq, event.hlc, delegation.url, delegation.not_before, delegation.not_after),
                )
                self._unsettled.mandates |= counted
            case _:  # requests are done above, ends of logs by the ledger
                pass

    def _record_word(self, word: words.Word, log: int, event: Event, *, counted: bool) -> None:
        if isinstance(word, words.Saying):
            for verdict in word.verdicts:
                key = self._claim_key(verdict.claim_id)
                if counted:
                    words.say_verdict(self._connection, key, log, event.seq, event.hlc, verdict)
                    self._news.voted.append(verdict.claim_id)
                    self._unsettled.claims.add(key)
        elif counted:
            words.say_placement(self._connection, log, event.seq, event.hlc, word, self._checkpoints.cuts.get(log, -1))
            self._unsettled.placed |= dict.fromkeys(word.uuids)

    def _record_add(self, add: CarriedAdd, log: int, seq: int, position: int, nonce: int, *, counted: bool) -> None:
        request = add.payload.request
        uuids = [node.uuid for node in add.body.nodes]
        new = self._connection.execute(
            "INSERT INTO claim (claim_id, miner, nonce, position, uuids, status, detail) VALUES (?, ?, ?, ?, ?, ?, '')"
            " ON CONFLICT (claim_id) DO UPDATE SET miner = excluded.miner, nonce = excluded.nonce,"
            " position = excluded.position, uuids = excluded.uuids WHERE miner IS NULL RETURNING claim",
            (add.claim_id, request.hotkey, nonce, position, codec.pack(uuids), inventory.PENDING),
        ).fetchone()
        if new is not None:
            (key,) = new
            self.name(request.hotkey)
            if not self._names_later:
                self._name_gpus(key, uuids, counted=counted)
            self._facts.keep_body(add.claim_id, add.body)
        else:
            key = self._claim_key(add.claim_id)
            # Between two parts of a cut nothing carries one that rows may still name; what did goes with a later part.
            new = self._connection.execute(
                "UPDATE claim SET position = ? WHERE claim = ?"
                " AND NOT EXISTS (SELECT 1 FROM carriage WHERE carriage.claim = claim.claim) RETURNING claim",
                (position, key),
            ).fetchone()
        if counted and (new is not None or self._facts.all_void(key)):
            self._news.new_claims.append(add.claim_id)
        self._connection.execute(
            "INSERT INTO carriage VALUES (?, ?, ?, ?, ?, ?)",
            (key, log, seq, add.item, add.payload.electorate_block, add.hlc),
        )
        if counted:
            self._unsettled.claims.add(key)
            self._unsettled.uuids |= dict.fromkeys(uuids)

    def _name_gpus(self, key: int, uuids: Collection[str], *, counted: bool) -> None:
        """Record which GPUs a claim names; of one that counts, the rows may tell when they are settled."""
        if counted:
            for uuid in uuids:
                self._facts.fresh.setdefault(uuid, []).append(key)
        else:
            self._connection.executemany("INSERT INTO claim_gpu VALUES (?, ?)", [(uuid, key) for uuid in uuids])

    @property
    def _names_later(self) -> bool:
        """Whether it is recorded behind all events, in order, which claims name which GPUs (``store.settling``)."""
        return self.rebuilding or self._checkpoints.stage is Stage.LOADING

    def _record_delete(self, delete: CarriedDelete, log: int, seq: int, nonce: int, *, counted: bool) -> None:
        payload: DeletePayload = delete.payload
        request = payload.request
        named: list[str] = []
        if not request.bound:
            named = self._facts.named_by(delete.request_id)
            others = (uuid for uuid in named if uuid != payload.uuid)
            says = partial(self._says_deletion, log, delete.request_id)
            if len(list(islice(filter(says, others), 2))) > 1 and not says(payload.uuid):
                return  # two GPUs in one log end nothing already, and a hundred would not end less
        self._connection.execute(
            "INSERT INTO deletion VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                payload.uuid,
                delete.request_id,
                log,
                seq,
                delete.item,
                request.hotkey,
                nonce,
                request.bound,
                codec.pack(list(payload.claim_ids)),
            ),
        )
        if counted:
            self._unsettled.uuids |= dict.fromkeys((payload.uuid, *named))

    def _says_deletion(self, log: int, request: bytes, uuid: str) -> bool:
        """Whether a log is recorded to name a GPU under a delete request.

        Of another branch, or of before, some may still be here that go with the checkpoint in force.
        """
        below, lives = self._checkpoints.below, self._checkpoints.lives
        query = "SELECT seq, item FROM deletion WHERE uuid = ? AND request_id = ? AND log = ? ORDER BY seq DESC"
        said = self._connection.execute(query, (uuid, request, log))
        return any(not below(log, seq) or lives(log, seq, item) for seq, item in said)

    def _claim_key(self, claim_id: bytes) -> int:
        """Row key of a claim, which is begun if nothing is known of it."""
        key = self._facts.claim_key(claim_id)
        if key is None:
            cursor = self._connection.execute(
                "INSERT INTO claim (claim_id, status, detail) VALUES (?, ?, '')", (claim_id, inventory.PENDING)
            )
            key = cursor.lastrowid or 0
        return key

    def name(self, hotkey: bytes) -> None:
        """Write down the address of a hotkey."""
        if hotkey not in self._addresses:
            self._connection.execute("INSERT OR IGNORE INTO address VALUES (?, ?)", (hotkey, ss58_encode(hotkey)))
            self._addresses[hotkey] = None
            if len(self._addresses) > ADDRESSES_KEPT:
                del self._addresses[next(iter(self._addresses))]

    def replaced(self, judgement: Judgement, log: int, event: Event) -> bytes | None:
        """What an event that counts replaces, as ``events.before`` holds it."""
        word = judgement.payload
        if not isinstance(word, words.Word) or not self._is_above(log, event.seq, event.hlc):
            return None
        awaits = self._checkpoints.lacks_slices and log in self._checkpoints.cuts  # where all is derived anew
        return words.replaced(self._connection, log, word, awaits=awaits)

    def _is_above(self, log: int, seq: int, hlc: int) -> bool:
        """Whether a word lies above the cut of the checkpoint in force and is not too late for it."""
        return not self._checkpoints.below(log, seq) and self._checkpoints.keeps_word(log, seq, 0, hlc)

    def _heard(self, word: words.Word, log: int, seq: int, hlc: int) -> words.Word | None:
        """What of a word counts as far as the checkpoint in force goes; None for nothing."""
        keeps = self._checkpoints.keeps_word
        if isinstance(word, words.Saying) or not self._checkpoints.below(log, seq):
            return word if keeps(log, seq, 0, hlc) else None
        uuids = tuple(uuid for item, uuid in enumerate(word.uuids) if keeps(log, seq, item, hlc))
        return word._replace(uuids=uuids) if uuids else None

    def take_back(self, log: int, low: int, high: int, goes_on: Callable[[], bool]) -> int:
        """Let the last events of a log from seq ``low`` below ``high`` count no more.

        Args:
            log: Its row key.
            low: The first one.
            high: Behind the last one.
            goes_on: Asked before each; False for no more.

        Returns:
            The seq from which on they do not.
        """
        query = (
            "SELECT seq, hlc, before, wire FROM events WHERE log = ? AND seq >= ? AND seq < ? AND judged"
            " AND void IS NULL ORDER BY seq DESC"
        )
        taken = words.Taken({}, {})
        known: set[bytes] = set()
        for seq, hlc, before, wire in self._connection.execute(query, (log, low, high)):
            if not goes_on():
                break
            said = contents(stored_event(wire))
            self._count_move(said, known)
            if isinstance(said.payload, words.Word) and self._is_above(log, seq, hlc):
                taken.add(said.payload, before)
            high = seq
        else:
            high = low
        kept = partial(self._checkpoints.kept_places, log)
        words.take_back(self._connection, log, taken, partial(self._checkpoints.keeps_word, log), kept)
        return high

    def say_again(self, log: int, low: int, high: int, goes_on: Callable[[], bool]) -> int:
        """Let the first events of a log from seq ``low`` below ``high`` count again, below a cut what that keeps.

        Args:
            log: Its row key.
            low: The first one.
            high: Behind the last one.
            goes_on: Asked before each; False for no more.

        Returns:
            The seq below which they do.
        """
        query = (
            "SELECT seq, position, hlc, wire FROM events WHERE log = ? AND seq >= ? AND seq < ? AND judged"
            " AND void IS NULL ORDER BY seq"
        )
        known: set[bytes] = set()
        for seq, position, hlc, wire in self._connection.execute(query, (log, low, high)):
            if not goes_on():
                return low
            said = contents(stored_event(wire))
            self._count_move(said, known)
            self._news.new_claims.extend(filter(self._counts_nowhere, said.adds))
            low = seq + 1
            word = said.payload
            if isinstance(word, Place) and self._checkpoints.is_kept(log, seq):
                self._say_kept(log, seq)
            if not isinstance(word, words.Word) or not self._is_above(log, seq, hlc):
                continue
            before = words.replaced(self._connection, log, word)
            self._connection.execute("UPDATE events SET before = ? WHERE position = ?", (before, position))
            if isinstance(word, words.Saying):
                for verdict in word.verdicts:
                    words.say_verdict(self._connection, self._claim_key(verdict.claim_id), log, seq, hlc, verdict)
            else:
                words.say_placement(self._connection, log, seq, hlc, word, self._checkpoints.cuts.get(log, -1))
        return high

    def _count_move(self, said: Contents, known: set[bytes]) -> None:
        """Mark what an event says something about, which counts otherwise now, and count how much more that is."""
        marked = self._unsettled.marked
        self.touch(said, known)
        self._unsettled.moved += 1
        self._unsettled.moved_touched += self._unsettled.marked - marked

    def _counts_nowhere(self, claim_id: bytes) -> bool:
        """Whether no event that carries a claim counted before the open transaction; verifiers are told then."""
        key = self._facts.claim_key(claim_id)
        return key is not None and self._facts.all_void(key)

    def _say_kept(self, log: int, seq: int) -> None:
        """Let what the live set in force keeps of a place be the last word of its log again."""
        for kept in self._checkpoints.kept_places(log, seq - 1, 1):
            if kept.seq == seq:
                words.say_kept(self._connection, log, kept, kept.uuids)

    def touch(self, said: Contents, known: set[bytes]) -> None:
        """Mark what an event says something about as not settled.

        Args:
            said: What it says.
            known: Claims on which verdicts were marked lately, not to be looked up again; these are added.
        """
        if isinstance(said.payload, Delegation):
            self._unsettled.mandates = True
        if self._checkpoints.stage is Stage.LOADING:  # everything is decided when all is here
            return
        for claim_id in said.adds:
            row = self._connection.execute("SELECT claim, uuids FROM claim WHERE claim_id = ?", (claim_id,)).fetchone()
            if row is not None and row[1] is not None:  # a rebuild may not have come to it yet
                self._unsettled.claims.add(row[0])
                self._unsettled.uuids |= dict.fromkeys(unpack_uuids(row[1]))
        for request, payload in said.deletes:
            self._unsettled.uuids[payload.uuid] = None
            if not payload.request.bound:
                self._unsettled.uuids |= dict.fromkeys(self._facts.named_by(request))
        match said.payload:
            case (Verdict() | Renew()) as word:
                found = [claim_id for claim_id in words.claims_of(word) if claim_id not in known]
                known.update(found)
                keys = map(self._facts.claim_key, found)
                self._unsettled.claims.update(key for key in keys if key is not None)
            case (Place() | Release()) as word:
                self._unsettled.placed |= dict.fromkeys(word.uuids)
            case _:
                pass

    def unsay(self, log: int, low: int, high: int, valid: Iterable[Event]) -> dict[bytes, None]:
        """Forget what a log's events from seq ``low`` to ``high`` say, the valid ones; the claims that they carried."""
        said = [contents(event) for event in valid]
        known: set[bytes] = set()
        for each in said:
            self.touch(each, known)
        words.drop(self._connection, log, low, high, said)
        return dict.fromkeys(chain.from_iterable(each.adds for each in said))

    def drop(self, log: int, low: int, high: int) -> None:
        """Forget events of a log, from seq ``low`` to ``high``, and what they said."""
        query = (
            "SELECT seq, judged AND void IS NULL, wire FROM events WHERE log = ? AND seq BETWEEN ? AND ?"
            " ORDER BY seq LIMIT ?"
        )
        while part := self._connection.execute(query, (log, low, high, DROPPED_PER_READ)).fetchall():
            last = part[-1][0]
            carried = self.unsay(log, low, last, (stored_event(wire) for _, valid, wire in part if valid))
            self._connection.execute("DELETE FROM events WHERE log = ? AND seq BETWEEN ? AND ?", (log, low, last))
            read_elsewhere(self._connection, carried)
            low = last + 1
