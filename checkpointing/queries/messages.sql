-- name: read
SELECT digest, type, body, visibility, correlation_id, checkpoint_ns, node, step, tokens, created_at
FROM holdfast.messages
WHERE thread_id = %(thread_id)s AND visibility = ANY(%(shown)s::text[])
ORDER BY position;
