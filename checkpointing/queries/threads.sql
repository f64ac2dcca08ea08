-- name: list_threads
-- The newest checkpoint of each thread's root namespace, latest first; of one graph, if one is named.
SELECT thread_id, checkpoint_id, metadata, updated_at
FROM (
    SELECT DISTINCT ON (thread_id)
        thread_id,
        checkpoint_id,
        metadata,
        (checkpoint ->> 'ts')::timestamptz AS updated_at
    FROM checkpoints
    WHERE checkpoint_ns = '' AND (%(graph_id)s::text IS NULL OR metadata ->> 'graph_id' = %(graph_id)s)
    ORDER BY thread_id, checkpoint_id DESC
) AS newest
ORDER BY updated_at DESC
LIMIT %(limit)s;

-- name: try_lock_thread
-- True when this connection now holds the thread; the lock goes with the connection.
SELECT pg_try_advisory_lock(hashtextextended(%(thread_id)s, %(seed)s)) AS held;

-- name: unlock_thread
SELECT pg_advisory_unlock(hashtextextended(%(thread_id)s, %(seed)s));

-- name: remember_thread
INSERT INTO holdfast.threads (thread_id, settings)
VALUES (%(thread_id)s, %(settings)s)
ON CONFLICT (thread_id) DO UPDATE SET settings = excluded.settings;

-- name: recall_thread
SELECT settings FROM holdfast.threads WHERE thread_id = %(thread_id)s;
