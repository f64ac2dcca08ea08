-- name: lock
-- Nothing is committed to the threads until this transaction ends; who counted on their rows looks again.
UPDATE holdfast.heads SET generation = (generation + 1) %% 274877906944
WHERE (thread_id, checkpoint_ns) IN (
    SELECT thread_id, checkpoint_ns FROM holdfast.heads
    WHERE thread_id = ANY(%(threads)s::text[])
    ORDER BY thread_id, checkpoint_ns
    FOR UPDATE
);

-- name: hold
-- The same, where nothing is taken away.
SELECT 1 FROM holdfast.heads WHERE thread_id = ANY(%(threads)s::text[])
ORDER BY thread_id, checkpoint_ns
FOR UPDATE;

-- name: alone
-- No namespace of the threads gets its first commit until this transaction ends (`holdfast.opened`).
SELECT pg_advisory_xact_lock(key) FROM (
    SELECT DISTINCT hashtextextended(thread_id, 1869636974) AS key
    FROM unnest(%(threads)s::text[]) AS g (thread_id)
    ORDER BY key
    OFFSET 0
) AS keys;

-- name: leases
-- Nor does a head begin that a run knows as it would have been before: last, as a commit locks.
UPDATE holdfast.leases SET generation = (generation + 1) %% 274877906944
WHERE thread_id IN (
    SELECT thread_id FROM holdfast.leases
    WHERE thread_id = ANY(%(threads)s::text[])
    ORDER BY thread_id
    FOR UPDATE
);

-- name: delete_checkpoints
DELETE FROM checkpoints WHERE thread_id = ANY(%(threads)s::text[]);

-- name: delete_blobs
DELETE FROM checkpoint_blobs WHERE thread_id = ANY(%(threads)s::text[]);

-- name: delete_writes
DELETE FROM checkpoint_writes WHERE thread_id = ANY(%(threads)s::text[]);

-- name: delete_heads
DELETE FROM holdfast.heads WHERE thread_id = ANY(%(threads)s::text[]);

-- name: delete_leases
-- Those that are held stay with their runs.
DELETE FROM holdfast.leases
WHERE thread_id = ANY(%(threads)s::text[]) AND NOT (held AND holdfast.runner(thread_id) IS NOT NULL);

-- name: delete_incidents
DELETE FROM holdfast.incidents WHERE thread_id = ANY(%(threads)s::text[]);

-- name: delete_settings
DELETE FROM holdfast.threads WHERE thread_id = ANY(%(threads)s::text[]);

-- name: delete_effects
DELETE FROM holdfast.effects WHERE thread_id = ANY(%(threads)s::text[]);

-- name: withdraw_approvals
SELECT holdfast.withdraw_approvals(%(threads)s::text[], %(why)s);

-- name: delete_approvals
DELETE FROM holdfast.approvals WHERE thread_id = ANY(%(threads)s::text[]);

-- name: withdraw_approvals_of_runs
SELECT holdfast.withdraw_approvals(%(threads)s::text[], %(why)s, %(runs)s::text[]);

-- name: delete_approvals_of_runs
DELETE FROM holdfast.approvals WHERE thread_id = ANY(%(threads)s::text[]) AND run_id = ANY(%(runs)s::text[]);

-- name: lock_approvals
SELECT 1 FROM holdfast.approvals WHERE thread_id = ANY(%(threads)s::text[]) ORDER BY thread_id, request_id FOR UPDATE;

-- name: delete_messages
-- All of these threads' messages, but those of the visibilities that are to stay.
DELETE FROM holdfast.messages
WHERE thread_id = ANY(%(threads)s::text[]) AND visibility <> ALL(%(keep)s::text[]);

-- name: exists
SELECT 1 FROM checkpoints WHERE thread_id = %(target)s
UNION ALL
SELECT 1 FROM holdfast.heads WHERE thread_id = %(target)s
UNION ALL
SELECT 1 FROM holdfast.messages WHERE thread_id = %(target)s
LIMIT 1;

-- name: copy_checkpoints
INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
SELECT %(target)s, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
FROM checkpoints WHERE thread_id = %(source)s;

-- name: copy_blobs
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT %(target)s, checkpoint_ns, channel, version, type, blob
FROM checkpoint_blobs WHERE thread_id = %(source)s;

-- name: copy_writes
INSERT INTO checkpoint_writes (
    thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
)
SELECT %(target)s, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
FROM checkpoint_writes WHERE thread_id = %(source)s;

-- name: copy_messages
INSERT INTO holdfast.messages (
    thread_id, digest, type, body, visibility, role, correlation_id, checkpoint_ns, node, step, tokens, checksum,
    created_at
)
SELECT
    %(target)s, digest, type, body, visibility, role, correlation_id, checkpoint_ns, node, step, tokens, checksum,
    created_at
FROM holdfast.messages WHERE thread_id = %(source)s
ORDER BY position;

-- name: copy_heads
INSERT INTO holdfast.heads (thread_id, checkpoint_ns, checkpoint_id, writes, generation)
SELECT %(target)s, checkpoint_ns, checkpoint_id, writes, generation
FROM holdfast.heads WHERE thread_id = %(source)s;

-- name: copy_effects
INSERT INTO holdfast.effects (
    thread_id, effect_id, kind, name, request, asked, on_doubt, state, token, attempts, worker, epoch, checkpoint_ns,
    task_id, node, step, correlation_id, run_id, answers, type, result, claimed_at, settled_at
)
SELECT
    %(target)s, effect_id, kind, name, request, asked, on_doubt, state, token, attempts, worker, epoch, checkpoint_ns,
    task_id, node, step, correlation_id, run_id, answers, type, result, claimed_at, settled_at
FROM holdfast.effects WHERE thread_id = %(source)s;

