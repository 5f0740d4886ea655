"""Fetching a restore image over HTTPS: 15 GB that survive lost connections, Ctrl-C and a restart of the host."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
from yarl import URL

from vzkubelet.errors import Error, InvalidInput, NotFound, Unavailable, clip
from vzkubelet.files import sync, write_atomic
from vzkubelet.machines.directory import os_fault

Progress = Callable[[int, int], None]
"""Hears bytes done and bytes in all."""

_CHUNK_BYTES = 1024 * 1024
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=20.0, sock_read=60.0)
_FRUITLESS_TRIES = 6
"""In a row, without a single byte; what brings bytes is tried for ever."""
_RETRY_S = 2.0


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a download that is not complete (``NAME.part.json``)."""

    url: str
    etag: str
    size_bytes: int


async def download(url: str, directory: Path, progress: Progress = lambda _done, _total: None) -> Path:
    """The file of this address in `directory`: the one that is there, or what is missing of it fetched.

    Cancelling it keeps what has come. Raises: InvalidInput (not HTTPS), NotFound, Unavailable, Exhausted (disk full).
    """
    address = URL(url)
    _check(address)
    target = directory / address.name
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        async with aiohttp.ClientSession(timeout=_TIMEOUT, auto_decompress=False) as session:
            await _fetch_all(session, address, part, progress)
        part.replace(target)
        _notes(part).unlink(missing_ok=True)
    except OSError as exc:
        raise os_fault(exc, f"cannot write {target}") from exc
    return target


def _check(address: URL) -> None:
    host = address.host or ""
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if address.scheme != "https" and not (is_local and address.scheme == "http"):
        raise InvalidInput(f"{clip(str(address))} is not fetched: a restore image comes over HTTPS only")
    if not address.name or address.name in (".", ".."):
        raise InvalidInput(f"{clip(str(address))} names no file")


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


async def _fetch_all(session: aiohttp.ClientSession, address: URL, part: Path, progress: Progress) -> None:
    fruitless = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            await _fetch(session, address, part, progress)
        except Unavailable:
            after = part.stat().st_size if part.exists() else 0
            fruitless = fruitless + 1 if after == before else 0
            if fruitless >= _FRUITLESS_TRIES:
                raise
            await asyncio.sleep(_RETRY_S)
        else:
            return


async def _fetch(session: aiohttp.ClientSession, address: URL, part: Path, progress: Progress) -> None:
    """One request for what is missing; another file under the address (by its ETag) begins anew."""
    known = _known(address, part)
    done_bytes = part.stat().st_size if known is not None else 0
    if known is not None and 0 < known.size_bytes == done_bytes:
        return
    headers = {}
    if known is not None and done_bytes:
        headers = {"Range": f"bytes={done_bytes}-", "If-Range": known.etag}
    async with _answered(session, address, headers) as response:
        if response.status != 206:
            done_bytes = 0
        total_bytes = done_bytes + (response.content_length or 0)
        notes = _Part(url=str(address), etag=response.headers.get("ETag", ""), size_bytes=total_bytes)
        write_atomic(_notes(part), msgspec.json.encode(notes))
        with part.open("ab" if done_bytes else "wb") as file:
            progress(done_bytes, total_bytes)
            async for data in response.content.iter_chunked(_CHUNK_BYTES):
                await asyncio.to_thread(file.write, data)
                done_bytes += len(data)
                progress(done_bytes, total_bytes)
            file.flush()
            sync(file.fileno())
    if total_bytes and done_bytes != total_bytes:
        raise Unavailable(f"{address.name}: the server sent {done_bytes} of {total_bytes} bytes")


def _known(address: URL, part: Path) -> _Part | None:
    """None when nothing was fetched, or it cannot be told whether it is of the same file."""
    try:
        known = msgspec.json.decode(_notes(part).read_bytes(), type=_Part)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    same = part.exists() and known.url == str(address) and known.etag.startswith('"')
    return known if same and part.stat().st_size <= known.size_bytes else None


@asynccontextmanager
async def _answered(
    session: aiohttp.ClientSession, address: URL, headers: dict[str, str]
) -> AsyncIterator[aiohttp.ClientResponse]:
    try:
        async with session.get(address, headers=headers) as response:
            if response.status not in (200, 206):
                raise _refused(address, response.status)
            yield response
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise Unavailable(f"cannot fetch {address}: {clip(str(exc) or type(exc).__name__)}") from exc


def _refused(address: URL, status: int) -> Error:
    told = f"{address.host} answered the request for {address.name} with status {status}"
    if status in (404, 410):
        return NotFound(f"{told}: download another restore image and give it with `--ipsw FILE`")
    return Unavailable(told)
