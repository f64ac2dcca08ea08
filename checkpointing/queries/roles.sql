-- name: ready
-- Whether the audiences' roles and their policies are there.
SELECT count(*) = 3 AS ready FROM pg_policies AS p
WHERE p.schemaname = 'holdfast' AND p.tablename = 'messages'
    AND p.policyname IN ('shown_to_users', 'shown_to_operators', 'shown_to_auditors');

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
-- The columns that tell nothing of rows which are not shown: no position, and no digest of a content.
GRANT USAGE ON SCHEMA holdfast TO holdfast_user, holdfast_operator, holdfast_auditor;

-- name: grant_columns
GRANT SELECT (
    thread_id, type, body, visibility, role, correlation_id, checkpoint_ns, node, step, tokens, created_at
) ON holdfast.messages TO holdfast_user, holdfast_operator, holdfast_auditor;

-- name: grant_auditor
GRANT SELECT ON holdfast.messages TO holdfast_auditor;

-- name: show_users
CREATE POLICY shown_to_users ON holdfast.messages FOR SELECT TO holdfast_user USING (visibility = 'visible');

-- name: show_operators
CREATE POLICY shown_to_operators ON holdfast.messages FOR SELECT TO holdfast_operator
USING (visibility IN ('visible', 'user_hidden'));

-- name: show_auditors
CREATE POLICY shown_to_auditors ON holdfast.messages FOR SELECT TO holdfast_auditor USING (true);