-- name: checkpoints
SELECT
    checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint::text, metadata::text, type
FROM checkpoints WHERE thread_id = %(thread_id)s
ORDER BY checkpoint_ns, checkpoint_id;

-- name: threads_of_runs
SELECT DISTINCT thread_id FROM checkpoints WHERE metadata ->> 'run_id' = ANY(%(runs)s::text[]) ORDER BY thread_id;

-- name: drop_checkpoints
DELETE FROM checkpoints
USING unnest(%(namespaces)s::text[], %(ids)s::text[]) AS gone (checkpoint_ns, checkpoint_id)
WHERE (checkpoints.thread_id, checkpoints.checkpoint_ns, checkpoints.checkpoint_id)
    = (%(thread_id)s, gone.checkpoint_ns, gone.checkpoint_id);

-- name: drop_writes_of
DELETE FROM checkpoint_writes
USING unnest(%(namespaces)s::text[], %(ids)s::text[]) AS gone (checkpoint_ns, checkpoint_id)
WHERE (checkpoint_writes.thread_id, checkpoint_writes.checkpoint_ns, checkpoint_writes.checkpoint_id)
    = (%(thread_id)s, gone.checkpoint_ns, gone.checkpoint_id);

-- name: drop_write_rows
DELETE FROM checkpoint_writes AS w
USING unnest(%(namespaces)s::text[], %(ids)s::text[], %(tasks)s::text[], %(idxs)s::int[])
    AS gone (checkpoint_ns, checkpoint_id, task_id, idx)
WHERE (w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx)
    = (%(thread_id)s, gone.checkpoint_ns, gone.checkpoint_id, gone.task_id, gone.idx);

-- name: reseal
UPDATE checkpoints SET parent_checkpoint_id = given.parent, type = given.type
FROM unnest(%(namespaces)s::text[], %(ids)s::text[], %(parents)s::text[], %(types)s::text[])
    AS given (checkpoint_ns, checkpoint_id, parent, type)
WHERE (checkpoints.thread_id, checkpoints.checkpoint_ns, checkpoints.checkpoint_id)
    = (%(thread_id)s, given.checkpoint_ns, given.checkpoint_id);

-- name: blobs_of
SELECT checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs
WHERE thread_id = %(thread_id)s AND type LIKE 'hf%%';

-- name: blob_keys
SELECT checkpoint_ns, channel, version FROM checkpoint_blobs WHERE thread_id = %(thread_id)s;

-- name: writes_of
SELECT checkpoint_ns, checkpoint_id, task_id, task_path, channel, type, blob, idx FROM checkpoint_writes
WHERE thread_id = %(thread_id)s;

-- name: drop_blobs
DELETE FROM checkpoint_blobs AS b
USING unnest(%(namespaces)s::text[], %(channels)s::text[], %(versions)s::text[])
    AS gone (checkpoint_ns, channel, version)
WHERE (b.thread_id, b.checkpoint_ns, b.channel, b.version)
    = (%(thread_id)s, gone.checkpoint_ns, gone.channel, gone.version);

-- name: keep_messages
DELETE FROM holdfast.messages
WHERE thread_id = %(thread_id)s AND digest <> ALL(%(digests)s);

-- name: settle_heads
-- The heads as they are after the removal.
WITH gone AS (
    DELETE FROM holdfast.heads AS h
    WHERE h.thread_id = %(thread_id)s AND NOT EXISTS (
        SELECT 1 FROM checkpoints AS c WHERE (c.thread_id, c.checkpoint_ns) = (h.thread_id, h.checkpoint_ns)
    )
)
UPDATE holdfast.heads AS h
SET
    checkpoint_id = newest.checkpoint_id,
    writes = (
        SELECT count(*) FROM checkpoint_writes AS w
        WHERE (w.thread_id, w.checkpoint_ns, w.checkpoint_id) = (h.thread_id, h.checkpoint_ns, newest.checkpoint_id)
    )
FROM (
    SELECT checkpoint_ns, max(checkpoint_id) AS checkpoint_id FROM checkpoints
    WHERE thread_id = %(thread_id)s
    GROUP BY checkpoint_ns
) AS newest
WHERE h.thread_id = %(thread_id)s AND h.checkpoint_ns = newest.checkpoint_ns;

-- name: idle
-- Threads whose newest checkpoint is older than a moment; of messages that outlived their checkpoints, the newest. Nor
-- was anything decided since, after which the thread is about to go on.
SELECT thread_id FROM (
    SELECT thread_id, max(holdfast.moment(checkpoint ->> 'ts')) AS active FROM checkpoints GROUP BY thread_id
) AS threads
WHERE active < %(before)s::timestamptz AND NOT EXISTS (
    SELECT 1 FROM holdfast.approvals AS a
    WHERE a.thread_id = threads.thread_id AND a.decided_at >= %(before)s::timestamptz
)
UNION
SELECT thread_id FROM holdfast.messages AS m
WHERE visibility <> ALL(%(keep)s::text[]) AND NOT EXISTS (SELECT 1 FROM checkpoints AS c WHERE c.thread_id = m.thread_id)
GROUP BY thread_id
HAVING max(created_at) < %(before)s::timestamptz
ORDER BY thread_id;

-- name: still_idle
-- Of locked threads those that are idle still.
SELECT g.thread_id FROM unnest(%(threads)s::text[]) AS g (thread_id)
WHERE NOT EXISTS (
    SELECT 1 FROM checkpoints AS c
    WHERE c.thread_id = g.thread_id AND holdfast.moment(c.checkpoint ->> 'ts') >= %(before)s::timestamptz
) AND NOT EXISTS (
    SELECT 1 FROM holdfast.approvals AS a WHERE a.thread_id = g.thread_id AND a.decided_at >= %(before)s::timestamptz
);
