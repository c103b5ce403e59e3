-- Version 4. The breakers and rate limits of hooks move along with their shards.

-- The epoch under which the last owner gave the shard away in order: `load` and the rows of `pacing` are then complete. Another
-- one: it ended without notice, or is of an older version.
ALTER TABLE hookstream.shards ADD COLUMN given_epoch bigint NOT NULL DEFAULT 0;
-- Rate limits without a row had no tokens at this time: an earlier owner had ended without notice. NULL: they are full.
ALTER TABLE hookstream.shards ADD COLUMN empty_since timestamptz;

-- What limits the attempts of a hook, as its owner wrote it under this epoch of the shard: when it gave the shard away, and soon
-- after the breaker had opened or closed. A hook without a row is not limited. `state`: JSON, with times relative to `written`.
CREATE TABLE hookstream.pacing (
    uid     text COLLATE "C" PRIMARY KEY,            -- of the hook
    shard   smallint NOT NULL,
    epoch   bigint NOT NULL,
    written timestamptz NOT NULL,                    -- by the database's clock
    state   text NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX pacing_shard ON hookstream.pacing (shard);
