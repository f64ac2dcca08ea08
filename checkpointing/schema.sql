-- Holdfast's own tables as they stand after all migrations. The official checkpoint and store
-- tables lie beside them and are kept by the official packages.
CREATE SCHEMA holdfast;

CREATE TABLE holdfast.migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    digest text -- sha256 of the file, hexadecimal
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
    before text;
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
    SELECT l.worker INTO before FROM holdfast.leases AS l WHERE l.thread_id = thread AND l.held;
    IF FOUND THEN
        PERFORM holdfast.append_event(
            thread, NULL, NULL, '', NULL, NULL, me, 'lease.taken', NULL, NULL, NULL, NULL, NULL, 'user_hidden',
            jsonb_build_object('from', before)
        );
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

-- By its task first: an index that begins with the thread is taken, where there are no statistics yet, for a call's own
-- row too, and all calls of the thread are read.
CREATE INDEX effects_of_task ON holdfast.effects (task_id, thread_id);

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

-- Money and tokens: what each scope may spend, what it has spent in each window, and what is reserved for calls.
-- Names sort by their bytes, here and where requests are made: rows are locked in one order. What is written with every
-- call has domains for its checks, as those of a table are parsed anew for each statement.
CREATE DOMAIN holdfast.amount AS numeric CHECK (value >= 0 AND value < 'Infinity'); -- NaN is above it

CREATE DOMAIN holdfast.unit AS text COLLATE "C" CHECK (value IN ('usd', 'tokens'));

CREATE DOMAIN holdfast.window_kind AS text COLLATE "C" CHECK (value IN ('run', 'hour', 'day'));

-- presumed: counts as spent
CREATE DOMAIN holdfast.reservation_state AS text CHECK (value IN ('held', 'presumed', 'settled', 'released'));

CREATE TABLE holdfast.budgets (
    scope text COLLATE "C" NOT NULL,
    unit holdfast.unit NOT NULL,
    per_call numeric CHECK (per_call > 0 AND per_call < 'Infinity'), -- null: no limit
    per_run numeric CHECK (per_run > 0 AND per_run < 'Infinity'),
    hourly numeric CHECK (hourly > 0 AND hourly < 'Infinity'),
    daily numeric CHECK (daily > 0 AND daily < 'Infinity'),
    set_by text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (scope, unit)
);

CREATE TABLE holdfast.windows (
    scope text COLLATE "C" NOT NULL,
    unit holdfast.unit NOT NULL,
    kind holdfast.window_kind NOT NULL,
    start text COLLATE "C" NOT NULL, -- of the hour or day in UTC, 2026-11-21T18 or 2026-11-21; of a run, its key
    spent holdfast.amount NOT NULL DEFAULT 0,
    reserved holdfast.amount NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, unit, kind, start)
)
WITH (fillfactor = 50);

CREATE TABLE holdfast.reservations (
    reservation_id text COLLATE "C" PRIMARY KEY,
    state holdfast.reservation_state NOT NULL,
    usd holdfast.amount NOT NULL, -- what the call may cost at the most
    tokens holdfast.amount NOT NULL,
    scopes text[] NOT NULL,
    units text[] NOT NULL, -- of each scope
    runs text[] NOT NULL, -- of each scope the run's window, or null; it is settled in the windows where it was made
    hour text NOT NULL,
    day text NOT NULL,
    spent_usd numeric, -- what it did cost
    spent_tokens numeric,
    thread_id text,
    effect_id text,
    node text,
    correlation_id text,
    name text NOT NULL, -- of the model or the tool
    worker text NOT NULL,
    made_at timestamptz NOT NULL,
    closed_at timestamptz
);

CREATE INDEX reservations_open ON holdfast.reservations (thread_id, effect_id) WHERE state IN ('held', 'presumed');

-- For reports since a time.
CREATE INDEX events_by_time ON holdfast.events USING brin (at) WITH (pages_per_range = 32, autosummarize = on);

-- What a request needs of one window, and the limit there; of kind 'call' for the limit of each call.
CREATE TYPE holdfast.line AS (
    n bigint, scope text, unit text, kind text, start text, amount numeric, most numeric
);

-- What became of a request, and why: its line that stands in the way, else the one nearest to its limit.
CREATE TYPE holdfast.taking AS (
    n bigint, fits boolean, scope text, unit text, kind text, most numeric, used numeric, amount numeric
);

-- Take from the windows what some requests need, if all of it fits; `fits` is null where a window is not there yet.
CREATE FUNCTION holdfast.take(lines holdfast.line[]) RETURNS SETOF holdfast.taking
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH wanted AS (
        SELECT l.scope, l.unit, l.kind, l.start, sum(l.amount) AS total
        FROM unnest(lines) AS l WHERE l.kind <> 'call' GROUP BY l.scope, l.unit, l.kind, l.start
    ),
    locked AS MATERIALIZED (
        SELECT w.scope, w.unit, w.kind, w.start, w.spent + w.reserved AS used, wanted.total
        FROM holdfast.windows AS w
        INNER JOIN wanted USING (scope, unit, kind, start)
        ORDER BY w.scope, w.unit, w.kind, w.start
        FOR UPDATE OF w
    ),
    judged AS MATERIALIZED (
        SELECT
            l.n, l.scope, l.unit, l.kind, l.most, coalesce(k.used, 0) AS used, coalesce(k.total, l.amount) AS total,
            l.amount,
            CASE
                WHEN l.kind = 'call' THEN l.amount <= l.most
                WHEN k.scope IS NOT NULL THEN l.amount = 0 OR l.most IS NULL OR k.used + k.total <= l.most
            END AS fits
        FROM unnest(lines) AS l
        LEFT JOIN locked AS k USING (scope, unit, kind, start)
    ),
    added AS (
        UPDATE holdfast.windows AS w SET reserved = w.reserved + k.total
        FROM locked AS k
        WHERE (w.scope, w.unit, w.kind, w.start) = (k.scope, k.unit, k.kind, k.start)
            AND (SELECT bool_and(coalesce(j.fits, false)) FROM judged AS j)
    )
    -- What is used, where it fits: by the others that fit with it, too.
    SELECT DISTINCT ON (j.n)
        j.n, j.fits, j.scope, j.unit, j.kind, j.most, j.used + CASE WHEN j.fits THEN j.total - j.amount ELSE 0 END,
        j.amount
    FROM judged AS j
    ORDER BY
        j.n, j.fits IS NULL DESC, j.fits, CASE WHEN j.fits THEN j.kind = 'call' ELSE j.kind <> 'call' END,
        (j.most - j.used - j.total) / j.most NULLS LAST, j.scope, j.unit, j.kind;
