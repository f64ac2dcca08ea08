-- Money and tokens: what each scope may spend, what it has spent in each window, and what is reserved for calls.
CREATE TABLE holdfast.budgets (
    scope text NOT NULL,
    unit text NOT NULL CHECK (unit IN ('usd', 'tokens')),
    per_call numeric CHECK (per_call > 0 AND per_call < 'Infinity'), -- null: no limit
    per_run numeric CHECK (per_run > 0 AND per_run < 'Infinity'),
    hourly numeric CHECK (hourly > 0 AND hourly < 'Infinity'),
    daily numeric CHECK (daily > 0 AND daily < 'Infinity'),
    set_by text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (scope, unit)
);

CREATE TABLE holdfast.windows (
    scope text NOT NULL,
    unit text NOT NULL CHECK (unit IN ('usd', 'tokens')),
    kind text NOT NULL CHECK (kind IN ('run', 'hour', 'day')),
    start text NOT NULL, -- of the hour or day in UTC, 2026-11-21T18 or 2026-11-21; of a run, its key
    spent numeric NOT NULL DEFAULT 0 CHECK (spent >= 0),
    reserved numeric NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    PRIMARY KEY (scope, unit, kind, start)
)
WITH (fillfactor = 50);

CREATE TABLE holdfast.reservations (
    reservation_id text PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('held', 'presumed', 'settled', 'released')), -- presumed: counts as spent
    usd numeric NOT NULL CHECK (usd >= 0), -- what the call may cost at the most
    tokens numeric NOT NULL CHECK (tokens >= 0),
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

CREATE INDEX reservations_open ON holdfast.reservations (made_at) WHERE state IN ('held', 'presumed');

CREATE INDEX reservations_of_effect ON holdfast.reservations (thread_id, effect_id) WHERE state IN ('held', 'presumed');

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
            l.n, l.scope, l.unit, l.kind, l.most, coalesce(k.used, 0) AS used, l.amount,
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
    SELECT DISTINCT ON (j.n) j.n, j.fits, j.scope, j.unit, j.kind, j.most, j.used, j.amount
    FROM judged AS j
    ORDER BY
        j.n, j.fits IS NULL DESC, j.fits, j.kind = 'call', (j.most - j.used - j.amount) / j.most NULLS LAST, j.scope,
        j.unit, j.kind;
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
    this_day text := to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD');
    wanted bigint[];
    lines holdfast.line[];
    takings holdfast.taking[];
    one bigint;
BEGIN
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
            ('call', '', CASE WHEN b.scope IS NULL THEN g.per_call ELSE b.per_call END),
            ('run', runs[g.n], CASE WHEN b.scope IS NULL THEN g.per_run ELSE b.per_run END),
            ('hour', this_hour, CASE WHEN b.scope IS NULL THEN g.hourly ELSE b.hourly END),
            ('day', this_day, CASE WHEN b.scope IS NULL THEN g.daily ELSE b.daily END)
        ) AS w (kind, start, most)
        WHERE w.start IS NOT NULL AND (w.most IS NOT NULL OR w.kind IN ('hour', 'day'))
    );
    takings := ARRAY(SELECT t FROM holdfast.take(lines) AS t);
    IF EXISTS (SELECT 1 FROM unnest(takings) AS t WHERE t.fits IS NULL) THEN
        INSERT INTO holdfast.windows (scope, unit, kind, start)
        SELECT DISTINCT l.scope, l.unit, l.kind, l.start FROM unnest(lines) AS l WHERE l.kind <> 'call'
        ORDER BY l.scope, l.unit, l.kind, l.start
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
    INSERT INTO holdfast.reservations (
        reservation_id, state, usd, tokens, scopes, units, runs, hour, day, thread_id, effect_id, node, correlation_id,
        name, worker, made_at
    )
    SELECT
        ids[s.n], 'held', usd[s.n], tokens[s.n], s.scopes, s.units, s.runs, this_hour, this_day, threads[s.n],
        effects[s.n], nodes[s.n], correlations[s.n], names[s.n], workers[s.n], moment
    FROM (
        SELECT h.n, array_agg(h.scope) AS scopes, array_agg(h.unit) AS units, array_agg(r.start) AS runs
        FROM unnest(lines) AS h
        INNER JOIN unnest(takings) AS t ON t.n = h.n AND t.fits
        LEFT JOIN unnest(lines) AS r ON (r.n, r.scope, r.unit, r.kind) = (h.n, h.scope, h.unit, 'run')
        WHERE h.kind = 'hour'
        GROUP BY h.n
    ) AS s;
    RETURN QUERY
    SELECT
        g.n, CASE WHEN t.n IS NULL THEN 'free' WHEN t.fits THEN 'taken' ELSE 'refused' END,
        t.scope, t.unit, t.kind, t.most, t.used, t.amount
    FROM unnest(ids) WITH ORDINALITY AS g (id, n)
    LEFT JOIN unnest(takings) AS t ON t.n = g.n
    ORDER BY g.n;
