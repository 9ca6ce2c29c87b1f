-- What object storage says of an object's bytes (an ETag): a blob is a quoted MD5, text is anything else.
ALTER TABLE ledger ADD COLUMN tag ANY;

-- The last change that took something away from a project, or yanked it: caches are to be told of that.
ALTER TABLE project ADD COLUMN narrowed INTEGER NOT NULL DEFAULT 0;
