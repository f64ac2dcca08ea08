-- Calls of models, tools and functions: written down before they are tried, answered from the record after.
CREATE TABLE holdfast.effects (
    thread_id text NOT NULL,
    effect_id text NOT NULL, -- the same for every re-execution of one call; the idempotency key that it is given
    kind text NOT NULL CHECK (kind IN ('model', 'tool', 'effect')),
    name text NOT NULL,
    request bytea NOT NULL, -- digest of what it was asked
    asked jsonb NOT NULL, -- what it was asked, for a person who has to decide
    on_doubt text NOT NULL, -- who says what became of it, if its worker goes away: ask, retry, idempotent, reconcile
    state text NOT NULL CHECK (state IN ('claimed', 'raised', 'completed', 'failed', 'suspended', 'abandoned')),
    token text NOT NULL, -- of the claim under which it was tried last
    attempts integer NOT NULL,
    worker text NOT NULL,
    epoch bigint, -- of the lease under which it was claimed
    checkpoint_ns text NOT NULL,
    task_id text NOT NULL,
    node text,
    step integer,
    correlation_id text,
    run_id text,
    answers text[] NOT NULL DEFAULT '{}', -- digests of what persons said of its earlier claims
    type text, -- how the result is serialised
    result bytea,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at timestamptz,
    PRIMARY KEY (thread_id, effect_id)
);

CREATE INDEX effects_of_task ON holdfast.effects (thread_id, task_id);

