"""A build that speaks one protocol version more, for a Python process that has this directory on PYTHONPATH."""

from p2pnodes.gossip import handshake
from p2pnodes.model.protocol import PROTOCOL_VERSION

handshake.PROTOCOL_VERSION = PROTOCOL_VERSION + 1  # type: ignore[attr-defined]  # where it looks it up
