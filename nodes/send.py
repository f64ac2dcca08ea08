"""Send: the approved message leaves, into a folder or by SMTP."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import NotRequired

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from typing_extensions import TypedDict

from .contracts import Approval, Email, Receipt
from .errors import DeliveryFailed
from .mail import SmtpServer, compose, write_eml


class SendInput(TypedDict):
    """What sending needs."""

    email: Email
    approval: Approval
    receipt: NotRequired[Receipt]


class SendUpdate(TypedDict):
    """How it left."""

    receipt: Receipt


def send_node(*, outbox: Path, smtp: SmtpServer | None = None) -> Runnable[SendInput, SendUpdate]:
    """A node that delivers an approved message.

    Into the outbox it is written once, however often the node runs. SMTP has no such promise: a
    process killed between the server's yes and the checkpoint delivers again on resume, with the
    same Message-ID, by which receivers know a duplicate.

    Raises:
        DeliveryFailed: the outbox cannot be written, SMTP refuses, or the verdict was not a yes.
    """

    def send(state: SendInput, config: RunnableConfig) -> SendUpdate:
        if state["approval"]["decision"] == "rejected":
            raise DeliveryFailed("the message was rejected; it is not sent")
        thread_id = str(config.get("configurable", {}).get("thread_id", ""))
        at = datetime.fromisoformat(state["approval"]["at"])
        message = compose(state["email"], thread_id=thread_id, at=at, readable=smtp is None)
        receipt = Receipt(channel="outbox", message_id=str(message["Message-ID"]))
        if smtp is None:
            return {"receipt": {**receipt, "path": str(write_eml(message, outbox))}}
        if "to" not in state["email"]:
            raise DeliveryFailed("no address to deliver to; outreach asks for one before it starts")
        smtp.deliver(message)
        return {"receipt": {**receipt, "channel": "smtp"}}

    return RunnableLambda(send, name="send")
