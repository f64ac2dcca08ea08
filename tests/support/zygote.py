"""Many short-lived processes that are killed, forked from one that has imported everything.

Each line of the forking process's input is a list of jobs, as JSON; each line of its output the exit codes of their
processes, which ran two at a time. Each process is as new: nothing was opened before the fork.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import psycopg

from tests.conftest import child_environment

Job = dict[str, str]


class Zygote:
    """Runs jobs in processes forked from one that runs `module`, which calls `serve`."""

    def __init__(self, uri: str, folder: Path, module: str) -> None:
        self._uri = uri
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_environment(uri, folder),
        )

    def __call__(self, jobs: list[Job]) -> list[int]:
        """Run them; the exit codes, when the server is rid of their connections."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(jobs) + "\n")
        process.stdin.flush()
        codes: list[int] = json.loads(process.stdout.readline())
        with psycopg.connect(self._uri, autocommit=True) as connection:
            # A statement that was sent is executed, even if nobody waits for its answer any more.
            while connection.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'holdfast'"
            ).fetchall():
                pass
        return codes

    def job(self, thread: str, mode: str, **point: str) -> Job:
        """A job on a thread, with a log of its own."""
        return {"thread": thread, "mode": mode, "log": str(self.log(thread)), "uri": self._uri, **point}

    def log(self, thread: str) -> Path:
        """Where the thread's processes say what they do."""
        return self._folder / thread.replace(":", "-").replace(" ", "_")

    def noted(self, thread: str) -> list[str]:
        """What they said."""
        return self.log(thread).read_text(encoding="utf-8").splitlines()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve(run: Callable[[Job], None]) -> None:
    """Run what comes, until the input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run_all(json.loads(line), run)) + "\n")
        sys.stdout.flush()


def _run_all(jobs: list[Job], run: Callable[[Job], None]) -> list[int]:
    """The exit codes of the jobs' processes, negative for a signal; two run at a time."""
    codes = [0] * len(jobs)
    running: dict[int, int] = {}
    waiting = list(enumerate(jobs))
    while waiting or running:
        while waiting and len(running) < 2:
            index, job = waiting.pop(0)
            running[_fork(job, run)] = index
        pid, status = os.wait()
        codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)
    return codes


def _fork(job: Job, run: Callable[[Job], None]) -> int:
    """A process for the job; its id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        run(job)
        code = 0
    except BaseException:
        with Path(job["log"]).open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(code)
