-- name: append
SELECT holdfast.append_event(
    %(thread_id)s::text, %(correlation_id)s::text, %(run_id)s::text, %(checkpoint_ns)s::text, %(node)s::text,
    %(step)s::integer, %(actor)s::text, %(kind)s::text, %(effect_id)s::text, %(input_tokens)s::bigint,
    %(output_tokens)s::bigint, %(cost)s::numeric, %(duration_ms)s::double precision, %(visibility)s::text,
    %(details)s::text::jsonb
);

-- name: damage_found
SELECT holdfast.append_event(
    %(thread_id)s::text, NULL, NULL, %(checkpoint_ns)s::text, NULL, NULL, 'saver', 'damage.found', NULL,
    NULL, NULL, NULL, NULL, 'user_hidden',
    jsonb_build_object('damage', %(damage)s::text, 'fell_back_to', %(fell_back_to)s::text)
);

-- name: read
-- Events after those that are known of each thread; details only as far as they may be shown.
SELECT
    thread_id, number, at, correlation_id, run_id, checkpoint_ns, node, step, actor, kind, effect_id,
    input_tokens, output_tokens, cost, duration_ms, visibility,
    CASE WHEN visibility = ANY(%(shown)s::text[]) THEN details::text END, digest
FROM holdfast.events AS e
WHERE correlation_id = %(correlation_id)s AND (%(thread_id)s::text IS NULL OR thread_id = %(thread_id)s)
    AND number > coalesce((
        SELECT k.number FROM unnest(%(threads)s::text[], %(numbers)s::bigint[]) AS k (thread_id, number)
        WHERE k.thread_id = e.thread_id
    ), 0)
ORDER BY at, thread_id, number;

-- name: read_thread
SELECT
    thread_id, number, at, correlation_id, run_id, checkpoint_ns, node, step, actor, kind, effect_id,
    input_tokens, output_tokens, cost, duration_ms, visibility,
    CASE WHEN visibility = ANY(%(shown)s::text[]) THEN details::text END, digest
FROM holdfast.events AS e
WHERE thread_id = %(thread_id)s
    AND number > coalesce((
        SELECT k.number FROM unnest(%(threads)s::text[], %(numbers)s::bigint[]) AS k (thread_id, number)
        WHERE k.thread_id = e.thread_id
    ), 0)
ORDER BY number;

-- name: heads
-- The newest event of each thread, as its chain knows it.
SELECT thread_id, number, digest FROM holdfast.chains WHERE number > 0 ORDER BY thread_id;

-- name: threads
SELECT thread_id FROM holdfast.chains
UNION
SELECT thread_id FROM holdfast.events
ORDER BY thread_id;

-- name: snapshot
-- One view of the chain for all pages; what is added meanwhile is not in it.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: chain
SELECT number, digest FROM holdfast.chains WHERE thread_id = %(thread_id)s;

-- name: links
-- A page of a chain: of each event its number, its digest, and what the digest is to cover besides the number.
SELECT number, digest, convert_to(jsonb_build_array(
    thread_id, extract(epoch FROM at), correlation_id, run_id, checkpoint_ns, node, step, actor, kind, effect_id,
    input_tokens, output_tokens, cost, encode(float8send(duration_ms), 'hex'), visibility, details
)::text, 'UTF8')
FROM holdfast.events
WHERE thread_id = %(thread_id)s AND number > %(after)s::bigint
ORDER BY number
LIMIT %(limit)s;