END
$$;

-- End some reservations: each in its own windows, whatever time it is now. What was presumed may be said better later.
-- Those that were open are returned with what they were.
CREATE FUNCTION holdfast.close(
    at timestamptz, ids text[], states text[], given_usd numeric[], given_tokens numeric[]
) RETURNS TABLE (id text, before text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    one record;
BEGIN
    FOR one IN
        WITH ended AS MATERIALIZED (
            SELECT
                r.*, g.state AS next,
                CASE g.state WHEN 'presumed' THEN r.usd WHEN 'released' THEN 0 ELSE coalesce(g.usd, r.usd) END AS did_usd,
                CASE g.state
                    WHEN 'presumed' THEN r.tokens WHEN 'released' THEN 0 ELSE coalesce(g.tokens, r.tokens)
                END AS did_tokens
            FROM holdfast.reservations AS r
            INNER JOIN unnest(ids, states, given_usd, given_tokens) AS g (id, state, usd, tokens) ON g.id = r.reservation_id
            WHERE r.state = 'held' OR (r.state = 'presumed' AND g.state <> 'presumed')
            ORDER BY r.reservation_id
            FOR UPDATE OF r
        ),
        lines AS (
            SELECT
                l.scope, l.unit, w.kind, w.start,
                sum(CASE WHEN e.state = 'held' THEN a.reserved ELSE 0 END) AS freed,
                sum(a.did - CASE WHEN e.state = 'presumed' THEN a.reserved ELSE 0 END) AS added
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
        SELECT * FROM ended
    LOOP
        -- What counts as spent without a settled call is an event of its own: the events' sum is what was spent.
        IF one.thread_id IS NOT NULL AND 'presumed' IN (one.state, one.next) THEN
            PERFORM holdfast.append_event(
                one.thread_id, one.correlation_id, NULL, '', one.node, NULL, one.worker,
                CASE one.next WHEN 'presumed' THEN 'cost.presumed' ELSE 'cost.corrected' END, one.effect_id, NULL, NULL,
                one.did_usd - CASE one.state WHEN 'presumed' THEN one.usd ELSE 0 END, NULL, 'user_hidden',
                jsonb_build_object(
                    'name', one.name, 'reservation', one.reservation_id,
                    'cost', jsonb_build_object('model', one.name, 'estimated', one.next = 'presumed')
                )
            );
        END IF;
        id := one.reservation_id;
        before := one.state;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Claim a call for which there is a reservation; one that is not to be made keeps nothing reserved. What an earlier
-- attempt of it had reserved counts as spent: nobody knows whether it was served.
CREATE FUNCTION holdfast.claim_reserved(
    reservation text, thread text, effect text, given_kind text, given_name text, given_request bytea,
    given_asked jsonb, given_token text, given_worker text, given_epoch bigint, again boolean, ns text, task text,
    given_node text, given_step integer, correlation text, run text, given_on_doubt text,
    OUT outcome text, OUT tried integer, OUT result_type text, OUT result bytea
)
LANGUAGE plpgsql AS $$
DECLARE
    ended text[];
BEGIN
    SELECT c.* INTO outcome, tried, result_type, result
    FROM holdfast.claim(
        thread, effect, given_kind, given_name, given_request, given_asked, given_token, given_worker, given_epoch,
        again, ns, task, given_node, given_step, correlation, run, given_on_doubt
    ) AS c;
    IF outcome <> 'claimed' THEN
        PERFORM holdfast.close(NULL, ARRAY[reservation], ARRAY['released'], NULL, NULL);
    ELSIF tried > 1 THEN
        ended := ARRAY(
            SELECT r.reservation_id FROM holdfast.reservations AS r
            WHERE r.thread_id = thread AND r.effect_id = effect AND r.state = 'held' AND r.reservation_id <> reservation
        );
        PERFORM holdfast.close(NULL, ended, array_fill('presumed'::text, ARRAY[cardinality(ended)]), NULL, NULL);
    END IF;
END
$$;

-- What is known now of a call of which nothing was known: its reservations end, at what they are if it happened.
CREATE FUNCTION holdfast.close_effect(thread text, effect text, happened boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    ended text[] := ARRAY(
        SELECT r.reservation_id FROM holdfast.reservations AS r
        WHERE r.thread_id = thread AND r.effect_id = effect AND r.state = 'held'
    );
BEGIN
    PERFORM holdfast.close(
        NULL, ended,
        array_fill(CASE WHEN happened THEN 'presumed' ELSE 'released' END::text, ARRAY[cardinality(ended)]), NULL, NULL
    );
END
$$;
