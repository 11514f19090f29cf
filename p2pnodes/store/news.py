"""What is to be told of the ledger's transactions, once they are durable."""

from p2pnodes.model.events import Event, LogId
from p2pnodes.store.changes import ChangeCollector, Changes


class News:
    """Gathered until it is taken.

    Attributes:
        appended: Own events that were written, to be sent.
        new_claims: Ids of claims that became known, or count again, for the verifiers.
        voted: Ids of claims on which verdicts came, for whoever waits for them.
        ended: Logs of whose ends more became known, in order.
        changes: What changed in the inventory, for those who follow it.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self.appended: list[Event] = []
        self.new_claims: list[bytes] = []
        self.voted: list[bytes] = []
        self.ended: dict[LogId, None] = {}
        self.changes = ChangeCollector()

    def clear(self) -> None:
        """Forget what was gathered: the transaction was undone."""
        self.appended.clear()
        self.new_claims.clear()
        self.voted.clear()
        self.ended.clear()
        self.changes.clear()

    def take_appended(self) -> list[Event]:
        """Own events written since the last call."""
        found, self.appended = self.appended, []
        return found

    def take_new_claims(self) -> list[bytes]:
        """Ids of claims that became known, or count again, since the last call."""
        found, self.new_claims = self.new_claims, []
        return found

    def take_voted(self) -> list[bytes]:
        """Ids of claims on which verdicts came since the last call."""
        found, self.voted = self.voted, []
        return found

    def take_ended(self) -> list[LogId]:
        """Logs of whose ends more became known since the last call."""
        found, self.ended = list(self.ended), {}
        return found

    def take_changes(self) -> Changes | None:
        """What changed in the inventory since the last call; None for nothing."""
        return self.changes.take()
