-- Version 5. Names of states of standalone that were deleted. Without them, every process would count all states once a second,
-- and read all of them after each deletion.

CREATE TABLE hookstream.deleted_objects (
    kind       text COLLATE "C" NOT NULL,
    namespace  text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    written    xid8 NOT NULL,                        -- the transaction that deleted it
    deleted_at timestamptz NOT NULL,                 -- by the database's clock
    PRIMARY KEY (kind, namespace, name)
);
CREATE INDEX deleted_objects_written ON hookstream.deleted_objects (written);
CREATE INDEX deleted_objects_age ON hookstream.deleted_objects (deleted_at);

-- A trigger, because processes of the previous version delete states too. It removes what every process has read: one that did
-- not read for ten minutes reads all states.
CREATE FUNCTION hookstream.record_deleted_object() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO hookstream.deleted_objects (kind, namespace, name, written, deleted_at)
    VALUES (OLD.kind, OLD.namespace, OLD.name, pg_current_xact_id(), clock_timestamp())
    ON CONFLICT (kind, namespace, name) DO UPDATE SET written = excluded.written, deleted_at = excluded.deleted_at;
    DELETE FROM hookstream.deleted_objects WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM hookstream.deleted_objects WHERE deleted_at < clock_timestamp() - interval '1 hour'
        ORDER BY deleted_at LIMIT 100 FOR UPDATE SKIP LOCKED));
    RETURN NULL;
END $$;
CREATE TRIGGER record_deleted AFTER DELETE ON hookstream.objects
    FOR EACH ROW EXECUTE FUNCTION hookstream.record_deleted_object();
