-- Schema 3. Lowest build that may open it: 0.1.0 with these tables.
-- What the public views show is counted as rows come and go: a read costs what it shows, and no change costs a scan.
-- Who inserts rows counts them (store/supply.py), many at once; the triggers count what changes and goes.
-- A row is never replaced (INSERT OR REPLACE fires no trigger for what it replaces): it goes, and the other one comes.

CREATE TABLE supply (                    -- GPUs by miner and model
    miner          BLOB NOT NULL,
    gpu_identifier TEXT NOT NULL,
    provisioned    INTEGER NOT NULL,
    idle           INTEGER NOT NULL,
    PRIMARY KEY (miner, gpu_identifier)
) WITHOUT ROWID;

CREATE TABLE tenancy (                   -- provisioned GPUs by miner, model and what runs on them
    miner          BLOB NOT NULL,
    gpu_identifier TEXT NOT NULL,
    chute          BLOB NOT NULL,        -- as in node
    gpus           INTEGER NOT NULL,
    PRIMARY KEY (miner, gpu_identifier, chute)
) WITHOUT ROWID;

INSERT INTO supply
SELECT miner, gpu_identifier, count(chute), count(*) - count(chute) FROM node GROUP BY miner, gpu_identifier;
INSERT INTO tenancy
SELECT miner, gpu_identifier, chute, count(*) FROM node WHERE chute NOTNULL GROUP BY miner, gpu_identifier, chute;

CREATE TRIGGER node_changed AFTER UPDATE OF chute ON node WHEN NEW.chute IS NOT OLD.chute BEGIN
    UPDATE supply SET provisioned = provisioned + (NEW.chute NOTNULL) - (OLD.chute NOTNULL),
        idle = idle + (NEW.chute ISNULL) - (OLD.chute ISNULL)
        WHERE miner = NEW.miner AND gpu_identifier = NEW.gpu_identifier;
    UPDATE tenancy SET gpus = gpus - 1
        WHERE miner = OLD.miner AND gpu_identifier = OLD.gpu_identifier AND chute = OLD.chute;
    DELETE FROM tenancy
        WHERE miner = OLD.miner AND gpu_identifier = OLD.gpu_identifier AND chute = OLD.chute AND gpus = 0;
    INSERT INTO tenancy SELECT NEW.miner, NEW.gpu_identifier, NEW.chute, 1 WHERE NEW.chute NOTNULL
        ON CONFLICT (miner, gpu_identifier, chute) DO UPDATE SET gpus = gpus + 1;
END;

CREATE TRIGGER node_went AFTER DELETE ON node BEGIN
    UPDATE supply SET provisioned = provisioned - (OLD.chute NOTNULL), idle = idle - (OLD.chute ISNULL)
        WHERE miner = OLD.miner AND gpu_identifier = OLD.gpu_identifier;
    DELETE FROM supply
        WHERE miner = OLD.miner AND gpu_identifier = OLD.gpu_identifier AND provisioned = 0 AND idle = 0;
    UPDATE tenancy SET gpus = gpus - 1
        WHERE miner = OLD.miner AND gpu_identifier = OLD.gpu_identifier AND chute = OLD.chute;
    DELETE FROM tenancy
        WHERE miner = OLD.miner AND gpu_identifier = OLD.gpu_identifier AND chute = OLD.chute AND gpus = 0;
END;
