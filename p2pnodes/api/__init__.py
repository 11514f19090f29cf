"""The public HTTP interface: the central API's ``/nodes`` routes on top of the local inventory.

Rules of this folder: HTTP statuses are chosen here and nowhere below; nothing here decides what the inventory is. What
clients expect on the wire is compat.md; the tests hold the routes to it row by row.
"""
