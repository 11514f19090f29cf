-- Schema 1. Lowest build that may open it: 0.1.0.
-- The log (logs, events) and the proofs of where logs end (fork, closing) are the truth; every other table is derived
-- from them and can be rebuilt from them.

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
    cut      INTEGER,                -- first seq that counts for nothing (fork, closing); NULL while all of it counts
    UNIQUE (node_key, number)
);
CREATE INDEX logs_cut ON logs (log, cut) WHERE cut NOTNULL;

CREATE TABLE events (
    position INTEGER PRIMARY KEY,    -- order of arrival here; differs between peers
    log      INTEGER NOT NULL REFERENCES logs (log),
    seq      INTEGER NOT NULL,
    id       BLOB NOT NULL,
    hlc      INTEGER NOT NULL,
    hlc_max  INTEGER NOT NULL,       -- highest HLC of its log up to here: void events' need not rise
    kind     TEXT NOT NULL,
    judged   INTEGER NOT NULL,       -- 0: of a kind or version that this build does not know
    void     TEXT,                   -- why the event is void; NULL when valid or not judged
    before   BLOB,                   -- of a verdict, place or release below the cut: seq of the word of its log that
                                     -- it replaces, for each GPU; msgpack, NULL when it replaces none
    wire     BLOB NOT NULL,          -- the signed bytes as received
    UNIQUE (log, seq)
);

-- Where logs end, proved by signatures. By log and not by its row, because a proof may come before its log.

CREATE TABLE fork (                  -- the lowest fork of each log: two signed headers, in ascending order of their ids
    node_key         BLOB NOT NULL,
    number           INTEGER NOT NULL,
    seq              INTEGER NOT NULL,
    first            BLOB NOT NULL,
    first_signature  BLOB NOT NULL,
    second           BLOB NOT NULL,
    second_signature BLOB NOT NULL,
    seen_ms          INTEGER NOT NULL,
    PRIMARY KEY (node_key, number)
) WITHOUT ROWID;

CREATE TABLE closing (               -- the lowest closing of each log by each hotkey: only that of the log counts
    node_key  BLOB NOT NULL,
    number    INTEGER NOT NULL,
    hotkey    BLOB NOT NULL,
    seq       INTEGER,               -- of the last event that it leaves good; NULL for none
    id        BLOB,                  -- of that event
    signature BLOB NOT NULL,
    seen_ms   INTEGER NOT NULL,
    PRIMARY KEY (node_key, number, hotkey)
) WITHOUT ROWID;

-- What valid events state. One row per statement, never per opinion of who counts; only of verdicts and places, of
-- which each log has a latest one, those at or above its cut are left out.

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

CREATE TABLE verdict (                   -- the latest of each log below its cut: HLCs rise along a log
    claim   INTEGER NOT NULL,
    log     INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    hlc     INTEGER NOT NULL,
    finding TEXT NOT NULL,
    since   INTEGER,
    method  TEXT NOT NULL,
    detail  TEXT NOT NULL,
    PRIMARY KEY (claim, log)
) WITHOUT ROWID;

CREATE TABLE placement (                 -- the latest of each log below its cut
    uuid     TEXT NOT NULL,
    claim_id BLOB NOT NULL,
    log      INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    hlc      INTEGER NOT NULL,
    chute    BLOB,                       -- msgpack; NULL after a release
    PRIMARY KEY (uuid, claim_id, log)
) WITHOUT ROWID;

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
