-- Which projects there are, and which files they have. Every change gets a number.

-- One row, not a sequence: whoever changes something holds it until the commit, so that the numbers become visible
-- in their order. A sequence's number 7 may be committed after its 8, and who has seen 8 would never ask for 7.
CREATE TABLE change (serial bigint NOT NULL);
INSERT INTO change VALUES (0);

CREATE TABLE project (
    name          text PRIMARY KEY CHECK (name ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),  -- normalised (PEP 503)
    display       text NOT NULL CHECK (lower(regexp_replace(display, '[-_.]+', '-', 'g')) = name),
    status        text CHECK (status IN ('archived', 'deprecated', 'quarantined')),  -- PEP 792; null: active
    status_reason text,
    serial        bigint NOT NULL DEFAULT 0  -- of its last change; the triggers below write it
);

CREATE TABLE file (
    filename        text PRIMARY KEY,
    project         text NOT NULL REFERENCES project ON DELETE CASCADE,
    path            text NOT NULL UNIQUE,  -- below the folder of the files, ends with /filename
    sha256          text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    size            bigint NOT NULL,       -- bytes
    uploaded        timestamptz NOT NULL DEFAULT now(),
    requires_python text,
    yanked          text,                  -- the reason, which may be empty; null: it is not yanked (PEP 592)
    metadata_sha256 text CHECK (metadata_sha256 ~ '^[0-9a-f]{64}$')  -- of a wheel's METADATA (PEP 658)
);
CREATE INDEX file_project ON file (project);

CREATE FUNCTION next_change() RETURNS bigint LANGUAGE sql AS
    'UPDATE change SET serial = serial + 1 RETURNING serial';

CREATE FUNCTION project_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM next_change();
        RETURN OLD;
    END IF;
    NEW.serial := next_change();
    RETURN NEW;
END $$;
CREATE TRIGGER project_changes BEFORE INSERT OR UPDATE OR DELETE ON project
    FOR EACH ROW EXECUTE FUNCTION project_changes();

-- A change of a file is one of its project, whose own trigger counts it.
CREATE FUNCTION file_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE project SET name = name WHERE name IN (OLD.project, NEW.project);
    RETURN NULL;
END $$;
CREATE TRIGGER file_changes AFTER INSERT OR UPDATE OR DELETE ON file
    FOR EACH ROW EXECUTE FUNCTION file_changes();
