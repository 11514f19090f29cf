"""A whole network in one thread: the daemon's own engine, ledger, admission and own-log rule under a virtual clock.

One seed is one run: everything that is drawn follows from it, each purpose and each peer from a stream of its own. What
is simulated is the outside: disks that take a while, are full or are lost, a world map of latencies (``atlas``),
connections that are slow, break and part (``network``), clocks that differ and jump, miners that post to any peer and
repeat themselves, an electorate that moves on.

``world`` draws a story from the seed: a list of faults strikes (``faults``), everything must agree in the end, and on
the way nothing may be late, too long or lost without a reason (``check``). A minority of its validators lies
(``byzantine``), and none of it may go through (``crimes``). A run that fails is shrunk to the faults that it needs
(``shrink``, ``hunt``). ``scenarios`` play stories that are written down, conflicts over GPUs whose truth is known, and
say how each must end.

``mutants`` breaks every rule of design.md on purpose, a line at a time: MUTANTS.md says which run found each, and how
soon. A checker that finds none of its mutants is none.

Sessions open with the peer's identity at hand. That the handshake proves it is tested in ``tests/gossip``.
"""
