-- name: commit
-- One batch of puts and put_writes, of any threads: one statement, one round trip, one transaction.
WITH messages AS (
    INSERT INTO holdfast.messages AS kept (
        thread_id, digest, type, body, visibility, role, correlation_id, checkpoint_ns, node, step, tokens, checksum
    )
    SELECT * FROM unnest(
        %(m_thread)s, %(m_digest)s, %(m_type)s, %(m_body)s, %(m_shown)s,
        %(m_role)s, %(m_cid)s, %(m_ns)s, %(m_node)s, %(m_step)s,
        %(m_tokens)s, %(m_sum)s
    )
    -- What was hidden once stays hidden: of two opinions the stricter holds ('a' < 'u' < 'v'). What is
    -- damaged is put right.
    ON CONFLICT (thread_id, digest) DO UPDATE
    SET (type, body, visibility, correlation_id, checkpoint_ns, node, step, checksum) = (
        excluded.type, excluded.body, excluded.visibility, excluded.correlation_id, excluded.checkpoint_ns,
        excluded.node, excluded.step, excluded.checksum
    )
    WHERE excluded.visibility < kept.visibility
        OR (excluded.visibility = kept.visibility AND (kept.type, kept.body) <> (excluded.type, excluded.body))
),
blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT * FROM unnest(
        %(b_thread)s, %(b_ns)s, %(b_channel)s, %(b_version)s, %(b_type)s,
        %(b_blob)s
    )
    ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING
),
added AS (
    INSERT INTO checkpoint_writes AS kept (
        thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
    )
    SELECT * FROM unnest(
        %(w_thread)s, %(w_ns)s, %(w_checkpoint)s, %(w_task)s, %(w_path)s,
        %(w_idx)s, %(w_channel)s, %(w_type)s, %(w_blob)s
    )
    -- As the official saver: errors, interrupts and answers are replaced, other writes stand; what comes from
    -- outside is one task's, which grows. A type ends in the number of writes that the row holds.
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE
    SET (channel, type, blob, task_path) = (excluded.channel, excluded.type, excluded.blob, excluded.task_path)
    WHERE excluded.idx < 0
        OR excluded.task_id = '00000000-0000-0000-0000-000000000000'
        AND split_part(excluded.type, ':', 4)::int
            > coalesce(nullif(split_part(kept.type, ':', 4), '')::int, 1)
    RETURNING thread_id, checkpoint_ns, checkpoint_id, xmax = 0 AS is_new
),
saved AS (
    INSERT INTO checkpoints (
        thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
    )
    SELECT a, b, c, d, e, f::jsonb, h::jsonb
    FROM unnest(
        %(c_thread)s, %(c_ns)s, %(c_id)s, %(c_parent)s, %(c_type)s,
        %(c_checkpoint)s, %(c_metadata)s
    ) AS g (a, b, c, d, e, f, h)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE
    SET (parent_checkpoint_id, type, checkpoint, metadata)
        = (excluded.parent_checkpoint_id, excluded.type, excluded.checkpoint, excluded.metadata)
),
-- Writes without a checkpoint of their namespace in this batch.
counted AS (
    UPDATE holdfast.heads AS head
    SET
        writes = head.writes + (
            SELECT count(*) FROM added
            WHERE (thread_id, checkpoint_ns, checkpoint_id)
                = (head.thread_id, head.checkpoint_ns, head.checkpoint_id) AND is_new
        ),
        generation = holdfast.still(head.generation, g.generation)
    FROM unnest(%(t_thread)s, %(t_ns)s, %(t_generation)s) AS g (thread_id, checkpoint_ns, generation)
    WHERE (head.thread_id, head.checkpoint_ns) = (g.thread_id, g.checkpoint_ns)
    RETURNING head.thread_id, head.checkpoint_ns
),
heads AS (
    INSERT INTO holdfast.heads AS head (thread_id, checkpoint_ns, checkpoint_id, writes, generation)
    SELECT
        g.thread_id,
        g.checkpoint_ns,
        g.checkpoint_id,
        (
            -- Sorted by the primary key: without statistics the planner takes the index of threads, and reads all
            -- writes of one.
            SELECT count(*) FROM (
                SELECT FROM checkpoint_writes
                WHERE (thread_id, checkpoint_ns, checkpoint_id)
                    = (g.thread_id, g.checkpoint_ns, g.checkpoint_id)
                ORDER BY thread_id, checkpoint_ns, checkpoint_id, task_id, idx
            ) AS earlier
        ) + (
            SELECT count(*) FROM added
            WHERE (thread_id, checkpoint_ns, checkpoint_id)
                = (g.thread_id, g.checkpoint_ns, g.checkpoint_id) AND is_new
        ),
        g.generation
    FROM unnest(%(h_thread)s, %(h_ns)s, %(h_id)s, %(h_generation)s)
        AS g (thread_id, checkpoint_ns, checkpoint_id, generation)
    ON CONFLICT (thread_id, checkpoint_ns) DO UPDATE
    SET
        checkpoint_id = greatest(head.checkpoint_id, excluded.checkpoint_id),
        writes = CASE WHEN head.checkpoint_id > excluded.checkpoint_id THEN head.writes ELSE excluded.writes END,
        generation = holdfast.still(head.generation, excluded.generation)
    RETURNING thread_id, checkpoint_ns, generation, xmax = 0 AS created
)
SELECT holdfast.opened(
    thread_id, (thread_id, checkpoint_ns) IN (SELECT * FROM unnest(%(k_thread)s, %(k_ns)s)), generation
)
FROM heads
WHERE created
UNION ALL
SELECT holdfast.still(0, 1)
FROM unnest(%(t_thread)s, %(t_ns)s) AS known (thread_id, checkpoint_ns)
WHERE (thread_id, checkpoint_ns) NOT IN (SELECT * FROM counted);

