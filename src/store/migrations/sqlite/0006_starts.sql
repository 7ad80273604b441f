-- Attempts that were still under way some time after they began, until their result is
-- stored. What is left here when the server starts was cut off by its end.
CREATE TABLE starts (
    delivery   INTEGER PRIMARY KEY,
    endpoint   INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    epoch      INTEGER NOT NULL
) STRICT;
