-- Documents by content, their passages for full-text search, and dossiers as lists of names.
CREATE TABLE holdfast.documents (
    digest text PRIMARY KEY,
    body text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE holdfast.passages (
    digest text NOT NULL REFERENCES holdfast.documents ON DELETE CASCADE,
    position integer NOT NULL CHECK (position >= 0),
    body text NOT NULL,
    words tsvector NOT NULL GENERATED ALWAYS AS (to_tsvector('english'::regconfig, body)) STORED,
    PRIMARY KEY (digest, position)
);

CREATE INDEX passages_words ON holdfast.passages USING gin (words);

CREATE TABLE holdfast.dossiers (
    dossier_id text NOT NULL,
    name text NOT NULL,
    digest text NOT NULL REFERENCES holdfast.documents,
    PRIMARY KEY (dossier_id, name)
);
