-- What the index says, and what of it is published. Hashes: a blob is a sha256 alone, text is JSON of several.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value ANY
) WITHOUT ROWID;

CREATE TABLE project (
    id            INTEGER PRIMARY KEY,
    name          TEXT NOT NULL UNIQUE,      -- normalised
    display       TEXT NOT NULL,
    change        INTEGER NOT NULL,          -- the catalog's number of its last change
    removed       INTEGER NOT NULL DEFAULT 0,-- 1: a tombstone, which has no files
    published     INTEGER,                   -- the serial that its published page shows; NULL: it has none
    token         TEXT NOT NULL DEFAULT '',
    serial        INTEGER,
    status        TEXT,
    status_reason TEXT,
    versions      TEXT NOT NULL DEFAULT '',  -- separated by spaces
    meta          TEXT,                      -- JSON
    extra         TEXT,                      -- JSON
    state         TEXT NOT NULL DEFAULT ''
);
CREATE INDEX project_change ON project (change);

CREATE TABLE file (
    project         INTEGER NOT NULL REFERENCES project,
    filename        TEXT NOT NULL,
    version         TEXT NOT NULL,
    key             TEXT NOT NULL,
    url             TEXT NOT NULL,
    moved           INTEGER NOT NULL,        -- 1: `key` once held other bytes, so the digest stands in its place
    hashes          ANY,
    size            INTEGER,
    upload_time     TEXT,
    requires_python TEXT,
    yanked          TEXT,
    core_metadata   ANY,
    provenance      TEXT,
    extra           TEXT,                    -- JSON
    state           TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (project, filename)
) WITHOUT ROWID;

-- Files that a project had and has no longer.
CREATE TABLE removed_file (
    project  INTEGER NOT NULL REFERENCES project,
    filename TEXT NOT NULL,
    key      TEXT NOT NULL,                  -- where it was published; empty: nowhere
    hashes   ANY,
    change   INTEGER NOT NULL
);
CREATE INDEX removed_file_key ON removed_file (key) WHERE key <> '';
CREATE INDEX removed_file_change ON removed_file (change);

-- Files beside the index: documentation and the like.
CREATE TABLE static (
    key     TEXT PRIMARY KEY,
    path    TEXT NOT NULL,
    sha256  BLOB NOT NULL,
    size    INTEGER NOT NULL,
    state   TEXT NOT NULL,
    change  INTEGER NOT NULL,
    removed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX static_change ON static (change);

-- What the sources have and nobody can publish; told once.
CREATE TABLE rejection (
    project TEXT NOT NULL,                   -- empty: it belongs to none
    what    TEXT NOT NULL,
    why     TEXT NOT NULL,
    PRIMARY KEY (project, what)
) WITHOUT ROWID;

-- The ledger: every object in the store.
CREATE TABLE headers (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE                -- JSON
);
CREATE TABLE ledger (
    key        TEXT PRIMARY KEY,
    project    INTEGER,                      -- NULL: it belongs to the whole site
    digest     BLOB NOT NULL,                -- sha256; empty: it is being put, nobody knows
    size       INTEGER NOT NULL,
    headers    INTEGER NOT NULL REFERENCES headers,
    generation INTEGER NOT NULL,             -- the publish that put it there
    doomed     INTEGER                       -- Unix time since when nothing refers to it
);
CREATE INDEX ledger_project ON ledger (project);
CREATE INDEX ledger_doomed ON ledger (doomed) WHERE doomed IS NOT NULL;

-- Projects that could not be published; the next publish looks at them again.
CREATE TABLE pending (
    project INTEGER PRIMARY KEY
);
