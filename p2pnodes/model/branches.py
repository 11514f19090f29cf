"""Where a log ends: forks that are proved, and closings that its hotkey signed (design.md, rule 5 and ``close``).

Both are proved by signatures of their own, so they count whoever brings them and whatever becomes of the event that
did. Of each the lowest counts. What they do together is one number, the *cut*: the first seq of a log that counts for
nothing. It never depends on which of two branches a peer has stored: from the fork on, neither counts.
"""

from collections.abc import Callable, Container, Iterable
from typing import Final, NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.events import Close, Event, Evidence, Header, LogId


class Ends(NamedTuple):
    """What is proved about the end of one log.

    Attributes:
        evidence: Proof of its lowest fork; None without one.
        close: The lowest closing by the log's own hotkey; None without one.
    """

    evidence: Evidence | None = None
    close: Close | None = None

    @property
    def fork(self) -> int | None:
        """Lowest seq at which the log has two events."""
        return None if self.evidence is None else Header.decode(self.evidence.first).seq

    @property
    def mark(self) -> list[codec.Value] | None:
        """What version vectors say of it: [fork seq or nil, [good events, id of the last] or nil]; None for no end."""
        if self.evidence is None and self.close is None:
            return None
        return [self.fork, None if self.close is None else list(closing_order(self.close))]

    def merged(self, other: "Ends") -> "Ends":
        """The lower of each; of two that say the same, whatever proves it, the own one."""
        evidence = min(
            (each for each in (self.evidence, other.evidence) if each is not None),
            key=lambda each: Header.decode(each.first).seq,
            default=None,
        )
        close = min((each for each in (self.close, other.close) if each is not None), key=closing_order, default=None)
        return Ends(evidence, close)

    def cut(self, stored_id: Callable[[int], bytes | None]) -> int | None:
        """First seq that counts for nothing; None while all of the log counts.

        Args:
            stored_id: Id of the stored event at a seq, None where none is stored. An event that the closing does not
                name where it names one lies on another branch, and the fork below it is not proved yet.
        """
        cuts: list[int] = []
        if (fork := self.fork) is not None:
            cuts.append(fork)
        if self.close is not None:
            good, last = closing_order(self.close)
            held = stored_id(good - 1) if good else None
            cuts.append(good - 1 if held is not None and held != last else good)
        return min(cuts, default=None)


NO_ENDS: Final = Ends()
"""Of a log that goes on."""


def closing_order(close: Close) -> tuple[int, bytes]:
    """How many events of its log a closing leaves good, and the id of the last (empty for none): the lowest counts."""
    # A closing may name the highest seq that there is: the number after it is none.
    return (0, b"") if close.head is None else (min(close.head.seq + 1, codec.INT_MAX), close.head.id)


def proof_order(proof: Evidence | Close) -> tuple[int, bytes]:
    """What orders proofs of one kind for one log: the lowest counts; raises MalformedError."""
    return closing_order(proof) if isinstance(proof, Close) else (Header.decode(proof.first).seq, b"")


def ended_log(proof: Evidence | Close) -> LogId:
    """The log whose end a proof tells of; raises MalformedError."""
    return proof.log if isinstance(proof, Close) else Header.decode(proof.first).log


def ends_by(proof: Evidence | Close) -> Ends:
    """What one proof says of its log."""
    return Ends(close=proof) if isinstance(proof, Close) else Ends(evidence=proof)


def rivalry(one: Event, other: Event) -> Evidence | None:
    """Evidence of two signed events of one log and seq with different ids; None when they name other events before."""
    if one.previous != other.previous:
        return None
    first, second = sorted((one, other), key=lambda event: event.id)
    return Evidence(first.header, first.signature, second.header, second.signature)


def displaced(logs: Iterable[LogId], named: Container[LogId], bound: int) -> list[LogId]:
    """Those of one hotkey's logs that count for nothing because it has more than ``bound``.

    The logs that the cut in force names stay, and of the others those whose ids hash lowest. Whichever logs a validator
    shows to which peers, all end up with the same ones; and to displace others by new ones takes it more node keys each
    time.

    Args:
        logs: All that are known of the hotkey's.
        named: Those that the cut in force names; never more than ``bound``.
        bound: How many may count.
    """
    return sorted(logs, key=lambda log: (log not in named, codec.digest(codec.pack([*log]))))[bound:]
