"""What every event and handshake begins with: in a module of its own, for a process that knows no network's parameters.

Those are a pydantic model (``network``), which takes 13 MB more than all that reads and checks an event.
"""

from typing import Final

PROTOCOL_VERSION: Final = 1
"""Highest protocol version that this build speaks."""

NETWORK_ID_BYTES: Final = 16
