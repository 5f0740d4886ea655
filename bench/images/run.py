"""All steps of one run, alternated, each in a process of its own, and what becomes of them as rows."""

import filecmp
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.images import bare, job, reference, traffic
from bench.images import disk as disks
from bench.images.job import Job, Outcome
from bench.images.rows import Timing
from tests.cluster.registry import Registry

SEED = 20261121
CHANGED_SHARE = 0.02
AUX_BYTES = 33_570_816
"""As Apple makes it."""
STEP_TIMEOUT_S = 300.0

Say = Callable[[str], None]


class StepFailed(RuntimeError):
    """A step ended with an error; the message carries what it printed."""


@dataclass(slots=True)
class Inputs:
    disk: Path
    update: Path
    aux: Path
    layout: disks.Layout
    reference: Path
    """The Go program."""

    @classmethod
    def make(cls, directory: Path, size_bytes: int, say: Say) -> "Inputs":
        """Disks that an earlier run left in `directory` with the same name are taken as they are."""
        say("the Go project's push and pull (first time: built in about 2 min)")
        program = reference.build()
        layout = disks.Layout.of(size_bytes, SEED)
        made = cls(
            disk=directory / f"disk-{size_bytes}-{SEED}",
            update=directory / f"update-{size_bytes}-{SEED}",
            aux=directory / f"aux-{SEED}",
            layout=layout,
            reference=program,
        )
        say(f"disks of {size_bytes / 2**30:g} GiB, {layout.data_blocks * disks.BLOCK_BYTES / 2**30:g} GiB of it data")
        _once(made.disk, lambda path: disks.write(path, layout, SEED))
        _once(made.update, lambda path: disks.write_update(path, made.disk, layout, CHANGED_SHARE, SEED + 1))
        _once(made.aux, _write_aux)
        return made

    @property
    def data_mib(self) -> float:
        return (self.layout.data_blocks * disks.BLOCK_BYTES + AUX_BYTES) / job.MIB


def _write_aux(path: Path) -> None:
    contents = disks.Contents(SEED + 2)
    path.write_bytes(contents.blocks(disks.Kind.PROSE, 6).ljust(AUX_BYTES, b"\0"))


def _once(path: Path, write: Callable[[Path], None]) -> None:
    if not path.exists():
        half = path.with_name(f".{path.name}.{os.getpid()}")
        write(half)
        half.rename(path)


@dataclass(slots=True)
class Steps:
    """Runs steps and keeps their times and outcomes."""

    directory: Path
    say: Say
    times: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    def ours(self, step: str, work: Job) -> Outcome:
        self._settle(step)
        printed = self._run(step, [sys.executable, "-m", "bench.images.job", _encoded(work)])
        outcome = msgspec.json.decode(printed, type=Outcome)
        self.times.setdefault(step, []).append(outcome.seconds)
        self.outcomes.setdefault(step, []).append(outcome)
        return outcome

    def program(self, step: str, command: list[str]) -> None:
        """Timed with the start of the program, which takes milliseconds here."""
        self._settle(step)
        temporary = self.directory / "temporary"
        temporary.mkdir(exist_ok=True)
        began = time.monotonic()
        self._run(step, command, TMPDIR=str(temporary))
        self.times.setdefault(step, []).append(time.monotonic() - began)
        shutil.rmtree(temporary)

    def bare(self, step: str, kind: str, image: str, target: Path) -> None:
        self._settle(step)
        printed = self._run(step, [sys.executable, "-m", "bench.images.bare", kind, image, str(target)])
        self.times.setdefault(step, []).append(float(printed))

    def best_s(self, step: str) -> float:
        return min(self.times[step])

    def timings(self) -> list[Timing]:
        return [
            Timing(step, [round(s, 3) for s in times], round(min(self.cpu_s[step]), 2))
            for step, times in self.times.items()
        ]

    def _run(self, step: str, command: list[str], **environment: str) -> str:
        before = _cpu_of_children_s()
        printed = _run(command, **environment)
        self.cpu_s.setdefault(step, []).append(_cpu_of_children_s() - before)
        return printed

    def _settle(self, step: str) -> None:
        """No step pays for what the one before it left to be written."""
        self.say(step)
        os.sync()


