"""Workers in processes of their own, forked from one that has imported everything, to be killed at any moment.

Argument: a langgraph.json. Each line of input starts a worker, `start` or `start MOMENT` (the time by which its
approvals are made); its process id is printed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import traceback
from datetime import datetime
from pathlib import Path

from holdfast.checkpointing import Database
from holdfast.serving.registry import known_graphs
from holdfast.serving.worker import Timing, Worker
from tests.conftest import child_environment
from tests.support.leases import TTL

TIMING = Timing(poll=0.1, beat=0.5, silent=1.5, sweep=0.3, busy=0.1)


class Workers:
    """Starts and kills them."""

    def __init__(self, uri: str, folder: Path, graphs: Path, pause: float = 0.0) -> None:
        self.pids: list[int] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.worker_child", str(graphs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**child_environment(uri, folder), "EFFECT_PAUSE": str(pause)},
        )

    def start(self, clock: datetime | None = None) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"start {clock.isoformat() if clock else ''}\n")
        self._process.stdin.flush()
        self.pids.append(int(self._process.stdout.readline()))
        return self.pids[-1]

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.pids.remove(pid)

    def close(self) -> None:
        """Kill all of them, and the process that starts them."""
        for pid in [*self.pids]:
            self.kill(pid)
        self._process.communicate()


async def work(graphs: Path, clock: datetime | None) -> None:
    """Be a worker until killed."""
    async with Database.open(lease_ttl=TTL) as db:
        if clock is not None:
            db.approvals.clock = lambda: clock
        await Worker(db, known_graphs(graphs), concurrency=4, timing=TIMING).run()


def main(graphs: Path) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    known_graphs(graphs)
    logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                moment = line.removeprefix("start").strip()
                asyncio.run(work(graphs, datetime.fromisoformat(moment) if moment else None))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
