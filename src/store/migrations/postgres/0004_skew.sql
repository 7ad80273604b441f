-- How far the clock of a server is ahead of the database's, in microseconds, as of its
-- last heartbeat.
ALTER TABLE instances ADD COLUMN skew_us BIGINT NOT NULL DEFAULT 0;
