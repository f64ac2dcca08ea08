-- name: guarded
-- The tables that have the audiences' policies.
SELECT p.tablename::text AS name FROM pg_policies AS p
WHERE p.schemaname = 'holdfast' AND p.policyname IN ('shown_to_users', 'shown_to_operators', 'shown_to_auditors')
GROUP BY p.tablename
HAVING count(*) = 3;

-- name: missing
SELECT name FROM unnest(ARRAY['holdfast_user', 'holdfast_operator', 'holdfast_auditor']) AS wanted (name)
WHERE NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = name);

-- name: create
-- Roles belong to the whole server: another database's set-up may have made them, perhaps this very moment.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['holdfast_user', 'holdfast_operator', 'holdfast_auditor'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
END
$$;

-- name: grant
GRANT USAGE ON SCHEMA holdfast TO holdfast_user, holdfast_operator, holdfast_auditor;

-- name: messages_columns
-- The columns that tell nothing of rows which are not shown: no position, and no digest of a content.
GRANT SELECT (
    thread_id, type, body, visibility, role, correlation_id, checkpoint_ns, node, step, tokens, created_at
) ON holdfast.messages TO holdfast_user, holdfast_operator, holdfast_auditor;

-- name: messages_auditor
GRANT SELECT ON holdfast.messages TO holdfast_auditor;

-- name: messages_users
CREATE POLICY shown_to_users ON holdfast.messages FOR SELECT TO holdfast_user USING (visibility = 'visible');

-- name: messages_operators
CREATE POLICY shown_to_operators ON holdfast.messages FOR SELECT TO holdfast_operator
USING (visibility IN ('visible', 'user_hidden'));

-- name: messages_auditors
CREATE POLICY shown_to_auditors ON holdfast.messages FOR SELECT TO holdfast_auditor USING (true);

-- name: events_columns
-- No number and no digest, for the same reason: they come from rows which are not shown, too.
GRANT SELECT (
    thread_id, at, correlation_id, run_id, checkpoint_ns, node, step, actor, kind, effect_id, input_tokens,
    output_tokens, cost, duration_ms, visibility, details
) ON holdfast.events TO holdfast_user, holdfast_operator, holdfast_auditor;

-- name: events_auditor
GRANT SELECT ON holdfast.events TO holdfast_auditor;

-- name: events_users
CREATE POLICY shown_to_users ON holdfast.events FOR SELECT TO holdfast_user USING (visibility = 'visible');

-- name: events_operators
CREATE POLICY shown_to_operators ON holdfast.events FOR SELECT TO holdfast_operator
USING (visibility IN ('visible', 'user_hidden'));

-- name: events_auditors
CREATE POLICY shown_to_auditors ON holdfast.events FOR SELECT TO holdfast_auditor USING (true);
