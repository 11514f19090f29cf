"""How fast the daemon is, as ratios against limits measured in the same run: ``python -m tests.bench``.

Ratios and not times: the machine is noisy, and what is compared is measured turn about, a slice of one, a slice of the
other; each figure is the median of several such rounds.
"""
