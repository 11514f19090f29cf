-- Schema 1. Lowest build that may open it: 0.1.0.
-- The log (logs, events) is the truth; every other table is derived from it and can be rebuilt from it.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

CREATE TABLE address (                   -- SS58 of each hotkey that occurs, for people and views
    hotkey  BLOB PRIMARY KEY,
    address TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE logs (
    log      INTEGER PRIMARY KEY,
    node_key BLOB NOT NULL,
    number   INTEGER NOT NULL,
    hotkey   BLOB NOT NULL,          -- every valid event of a log speaks for the hotkey of its seq 0
    UNIQUE (node_key, number)
);

CREATE TABLE events (
    position INTEGER PRIMARY KEY,    -- order of arrival here; differs between peers
    log      INTEGER NOT NULL REFERENCES logs (log),
    seq      INTEGER NOT NULL,
    id       BLOB NOT NULL,
    hlc      INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    judged   INTEGER NOT NULL,       -- 0: of a kind or version that this build does not know
    void     TEXT,                   -- why the event is void; NULL when valid or not judged
    wire     BLOB NOT NULL,          -- the signed bytes as received
    UNIQUE (log, seq)
);

-- What valid events state. One row per statement, never per opinion of who counts.

CREATE TABLE delegations (
    log        INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    hlc        INTEGER NOT NULL,
    url        TEXT NOT NULL,
    not_before INTEGER NOT NULL,
    not_after  INTEGER NOT NULL,
    PRIMARY KEY (log, seq)
) WITHOUT ROWID;

CREATE TABLE claim (
    claim    INTEGER PRIMARY KEY,
    claim_id BLOB NOT NULL UNIQUE,
    miner    BLOB,                   -- miner, nonce, position and uuids are NULL while only verdicts name the claim
    nonce    INTEGER,
    position INTEGER,                -- an event that carries it
    uuids    BLOB,                   -- its GPUs in request order, msgpack
    status   TEXT NOT NULL,          -- tally under the current electorate
    since    INTEGER,
    detail   TEXT NOT NULL
);
CREATE INDEX claim_open ON claim (miner, nonce) WHERE status = 'pending';
CREATE INDEX claim_pending ON claim (nonce) WHERE status = 'pending';
CREATE INDEX claim_miner ON claim (miner);

CREATE TABLE claim_gpu (
    uuid  TEXT NOT NULL,
    claim INTEGER NOT NULL,
    PRIMARY KEY (uuid, claim)
) WITHOUT ROWID;

CREATE TABLE carriage (
    claim            INTEGER NOT NULL,
    log              INTEGER NOT NULL,
    seq              INTEGER NOT NULL,
    item             INTEGER NOT NULL,   -- place within a carry event; 0 elsewhere
    electorate_block INTEGER NOT NULL,
    hlc              INTEGER NOT NULL,   -- of the event that the request's first author wrote
    PRIMARY KEY (claim, log, seq, item)
) WITHOUT ROWID;

CREATE TABLE deletion (
    uuid       TEXT NOT NULL,
    request_id BLOB NOT NULL,
    log        INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    item       INTEGER NOT NULL,
    miner      BLOB NOT NULL,
    nonce      INTEGER NOT NULL,
    bound      INTEGER NOT NULL,
    claim_ids  BLOB NOT NULL,            -- msgpack
    PRIMARY KEY (uuid, request_id, log, seq, item)
) WITHOUT ROWID;
CREATE INDEX deletion_request ON deletion (request_id);

CREATE TABLE verdict (                   -- the latest of each log: HLCs rise along a log
    claim   INTEGER NOT NULL,
    log     INTEGER NOT NULL,
    hlc     INTEGER NOT NULL,
    finding TEXT NOT NULL,
    since   INTEGER,
    method  TEXT NOT NULL,
    detail  TEXT NOT NULL,
    PRIMARY KEY (claim, log)
) WITHOUT ROWID;

CREATE TABLE placement (                 -- the latest of each log
    uuid     TEXT NOT NULL,
    claim_id BLOB NOT NULL,
    log      INTEGER NOT NULL,
    hlc      INTEGER NOT NULL,
    chute    BLOB,                       -- msgpack; NULL after a release
    PRIMARY KEY (uuid, claim_id, log)
) WITHOUT ROWID;

CREATE TABLE fork (                      -- the first rival seen of each log
    log       INTEGER PRIMARY KEY,
    seq       INTEGER NOT NULL,
    header    BLOB NOT NULL,
    signature BLOB NOT NULL,
    seen_ms   INTEGER NOT NULL
);

CREATE TABLE electorate (
    block INTEGER PRIMARY KEY,
    pins  BLOB NOT NULL                  -- msgpack, see store/pins.py
);

CREATE TABLE node (                      -- the inventory's rows, f(events, electorate)
    bucket         INTEGER NOT NULL,     -- of the state root; follows from the uuid
    uuid           TEXT NOT NULL,
    claim          INTEGER NOT NULL,
    miner          BLOB NOT NULL,
    status         TEXT NOT NULL,
    created_hlc    INTEGER NOT NULL,
    verified_since INTEGER,
    detail         TEXT NOT NULL,
    chute          BLOB,                 -- msgpack; NULL when idle
    chute_id       TEXT,
    instance_id    TEXT,
    gpu_identifier TEXT NOT NULL,
    name           TEXT NOT NULL,
    server_id      TEXT,
    digest         BLOB NOT NULL,        -- of the row, for the state root
    PRIMARY KEY (bucket, uuid)           -- one tree to write for rows and root alike
) WITHOUT ROWID;
CREATE INDEX node_open ON node (uuid) WHERE status <> 'verified';

-- This validator's own book of checks. It follows from no event, and is nobody else's business.

CREATE TABLE checks (
    claim_id BLOB PRIMARY KEY,
    due_ms   INTEGER NOT NULL,           -- Unix milliseconds; checked again from then on
    failures INTEGER NOT NULL,           -- findings other than verified, in a row
    faults   INTEGER NOT NULL,           -- times in a row that this validator could not check
    note     TEXT NOT NULL               -- why it could not, for the operator
) WITHOUT ROWID;
CREATE INDEX checks_due ON checks (due_ms);
