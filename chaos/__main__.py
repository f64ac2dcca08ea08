"""`python -m holdfast.chaos NODE:MOMENT -- …`: the holdfast command, killed at a point on its way."""

from __future__ import annotations

import sys

from holdfast.serving.__main__ import main

from .kill import kill_at


def run(arguments: list[str]) -> int:
    """Run `holdfast` with the arguments after `--`, with a kill armed at the point before it."""
    if len(arguments) < 2 or arguments[1] != "--":  # noqa: PLR2004 - a point and the dashes
        print("usage: python -m holdfast.chaos NODE:MOMENT -- HOLDFAST ARGUMENTS", file=sys.stderr)  # noqa: T201
        return 2
    sys.argv = ["holdfast", *arguments[2:]]
    try:
        with kill_at(arguments[0]):
            return main()
    except ValueError as error:
        print(f"holdfast.chaos: {error}", file=sys.stderr)  # noqa: T201
        return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
