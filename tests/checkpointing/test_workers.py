"""Whether a worker's process is still there, as its name tells on the machine where it ran."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.checkpointing.workers import is_gone, new_worker

CHILD = "from holdfast.checkpointing.workers import new_worker; print(new_worker(), flush=True); input()"
linux = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="processes can be looked at on Linux only")


def test_a_living_process_is_not_gone() -> None:
    assert not is_gone(new_worker())
    assert new_worker() != new_worker()


@linux
def test_a_dead_process_is_gone_before_and_after_its_parent_looked() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        worker = child.stdout.readline().strip()
        assert not is_gone(worker)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie until somebody looks
        assert is_gone(worker)
    assert is_gone(worker)


@linux
def test_the_same_number_is_not_the_same_process() -> None:
    machine, pid, start, rest = new_worker().split("/")
    assert is_gone(f"{machine}/{pid}/{int(start) + 1}/{rest}")


@pytest.mark.parametrize("worker", ["", "thief", "a/b/c/d", "another-boot.1/1/1/x", "///"])
def test_of_others_nothing_is_known(worker: str) -> None:
    assert not is_gone(worker)
