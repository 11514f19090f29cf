"""Gossip: state machines that take frames and time and return effects, and one module that drives them over aiohttp.

``docs/protocol.md`` is the wire format for a second implementation.
"""
