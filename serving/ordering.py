"""The options of an outreach run, shared by who runs it here and who queues it.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import amount_option, json_option, name_option

if TYPE_CHECKING:
    from holdfast.graphs.outreach import OutreachInput

    from .state import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An outreach run as it was asked for on the command line."""

    company: str
    dossier: str
    offer: str
    to: str | None
    sender: str | None
    model: str
    thread_id: str | None
    outbox: str
    timeout: float
    limit: Decimal | None
    tenant: str | None
    price: str | None
    correlation_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def given(self) -> OutreachInput:
        """What the graph starts from: what was said."""
        said = {
            "company": self.company,
            "dossier": str(Path(self.dossier).expanduser().resolve()),
            "offer": self.offer,
            "to": self.to,
            "sender": self.sender,
        }
        return {key: value for key, value in said.items() if value}  # type: ignore[return-value]  # the keys are written out above

    def brief(self) -> OutreachInput:
        """The same, with what is needed, to be checked."""
        return {"company": "", "dossier": "", **self.given()}

    def settings(self) -> Settings:
        """How its thread is run."""
        from .state import Settings

        return Settings(
            model=self.model,
            outbox=str(Path(self.outbox).expanduser().resolve()),
            timeout=self.timeout,
            dossiers=None,
            correlation_id=self.correlation_id,
            budget=None if self.limit is None else f"{self.limit:f}",
            price=self.price,
            tenant=self.tenant,
        )


def _price(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    from .errors import InvalidPrice
    from .paying import price_of

    try:
        price_of(value)
    except InvalidPrice as error:
        raise click.BadParameter(str(error)) from None
    return value


_OPTIONS = (
    click.option("--company", required=True, help="Whom the message is for."),
    click.option("--dossier", required=True, metavar="DIR", help="Folder of .md, .txt, .html and .pdf about them."),
    click.option("--offer", default="", help="What you offer them, in a sentence or two."),
    click.option("--to", metavar="ADDRESS", help="The recipient; can still be given at the approval."),
    click.option("--from", "sender", metavar="ADDRESS", help="The sender."),
    click.option("--model", default="offline", show_default=True, metavar="M", help="provider:model, or offline."),
    click.option("--thread", "thread_id", metavar="ID", help="Name of the thread.  [default: made up]"),
    click.option("--outbox", default="outbox", show_default=True, metavar="DIR", help="Where the .eml file goes."),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=600.0,
        show_default=True,
        metavar="SECONDS",
        help="Longest time for one stage.",
    ),
    click.option("--budget", "limit", callback=amount_option, metavar="USD", help="The most that the run may spend."),
    click.option("--tenant", callback=name_option, metavar="NAME", help="For whom it is: charged to tenant:NAME too."),
    click.option(
        "--price",
        callback=_price,
        metavar="IN,OUT",
        help="The model's, in US dollars per million tokens.  [default: the published one]",
    ),
    json_option,
)


def outreach_options(command: Callable[[Order, bool], int]) -> Callable[..., int]:
    """Gives a command the options of an outreach run; it gets what was ordered, and whether to print JSON."""

    def ordered(as_json: bool, **options: Any) -> int:
        return command(Order(**options), as_json)

    for option in reversed(_OPTIONS):
        ordered = option(ordered)
    params = ordered.__click_params__  # type: ignore[attr-defined]  # click keeps them there
    update_wrapper(ordered, command)
    ordered.__click_params__ = params  # type: ignore[attr-defined]
    return ordered
