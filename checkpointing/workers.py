"""Names of workers that tell, on the machine where a worker ran, whether its process is still there."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex
from typing import Final

_PROC: Final = Path("/proc")
_START: Final = 19
"""Of the fields of /proc/PID/stat behind the name, which may hold anything, the start in ticks (proc(5), field 22)."""


def new_worker() -> str:
    """A name that nobody else has: machine and boot, process and its start where that can be had, and a random part."""
    parts = [_machine(), str(os.getpid()), _start(os.getpid()) or "", token_hex(8)]
    return "/".join(parts)


def is_gone(worker: str) -> bool:
    """Whether the worker's process surely runs no more; false wherever that cannot be seen from here.

    >>> is_gone(new_worker()), is_gone("somebody/1/2/elsewhere")
    (False, False)
    """
    machine, _, rest = worker.partition("/")
    pid, _, rest = rest.partition("/")
    start, _, _ = rest.partition("/")
    if not machine or machine != _machine() or not pid.isdigit() or not start:
        return False
    return _start(int(pid)) != start


def _machine() -> str:
    """The boot and the process namespace: a container sees other processes under the same numbers."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(_PROC / "self/ns/pid")
    except OSError:  # not Linux: nothing is known of others
        return ""
    return f"{boot}.{namespace.strip('pid:[]')}"


def _start(pid: int) -> str | None:
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie does nothing any more, though its parent has not looked yet.
    return None if fields[0] in "ZX" else fields[_START]
