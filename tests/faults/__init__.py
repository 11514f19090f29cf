"""Survival: real daemons, real files, and whatever may happen to them. ``python -m tests.faults`` runs a suite.

While miners register and delete GPUs, one fault after the other strikes. A book outside the daemons holds what was
acknowledged. At the end all that was broken is whole again, and then nothing may be missing: every acknowledged write
is there, on every peer; all roots are equal; no log has forked; every database is what its own log says.
"""
