-- Version 3. How workers divide the shards: by load, in attempts a second, and not to a worker that is stopping.

-- Of the shard at its last transfer. Shards first: workers lock them in this order, so that none of both waits for the other.
ALTER TABLE hookstream.shards ADD COLUMN load double precision NOT NULL DEFAULT 0;
-- Of the worker. NULL: it has not measured for long enough, or is of an older version.
ALTER TABLE hookstream.workers ADD COLUMN load double precision;
-- It gives its shards away and gets none, and its lease lasts while its last attempts are in flight.
ALTER TABLE hookstream.workers ADD COLUMN is_leaving boolean NOT NULL DEFAULT false;
