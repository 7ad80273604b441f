-- What is set for a tenant, as JSON. Deleted tenants stay as rows, so that their
-- ids are never used again.
ALTER TABLE tenants ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE tenants ADD COLUMN updated_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tenants ADD COLUMN deleted_at INTEGER;
ALTER TABLE tenants ADD COLUMN config TEXT;

-- What a tenant uses, written in every transaction that changes it: a count of
-- rows would take the longer the more of them there are. `day` is the UTC day
-- that `events` counts for.
CREATE TABLE usage (
    tenant       INTEGER PRIMARY KEY REFERENCES tenants (key),
    day          INTEGER NOT NULL,
    events       INTEGER NOT NULL,
    open         INTEGER NOT NULL,
    queued_bytes INTEGER NOT NULL
) STRICT;

INSERT INTO usage
SELECT d.tenant, 0, 0, count(*), sum(length(e.payload))
FROM deliveries d JOIN events e ON e.pos = d.event
WHERE d.state < 2 GROUP BY d.tenant;

-- Tokens are kept as their SHA-256. No tenant: any, for administrators.
CREATE TABLE api_keys (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,
    id            BLOB NOT NULL UNIQUE,
    tenant        INTEGER REFERENCES tenants (key),
    hash          BLOB NOT NULL,
    previous      BLOB,
    previous_ends INTEGER,
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER,
    revoked_at    INTEGER,
    last_used_at  INTEGER,
    config        TEXT NOT NULL,
    CHECK ((previous IS NULL) = (previous_ends IS NULL))
) STRICT;

CREATE TABLE audit (
    sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    key        BLOB,
    tenant     TEXT NOT NULL,
    method     TEXT NOT NULL,
    resource   TEXT NOT NULL,
    code       INTEGER NOT NULL,
    address    TEXT,
    request_id TEXT NOT NULL
) STRICT;
