-- name: seen
-- A receiver is looked after; written once a minute at the most.
INSERT INTO holdfast.receivers AS r (name, kinds, seen_at)
SELECT g.name, %(kinds)s::text[], clock_timestamp() FROM unnest(%(receivers)s::text[]) AS g (name)
ORDER BY g.name COLLATE "C"
ON CONFLICT (name) DO UPDATE SET kinds = excluded.kinds, seen_at = excluded.seen_at
WHERE r.seen_at < excluded.seen_at - interval '1 minute' OR r.kinds <> excluded.kinds;

-- name: stale
-- Nobody is asked any more to decide what is decided; of a request that is gone there is nothing to tell.
DELETE FROM holdfast.notices AS n
WHERE n.receiver = ANY(%(receivers)s::text[]) AND NOT EXISTS (
    SELECT 1 FROM holdfast.approvals AS a
    WHERE a.request_id = n.request_id
        AND (a.state = 'waiting' OR n.kind NOT IN ('requested', 'reminded', 'escalated'))
);

-- name: claim
-- What is due, for whoever comes first; the others may try when its time is over.
UPDATE holdfast.notices AS n
SET tries = n.tries + 1, due_at = clock_timestamp() + make_interval(secs => %(lease)s::double precision)
FROM (
    SELECT d.notice_id FROM holdfast.notices AS d
    WHERE d.receiver = ANY(%(receivers)s::text[])
        AND d.due_at <= clock_timestamp()
    ORDER BY d.notice_id
    LIMIT %(most)s
    FOR UPDATE SKIP LOCKED
) AS due
WHERE n.notice_id = due.notice_id
RETURNING n.notice_id, n.receiver, n.request_id, n.kind, n.number, n.at, n.tries;

-- name: begin
-- It is told now: by who claimed it last, and nobody else.
UPDATE holdfast.notices SET due_at = clock_timestamp() + make_interval(secs => %(lease)s::double precision)
WHERE notice_id = %(notice)s AND tries = %(tries)s::integer
RETURNING notice_id;

-- name: told
DELETE FROM holdfast.notices WHERE notice_id = %(notice)s;

-- name: later
-- It was not taken: again in a while, unless somebody else is at it meanwhile.
UPDATE holdfast.notices
SET due_at = clock_timestamp() + make_interval(secs => %(pause)s::double precision)
WHERE notice_id = %(notice)s AND tries = %(tries)s::integer;

-- name: given_up
-- It was not taken, and will not be tried again: that is told in the thread's audit trail.
WITH gone AS (
    DELETE FROM holdfast.notices WHERE notice_id = %(notice)s
    RETURNING receiver, request_id, kind, tries
)

SELECT holdfast.append_event(
    a.thread_id, a.correlation_id, a.run_id, a.checkpoint_ns, a.node, a.step, %(actor)s, 'approval.untold', NULL, NULL,
    NULL, NULL, NULL, 'user_hidden',
    jsonb_build_object(
        'request', g.request_id, 'name', a.name, 'told', g.kind, 'receiver', g.receiver, 'tries', g.tries,
        'why', %(why)s::text
    )
)
FROM gone AS g
INNER JOIN holdfast.approvals AS a ON a.request_id = g.request_id;

-- name: outstanding
SELECT notice_id, receiver, request_id, kind, number, at, tries, due_at FROM holdfast.notices ORDER BY notice_id;

-- name: forget
DELETE FROM holdfast.receivers WHERE name = %(receiver)s;

-- name: forget_notices
DELETE FROM holdfast.notices WHERE receiver = %(receiver)s;
