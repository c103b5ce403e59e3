-- Version 6. The tokens of slow rate limits outlive owners that end without notice.

-- The last epoch of the shard whose owner started an attempt of the hook only after its token was taken in `state`. So the owner of
-- the next epoch may use the tokens in `state`. NULL, or an earlier epoch: they may be used up. A worker of an older version raises
-- `epoch` only.
ALTER TABLE hookstream.pacing ADD COLUMN tokens_epoch bigint;
