"""`holdfast inbox`: the page on which people decide, and the tokens with which they sign in.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import ipaddress
import json
import os
from datetime import UTC, datetime, timedelta

import click

from ..common import json_option

_PORT = 8321


@click.group(invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=_PORT, show_default=True, help="0: any that is free.")
@click.option("--trust-header", metavar="NAME", help="The header in which a reverse proxy says who is asking.")
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="IP",
    help="The proxy's address or network; the header is believed from there only. May be given more than once.",
)
@click.pass_context
def inbox(
    context: click.Context, host: str, port: int, trust_header: str | None, trusted_proxies: tuple[str, ...]
) -> int:
    """Serve a page on which people see what waits for them, and decide.

    People sign in with a token that `holdfast inbox token NAME` prints, or are named by a reverse proxy.

    \b
    holdfast inbox
    holdfast inbox --host 0.0.0.0 --trust-header X-Forwarded-User --trusted-proxy 10.0.0.2
    """
    if context.invoked_subcommand is not None:
        return 0
    _needs_extra()
    from .serve import serve
    from .settings import SECRET, InvalidInbox, from_environment

    settings = from_environment(trust_header=trust_header, trusted_proxies=trusted_proxies)
    if not (_is_loopback(host) or settings.trust_header or os.environ.get(SECRET)):
        raise InvalidInbox(
            f"at {host} others could reach the inbox, and nobody has said how they are known: set {SECRET} and give "
            "people tokens, or name --trust-header and --trusted-proxy"
        )
    serve(settings, host, port)
    return 0


@inbox.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 366), default=7, show_default=True, help="How long it is good.")
@click.option(
    "--url",
    default=lambda: os.environ.get("HOLDFAST_INBOX_URL") or f"http://127.0.0.1:{_PORT}",
    metavar="URL",
    help="Where the inbox is.  [default: HOLDFAST_INBOX_URL, else this machine]",
)
@json_option
def token(name: str, days: int, url: str, as_json: bool) -> int:
    """Print a link with which NAME signs in, any number of times until it expires.

    Whoever has the link decides as NAME: send it to nobody else. A new HOLDFAST_INBOX_SECRET, or a new file
    `inbox-secret` in HOLDFAST_HOME, ends all of them.
    """
    _needs_extra()
    from .sessions import Signatures, is_name
    from .settings import from_environment

    if not is_name(name):
        raise click.BadParameter(
            f"{name[:60]!r} cannot name a person: 1 to 200 printable characters", param_hint="NAME"
        )
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    made = Signatures(from_environment().secret).login_token(name, expires_at)
    # Behind the #: browsers do not send that part, and so no log has it.
    link = f"{url.rstrip('/')}/login#{made}"
    if as_json:
        click.echo(json.dumps({"name": name, "token": made, "link": link, "expires_at": expires_at.isoformat()}))
    else:
        click.echo(link)
        click.echo(f"for {name}, until {expires_at:%Y-%m-%d %H:%M} UTC", err=True)
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _needs_extra() -> None:
    from importlib.util import find_spec

    from holdfast.checkpointing import MissingExtra

    from . import NEEDED

    if any(find_spec(name) is None for name in NEEDED):
        raise MissingExtra("inbox", "the approvals inbox")
