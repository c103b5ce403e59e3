-- Version 2. What standalone keeps in the database instead of a data folder.

-- The state of each object of the manifests: status, finalizers and what the vendor was last configured with, as JSON.
-- `written` is the transaction that wrote the row: its version, and by it others find what has changed.
CREATE TABLE hookstream.objects (
    kind      text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    name      text COLLATE "C" NOT NULL,
    state     text NOT NULL,
    written   xid8 NOT NULL,
    PRIMARY KEY (kind, namespace, name)
);
CREATE INDEX objects_written ON hookstream.objects (written);

-- Secret: relays and streams are authenticated with what is derived from these keys.
CREATE TABLE hookstream.key_ring (
    id  text COLLATE "C" PRIMARY KEY,
    key bytea NOT NULL
);

-- Leases by their name, such as that of the controller. The database's clock ends a lease.
CREATE TABLE hookstream.leases (
    name        text COLLATE "C" PRIMARY KEY,
    holder      text NOT NULL,
    lease_until timestamptz NOT NULL
);
