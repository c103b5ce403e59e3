-- Version 1. Times are milliseconds since the Unix epoch, by the clocks of the workers; those of leases are the database's.
-- Texts of senders have COLLATE "C" and U+0000 escaped (`text.rs`). There are no foreign keys, because they would cost a
-- lookup and a lock for each written row.

CREATE TABLE hookstream.meta (name text PRIMARY KEY, value text NOT NULL);

-- A namespace has a new place each time that it is created again, so it finds no data of the deleted one.
CREATE TABLE hookstream.places (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name  text COLLATE "C" NOT NULL,
    ended boolean NOT NULL DEFAULT false,
    ended_at timestamptz                             -- by the database's clock
);
CREATE INDEX places_ended ON hookstream.places (id) WHERE ended;

CREATE TABLE hookstream.namespaces (
    name  text COLLATE "C" PRIMARY KEY,
    uid   text,
    place bigint NOT NULL,
    is_deleted boolean NOT NULL DEFAULT false        -- its deletion was observed
);

CREATE TABLE hookstream.hooks (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uid        text COLLATE "C" NOT NULL,
    place      bigint NOT NULL,
    name       text COLLATE "C" NOT NULL,
    shard      smallint NOT NULL,
    held       bigint NOT NULL DEFAULT 0,   -- total time that it was held, in ms
    held_since bigint,                      -- NULL: it is not held
    retired    timestamptz,                 -- since when it is not used; the sweep removes it after an hour
    UNIQUE (uid)
);
CREATE INDEX hooks_name ON hookstream.hooks (place, name);
CREATE INDEX hooks_held ON hookstream.hooks (uid) WHERE held_since IS NOT NULL;

-- The backlog of each hook, as each writer counted it: their sum is the backlog, and no writer waits for another. One row
-- may be negative.
CREATE TABLE hookstream.backlog (
    hook       bigint NOT NULL,
    writer     bigint NOT NULL,
    deliveries bigint NOT NULL,
    bytes      bigint NOT NULL,
    PRIMARY KEY (hook, writer)
) WITH (fillfactor = 70);

CREATE SEQUENCE hookstream.event_seq;

CREATE TABLE hookstream.events (
    seq        bigint PRIMARY KEY,
    place      bigint NOT NULL,
    accepted   bigint NOT NULL,
    is_loose   boolean NOT NULL,            -- no delivery refers to it (any more)
    unmatched  boolean NOT NULL,            -- accepted without deliveries
    id         text COLLATE "C" NOT NULL,
    origin     text COLLATE "C" NOT NULL,
    source     text COLLATE "C" NOT NULL,
    event      text COLLATE "C" NOT NULL,
    time       text COLLATE "C" NOT NULL,
    attributes text COLLATE "C",            -- NULL: none
    data       bytea NOT NULL,
    kept_until bigint,                      -- the end of its idempotency window; NULL: it has no key
    is_bare    boolean NOT NULL DEFAULT false   -- retention has removed its data, and a duplicate still finds its id
);
CREATE INDEX events_id ON hookstream.events (place, id, seq);
CREATE INDEX events_loose ON hookstream.events (accepted, seq) WHERE is_loose;
CREATE INDEX events_bare ON hookstream.events (kept_until, seq) WHERE is_bare;
CREATE INDEX events_unmatched ON hookstream.events (place, seq) WHERE unmatched;
-- Lists of all namespaces.
CREATE INDEX events_unmatched_all ON hookstream.events (seq) WHERE unmatched;