-- name: recall
-- What a writer must know of the checkpoint that it stands on, and whether the namespace has a head.
SELECT
    c.parent_checkpoint_id,
    c.checkpoint::text,
    c.metadata::text,
    c.type,
    (
        SELECT count(*) FROM (
            SELECT FROM checkpoint_writes AS w
            WHERE (w.thread_id, w.checkpoint_ns, w.checkpoint_id) = (c.thread_id, c.checkpoint_ns, c.checkpoint_id)
            ORDER BY w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx
        ) AS every
    ) AS writes,
    h.generation,
    l.epoch,
    l.generation AS leased
FROM (SELECT %(thread_id)s::text AS thread_id, %(checkpoint_ns)s::text AS checkpoint_ns) AS given
LEFT JOIN checkpoints AS c
    ON (c.thread_id, c.checkpoint_ns, c.checkpoint_id)
        = (given.thread_id, given.checkpoint_ns, %(checkpoint_id)s::text)
LEFT JOIN holdfast.heads AS h
    ON (h.thread_id, h.checkpoint_ns) = (given.thread_id, given.checkpoint_ns)
LEFT JOIN holdfast.leases AS l ON l.thread_id = given.thread_id;

-- name: load
-- A checkpoint, its stored values and its writes, and what the thread's head should be: one snapshot.
WITH RECURSIVE target AS MATERIALIZED (
    SELECT * FROM checkpoints
    WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s
        AND (%(checkpoint_id)s::text IS NULL OR checkpoint_id = %(checkpoint_id)s)
    ORDER BY checkpoint_id DESC
    LIMIT 1
),
-- Its stored values, and the stored lists that they stand on; row by row (LIMIT), as the planner's
-- estimates are worst for the threads that are large.
path AS (
    SELECT blob.channel, blob.version, blob.type, blob.blob
    FROM target
    CROSS JOIN LATERAL jsonb_each_text(
        CASE jsonb_typeof(target.checkpoint -> 'channel_versions')
            WHEN 'object' THEN target.checkpoint -> 'channel_versions'
        END
    ) AS v (channel, version)
    CROSS JOIN LATERAL (
        SELECT * FROM checkpoint_blobs AS b
        WHERE b.thread_id = %(thread_id)s AND b.checkpoint_ns = %(checkpoint_ns)s
            AND b.channel = v.channel AND b.version = v.version
        LIMIT 1
    ) AS blob
    UNION ALL
    SELECT older.channel, older.version, older.type, older.blob
    FROM path
    CROSS JOIN LATERAL (
        SELECT * FROM checkpoint_blobs AS b
        WHERE b.thread_id = %(thread_id)s AND b.checkpoint_ns = %(checkpoint_ns)s
            AND b.channel = path.channel AND b.version = split_part(path.type, ':', 4)
            AND b.version < path.version
        LIMIT 1
    ) AS older
    WHERE split_part(path.type, ':', 4) <> ''
)
SELECT
    'checkpoint' AS source, checkpoint_id AS a, parent_checkpoint_id AS b, checkpoint::text AS c, metadata::text AS d,
    type, NULL::bytea AS blob, 0::bigint AS n
