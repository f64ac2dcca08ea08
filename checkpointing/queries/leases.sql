-- name: acquire
SELECT holdfast.acquire(%(thread_id)s, %(worker)s) AS epoch;

-- name: release
-- Nobody waits for the disk, which has all that the runs wrote.
UPDATE holdfast.leases SET held = false
FROM unnest(%(threads)s::text[], %(epochs)s::bigint[]) AS g (thread_id, epoch),
    set_config('synchronous_commit', 'off', true) AS later
WHERE (leases.thread_id, leases.epoch) = (g.thread_id, g.epoch);

-- name: epochs
SELECT thread_id, epoch FROM holdfast.leases WHERE thread_id = ANY(%(threads)s::text[]);

-- name: held
SELECT thread_id, epoch FROM holdfast.leases WHERE worker = %(worker)s AND held;

-- name: beat
-- Whether the worker counted as alive until now.
SELECT holdfast.beat(%(worker)s, %(ttl)s) AS alive;

-- name: leave
DELETE FROM holdfast.workers WHERE worker = %(worker)s;
