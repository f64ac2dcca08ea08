"""The approvals inbox: a web page on which people decide what waits for them.

`app` is for a LangGraph server's `http.app`; `create_app` for a server of your own. Both need the `inbox` extra, which
is imported when one of them is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from .application import create_app
    from .settings import InboxSettings

    app: Starlette

NEEDED = ("itsdangerous", "jinja2", "limits", "starlette", "uvicorn")
"""What the extra brings."""

__all__ = ["InboxSettings", "app", "create_app"]


def __getattr__(name: str) -> object:
    # PEP 562: the command line passes through here, and works without the extra.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "InboxSettings":
        from .settings import InboxSettings

        return InboxSettings
    from holdfast.checkpointing import MissingExtra

    try:
        from . import application
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        raise MissingExtra("inbox", "the approvals inbox") from error
    made = application.create_app if name == "create_app" else application.mounted()
    globals()[name] = made
    return made
