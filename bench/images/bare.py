"""Bare loops: the stages of a pull with as little Python around them as can be, in threads, without any recovery.

What they leave out is what the product has besides: ranges that are tried again, a ledger, limits, a store. Run as a
process of its own: ``python -m bench.images.bare gzip|chunked REFERENCE TARGET`` prints seconds.
"""

import hashlib
import http.client
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import zstandard
from isal import isal_zlib

from bench.images.direct import BUFFER_BYTES, DirectFile
from vzkubelet.images.formats.chunk_index import ChunkIndex
from vzkubelet.images.formats.chunked import DISK_INDEX, DISK_PACK

RECEIVE_BYTES = 256 * 1024
_QUEUE = 8
_WORKERS = 4
"""Of the chunked loop. More do not help on two processors; fewer leave one idle while another waits for the disk."""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Repository:
    """Reads of one repository of a registry without a login, each over a connection of its own."""

    def __init__(self, reference: str) -> None:
        """`reference` is ``host:port/name:tag``."""
        self._host, _, rest = reference.partition("/")
        self._name, _, self._tag = rest.partition(":")

    def manifest(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._get(f"manifests/{self._tag}", MANIFEST).read())
        return document

    def blob(self, digest: str) -> http.client.HTTPResponse:
        return self._get(f"blobs/{digest}")

    def _get(self, path: str, accept: str = "*/*") -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self._host, timeout=60)
        connection.request("GET", f"/v2/{self._name}/{path}", headers={"Accept": accept})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")
        return answer


class _Stage:
    """A thread that takes what the one before it made. The first failure of any ends the process' work."""

    failures: list[BaseException]

    def __init__(self, work: Callable[[Iterable[Any]], None], failures: list[BaseException]) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue(_QUEUE)
        self.failures = failures
        self._work = work
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def put(self, item: object) -> None:
        self.inbox.put(item)

    def end(self) -> None:
        self.inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work(iter(self.inbox.get, None))
        except BaseException as exc:  # noqa: BLE001 - told by the main thread
            self.failures.append(exc)
            for _ in iter(self.inbox.get, None):
                pass


def gzip_pull(reference: str, target: Path) -> None:
    """Download, sha256 of the blob, inflate, sha256 of the content, direct write: one thread each."""
    repository = Repository(reference)
    layer = next(layer for layer in repository.manifest()["layers"] if "disk.image" in layer["mediaType"])
    size_bytes = int(layer["annotations"]["com.agoda.macosvz.content.uncompressed-size"])
    raw_digest = layer["annotations"]["com.agoda.macosvz.content.uncompressed-digest"]
    failures: list[BaseException] = []
    blob_hash, raw_hash = hashlib.sha256(), hashlib.sha256()

    with DirectFile(target, size_bytes) as file:

        def write(blocks: Iterable[bytes]) -> None:
            offset = 0
            for block in blocks:
                file.write(block, offset)
                offset += len(block)

        writing = _Stage(write, failures)
        hashing = _Stage(lambda blocks: _each(raw_hash.update, blocks), failures)
        inflating = _Stage(lambda parts: _inflate(parts, hashing, writing), failures)
        digesting = _Stage(lambda parts: _each(blob_hash.update, parts), failures)
        answer = repository.blob(layer["digest"])
        while part := answer.read(RECEIVE_BYTES):
            inflating.put(part)
            digesting.put(part)
        for stage in (inflating, digesting, hashing, writing):
            stage.end()
        if failures:
            raise failures[0]
    found = (f"sha256:{blob_hash.hexdigest()}", f"sha256:{raw_hash.hexdigest()}")
    if found != (layer["digest"], raw_digest):
        raise RuntimeError(f"{reference}: digests {found}")


def _each(work: Callable[[bytes], None], items: Iterable[bytes]) -> None:
    for item in items:
        work(item)


def _inflate(parts: Iterable[bytes], *nexts: _Stage) -> None:
    decoder = isal_zlib.decompressobj(wbits=31)
    pieces: list[bytes] = []
    gathered = 0
    for part in parts:
        data = part
        while data:
            piece = decoder.decompress(data, BUFFER_BYTES - gathered)
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if decoder.eof:
                decoder = isal_zlib.decompressobj(wbits=31)  # of the next member, where there is one
            pieces.append(piece)
            gathered += len(piece)
            if gathered == BUFFER_BYTES:
                _hand_on(pieces, nexts)
                gathered = 0
    pieces.append(decoder.flush())
    if any(pieces):
        _hand_on(pieces, nexts)


def _hand_on(pieces: list[bytes], nexts: tuple[_Stage, ...]) -> None:
    block = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    pieces.clear()
    for stage in nexts:
        stage.put(block)


def chunked_pull(reference: str, target: Path) -> None:
    """Each thread in turn: download a pack, and for its chunks decompress, sha256, direct write."""
    repository = Repository(reference)
    layers = repository.manifest()["layers"]
    index_layer = next(layer for layer in layers if layer["mediaType"] == DISK_INDEX)
    packs = [layer for layer in layers if layer["mediaType"] == DISK_PACK]
    index = ChunkIndex.parse(repository.blob(index_layer["digest"]).read())
    by_pack: list[list[int]] = [[] for _ in range(index.pack_count)]
    for number in range(index.count):
        if not index.is_zero(number):
            by_pack[index.location(number).pack].append(number)

    with DirectFile(target, index.size_bytes, buffers=_WORKERS) as file:

        def fetch(pack: int) -> None:
            decompressor = zstandard.ZstdDecompressor()
            content = repository.blob(packs[pack]["digest"]).read()
            for number in by_pack[pack]:
                _, offset, length = index.location(number)
                raw_bytes = index.length(number)
                frame = content[offset : offset + length]
                raw = frame if length == raw_bytes else decompressor.decompress(frame, raw_bytes)
                if hashlib.sha256(raw).digest() != index.digest(number):
                    raise RuntimeError(f"chunk {number} is damaged")
                file.write(raw, number * index.chunk_bytes)

        with ThreadPoolExecutor(_WORKERS) as workers:
            for _ in workers.map(fetch, range(index.pack_count)):
                pass


LOOPS = {"gzip": gzip_pull, "chunked": chunked_pull}


def main() -> None:
    kind, reference, target = sys.argv[1:]
    began = time.monotonic()
    LOOPS[kind](reference, Path(target))
    print(time.monotonic() - began)


if __name__ == "__main__":
    main()
