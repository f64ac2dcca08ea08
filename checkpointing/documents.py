"""Documents that agents read: kept by content, searchable by full text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg_pool import AsyncConnectionPool

from .bridge import Bridge
from .errors import UnknownDocument
from .sql import queries

SQL: Final = queries("documents")
PASSAGE_SIZE: Final = 1200
"""Characters after which a passage is closed at the next paragraph."""
PARAGRAPH_LIMIT: Final = 8000
"""Characters after which a paragraph is cut: Postgres indexes at most 1 MiB of words in one text."""
QUERY_LIMIT: Final = 4000
"""Characters of a query that count: Postgres takes no more than about 1 MiB of words."""
_UNSTORABLE: Final = re.compile(r"[\x00\ud800-\udfff]")
"""What Postgres cannot hold as text, and a model's JSON may well bring: NUL, and halves of surrogate pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text with a name; `name` is a path within its folder, with forward slashes."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        """The sha256 of the text, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of a document: `text` stands there at character `position`."""

    document: str
    position: int
    text: str


def split_passages(document: Document, size: int = PASSAGE_SIZE) -> Iterator[Passage]:
    """Cut a document into runs of whole paragraphs of about `size` characters.

    A paragraph stays whole up to `PARAGRAPH_LIMIT`. Every passage is verbatim, and no text is lost:

    >>> text = "One.\\n\\nTwo.\\n\\nThree."
    >>> cuts = list(split_passages(Document(name="a.txt", text=text), size=10))
    >>> [(cut.position, cut.text) for cut in cuts]
    [(0, 'One.\\n\\nTwo.'), (12, 'Three.')]
    """
    open_range: tuple[int, int] | None = None
    for start, end in _paragraphs(document.text):
        if open_range is not None:
            if end - open_range[0] <= size or open_range[1] - open_range[0] < size / 2:
                open_range = (open_range[0], end)
                continue
            yield _passage(document, *open_range)
        open_range = (start, end)
    if open_range is not None:
        yield _passage(document, *open_range)


def _passage(document: Document, start: int, end: int) -> Passage:
    return Passage(document=document.name, position=start, text=document.text[start:end])


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Where the paragraphs stand; one beyond the limit is cut at white space where there is some."""
    start = 0
    for gap in chain(re.finditer(r"\n[^\S\n]*\n", text), [None]):
        end = gap.start() if gap else len(text)
        while end - start > PARAGRAPH_LIMIT:
            cut = max(text.rfind(mark, start + 1, start + PARAGRAPH_LIMIT) for mark in "\n ")
            cut = cut if cut > start else start + PARAGRAPH_LIMIT
            yield from _trimmed(text, start, cut)
            start = cut
        yield from _trimmed(text, start, end)
        start = end


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    piece = text[start:end]
    if inner := piece.strip():
        first = start + len(piece) - len(piece.lstrip())
        yield first, first + len(inner)


def dossier_digest(documents: Sequence[Document]) -> str:
    """The identity of a set of documents: 32 hexadecimal digits over all names and texts."""
    entries = sorted((document.digest, document.name) for document in documents)
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:32]


class Documents:
    """Dossiers in the database. Got from `Database.documents`; each method has an async twin `a…`."""

    def __init__(self, bridge: Bridge, pool: AsyncConnectionPool[AsyncConnection[DictRow]]) -> None:
        self._bridge = bridge
        self._pool = pool

    def save(self, documents: Sequence[Document]) -> str:
        """Store and index the documents; return the dossier's id.

        The id depends on names and contents alone, and a saved dossier never changes.
        """
        return self._bridge.call(self._save, documents)

    async def asave(self, documents: Sequence[Document]) -> str:
        return await self._bridge.acall(self._save, documents)

    async def _save(self, documents: Sequence[Document]) -> str:
        dossier_id = dossier_digest(documents)
        # In one order whoever saves: two that save the same texts would else wait for each other.
        entries = sorted(((item.digest, item) for item in documents), key=lambda entry: (entry[0], entry[1].name))
        async with (
            self._pool.connection() as connection,
            connection.transaction(),
            connection.cursor() as cursor,
        ):
            await cursor.executemany(
                SQL["save_document"], [{"digest": digest, "body": item.text} for digest, item in entries]
            )
            await cursor.executemany(
                SQL["save_passage"],
                [
                    {"digest": digest, "position": passage.position, "body": passage.text}
                    for digest, item in entries
                    for passage in split_passages(item)
                ],
            )
            await cursor.executemany(
                SQL["save_entry"],
                [{"dossier_id": dossier_id, "name": item.name, "digest": digest} for digest, item in entries],
            )
        return dossier_id

    def names(self, dossier_id: str) -> list[str]:
        """The names of the dossier's documents, sorted; empty for an unknown dossier."""
        return self._bridge.call(self._names, dossier_id)

    async def anames(self, dossier_id: str) -> list[str]:
        return await self._bridge.acall(self._names, dossier_id)

    async def _names(self, dossier_id: str) -> list[str]:
        return [row["name"] for row in await self._rows("document_names", dossier_id=dossier_id)]

    def read(self, dossier_id: str, name: str) -> Document:
        """One document, whole.

        Raises:
            UnknownDocument: the dossier holds no such name; the error lists those it holds.
        """
        return self._bridge.call(self._read, dossier_id, name)

    async def aread(self, dossier_id: str, name: str) -> Document:
        return await self._bridge.acall(self._read, dossier_id, name)

    async def _read(self, dossier_id: str, name: str) -> Document:
        held = not _UNSTORABLE.search(name)
        rows = await self._rows("read_document", dossier_id=dossier_id, name=name) if held else []
        if not rows:
            raise UnknownDocument(name, await self._names(dossier_id))
        return Document(name=rows[0]["name"], text=rows[0]["body"])

    def search(self, dossier_id: str, query: str, limit: int = 8) -> list[Passage]:
        """The passages that fit the words of `query` best, best first; at most `limit`."""
        return self._bridge.call(self._search, dossier_id, query, limit)

    async def asearch(self, dossier_id: str, query: str, limit: int = 8) -> list[Passage]:
        return await self._bridge.acall(self._search, dossier_id, query, limit)

    async def _search(self, dossier_id: str, query: str, limit: int) -> list[Passage]:
        rows = await self._rows(
            "search_passages", dossier_id=dossier_id, query=_UNSTORABLE.sub("", query)[:QUERY_LIMIT], limit=limit
        )
        return [Passage(document=row["name"], position=row["position"], text=row["body"]) for row in rows]

    async def _rows(self, query_name: str, /, **parameters: object) -> list[DictRow]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(SQL[query_name], parameters)).fetchall()
