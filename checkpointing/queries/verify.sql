-- name: snapshot
-- One view of the thread for all pages; what is committed meanwhile is not in it.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: threads
SELECT thread_id FROM checkpoints
UNION
SELECT thread_id FROM holdfast.heads
UNION
SELECT thread_id FROM checkpoint_blobs
UNION
SELECT thread_id FROM checkpoint_writes
UNION
SELECT thread_id FROM holdfast.messages
ORDER BY thread_id;

-- name: checkpoints
-- A page of checkpoints; of each, its parent's seal and rows of writes, and which channels have a stored value:
-- after a +, if this saver wrote it.
SELECT
    c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint::text, c.metadata::text, c.type,
    above.checkpoint_id IS NOT NULL, above.type,
    (
        SELECT count(*) FROM checkpoint_writes AS w
        WHERE w.thread_id = %(thread_id)s AND w.checkpoint_ns = c.checkpoint_ns
            AND w.checkpoint_id = c.parent_checkpoint_id
    ),
    ARRAY(
        SELECT stored.sign || v.channel
        FROM jsonb_each_text(
            CASE jsonb_typeof(c.checkpoint -> 'channel_versions')
                WHEN 'object' THEN c.checkpoint -> 'channel_versions' ELSE '{}'
            END
        ) AS v (channel, version)
        CROSS JOIN LATERAL (
            SELECT CASE WHEN b.type LIKE 'hf1:%%' THEN '+' ELSE '-' END AS sign FROM checkpoint_blobs AS b
            WHERE b.thread_id = %(thread_id)s AND b.checkpoint_ns = c.checkpoint_ns
                AND b.channel = v.channel AND b.version = v.version AND b.type <> 'empty'
            LIMIT 1
        ) AS stored
    )
FROM (
    SELECT *, sum(pg_column_size(checkpoint)) OVER (ORDER BY checkpoint_ns, checkpoint_id) AS total
    FROM (
        SELECT * FROM checkpoints
        WHERE thread_id = %(thread_id)s AND (checkpoint_ns, checkpoint_id) > (%(ns)s, %(id)s)
        ORDER BY checkpoint_ns, checkpoint_id
        LIMIT %(rows)s
    ) AS page
) AS c
LEFT JOIN LATERAL (
    SELECT p.checkpoint_id, p.type FROM checkpoints AS p
    WHERE p.thread_id = %(thread_id)s AND p.checkpoint_ns = c.checkpoint_ns
        AND p.checkpoint_id = c.parent_checkpoint_id
    LIMIT 1
) AS above ON true
WHERE c.total - pg_column_size(c.checkpoint) <= %(bytes)s
ORDER BY c.checkpoint_ns, c.checkpoint_id;

-- name: blobs
-- A page of stored values, of so many bytes in all, or one that has more.
SELECT checkpoint_ns, channel, version, type, blob
FROM (
    SELECT
        *, sum(coalesce(octet_length(blob), 0)) OVER (ORDER BY checkpoint_ns, channel, version) AS total
    FROM (
        SELECT * FROM checkpoint_blobs
        WHERE thread_id = %(thread_id)s AND (checkpoint_ns, channel, version) > (%(ns)s, %(channel)s, %(version)s)
        ORDER BY checkpoint_ns, channel, version
        LIMIT %(rows)s
    ) AS page
) AS b
WHERE total - coalesce(octet_length(blob), 0) <= %(bytes)s
ORDER BY checkpoint_ns, channel, version;

-- name: writes
-- A page of rows of writes, and the seal of the checkpoint that they were written on; null if that is not there.
SELECT
    w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx, w.task_path, w.channel, w.type, w.blob,
    (
        SELECT coalesce(c.type, '') FROM checkpoints AS c
        WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = w.checkpoint_ns AND c.checkpoint_id = w.checkpoint_id
    )
