"""Golden vectors: what the wire format, the ids and the roots are, byte by byte.

``*.json`` beside this file say for fixed inputs what must come out; a second implementation can be tested with them.
``python -m tests.vectors`` writes them anew after a change on purpose; then the protocol version or the network's
parameters must change too, or peers of two builds no longer understand each other.
"""
