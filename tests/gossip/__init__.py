"""Gossip: frames, engine, handshake, channel and driver."""
