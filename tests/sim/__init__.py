"""A whole network in one thread: the daemon's own engine, ledger, admission and own-log rule under a virtual clock.

One seed is one run: workload, latencies, losses, partitions, crashes and everything else that is drawn come from one
``random.Random``. What is simulated is the outside: disks that take a while, links that are slow, lose connections and
part, clocks that differ, miners that post to any peer and repeat themselves, an electorate that moves on.

``world`` draws a story from the seed: anything may happen, and everything must agree in the end. ``scenarios`` play
stories that are written down, conflicts over GPUs whose truth is known, and say how each must end.

Sessions open with the peer's identity at hand. That the handshake proves it is tested in ``tests/gossip``.
"""
