"""p2pnodes: a peer-to-peer node inventory for Bittensor subnet 64 validators."""

__version__ = "0.1.0"