END
$$;

-- Reserve for one call that stands alone, the quick way. Null, and nothing is taken, where it is not as usual: it does
-- not fit, a window is not there yet, the call has its record, or it was reserved before; `reserve` finds out which.
CREATE FUNCTION holdfast.reserve_one(
    moment timestamptz, this_hour text, this_day text, id text, thread text, effect text, node text, correlation text,
    name text, worker text, run text, usd numeric, tokens numeric, scopes text[], units text[],
    per_call numeric[], per_run numeric[], hourly numeric[], daily numeric[]
)
RETURNS holdfast.taking
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    kinds CONSTANT text[] := ARRAY['day', 'hour', 'run'];
    nearest holdfast.taking;
    kept holdfast.budgets;
    amount numeric;
    used numeric;
    room numeric;
    least numeric;
    starts text[];
    limits numeric[];
    runs text[] := '{}';
    taken holdfast.line[] := '{}';
BEGIN
    IF effect IS NOT NULL AND EXISTS (
        SELECT 1 FROM holdfast.effects AS e
        WHERE e.thread_id = thread AND e.effect_id = effect AND e.state IN ('completed', 'abandoned')
    ) THEN
        RETURN NULL;
    END IF;
    nearest.n := 1;
    nearest.fits := true;
    <<budgets>>
    FOR i IN 1..cardinality(scopes) LOOP
        amount := CASE units[i] WHEN 'usd' THEN usd ELSE tokens END;
        SELECT b.* INTO kept FROM holdfast.budgets AS b WHERE b.scope = scopes[i] AND b.unit = units[i];
        kept.per_call := coalesce(kept.per_call, per_call[i]);
        kept.per_run := coalesce(kept.per_run, per_run[i]);
        kept.hourly := coalesce(kept.hourly, hourly[i]);
        kept.daily := coalesce(kept.daily, daily[i]);
        nearest.fits := amount <= kept.per_call IS NOT false;
        EXIT WHEN NOT nearest.fits;
        limits := ARRAY[kept.daily, kept.hourly, kept.per_run];
        starts := ARRAY[this_day, this_hour, CASE WHEN kept.per_run IS NOT NULL THEN run END];
        runs := array_append(runs, starts[3]);
        FOR k IN 1..3 LOOP
            CONTINUE WHEN starts[k] IS NULL;
            UPDATE holdfast.windows AS w SET reserved = w.reserved + amount
            WHERE w.scope = scopes[i] AND w.unit = units[i] AND w.kind = kinds[k] AND w.start = starts[k]
                AND (limits[k] IS NULL OR amount = 0 OR w.spent + w.reserved + amount <= limits[k])
            RETURNING w.spent + w.reserved INTO used;
            nearest.fits := FOUND;
            EXIT budgets WHEN NOT FOUND;
            taken := array_append(
                taken, ROW(1, scopes[i], units[i], kinds[k], starts[k], amount, limits[k])::holdfast.line
            );
            room := (limits[k] - used) / limits[k];
            IF room < least OR (least IS NULL AND room IS NOT NULL) THEN
                least := room;
                nearest := (1, true, scopes[i], units[i], kinds[k], limits[k], used - amount, amount);
            END IF;
        END LOOP;
    END LOOP;
    IF nearest.fits THEN
        INSERT INTO holdfast.reservations (
            reservation_id, state, usd, tokens, scopes, units, runs, hour, day, thread_id, effect_id, node,
            correlation_id, name, worker, made_at
        )
        VALUES (
            id, 'held', usd, tokens, scopes, units, runs, this_hour, this_day, thread, effect, node, correlation, name,
            worker, moment
        )
        ON CONFLICT (reservation_id) DO NOTHING;
        IF FOUND THEN
            RETURN nearest;
        END IF;
    END IF;
    UPDATE holdfast.windows AS w SET reserved = w.reserved - t.amount
    FROM unnest(taken) AS t
    WHERE w.scope = t.scope AND w.unit = t.unit AND w.kind = t.kind AND w.start = t.start;
    RETURN NULL;
END
$$;

