-- Attempts that were still under way some time after they began, until their result is
-- stored. `epoch` is that of the shard under which the attempt began: what is left here
-- of an older epoch was cut off by the end of the server that owned the shard.
CREATE TABLE starts (
    delivery   BIGINT PRIMARY KEY,
    endpoint   BIGINT NOT NULL,
    number     BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    epoch      BIGINT NOT NULL
);
