"""Keeping the store: verifying, scrubbing, collecting, pruning, making room, adopting. For the agent and the tools."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from vzkubelet.aio import BlockingPool, cancel, spawn, uninterrupted
from vzkubelet.errors import Conflict, Error, NotFound
from vzkubelet.images import eviction, go_cache, scrubbing, usage
from vzkubelet.images.collection import Collection as CollectionResult
from vzkubelet.images.collection import Rules
from vzkubelet.images.findings import Finding, Verification
from vzkubelet.images.idle_priority import take_idle_priority
from vzkubelet.images.pacing import Pacer, Stopped
from vzkubelet.images.records import ContentRecord, ImageRecord
from vzkubelet.images.store import Store, store_fault
from vzkubelet.images.usage import Snapshot
from vzkubelet.model.reference import parse

_log = logging.getLogger(__name__)
T = TypeVar("T")
_REPORT_EVERY_S = 0.2
SCRUB_BYTES_PER_S = 64 * 1024 * 1024
"""128 GiB of data in about half an hour, at a rate that a machine's disk does not feel."""


class Upkeep:
    """Safe beside pulls, machines and other processes. Every method may be cancelled and then stops soon.

    `in_use` tells the references, image IDs or digests of the images that pods use or that are to be here. With
    `evicts` images that it does not name may be removed when a pull needs room; else, as in people's tools, only what
    nothing points to.
    """

    def __init__(
        self,
        store: Store | Path,
        *,
        in_use: Callable[[], Collection[str]] = tuple,
        evicts: bool = False,
        rules: Rules | None = None,
    ) -> None:
        self._store = store if isinstance(store, Store) else Store(store)
        self._scrubbing = scrubbing.Scrubbing(self._store)
        self._in_use = in_use
        self._evicts = evicts
        self._rules = rules or Rules()
        self._watched_since = time.time()

    # --- Figures

    async def usage(self) -> Snapshot:
        """The images with their figures, pins and last uses."""
        return await self._run("usage", lambda _: usage.snapshot(self._store))

    # --- Verification

    async def verify(
        self, references: Sequence[str] = (), progress: Callable[[int, int], None] | None = None
    ) -> Verification:
        """Read the contents of these images, or of all, in full. Damaged ones go to quarantine.

        `progress` hears of the bytes done and of all. Raises: NotFound: no such reference here.
        """
        pacer = Pacer()
        contents, owners = await self._run("list", lambda _: self._contents_of(references))
        total_bytes = sum(content.size_bytes for content in contents)
        reporter = spawn(_report(pacer, total_bytes, progress), name="progress") if progress is not None else None
        try:
            found = await self._run("verify", lambda pace: self._verify_all(contents, pace), pacer)
        finally:
            await cancel(reporter)
        if progress is not None:
            progress(total_bytes, total_bytes)
        findings = tuple(replace(finding, references=owners.get(finding.digest, ())) for finding in found)
        return Verification(len(contents), total_bytes, findings)

    async def scrub(
        self, older_than_s: float = 0.0, *, bytes_per_s: int = SCRUB_BYTES_PER_S, limit: int = 0
    ) -> tuple[Finding, ...] | None:
        """Verify at idle priority what was not verified for that long, the oldest first; at most `limit` contents.

        Goes on where an earlier one was interrupted. Damaged contents go to quarantine. None when another process is at
        it. Holes cost nothing; 0 `bytes_per_s` is as fast as it goes.
        """
        try:
            found = await self._run(
                "scrub", lambda pacer: self._scrub_all(older_than_s, limit, pacer), Pacer(bytes_per_s)
            )
        except Conflict as exc:
            _log.debug("not scrubbing: %s", exc)
            return None
        owners = (await self._run("list", lambda _: self._contents_of(())))[1]
        return tuple(replace(finding, references=owners.get(finding.digest, ())) for finding in found)

    def _contents_of(self, references: Sequence[str]) -> tuple[list[ContentRecord], dict[str, tuple[str, ...]]]:
        """The contents, each once, and the references that each belongs to."""
        pointers = list(self._store.references())
        if references:
            targets = [parse(reference) for reference in references]
            for target in targets:
                if not any(pointer.answers(target) for pointer in pointers):
                    raise NotFound(f"{target} is not on this host: see macos-vz-kubelet image ls")
            wanted = {p.manifest_digest for p in pointers if any(p.answers(target) for target in targets)}
            records = [self._store.image_record(digest) for digest in sorted(wanted)]
        else:
            records = list[ImageRecord | None](self._store.images())
        contents: dict[str, ContentRecord] = {}
        owners: dict[str, list[str]] = {}
        for record in records:
            if record is None:
                continue
            names = [p.reference for p in pointers if p.manifest_digest == record.manifest_digest]
            for content in record.contents:
                contents[content.digest] = content
                owners.setdefault(content.digest, []).extend(names)
        return list(contents.values()), {digest: tuple(sorted(set(names))) for digest, names in owners.items()}

    def _verify_all(self, contents: Sequence[ContentRecord], pacer: Pacer) -> list[Finding]:
        findings = []
        for content in contents:
            if self._store.contents.size_bytes(content.digest) is None:
                findings.append(Finding(content.digest, "it is not here (any more); pull the image again"))
                continue
            finding = self._scrubbing.verify(content, pacer)
            if finding is not None:
                findings.append(finding)
        return findings

    def _scrub_all(self, older_than_s: float, limit: int, pacer: Pacer) -> list[Finding]:
        take_idle_priority()
        if not self._store.root.is_dir():
            return []
        with self._scrubbing.alone():
            due = self._scrubbing.due(older_than_s)
            findings = [self._scrubbing.scrub(content, pacer) for content in due[: limit or len(due)]]
        return [finding for finding in findings if finding is not None]

    # --- Space

    async def collect(self, rules: Rules | None = None, in_use: Collection[str] | None = None) -> CollectionResult:
        """The kubelet's collection: what is over the age, and above the high threshold what is used least recently.

        Images in use and pinned ones stay. See `CollectionResult.shortage` for when that was not enough.
        """
        names = self._in_use() if in_use is None else in_use
        chosen = rules or self._rules
        return await self._run("collect", lambda _: eviction.collect(self._store, chosen, names, self._watched_since))

    async def make_room(self, wanted_bytes: int, name: str = "") -> int:
        """Have that many bytes free on the store's volume; returns those that were freed. `name` is for messages.

        Raises: Exhausted, with figures.
        """
        names = self._in_use() if self._evicts else None
        return await self._run(
            "make room", lambda _: eviction.make_room(self._store, wanted_bytes, name, names, self._rules)
        )

    async def prune(
        self,
        *,
        everything: bool = False,
        unused_for_s: float = 0.0,
        in_use: Collection[str] | None = None,
        is_trial: bool = False,
    ) -> CollectionResult:
        """Remove images that no reference points to and what interrupted pulls and damage left; with `everything` all
        images that are neither in use nor pinned nor were used within that time. `is_trial`: only say what would go."""
        names = self._in_use() if in_use is None else in_use
        return await self._run(
            "prune", lambda _: eviction.prune(self._store, everything, unused_for_s, names, is_trial=is_trial)
        )

    # --- Adoption

    async def adopt(self, cache: Path) -> go_cache.Adoption:
        """Take over the images that the Go project left in its cache directory, once verified; see `go_cache`."""
        return await self._run("adopt", lambda pacer: go_cache.adopt(self._store, cache, pacer))

    # --- Threads

    async def _run(self, what: str, work: Callable[[Pacer], T], pacer: Pacer | None = None) -> T:
        """In a thread of its own, which has ended when this returns, also when it is cancelled."""
        pacer = pacer or Pacer()
        pool = BlockingPool(what, 1)
        task = spawn(pool.run(work, pacer), name=f"images: {what}", on_crash=lambda _: None)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            pacer.stop()
            await uninterrupted(_ended(task), name=f"end of {what}")
            raise
        except OSError as exc:
            raise store_fault(exc, f"{self._store.root}: {what}") from exc
        finally:
            pool.close()


async def _ended(task: "asyncio.Task[T]") -> None:
    try:
        await task
    except Stopped:
        return
    except (OSError, Error) as exc:  # whoever has cancelled does not want to hear of it
        _log.debug("what was cancelled has failed: %s", exc)


async def _report(pacer: Pacer, total_bytes: int, progress: Callable[[int, int], None]) -> None:
    while True:
        progress(min(pacer.done_bytes, total_bytes), total_bytes)
        await asyncio.sleep(_REPORT_EVERY_S)
