-- What happened, in order, for each thread: rows are added, and never changed or removed.
CREATE TABLE holdfast.chains (
    thread_id text PRIMARY KEY,
    number bigint NOT NULL, -- of the newest event
    digest bytea NOT NULL -- of the newest event, and by it of all before
)
WITH (fillfactor = 50);

CREATE TABLE holdfast.events (
    thread_id text NOT NULL,
    number bigint NOT NULL CHECK (number > 0), -- 1, 2, 3, … within the thread
    at timestamptz NOT NULL,
    correlation_id text, -- of the decision that it belongs to
    run_id text,
    checkpoint_ns text NOT NULL,
    node text,
    step integer,
    actor text NOT NULL, -- who did it: a node, a person, a worker
    kind text NOT NULL, -- what: model.called, tool.completed, run.ended, …
    effect_id text, -- the call that it is about, as the journal names it
    input_tokens bigint,
    output_tokens bigint,
    cost numeric, -- US dollars
    duration_ms double precision,
    visibility text NOT NULL CHECK (visibility IN ('visible', 'user_hidden', 'always_hidden')), -- of the details
    details jsonb NOT NULL,
    digest bytea NOT NULL, -- of the digest of the event before, the number, and the SHA-256 of all other columns
    PRIMARY KEY (thread_id, number)
);

-- Before the first ANALYZE: the planner's statistics would show common details to whoever may read any row.
ALTER TABLE holdfast.events ALTER COLUMN details SET STATISTICS 0;

CREATE INDEX events_by_correlation ON holdfast.events (correlation_id, at) WHERE correlation_id IS NOT NULL;

-- An event's place in its thread's chain: the writer's transaction holds the chain until it ends.
CREATE FUNCTION holdfast.append_event(
    thread text, correlation text, run text, ns text, node text, step integer, actor text, kind text, effect text,
    tokens_in bigint, tokens_out bigint, cost numeric, ms double precision, shown text, details jsonb
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    place bigint;
    before bytea;
    moment timestamptz;
    body bytea;
    seal bytea;
BEGIN
    SELECT c.number + 1, c.digest INTO place, before FROM holdfast.chains AS c WHERE c.thread_id = thread FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO holdfast.chains AS c (thread_id, number, digest) VALUES (thread, 0, ''::bytea)
        ON CONFLICT (thread_id) DO NOTHING;
        SELECT c.number + 1, c.digest INTO STRICT place, before
        FROM holdfast.chains AS c WHERE c.thread_id = thread FOR UPDATE;
    END IF;
    moment := clock_timestamp();
    -- The same whatever the session's settings are; queries/audit.sql says it again.
    body := sha256(convert_to(jsonb_build_array(
        thread, extract(epoch FROM moment), correlation, run, ns, node, step, actor, kind, effect,
        tokens_in, tokens_out, cost, encode(float8send(ms), 'hex'), shown, details
    )::text, 'UTF8'));
    seal := sha256(before || int8send(place) || body);
    INSERT INTO holdfast.events VALUES (
        thread, place, moment, correlation, run, ns, node, step, actor, kind, effect,
        tokens_in, tokens_out, cost, ms, shown, details, seal
    );
    UPDATE holdfast.chains AS c SET number = place, digest = seal WHERE c.thread_id = thread;
    RETURN place;
END
$$;

CREATE FUNCTION holdfast.refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are never changed or removed' USING ERRCODE = 'HF002';
END
$$;

CREATE TRIGGER events_are_added_only BEFORE UPDATE OR DELETE OR TRUNCATE ON holdfast.events
FOR EACH STATEMENT EXECUTE FUNCTION holdfast.refuse_change();

CREATE TRIGGER chains_stay BEFORE DELETE OR TRUNCATE ON holdfast.chains
FOR EACH STATEMENT EXECUTE FUNCTION holdfast.refuse_change();

-- For a session that replays a replica's changes, too: a setting alone must not open the way.
ALTER TABLE holdfast.events ENABLE ALWAYS TRIGGER events_are_added_only;

ALTER TABLE holdfast.chains ENABLE ALWAYS TRIGGER chains_stay;

ALTER TABLE holdfast.events ENABLE ROW LEVEL SECURITY;
