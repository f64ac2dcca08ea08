"""Damage to a thread's rows, one value at a time, and undoing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from hypothesis import strategies as st
from psycopg import sql

TABLES: Final[dict[str, tuple[LiteralString, ...]]] = {
    "checkpoints": ("public", "checkpoints"),
    "checkpoint_blobs": ("public", "checkpoint_blobs"),
    "checkpoint_writes": ("public", "checkpoint_writes"),
    "messages": ("holdfast", "messages"),
    "heads": ("holdfast", "heads"),
}
"""Where the saver keeps what it loads."""

UNTOUCHED: Final = frozenset({"created_at", "position", "visibility"})
"""A moment, a generated number, and a column of three permitted values: none of them is loaded."""

DELETE: Final = "delete the row"

JSON_VALUES: Final[list[Any]] = [None, True, 0, 1, -3, 2.5, 10**30, "", "x", [], ["x"], {}, {"x": 1}]


class Ward:
    """A connection that damages a database and heals it again; a copy of every table is its memory."""

    def __init__(self, uri: str) -> None:
        self.connection: Final = psycopg.connect(uri, autocommit=True)
        # A load that never ends is a failure as well.
        name = sql.Identifier(self.connection.info.dbname)
        self.connection.execute(sql.SQL("ALTER DATABASE {} SET statement_timeout = '1s'").format(name))

    def keep(self) -> None:
        """What is there now is what `healed` brings back."""
        self.connection.execute("CREATE SCHEMA sound")
        for name, table in TABLES.items():
            statement = sql.SQL("CREATE TABLE {} AS TABLE {}")
            self.connection.execute(statement.format(sql.Identifier("sound", name), sql.Identifier(*table)))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """A table's sound rows in a steady order: text, bytes, numbers; jsonb as text."""
        statement = sql.SQL("SELECT {} FROM {} ORDER BY 1, 2, 3, 4").format(
            sql.SQL(", ").join(
                sql.SQL("{0}::text AS {0}" if kind == "jsonb" else "{}").format(sql.Identifier(column))
                for column, (kind, _) in self.columns(table).items()
            ),
            sql.Identifier("sound", table),
        )
        names = list(self.columns(table))
        return [dict(zip(names, row, strict=True)) for row in self.connection.execute(statement)]

    def columns(self, table: str) -> dict[str, tuple[str, bool]]:
        """The columns that can be damaged: their type and whether they may be null."""
        statement = """
            SELECT column_name, data_type, is_nullable = 'YES' FROM information_schema.columns
            WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position
        """
        found = self.connection.execute(statement, TABLES[table]).fetchall()
        return {column: (kind, nullable) for column, kind, nullable in found if column not in UNTOUCHED}

    @contextmanager
    def damaged(self, damage: Damage) -> Generator[bool]:
        """The database with one damage for the length of the block; whether Postgres allowed it."""
        table = sql.Identifier(*TABLES[damage.table])
        where = sql.SQL(" AND ").join(
            sql.SQL("{} IS NOT DISTINCT FROM {}").format(
                sql.Identifier(column), sql.SQL("%s::jsonb" if kind == "jsonb" else "%s")
            )
            for column, (kind, _) in self.columns(damage.table).items()
        )
        given = list(damage.row.values())
        try:
            if damage.column == DELETE:
                done = self.connection.execute(sql.SQL("DELETE FROM {} WHERE {}").format(table, where), given)
            else:
                statement = sql.SQL("UPDATE {} SET {} = %s WHERE {}")
                done = self.connection.execute(
                    statement.format(table, sql.Identifier(damage.column), where), [damage.value, *given]
                )
            assert done.rowcount == 1
            yield True
        except psycopg.IntegrityError:
            yield False
        finally:
            self._heal(damage.table)

    def _heal(self, name: str) -> None:
        table, sound = sql.Identifier(*TABLES[name]), sql.Identifier("sound", name)
        with self.connection.transaction():
            self.connection.execute(sql.SQL("DELETE FROM {}").format(table))
            statement = sql.SQL("INSERT INTO {} OVERRIDING SYSTEM VALUE SELECT * FROM {}")
            self.connection.execute(statement.format(table, sound))


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One value of one row that is not what it was, or one row that is gone."""

    table: str
    row: dict[str, Any]
    column: str
    value: Any = None

    def __str__(self) -> str:
        key = {name: value for name, value in self.row.items() if not isinstance(value, bytes) and name in _KEYS}
        was = "" if self.column == DELETE else f" {self.row[self.column]!r:.150} -> {self.value!r:.150}"
        return f"{self.table} {key} {self.column}{was}"


_KEYS: Final = frozenset({"checkpoint_ns", "checkpoint_id", "channel", "version", "task_id", "task_path", "idx"})


def damages(ward: Ward) -> st.SearchStrategy[Damage]:
    """Every damage to one value or one row; tables are as likely as one another, and so are columns."""
    return st.one_of(*(_of_table(ward, table) for table in TABLES if ward.rows(table)))


def _of_table(ward: Ward, table: str) -> st.SearchStrategy[Damage]:
    rows, columns = ward.rows(table), ward.columns(table)

    def of(row: dict[str, Any], column: str) -> st.SearchStrategy[Damage]:
        if column == DELETE:
            return st.just(Damage(table=table, row=row, column=column))
        kind, nullable = columns[column]
        others = [other[column] for other in rows if other[column] != row[column]]
        values = [_changed(kind, row[column])] if row[column] is not None else [st.just(_FIRST[kind])]
        values += [st.sampled_from(others)] if others else []
        values += [st.none()] if nullable and row[column] is not None else []
        return st.one_of(values).map(lambda value: Damage(table=table, row=row, column=column, value=value))

    chosen = st.tuples(st.sampled_from(rows), st.sampled_from([DELETE, *columns]))
    return chosen.flatmap(lambda choice: of(*choice))


_FIRST: Final[dict[str, Any]] = {"text": "x", "bytea": b"x", "integer": 0, "bigint": 0, "jsonb": "{}"}


def _changed(kind: str, value: Any) -> st.SearchStrategy[Any]:
    ways: dict[str, Callable[[Any], st.SearchStrategy[Any]]] = {
        "text": changed_text,
        "bytea": changed_bytes,
        "jsonb": changed_json,
    }
    return ways.get(kind, changed_number)(value)


def changed_text(text: str) -> st.SearchStrategy[str]:
    """A bit of one character flipped, a character too many, or an end cut off."""
    more = st.integers(0, len(text)).map(lambda at: f"{text[:at]}x{text[at:]}")
    if not text:
        return more

    def flipped(place: tuple[int, int]) -> str:
        at, bit = place
        other = ord(text[at]) ^ (1 << bit)
        return f"{text[:at]}{chr(other) if other else 'x'}{text[at + 1 :]}"

    places = st.tuples(st.integers(0, len(text) - 1), st.integers(0, 6))
    return places.map(flipped) | st.integers(0, len(text) - 1).map(lambda at: text[:at]) | more


def changed_bytes(data: bytes) -> st.SearchStrategy[bytes]:
    """A bit flipped, a byte too many, or an end cut off."""
    more = st.integers(0, len(data)).map(lambda at: data[:at] + b"\x00" + data[at:])
    if not data:
        return more

    def flipped(place: tuple[int, int]) -> bytes:
        at, bit = place
        return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]

    places = st.tuples(st.integers(0, len(data) - 1), st.integers(0, 7))
    return places.map(flipped) | st.integers(0, len(data) - 1).map(lambda at: data[:at]) | more


def changed_number(number: int) -> st.SearchStrategy[int]:
    """A bit flipped."""
    return st.integers(0, 30).map(lambda bit: number ^ (1 << bit))


def changed_json(text: str) -> st.SearchStrategy[str]:
    """One part of it replaced, taken away or added to."""
    paths = list(_paths(json.loads(text)))

    def at(path: tuple[Any, ...]) -> st.SearchStrategy[str]:
        replaced = st.sampled_from(JSON_VALUES).map(lambda value: _replaced(json.loads(text), path, value))
        without = [st.just(_without(json.loads(text), path))] if path else []
        return st.one_of(replaced, *without).map(json.dumps)

    return st.sampled_from(paths).flatmap(at)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Generator[tuple[Any, ...]]:
    yield path
    kind: Any = value.__class__
    parts: Any = value.items() if kind is dict else enumerate(value) if kind is list else ()
    for key, part in parts:
        yield from _paths(part, (*path, key))


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value[path[0]] = _replaced(value[path[0]], path[1:], new)
    return value


def _without(value: Any, path: tuple[Any, ...]) -> Any:
    if len(path) == 1:
        del value[path[0]]
    else:
        value[path[0]] = _without(value[path[0]], path[1:])
    return value
