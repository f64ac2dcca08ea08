"""The migrations and `schema.sql` describe the same schema."""

from __future__ import annotations

from typing import Any

import psycopg

from holdfast.checkpointing import Database
from holdfast.checkpointing.sql import migrations
from tests.conftest import ROOT

DESCRIPTION = """
    SELECT 'column', table_name, column_name, data_type, is_nullable, coalesce(column_default, ''),
           coalesce(generation_expression, '')
    FROM information_schema.columns WHERE table_schema = 'holdfast'
    UNION ALL
    SELECT 'index', tablename, indexname, indexdef, '', '', '' FROM pg_indexes WHERE schemaname = 'holdfast'
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', ''
    FROM pg_constraint WHERE connamespace = 'holdfast'::regnamespace
    UNION ALL
    SELECT 'function', p.proname, pg_get_function_identity_arguments(p.oid), pg_get_functiondef(p.oid), '', '', ''
    FROM pg_proc AS p WHERE p.pronamespace = 'holdfast'::regnamespace
    UNION ALL
    SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), tgenabled::text, '', ''
    FROM pg_trigger WHERE NOT tgisinternal AND tgrelid::regclass::text LIKE 'holdfast.%'
    UNION ALL
    SELECT 'sequence', sequencename, data_type::text, '', '', '', '' FROM pg_sequences WHERE schemaname = 'holdfast'
    UNION ALL
    SELECT 'security', relname, relrowsecurity::text, '', '', '', ''
    FROM pg_class WHERE relnamespace = 'holdfast'::regnamespace AND relkind = 'r'
    ORDER BY 1, 2, 3, 4
"""

SHIPPED = {
    "0001_migrations": "4de3dd93d89aacd9cac18a753a5568527bce63e50cd56de988ee5d25dd2648b6",
    "0002_documents": "ee4e4f9dce120683f2f1a05d7a86825cedae838e6ac071e3614b8982d555dd9f",
    "0003_threads": "e710859e0988fc68a50d207830976e28ddd47db414cdba6218c63c9d6cdfb336",
    "0004_saver": "b4537726c5c1d0aeff5523d5ccec2ff85d361e06cb0ec4b6fa5c3fef6436ed5f",
    "0005_leases": "5207e9389d90bb179dfa36c2aaae5b5a4c29b9152330d078520c55ec823f5f4f",
    "0006_audit": "94175d8048c846b4667598f45685a47c91aa59e4d41fd49ba5de4b71094d5e12",
    "0007_journal": "cde7362d465f84d9d8795b02e4a3784625d7f5fbe1833c2d3d7a12738c4961ef",
    "0008_ledger": "902805b4d84983c96b77fe03d0c4af04245933051fd84eb973c03e730627f4a6",
    "0009_approvals": "b2f51233506f2a95b58494eeb5d355831fe8bc5ebf5055f16ec8b65df6460382",
    "0010_trust": "70c9c84098d7626145de939e0cdcc0ba3d6bc90a759a136cecb1c38f918ae1f1",
    "0011_notices": "a8fa3ff38ea40e7d3471772803322681ee1348cf214df4acfef47ec85dd9dc63",
}


def described(uri: str) -> list[Any]:
    with psycopg.connect(uri) as connection:
        return connection.execute(DESCRIPTION).fetchall()


def test_a_migrated_database_equals_one_built_from_the_schema(database_uri: str, empty_uri: str) -> None:
    Database(database_uri).close()
    with psycopg.connect(empty_uri, autocommit=True) as connection:
        connection.execute((ROOT / "checkpointing" / "schema.sql").read_bytes())
    assert described(database_uri) == described(empty_uri)
    assert described(empty_uri)


def test_migrations_are_numbered_without_gaps() -> None:
    steps = migrations()
    assert [step.version for step in steps] == list(range(1, len(steps) + 1))


def test_a_migration_that_was_shipped_is_never_changed() -> None:
    """Databases were set up with it: what is to be different is a migration of its own."""
    digests = {f"{step.version:04}_{step.name}": step.digest for step in migrations()}
    assert digests == SHIPPED
