"""A TCP proxy in front of Postgres that counts round trips, whatever client stands before it.

It reads the frames of the frontend/backend protocol (https://www.postgresql.org/docs/current/protocol.html) and no
more of them than their type. A round trip is a burst from the client that finds the server idle: the server has
answered every Sync and Query before it with ReadyForQuery, or asks for the rows of a COPY. A pipeline that is sent at
once is therefore one round trip, however many statements it holds.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_ASKS = (b"Q", b"S", b"F")
"""What the server answers with ReadyForQuery: Query, Sync, FunctionCall."""
_FAREWELL = b"X\x00\x00\x00\x04"


class Frames:
    """The types of the messages in one direction of a connection."""

    def __init__(self, *, typed: bool) -> None:
        self._head = int(typed)  # the client's first message has no type
        self._rest = bytearray()

    def types(self, data: bytes) -> Iterator[bytes]:
        self._rest += data
        while len(self._rest) >= self._head + 4:
            end = self._head + int.from_bytes(self._rest[self._head : self._head + 4])
            if len(self._rest) < end:
                return
            yield bytes(self._rest[: self._head])
            del self._rest[:end]
            self._head = 1


class Line:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.trips = 0
        self._up, self._down = Frames(typed=False), Frames(typed=True)
        self._asked = 1  # the server ends the start of a session with ReadyForQuery too
        self._idle = False

    def pump(self, source: socket.socket) -> bool:
        """Pass on what has come from one side; false at its end."""
        with suppress(OSError):
            if data := source.recv(1 << 20):
                (self._upward if source is self.client else self._downward)(data)
                (self.server if source is self.client else self.client).sendall(data)
                return True
        return False

    def _upward(self, data: bytes) -> None:
        if self._idle and data != _FAREWELL:
            self.trips += 1
            self._idle = False
        self._asked += sum(kind in _ASKS for kind in self._up.types(data))

    def _downward(self, data: bytes) -> None:
        for kind in self._down.types(data):
            if kind == b"Z":
                self._asked = max(0, self._asked - 1)
            elif kind == b"G":  # CopyInResponse: the rows are a burst of their own, with an ask of their own
                self._asked = 0
        self._idle = self._asked == 0

    def close(self) -> None:
        self.client.close()
        self.server.close()


class CountingProxy:
    """A server on a loopback port that passes everything on to the one of the URI.

    `uri` is the way through it; `trips` are the round trips of all connections so far.
    """

    def __init__(self, uri: str) -> None:
        given = conninfo_to_dict(uri)
        self._host, self._port = str(given.get("host") or "localhost"), int(given.get("port") or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        # Neither encryption: the proxy reads along.
        self.uri = make_conninfo(uri, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
        self._lines: list[Line] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="counting-proxy", daemon=True)

    @property
    def trips(self) -> int:
        return sum(line.trips for line in self._lines)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._over.is_set():
                for key, _ in selector.select(timeout=0.05):
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif not key.data.pump(key.fileobj):
                        self._hang_up(selector, key.data)
            for line in self._lines:
                line.close()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        client, _ = self._listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = Line(client, self._connected())
        self._lines.append(line)
        selector.register(line.client, selectors.EVENT_READ, line)
        selector.register(line.server, selectors.EVENT_READ, line)

    def _connected(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(Path(self._host) / f".s.PGSQL.{self._port}"))
        return server

    def _hang_up(self, selector: selectors.BaseSelector, line: Line) -> None:
        for side in (line.client, line.server):
            with suppress(KeyError, ValueError):
                selector.unregister(side)
        line.close()
