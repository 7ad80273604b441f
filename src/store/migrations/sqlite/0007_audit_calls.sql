-- An entry of the audit log may stand for several denied calls.
ALTER TABLE audit ADD COLUMN calls INTEGER NOT NULL DEFAULT 1;
