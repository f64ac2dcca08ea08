-- Holdfast's own tables as they stand after all migrations. The official checkpoint and store
-- tables lie beside them and are kept by the official packages.
CREATE SCHEMA holdfast;

CREATE TABLE holdfast.migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE holdfast.documents (
    digest text PRIMARY KEY, -- sha256 of the text, hexadecimal
    body text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE holdfast.passages (
    digest text NOT NULL REFERENCES holdfast.documents ON DELETE CASCADE,
    position integer NOT NULL CHECK (position >= 0), -- characters from the start of the document
    body text NOT NULL,
    words tsvector NOT NULL GENERATED ALWAYS AS (to_tsvector('english'::regconfig, body)) STORED,
    PRIMARY KEY (digest, position)
);

CREATE INDEX passages_words ON holdfast.passages USING gin (words);

CREATE TABLE holdfast.dossiers (
    dossier_id text NOT NULL, -- digest of the names and digests it lists
    name text NOT NULL, -- path within the folder, with forward slashes
    digest text NOT NULL REFERENCES holdfast.documents,
    PRIMARY KEY (dossier_id, name)
);

CREATE TABLE holdfast.threads (
    thread_id text PRIMARY KEY,
    settings jsonb NOT NULL, -- how the thread is run, as whoever started it said
    created_at timestamptz NOT NULL DEFAULT now()
);
