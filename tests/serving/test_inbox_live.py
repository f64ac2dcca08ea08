"""What open pages are told: each change once they look, whatever becomes of the connection meanwhile."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator

import psycopg
import pytest

from holdfast.checkpointing import Database
from holdfast.serving.inbox.live import Live
from tests.support.inboxes import asked

LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'holdfast inbox'"
)


def listeners(uri: str) -> list[int]:
    """The connections that listen."""
    with psycopg.connect(uri) as connection:
        return [row[0] for row in connection.execute(LISTENERS)]


@pytest.fixture
def live(database_uri: str) -> Live:
    return Live(lambda: database_uri, limit=2, beat=0.1)


def always() -> bool:
    return True


async def test_who_follows_looks_once_and_then_is_told_what_changes(db: Database, live: Live) -> None:
    pages = [live.follow(always) for _ in range(2)]
    for page in pages:
        assert await anext(page) == []
    assert live.full
    await changed_to(pages[0], "")  # it listens from here on
    request = asked(db)
    for page in pages:
        await changed_to(page, request.request_id)
        await page.aclose()
    assert not live.full


async def test_all_pages_of_a_process_share_one_connection_that_ends_after_the_last(
    db: Database, live: Live, database_uri: str
) -> None:
    pages = [live.follow(always) for _ in range(2)]
    for page in pages:
        await anext(page)
    await changed_to(pages[0], "")
    assert len(listeners(database_uri)) == 1
    thread = next(one for one in threading.enumerate() if one.name == "holdfast-inbox")
    for page in pages:
        await page.aclose()
    thread.join(10)
    assert listeners(database_uri) == []


async def test_a_lost_connection_is_made_again_and_every_page_looks(
    db: Database, live: Live, database_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    page = live.follow(always)
    await anext(page)
    await changed_to(page, "")
    with psycopg.connect(database_uri, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", (listeners(database_uri)[0],))
    await changed_to(page, "")
    request = asked(db)
    await changed_to(page, request.request_id)
    assert "not told of changes for a moment" in caplog.text
    await page.aclose()


async def test_a_stream_ends_with_its_session(live: Live) -> None:
    answers = iter([True, True, False])
    page = live.follow(lambda: next(answers))
    assert await anext(page) == []
    assert [told for told in [told async for told in page] if told] in ([], [[""]])


async def test_a_stream_ends_when_the_process_is_to_end(live: Live) -> None:
    page = live.follow(always)
    assert await anext(page) == []
    live.stop()
    assert [told async for told in page] == []


async def changed_to(page: AsyncGenerator[list[str] | None], wanted: str, tries: int = 200) -> None:
    """Follow until that is told."""
    for _ in range(tries):
        told = await anext(page)
        if told and wanted in told:
            return
    pytest.fail(f"{wanted!r} was not told")
