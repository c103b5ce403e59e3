//! Format 10: the tables for events that no hook matched, and for kept responses.

/// A program of format 9 ignores the tables. What it removes stays in them until the next sweep of a later program.
pub(super) const V10: &str = "
-- Events that were accepted without deliveries, in the order of acceptance.
CREATE TABLE unmatched (
    event     INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    accepted  INTEGER NOT NULL,
    bytes     INTEGER NOT NULL
);
CREATE INDEX unmatched_namespace ON unmatched (namespace, event, bytes);

-- The request and the response of the last attempt, without secrets.
CREATE TABLE exchanges (
    delivery  INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    bytes     INTEGER NOT NULL,
    content   TEXT NOT NULL
);
CREATE INDEX exchanges_namespace ON exchanges (namespace, delivery, bytes);
";
