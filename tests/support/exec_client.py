"""A client of the kubelet's streams as client-go is one, over a real TLS socket: SPDY/3.1, protocol v4."""

import asyncio
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.cluster.pki import KeyPair
from vzkubelet.wire import spdy, streams

OFFERED = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
LOOPBACK = "127.0.0.1"


def client_tls(ca: Path, identity: KeyPair | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    return context


class UpgradeRefused(Exception):
    def __init__(self, status: int, headers: Mapping[str, Sequence[str]], body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status, self.headers, self.body = status, headers, body


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, list[str]]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers: dict[str, list[str]] = {}
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), []).append(value.strip())
    return int(head[0].split(" ")[1]), headers


def exec_path(command: Sequence[str], *, names: str = "default/pod/main", verb: str = "exec", **flags: bool) -> str:
    query = [f"{name}=1" for name, value in flags.items() if value]
    query += [f"command={quote(argument, safe='')}" for argument in command]
    return f"/{verb}/{names}?{'&'.join(query)}"


class ExecClient:
    """One session. Channels are opened one after another, each waiting for its reply, as spdystream does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.connection = spdy.Connection(spdy.Role.CLIENT)
        self.ids: dict[str, int] = {}
        self.received: dict[str, bytearray] = {}
        self.digests: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        self.ended: list[str] = []
        self.events: list[streams.Event] = []
        self.eof = False
        self.keep_output = True

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, port: int, tls: ssl.SSLContext, path: str, *, method: str = "POST", protocols: Iterable[str] = OFFERED
    ) -> AsyncIterator["ExecClient"]:
        """Upgraded; raises UpgradeRefused with the answer otherwise."""
        reader, writer = await asyncio.open_connection(LOOPBACK, port, ssl=tls, limit=1024 * 1024)
        try:
            lines = [f"{method} {path} HTTP/1.1", "Host: anything", "Connection: Upgrade", "Upgrade: SPDY/3.1"]
            lines += [f"X-Stream-Protocol-Version: {protocol}" for protocol in protocols]
            if method == "POST":
                lines.append("Content-Length: 0")
            writer.write("\r\n".join([*lines, "", ""]).encode())
            status, headers = await read_head(reader)
            if status != 101:
                body = await reader.readexactly(int(headers["content-length"][0]))
                raise UpgradeRefused(status, headers, body.decode())
            assert headers["x-stream-protocol-version"] == ["v4.channel.k8s.io"]
            yield cls(reader, writer)
        finally:
            await close(writer)

    async def open(self, *channels: str) -> None:
        for channel in channels:
            stream_id = self.connection.open_stream({"streamType": channel})
            self.ids[channel] = stream_id
            self.received[channel] = bytearray()
            self.digests[channel] = hashlib.sha256()
            self.counts[channel] = 0
            await self.flush()
            while streams.StreamAccepted(stream_id) not in self.events:
                await self.read()

    async def flush(self) -> None:
        self.writer.write(self.connection.data_to_send())
        await self.writer.drain()

    async def send(self, channel: str, data: bytes) -> None:
        self.connection.send_data(self.ids[channel], data)
        await self.flush()

    async def end(self, channel: str) -> None:
        self.connection.end_stream(self.ids[channel])
        await self.flush()

    async def read(self, limit: int = 256 * 1024) -> None:
        """Take what has come, at least something; sets `eof` at the end."""
        data = await self.reader.read(limit)
        if not data:
            self.eof = True
            self.connection.receive_eof()
        else:
            self.connection.receive_data(data)
        names = {number: name for name, number in self.ids.items()}
        for event in self.connection.events():
            match event:
                case streams.DataReceived(stream_id, chunk):
                    name = names[stream_id]
                    self.digests[name].update(chunk)
                    self.counts[name] += len(chunk)
                    if self.keep_output:
                        self.received[name] += chunk
                case streams.StreamEnded(stream_id):
                    self.ended.append(names[stream_id])
                case _:
                    self.events.append(event)
        if not self.eof:
            await self.flush()

    async def outcome(self) -> Any:
        """Read to the end of outputs and error stream as client-go does; the Status."""
        waited = {"stdout", "stderr", "error"} & self.ids.keys()
        while not waited <= set(self.ended):
            if self.eof:
                raise AssertionError(f"the server closed the connection; ended: {self.ended}")
            await self.read()
        return json.loads(self.received["error"] or "null")

    async def leave(self) -> None:
        """Close as spdystream does: reset what is open, say goodbye, close."""
        for stream_id in self.ids.values():
            self.connection.reset_stream(stream_id)
        self.connection.go_away()
        await self.flush()
        await close(self.writer)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


def exit_code(status: Any) -> int:
    """As client-go reads it."""
    if status is None or status["status"] == "Success":
        return 0
    assert status["reason"] == "NonZeroExitCode", status
    return int(next(cause["message"] for cause in status["details"]["causes"] if cause["reason"] == "ExitCode"))
