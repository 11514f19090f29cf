"""SQLite: the event log, the facts that valid events state, the inventory rows, and the operators' views."""
