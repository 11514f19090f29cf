-- Schema 2. Lowest build that may open it: 0.1.0 with 65,536 buckets in the state root instead of 4,096.
-- A row's key begins with its bucket, so all rows are derived anew when a ledger opens the database.

DELETE FROM node;
DELETE FROM meta WHERE key = 'judged_by';

CREATE TABLE bucket (                    -- of the state root: what its rows hash to; empty ones are left out
    bucket INTEGER PRIMARY KEY,
    rows   INTEGER NOT NULL,
    hash   BLOB NOT NULL
);
