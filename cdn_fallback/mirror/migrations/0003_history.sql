-- The publishes that can be rolled back to.
CREATE TABLE generation (
    number   INTEGER PRIMARY KEY,
    change   INTEGER NOT NULL,               -- the last change in it
    at       INTEGER NOT NULL,               -- Unix time
    projects INTEGER NOT NULL,               -- how many had a page
    ended    INTEGER                         -- Unix time since when files of it may be doomed; NULL: none is
);
CREATE INDEX generation_change ON generation (change);
CREATE INDEX generation_ended ON generation (ended);

-- What a project was from `change` until the change `until`, told as the way back from what it was then.
CREATE TABLE former (
    project INTEGER NOT NULL REFERENCES project,
    change  INTEGER NOT NULL,
    until   INTEGER NOT NULL,
    display TEXT,                            -- NULL: it was removed
    record  BLOB                             -- JSON, zlib; NULL: it was removed
);
CREATE INDEX former_project ON former (project, until);
CREATE INDEX former_until ON former (until);
