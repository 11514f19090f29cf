-- Schema 4. Lowest build that may open it: 0.1.0 with checkpoints.
-- What lies at or below the cut of the checkpoint in force and is not in its live set may be gone from events.

CREATE TABLE certificate (               -- primary: what made a checkpoint final; of the latest ones
    number INTEGER PRIMARY KEY,
    stage  TEXT NOT NULL,                -- known, loading (its live set comes from peers), cutting (in force), done
    wire   BLOB NOT NULL
);

CREATE TABLE live (                      -- the live sets of the checkpoint in force and of the one that is signed
    number INTEGER NOT NULL,
    log    INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    mask   INTEGER NOT NULL,             -- bit i: item i of the event is kept; 64 bits, so negative with bit 63
    PRIMARY KEY (number, log, seq)
) WITHOUT ROWID;

CREATE TABLE live_slice (                -- the parts that a live set is transferred in
    number INTEGER NOT NULL,
    slice  INTEGER NOT NULL,
    log    INTEGER NOT NULL,             -- of its first leaf
    seq    INTEGER NOT NULL,
    hash   BLOB NOT NULL,
    PRIMARY KEY (number, slice)
) WITHOUT ROWID;

-- What valid events state, like the tables of schema 1.

CREATE TABLE proposal (
    id     BLOB PRIMARY KEY,             -- of the propose event
    number INTEGER NOT NULL,
    log    INTEGER NOT NULL,
    seq    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX proposal_number ON proposal (number);
CREATE INDEX proposal_log ON proposal (log, number);

CREATE TABLE signature (
    number   INTEGER NOT NULL,
    proposal BLOB NOT NULL,
    log      INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    leaves   INTEGER NOT NULL,
    slices   INTEGER NOT NULL,
    root     BLOB NOT NULL,
    PRIMARY KEY (number, proposal, log, seq)
) WITHOUT ROWID;
CREATE INDEX signature_log ON signature (log, number);

UPDATE events SET judged = 0 WHERE kind = 'carry';   -- item is now the place among all that it carries: derived anew
