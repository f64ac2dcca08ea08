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

-- By its task first: an index that begins with the thread is taken, where there are no statistics yet, for a call's own
-- row too, and all calls of the thread are read.
DROP INDEX holdfast.effects_of_task;
CREATE INDEX effects_of_task ON holdfast.effects (task_id, thread_id);
