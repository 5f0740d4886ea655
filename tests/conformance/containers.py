"""What the suite of `ports.ContainerRuntime` needs of an implementation, and shorthands for its tests."""

import asyncio
import dataclasses
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.support.memory_streams import MemoryStreams
from vzkubelet import ports
from vzkubelet.model.identity import PodRef
from vzkubelet.ports import ContainerSpec, ContainerState, ExecRequest, LogEntry, LogOptions


class Bench(Protocol):
    """One runtime under test with an image that has a POSIX sh and busybox' tools."""

    image: str
    """A reference that `find_image` finds."""

    def runtime(self) -> ports.ContainerRuntime:
        """A new object on the same state, as a restarted daemon would make; the bench closes it."""

    async def leftovers(self, pod: PodRef) -> Sequence[str]:
        """What the runtime's host still has of a pod, for people; empty after `remove_pod`."""


def pod_ref() -> PodRef:
    uid = str(uuid.uuid4())
    return PodRef("team", f"web-{uid[:8]}", uid)


class Pod:
    """One pod on a bench; removed when the test is over."""

    def __init__(self, bench: Bench, logs: Path) -> None:
        self.bench = bench
        self.ref = pod_ref()
        self._logs = logs
        self.runtime = bench.runtime()

    async def spec(self, *command: str, name: str = "main", attempt: int = 0, **changes: Any) -> ContainerSpec:
        image = await self.runtime.find_image(self.bench.image)
        assert image is not None
        log_path = self._logs / name / f"{attempt}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        spec = ContainerSpec(self.ref, name, attempt, image, command or None, hostname=self.ref.name, log_path=log_path)
        return dataclasses.replace(spec, **changes)

    async def start(self, *command: str, **changes: Any) -> ContainerState:
        spec = await self.spec(*command, **changes)
        await self.runtime.prepare(spec)
        return await self.runtime.start(spec)

    async def run(self, script: str, **changes: Any) -> ContainerState:
        """Run a script to its end."""
        await self.start("sh", "-c", script, **changes)
        return await self.wait(changes.get("name", "main"))

    async def wait(self, name: str = "main") -> ContainerState:
        async with asyncio.timeout(60):
            return await self.runtime.wait(self.ref, name)

    async def entries(self, name: str = "main", attempt: int = 0, **options: Any) -> list[LogEntry]:
        async with asyncio.timeout(60):
            return [e async for e in self.runtime.logs(self.ref, name, attempt, LogOptions(**options))]

    async def lines(self, name: str = "main", attempt: int = 0, **options: Any) -> list[str]:
        return [entry.data.decode() for entry in await self.entries(name, attempt, **options)]

    async def exec(self, *argv: str, streams: MemoryStreams | None = None, tty: bool = False) -> ports.ExitStatus:
        streams = streams or MemoryStreams()
        async with asyncio.timeout(120):
            return await self.runtime.exec(self.ref, "main", ExecRequest(argv, tty), streams)

    async def output(self, *argv: str) -> str:
        streams = MemoryStreams()
        await self.exec(*argv, streams=streams)
        return (streams.out + streams.err).decode()
