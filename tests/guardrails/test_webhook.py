"""A webhook is signed as the standard says, is tried again for a while, and shows no secret."""

from __future__ import annotations

import base64
import json
import logging
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from holdfast.checkpointing import MissingExtra
from holdfast.guardrails import AlertDesk, BudgetAlert, InvalidWebhook, NotDelivered, Webhook
from tests.support.hooks import receiving

SECRET = Webhook.new_secret()
HOUR = datetime(2026, 3, 1, 14, tzinfo=UTC)
ALERT = BudgetAlert(
    scope="tenant:acme", unit="usd", window_start=HOUR, spent=Decimal("12.30"), usual=Decimal("0.30"),
    at=HOUR + timedelta(minutes=3),
)  # fmt: skip


def test_what_is_posted_is_verified_by_the_standards_own_library() -> None:
    with receiving() as receiver:
        Webhook(f"{receiver.url}/hooks", SECRET)(ALERT)
    (posted,) = receiver.posted
    assert posted.path == "/hooks"
    assert posted.verified(SECRET) == {
        "type": "budget.alerted",
        "timestamp": "2026-03-01T14:03:00+00:00",
        "data": json.loads(json.dumps(ALERT.details())),
    }
    assert posted.headers["content-type"] == "application/json"
    assert "." not in posted.headers["webhook-id"]


def test_another_secret_or_another_body_is_not_verified() -> None:
    with receiving() as receiver:
        Webhook(receiver.url, SECRET)(ALERT)
    (posted,) = receiver.posted
    with pytest.raises(WebhookVerificationError):
        posted.verified(Webhook.new_secret())
    forged = type(posted)(posted.path, posted.headers, posted.body.replace(b"acme", b"evil"))
    with pytest.raises(WebhookVerificationError):
        forged.verified(SECRET)


def test_while_a_secret_is_replaced_both_verify() -> None:
    new = Webhook.new_secret()
    with receiving() as receiver:
        Webhook(receiver.url, [new, SECRET])(ALERT)
    (posted,) = receiver.posted
    assert posted.verified(new) == posted.verified(SECRET)


def test_a_receiver_that_stumbles_is_tried_again_under_the_same_id() -> None:
    pauses: list[float] = []
    times = iter([HOUR, HOUR + timedelta(seconds=1), HOUR + timedelta(seconds=3)])
    with receiving(500, 429) as receiver:
        Webhook(receiver.url, SECRET, wait=pauses.append, clock=lambda: next(times))(ALERT)
    assert pauses == [0.5, 2.0]
    assert len({posted.headers["webhook-id"] for posted in receiver.posted}) == 1
    sent = [int(posted.headers["webhook-timestamp"]) for posted in receiver.posted]
    assert [each - sent[0] for each in sent] == [0, 1, 3]


def test_another_event_has_another_id() -> None:
    later = BudgetAlert(
        scope="tenant:acme", unit="usd", window_start=HOUR + timedelta(hours=1), spent=Decimal(9), usual=Decimal(1),
        at=HOUR + timedelta(hours=1),
    )  # fmt: skip
    with receiving() as receiver:
        hook = Webhook(receiver.url, SECRET)
        hook(ALERT)
        hook(later)
        hook(ALERT)
    ids = [posted.headers["webhook-id"] for posted in receiver.posted]
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize(
    ("statuses", "attempts", "said"),
    [([500] * 9, 3, "answered 500"), ([410], 1, "answered 410"), ([302] * 9, 3, "answered 302")],
)
def test_after_the_last_attempt_it_is_not_delivered(statuses: list[int], attempts: int, said: str) -> None:
    """A redirect is no delivery, and is not followed; 410 is the receiver's last word."""
    with receiving(*statuses) as receiver:
        with pytest.raises(NotDelivered) as raised:
            Webhook(receiver.url, SECRET, wait=lambda _: None)(ALERT)
        assert str(raised.value) == f"the webhook's receiver {said}"
        assert [posted.path for posted in receiver.posted] == ["/"] * attempts


def test_a_receiver_that_is_down_shows_neither_address_nor_secret(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.NOTSET), caplog.at_level(0, "httpx"), caplog.at_level(0, "httpcore.connection"):
        hook = Webhook("http://user:t0ps3cret@127.0.0.1:1/t0ps3cret", SECRET, wait=lambda _: None)
        desk = AlertDesk([hook], clock=lambda: HOUR)
        desk.send(ALERT)
        assert desk.flush(60)
    assert "Webhook (NotDelivered: the webhook's receiver could not be reached (ConnectError))" in caplog.text
    shown = [caplog.text, *map(str, map(vars, caplog.records)), repr(hook)]
    assert not any(hidden in text for hidden in ("t0ps3cret", SECRET, SECRET[6:]) for text in shown)


def test_a_delivery_shows_neither_address_nor_secret(caplog: pytest.LogCaptureFixture) -> None:
    with (
        receiving() as receiver,
        caplog.at_level(logging.NOTSET),
        caplog.at_level(0, "httpx"),
        caplog.at_level(0, "httpcore.http11"),
    ):
        Webhook(f"{receiver.url}/t0ps3cret", SECRET)(ALERT)
    assert receiver.posted
    assert "t0ps3cret" not in caplog.text + "".join(str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://host/s3cr3t", "https:///s3cr3t", "http://[s3cr3t"])
def test_an_address_that_is_none_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidWebhook) as raised:
        Webhook(url, SECRET)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "hunter2", "whsec_short", f"whsec_{base64.b64encode(b'x' * 23).decode()}", "whsec_\u00e4", []],
)
def test_a_secret_that_is_none_is_refused_without_showing_it(secret: Any) -> None:
    with pytest.raises(InvalidWebhook) as raised:
        Webhook("https://example.org/hook", secret)
    assert "hunter2" not in str(raised.value)
    assert "new_secret" in str(raised.value)


def test_without_its_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "standardwebhooks", None)
    with pytest.raises(MissingExtra, match=r"holdfast\[notify\]"):
        Webhook("https://example.org/hook", SECRET)
