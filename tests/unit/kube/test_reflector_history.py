"""Random histories of a collection, seen through a server that breaks, closes, compacts and refuses at random.

Whatever happens, the deltas are well formed and end in what the server has.
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.unit.kube.api import Answer, Api, failure
from tests.unit.kube.test_reflector import bookmark, event, listed, pod
from vzkubelet import aio
from vzkubelet.errors import Unavailable
from vzkubelet.kube.reflector import Added, Deleted, Delta, Modified, Reflector, Synced
from vzkubelet.kube.transport import Request
from vzkubelet.model.pod import Pod

NAMES = ("a", "b", "c", "d")
STEPS = 60


class Collection:
    """Pods with a history, of which only what happened after `compacted` can be watched."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.version = 1
        self.pods: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, bytes]] = []
        self.compacted = 0
        self.calm = False
        self._made = 0
        self._changed = asyncio.Event()

    def step(self) -> None:
        name = self._dice.choice(NAMES)
        self.version += 1
        if name not in self.pods:
            self._made += 1
            self.pods[name] = pod(name, self.version, f"uid-{self._made}")
            kind = "ADDED"
        elif self._dice.random() < 0.5:
            self.pods[name] = pod(name, self.version, self.pods[name]["metadata"]["uid"])
            kind = "MODIFIED"
        else:
            kind = "DELETED"
        shown = pod(name, self.version, self.pods[name]["metadata"]["uid"])
        if kind == "DELETED":
            del self.pods[name]
        self.history.append((self.version, event(kind, shown)))
        if self._dice.random() < 0.1:
            self.compacted = self.version
        self._changed.set()

    def answer(self, request: Request) -> Answer:
        query = dict(request.query)
        if not self.calm and self._dice.random() < 0.2:
            raise Unavailable("refused")
        if "watch" not in query:
            return listed(self.version, *self.pods.values())
        position = int(query["resourceVersion"])
        if position < self.compacted:
            if self._dice.random() < 0.5:
                return failure(410, "Expired")
            expired = {"kind": "Status", "status": "Failure", "reason": "Expired", "message": "old", "code": 410}
            return Answer(stream=lambda: self._one(event("ERROR", expired)))
        return Answer(stream=lambda: self._stream(position))

    async def _one(self, line: bytes) -> AsyncGenerator[bytes, None]:
        yield line

    async def _stream(self, position: int) -> AsyncGenerator[bytes, None]:
        while True:
            for version, line in [(v, line) for v, line in self.history if v > position]:
                if not self.calm:
                    match self._dice.randrange(12):
                        case 0:
                            yield line[: len(line) // 2]
                            raise Unavailable("reset")
                        case 1:
                            return
                        case 2:
                            yield bookmark(version - 1)
                cut = self._dice.randrange(len(line))
                yield line[:cut]
                yield line[cut:]
                position = version
            self._changed.clear()
            await self._changed.wait()


@pytest.mark.parametrize("seed", range(40))
async def test_deltas_always_lead_to_what_the_server_has(seed: int) -> None:
    dice = random.Random(seed)
    collection = Collection(dice)
    told: dict[str, str] = {}
    names: dict[str, str] = {}
    synced = False

    def on_delta(delta: Delta[Pod]) -> None:
        nonlocal synced
        match delta:
            case Synced():
                synced = True
            case Added(obj):
                assert obj.metadata.uid not in told
                assert obj.metadata.name not in names.values(), "the pod before it was not deleted"
                told[obj.metadata.uid] = obj.metadata.resource_version
                names[obj.metadata.uid] = obj.metadata.name
            case Modified(obj):
                assert told[obj.metadata.uid] != obj.metadata.resource_version
                told[obj.metadata.uid] = obj.metadata.resource_version
            case Deleted(obj):
                del told[obj.metadata.uid], names[obj.metadata.uid]

    reflector = Reflector(Api(collection.answer).client(), "/api/v1/pods", Pod, on_delta, jitter=dice)
    task = aio.spawn(reflector.run(), name="reflector")
    for _ in range(STEPS):
        collection.step()
        await asyncio.sleep(dice.choice([0, 0, 0.5, 5]))
    collection.calm = True
    collection.step()
    await asyncio.sleep(120)
    await aio.cancel(task)
    assert synced
    expected = {p["metadata"]["uid"]: p["metadata"]["resourceVersion"] for p in collection.pods.values()}
    assert told == expected
    assert {uid: obj.metadata.resource_version for uid, obj in reflector.objects.items()} == expected
    assert sorted(names.values()) == sorted(collection.pods)
