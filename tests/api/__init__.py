"""The public HTTP interface against a real database, over loopback, row by row of the compatibility tables."""
