-- name: lock_jobs_setup
SELECT pg_advisory_xact_lock(%(key)s);

-- name: jobs_version
-- No row: the schema is not there. NULL: its tables are not.
SELECT CASE WHEN to_regclass(format('%%I.procrastinate_jobs', nspname)) IS NOT NULL
    THEN coalesce(obj_description(oid, 'pg_namespace'), 'procrastinate 0.0.0') END
FROM pg_namespace WHERE nspname = %(schema)s;

-- name: to_jobs
-- For this transaction; the search path as it was before.
WITH before AS MATERIALIZED (SELECT current_setting('search_path') AS path)
SELECT path, set_config('search_path', concat_ws(', ', %(schema)s::text, nullif(path, '')), true) FROM before;

-- name: back_from_jobs
SELECT set_config('search_path', %(path)s, true);

-- name: create_failures
-- What a thread's last segment failed with; the row goes when the thread has gone on.
CREATE TABLE IF NOT EXISTS failures (
    thread_id text PRIMARY KEY,
    graph text NOT NULL,
    error text NOT NULL,
    transient boolean NOT NULL,
    attempts integer NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);

-- name: record_failure
INSERT INTO holdfast_jobs.failures (thread_id, graph, error, transient, attempts)
VALUES (%(thread_id)s, %(graph)s, %(error)s, %(transient)s, 1)
ON CONFLICT (thread_id) DO UPDATE SET
    graph = excluded.graph, error = excluded.error, transient = excluded.transient,
    attempts = failures.attempts + 1, at = now()
RETURNING attempts;

-- name: forget_failure
DELETE FROM holdfast_jobs.failures WHERE thread_id = %(thread_id)s;

-- name: jobs_there
SELECT to_regclass('holdfast_jobs.failures') IS NOT NULL;

-- name: queued
-- Threads that wait for a worker, are run by one, or could not go on; newest first.
SELECT thread_id, graph, state, error, attempts, since
FROM (
    SELECT
        j.lock AS thread_id,
        j.args ->> 'graph' AS graph,
        CASE j.status WHEN 'doing' THEN 'running' ELSE 'queued' END AS state,
        f.error,
        coalesce(f.attempts, 0) AS attempts,
        (SELECT max(e.at) FROM holdfast_jobs.procrastinate_events AS e WHERE e.job_id = j.id AND e.type <> 'scheduled')
            AS since
    FROM holdfast_jobs.procrastinate_jobs AS j
    LEFT JOIN holdfast_jobs.failures AS f ON f.thread_id = j.lock
    WHERE j.status IN ('todo', 'doing') AND j.lock IS NOT NULL
        AND (%(thread_id)s::text IS NULL OR j.lock = %(thread_id)s)
    UNION ALL
    SELECT thread_id, graph, 'failed', error, attempts, at
    FROM holdfast_jobs.failures AS f
    WHERE (%(thread_id)s::text IS NULL OR thread_id = %(thread_id)s)
        AND NOT EXISTS (
            SELECT FROM holdfast_jobs.procrastinate_jobs AS j
            WHERE j.lock = f.thread_id AND j.status IN ('todo', 'doing')
        )
) AS known
ORDER BY since DESC NULLS LAST, state DESC
LIMIT %(limit)s;

-- name: lock_thread
-- Who asks whether a thread is there is alone in asking until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended(%(thread_id)s, 1785684595));

-- name: begun
-- Whether a thread is there, and whether it waits for a worker or has one.
SELECT
    EXISTS (SELECT FROM checkpoints WHERE thread_id = %(thread_id)s AND checkpoint_ns = '') AS saved,
    EXISTS (
        SELECT FROM holdfast_jobs.procrastinate_jobs WHERE lock = %(thread_id)s AND status IN ('todo', 'doing')
    ) AS queued;

-- name: lock_task
-- Of two that decide about the same task at once, the second sees what the first did.
SELECT pg_advisory_xact_lock(hashtextextended(%(thread_id)s || chr(1) || %(task_id)s, 1785684595));

-- name: task_open
SELECT EXISTS (
    SELECT FROM holdfast.approvals
    WHERE thread_id = %(thread_id)s AND task_id = %(task_id)s AND state = 'waiting'
) AS open;

-- name: overlooked
-- Decided requests whose thread stands still where it asked: who decided could not enqueue anything. By the task of
-- the root graph, whose id is in the namespace of whatever runs inside of it.
WITH decided AS MATERIALIZED (
    SELECT
        thread_id,
        task_id,
        graph_id,
        coalesce(nullif(split_part(split_part(checkpoint_ns, '|', 1), ':', 2), ''), task_id) AS root_task
    FROM holdfast.approvals
    WHERE decided_at >= coalesce(%(since)s::timestamptz, '-infinity') AND state <> 'waiting' AND state <> 'waived'
        AND graph_id IS NOT NULL
),
paused AS MATERIALIZED (
    SELECT DISTINCT d.thread_id, d.task_id, d.graph_id, h.checkpoint_id
    FROM decided AS d
    JOIN holdfast.heads AS h ON h.thread_id = d.thread_id AND h.checkpoint_ns = ''
    JOIN checkpoint_writes AS w
        ON (w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id) = (d.thread_id, '', h.checkpoint_id, d.root_task)
        AND w.channel = '__interrupt__'
)
SELECT p.thread_id, p.task_id, p.graph_id, p.checkpoint_id
FROM paused AS p
WHERE NOT EXISTS (
        SELECT FROM holdfast_jobs.procrastinate_jobs AS j
        WHERE j.lock = p.thread_id AND j.status IN ('todo', 'doing')
    )
    AND NOT EXISTS (
        SELECT FROM holdfast.approvals AS o
        WHERE o.thread_id = p.thread_id AND o.task_id = p.task_id AND o.state = 'waiting'
    )
LIMIT 200;

-- name: try_lock_takeover
SELECT pg_try_advisory_xact_lock(%(key)s) AS held;

-- name: finish_own_job
-- What has become of it is in the record of its thread.
DELETE FROM procrastinate_jobs WHERE id = %(job_id)s AND worker_id = %(worker_id)s AND status = 'doing';

-- name: retry_own_job
SELECT procrastinate_retry_job_v2(id, %(retry_at)s, NULL, NULL, NULL)
FROM (
    SELECT id FROM procrastinate_jobs WHERE id = %(job_id)s AND worker_id = %(worker_id)s AND status = 'doing' FOR UPDATE
) AS own;
