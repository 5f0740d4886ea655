"""A process beside a push that carries its chunks to the registry, and outlives it by the one that it has in hand.

CNCF Distribution, which most registries are, forgets an upload when a chunk's answer did not reach anybody: the place
where to go on is in that answer. A push that dies in the middle of a chunk would have to send a disk of many GB again.
So chunks are sent from here: when the push dies, the chunk is finished and its answer written to the ledger, and the
next push, which waits for that, goes on behind it.

The push and its courier talk over a socket pair, a request and an answer at a time; chunks lie in a file without a name
that both have mapped. ``python -m vzkubelet.images.push.courier`` is the process; its standard input is the socket.
"""

import asyncio
import contextlib
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from vzkubelet.aio import run_blocking
from vzkubelet.errors import Error, Forbidden, Integrity, InvalidInput, NotFound, Unauthenticated, Unavailable
from vzkubelet.images.push.ledger import Ledger, UploadRecord, courier_lock
from vzkubelet.images.registry import Repository
from vzkubelet.images.transport import Transport
from vzkubelet.images.uploads import Upload
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

SLOT_BYTES = 24 * 1024 * 1024
"""More than a part has; a larger chunk is sent in several."""
_MESSAGE_BYTES = 256 * 1024
_END_TIMEOUT_S = 10.0
"""For the chunk in hand, when the push is over; then it is left alone with it."""
_ERRORS: dict[str, type[Error]] = {
    kind.__name__: kind for kind in (NotFound, Unauthenticated, Forbidden, Unavailable, InvalidInput, Integrity)
}


class _Start(msgspec.Struct, frozen=True):
    reference: str
    username: str
    password: str
    identity_token: str
    plain_http: bool
    slot: int
    """Descriptor of the file with the chunk."""


class _Request(msgspec.Struct, frozen=True):
    verb: str
    """``begin``, ``resume``, ``lock``, ``send`` or ``finish``."""
    location: str = ""
    size_bytes: int = 0
    digest: str = ""
    """``finish``: of the blob. ``send``: of all up to the end of the chunk, for the ledger."""
    ledger: str = ""


class _Answer(msgspec.Struct, frozen=True):
    error: str = ""
    message: str = ""
    location: str = ""
    offset: int = 0
    chunk_min_bytes: int = 0
    is_lost: bool = False


# --- The push's side


class CarriedUpload:
    """An upload whose chunks a courier sends; the same as `Upload` for whoever uses it."""

    def __init__(self, courier: "Courier", answer: _Answer) -> None:
        self._courier = courier
        self.location = answer.location
        self.offset = answer.offset
        self.chunk_min_bytes = answer.chunk_min_bytes

    async def send(self, chunk: bytes | memoryview, record: "tuple[Ledger, str] | None" = None) -> None:
        """As `Upload.send`. `record` is the ledger to write to, and the digest of all up to the end of `chunk`."""
        for start in range(0, len(chunk), SLOT_BYTES):
            end = min(start + SLOT_BYTES, len(chunk))
            answer = await self._courier.carry(
                memoryview(chunk)[start:end], self.location, record if end == len(chunk) else None
            )
            self.location, self.offset = answer.location, answer.offset

    async def finish(self, digest: str) -> None:
        await self._courier.ask(_Request("finish", location=self.location, digest=digest))


