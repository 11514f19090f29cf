"""Parts broken on purpose that a simulated network hardly ever comes to need: mostly their own unit tests notice.

Renewals of several claims in one event, what a live set keeps of what was said again and again, whom a daemon believes
a certificate, the numbers of its logs, how many of these count, and hashes that are written late. ``mutants`` hunts
them with all others.
"""

from typing import Final

from p2pnodes.author import Author
from p2pnodes.clerk import Clerk
from p2pnodes.model import branches, checkpoint, proof, validity
from p2pnodes.model.events import Renew
from p2pnodes.store import buckets, carrying, proposing, words
from p2pnodes.store.checkpoints import Checkpoints
from p2pnodes.store.cutting import Cutting
from p2pnodes.store.facts import Facts
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.liveset import LiveSet
from p2pnodes.store.parts import Parts
from p2pnodes.store.settling import Settling
from p2pnodes.store.words import Taken
from p2pnodes.verify import verdicts
from p2pnodes.verify.renewals import Renewals
from tests.sim.mutation import Drawn, Edit, Mutant, Played, UnitTests

_BOOK: Final = UnitTests("verify/test_verdicts.py")
_EVENTS: Final = UnitTests("model/test_events.py")
_ROWS: Final = UnitTests("model/test_convergence.py")
_BRANCHES: Final = UnitTests("store/test_branches.py")
_WAITING: Final = UnitTests("verify/test_renewals.py")
_AGAIN: Final = UnitTests("store/test_checkpoints.py::TestWhatIsSaidAgain")
_IN_ORDER: Final = UnitTests("store/test_checkpoints.py::TestOneAfterTheOther")
_LATE: Final = UnitTests("store/test_checkpoints.py::TestWordsThatCameTooLate")
_CLOSED: Final = UnitTests("store/test_checkpoints.py::test_what_was_said_on_a_branch_that_a_checkpoint_closed_is_gone")
_BODY: Final = UnitTests("store/test_checkpoints.py::test_a_claims_body_is_read_from_an_event_that_is_kept")
_CARRIAGES: Final = UnitTests("model/test_checkpoint.py::TestNeededCarriages")
_DELETIONS: Final = UnitTests("model/test_checkpoint.py::TestNeededDeletions")
_LOADING: Final = UnitTests("store/test_loading.py")
_CLERK: Final = UnitTests("test_clerk.py")
_NUMBERS: Final = UnitTests("test_author.py::TestItsNumber")
_MANY: Final = UnitTests("store/test_ledger.py::TestTooManyLogs")
_NAMED: Final = UnitTests("store/test_loading.py::TestTooManyLogs")
_OVER: Final = UnitTests("store/test_checkpoints.py::TestLogsThatAreOver")
_NO_ROOM: Final = UnitTests("store/test_checkpoints.py::TestNoRoom")
_ENDLESS: Final = Played("logs-without-end")
_BUCKETS: Final = UnitTests("store/test_buckets.py")
"""Unit tests by what they are about."""

