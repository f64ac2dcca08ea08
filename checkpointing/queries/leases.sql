-- name: acquire
WITH taken AS MATERIALIZED (SELECT holdfast.acquire(%(thread_id)s, %(worker)s) AS epoch)
SELECT
    epoch,
    CASE WHEN epoch IS NOT NULL THEN holdfast.append_event(
        %(thread_id)s, %(correlation)s, %(run)s, '', NULL, NULL, %(worker)s, 'run.started', NULL, NULL, NULL, NULL,
        NULL, 'user_hidden', '{}'
    ) END
FROM taken;

-- name: runner
SELECT holdfast.runner(%(thread_id)s);

-- name: release
-- Nobody waits for the disk, which has all that the runs wrote.
UPDATE holdfast.leases SET held = false
FROM unnest(%(threads)s::text[], %(epochs)s::bigint[]) AS g (thread_id, epoch),
    set_config('synchronous_commit', 'off', true) AS later
WHERE (leases.thread_id, leases.epoch) = (g.thread_id, g.epoch);

-- name: end
-- The same for a run of which the end is known.
WITH released AS (
    UPDATE holdfast.leases SET held = false
    FROM set_config('synchronous_commit', 'off', true) AS later
    WHERE (thread_id, epoch) = (%(thread_id)s, %(epoch)s)
    RETURNING thread_id, worker
)
SELECT holdfast.append_event(
    thread_id, %(correlation)s, %(run)s, '', NULL, NULL, worker, 'run.ended', NULL, NULL, NULL, NULL, %(ms)s,
    'user_hidden', %(details)s::jsonb
)
FROM released;

-- name: epochs
SELECT thread_id, epoch FROM holdfast.leases WHERE thread_id = ANY(%(threads)s::text[]);

-- name: held
SELECT thread_id, epoch FROM holdfast.leases WHERE worker = %(worker)s AND held;

-- name: beat
-- Whether the worker counted as alive until now.
SELECT holdfast.beat(%(worker)s, %(ttl)s) AS alive;

-- name: leave
DELETE FROM holdfast.workers WHERE worker = %(worker)s;

-- name: input
-- The newest input of a thread.
SELECT checkpoint_id FROM checkpoints
WHERE thread_id = %(thread_id)s AND checkpoint_ns = '' AND metadata ->> 'source' = 'input'
ORDER BY checkpoint_id DESC
LIMIT 1;
