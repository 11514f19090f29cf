-- Schema 6. Lowest build that may open it: 0.1.0 that looks for a GPU's claims in its row, too.
-- GPUs lie at random, and a page is written for each: a registration writes its GPUs to one place instead of two, and a
-- place none but their rows.

-- Of the claims on a GPU here are those beside the one that has its row. Most GPUs have no other.
DELETE FROM claim_gpu WHERE (uuid, claim) IN (SELECT uuid, claim FROM node);

DROP VIEW IF EXISTS placements;          -- views are made anew at every start
ALTER TABLE placement RENAME TO placement_by_gpu;
CREATE TABLE placement (                 -- the latest of each log below its cut: what is said of one claim is together
    uuid     TEXT NOT NULL,
    claim_id BLOB NOT NULL,
    log      INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    hlc      INTEGER NOT NULL,
    chute    BLOB,                       -- msgpack; NULL after a release
    PRIMARY KEY (claim_id, uuid, log)
) WITHOUT ROWID;
INSERT INTO placement SELECT * FROM placement_by_gpu ORDER BY claim_id, uuid, log;
DROP TABLE placement_by_gpu;