-- Whether a run still holds its thread; whoever takes the thread over waits for this transaction.
CREATE FUNCTION holdfast.holds(thread text, given bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    found_epoch bigint;
BEGIN
    IF given IS NULL THEN
        RETURN true;
    END IF;
    SELECT l.epoch INTO found_epoch FROM holdfast.leases AS l WHERE l.thread_id = thread FOR SHARE;
    RETURN found_epoch IS NOT DISTINCT FROM given;
END
$$;

-- A call is about to be made: whether it may, or what became of it. `again` takes one whose outcome is unknown.
CREATE FUNCTION holdfast.claim(
    thread text, effect text, given_kind text, given_name text, given_request bytea, given_asked jsonb,
    given_token text, given_worker text, given_epoch bigint, again boolean, ns text, task text, given_node text,
    given_step integer, correlation text, run text, given_on_doubt text,
    OUT outcome text, OUT tried integer, OUT result_type text, OUT result bytea
)
LANGUAGE plpgsql AS $$
DECLARE
    kept holdfast.effects;
    event text;
BEGIN
    IF NOT holdfast.holds(thread, given_epoch) THEN
        outcome := 'lost';
        RETURN;
    END IF;
    INSERT INTO holdfast.effects (
        thread_id, effect_id, kind, name, request, asked, on_doubt, state, token, attempts, worker, epoch,
        checkpoint_ns, task_id, node, step, correlation_id, run_id
    )
    VALUES (
        thread, effect, given_kind, given_name, given_request, given_asked, given_on_doubt, 'claimed', given_token, 1,
        given_worker, given_epoch, ns, task, given_node, given_step, correlation, run
    )
    ON CONFLICT (thread_id, effect_id) DO NOTHING;
    IF FOUND THEN
        outcome := 'claimed';
        tried := 1;
        event := 'called';
    ELSE
        SELECT * INTO kept FROM holdfast.effects AS e WHERE e.thread_id = thread AND e.effect_id = effect FOR UPDATE;
        tried := kept.attempts;
        IF kept.token = given_token THEN -- this very claim, sent again over another connection
            outcome := 'claimed';
            RETURN;
        END IF;
        IF kept.request <> given_request THEN
            outcome := 'mismatch';
            RETURN;
        END IF;
        IF kept.state IN ('completed', 'abandoned') THEN
            outcome := kept.state;
            result_type := kept.type;
            result := kept.result;
            event := 'replayed';
        ELSIF kept.state IN ('failed', 'suspended') THEN
            outcome := 'claimed';
            event := 'called';
        ELSE
            PERFORM holdfast.append_event(
                thread, correlation, run, ns, given_node, given_step, coalesce(given_node, given_worker),
                given_kind || '.in_doubt', effect, NULL, NULL, NULL, NULL, 'user_hidden',
                jsonb_build_object('name', kept.name, 'asked', kept.asked, 'worker', kept.worker)
            );
            IF NOT again THEN
                outcome := 'in_doubt';
                RETURN;
            END IF;
            outcome := 'claimed';
            event := 'called';
        END IF;
        IF outcome = 'claimed' THEN
            tried := kept.attempts + 1;
            UPDATE holdfast.effects AS e
            SET state = 'claimed', on_doubt = given_on_doubt, token = given_token, attempts = tried,
                worker = given_worker, epoch = given_epoch, correlation_id = correlation, run_id = run,
                claimed_at = clock_timestamp(), settled_at = NULL
            WHERE e.thread_id = thread AND e.effect_id = effect;
        END IF;
    END IF;
    PERFORM holdfast.append_event(
        thread, correlation, run, ns, given_node, given_step, coalesce(given_node, given_worker),
        given_kind || '.' || event, effect, NULL, NULL, NULL, NULL, 'user_hidden',
        jsonb_build_object('name', given_name, 'attempt', tried) || given_asked
    );
END
$$;

-- What became of a call: false if it is no longer ours to say.
CREATE FUNCTION holdfast.settle(
    thread text, effect text, given_token text, given_epoch bigint, given_state text, event text, given_type text,
    given_result bytea, tokens_in bigint, tokens_out bigint, price numeric, ms double precision, details jsonb
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    kept holdfast.effects;
BEGIN
    IF NOT holdfast.holds(thread, given_epoch) THEN
        RETURN false;
    END IF;
    SELECT * INTO kept FROM holdfast.effects AS e WHERE e.thread_id = thread AND e.effect_id = effect FOR UPDATE;
    IF kept.token IS DISTINCT FROM given_token THEN
        RETURN false;
    END IF;
    IF kept.state <> 'claimed' THEN
        RETURN kept.state = given_state; -- sent again over another connection
    END IF;
    UPDATE holdfast.effects AS e
    SET state = given_state, type = given_type, result = given_result, settled_at = clock_timestamp()
    WHERE e.thread_id = thread AND e.effect_id = effect;
    PERFORM holdfast.append_event(
        thread, kept.correlation_id, kept.run_id, kept.checkpoint_ns, kept.node, kept.step,
        coalesce(kept.node, kept.worker), kept.kind || '.' || event, effect, tokens_in, tokens_out, price, ms,
        'user_hidden', jsonb_build_object('name', kept.name) || details
    );
    RETURN true;
END
$$;

-- Whether a call is being made by a run that goes on.
CREATE FUNCTION holdfast.under_way(thread text, given bigint) RETURNS boolean
LANGUAGE sql AS $$
    SELECT EXISTS (
        SELECT 1 FROM holdfast.leases AS l
        INNER JOIN holdfast.workers AS w USING (worker)
        WHERE l.thread_id = thread AND l.held AND l.epoch = given AND w.expires_at > clock_timestamp()
    )
$$;

-- What a person, or the outside world, says of a call whose outcome is unknown: false if it is not.
CREATE FUNCTION holdfast.resolve(
    thread text, effect text, given_state text, given_type text, given_result bytea, actor text, details jsonb,
    said text, own_epoch bigint, attempt integer
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    kept holdfast.effects;
BEGIN
    SELECT * INTO kept FROM holdfast.effects AS e
    WHERE e.thread_id = thread AND e.effect_id = effect AND e.state IN ('claimed', 'raised')
        AND (attempt IS NULL OR e.attempts = attempt) -- it may have been begun again since
    FOR UPDATE;
    IF NOT FOUND OR (
        kept.state = 'claimed' AND kept.epoch IS DISTINCT FROM own_epoch AND holdfast.under_way(thread, kept.epoch)
    ) THEN
        RETURN false;
    END IF;
    UPDATE holdfast.effects AS e
    SET state = given_state, type = given_type, result = given_result, token = 'resolved', settled_at = clock_timestamp(),
        answers = CASE WHEN said IS NULL THEN e.answers ELSE e.answers || said END
    WHERE e.thread_id = thread AND e.effect_id = effect;
    PERFORM holdfast.append_event(
        thread, kept.correlation_id, kept.run_id, kept.checkpoint_ns, kept.node, kept.step, actor,
        kept.kind || '.resolved', effect, NULL, NULL, NULL, NULL, 'user_hidden',
        jsonb_build_object('name', kept.name) || details
    );
    RETURN true;
END
$$;

-- A completed call whose result was found to be of no use: it may be made again. False if it is not completed.
CREATE FUNCTION holdfast.refuse(thread text, effect text, given_epoch bigint, details jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    kept holdfast.effects;
BEGIN
    IF NOT holdfast.holds(thread, given_epoch) THEN
        RETURN false;
    END IF;
    UPDATE holdfast.effects AS e SET state = 'failed'
    WHERE e.thread_id = thread AND e.effect_id = effect AND e.state = 'completed'
    RETURNING * INTO kept;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM holdfast.append_event(
        thread, kept.correlation_id, kept.run_id, kept.checkpoint_ns, kept.node, kept.step,
        coalesce(kept.node, kept.worker), kept.kind || '.refused', effect, NULL, NULL, NULL, NULL, 'user_hidden',
        jsonb_build_object('name', kept.name) || details
    );
    RETURN true;
END
$$;