def _cpu_of_children_s() -> float:
    """Of those that have ended; the registry runs on."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=STEP_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise StepFailed(f"{' '.join(command)[:300]} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


REFERENCE_PUSH, AGODA_PUSH, CHUNKED_PUSH = "push, Go project", "push agoda", "push chunked"
REFERENCE_PULL, AGODA_PULL, BARE_GZIP = "pull, Go project", "pull agoda", "bare loop, gzip"
CHUNKED_PULL, BARE_CHUNKED = "pull chunked", "bare loop, chunked"
AGAIN_AGODA, AGAIN_CHUNKED = "push agoda again, unchanged", "push chunked again, unchanged"
UPDATE_PUSH, UPDATE_PULL = "push chunked, 2 % changed", "pull chunked, 2 % changed"
SHARING_PULL, SHARING_UPDATE = "pull chunked, reflinks", "pull chunked, 2 % changed, reflinks"
"""On a file system whose files share blocks."""
FIND, CLONE, SHARING_CLONE = "cached start", "clone", "clone, reflinks"


@dataclass(slots=True)
class Traffic:
    """Bytes over the wire, and blobs."""

    full_pull_bytes: int = 0
    update_pull_bytes: int = 0
    full_push_bytes: int = 0
    update_push_bytes: int = 0
    again_blobs: int = 0
    cached_requests: int = 0


class Run:
    def __init__(self, directory: Path, inputs: Inputs, registry: Registry, say: Say) -> None:
        self.inputs = inputs
        self.steps = Steps(directory, say)
        self.traffic = Traffic()
        self._directory = directory
        self._registry = registry
        self._root = directory / "pushed"
        """The store of whoever pushes: it knows what it pushed before."""
        self._pulled = directory / "pulled"

    def round(self, number: int) -> None:
        if number == 0:
            self._pushes(self._registry, self._root)
        else:
            with Registry(self._directory / "throwaway") as registry:
                self._pushes(registry, self._directory / "throwaway-root")
            shutil.rmtree(self._directory / "throwaway")
            shutil.rmtree(self._directory / "throwaway-root", ignore_errors=True)
        self._pulls(number)

    def _pushes(self, registry: Registry, root: Path) -> None:
        made = self.inputs
        image = f"{registry.host}/reference/image:1"
        self.steps.program(REFERENCE_PUSH, reference.push_command(made.reference, image, made.disk, made.aux))
        self.steps.ours(AGODA_PUSH, self._push(registry, root, "agoda"))
        before = _stored_bytes(registry)
        self.steps.ours(CHUNKED_PUSH, self._push(registry, root, "chunked"))
        self.traffic.full_push_bytes = _stored_bytes(registry) - before

    def _push(self, registry: Registry, root: Path, kind: str) -> Job:
        image = f"{registry.host}/{kind}/image:1"
        return Job("push", str(root), image, str(self.inputs.disk), str(self.inputs.aux), format=kind)

    def _pulls(self, number: int) -> None:
        host, made = self._registry.host, self.inputs
        target = self._directory / "out"
        compared = made.disk if number == 0 else None
        self.steps.program(REFERENCE_PULL, reference.pull_command(made.reference, f"{host}/reference/image:1", target))
        _take_away(target / "disk.img", compared)
        shutil.rmtree(target)
        pulled = self.steps.ours(AGODA_PULL, Job("pull", str(self._directory / "store"), f"{host}/reference/image:1"))
        _take_away(Path(pulled.disk), compared)
        shutil.rmtree(self._directory / "store")
        self.steps.bare(BARE_GZIP, "gzip", f"{host}/reference/image:1", target)
        _take_away(target, None)
        shutil.rmtree(self._pulled, ignore_errors=True)
        before = self._log()
        pulled = self.steps.ours(CHUNKED_PULL, Job("pull", str(self._pulled), f"{host}/chunked/image:1"))
        self.traffic.full_pull_bytes = traffic.downloaded_bytes(self._log()[len(before) :])
        if compared:
            _compare(Path(pulled.disk), compared)
        self.steps.bare(BARE_CHUNKED, "chunked", f"{host}/chunked/image:1", target)
        _take_away(target, compared)

    def push_again(self) -> None:
        before = self._log()
        self.steps.ours(AGAIN_AGODA, self._push(self._registry, self._root, "agoda"))
        self.steps.ours(AGAIN_CHUNKED, self._push(self._registry, self._root, "chunked"))
        self.traffic.again_blobs = traffic.blobs_completed(self._log()[len(before) :])

    def update(self, rounds: int) -> None:
        """The new version on top of the old one, at the registry and at the host."""
        host, made = self._registry.host, self.inputs
        before = _stored_bytes(self._registry)
        old, new = f"{host}/chunked/image:1", f"{host}/chunked/image:2"
        self.steps.ours(
            UPDATE_PUSH, Job("push", str(self._root), new, str(made.update), str(made.aux), "chunked", base=old)
        )
        self.traffic.update_push_bytes = _stored_bytes(self._registry) - before
        for number in range(rounds):
            log = self._log()
            pulled = self.steps.ours(UPDATE_PULL, Job("pull", str(self._pulled), new))
            self.traffic.update_pull_bytes = traffic.downloaded_bytes(self._log()[len(log) :])
            if number == 0:
                _compare(Path(pulled.disk), made.update)
            if number < rounds - 1:
                _run([sys.executable, "-m", "bench.images.job", _encoded(Job("remove", str(self._pulled), new))])

    def update_with_reflinks(self, rounds: int, place: Path) -> None:
        """The whole image, the new version on top of it, and a clone, on a file system whose files share blocks."""
        host, root = self._registry.host, place / "store"
        for number in range(rounds):
            self.steps.ours(SHARING_PULL, Job("pull", str(root), f"{host}/chunked/image:1"))
            pulled = self.steps.ours(SHARING_UPDATE, Job("pull", str(root), f"{host}/chunked/image:2"))
            if number == 0:
                _compare(Path(pulled.disk), self.inputs.update)
                clones = str(place / "clones")
                self.steps.ours(SHARING_CLONE, Job("clone", str(root), f"{host}/chunked/image:2", directory=clones))
            shutil.rmtree(root)

    def cached(self) -> None:
        """A start from the cache, and a clone."""
        image = f"{self._registry.host}/chunked/image:1"
        log = self._log()
        self.steps.ours(FIND, Job("find", str(self._pulled), image))
        self.traffic.cached_requests = len(list(traffic.requests(self._log()[len(log) :])))
        self.steps.ours(CLONE, Job("clone", str(self._pulled), image, directory=str(self._directory / "clones")))

    def _log(self) -> str:
        return self._registry.log.read_text(errors="replace")


def _encoded(work: Job) -> str:
    return msgspec.json.encode(work).decode()


def _take_away(path: Path, like: Path | None) -> None:
    if like is not None:
        _compare(path, like)
    path.unlink()


def _compare(path: Path, like: Path) -> None:
    """A fast pull of something else is not one."""
    filecmp.clear_cache()
    if not filecmp.cmp(path, like, shallow=False):
        raise StepFailed(f"{path} is not what was pushed")


def _stored_bytes(registry: Registry) -> int:
    """Of all blobs, each once."""
    found = (registry.directory / "data/docker/registry/v2/blobs").rglob("data")
    return sum(path.stat().st_size for path in found)


def warm(path: Path) -> None:
    """Into the page cache."""
    with path.open("rb", buffering=0) as file:
        for start, end in disks.data_ranges(file.fileno()):
            for position in range(start, end, bare.RECEIVE_BYTES):
                os.pread(file.fileno(), bare.RECEIVE_BYTES, position)