class Courier:
    """Starts the process when it is needed, and again when it has died. One request at a time."""

    def __init__(self, reference: str, credential: RegistryCredential, *, plain_http: bool) -> None:
        self._reference = reference
        self._credential = credential
        self._plain_http = plain_http
        self._turn = asyncio.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._slot: mmap.mmap | None = None
        self._locked = ""

    async def begin_upload(self) -> CarriedUpload:
        """As `Repository.begin_upload`."""
        return CarriedUpload(self, await self.ask(_Request("begin")))

    async def resume_upload(self, location: str) -> CarriedUpload | None:
        """As `Repository.resume_upload`."""
        answer = await self.ask(_Request("resume", location=location))
        return None if answer.is_lost else CarriedUpload(self, answer)

    async def carry(self, chunk: bytes | memoryview, location: str, record: tuple[Ledger, str] | None) -> _Answer:
        ledger, digest = (str(record[0].path), record[1]) if record is not None else ("", "")
        if ledger and ledger != self._locked:
            # Before anything is sent: whoever comes after this push must find the lock.
            await self.ask(_Request("lock", ledger=ledger))
            self._locked = ledger
        request = _Request("send", location=location, size_bytes=len(chunk), digest=digest, ledger=ledger)
        return await self.ask(request, chunk)

    async def ask(self, request: _Request, chunk: bytes | memoryview = b"") -> _Answer:
        """Raises: what the courier met with; Unavailable: it is no more."""
        async with self._turn:
            try:
                writer, reader, slot = await self._ready()
                slot[: len(chunk)] = chunk
                writer.write(msgspec.json.encode(request) + b"\n")
                await writer.drain()
                line = await reader.readuntil(b"\n")
            except (OSError, EOFError, ValueError) as exc:
                await self._drop()
                raise Unavailable(f"{self._reference}: the process that sends it has ended") from exc
            except BaseException:
                # Its answer would be taken for that to the next request.
                await self._drop()
                raise
        answer = msgspec.json.decode(line, type=_Answer)
        if answer.error:
            raise _ERRORS[answer.error](answer.message)
        return answer

    async def close(self) -> None:
        """Returns when the process has ended, or soon: a chunk in hand is finished without anybody waiting for it."""
        await self._drop()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await run_blocking(process.wait, _END_TIMEOUT_S)
        self._processes = []

    async def _ready(self) -> tuple[asyncio.StreamWriter, asyncio.StreamReader, mmap.mmap]:
        if self._writer is None or self._reader is None or self._slot is None:
            await self._start()
        assert self._writer is not None
        assert self._reader is not None
        assert self._slot is not None
        return self._writer, self._reader, self._slot

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs, tempfile.TemporaryFile() as file:
                file.truncate(SLOT_BYTES)
                self._slot = mmap.mmap(file.fileno(), SLOT_BYTES)
                process = subprocess.Popen(  # noqa: ASYNC220 - starting one is quick, its end is waited for in a thread
                    # -P: nothing of the working directory may stand for a module of a process that knows the login.
                    [sys.executable, "-P", "-m", __name__],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(file.fileno(),),
                    start_new_session=True,  # Ctrl-C is for the push alone
                )
                self._processes.append(process)
                start = _Start(
                    reference=self._reference,
                    username=self._credential.username,
                    password=self._credential.password,
                    identity_token=self._credential.identity_token,
                    plain_http=self._plain_http,
                    slot=file.fileno(),
                )
            self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=_MESSAGE_BYTES)
        except BaseException:
            ours.close()
            raise
        self._writer.write(msgspec.json.encode(start) + b"\n")

    async def _drop(self) -> None:
        writer, slot = self._writer, self._slot
        self._writer = self._reader = self._slot = None
        self._locked = ""
        if writer is not None:
            writer.close()
        if slot is not None:
            slot.close()


# --- The process


def main() -> None:
    asyncio.run(_serve(socket.socket(fileno=os.dup(sys.stdin.fileno()))))


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection, limit=_MESSAGE_BYTES)
    start = msgspec.json.decode(await reader.readline(), type=_Start)
    slot = mmap.mmap(start.slot, SLOT_BYTES)
    os.close(start.slot)
    transport = Transport(plain_http=start.plain_http)
    credential = RegistryCredential(start.username, start.password, start.identity_token)
    errands = _Errands(Repository(transport, parse(start.reference), credential, push=True), slot)
    try:
        # A line that is not whole ends it as well: the push died while it wrote.
        while (line := await reader.readline()).endswith(b"\n"):
            answer = await errands.do(msgspec.json.decode(line, type=_Request))
            writer.write(msgspec.json.encode(answer) + b"\n")
    finally:
        await transport.close()
        writer.close()


class _Errands:
    """What is asked of the process. The ledger that is written to stays locked until another one is."""

    def __init__(self, repository: Repository, slot: mmap.mmap) -> None:
        self._repository = repository
        self._slot = slot
        self._uploads: dict[str, Upload] = {}
        self._descriptor = -1

    async def do(self, request: _Request) -> _Answer:
        verbs: dict[str, Callable[[_Request], Awaitable[_Answer]]] = {
            "begin": self._begin,
            "resume": self._resume,
            "lock": self._lock,
            "send": self._send,
            "finish": self._finish,
        }
        try:
            return await verbs[request.verb](request)
        except tuple(_ERRORS.values()) as exc:
            kind = next(name for name, kind in _ERRORS.items() if isinstance(exc, kind))
            return _Answer(error=kind, message=str(exc))

    async def _begin(self, _: _Request) -> _Answer:
        return self._known(await self._repository.begin_upload())

    async def _resume(self, request: _Request) -> _Answer:
        upload = await self._repository.resume_upload(request.location)
        return _Answer(is_lost=True) if upload is None else self._known(upload)

    async def _send(self, request: _Request) -> _Answer:
        upload = self._uploads.get(request.location)
        if upload is None:
            raise NotFound(f"{self._repository.name}: an upload that nobody began")
        await upload.send(memoryview(self._slot)[: request.size_bytes])
        if request.ledger:
            record = UploadRecord(location=upload.location, offset=upload.offset, digest=request.digest)
            with contextlib.suppress(OSError), Ledger.beside(Path(request.ledger)) as ledger:
                ledger.set_upload(record)
        return self._known(upload)

    async def _finish(self, request: _Request) -> _Answer:
        await self._uploads[request.location].finish(request.digest)
        return _Answer()

    def _known(self, upload: Upload) -> _Answer:
        """One upload at a time is on its way."""
        self._uploads = {upload.location: upload}
        return _Answer(location=upload.location, offset=upload.offset, chunk_min_bytes=upload.chunk_min_bytes)

    async def _lock(self, request: _Request) -> _Answer:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = courier_lock(Path(request.ledger))
        return _Answer()


if __name__ == "__main__":
    main()
