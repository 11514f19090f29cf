"""A large inventory with everybody's votes on it, made fast enough to be made anew for each run."""

import time
from pathlib import Path
from typing import Final

from p2pnodes.model.claims import parse_body
from p2pnodes.model.clock import hlc_at
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.events import FAILED, VERIFIED, AddPayload
from p2pnodes.model.requests import request_id, sign_add
from p2pnodes.model.validity import CarriedAdd, Judgement
from p2pnodes.store.ledger import Ledger
from p2pnodes.store.parts import batched
from p2pnodes.store.schema import open_writer
from p2pnodes.store.state import Result
from tests.bench.world import MINERS, open_ledger, uuids
from tests.support import BLOCK, NETWORK, Author, body, electorate, hotkey

CLAIMS_PER_COMMIT: Final = 256
EPOCH_MS: Final = 1_200_000
"""100 blocks of 12 s."""

STAKE: Final = 100
STAKE_TURNED: Final = 100 * STAKE


class Crowd:
    """Claims, and a verdict of every voter on each: a narrow majority says verified, the others failed.

    Registrations are signed events as peers send them, and rows are what the ledger made of them. Two things are spared
    that nobody looks at when an electorate changes: the check of these signatures, and the events of the verdicts,
    which are there as facts alone.

    Attributes:
        path: The database.
        voters: How many vote in the next electorate.
    """

    def __init__(self, path: Path, *, claims: int, gpus: int, voters_max: int) -> None:
        """Write the database, some thousand GPUs a second; call ``vote`` then."""
        self.path = path
        self.voters = voters_max
        self._gpus = gpus
        self._begin_ms = time.time_ns() // 1_000_000
        self._epochs = 0
        authors = [Author(f"//validator{index}") for index in range(voters_max)]
        ledger = open_ledger(path)
        with ledger.transaction():
            ledger.set_electorate(self.next_electorate())
        self._enrol(ledger, authors)
        for part in batched(range(claims), CLAIMS_PER_COMMIT):
            authors[0].events.clear()  # there are many, and nobody wants them
            with ledger.transaction():
                for number in part:
                    self._claim(ledger, authors[0], number)
        assert ledger.state.nodes == claims * gpus
        self._logs = [ledger.state.logs[author.log].key for author in authors]
        ledger.facts.close()

    def vote(self, voters: int) -> None:
        """Let so many voters vote on each claim; it counts from the next electorate on."""
        self.voters = voters
        hlc = hlc_at(self._begin_ms)
        connection = open_writer(self.path)
        connection.execute("BEGIN IMMEDIATE")
        for voter, log in enumerate(self._logs[:voters]):
            finding, since, detail = (FAILED, None, "no such GPU") if _says_failed(voter) else (VERIFIED, hlc, "")
            connection.execute(
                "INSERT OR IGNORE INTO verdict (claim, log, seq, hlc, finding, since, method, detail)"
                " SELECT claim, ?, 0, ?, ?, ?, 'bench', ? FROM claim",
                (log, hlc, finding, since, detail),
            )
        connection.execute("COMMIT")
        connection.close()

    def next_electorate(self, *, turned: bool = False, leaving: bool = False) -> Electorate:
        """The next epoch's: all stakes equal.

        Args:
            turned: Nearly all stake is with those who say failed.
            leaving: The first miner is not registered.
        """
        self._epochs += 1
        stakes = {
            f"//validator{voter}": STAKE_TURNED if turned and _says_failed(voter) else STAKE
            for voter in range(self.voters)
        }
        time_ms = self._begin_ms + self._epochs * EPOCH_MS
        return electorate(BLOCK * self._epochs, time_ms, stakes=stakes, miners=MINERS[leaving:])

    def _enrol(self, ledger: Ledger, authors: list[Author]) -> None:
        begin_s = self._begin_ms // 1000
        delegations = [
            author.write(
                author.delegation(not_before=begin_s - 86_400, not_after=begin_s + 30 * 86_400),
                at_ms=self._begin_ms,
            )
            for author in authors
        ]
        with ledger.transaction():
            outcomes = ledger.receive(delegations, self._begin_ms)
        assert {outcome.result for outcome in outcomes} == {Result.STORED}

    def _claim(self, ledger: Ledger, author: Author, number: int) -> None:
        """Store a registration as the ledger does when it has found it valid."""
        request = sign_add(
            hotkey(MINERS[number % len(MINERS)]), self._begin_ms // 1000, body(uuids(number, self._gpus))
        )
        payload = AddPayload(request, BLOCK)
        event = author.write(payload, at_ms=self._begin_ms)
        add = CarriedAdd(request_id(NETWORK.id, request), payload, parse_body(request.body), event.hlc)
        log = ledger.logs[event.log]
        ledger._store(event, log, Judgement(None, payload, (add,), (), log.prefix._replace(hlc=event.hlc)))


def _says_failed(voter: int) -> bool:
    """Every second one but the first: fewer than half of any number."""
    return voter > 0 and voter % 2 == 0
