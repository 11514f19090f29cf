-- What operators read, with sqlite3 or through the admin socket, while the daemon runs. Made anew at every start.
-- Times are UTC texts; ids are lower-case hex; hotkeys are SS58 addresses.

-- One row per GPU of the inventory.
--   uuid, hotkey (its miner), claim_id (the claim that owns it), status (pending, verified, failed),
--   gpu_identifier, name (as the miner says), created_at, verified_at, detail (why the vote failed),
--   chute_id and instance_id (what runs on it, NULL when idle), server_id (as the miner says),
--   bucket (of the state root; with uuid the key of the row)
DROP VIEW IF EXISTS inventory;
CREATE VIEW inventory AS
SELECT n.uuid, a.address AS hotkey, lower(hex(c.claim_id)) AS claim_id, n.status, n.gpu_identifier, n.name,
       strftime('%Y-%m-%dT%H:%M:%fZ', (n.created_hlc >> 16) / 1000.0, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', (n.verified_since >> 16) / 1000.0, 'unixepoch') AS verified_at,
       n.detail, n.chute_id, n.instance_id, n.server_id, n.bucket
FROM node n JOIN claim c USING (claim) JOIN address a ON a.hotkey = n.miner;

-- One row per claim.
--   claim_id, task_id, hotkey (its miner), nonce (Unix seconds), gpus (how many), status (of the vote),
--   verified_since, detail (why the vote failed), created_at (when its first event was written)
DROP VIEW IF EXISTS claims;
CREATE VIEW claims AS
SELECT lower(hex(c.claim_id)) AS claim_id, a.address || '::' || substr(lower(hex(c.claim_id)), 1, 32) AS task_id,
       a.address AS hotkey, c.nonce,
       instr('123456789A', substr(hex(substr(c.uuids, 1, 1)), 2)) AS gpus,  -- msgpack: 9 and their number
       c.status,
       strftime('%Y-%m-%dT%H:%M:%fZ', (c.since >> 16) / 1000.0, 'unixepoch') AS verified_since, c.detail,
       strftime('%Y-%m-%dT%H:%M:%fZ', (SELECT min(hlc) >> 16 FROM carriage r WHERE r.claim = c.claim) / 1000.0,
                'unixepoch') AS created_at
FROM claim c JOIN address a ON a.hotkey = c.miner;

-- One row per claim and validator log: the latest verdict.
--   claim_id, validator, finding (verified, failed, abstain), method, detail,
--   since (when its unbroken run of verified began), at (when the verdict was written)
DROP VIEW IF EXISTS verdicts;
CREATE VIEW verdicts AS
SELECT lower(hex(c.claim_id)) AS claim_id, a.address AS validator, v.finding, v.method, v.detail,
       strftime('%Y-%m-%dT%H:%M:%fZ', (v.since >> 16) / 1000.0, 'unixepoch') AS since,
       strftime('%Y-%m-%dT%H:%M:%fZ', (v.hlc >> 16) / 1000.0, 'unixepoch') AS at
FROM verdict v JOIN claim c USING (claim) JOIN logs l USING (log) JOIN address a USING (hotkey);

-- One row per GPU, claim and validator log: the latest word on what runs there. It counts while its author is enrolled
-- and the claim owns the GPU; inventory has the chute that counts.
--   uuid, claim_id, validator, placed (1, or 0 after a release), at (when that was written)
DROP VIEW IF EXISTS placements;
CREATE VIEW placements AS
SELECT p.uuid, lower(hex(p.claim_id)) AS claim_id,
       -- not joined: SQLite would go through all of them by the index, and look up each
       (SELECT a.address FROM logs l JOIN address a USING (hotkey) WHERE l.log = p.log) AS validator,
       p.chute NOTNULL AS placed, strftime('%Y-%m-%dT%H:%M:%fZ', (p.hlc >> 16) / 1000.0, 'unixepoch') AS at
FROM placement p;

-- One row per log of each validator: who writes it, where it says it listens, how far we hold it.
--   hotkey, node_key, number (of the log), url, delegated_until, events (held), last_event_at,
--   forked (seq of its lowest fork, or NULL), closed (events that its closing leaves good, or NULL),
--   cut (first seq that counts for nothing, or NULL)
DROP VIEW IF EXISTS peers;
CREATE VIEW peers AS
SELECT a.address AS hotkey, lower(hex(l.node_key)) AS node_key, l.number, d.url,
       strftime('%Y-%m-%dT%H:%M:%SZ', d.not_after, 'unixepoch') AS delegated_until,
       (SELECT max(seq) + 1 FROM events e WHERE e.log = l.log) AS events,
       strftime('%Y-%m-%dT%H:%M:%fZ', (SELECT hlc >> 16 FROM events e WHERE e.log = l.log ORDER BY seq DESC LIMIT 1)
                / 1000.0, 'unixepoch') AS last_event_at,
       f.seq AS forked, CASE WHEN c.hotkey NOTNULL THEN coalesce(c.seq + 1, 0) END AS closed, l.cut
FROM logs l JOIN address a USING (hotkey)
LEFT JOIN delegations d ON d.log = l.log
    AND d.seq = (SELECT max(seq) FROM delegations m WHERE m.log = l.log AND (l.cut IS NULL OR m.seq < l.cut))
LEFT JOIN fork f ON f.node_key = l.node_key AND f.number = l.number
LEFT JOIN closing c ON c.node_key = l.node_key AND c.number = l.number AND c.hotkey = l.hotkey;

-- One row per stored event, in order of arrival here.
--   position, node_key and number (its log), seq, id, kind, at (its HLC), author (hotkey),
--   state (valid, void, unknown, cut: at or above the cut of its log), reason (why void), bytes (on the wire)
DROP VIEW IF EXISTS event_log;
CREATE VIEW event_log AS
SELECT e.position, lower(hex(l.node_key)) AS node_key, l.number, e.seq, lower(hex(e.id)) AS id, e.kind,
       strftime('%Y-%m-%dT%H:%M:%fZ', (e.hlc >> 16) / 1000.0, 'unixepoch') AS at, a.address AS author,
       CASE WHEN NOT e.judged THEN 'unknown' WHEN e.void NOTNULL THEN 'void' WHEN e.seq >= l.cut THEN 'cut'
            ELSE 'valid' END AS state,
       e.void AS reason, length(e.wire) AS bytes
FROM events e JOIN logs l USING (log) JOIN address a USING (hotkey);