FROM target
UNION ALL
SELECT 'head', checkpoint_id, NULL, NULL, NULL, NULL, NULL, (generation << 24) + least(writes, 16777215)
FROM holdfast.heads
WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s
UNION ALL
SELECT 'lease', generation::text, NULL, NULL, NULL, NULL, NULL, epoch
FROM holdfast.leases
WHERE thread_id = %(thread_id)s
UNION ALL
SELECT 'blob', channel, version, NULL, NULL, type, blob, 0 FROM path
UNION ALL
SELECT 'write', w.task_id, w.task_path, w.channel, NULL, w.type, w.blob, w.idx
FROM target
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes AS own
    WHERE (own.thread_id, own.checkpoint_ns, own.checkpoint_id)
        = (target.thread_id, target.checkpoint_ns, target.checkpoint_id)
    ORDER BY own.thread_id, own.checkpoint_ns, own.checkpoint_id, own.task_id, own.idx
) AS w
UNION ALL
-- What a checkpoint that is asked for by name must be, as those that stand on it know.
SELECT 'child', checkpoint_id, NULL, NULL, NULL, type, NULL, 0
FROM checkpoints
WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s
    AND checkpoint_id > %(checkpoint_id)s::text AND parent_checkpoint_id = %(checkpoint_id)s::text;

-- name: lists
-- A stored list and those that it stands on, of the same channel.
WITH RECURSIVE path AS (
    SELECT version, type, blob FROM checkpoint_blobs
    WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s AND channel = %(channel)s
        AND version = %(version)s
    UNION ALL
    SELECT older.version, older.type, older.blob
    FROM path
    CROSS JOIN LATERAL (
        SELECT * FROM checkpoint_blobs AS b
        WHERE b.thread_id = %(thread_id)s AND b.checkpoint_ns = %(checkpoint_ns)s
            AND b.channel = %(channel)s AND b.version = split_part(path.type, ':', 4)
            AND b.version < path.version
        LIMIT 1
    ) AS older
    WHERE split_part(path.type, ':', 4) <> ''
)
SELECT version, type, blob FROM path;

-- name: messages
SELECT digest, type, body, visibility FROM holdfast.messages
WHERE thread_id = %(thread_id)s AND digest = ANY(%(digests)s);

-- name: report
INSERT INTO holdfast.incidents (thread_id, checkpoint_ns, checkpoint_id, damage, fell_back_to)
VALUES (%(thread_id)s, %(checkpoint_ns)s, %(checkpoint_id)s, %(damage)s, %(fell_back_to)s);

-- name: sends
-- What tasks sent, where a checkpoint of an old format keeps it: in its parent's writes.
SELECT type, blob FROM checkpoint_writes
WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s AND checkpoint_id = %(checkpoint_id)s
    AND channel = '__pregel_tasks'
ORDER BY task_path, task_id, idx;

-- name: snapshot
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;

