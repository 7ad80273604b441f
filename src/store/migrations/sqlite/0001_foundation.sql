-- Instants and spans are microseconds, flags 0 or 1. Every table carries the
-- tenant. A `pos` is a number of the feed: the key of a row and the number of the
-- change that made it, so the feed needs no table of its own.

-- One row a fact: `position` (last number given), `compacted` (last number the
-- feed has forgotten), `incarnation` (random, made with the store), `clean` (1
-- after an orderly stop).
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tenants (
    key        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

-- Deleted endpoints stay as rows, so that their deliveries keep a name and their
-- ids are never used again.
CREATE TABLE endpoints (
    key        INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant     INTEGER NOT NULL REFERENCES tenants (key),
    id         TEXT NOT NULL,
    version    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER,
    config     TEXT NOT NULL,
    secrets    TEXT NOT NULL,
    UNIQUE (tenant, id)
) STRICT;

-- The deliveries that publishing made are the `fanout` rows of `deliveries` that
-- follow the event's own position.
CREATE TABLE events (
    pos             INTEGER PRIMARY KEY,
    tenant          INTEGER NOT NULL REFERENCES tenants (key),
    salt            INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    fanout          INTEGER NOT NULL,
    priority        INTEGER NOT NULL,
    deliver_at      INTEGER,
    expires_at      INTEGER,
    type            TEXT NOT NULL,
    idempotency_key TEXT,
    metadata        TEXT,
    content_type    TEXT NOT NULL,
    payload         BLOB NOT NULL
) STRICT;

CREATE TABLE idempotency (
    tenant     INTEGER NOT NULL,
    key        TEXT NOT NULL,
    hash       BLOB NOT NULL,
    event      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_expiry ON idempotency (expires_at);

CREATE TABLE deliveries (
    pos          INTEGER PRIMARY KEY,
    tenant       INTEGER NOT NULL,
    event        INTEGER NOT NULL,
    endpoint     INTEGER NOT NULL,
    salt         INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    trigger      INTEGER NOT NULL,
    priority     INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    expires_at   INTEGER,
    replay_of    BLOB,
    letter       BLOB,
    state        INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    first_due_at INTEGER NOT NULL,
    due_at       INTEGER NOT NULL,
    turn_at      INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    revision     INTEGER NOT NULL,
    last_change  INTEGER NOT NULL,
    last_at      INTEGER,
    last_us      INTEGER,
    status       INTEGER,
    cause        INTEGER,
    retryable    INTEGER,
    message      TEXT,
    CHECK (state BETWEEN 0 AND 6),
    CHECK ((last_at IS NULL) = (attempts = 0))
) STRICT;

-- Lists by endpoint.
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint, pos);
-- Lanes: what waits for an endpoint, nearest turn first.
CREATE INDEX deliveries_waiting ON deliveries (endpoint, turn_at, pos) WHERE state < 2;
-- Expirations of what waits behind a lane's window.
CREATE INDEX deliveries_expiring ON deliveries (expires_at) WHERE state < 2 AND expires_at IS NOT NULL;
-- Lists by event: the replays, which do not follow their event's position.
CREATE INDEX deliveries_replays ON deliveries (event) WHERE replay_of IS NOT NULL;

-- Every change of a delivery after its making, with the attempt that caused it.
-- The changes of one delivery are a chain: `prev` is the change before, or the
-- delivery's own position.
CREATE TABLE changes (
    pos           INTEGER PRIMARY KEY,
    tenant        INTEGER NOT NULL,
    delivery      INTEGER NOT NULL,
    prev          INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    previous      INTEGER NOT NULL,
    state         INTEGER NOT NULL,
    attempts      INTEGER NOT NULL,
    due_at        INTEGER NOT NULL,
    revision      INTEGER NOT NULL,
    is_attempt    INTEGER NOT NULL,
    last_at       INTEGER,
    last_us       INTEGER,
    status        INTEGER,
    cause         INTEGER,
    retryable     INTEGER,
    message       TEXT,
    dns_us        INTEGER,
    connect_us    INTEGER,
    tls_us        INTEGER,
    first_byte_us INTEGER,
    response      TEXT
) STRICT;

-- Where the feed stood when: at most one row in ten seconds.
CREATE TABLE marks (
    at  INTEGER PRIMARY KEY,
    pos INTEGER NOT NULL
) STRICT;

-- What is kept of a delivery that was given up, besides the delivery.
CREATE TABLE dead_letters (
    delivery        INTEGER PRIMARY KEY,
    tenant          INTEGER NOT NULL,
    endpoint        INTEGER NOT NULL,
    state           INTEGER NOT NULL,
    reason          INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    message         TEXT NOT NULL,
    first_failed_at INTEGER NOT NULL,
    last_failed_at  INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    replays         INTEGER NOT NULL,
    last_replay_at  INTEGER,
    replay          BLOB,
    CHECK ((last_replay_at IS NULL) = (replay IS NULL))
) STRICT;

CREATE INDEX dead_letters_by_endpoint ON dead_letters (endpoint, delivery);
CREATE INDEX dead_letters_expiry ON dead_letters (expires_at);

CREATE TABLE operations (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant     INTEGER NOT NULL,
    salt       INTEGER NOT NULL,
    kind       INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    ended_at   INTEGER,
    total      INTEGER NOT NULL,
    succeeded  INTEGER NOT NULL,
    failed     INTEGER NOT NULL,
    skipped    INTEGER NOT NULL,
    failures   TEXT NOT NULL,
    filter     TEXT NOT NULL,
    per_second REAL NOT NULL,
    cursor     INTEGER NOT NULL
) STRICT;

CREATE INDEX operations_unfinished ON operations (seq) WHERE ended_at IS NULL;

INSERT INTO meta VALUES ('position', 0), ('compacted', 0);
INSERT INTO tenants VALUES (1, 'default', 0);