-- Deliveries that wait for an attempt. Small, so its own settings. `seq` is the event's number, shifted by 20 bits, and the
-- number of the delivery in its event.
CREATE TABLE hookstream.pending (
    seq             bigint PRIMARY KEY,
    hook            bigint NOT NULL,
    place           bigint NOT NULL,
    id              uuid NOT NULL,
    is_candidate    boolean NOT NULL DEFAULT false,  -- a trailing candidate of its gate
    due             bigint NOT NULL,
    began           bigint NOT NULL,                 -- when its age started: accepted, replayed or revived
    accepted        bigint NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    attempts_before integer NOT NULL DEFAULT 0,      -- those before it was replayed or revived
    held_before     bigint NOT NULL,                 -- total time that its hook was held when its age started
    suppressed      integer NOT NULL DEFAULT 0,
    replays         integer NOT NULL DEFAULT 0,
    size            integer NOT NULL,
    reason          text,
    progress        bytea,
    first_at        bigint,                          -- the attempt that delivered it at once, before a replay
    first_micros    bigint,
    first_status    integer
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX pending_due ON hookstream.pending (hook, due, seq) WHERE NOT is_candidate;
CREATE INDEX pending_newest ON hookstream.pending (hook, seq);
CREATE INDEX pending_place ON hookstream.pending (place, seq);   -- lists of a namespace; its end
-- Ids of older versions, which hold no sequence number: see `old_ids.rs`. Only a store that was copied from SQLite has some.
CREATE INDEX pending_old_id ON hookstream.pending (id) WHERE (get_byte(uuid_send(id), 6) >> 4) <> 8;

-- Deliveries that were delivered, died, were dropped by a gate or cancelled. `state` as in `state.rs`.
CREATE TABLE hookstream.finished (
    seq             bigint PRIMARY KEY,
    hook            bigint NOT NULL,
    place           bigint NOT NULL,
    id              uuid NOT NULL,
    state           smallint NOT NULL,
    finished_at     bigint NOT NULL,
    accepted        bigint NOT NULL,
    attempts        integer NOT NULL,
    attempts_before integer NOT NULL,
    suppressed      integer NOT NULL,
    replays         integer NOT NULL,
    size            integer NOT NULL,
    reason          text,
    progress        bytea,
    first_at        bigint,                          -- the attempt that delivered it at once has no row in attempts
    first_micros    bigint,
    first_status    integer
);
CREATE INDEX finished_hook ON hookstream.finished (hook, seq);
CREATE INDEX finished_place ON hookstream.finished (place, seq);
CREATE INDEX finished_old_id ON hookstream.finished (id) WHERE (get_byte(uuid_send(id), 6) >> 4) <> 8;
-- Lists of dead letters, which are few among the delivered.
CREATE INDEX finished_dead_hook ON hookstream.finished (hook, seq) WHERE state = 2;
CREATE INDEX finished_dead_place ON hookstream.finished (place, seq) WHERE state = 2;
CREATE INDEX finished_dead_all ON hookstream.finished (seq) WHERE state = 2;
-- The sizes are included, because retention sums them without reading the rows.
CREATE INDEX finished_age ON hookstream.finished (finished_at, seq) INCLUDE (size) WHERE state <> 2;
CREATE INDEX finished_dead ON hookstream.finished (finished_at, seq) INCLUDE (size) WHERE state = 2;

CREATE TABLE hookstream.attempts (
    delivery bigint NOT NULL,
    n        integer NOT NULL,
    at       bigint NOT NULL,
    micros   bigint NOT NULL,
    status   integer,
    error    text,
    detail   text,
    PRIMARY KEY (delivery, n)
);

CREATE TABLE hookstream.exchanges (
    delivery bigint PRIMARY KEY,
    place    bigint NOT NULL,
    bytes    integer NOT NULL,
    content  bytea NOT NULL
);
CREATE INDEX exchanges_place ON hookstream.exchanges (place, delivery) INCLUDE (bytes);

-- Idempotency keys, 16 bytes as in SQLite, so that they can be copied. Partitioned by hash, because partitions by day would accept repeats at midnight.
CREATE TABLE hookstream.keys (
    place   bigint NOT NULL,
    key     bytea NOT NULL,
    expires bigint NOT NULL,
    event   bigint NOT NULL,
    PRIMARY KEY (key, place)
) PARTITION BY HASH (key);
CREATE TABLE hookstream.keys_0 PARTITION OF hookstream.keys FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE hookstream.keys_1 PARTITION OF hookstream.keys FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE hookstream.keys_2 PARTITION OF hookstream.keys FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE hookstream.keys_3 PARTITION OF hookstream.keys FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE hookstream.keys_4 PARTITION OF hookstream.keys FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE hookstream.keys_5 PARTITION OF hookstream.keys FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE hookstream.keys_6 PARTITION OF hookstream.keys FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE hookstream.keys_7 PARTITION OF hookstream.keys FOR VALUES WITH (MODULUS 8, REMAINDER 7);
CREATE INDEX keys_expires ON hookstream.keys (expires);

-- The memory of gates. A row is locked before the candidate of its group is changed.
CREATE TABLE hookstream.gates (
    hook        bigint NOT NULL,
    kind        smallint NOT NULL,                   -- 0: onChange, 1: snooze
    key         bytea NOT NULL,
    value       bytea,
    quiet_until bigint,
    owner       bigint,                              -- the delivery that set it
    suppressed  integer NOT NULL DEFAULT 0,
    used        bigint NOT NULL,
    PRIMARY KEY (hook, kind, key)
) WITH (fillfactor = 80);
CREATE INDEX gates_owner ON hookstream.gates (owner) WHERE owner IS NOT NULL;
CREATE INDEX gates_used ON hookstream.gates (used);

CREATE TABLE hookstream.candidates (
    hook         bigint NOT NULL,
    key          bytea NOT NULL,
    delivery     bigint NOT NULL UNIQUE,
    due          bigint NOT NULL,
    period       bigint NOT NULL,
    change_key   bytea,
    change_value bytea,
    PRIMARY KEY (hook, key)
);
CREATE INDEX candidates_due ON hookstream.candidates (due, delivery);

CREATE TABLE hookstream.replays (
    id        uuid PRIMARY KEY,
    place     bigint NOT NULL,
    filter    text NOT NULL,
    rate      bigint NOT NULL,
    started   bigint NOT NULL,
    stepped   bigint NOT NULL,                       -- the time up to which its rate was used
    at        bigint NOT NULL,                       -- the last position that was examined
    top       bigint NOT NULL,                       -- the last position to examine
    replayed  bigint NOT NULL DEFAULT 0,
    done_at   bigint,
    cancelled boolean NOT NULL DEFAULT false
);
CREATE INDEX replays_place ON hookstream.replays (place);

-- One row for each running process. The database's clock ends its lease. An ended lease is never renewed.
CREATE TABLE hookstream.workers (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL,
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- The writers of a process: its queues of accepts and of outcomes, and its other operations. `groups` counts its committed
-- transactions, by which it learns whether one committed whose answer was lost.
CREATE TABLE hookstream.writers (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    worker bigint NOT NULL,
    groups bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX writers_worker ON hookstream.writers (worker);

-- The owner of the hooks whose uid has this hash. Changes only at a transfer; each one raises the epoch.
CREATE TABLE hookstream.shards (
    shard smallint PRIMARY KEY,
    owner bigint,
    epoch bigint NOT NULL DEFAULT 0
);
INSERT INTO hookstream.shards (shard) SELECT generate_series(0, 255);

-- Deliveries that were being attempted when their shard went to another worker: that worker leaves them alone while the lease
-- of the former owner lasts.
CREATE TABLE hookstream.in_flight (
    delivery bigint PRIMARY KEY,
    worker   bigint NOT NULL
);
CREATE INDEX in_flight_worker ON hookstream.in_flight (worker);
