"""What a step reads does not grow with its thread, on a database that no ANALYZE has seen either."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from holdfast.checkpointing import Database
from holdfast.checkpointing.arrays import adapt
from holdfast.checkpointing.batch import Batch
from holdfast.checkpointing.sql import queries

SQL = queries("saver")
KEY = {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": None}


@pytest.mark.parametrize(("name", "parameters"), [("commit", Batch().parameters()), ("recall", KEY), ("load", KEY)])
def test_writes_are_found_by_their_checkpoint(
    db: Database, database_uri: str, name: str, parameters: dict[str, Any]
) -> None:
    """The official tables have an index of the writes' threads too: by it, each step reads all writes of its thread."""
    with psycopg.connect(database_uri, autocommit=True) as connection:
        adapt(connection)
        plan = "\n".join(line for (line,) in connection.execute(b"EXPLAIN " + SQL[name], parameters))
    assert "using checkpoint_writes_pkey on checkpoint_writes" in plan
    assert "checkpoint_writes_thread_id_idx" not in plan


def test_no_table_of_ours_offers_a_thread_s_rows_where_one_is_wanted(database_uri: str) -> None:
    """Two indexes that begin with the same column are the same to a planner that knows nothing of the table.

    Those of some rows only are another matter.
    """
    with psycopg.connect(database_uri, autocommit=True) as connection:
        found = connection.execute(
            "SELECT indrelid::regclass::text, indkey[0], count(*) FROM pg_index"
            " JOIN pg_class ON pg_class.oid = indrelid"
            " WHERE relnamespace = 'holdfast'::regnamespace AND indpred IS NULL"
            " GROUP BY 1, 2 HAVING count(*) > 1"
        ).fetchall()
    assert found == []
