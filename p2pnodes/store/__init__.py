"""SQLite: the event log, the facts that valid events state, the inventory rows, and the operators' views."""

from typing import Final

COPY_DAYS_DEFAULT: Final = 7.0
"""Age in days from which a database that ``restore`` put aside may go: within a week one knows whether it is missed.

Here, where reading it costs no import of SQLite.
"""
