"""Conflicts and their end: each rule of design.md, "How one GPU's row is decided", played by seed.

A scenario is a function of a ``Stage``. The seed draws what its text leaves open: who has how much stake, who posts
where, how unreliable links are, how clocks differ, when things happen. It ends with what every peer must say.
"""
