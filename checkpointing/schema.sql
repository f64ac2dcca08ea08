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

-- One runner a thread: who runs it, and whether that one is alive.
CREATE TABLE holdfast.workers (
    worker text PRIMARY KEY, -- one process's handle on this database
    expires_at timestamptz NOT NULL -- it says again and again that it lives; after this moment its threads are free
);

CREATE TABLE holdfast.leases (
    thread_id text PRIMARY KEY,
    worker text NOT NULL, -- who runs it, or ran it last
    epoch bigint NOT NULL, -- grows with every run, over all threads: what an earlier one writes is refused
    generation bigint NOT NULL, -- of the thread's heads; changes when another worker takes the thread over
    held boolean NOT NULL -- false once its run has ended
);

CREATE SEQUENCE holdfast.epochs;

-- Who runs a thread and is alive, if anybody.
CREATE FUNCTION holdfast.runner(thread text) RETURNS text
LANGUAGE sql AS $$
    SELECT lease.worker FROM holdfast.leases AS lease
    INNER JOIN holdfast.workers AS w ON w.worker = lease.worker
    WHERE lease.thread_id = thread AND lease.held AND w.expires_at > clock_timestamp()
$$;

-- Make a worker the runner of a thread; the epoch of its lease, or null if another runs it. Which of a worker's own
-- runs may have it is for the worker to know.
CREATE FUNCTION holdfast.acquire(thread text, me text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    taken bigint;
    fresh bigint := floor(random() * 274877906944);
BEGIN
    -- Nobody waits for the disk: what the run commits is written after this, and with it.
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE holdfast.leases SET epoch = nextval('holdfast.epochs'), held = true
    WHERE thread_id = thread AND worker = me
    RETURNING epoch INTO taken;
    IF FOUND THEN
        RETURN taken;
    END IF;
    INSERT INTO holdfast.leases (thread_id, worker, epoch, generation, held)
    VALUES (thread, me, nextval('holdfast.epochs'), fresh, true)
    ON CONFLICT DO NOTHING
    RETURNING epoch INTO taken;
    IF FOUND THEN
        RETURN taken;
    END IF;
    IF holdfast.runner(thread) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    -- In the order in which a commit locks; then look again, as each statement sees what was committed before it.
    -- A worker that says too late that it lives learns that, by this lock, when the thread is taken.
    PERFORM 1 FROM holdfast.heads WHERE thread_id = thread ORDER BY checkpoint_ns FOR UPDATE;
    PERFORM 1 FROM holdfast.leases WHERE thread_id = thread FOR UPDATE;
    PERFORM 1 FROM holdfast.workers
    WHERE worker = (SELECT l.worker FROM holdfast.leases AS l WHERE l.thread_id = thread)
    FOR SHARE;
    IF holdfast.runner(thread) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    UPDATE holdfast.leases SET worker = me, epoch = nextval('holdfast.epochs'), generation = fresh, held = true
    WHERE thread_id = thread
    RETURNING epoch INTO taken;
    UPDATE holdfast.heads SET generation = fresh WHERE thread_id = thread;
    RETURN taken;
END
$$;

-- A worker lives for so long from now; whether it was alive until now.
CREATE FUNCTION holdfast.beat(me text, ttl interval) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz;
    alive boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT expires_at INTO until FROM holdfast.workers WHERE worker = me FOR UPDATE;
    alive := coalesce(until > clock_timestamp(), false);
    INSERT INTO holdfast.workers (worker, expires_at) VALUES (me, clock_timestamp() + ttl)
    ON CONFLICT (worker) DO UPDATE SET expires_at = excluded.expires_at;
    IF NOT alive THEN
        DELETE FROM holdfast.workers WHERE expires_at < clock_timestamp() - interval '1 day';
    END IF;
    RETURN alive;
END
$$;
