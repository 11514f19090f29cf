-- Schema 5. Lowest build that may open it: 0.1.0 with this table.
-- A registration writes fewer pages: GPUs lie at random, their claims one behind the other.

CREATE TABLE bucket_changed (            -- since its hash was written; whoever notes one knows which are here
    bucket INTEGER NOT NULL
);

DROP INDEX node_open;
CREATE INDEX node_open ON node (claim) WHERE status <> 'verified';
