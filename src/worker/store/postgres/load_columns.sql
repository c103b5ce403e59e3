-- Version 3. The loads by which shards are moved, in attempts a second.

-- Of the worker. NULL: it has not measured for long enough, or is of an older version.
ALTER TABLE hookstream.workers ADD COLUMN load double precision;
-- Of the shard at its last transfer.
ALTER TABLE hookstream.shards ADD COLUMN load double precision NOT NULL DEFAULT 0;