-- Reserve for some calls what each may cost, from every window of every scope that it is on, or from none.
-- A call that has its record is free. One that was reserved before, under the same id, is so still.
CREATE FUNCTION holdfast.reserve(
    at timestamptz, ids text[], threads text[], effects text[], nodes text[], correlations text[], names text[],
    workers text[], runs text[], usd numeric[], tokens numeric[],
    numbers bigint[], scopes text[], units text[],
    per_call numeric[], per_run numeric[], hourly numeric[], daily numeric[]
)
RETURNS TABLE (
    n bigint, outcome text, scope text, unit text, kind text, most numeric, used numeric, amount numeric
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := coalesce(at, clock_timestamp());
    this_hour text := to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24');
    this_day text := left(this_hour, 10);
    wanted bigint[];
    lines holdfast.line[];
    takings holdfast.taking[];
    taken boolean[];
    alone holdfast.taking;
    one bigint;
BEGIN
    IF cardinality(ids) = 1 THEN
        alone := holdfast.reserve_one(
            moment, this_hour, this_day, ids[1], threads[1], effects[1], nodes[1], correlations[1], names[1],
            workers[1], runs[1], usd[1], tokens[1], scopes, units, per_call, per_run, hourly, daily
        );
        IF alone.n IS NOT NULL THEN
            n := 1;
            outcome := 'taken';
            scope := alone.scope;
            unit := alone.unit;
            kind := alone.kind;
            most := alone.most;
            used := alone.used;
            amount := alone.amount;
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    wanted := ARRAY(
        SELECT g.n FROM unnest(ids, threads, effects) WITH ORDINALITY AS g (id, thread, effect, n)
        WHERE NOT EXISTS (SELECT 1 FROM holdfast.reservations AS r WHERE r.reservation_id = g.id)
            AND NOT EXISTS (
                SELECT 1 FROM holdfast.effects AS e
                WHERE e.thread_id = g.thread AND e.effect_id = g.effect AND e.state IN ('completed', 'abandoned')
            )
    );
    lines := ARRAY(
        SELECT ROW(g.n, g.scope, g.unit, w.kind, w.start, g.amount, w.most)::holdfast.line
        FROM (
            SELECT l.*, CASE l.unit WHEN 'usd' THEN usd[l.n] ELSE tokens[l.n] END AS amount
            FROM unnest(numbers, scopes, units, per_call, per_run, hourly, daily)
                AS l (n, scope, unit, per_call, per_run, hourly, daily)
            WHERE l.n = ANY(wanted)
        ) AS g
        LEFT JOIN holdfast.budgets AS b ON b.scope = g.scope AND b.unit = g.unit
        -- A limit that was set goes before the declared ones. Hours and days are kept for limits to come.
        CROSS JOIN LATERAL (
            VALUES
            ('call', '', coalesce(b.per_call, g.per_call)),
            ('run', runs[g.n], coalesce(b.per_run, g.per_run)),
            ('hour', this_hour, coalesce(b.hourly, g.hourly)),
            ('day', this_day, coalesce(b.daily, g.daily))
        ) AS w (kind, start, most)
        WHERE w.start IS NOT NULL AND (w.most IS NOT NULL OR w.kind IN ('hour', 'day'))
    );
    takings := ARRAY(SELECT t FROM holdfast.take(lines) AS t);
    IF EXISTS (SELECT 1 FROM unnest(takings) AS t WHERE t.fits IS NULL) THEN
        INSERT INTO holdfast.windows (scope, unit, kind, start)
        SELECT DISTINCT
            l.scope COLLATE "C" AS scope, l.unit COLLATE "C" AS unit, l.kind COLLATE "C" AS kind,
            l.start COLLATE "C" AS start
        FROM unnest(lines) AS l
        WHERE l.kind <> 'call'
        ORDER BY 1, 2, 3, 4
        ON CONFLICT DO NOTHING;
        takings := ARRAY(SELECT t FROM holdfast.take(lines) AS t);
    END IF;
    IF cardinality(wanted) > 1 AND EXISTS (SELECT 1 FROM unnest(takings) AS t WHERE NOT t.fits) THEN
        -- Not all of it fits: each for itself, in the order in which they came.
        takings := '{}';
        FOREACH one IN ARRAY wanted LOOP
            takings := takings || ARRAY(
                SELECT t FROM holdfast.take(ARRAY(SELECT l FROM unnest(lines) AS l WHERE l.n = one)) AS t
            );
        END LOOP;
    END IF;
    -- By number: true, false, or null for what is free. One that no budget is on is reserved all the same.
    taken := ARRAY(
        SELECT CASE WHEN g.n = ANY(wanted) THEN coalesce(t.fits, true) END
        FROM generate_subscripts(ids, 1) AS g (n) LEFT JOIN unnest(takings) AS t ON t.n = g.n
        ORDER BY g.n
    );
    INSERT INTO holdfast.reservations (
        reservation_id, state, usd, tokens, scopes, units, runs, hour, day, thread_id, effect_id, node, correlation_id,
        name, worker, made_at
    )
    SELECT
        ids[g.n], 'held', usd[g.n], tokens[g.n], coalesce(s.scopes, '{}'), coalesce(s.units, '{}'),
        coalesce(s.runs, '{}'), this_hour, this_day, threads[g.n], effects[g.n], nodes[g.n], correlations[g.n],
        names[g.n], workers[g.n], moment
    FROM unnest(wanted) AS g (n)
    LEFT JOIN (
        SELECT
            h.n, array_agg(h.scope ORDER BY h.scope COLLATE "C", h.unit) AS scopes,
            array_agg(h.unit ORDER BY h.scope COLLATE "C", h.unit) AS units,
            array_agg(h.run ORDER BY h.scope COLLATE "C", h.unit) AS runs
        FROM (
            SELECT l.n, l.scope, l.unit, max(l.start) FILTER (WHERE l.kind = 'run') AS run
            FROM unnest(lines) AS l GROUP BY l.n, l.scope, l.unit
        ) AS h
        GROUP BY h.n
    ) AS s ON s.n = g.n
    WHERE taken[g.n];
    RETURN QUERY
    SELECT
        g.n, CASE WHEN taken[g.n] THEN 'taken' WHEN NOT taken[g.n] THEN 'refused' ELSE 'free' END,
        t.scope, t.unit, t.kind, t.most, t.used, t.amount
    FROM unnest(ids) WITH ORDINALITY AS g (id, n)
    LEFT JOIN unnest(takings) AS t ON t.n = g.n
    ORDER BY g.n;
END
$$;

-- What a reservation's end changes, as `close` tells of it.
CREATE TYPE holdfast.ended AS (
    n bigint, -- of the request that ended it
    before text, -- the state that it was in
    usd numeric -- by which what counts as spent did change
);

-- What counts as spent by another way than a call's own event is an event, too: the events' sum is what was spent.
CREATE FUNCTION holdfast.tell_cost(
    kept holdfast.reservations, next text, change numeric
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF kept.thread_id IS NOT NULL THEN
        PERFORM holdfast.append_event(
            kept.thread_id, kept.correlation_id, NULL, '', kept.node, NULL, kept.worker,
            CASE next WHEN 'presumed' THEN 'cost.presumed' ELSE 'cost.corrected' END, kept.effect_id, NULL, NULL,
            change, NULL, 'user_hidden',
            jsonb_build_object(
                'name', kept.name, 'reservation', kept.reservation_id,
                'cost', jsonb_build_object('model', kept.name, 'estimated', next = 'presumed')
            )
        );
    END IF;
END
$$;

-- End one reservation, in its own windows, whatever time it is now. What was presumed may be said better later, and a
-- call that was thought not to be made may say itself what it did cost. Null: it has its end.
CREATE FUNCTION holdfast.close_one(
    at timestamptz, id text, next text, given_usd numeric, given_tokens numeric, alone boolean
) RETURNS holdfast.ended
LANGUAGE plpgsql AS $$
DECLARE
    kinds CONSTANT text[] := ARRAY['day', 'hour', 'run'];
    kept holdfast.reservations;
    starts text[];
    did_usd numeric;
    did_tokens numeric;
    change_usd numeric;
    change_tokens numeric;
    freed numeric;
    added numeric;
BEGIN
    SELECT r.* INTO kept FROM holdfast.reservations AS r
    WHERE r.reservation_id = id AND (
        r.state = 'held' OR (r.state = 'presumed' AND next <> 'presumed') OR (r.state = 'released' AND next = 'settled')
    )
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    did_usd := CASE next WHEN 'settled' THEN coalesce(given_usd, kept.usd) WHEN 'presumed' THEN kept.usd ELSE 0 END;
    did_tokens := CASE next
        WHEN 'settled' THEN coalesce(given_tokens, kept.tokens) WHEN 'presumed' THEN kept.tokens ELSE 0
    END;
    change_usd := did_usd - CASE kept.state WHEN 'presumed' THEN kept.usd ELSE 0 END;
    change_tokens := did_tokens - CASE kept.state WHEN 'presumed' THEN kept.tokens ELSE 0 END;
    FOR i IN 1..cardinality(kept.scopes) LOOP
        freed := CASE WHEN kept.state <> 'held' THEN 0 WHEN kept.units[i] = 'usd' THEN kept.usd ELSE kept.tokens END;
        added := CASE kept.units[i] WHEN 'usd' THEN change_usd ELSE change_tokens END;
        starts := ARRAY[kept.day, kept.hour, kept.runs[i]];
        FOR k IN 1..3 LOOP
            CONTINUE WHEN starts[k] IS NULL;
            UPDATE holdfast.windows AS w SET reserved = w.reserved - freed, spent = w.spent + added
            WHERE w.scope = kept.scopes[i] AND w.unit = kept.units[i] AND w.kind = kinds[k] AND w.start = starts[k];
        END LOOP;
    END LOOP;
    UPDATE holdfast.reservations AS r
    SET state = next, spent_usd = did_usd, spent_tokens = did_tokens, closed_at = coalesce(at, clock_timestamp())
    WHERE r.reservation_id = id;
    IF kept.state <> 'held' OR next = 'presumed' OR (alone AND next = 'settled') THEN
        PERFORM holdfast.tell_cost(kept, next, change_usd);
    END IF;
    RETURN ROW(1, kept.state, change_usd)::holdfast.ended;
END
$$;

-- End some reservations, as `close_one` does; of several ends of one the surest holds. A call that settles what was
-- held has an event of its own, unless the end stands `alone`.
CREATE FUNCTION holdfast.close(
    at timestamptz, ids text[], states text[], given_usd numeric[], given_tokens numeric[], alone boolean
) RETURNS SETOF holdfast.ended
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    one record;
    only_one holdfast.ended;
BEGIN
    IF cardinality(ids) = 1 THEN
        only_one := holdfast.close_one(at, ids[1], states[1], given_usd[1], given_tokens[1], alone);
        IF only_one.n IS NOT NULL THEN
            RETURN NEXT only_one;
        END IF;
        RETURN;
    END IF;
    FOR one IN
        WITH given AS (
            SELECT DISTINCT ON (g.id COLLATE "C") g.*
            FROM unnest(ids, states, given_usd, given_tokens) WITH ORDINALITY AS g (id, state, usd, tokens, n)
            ORDER BY g.id COLLATE "C", array_position(ARRAY['settled', 'released', 'presumed'], g.state), g.n
        ),
        ended AS MATERIALIZED (
            SELECT
                r AS kept, r.reservation_id, r.state AS before, r.scopes, r.units, r.runs, r.hour, r.day, r.usd,
                r.tokens, g.n, g.state AS next,
                CASE g.state
                    WHEN 'settled' THEN coalesce(g.usd, r.usd) WHEN 'presumed' THEN r.usd ELSE 0
                END AS did_usd,
                CASE g.state
                    WHEN 'settled' THEN coalesce(g.tokens, r.tokens) WHEN 'presumed' THEN r.tokens ELSE 0
                END AS did_tokens
            FROM given AS g
            INNER JOIN holdfast.reservations AS r ON r.reservation_id = g.id
            WHERE r.state = 'held' OR (r.state = 'presumed' AND g.state <> 'presumed')
                OR (r.state = 'released' AND g.state = 'settled')
            ORDER BY r.reservation_id
            FOR UPDATE OF r
        ),
        lines AS (
            SELECT
                l.scope, l.unit, w.kind, w.start,
                sum(CASE WHEN e.before = 'held' THEN a.reserved ELSE 0 END) AS freed,
                sum(a.did - CASE WHEN e.before = 'presumed' THEN a.reserved ELSE 0 END) AS added
            FROM ended AS e
            CROSS JOIN LATERAL unnest(e.scopes, e.units, e.runs) AS l (scope, unit, run)
            CROSS JOIN LATERAL (VALUES ('run', l.run), ('hour', e.hour), ('day', e.day)) AS w (kind, start)
            CROSS JOIN LATERAL (
                SELECT
                    CASE l.unit WHEN 'usd' THEN e.usd ELSE e.tokens END AS reserved,
                    CASE l.unit WHEN 'usd' THEN e.did_usd ELSE e.did_tokens END AS did
            ) AS a
            WHERE w.start IS NOT NULL
            GROUP BY l.scope, l.unit, w.kind, w.start
        ),
        locked AS MATERIALIZED (
            SELECT w.scope, w.unit, w.kind, w.start, lines.freed, lines.added
            FROM holdfast.windows AS w
            INNER JOIN lines USING (scope, unit, kind, start)
            ORDER BY w.scope, w.unit, w.kind, w.start
            FOR UPDATE OF w
        ),
        changed AS (
            UPDATE holdfast.windows AS w SET reserved = w.reserved - k.freed, spent = w.spent + k.added
            FROM locked AS k
            WHERE (w.scope, w.unit, w.kind, w.start) = (k.scope, k.unit, k.kind, k.start)
        ),
        closed AS (
            UPDATE holdfast.reservations AS r
            SET state = e.next, spent_usd = e.did_usd, spent_tokens = e.did_tokens,
                closed_at = coalesce(at, clock_timestamp())
            FROM ended AS e WHERE r.reservation_id = e.reservation_id
        )
        SELECT
            e.kept, e.n, e.before, e.next,
            e.did_usd - CASE e.before WHEN 'presumed' THEN e.usd ELSE 0 END AS change
        FROM ended AS e
    LOOP
        IF one.before <> 'held' OR one.next = 'presumed' OR (alone AND one.next = 'settled') THEN
            PERFORM holdfast.tell_cost(one.kept, one.next, one.change);
        END IF;
        RETURN NEXT ROW(one.n, one.before, one.change)::holdfast.ended;
    END LOOP;
END
$$;

-- Claim a call for which there is a reservation, or that needs none (`had`: taken, free, refused); one that is not to
-- be made keeps nothing reserved. What an earlier attempt had reserved counts as spent: it may have been served.
CREATE FUNCTION holdfast.claim_reserved(
    at timestamptz, had text, thread text, effect text, given_kind text, given_name text, given_request bytea,
    given_asked jsonb, given_token text, given_worker text, given_epoch bigint, again boolean, ns text, task text,
    given_node text, given_step integer, correlation text, run text, given_on_doubt text,
    OUT outcome text, OUT tried integer, OUT result_type text, OUT result bytea
)
LANGUAGE plpgsql AS $$
DECLARE
    ended text[];
BEGIN
    IF had = 'refused' THEN
        RETURN;
    END IF;
    SELECT c.* INTO outcome, tried, result_type, result
    FROM holdfast.claim(
        thread, effect, given_kind, given_name, given_request, given_asked, given_token, given_worker, given_epoch,
        again, ns, task, given_node, given_step, correlation, run, given_on_doubt
    ) AS c;
    IF outcome <> 'claimed' THEN
        PERFORM holdfast.close_one(at, given_token, 'released', NULL, NULL, false);
        RETURN;
    END IF;
    IF had = 'free' AND NOT EXISTS (
        SELECT 1 FROM holdfast.reservations AS r WHERE r.reservation_id = given_token AND r.state = 'held'
    ) THEN
        RAISE EXCEPTION 'the record of this call was taken back while it was claimed; claim it again'
            USING ERRCODE = 'serialization_failure';
    END IF;
    IF tried > 1 THEN
        ended := ARRAY(
            SELECT r.reservation_id FROM holdfast.reservations AS r
            WHERE r.thread_id = thread AND r.effect_id = effect AND r.state = 'held' AND r.reservation_id <> given_token
        );
        PERFORM holdfast.close(
            at, ended, array_fill('presumed'::text, ARRAY[cardinality(ended)]), NULL, NULL, false
        );
    END IF;
END
$$;

-- What became of a call whose reservation has just ended (`before`: the state that it was in, `spent`: what was added).
-- Its event has its cost; if it is no longer ours to say, the cost is told of all the same.
CREATE FUNCTION holdfast.settle_reserved(
    before text, spent numeric, thread text, effect text, given_token text, given_epoch bigint, given_state text,
    event text, given_type text, given_result bytea, tokens_in bigint, tokens_out bigint, ms double precision,
    details jsonb
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    kept holdfast.reservations;
BEGIN
    IF holdfast.settle(
        thread, effect, given_token, given_epoch, given_state, event, given_type, given_result, tokens_in, tokens_out,
        CASE WHEN before = 'held' THEN spent END, ms, details
    ) THEN
        RETURN true;
    END IF;
    IF before = 'held' AND spent IS NOT NULL THEN
        SELECT r.* INTO kept FROM holdfast.reservations AS r WHERE r.reservation_id = given_token;
        PERFORM holdfast.tell_cost(kept, 'settled', spent);
    END IF;
    RETURN false;
END
$$;

-- `resolve`, and with it what is reserved for the call: if it was made, that counts as spent; else it is given back.
CREATE FUNCTION holdfast.resolve_reserved(
    thread text, effect text, given_state text, given_type text, given_result bytea, actor text, details jsonb,
    said text, own_epoch bigint, attempt integer
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    newest text; -- the reservation of the attempt that is meant has the name of its claim
    ended text[];
BEGIN
    SELECT e.token INTO newest FROM holdfast.effects AS e
    WHERE e.thread_id = thread AND e.effect_id = effect FOR UPDATE;
    IF NOT holdfast.resolve(
        thread, effect, given_state, given_type, given_result, actor, details, said, own_epoch, attempt
    ) THEN
        RETURN false;
    END IF;
    ended := ARRAY(
        SELECT r.reservation_id FROM holdfast.reservations AS r
        WHERE r.thread_id = thread AND r.effect_id = effect
            AND (r.state = 'held' OR (r.state = 'presumed' AND r.reservation_id = newest))
    );
    PERFORM holdfast.close(
        NULL, ended,
        array_fill(CASE given_state WHEN 'failed' THEN 'released' ELSE 'presumed' END::text, ARRAY[cardinality(ended)]),
        NULL, NULL, false
    );
    RETURN true;
END
$$;

-- What a trust policy found when it was asked about a call: it stands in the request's context. Null if it was not.
CREATE FUNCTION holdfast.trust_of(context json) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN CASE json_typeof(context -> 'trust') WHEN 'object' THEN (context -> 'trust')::jsonb END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL; -- json that has texts which no jsonb has
END
$$;

-- Requests for approval: who is asked about which action, by when, and what became of it. A row is decided once, by
-- whoever locks it first.
CREATE TABLE holdfast.approvals (
    request_id text COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL GENERATED ALWAYS AS IDENTITY, -- order of arrival
    thread_id text NOT NULL,
    task_id text NOT NULL,
    call_id text NOT NULL, -- of the tool call, or what a node calls it; unique in the task
    checkpoint_ns text NOT NULL,
    node text,
    step integer,
    correlation_id text,
    run_id text,
    graph_id text,
    name text NOT NULL, -- of the action
    arguments json NOT NULL, -- as they were written: numbers are not written anew, and names stay in their order
    digest text NOT NULL, -- of name and arguments
    description text NOT NULL,
    context json NOT NULL, -- what the agent knew
    schema json, -- of the arguments
    asked text[] NOT NULL, -- who may decide at first; empty: anybody
    quorum integer NOT NULL CHECK (quorum > 0),
    allowed text[] NOT NULL,
    expires_in interval,
    on_expiry text NOT NULL CHECK (on_expiry IN ('reject', 'escalate', 'approve')),
    escalate_to text[] NOT NULL,
    remind_every interval,
    bulk boolean NOT NULL,
    waived text, -- why nobody need be asked
    state text NOT NULL CHECK (
        state IN ('waived', 'waiting', 'approved', 'edited', 'rejected', 'responded', 'expired', 'withdrawn')
    ),
    requested_at timestamptz NOT NULL,
    expires_at timestamptz,
    remind_at timestamptz,
    deciders text[] NOT NULL, -- who may decide now
    level integer NOT NULL DEFAULT 0, -- how often it was escalated
    votes text[] NOT NULL DEFAULT '{}', -- who has approved, since the last escalation
    reminded integer NOT NULL DEFAULT 0,
    decided_by text,
    decided_at timestamptz,
    decision text CHECK (decision IN ('approve', 'edit', 'reject', 'respond')),
    message text NOT NULL DEFAULT '',
    edited json, -- the arguments that were approved instead
    taken_by text, -- the task that carries it out: an approval is for one
    tokens text[] NOT NULL DEFAULT '{}', -- of what was decided, by which it is known if it is sent again
    refused text[] NOT NULL DEFAULT '{}', -- why and whose decision was refused: each is told once
    -- which kind of action it is about, by default the tool's name
    pattern text GENERATED ALWAYS AS (coalesce(holdfast.trust_of(context) ->> 'pattern', name)) STORED,
    trust jsonb GENERATED ALWAYS AS (holdfast.trust_of(context)) STORED,
    reviewed_at timestamptz, -- when a person has looked at a run that was automatic
    CHECK ((state = 'waiting') = (decided_at IS NULL))
);

CREATE INDEX approvals_of_task ON holdfast.approvals (task_id, thread_id);

CREATE INDEX approvals_of_thread ON holdfast.approvals (thread_id);

CREATE INDEX approvals_by_correlation ON holdfast.approvals (correlation_id) WHERE correlation_id IS NOT NULL;

CREATE INDEX approvals_by_state ON holdfast.approvals (state, expires_at);

CREATE INDEX approvals_due ON holdfast.approvals (least(expires_at, remind_at)) WHERE state = 'waiting';

CREATE INDEX approvals_decided ON holdfast.approvals (decided_at) WHERE state <> 'waiting';

-- An event of a request, in its thread's chain; whoever shows requests learns that this one has changed.
CREATE FUNCTION holdfast.tell_approval(kept holdfast.approvals, actor text, kind text, details jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM holdfast.append_event(
        kept.thread_id, kept.correlation_id, kept.run_id, kept.checkpoint_ns, kept.node, kept.step, actor,
        'approval.' || kind, NULL, NULL, NULL, NULL, NULL, 'user_hidden',
        jsonb_build_object('request', kept.request_id, 'name', kept.name) || details
    );
    PERFORM pg_notify('holdfast_approvals', kept.request_id);
END
$$;

CREATE FUNCTION holdfast.approval_time(at timestamptz) RETURNS text
LANGUAGE sql AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
$$;

-- The time of a request, which the caller has locked, is over: what its terms say of that. Returns what was done.
CREATE FUNCTION holdfast.expire_approval(kept holdfast.approvals, moment timestamptz, worker text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    done text := CASE kept.on_expiry WHEN 'approve' THEN 'approved' ELSE 'expired' END;
    deadline timestamptz := moment + kept.expires_in;
BEGIN
    IF kept.on_expiry = 'escalate' AND kept.level = 0 THEN
        UPDATE holdfast.approvals AS r
        SET deciders = r.escalate_to, level = 1, votes = '{}', expires_at = deadline,
            remind_at = moment + r.remind_every
        WHERE r.request_id = kept.request_id;
        PERFORM holdfast.tell_approval(kept, worker, 'escalated', jsonb_build_object(
            'to', to_jsonb(kept.escalate_to), 'expires_at', holdfast.approval_time(deadline)
        ));
        RETURN 'escalated';
    END IF;
    UPDATE holdfast.approvals AS r
    SET state = done, decided_by = 'holdfast:expiry', decided_at = moment,
        decision = CASE done WHEN 'approved' THEN 'approve' ELSE 'reject' END
    WHERE r.request_id = kept.request_id;
    PERFORM holdfast.tell_approval(kept, worker, 'expired', jsonb_build_object(
        'then', CASE done WHEN 'approved' THEN 'approve' ELSE 'reject' END,
        'expired_at', holdfast.approval_time(kept.expires_at)
    ));
    RETURN done;
END
$$;

-- Decide a request, if nobody has and it is not too late; `verb` may be withdraw, too, which asks for no decider.
-- Returns what was done, if anything, and why it was refused, if it was: a refusal is told, and changes nothing but
-- that a request is expired whose time is over. Neither: this very decision was taken before.
CREATE FUNCTION holdfast.decide_approval(
    at timestamptz, id text, token text, worker text, verb text, person text, seen text, given json, said text,
    told jsonb, OUT done text, OUT refusal text
)
LANGUAGE plpgsql AS $$
DECLARE
    kept holdfast.approvals;
    moment timestamptz;
    agreed text[];
BEGIN
    SELECT r.* INTO kept FROM holdfast.approvals AS r WHERE r.request_id = id FOR UPDATE;
    IF NOT FOUND THEN
        refusal := 'unknown';
        RETURN;
    END IF;
    IF token = ANY(kept.tokens) THEN
        RETURN;
    END IF;
    moment := coalesce(at, clock_timestamp());
    IF kept.state = 'waiting' AND kept.expires_at <= moment THEN
        done := holdfast.expire_approval(kept, moment, worker);
        refusal := 'expired';
    ELSIF kept.state <> 'waiting' THEN
        refusal := CASE kept.decided_by WHEN 'holdfast:expiry' THEN 'expired' ELSE 'decided' END;
    ELSIF verb <> 'withdraw' THEN
        refusal := CASE
            WHEN kept.deciders <> '{}' AND person <> ALL(kept.deciders) THEN 'no decider'
            WHEN verb <> ALL(kept.allowed) THEN 'not allowed'
            WHEN seen <> kept.digest THEN 'changed'
            WHEN verb = 'approve' AND person = ANY(kept.votes) THEN 'voted'
        END;
    END IF;
    IF refusal IS NOT NULL THEN
        -- Once for each person and reason, and no more than so many: this may be tried by anybody, again and again.
        IF refusal || ' ' || person <> ALL(kept.refused) AND cardinality(kept.refused) < 100 THEN
            UPDATE holdfast.approvals AS r SET refused = r.refused || (refusal || ' ' || person)
            WHERE r.request_id = id;
            PERFORM holdfast.append_event(
                kept.thread_id, kept.correlation_id, kept.run_id, kept.checkpoint_ns, kept.node, kept.step, person,
                'approval.refused', NULL, NULL, NULL, NULL, NULL, 'user_hidden',
                jsonb_build_object('request', id, 'name', kept.name, 'tried', verb, 'why', refusal)
            );
        END IF;
        RETURN;
    END IF;
    agreed := CASE verb WHEN 'approve' THEN kept.votes || person ELSE kept.votes END;
    IF verb = 'approve' AND cardinality(agreed) < kept.quorum THEN
        UPDATE holdfast.approvals AS r SET votes = agreed, tokens = r.tokens || token WHERE r.request_id = id;
        done := 'voted';
    ELSE
        UPDATE holdfast.approvals AS r
        SET state = CASE verb
                WHEN 'approve' THEN 'approved' WHEN 'edit' THEN 'edited' WHEN 'reject' THEN 'rejected'
                WHEN 'respond' THEN 'responded' ELSE 'withdrawn'
            END,
            votes = agreed, decided_by = person, decided_at = moment, decision = nullif(verb, 'withdraw'),
            message = said, edited = given, tokens = r.tokens || token
        WHERE r.request_id = id;
        done := CASE verb WHEN 'withdraw' THEN 'withdrawn' ELSE 'decided' END;
    END IF;
    PERFORM holdfast.tell_approval(
        kept, person, done,
        CASE WHEN verb = 'withdraw' THEN '{}'::jsonb ELSE jsonb_build_object('decision', verb) END
        || CASE WHEN kept.quorum = 1 THEN '{}'::jsonb
            ELSE jsonb_build_object('approvals', cardinality(agreed), 'quorum', kept.quorum) END
        || told
    );
END
$$;

-- What is due at a request: the end of its time, or a reminder. Returns what was done, if anything.
CREATE FUNCTION holdfast.tend_approval(at timestamptz, id text, worker text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    kept holdfast.approvals;
    moment timestamptz;
BEGIN
    SELECT r.* INTO kept FROM holdfast.approvals AS r WHERE r.request_id = id AND r.state = 'waiting' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    moment := coalesce(at, clock_timestamp());
    IF kept.expires_at <= moment THEN
        RETURN holdfast.expire_approval(kept, moment, worker);
    ELSIF kept.remind_at <= moment THEN
        UPDATE holdfast.approvals AS r SET reminded = r.reminded + 1, remind_at = moment + r.remind_every
        WHERE r.request_id = id;
        PERFORM holdfast.tell_approval(kept, worker, 'reminded', jsonb_build_object('times', kept.reminded + 1));
        RETURN 'reminded';
    END IF;
    RETURN NULL;
END
$$;

-- Nobody need decide on the waiting requests of these threads any more, or of these runs of them: the thread is not where
-- it was.
CREATE FUNCTION holdfast.withdraw_approvals(threads text[], why text, runs text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    one holdfast.approvals;
BEGIN
    FOR one IN
        SELECT r.* FROM holdfast.approvals AS r
        WHERE r.thread_id = ANY(threads) AND r.state = 'waiting' AND (runs IS NULL OR r.run_id = ANY(runs))
        ORDER BY r.thread_id, r.request_id
        FOR UPDATE
    LOOP
        UPDATE holdfast.approvals AS r
        SET state = 'withdrawn', decided_by = 'holdfast:thread', decided_at = clock_timestamp(), message = why
        WHERE r.request_id = one.request_id;
        PERFORM holdfast.tell_approval(one, 'holdfast:thread', 'withdrawn', jsonb_build_object('message', why));
    END LOOP;
END
$$;

CREATE INDEX approvals_judged ON holdfast.approvals (name, pattern, decided_at DESC)
WHERE state IN ('approved', 'edited', 'rejected', 'responded');

CREATE INDEX approvals_failed ON holdfast.approvals (name, pattern, requested_at DESC)
WHERE trust ->> 'checks' = 'failed';

CREATE INDEX approvals_to_review ON holdfast.approvals (name, pattern, requested_at)
WHERE state = 'waived' AND trust ->> 'review' = 'true' AND reviewed_at IS NULL;

-- What was said of calls beside the decisions on them, which lie with the requests; and those decisions that have
-- outlived their threads. Rows are added, and never changed.
CREATE TABLE holdfast.trust_facts (
    fact_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    tool text NOT NULL,
    pattern text NOT NULL,
    kind text NOT NULL CHECK (
        kind IN ('approved', 'edited', 'responded', 'rejected', 'failed', 'passed', 'fine', 'incident')
    ),
    request_id text COLLATE "C", -- of the call; null: an incident of which no call is known
    who text NOT NULL,
    why text NOT NULL,
    UNIQUE (request_id, kind)
);

CREATE INDEX trust_facts_of ON holdfast.trust_facts (tool, pattern, at DESC);

-- A person's word on a ring.
CREATE TABLE holdfast.trust_pins (
    tool text NOT NULL,
    pattern text NOT NULL,
    ring integer NOT NULL CHECK (ring BETWEEN 0 AND 2),
    exact boolean NOT NULL, -- else at the most
    who text NOT NULL,
    why text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (tool, pattern)
);

-- The ring that was found last, so that a change of it is told once.
CREATE TABLE holdfast.trust_rings (
    tool text NOT NULL,
    pattern text NOT NULL,
    ring integer NOT NULL DEFAULT 0 CHECK (ring BETWEEN 0 AND 2),
    rule jsonb, -- by which it was found; null: nobody has asked yet
    since timestamptz,
    PRIMARY KEY (tool, pattern)
);

-- Whether a person has decided: time does not, and nobody knows who "unknown" is, so that its word counts against only.
CREATE FUNCTION holdfast.trust_judged(state text, decided_by text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT state IN ('approved', 'edited', 'rejected', 'responded') AND decided_by NOT LIKE 'holdfast:%'
        AND (state <> 'approved' OR decided_by <> 'unknown')
$$;

-- 0: good. 1: not good as it stood. 2: a setback.
CREATE FUNCTION holdfast.trust_severity(kind text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN kind IN ('approved', 'fine') THEN 0 WHEN kind IN ('rejected', 'incident') THEN 2 ELSE 1 END
$$;

-- A thread is removed, and its arguments with it; how the calls turned out stays: who prunes what went wrong would
-- earn autonomy by it.
CREATE FUNCTION holdfast.keep_evidence() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    judged CONSTANT boolean := holdfast.trust_judged(OLD.state, OLD.decided_by);
    failed CONSTANT boolean := coalesce(OLD.trust ->> 'checks' = 'failed', false);
BEGIN
    IF judged OR failed THEN
        INSERT INTO holdfast.trust_facts (at, tool, pattern, kind, request_id, who, why)
        VALUES (
            CASE WHEN judged THEN OLD.decided_at ELSE OLD.requested_at END, OLD.name, OLD.pattern,
            CASE WHEN judged AND NOT (failed AND OLD.state = 'approved') THEN OLD.state ELSE 'failed' END,
            OLD.request_id, CASE WHEN judged THEN OLD.decided_by ELSE 'checks' END, ''
        )
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER evidence_stays AFTER DELETE ON holdfast.approvals
FOR EACH ROW EXECUTE FUNCTION holdfast.keep_evidence();

-- Who wants to be told of requests for approval: a webhook, a chat. Without anybody nothing is written.
CREATE TABLE holdfast.receivers (
    name text PRIMARY KEY, -- as whoever tells it calls it; its address and secrets are not here
    kinds text[] NOT NULL, -- of what it is told
    seen_at timestamptz NOT NULL -- when somebody last looked for what it is to be told
);

-- What is still to be told, one row for each receiver: written with the change, deleted when it was told.
CREATE TABLE holdfast.notices (
    notice_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    receiver text NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    kind text NOT NULL CHECK (kind IN ('requested', 'reminded', 'escalated', 'decided', 'expired', 'withdrawn')),
    number integer NOT NULL, -- the how-manyth reminder or escalation
    at timestamptz NOT NULL, -- when it happened
    tries integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL, -- when it may be tried; while somebody tries, when others may
    UNIQUE (request_id, receiver, kind, number)
);

CREATE INDEX notices_due ON holdfast.notices (receiver, due_at);

CREATE FUNCTION holdfast.note_approval() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    what text := 'requested';
    times integer := 0;
    moment CONSTANT timestamptz := clock_timestamp();
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD.state <> 'waiting' THEN
            RETURN NULL;
        ELSIF NEW.state <> 'waiting' THEN
            what := CASE
                WHEN NEW.decided_by = 'holdfast:expiry' THEN 'expired'
                WHEN NEW.state = 'withdrawn' THEN 'withdrawn'
                ELSE 'decided'
            END;
        ELSIF NEW.level <> OLD.level THEN
            what := 'escalated';
            times := NEW.level;
        ELSIF NEW.reminded <> OLD.reminded THEN
            what := 'reminded';
            times := NEW.reminded;
        ELSE
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO holdfast.notices (receiver, request_id, kind, number, at, due_at)
    SELECT r.name, NEW.request_id, what, times, moment, moment FROM holdfast.receivers AS r
    -- One that nobody tells any more is not written to for ever.
    WHERE what = ANY(r.kinds) AND r.seen_at > moment - interval '7 days'
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE TRIGGER note_request AFTER INSERT ON holdfast.approvals
FOR EACH ROW WHEN (new.state = 'waiting') EXECUTE FUNCTION holdfast.note_approval();

CREATE TRIGGER note_change AFTER UPDATE ON holdfast.approvals
FOR EACH ROW WHEN (old.state = 'waiting') EXECUTE FUNCTION holdfast.note_approval();
