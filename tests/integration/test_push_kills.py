"""``kill -9`` at random moments of a push: the next one goes on, and little is sent twice.

A short slice runs by default. All of it, for each format: ``IMAGE_KILLS=50 IMAGE_KILLS_MIB=2048`` before the command.
"""

import asyncio
import os
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.registry import Registry
from tests.support.cluster_fixtures import StartRegistry
from tests.support.counting_relay import CountingRelay
from tests.support.pushed_images import make_vm
from tests.support.vm_images import LINUX, MIB, RawRepository, VmFiles
from vzkubelet.aio import cancel, spawn
from vzkubelet.images import Pusher, PushRequest
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

KILLS = int(os.environ.get("IMAGE_KILLS", "4"))
DISK_BYTES = int(os.environ.get("IMAGE_KILLS_MIB", "200")) * MIB
LOST_BYTES = 16 * MIB
"""What a kill may cost."""
PROGRAM = """
import asyncio, sys
from pathlib import Path
from vzkubelet.images import Machine, Pusher, PushRequest
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

async def push(root, disk, aux, reference, form):
    pusher = Pusher(Path(root), RegistryCredential(), progress=lambda _: None)
    await pusher.push(PushRequest(Path(disk), Path(aux), Machine("linux", "amd64"), format=form), [parse(reference)])
    await pusher.close()

asyncio.run(push(*sys.argv[1:]))
"""


async def run(root: Path, files: VmFiles, reference: str, format_: str) -> asyncio.subprocess.Process:
    arguments = (str(root), str(files.disk), str(files.aux), reference, format_)
    return await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, *arguments)


async def expected_digest(tmp_path: Path, registry: Registry, files: VmFiles, format_: str) -> tuple[str, int]:
    """Of an image that is pushed without interruption, and the bytes of its blobs."""
    pusher = Pusher(tmp_path / "quiet", RegistryCredential(), progress=lambda _: None)
    try:
        target = parse(f"{registry.host}/vm:1")
        pushed = await pusher.push(PushRequest(files.disk, files.aux, LINUX, format=format_), [target])
    finally:
        await pusher.close()
    return pushed.digest, pushed.uploaded_bytes


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("format_", ["agoda", "tart", "chunked"])
async def test_killed_push_goes_on(tmp_path: Path, registry_factory: StartRegistry, format_: str) -> None:
    files = make_vm(tmp_path / "files", size_bytes=DISK_BYTES)
    digest, image_bytes = await expected_digest(tmp_path, registry_factory(), files, format_)
    registry = registry_factory()
    dice = random.Random(f"{format_} {KILLS}")
    killed = 0
    async with CountingRelay(registry.port) as relay:
        reference = f"{relay.host}/vm:1"
        for moment_bytes in sorted(dice.randrange(image_bytes * 95 // 100) for _ in range(KILLS)):
            process = await run(tmp_path / "cache", files, reference, format_)
            moment: Coroutine[Any, Any, object]
            moment = asyncio.sleep(dice.uniform(0.2, 0.8)) if dice.random() < 0.2 else relay.reached(moment_bytes)
            waits = [spawn(moment, name="moment of a kill"), spawn(process.wait(), name="end of a push")]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await cancel(waits[0])
            if process.returncode is not None:
                assert process.returncode == 0
                break
            process.send_signal(signal.SIGKILL)
            await waits[1]
            killed += 1
        process = await run(tmp_path / "cache", files, reference, format_)
        assert await process.wait() == 0
        sent_bytes = relay.sent_bytes
    print(f"{format_}: killed {killed} times, sent {sent_bytes} bytes of an image of {image_bytes}")
    assert killed >= max(1, KILLS // 2 - 1)  # a push may end before its moment comes
    assert sent_bytes <= image_bytes * 1.1 + LOST_BYTES * killed
    assert max(uploads(registry).values()) == 1
    assert not list((tmp_path / "cache" / "uploads" / "ledgers").iterdir())
    assert RawRepository(registry.url, "vm").digest("1") == digest


def uploads(registry: Registry) -> Counter[str]:
    """How often each blob was uploaded to its end."""
    line = r'"PUT /v2/vm/blobs/uploads/\S*digest=sha256%3A([0-9a-f]{64})\S* HTTP/1.1" 201'
    return Counter(re.findall(line, registry.log.read_text()))
