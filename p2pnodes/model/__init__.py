"""The pure core: keys, clock, events, requests, claims, the GPU table, the electorate and the inventory function.

Rules of this folder: no sockets, no files but the packaged GPU table, no clock, no randomness and no threads.
Time, random bytes and keys come in as arguments, so the daemon and the simulator run the same code.
"""