FROM (
    SELECT *, sum(octet_length(blob)) OVER (ORDER BY checkpoint_ns, checkpoint_id, task_id, idx) AS total
    FROM (
        SELECT * FROM checkpoint_writes
        WHERE thread_id = %(thread_id)s
            AND (checkpoint_ns, checkpoint_id, task_id, idx) > (%(ns)s, %(id)s, %(task)s, %(idx)s::int)
        ORDER BY checkpoint_ns, checkpoint_id, task_id, idx
        LIMIT %(rows)s
    ) AS page
) AS w
WHERE w.total - octet_length(w.blob) <= %(bytes)s
ORDER BY w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx;

-- name: messages
SELECT digest, type, body, visibility, role, correlation_id, checkpoint_ns, node, step, tokens, checksum
FROM (
    SELECT *, sum(octet_length(body)) OVER (ORDER BY digest) AS total
    FROM (
        SELECT * FROM holdfast.messages
        WHERE thread_id = %(thread_id)s AND digest > %(digest)s
        ORDER BY digest
        LIMIT %(rows)s
    ) AS page
) AS m
WHERE total - octet_length(body) <= %(bytes)s
ORDER BY digest;

-- name: held
SELECT digest FROM holdfast.messages WHERE thread_id = %(thread_id)s AND digest = ANY(%(digests)s);

-- name: heads
-- By namespace: the head, the newest checkpoint, whether the head is older or newer than that, and the writes on it.
SELECT
    coalesce(h.checkpoint_ns, newest.checkpoint_ns), h.checkpoint_id, h.writes, newest.checkpoint_id,
    (
        SELECT c.type FROM checkpoints AS c
        WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = newest.checkpoint_ns
            AND c.checkpoint_id = newest.checkpoint_id
    ),
    CASE
        WHEN newest.checkpoint_id IS NULL OR h.checkpoint_id > newest.checkpoint_id THEN 1
        WHEN h.checkpoint_id < newest.checkpoint_id THEN -1
        ELSE 0
    END,
    (
        SELECT count(*) FROM checkpoint_writes AS w
        WHERE w.thread_id = %(thread_id)s AND w.checkpoint_ns = h.checkpoint_ns AND w.checkpoint_id = h.checkpoint_id
    )
FROM (SELECT * FROM holdfast.heads WHERE thread_id = %(thread_id)s) AS h
FULL JOIN (
    SELECT checkpoint_ns, max(checkpoint_id) AS checkpoint_id FROM checkpoints
    WHERE thread_id = %(thread_id)s
    GROUP BY checkpoint_ns
) AS newest ON newest.checkpoint_ns = h.checkpoint_ns
ORDER BY 1;

-- name: unused
-- Stored values that no checkpoint has.
SELECT checkpoint_ns, channel, version FROM checkpoint_blobs WHERE thread_id = %(thread_id)s
EXCEPT
SELECT c.checkpoint_ns, v.channel, v.version
FROM checkpoints AS c
CROSS JOIN LATERAL jsonb_each_text(
    CASE jsonb_typeof(c.checkpoint -> 'channel_versions')
        WHEN 'object' THEN c.checkpoint -> 'channel_versions' ELSE '{}'
    END
) AS v (channel, version)
WHERE c.thread_id = %(thread_id)s;

-- name: holders
-- The oldest checkpoint that has each of some stored values.
SELECT c.checkpoint_ns, v.channel, v.version, min(c.checkpoint_id)
FROM checkpoints AS c
CROSS JOIN LATERAL jsonb_each_text(
    CASE jsonb_typeof(c.checkpoint -> 'channel_versions')
        WHEN 'object' THEN c.checkpoint -> 'channel_versions' ELSE '{}'
    END
) AS v (channel, version)
INNER JOIN unnest(%(namespaces)s::text[], %(channels)s::text[], %(versions)s::text[])
    AS wanted (checkpoint_ns, channel, version)
    ON (wanted.checkpoint_ns, wanted.channel, wanted.version) = (c.checkpoint_ns, v.channel, v.version)
WHERE c.thread_id = %(thread_id)s
GROUP BY c.checkpoint_ns, v.channel, v.version;
