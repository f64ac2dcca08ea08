-- name: try_lock_setup
-- Polled, never waited for: a session that waits inside this statement holds a snapshot, and the
-- official saver's CREATE INDEX CONCURRENTLY waits for all snapshots, which would be a deadlock.
SELECT pg_try_advisory_lock(%(key)s) AS held;

-- name: unlock_setup
SELECT pg_advisory_unlock(%(key)s);

-- name: schema_exists
-- Asked first, because CREATE SCHEMA IF NOT EXISTS needs the right to create one even where it exists.
SELECT to_regnamespace('holdfast') IS NOT NULL AS present, to_regclass('holdfast.migrations') IS NOT NULL AS versioned;

-- name: applied_versions
-- By way of jsonb, as the digest came with version 4.
SELECT version, to_jsonb(m) ->> 'digest' AS digest FROM holdfast.migrations AS m ORDER BY version;

-- name: record_version
INSERT INTO holdfast.migrations (version, name) VALUES (%(version)s, %(name)s);

-- name: record_digest
UPDATE holdfast.migrations SET digest = %(digest)s WHERE version = %(version)s;
