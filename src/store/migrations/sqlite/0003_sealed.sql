-- What of an endpoint may be secret, sealed under the master key: signing secrets,
-- header values, authentication, TLS options. Empty for a deleted endpoint. NULL
-- for a row of before, which has its secrets in `secrets` and its headers in
-- `config` until it is sealed after the next start; `secrets` is '[]' from then on.
ALTER TABLE endpoints ADD COLUMN sealed BLOB;

-- The master keys that something may be sealed under, each with a constant sealed
-- under it, which tells whether a key given at the start is that key.
CREATE TABLE vault (
    key   BLOB PRIMARY KEY,
    proof BLOB NOT NULL
) STRICT, WITHOUT ROWID;
