-- The version that the sealed row of each endpoint must have, so that an older one cannot
-- be put back unseen. A row for each 64 endpoints: their versions, sealed under the master
-- key. Endpoints that were sealed before are added when they are sealed anew, after the
-- next start.
CREATE TABLE endpoint_versions (
    page   INTEGER PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT;
