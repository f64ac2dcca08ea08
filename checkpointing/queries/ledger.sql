-- name: reserve
SELECT outcome, scope, unit, kind, most, used, amount
FROM holdfast.reserve(
    %(at)s::timestamptz, %(id)s, %(thread)s, %(effect)s, %(node)s, %(correlation)s, %(name)s, %(worker)s, %(run_key)s,
    %(usd)s::numeric[], %(tokens)s::numeric[], %(line)s, %(scope)s, %(unit)s, %(per_call)s::numeric[],
    %(per_run)s::numeric[], %(hourly)s::numeric[], %(daily)s::numeric[]
)
ORDER BY n;

-- name: enter
-- Reserve, then claim what has its reservation, or needs none.
WITH reserved AS MATERIALIZED (
    SELECT * FROM holdfast.reserve(
        %(at)s::timestamptz, %(token)s, %(thread)s, %(effect)s, %(payer)s, %(correlation)s, %(name)s, %(worker)s,
        %(run_key)s, %(usd)s::numeric[], %(tokens)s::numeric[], %(line)s, %(scope)s, %(unit)s,
        %(per_call)s::numeric[], %(per_run)s::numeric[], %(hourly)s::numeric[], %(daily)s::numeric[]
    )
)

SELECT r.outcome, r.scope, r.unit, r.kind, r.most, r.used, r.amount, c.*
FROM unnest(
    %(thread)s, %(effect)s, %(kind)s, %(name)s, %(request)s, %(asked)s, %(token)s, %(worker)s,
    %(epoch)s, %(again)s, %(ns)s, %(task)s, %(node)s, %(step)s, %(correlation)s, %(run)s, %(on_doubt)s
) WITH ORDINALITY AS g (
    thread, effect, kind, name, request, asked, token, worker, epoch, again, ns, task, node, step, correlation, run,
    on_doubt, n
)
INNER JOIN reserved AS r ON r.n = g.n
CROSS JOIN LATERAL holdfast.claim_reserved(
    %(at)s::timestamptz, r.outcome, g.thread, g.effect, g.kind, g.name, g.request, g.asked::jsonb, g.token, g.worker,
    g.epoch, g.again = 1, g.ns, g.task, g.node, g.step::int, g.correlation, g.run, g.on_doubt
) AS c
ORDER BY g.n;

-- name: leave
-- End the reservations, then settle the calls.
WITH closed AS MATERIALIZED (
    SELECT * FROM holdfast.close(
        %(at)s::timestamptz, %(token)s, %(closing)s, %(usd)s::numeric[], %(tokens)s::numeric[], false
    )
)

SELECT holdfast.settle_reserved(
    c.before, CASE g.closing WHEN 'settled' THEN c.usd END, g.thread, g.effect, g.token, g.epoch, g.state, g.event,
    g.type, g.result, g.tokens_in, g.tokens_out, g.ms::double precision, g.details::jsonb
)
FROM unnest(
    %(thread)s, %(effect)s, %(token)s, %(epoch)s, %(state)s, %(event)s, %(type)s, %(result)s,
    %(tokens_in)s, %(tokens_out)s, %(ms)s, %(details)s, %(closing)s
) WITH ORDINALITY AS g (
    thread, effect, token, epoch, state, event, type, result, tokens_in, tokens_out, ms, details, closing, n
)
LEFT JOIN closed AS c ON c.n = g.n
ORDER BY g.n;

-- name: close
-- End reservations, each with an event of its own where it says of which thread. Where nobody waits for it, it is
-- durable with the next commit: lost before that, the reservations stay, and count as spent.
WITH eased AS MATERIALIZED (
    SELECT CASE WHEN %(soon)s::int = 1 THEN set_config('synchronous_commit', 'off', true) END AS setting
),

closed AS MATERIALIZED (
    SELECT c.* FROM eased
    CROSS JOIN LATERAL holdfast.close(
        %(at)s::timestamptz, %(id)s, %(closing)s, %(usd)s::numeric[], %(tokens)s::numeric[], false
    ) AS c
)

SELECT
    c.before,
    CASE WHEN c.before = 'held' AND g.thread IS NOT NULL THEN holdfast.append_event(
        g.thread, g.correlation, g.run, g.ns, g.node, g.step::int, coalesce(g.node, g.worker), g.event, g.effect,
        g.tokens_in, g.tokens_out, c.usd, g.ms::double precision, 'user_hidden', g.details::jsonb
    ) END
FROM unnest(
    %(thread)s, %(correlation)s, %(run)s, %(ns)s, %(node)s, %(step)s, %(worker)s, %(event)s, %(effect)s,
    %(tokens_in)s, %(tokens_out)s, %(ms)s, %(details)s
) WITH ORDINALITY AS g (
    thread, correlation, run, ns, node, step, worker, event, effect, tokens_in, tokens_out, ms, details, n
)
LEFT JOIN closed AS c ON c.n = g.n
ORDER BY g.n;

