"""A system clock that is wrong, for a Python process that has this directory on PYTHONPATH.

The offset in seconds stands in the file that SKEW_FILE names, and is read at every look at the time: so a test can let
the clock jump under a running process.
"""

import os
import time
from pathlib import Path

_file = Path(os.environ["SKEW_FILE"])
_time, _time_ns = time.time, time.time_ns


def _offset_s() -> float:
    try:
        return float(_file.read_text())
    except (FileNotFoundError, ValueError):  # not there yet, or being written
        return 0.0


time.time = lambda: _time() + _offset_s()
time.time_ns = lambda: _time_ns() + int(_offset_s() * 1e9)