MUTANTS: Final = (
    # -- renewals ------------------------------------------------------------------------------------------------------
    Mutant(
        "renewal-began-tomorrow",
        "valid",
        "A renewal may say that a run began after it was told",
        (Edit(validity, "_content", "if any(since > event.hlc for _, since in payload.claims):", "if False:"),),
        Drawn(("backdate",)),
        20,
    ),
    Mutant(
        "only-one-may-not-begin-tomorrow",
        "valid",
        "Of several verdicts in one event only the first may not begin after it",
        (Edit(validity, "_content", "for _, since in payload.claims):", "for _, since in payload.claims[:1]):"),),
        UnitTests("model/test_validity.py"),
        1,
    ),
    Mutant(
        "renewed-in-any-order",
        "valid",
        "A renewal may name its claims in any order: one thing has several encodings",
        (Edit(Renew, "from_wire", "before[0] >= after[0]", "before[0] == after[0]"),),
        _EVENTS,
        1,
    ),
    Mutant(
        "renewed-twice-at-once",
        "valid",
        "A renewal may name a claim twice",
        (Edit(Renew, "from_wire", "before[0] >= after[0]", "before[0] > after[0]"),),
        _EVENTS,
        1,
    ),
    Mutant(
        "one-renewed-too-many",
        "6",
        "A renewal may name one claim more than the bound",
        (Edit(Renew, "from_wire", "RENEWED_MAX,", "RENEWED_MAX + 1,"),),
        _EVENTS,
        1,
    ),
    Mutant(
        "more-wait-than-an-event-holds",
        "6",
        "Any number of renewals wait for each other",
        (Edit(Renewals, "take", " or len(self._held) >= RENEWED_MAX", ""),),
        _WAITING,
        1,
    ),
    Mutant(
        "waits-into-others-turn",
        "row",
        "A renewal waits for others though the verdict before it nears its end",
        (
            Edit(
                Renewals,
                "take",
                "min(now_ms + self._wait_ms, hlc_ms(own.hlc) + int(self._ttl_ms * TOLD_BY))",
                "now_ms + self._wait_ms",
            ),
        ),
        _WAITING,
        1,
    ),
    Mutant(
        "renewal-revives",
        "row",
        "A claim is told to be verified again though its validator has found otherwise meanwhile",
        (
            Edit(
                verdicts,
                "record_renewals",
                "if since is not None:",
                "if (since := 0 if since is None else since) >= 0:",
            ),
        ),
        _BOOK,
        1,
    ),
    Mutant(
        "renewal-begins-with-the-one-before",
        "row",
        "A renewal says that its run began with the verdict before it",
        (
            Edit(
                verdicts,
                "_unbroken_since",
                "return vote.since if",
                "return vote.hlc if vote is not None and vote.since is not None else None if",
            ),
        ),
        _BOOK,
        1,
    ),
    Mutant(
        "lapsed-is-renewed",
        "row",
        "A verdict that has lapsed is renewed as if nothing had been between",
        (Edit(verdicts, "_unbroken_since", " and hlc_ms(vote.hlc) >= now_ms - ttl_ms", ""),),
        _BOOK,
        1,
    ),
    Mutant(
        "only-the-first-is-renewed",
        "row",
        "Of the claims of a renewal the first counts",
        (Edit(Renew, "verdicts", "in self.claims)", "in self.claims[:1])"),),
        _ROWS,
        1,
    ),
    Mutant(
        "since-of-another-claim",
        "row",
        "The claims of a renewal have each other's begin",
        (
            Edit(
                Renew,
                "verdicts",
                "for claim_id, since in self.claims)",
                "for (claim_id, _), (_, since) in zip(self.claims, self.claims[::-1]))",
            ),
        ),
        _ROWS,
        1,
    ),
    Mutant(
        "any-renewal-proves",
        "row",
        "A renewal of other claims proves this one",
        (Edit(proof, "_votes", " if each.claim_id == proof.claim_id", ""),),
        UnitTests("model/test_proof.py"),
        1,
    ),
    Mutant(
        "renewal-touches-one-claim",
        "1",
        "When a renewal ends to count, one of its claims is counted again",
        (Edit(Ledger, "_touch", "for verdict in word.verdicts)", "for verdict in word.verdicts[:1])"),),
        Drawn(("fork", "crash", "partition"), minutes=2.0),
        20,
    ),
    Mutant(
        "renewal-replaces-nothing",
        "5",
        "What a renewal of several claims replaced is not noted: behind a fork it does not come back",
        (Edit(words, "replaced", "if any(found) else None", "if any(found) and len(found) == 1 else None"),),
        _BRANCHES,
        1,
    ),
    Mutant(
        "renewal-replaces-anothers",
        "5",
        "What a renewal replaced comes back to another of its claims",
        (
            Edit(
                Taken,
                "add",
                "for said, seq in zip(word.verdicts, seqs, strict=True)",
                "for said, seq in zip(word.verdicts, seqs[::-1], strict=True)",
            ),
        ),
        _BRANCHES,
        1,
    ),
    Mutant(
        "all-of-a-renewal-comes-back",
        "5",
        "A renewal that counts again takes the place of later words on others of its claims",
        (Edit(words, "take_back", "if verdict.claim_id in verdicts[seq]:", "if True:"),),
        _BRANCHES,
        1,
    ),
    Mutant(
        "body-goes-with-its-event",
        "cut",
        "A claim's body is looked for in the event that was heard first, though others are kept",
        (Edit(Cutting, "_cut_claim", "_point(self._connection, key)", "pass"),),
        _BODY,
        1,
    ),
    Mutant(
        "places-of-a-closed-branch-stay",
        "cut",
        "A place that a checkpoint left out goes on to count where its branch was heard",
        (Edit(words, "drop", "[(uuid, word.claim_id, log, seq) for uuid in word.uuids]", "[]"),),
        _CLOSED,
        1,
    ),
    Mutant(
        "deletions-of-a-closed-branch-stay",
        "cut",
        "A deletion that a checkpoint left out goes on to count where its branch was heard",
        (Edit(words, "drop", "for request_id, payload in said.deletes:", "for request_id, payload in ():"),),
        _CLOSED,
        1,
    ),
    Mutant(
        "renewal-of-a-closed-branch-stays",
        "cut",
        "Of a renewal that a checkpoint left out all but the first verdict go on to count",
        (Edit(words, "drop", "for verdict in word.verdicts]", "for verdict in word.verdicts[:1]]"),),
        _CLOSED,
        1,
    ),
    # -- what a live set keeps -----------------------------------------------------------------------------------------
    Mutant(
        "earliest-carriage-alone",
        "cut",
        "Of what an author says of a claim the earliest is kept, and not the highest block",
        (
            Edit(
                checkpoint,
                "needed_carriages",
                "earliest | {max(own, key=lambda each: each[1].electorate_block)[0] for own in by_author.values()}",
                "earliest",
            ),
        ),
        _AGAIN,
        1,
    ),
    Mutant(
        "highest-block-alone",
        "cut",
        "Of what an author says of a claim the highest block is kept, and not the earliest",
        (Edit(checkpoint, "needed_carriages", "return earliest | {", "return {"),),
        _CARRIAGES,
        1,
    ),
    Mutant(
        "one-carrier-for-all",
        "cut",
        "Of all authors that carry a claim the extremes are kept: who had them may lose its permit",
        (Edit(checkpoint, "needed_carriages", "each[1].author, []", "b'', []"),),
        _CARRIAGES,
        1,
    ),
    Mutant(
        "blocks-to-come-are-kept",
        "cut",
        "Registrations are kept that name an electorate which E_c has not reached",
        (Edit(checkpoint, "needed_carriages", "if each[1].electorate_block <= block:", "if True:"),),
        _CARRIAGES,
        1,
    ),
    Mutant(
        "last-of-equal-carriages",
        "cut",
        "Of registrations that say the same the last one is kept",
        (Edit(checkpoint, "needed_carriages", "min(own,", "min(reversed(own),"),),
        _CARRIAGES,
        1,
    ),
    Mutant(
        "second-gpu-is-left-out",
        "cut",
        "Of a deletion that is used for several GPUs the first is kept: it ends something again",
        (Edit(checkpoint, "needed_deletions", "return needed | {key}", "return needed"),),
        _DELETIONS,
        1,
    ),
    Mutant(
        "first-list-alone",
        "cut",
        "Of a deletion that names fewer claims later on the first record is kept",
        (Edit(checkpoint, "needed_deletions", "elif before.claim_ids <= carriage.claim_ids:", "else:"),),
        _DELETIONS,
        1,
    ),
    Mutant(
        "lists-without-end",
        "cut",
        "A deletion is compared with the record before it: two lists that take turns are kept without end",
        (Edit(checkpoint, "needed_deletions", "before.claim_ids & carriage.claim_ids", "carriage.claim_ids"),),
        _DELETIONS,
        1,
    ),
    Mutant(
        "old-endings-are-left-out",
        "cut",
        "Deletions below the floor go though their claims stand on other GPUs",
        (Edit(LiveSet, "_claims", "self._keep_requests(requests)", "pass"),),
        _AGAIN,
        1,
    ),
    Mutant(
        "claims-are-kept-that-stand-nowhere",
        "cut",
        "Claims are kept that do not stand any more",
        (Edit(LiveSet, "_claims", "if key in part and claim.id in ids", "if key in part"),),
        _AGAIN,
        1,
    ),
    Mutant(
        "carriages-in-order-of-arrival",
        "cut",
        "Of two logs that carry a claim alike that one is kept which was heard of first",
        (Edit(LiveSet, "_keep_carriages", "ORDER BY node_key, logs.number, seq, item", "ORDER BY log, seq, item"),),
        _AGAIN,
        1,
    ),
    Mutant(
        "places-in-order-of-arrival",
        "cut",
        "Of two logs that say the same at one time that one is kept which was heard of first",
        (Edit(LiveSet, "_keep_words", "ORDER BY node_key, logs.number", "ORDER BY log"),),
        _AGAIN,
        1,
    ),
    Mutant(
        "releases-are-kept",
        "cut",
        "Last words are kept that are no places",
        (Edit(LiveSet, "_keep_words", "if word.chute is not None", "if True"),),
        _AGAIN,
        1,
    ),
    Mutant(
        "late-words-are-last",
        "cut",
        "A word that came too late is the last one for the next cut",
        (Edit(LiveSet, "_words", "if self._checkpoints.keeps_word(log, seq, item, hlc)", "if True"),),
        _LATE,
        1,
    ),
    Mutant(
        "carriages-above-the-cut",
        "cut",
        "A live set has registrations that lie above its cut",
        (Edit(LiveSet, "_keep_carriages", "if not self._facts.is_void(log, seq)", "if True"),),
        _AGAIN,
        1,
    ),
    Mutant(
        "deletions-above-the-cut",
        "cut",
        "A live set has deletions that lie above its cut",
        (Edit(LiveSet, "_keep_requests", "if not self._facts.is_void(log, seq)", "if True"),),
        _AGAIN,
        1,
    ),
    Mutant(
        "uncut-logs-count",
        "cut",
        "What is said in logs that a cut does not name decides what it keeps",
        (
            Edit(
                LiveSet,
                "_renew_cuts",
                "0 if cut is None else cut.head.seq + 1",
                "10**9 if cut is None else cut.head.seq + 1",
            ),
        ),
        _AGAIN,
        1,
    ),
    Mutant(
        "another-proposals-leaves",
        "cut",
        "What was found of another proposal of the same number stays in the live set",
        (Edit(LiveSet, "_clear", "return () if gone else None", "return None"),),
        _AGAIN,
        1,
    ),
    Mutant(
        "delegations-of-then-are-left-out",
        "cut",
        "A delegation goes under which something was written that is kept: it cannot be proved any more",
        (Edit(LiveSet, "_delegations", "self._mark({(log, before, 0) for _, before in rows})", "pass"),),
        _AGAIN,
        1,
    ),
    Mutant(
        "first-delegation-is-left-out",
        "cut",
        "The delegation goes that says since when an author is known",
        (Edit(LiveSet, "_delegations", "for seq in ends if", "for seq in ends[1:] if"),),
        _AGAIN,
        1,
    ),
    Mutant(
        "last-delegation-is-left-out",
        "cut",
        "The delegation goes by which what follows is judged",
        (Edit(LiveSet, "_delegations", "for seq in ends if", "for seq in ends[:1] if"),),
        _AGAIN,
        1,
    ),
    # -- whom a daemon believes ----------------------------------------------------------------------------------------
    Mutant(
        "any-electorate-was-in-force",
        "cut",
        "Whatever electorate a certificate brings along is believed to have been in force",
        (Edit(Checkpoints, "trusts", "said.line.electorate.digest in self.lately", "True"),),
        Played("newcomer-among-forgers"),
        20,
    ),
    Mutant(
        "stakes-of-then-are-forgotten",
        "cut",
        "Signers are believed for the stake of today alone",
        (
            Edit(
                Checkpoints,
                "trusts",
                "if said.line.electorate is not None and said.line.electorate.digest in self.lately:",
                "if False:",
            ),
        ),
        _LOADING,
        1,
    ),
    Mutant(
        "stakes-of-then-for-ever",
        "6",
        "Every electorate since the start is remembered, and believed for",
        (Edit(Checkpoints, "__init__", "deque(maxlen=ELECTORATES_KEPT)", "deque()"),),
        _LOADING,
        1,
    ),
    Mutant(
        "stakes-of-then-come-and-go",
        "cut",
        "Electorates that take turns drive out all others that were in force here lately",
        (Edit(Checkpoints, "weigh", "if electorate.digest not in self.lately:", "if True:"),),
        _LOADING,
        1,
    ),
    Mutant(
        "stakes-of-today-are-not-asked",
        "cut",
        "Signers are believed for the stake of an electorate that was in force here alone",
        (
            Edit(
                Checkpoints,
                "trusts",
                "return self._electorate is not None and said.trusted(self._electorate, self._network.quorum_ppm)",
                "return False",
            ),
        ),
        _CLERK,
        1,
    ),
    Mutant(
        "own-certificates-are-trusted",
        "cut",
        "A certificate that came together here is taken, whatever stakes its proposal names",
        (Edit(Checkpoints, "_certify", "if self.trusts(certified(self._network, made)):", "if True:"),),
        _CLERK,
        1,
    ),
    Mutant(
        "newest-comes-next",
        "cut",
        "Of several certificates the newest is put in force, whatever it follows",
        (Edit(Checkpoints, "pending", "if self.follows(said)]", "if False]"),),
        _IN_ORDER,
        1,
    ),
    Mutant(
        "oldest-that-follows-comes-next",
        "cut",
        "Of several certificates that follow the one in force the oldest is put in force",
        (Edit(Checkpoints, "pending", "return max(following", "return min(following"),),
        _IN_ORDER,
        1,
    ),
    Mutant(
        "everything-follows",
        "cut",
        "A certificate is taken for one that follows the one in force, whatever it names",
        (Edit(Checkpoints, "follows", "return said.previous == self.line.proposal", "return True"),),
        _IN_ORDER,
        1,
    ),
    Mutant(
        "lower-ones-are-taken",
        "cut",
        "A certificate below the one in force is taken for one that comes next",
        (
            Edit(
                Checkpoints,
                "take",
                "if number <= self.line.number or number in self._known:",
                "if number in self._known:",
            ),
        ),
        _IN_ORDER,
        1,
    ),
    Mutant(
        "in-force-is-forgotten",
        "cut",
        "Many later certificates drive out the one in force",
        (Edit(Checkpoints, "take", "(self.line.number, CERTIFICATES_KEPT)", "(-1, CERTIFICATES_KEPT)"),),
        _IN_ORDER,
        1,
    ),
    # -- numbers of logs -----------------------------------------------------------------------------------------------
    Mutant(
        "number-ahead-of-the-clock",
        "4",
        "A log is opened before the second of its number: who loses it begins it again",
        (Edit(Author, "_reach_number", "await asyncio.sleep(wait_ms / 1000)", "pass"),),
        _NUMBERS,
        1,
    ),
    Mutant(
        "number-of-the-second-of-the-start",
        "4",
        "A log may have the number of one that was lost within this second",
        (
            Edit(
                Author,
                "_number_min",
                "before = self._numbers_from if node_key is self.node_key else 0",
                "before = 0",
            ),
        ),
        _NUMBERS,
        1,
    ),
    Mutant(
        "number-of-the-log-before",
        "4",
        "A log that is opened within the second of the one before it has its number",
        (Edit(Author, "_number_min", "number + 1 for number in held", "number for number in held"),),
        _NUMBERS,
        1,
    ),
    # -- hashes that are written late ----------------------------------------------------------------------------------
    Mutant(
        "bucket-is-not-noted",
        "7",
        "That a bucket changed is not written down: a start reads its old hash",
        (
            Edit(
                buckets,
                "change",
                'connection.executemany("INSERT INTO bucket_changed VALUES (?)", noted)',
                "pass",
            ),
        ),
        Drawn(()),
    ),
    Mutant(
        "bucket-is-read-all-the-same",
        "7",
        "A start reads the hashes of buckets that changed since",
        (Edit(buckets, "load", "if bucket not in changed:", "if True:"),),
        _BUCKETS,
        1,
    ),
    Mutant(
        "rows-of-changed-buckets-are-not-counted",
        "7",
        "A start counts the rows of the buckets whose hashes are written",
        (Edit(buckets, "load", "total + sum(unwritten.values())", "total"),),
        Drawn(("crash",)),
    ),
    Mutant(
        "changed-is-forgotten-at-a-start",
        "7",
        "A start does not learn which buckets are noted",
        (Edit(buckets, "load", "unwritten)", "{})"),),
        _BUCKETS,
        1,
    ),
    Mutant(
        "struck-unwritten",
        "7",
        "Notes are struck off before the hashes are written",
        (Edit(buckets, "change", "write(connection, held)\n", "pass\n"),),
        _BUCKETS,
        1,
    ),
    Mutant(
        "written-not-struck",
        "6",
        "Notes stay when the hashes are written",
        (Edit(buckets, "change", "written(connection)\n", "pass\n"),),
        _BUCKETS,
        1,
    ),
    Mutant(
        "written-again-and-again",
        "6",
        "Which buckets are noted is not forgotten when their hashes are written",
        (Edit(buckets, "change", "unwritten.clear()", "pass"),),
        _BUCKETS,
        1,
    ),
    Mutant(
        "search-ends-with-its-number",
        "cut",
        "A search for a live set begins anew as soon as the next number is due",
        (Edit(Clerk, "_agree", "line.number > signed:", "line.number > signed and line.number == number:"),),
        _CLERK,
        1,
    ),
    Mutant(
        "found-in-vain-stays",
        "cut",
        "What was found and may not be signed keeps a validator from looking at anything else",
        (Edit(Clerk, "_sign", "ledger.forget_finding()", "pass"),),
        _CLERK,
        1,
    ),
    Mutant(
        "part-counted-twice",
        "7",
        "After a transaction that was undone long work goes on behind the part that was undone",
        (Edit(Parts, "back", "setattr(self, name, copy(value))", "copy(value)"),),
        UnitTests("store/test_parts.py"),
        1,
    ),
    Mutant(
        "part-done-twice",
        "7",
        "Long work whose last part was committed, but failed behind that, does this part again",
        (Edit(Ledger, "_take_up_parts", "if self._part != self._kept[0]:", "if False:"),),
        UnitTests("store/test_parts.py"),
        1,
    ),
    Mutant(
        "settled-not-struck",
        "7",
        "When everything is decided anew, notes of before stay: the next change fails",
        (Edit(Settling, "_replace", "buckets.written(self._connection)", "pass"),),
        UnitTests("store/test_settling.py"),
        1,
    ),
    Mutant(
        "empty-bucket-has-a-hash",
        "7",
        "A bucket without rows is written",
        (Edit(buckets, "_insert", " if rows[bucket]]", "]"),),
        _BUCKETS,
        1,
    ),
    # -- bound of logs -------------------------------------------------------------------------------------------------
    Mutant(
        "first-come-stay",
        "1",
        "Of a hotkey with too many logs those count that came first: other ones on other peers",
        (Edit(Ledger, "_has_room", "return log not in displaced(", "return log in ()  # displaced("),),
        _ENDLESS,
        20,
    ),
    Mutant(
        "last-come-goes",
        "1",
        "Of too many logs the last one is displaced, whichever that is",
        (Edit(branches, "displaced", "(log not in named, codec.digest(codec.pack([*log])))", "log not in named"),),
        _ENDLESS,
        20,
    ),
    Mutant(
        "named-is-displaced",
        "1",
        "A log that the cut in force names can be displaced",
        (
            Edit(
                branches,
                "displaced",
                "(log not in named, codec.digest(codec.pack([*log])))",
                "codec.digest(codec.pack([*log]))",
            ),
        ),
        _NAMED,
        1,
    ),
    Mutant(
        "displaced-counts",
        "1",
        "What a displaced log says counts for as long as it is here",
        (Edit(Ledger, "_set_displaced", "self._move_cut(state, self.cut_of(state))", "pass"),),
        _ENDLESS,
        20,
    ),
    Mutant(
        "displaced-goes-on",
        "6",
        "A displaced log is stored further, as far as its peers have it",
        (Edit(Ledger, "_receive", "state is not None and state.displaced", "False"),),
        _MANY,
        1,
    ),
    Mutant(
        "displaced-for-ever-more",
        "6",
        "As many logs may wait to be forgotten as somebody opens",
        (Edit(Ledger, "_has_room", "held >= LOGS_PER_HOTKEY_MAX + DISPLACED_PER_HOTKEY_MAX", "False"),),
        _MANY,
        1,
    ),
    Mutant(
        "forgotten-at-once",
        "7",
        "A displaced log goes before others have carried what it did",
        (Edit(Clerk, "_forget", "self._displaced[log_id] + DISPLACED_MS", "0"),),
        UnitTests("test_clerk.py::TestTooManyLogs"),
        1,
    ),
    Mutant(
        "crowded-and-named",
        "cut",
        "A proposal names logs that their author can have displaced behind it",
        (Edit(proposing, "cut_of", "if before is None and state.hotkey in crowded:", "if False:"),),
        UnitTests("test_clerk.py::TestTooManyLogs"),
        1,
    ),
    Mutant(
        "forgotten-body",
        "7",
        "A claim is read from an event that is gone with its log",
        (Edit(Ledger, "_drop", "read_elsewhere(self._connection, carried)", "pass"),),
        _MANY,
        1,
    ),
    Mutant(
        "row-key-of-another",
        "1",
        "A new log takes the row key of one that was forgotten, and readers take its hotkey for its author",
        (Edit(Ledger, "_open", "max(key, self._forgotten_key()) + 1", "key + 1"),),
        _NAMED,
        1,
    ),
    Mutant(
        "own-displaced-goes-on",
        "3",
        "A daemon writes on in its own log though nobody keeps it",
        (Edit(Ledger, "_set_displaced", "if beyond and log == self.own_log:", "if False:"),),
        _MANY,
        1,
    ),
    # -- logs that are over --------------------------------------------------------------------------------------------
    Mutant(
        "named-for-ever",
        "6",
        "A cut names for ever what one named once",
        (Edit(proposing, "cut_of", "if may_go and not _is_needed(", "if False and not _is_needed("),),
        Played("logs-that-are-over"),
        5,
    ),
    Mutant(
        "left-out-though-needed",
        "7",
        "A cut leaves out a log that has ended though its live set holds something of it",
        (Edit(proposing, "_is_needed", "if ledger.checkpoints.keeps_of(state.key):", "if False:"),),
        Played("logs-that-are-over"),
        5,
    ),
    Mutant(
        "left-out-and-not-asked-about",
        "7",
        "A cut leaves out a log that has ended though it said something behind the cut in force",
        (Edit(proposing, "_is_needed", "return first <= counted.seq and", "return False and"),),
        _OVER,
        1,
    ),
    Mutant(
        "half-loaded-and-named-no-more",
        "7",
        "A log of which a part was loaded stays where the live set that is loaded instead does not have it",
        (Edit(Ledger, "_leave_others", "if stays:", "if True:"),),
        _OVER,
        1,
    ),
    Mutant(
        "log-of-another-hotkey-stays",
        "1",
        "A log that another hotkey opened here speaks for that one, whomever the checkpoint names",
        (Edit(Ledger, "_leave_others", "entry.hotkey == state.hotkey and ", ""),),
        UnitTests(
            "store/test_meeting.py::test_a_log_whose_first_event_has_a_rival_of_another_hotkey_speaks_for_whom_the_checkpoint_names"
        ),
        1,
    ),
    Mutant(
        "deletions-of-another-branch-hide-others",
        "1",
        "Two GPUs under one signature on a branch that goes hide a deletion that a live set keeps",
        (Edit(Ledger, "_state_delete", " and (not below(log, at) or lives(log, at, item))", ""),),
        UnitTests(
            "store/test_meeting.py::test_a_deletion_that_is_kept_counts_where_another_branch_used_its_signature_twice"
        ),
        1,
    ),
    Mutant(
        "windows-of-another-branch",
        "1",
        "Who votes, and what is valid next, follows from a delegation of a branch that goes",
        (Edit(Ledger, "load", "self.checkpoints.forget_other_delegations()", "pass"),),
        UnitTests("store/test_meeting.py::test_the_window_of_a_log_is_that_of_the_branch_that_a_checkpoint_took"),
        1,
    ),
    Mutant(
        "read-from-where-it-was-carried",
        "7",
        "A claim is read from an event of which a live set keeps other items, and that may go",
        (Edit(Ledger, "_load_event", "if not lives(add.item)", "if False"),),
        UnitTests("store/test_meeting.py::test_a_claim_is_read_from_an_event_that_still_carries_it"),
        1,
    ),
    Mutant(
        "rebuild-of-half-a-live-set",
        "7",
        "A rebuild beside half of a live set judges what lies above the cut without any delegation",
        (Edit(Ledger, "_rebuild_kept", "and self.checkpoints.stage is Stage.LOADING", "and False"),),
        UnitTests("store/test_meeting.py::test_half_of_a_live_set_beside_what_was_there_before_is_no_problem"),
        1,
    ),
    Mutant(
        "left-out-though-delegated",
        "cut",
        "A cut leaves out a log whose last delegation has not ended",
        (Edit(Facts, "delegations_ended", "ended_ms(*last)", "ended_ms(*first)"),),
        _OVER,
        1,
    ),
    Mutant(
        "left-out-and-not-over",
        "cut",
        "A cut leaves out a log that counts on because its first delegation has not ended",
        (Edit(Facts, "delegations_ended", "return ended_ms(*first)", "return ended_ms(*last)"),),
        _OVER,
        1,
    ),
    Mutant(
        "only-log-left-out",
        "row",
        "A cut leaves out the only log of a validator, whose silence counts no more then",
        (Edit(proposing, "cut_of", "(not permitted or state.hotkey in known)", "True"),),
        _OVER,
        1,
    ),
    Mutant(
        "over-and-back",
        "cut",
        "A log that is over is stored again, whoever sends it",
        (Edit(Ledger, "_refusal", "if is_over(", "if False and is_over("),),
        Played("logs-that-are-over"),
        20,
    ),
    Mutant(
        "over-and-counts",
        "cut",
        "A log that no cut names any more goes on to count where it is still held",
        (Edit(Ledger, "_displace_all", "self._set_displaced(log, beyond=True)", "pass"),),
        _OVER,
        1,
    ),
    Mutant(
        "delegated-for-ever",
        "6",
        "A log stays in every cut for as long as its delegation says",
        (Edit(checkpoint, "ended_ms", "min(not_after * 1000, hlc_ms(hlc) + DELEGATED_MS_MAX)", "not_after * 1000"),),
        _OVER,
        1,
    ),
    # -- logs that cuts have no room for -------------------------------------------------------------------------------
    Mutant(
        "fading-lasts",
        "7",
        "What a log says that cuts have no room for is taken for kept, until it is too old",
        (Edit(carrying._Reading, "lasts", " and seq >= self._fading.get(log, 0)", ""),),
        _NO_ROOM,
        1,
    ),
    Mutant(
        "fading-carries",
        "7",
        "It is carried by a validator whose own log cuts have no room for, either",
        (Edit(carrying._Reading, "may_carry", "not logs or not logs <= self._fading.keys()", "True"),),
        _NO_ROOM,
        1,
    ),
)
"""In the order of the code."""