-- name: history
SELECT thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint::text, metadata::text, type
FROM checkpoints
WHERE (%(thread_id)s::text IS NULL OR thread_id = %(thread_id)s)
    AND (%(checkpoint_ns)s::text IS NULL OR checkpoint_ns = %(checkpoint_ns)s)
    AND (%(checkpoint_id)s::text IS NULL OR checkpoint_id = %(checkpoint_id)s)
    AND (%(before)s::text IS NULL OR checkpoint_id < %(before)s)
    AND (%(filter)s::text IS NULL OR metadata @> %(filter)s::jsonb)
ORDER BY checkpoint_id DESC
LIMIT %(limit)s;

-- name: history_heads
SELECT thread_id, checkpoint_ns, checkpoint_id, writes FROM holdfast.heads
WHERE thread_id = %(thread_id)s AND (%(checkpoint_ns)s::text IS NULL OR checkpoint_ns = %(checkpoint_ns)s);

-- name: expected
-- Whether a checkpoint was there, as its namespace's head and those that stand on it know.
SELECT checkpoint_id FROM holdfast.heads
WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s AND checkpoint_id = %(checkpoint_id)s
UNION ALL
SELECT checkpoint_id FROM checkpoints
WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s AND parent_checkpoint_id = %(checkpoint_id)s;

-- name: history_blobs
SELECT blob.thread_id, blob.checkpoint_ns, blob.channel, blob.version, blob.type, blob.blob
FROM unnest(%(threads)s::text[], %(namespaces)s::text[], %(channels)s::text[], %(versions)s::text[])
    AS g (thread_id, checkpoint_ns, channel, version)
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_blobs AS b
    WHERE b.thread_id = g.thread_id AND b.checkpoint_ns = g.checkpoint_ns
        AND b.channel = g.channel AND b.version = g.version
    LIMIT 1
) AS blob;

-- name: history_writes
SELECT w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.channel, w.type, w.blob, w.idx
FROM unnest(%(threads)s::text[], %(namespaces)s::text[], %(ids)s::text[]) AS g (thread_id, checkpoint_ns, checkpoint_id)
CROSS JOIN LATERAL (
    SELECT * FROM checkpoint_writes AS own
    WHERE own.thread_id = g.thread_id AND own.checkpoint_ns = g.checkpoint_ns AND own.checkpoint_id = g.checkpoint_id
    OFFSET 0
) AS w;

-- name: older
-- Checkpoints of a namespace, newest first, from one backwards.
SELECT checkpoint_id FROM checkpoints
WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s
    AND (%(checkpoint_id)s::text IS NULL OR checkpoint_id < %(checkpoint_id)s)
ORDER BY checkpoint_id DESC
LIMIT 50;

-- name: ancestors
-- One page of checkpoints, newest first, among them the ancestors of one; what they store of some channels.
SELECT
    c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint::text, c.metadata::text, c.type,
    (
        SELECT array_agg(b.channel) FROM checkpoint_blobs AS b
        INNER JOIN unnest(%(channels)s::text[]) AS wanted (channel) USING (channel)
        WHERE b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
            AND b.version = c.checkpoint -> 'channel_versions' ->> b.channel
    ) AS stored
FROM checkpoints AS c
WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = %(checkpoint_ns)s AND c.checkpoint_id <= %(checkpoint_id)s
ORDER BY c.checkpoint_id DESC
LIMIT %(limit)s;

-- name: ancestors_writes
SELECT checkpoint_id, task_id, task_path, channel, type, blob, idx FROM checkpoint_writes
WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s AND checkpoint_id = ANY(%(ids)s::text[]);

-- name: blobs
SELECT b.channel, b.version, b.type, b.blob FROM checkpoint_blobs AS b
INNER JOIN unnest(%(channels)s::text[], %(versions)s::text[]) AS wanted (channel, version) USING (channel, version)
WHERE b.thread_id = %(thread_id)s AND b.checkpoint_ns = %(checkpoint_ns)s;
