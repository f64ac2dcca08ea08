"""The entry point of `holdfast`: every error is one line on stderr, and never a traceback."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line.

    Returns:
        0 when it did what was asked, 2 for an error with a name (bad input, a failed run, no
        database), 128 + n after signal n, 1 for an error of ours: `HOLDFAST_DEBUG=1` shows its traceback.
    """
    try:
        import click
    except ImportError:
        return _complain("the command line needs an extra: pip install 'holdfast[cli]'")
    from .cli import cli

    try:
        result = cli.main(prog_name="holdfast", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return _complain(error.format_message(), error)
    except (click.Abort, KeyboardInterrupt):
        return _complain("stopped", code=130)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("HOLDFAST_DEBUG"):
            raise
        return _from(error)


def _from(error: Exception) -> int:
    from holdfast.checkpointing import HoldfastError

    if isinstance(error, HoldfastError):
        return _complain(f"{type(error).__name__}: {error}")
    return _complain(f"an error of ours: {type(error).__name__}: {error} (HOLDFAST_DEBUG=1 shows where)", code=1)


def _complain(text: str, error: Exception | None = None, code: int = 2) -> int:
    context = getattr(error, "ctx", None)
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    line = " ".join(text.split())
    print(f"holdfast: {line}{hint}", file=sys.stderr)  # noqa: T201 - this is the command line
    return code


if __name__ == "__main__":
    sys.exit(main())
