-- name: target
-- A checkpoint, its parent's seal, and which channels have a stored value: after a +, if this saver wrote it.
SELECT
    c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint::text, c.metadata::text, c.type,
    above.type, (
        SELECT array_agg(CASE WHEN b.type LIKE 'hf1:%%' THEN '+' ELSE '-' END || b.channel) FROM checkpoint_blobs AS b
        WHERE b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns AND b.type <> 'empty'
            AND b.version = c.checkpoint -> 'channel_versions' ->> b.channel
    )
FROM checkpoints AS c
LEFT JOIN checkpoints AS above
    ON (above.thread_id, above.checkpoint_ns, above.checkpoint_id)
        = (c.thread_id, c.checkpoint_ns, c.parent_checkpoint_id)
WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = %(checkpoint_ns)s AND c.checkpoint_id = %(checkpoint_id)s;

-- name: recent
SELECT checkpoint_id FROM checkpoints
WHERE thread_id = %(thread_id)s AND checkpoint_ns = ''
ORDER BY checkpoint_id DESC
LIMIT 5;

-- name: elsewhere
-- Of a checkpoint that is not the root's: its namespace, and the root's checkpoint that it was made under.
SELECT checkpoint_ns, metadata -> 'parents' ->> '' FROM checkpoints
WHERE thread_id = %(thread_id)s AND checkpoint_id = %(checkpoint_id)s AND checkpoint_ns <> '';

-- name: newest
-- The newest checkpoint, and whether the head is it, with all its writes; a thread of the official saver has no head.
SELECT
    c.checkpoint_id,
    CASE
        WHEN h.checkpoint_id IS NULL OR h.checkpoint_id < c.checkpoint_id THEN c.type IS NULL
        WHEN h.checkpoint_id > c.checkpoint_id THEN false
        ELSE c.type IS NOT NULL AND h.writes <= (
            SELECT count(*) FROM checkpoint_writes AS w
            WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = '' AND w.checkpoint_id = c.checkpoint_id
        )
    END
FROM checkpoints AS c
LEFT JOIN holdfast.heads AS h ON h.thread_id = c.thread_id AND h.checkpoint_ns = ''
WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = ''
ORDER BY c.checkpoint_id DESC
LIMIT 1;

-- name: above
-- The greatest id that is known of in the thread, be its checkpoint there or not.
SELECT max(checkpoint_id) FROM (
    SELECT checkpoint_id FROM checkpoints WHERE thread_id = %(thread_id)s
    UNION ALL
    SELECT checkpoint_id FROM holdfast.heads WHERE thread_id = %(thread_id)s
) AS known;

-- name: subgraphs
-- Of subgraphs that keep their state from call to call: the newest checkpoint, and the newest before the target.
SELECT checkpoint_ns, max(checkpoint_id), max(checkpoint_id) FILTER (WHERE checkpoint_id < %(checkpoint_id)s)
FROM checkpoints
WHERE thread_id = %(thread_id)s AND checkpoint_ns <> '' AND position(':' IN checkpoint_ns) = 0
GROUP BY checkpoint_ns
ORDER BY checkpoint_ns;

-- name: insert
INSERT INTO checkpoints (
    thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
)
VALUES (
    %(thread_id)s, %(checkpoint_ns)s, %(checkpoint_id)s, %(parent)s, %(type)s, %(checkpoint)s::jsonb,
    %(metadata)s::jsonb
);

-- name: head
-- The generation was changed by the lock, or is new: whoever runs the thread looks again.
INSERT INTO holdfast.heads (thread_id, checkpoint_ns, checkpoint_id, writes, generation)
VALUES (%(thread_id)s, %(checkpoint_ns)s, %(checkpoint_id)s, 0, %(generation)s)
ON CONFLICT (thread_id, checkpoint_ns) DO UPDATE SET (checkpoint_id, writes) = (excluded.checkpoint_id, 0);

-- name: withdraw_approvals
SELECT holdfast.withdraw_approvals(%(threads)s::text[], %(why)s);
