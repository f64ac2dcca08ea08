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
    ORDER BY 1, 2, 3, 4
"""


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
