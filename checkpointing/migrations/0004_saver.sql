-- From here on it is recorded what was run: a database that another build set up is known for one.
ALTER TABLE holdfast.migrations ADD COLUMN digest text; -- sha256 of the file, hexadecimal

-- What the saver keeps beside the official tables: each message once, and where each thread stands.
CREATE TABLE holdfast.messages (
    thread_id text NOT NULL,
    digest bytea NOT NULL, -- of type and body before encryption: the message's content is its key
    type text NOT NULL, -- how the body is serialised, as the serializer names it
    body bytea NOT NULL,
    visibility text NOT NULL CHECK (visibility IN ('visible', 'user_hidden', 'always_hidden')),
    role text NOT NULL, -- the message's own type: human, ai, tool, system
    correlation_id text,
    checkpoint_ns text NOT NULL,
    node text, -- who wrote it; null for what came from outside
    step integer, -- of the checkpoint that it was written on
    tokens integer, -- input and output of the call that made it, where the provider says
    checksum text NOT NULL, -- of the columns that the digest does not cover
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    position bigint NOT NULL GENERATED ALWAYS AS IDENTITY, -- order of arrival
    PRIMARY KEY (thread_id, digest)
);

-- Before the first ANALYZE: the planner's statistics would show common bodies to whoever may read any row.
ALTER TABLE holdfast.messages ALTER COLUMN body SET STATISTICS 0;

ALTER TABLE holdfast.messages ENABLE ROW LEVEL SECURITY;

CREATE TABLE holdfast.heads (
    thread_id text NOT NULL,
    checkpoint_ns text NOT NULL,
    checkpoint_id text NOT NULL, -- the newest checkpoint; one that is gone is missed
    writes integer NOT NULL, -- rows of writes on it, at the least
    generation bigint NOT NULL, -- changes when upkeep takes rows away: who counted on them must look again
    PRIMARY KEY (thread_id, checkpoint_ns)
)
WITH (fillfactor = 50);

CREATE TABLE holdfast.incidents (
    incident_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    thread_id text NOT NULL,
    checkpoint_ns text NOT NULL,
    checkpoint_id text,
    damage text NOT NULL,
    fell_back_to text, -- the checkpoint that was loaded instead
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Where rows that a writer counts on were taken away meanwhile, its whole commit is refused.
CREATE FUNCTION holdfast.still(kept bigint, expected bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
    IF kept <> expected THEN
        RAISE EXCEPTION 'the thread was changed by upkeep' USING ERRCODE = 'HF001';
    END IF;
    RETURN kept;
END
$$;

-- A namespace's first commit, which has no head that upkeep could have locked, waits for upkeep of its thread;
-- upkeep waits for it. The lock is let go at the transaction's end.
-- A head of a thread that has been run carries its lease's generation: another worker cannot have taken it over.
CREATE FUNCTION holdfast.opened(thread text, known boolean, expected bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    kept bigint;
BEGIN
    IF known THEN
        RETURN holdfast.still(0, 1);
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(thread, 1869636974));
    SELECT generation INTO kept FROM holdfast.leases WHERE thread_id = thread FOR SHARE;
    RETURN holdfast.still(coalesce(kept, expected), expected);
END
$$;

-- A point in time as text, or null: one that is damaged is not to stop what looks at many.
CREATE FUNCTION holdfast.moment(given text) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN given::timestamptz;
EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
    RETURN NULL;
END
$$;
