-- Schema 7. Lowest build that may open it: one that knows schema 6; nothing else is read otherwise.
-- What a validator has said of a GPU is found though its claims are not known; no other place is looked through for it.

CREATE INDEX placement_of ON placement (uuid, log);
