-- name: claim
SELECT c.*
FROM unnest(
    %(thread)s, %(effect)s, %(kind)s, %(name)s, %(request)s, %(asked)s, %(token)s, %(worker)s,
    %(epoch)s, %(again)s, %(ns)s, %(task)s, %(node)s, %(step)s, %(correlation)s, %(run)s, %(on_doubt)s
) WITH ORDINALITY AS g (
    thread, effect, kind, name, request, asked, token, worker, epoch, again, ns, task, node, step, correlation, run,
    on_doubt, n
)
CROSS JOIN LATERAL holdfast.claim(
    g.thread, g.effect, g.kind, g.name, g.request, g.asked::jsonb, g.token, g.worker, g.epoch, g.again = 1, g.ns,
    g.task, g.node, g.step::int, g.correlation, g.run, g.on_doubt
) AS c
ORDER BY g.n;

-- name: settle
SELECT holdfast.settle(
    g.thread, g.effect, g.token, g.epoch, g.state, g.event, g.type, g.result, g.tokens_in, g.tokens_out,
    g.price::numeric, g.ms::double precision, g.details::jsonb
)
FROM unnest(
    %(thread)s, %(effect)s, %(token)s, %(epoch)s, %(state)s, %(event)s, %(type)s, %(result)s,
    %(tokens_in)s, %(tokens_out)s, %(price)s, %(ms)s, %(details)s
) WITH ORDINALITY AS g (
    thread, effect, token, epoch, state, event, type, result, tokens_in, tokens_out, price, ms, details, n
)
ORDER BY g.n;

-- name: resolve
SELECT holdfast.resolve_reserved(
    %(thread)s, %(effect)s, %(state)s, %(type)s, %(result)s, %(actor)s, %(details)s::jsonb, %(said)s, %(epoch)s,
    %(attempt)s::int
);

-- name: refuse
SELECT holdfast.refuse(%(thread)s, %(effect)s, %(epoch)s, %(details)s::jsonb);

-- name: begun
-- The calls of a task that were begun and have no end, those that are being made among them.
SELECT thread_id, effect_id, kind, name, asked::text, on_doubt, state, worker, claimed_at, task_id, attempts, answers
FROM holdfast.effects
WHERE thread_id = %(thread)s AND task_id = %(task)s AND state IN ('claimed', 'raised')
ORDER BY claimed_at, effect_id;

-- name: doubts
-- The calls whose outcome nobody will find out by waiting.
SELECT thread_id, effect_id, kind, name, asked::text, on_doubt, state, worker, claimed_at, task_id, attempts, answers
FROM holdfast.effects
WHERE (%(thread)s::text IS NULL OR thread_id = %(thread)s) AND (
    state = 'raised' OR (state = 'claimed' AND NOT holdfast.under_way(thread_id, epoch))
)
ORDER BY claimed_at, thread_id, effect_id;

-- name: peek
SELECT type, result FROM holdfast.effects
WHERE thread_id = %(thread)s AND effect_id = %(effect)s AND state = 'completed';
