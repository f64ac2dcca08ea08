"""A `langgraph dev` of a test's own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

from tests.conftest import ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A `langgraph dev` of our own, in a process group of its own."""

    url: str
    process: subprocess.Popen[bytes]
    log_file: Path
    client: SyncLangGraphClient

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self.log_file.read_text(errors="replace")

    def wait_until_up(self, tries: int = 300) -> None:
        """Poll until it answers; fail with its output when it exits or takes longer than half a minute."""
        for _ in range(tries):
            if self.process.poll() is not None:
                pytest.fail(f"langgraph dev exited with {self.process.returncode}:\n{self.log}")
            try:
                if httpx.get(f"{self.url}/ok", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        pytest.fail(f"langgraph dev does not answer at {self.url}:\n{self.log}")

    def kill(self) -> None:
        """End the whole process group as a power cut would; a second time does nothing."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def langgraph_dev(
    folder: Path, environment: Mapping[str, str], config: Path = ROOT / "langgraph.json", **headers: str
) -> Generator[Server]:
    """A server for the length of the block; it must not have blocked its event loop meanwhile.

    The server writes `.langgraph_api` into its working folder, so it gets a new one; what a second
    server knows about the first one's threads, it knows from the database.
    """
    folder.mkdir()
    port = free_port()
    options = ["--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "langgraph_cli", "dev", *options, "--config", str(config)]
    url, log_file = f"http://127.0.0.1:{port}", folder / "server.log"
    with log_file.open("wb") as output, get_sync_client(url=url, headers=headers) as client:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        server = Server(url=url, process=process, log_file=log_file, client=client)
        try:
            server.wait_until_up()
            yield server
        finally:
            server.kill()
    assert "BlockingError" not in server.log


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
