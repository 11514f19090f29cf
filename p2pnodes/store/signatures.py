"""The signatures of what a peer sent, checked by two threads at once: the writer's and one of its own.

The writer has them checked before it looks at the first event (``Ledger.receive``, ``Ledger.load``), and finds the
answers remembered then (``keys.verify_node``). libsodium lets go of the interpreter, so that two checks take hardly
longer than one. To check ahead in a thread while the writer is at its statements gains nothing: each of these lets go
of the interpreter for a moment, and two threads that keep waking each other took longer than one that does everything.
Another process gains something, where much is to be checked: see ``store.ahead``, which leaves the rest to this.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from p2pnodes.model.events import Event

EVENTS_MIN: Final = 8
"""Events for whose signatures a second thread is worth waking."""


class SharedCheck:
    """Checks the signatures of many events in two threads."""

    def __init__(self) -> None:
        """Start no thread before there is something to check."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="p2pnodes-checker")
        self._helping: Future[None] | None = None

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()

    def __call__(self, events: Sequence[Event]) -> None:
        """Check the signatures of events, so that whoever asks for one finds the answer; of a few do nothing.

        The last one may still be under way in the other thread: the caller, who asks next, does not wait for it.
        """
        if len(events) < EVENTS_MIN:
            return
        shared = iter(events)
        if self._helping is None or self._helping.done():  # else it has not come to the last ones yet
            self._helping = self._pool.submit(check, shared)
        check(shared)


def check(events: Iterator[Event]) -> None:
    """Check signatures until one does not hold: whatever follows on a forged event is not stored either."""
    all(event.signed() for event in events)
