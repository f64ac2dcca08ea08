-- name: holds
SELECT holdfast.holds(%(thread)s, %(epoch)s);

-- name: open
-- A row if it is new.
WITH added AS (
    INSERT INTO holdfast.approvals AS r (
        request_id, thread_id, task_id, call_id, checkpoint_ns, node, step, correlation_id, run_id, graph_id, name,
        arguments, digest, description, context, schema, asked, quorum, allowed, expires_in, on_expiry, escalate_to,
        remind_every, bulk, waived, state, requested_at, expires_at, remind_at, deciders, decided_by, decided_at
    )
    SELECT
        %(id)s, %(thread)s, %(task)s, %(call)s, %(ns)s, %(node)s, %(step)s::int, %(correlation)s, %(run)s, %(graph)s,
        %(name)s, %(arguments)s::json, %(digest)s, %(description)s, %(context)s::json, %(schema)s::json, %(deciders)s,
        %(quorum)s::int, %(allowed)s, t.expires_in, %(on_expiry)s, %(escalate_to)s, t.remind_every, %(bulk)s::boolean,
        %(waived)s::text, t.state, t.moment,
        CASE t.state WHEN 'waiting' THEN t.moment + t.expires_in END,
        CASE t.state WHEN 'waiting' THEN t.moment + t.remind_every END,
        %(deciders)s,
        CASE t.state WHEN 'waived' THEN 'holdfast:policy' END,
        CASE t.state WHEN 'waived' THEN t.moment END
    FROM (
        -- Of seconds alone: a day would be as long as the session's time zone has it.
        SELECT
            coalesce(%(at)s::timestamptz, clock_timestamp()) AS moment,
            make_interval(secs => %(expires_in)s::double precision) AS expires_in,
            make_interval(secs => %(remind_every)s::double precision) AS remind_every,
            CASE WHEN %(waived)s::text IS NULL THEN 'waiting' ELSE 'waived' END AS state
    ) AS t
    ON CONFLICT (request_id) DO NOTHING
    RETURNING r AS kept, r.state, r.expires_at, r.node
)

SELECT CASE state WHEN 'waived' THEN 'waived' ELSE 'requested' END AS done, holdfast.tell_approval(
    kept, coalesce(node, %(worker)s), CASE state WHEN 'waived' THEN 'waived' ELSE 'requested' END,
    CASE
        WHEN expires_at IS NULL THEN '{}'::jsonb
        ELSE jsonb_build_object('expires_at', holdfast.approval_time(expires_at))
    END || %(told)s::jsonb
)
FROM added;

-- name: get
-- In the order in which they are named; arrays and texts, as the types of JSON lose how a number was written.
SELECT
    r.request_id, r.thread_id, r.task_id, r.call_id, r.checkpoint_ns, r.node, r.step, r.correlation_id, r.run_id,
    r.graph_id, r.name, r.arguments::text, r.digest, r.description, r.context::text, r.schema::text, r.asked, r.quorum,
    r.allowed, r.expires_in, r.on_expiry, r.escalate_to, r.remind_every, r.bulk, r.waived, r.state, r.requested_at,
    r.expires_at, r.deciders, r.level, r.votes, r.reminded, r.decided_by, r.decided_at, r.decision, r.message,
    r.edited::text
FROM unnest(%(ids)s) WITH ORDINALITY AS g (request_id, n)
INNER JOIN holdfast.approvals AS r ON r.request_id = g.request_id
ORDER BY g.n;

-- name: of_task
SELECT request_id FROM holdfast.approvals
WHERE task_id = %(task)s AND thread_id = %(thread)s
ORDER BY position;

-- name: of_call
SELECT request_id FROM holdfast.approvals
WHERE thread_id = %(thread)s AND call_id = %(call)s
ORDER BY requested_at DESC, step DESC NULLS LAST
LIMIT 100;

-- name: find
SELECT request_id FROM holdfast.approvals
WHERE state = ANY(%(states)s)
    AND (%(thread)s::text IS NULL OR thread_id = %(thread)s)
    AND (%(correlation)s::text IS NULL OR correlation_id = %(correlation)s)
    AND (%(person)s::text IS NULL OR deciders = '{}' OR %(person)s = ANY(deciders))
ORDER BY expires_at NULLS LAST, position
LIMIT %(limit)s::bigint;

-- name: decide
SELECT d.done, d.refusal FROM holdfast.decide_approval(
    %(at)s::timestamptz, %(id)s, %(token)s, %(worker)s, %(verb)s, %(person)s, %(seen)s, %(given)s::json, %(said)s,
    %(told)s::jsonb
) AS d;

-- name: due
SELECT request_id FROM holdfast.approvals
WHERE state = 'waiting' AND least(expires_at, remind_at) <= coalesce(%(at)s::timestamptz, clock_timestamp())
ORDER BY least(expires_at, remind_at), request_id
LIMIT %(limit)s::bigint;

-- name: tend
SELECT holdfast.tend_approval(%(at)s::timestamptz, %(id)s, %(worker)s);

-- name: take
-- A row if the action is this task's to carry out, now or before.
UPDATE holdfast.approvals SET taken_by = %(task)s
WHERE request_id = %(id)s AND state IN ('approved', 'edited') AND coalesce(taken_by, %(task)s) = %(task)s
RETURNING request_id;