-- name: charge
-- What was spent without a reservation.
WITH lines AS (
    SELECT l.scope, l.unit, w.kind, w.start, CASE l.unit WHEN 'usd' THEN %(usd)s::numeric ELSE %(tokens)s::numeric END
    FROM unnest(%(scope)s, %(unit)s) AS l (scope, unit)
    CROSS JOIN (SELECT coalesce(%(at)s::timestamptz, clock_timestamp()) AT TIME ZONE 'UTC' AS moment) AS m
    CROSS JOIN LATERAL (
        VALUES
        ('run', %(run_key)s::text),
        ('hour', to_char(m.moment, 'YYYY-MM-DD"T"HH24')),
        ('day', to_char(m.moment, 'YYYY-MM-DD'))
    ) AS w (kind, start)
    WHERE w.start IS NOT NULL
),

spent AS (
    INSERT INTO holdfast.windows AS w (scope, unit, kind, start, spent)
    SELECT * FROM lines ORDER BY scope COLLATE "C", unit COLLATE "C", kind COLLATE "C", start COLLATE "C"
    ON CONFLICT (scope, unit, kind, start) DO UPDATE SET spent = w.spent + excluded.spent
)

SELECT holdfast.append_event(
    %(thread)s, %(correlation)s, %(run)s, %(ns)s, %(node)s, %(step)s::int, coalesce(%(node)s, %(worker)s), %(event)s,
    NULL, %(tokens_in)s::bigint, %(tokens_out)s::bigint, %(usd)s::numeric, %(ms)s::double precision, 'user_hidden',
    %(details)s::jsonb
);

-- name: outstanding
SELECT reservation_id, state, usd, tokens, scopes, thread_id, effect_id, name, worker, made_at
FROM holdfast.reservations
WHERE state IN ('held', 'presumed')
ORDER BY made_at, reservation_id;

-- name: resolve
-- With who says so; its cost, or the difference to what was presumed, is on an event of its own.
WITH outstanding AS MATERIALIZED (
    SELECT reservation_id FROM holdfast.reservations
    WHERE reservation_id = %(id)s AND state IN ('held', 'presumed')
    FOR UPDATE
),

closed AS MATERIALIZED (
    SELECT c.n FROM outstanding AS o
    CROSS JOIN LATERAL holdfast.close(
        %(at)s::timestamptz, ARRAY[o.reservation_id], ARRAY[%(closing)s]::text[], ARRAY[%(usd)s]::numeric[],
        ARRAY[%(tokens)s]::numeric[], true
    ) AS c
)

SELECT
    c.n,
    holdfast.append_event(
        coalesce(r.thread_id, %(thread)s), r.correlation_id, NULL, '', r.node, NULL, %(actor)s, 'cost.resolved',
        r.effect_id, NULL, NULL, NULL, NULL, 'user_hidden',
        jsonb_build_object(
            'name', r.name, 'reservation', r.reservation_id, 'outcome', %(closing)s::text,
            'usd', (%(usd)s::numeric)::text, 'cost', jsonb_build_object('model', r.name)
        )
    )
FROM closed AS c
CROSS JOIN holdfast.reservations AS r
WHERE r.reservation_id = %(id)s;

-- name: tell
SELECT holdfast.append_event(
    %(thread)s, NULL, NULL, '', NULL, NULL, %(actor)s, %(kind)s, NULL, NULL, NULL, NULL, NULL, 'user_hidden',
    %(details)s::jsonb
);

-- name: lock_trail
-- Who tells something once waits for another who does.
SELECT pg_advisory_xact_lock(hashtextextended(%(thread)s, 1869636975));

-- name: told
SELECT 1 FROM holdfast.events
WHERE thread_id = %(thread)s AND kind = %(kind)s AND details @> %(same)s::jsonb LIMIT 1;

-- name: budgets
SELECT scope, unit, per_call, per_run, hourly, daily, set_by, set_at FROM holdfast.budgets ORDER BY scope, unit;

-- name: lock_budget
SELECT per_call, per_run, hourly, daily FROM holdfast.budgets
WHERE scope = %(scope)s AND unit = %(unit)s FOR UPDATE;

-- name: set_budget
-- What is not said stays as it was set before.
INSERT INTO holdfast.budgets AS kept (scope, unit, per_call, per_run, hourly, daily, set_by)
VALUES (
    %(scope)s, %(unit)s, %(per_call)s::numeric, %(per_run)s::numeric, %(hourly)s::numeric, %(daily)s::numeric, %(by)s
)
ON CONFLICT (scope, unit) DO UPDATE SET
    per_call = coalesce(excluded.per_call, kept.per_call), per_run = coalesce(excluded.per_run, kept.per_run),
    hourly = coalesce(excluded.hourly, kept.hourly), daily = coalesce(excluded.daily, kept.daily),
    set_by = excluded.set_by, set_at = clock_timestamp();

-- name: remove_budget
DELETE FROM holdfast.budgets WHERE scope = %(scope)s AND unit = %(unit)s;

-- name: windows
-- Of one scope, or all; the newest first.
SELECT scope, unit, kind, start, spent, reserved
FROM holdfast.windows
WHERE (%(scope)s::text IS NULL OR scope = %(scope)s) AND (%(unit)s::text IS NULL OR unit = %(unit)s)
    AND (%(kind)s::text IS NULL OR kind = %(kind)s) AND (
        %(since_hour)s::text IS NULL
        OR (kind = 'hour' AND start >= %(since_hour)s) OR (kind = 'day' AND start >= %(since_day)s)
    )
ORDER BY scope, unit, kind, start DESC;
