-- What happened, in order, for each thread: rows are added, and never changed or removed.
CREATE TABLE holdfast.chains (
    thread_id text PRIMARY KEY,
    number bigint NOT NULL, -- of the newest event
    digest bytea NOT NULL -- of the newest event, and by it of all before
);

CREATE TABLE holdfast.events (
    thread_id text NOT NULL,
    number bigint NOT NULL, -- 1, 2, 3, … within the thread
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
    digest bytea NOT NULL, -- of all the columns before it and of the digest of the event before
    PRIMARY KEY (thread_id, number)
);

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
    seal bytea;
BEGIN
    INSERT INTO holdfast.chains AS c (thread_id, number, digest) VALUES (thread, 0, ''::bytea)
    ON CONFLICT (thread_id) DO NOTHING;
    SELECT c.number + 1, c.digest INTO place, before FROM holdfast.chains AS c WHERE c.thread_id = thread FOR UPDATE;
    moment := clock_timestamp();
    seal := sha256(before || convert_to(jsonb_build_array(
        thread, place, extract(epoch FROM moment), correlation, run, ns, node, step, actor, kind, effect,
        tokens_in, tokens_out, cost, ms, shown, details
    )::text, 'UTF8'));
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

ALTER TABLE holdfast.events ENABLE ROW LEVEL SECURITY;
