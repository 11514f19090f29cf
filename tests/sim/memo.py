"""Pure work that all peers of a run do alike is done once: checking a node key's signature, decoding an event.

What is remembered is the answer of the system's own code for the very same bytes; a daemon does this work itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final
from unittest.mock import patch

from nacl.bindings import crypto_sign_open

from p2pnodes.model import keys
from p2pnodes.model.events import Event

EVENTS_KEPT: Final = 1 << 14
"""Events and signatures that are remembered; a run of many hours has more, but needs the old ones seldom."""


@contextmanager
def memoised() -> Iterator[None]:
    """Do such work once while the body runs. What fails is done again each time."""
    opened, decoded = lru_cache(EVENTS_KEPT)(crypto_sign_open), lru_cache(EVENTS_KEPT)(Event.decode)
    with patch.object(keys, "crypto_sign_open", opened), patch.object(Event, "decode", decoded):
        yield
