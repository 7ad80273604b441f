-- Circuit breakers that are not closed, and silence that endpoints asked for: what must
-- outlive a restart.
CREATE TABLE circuits (
    endpoint    INTEGER PRIMARY KEY,
    failures    INTEGER NOT NULL,
    opened_at   INTEGER,
    quiet_until INTEGER
) STRICT;
