"""Uploads that break off: the registry, the connection, the courier or the user ends them, and the push goes on."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.registry import BasicAuth, Registry
from tests.support.cluster_fixtures import StartRegistry
from tests.support.counting_relay import CountingRelay
from tests.support.pushed_images import Pushed, make_vm
from tests.support.vm_images import LINUX, MIB, VmFiles
from vzkubelet.aio import cancel, spawn
from vzkubelet.errors import Unauthenticated
from vzkubelet.images import Pusher, PushRequest, PushResult
from vzkubelet.images.push.ledger import Ledger, Ledgers, UploadRecord, courier_lock
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

WAIT_S = 60
SIZE_BYTES = 100 * MIB


@pytest.fixture
def files(tmp_path: Path) -> VmFiles:
    return make_vm(tmp_path / "files", size_bytes=SIZE_BYTES)


async def push(
    files: VmFiles,
    reference: str,
    format_: str = "agoda",
    *,
    credential: RegistryCredential | None = None,
) -> PushResult:
    pusher = Pusher(files.disk.parent / "cache", credential or RegistryCredential(), progress=lambda _: None)
    try:
        request = PushRequest(files.disk, files.aux, LINUX, format=format_)
        return await pusher.push(request, [parse(reference)])
    finally:
        await pusher.close()


def read(registry: Registry, format_: str) -> bytes:
    pushed = Pushed(registry, "vm", "1")
    readers: dict[str, Callable[[], bytes]] = {
        "agoda": lambda: pushed.agoda("disk"),
        "tart": pushed.tart_disk,
        "chunked": lambda: pushed.chunked("disk"),
    }
    return readers[format_]()


def couriers() -> list[int]:
    """Of this process."""
    listed = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "images.push.courier"], capture_output=True, text=True, check=False
    )
    return [int(line) for line in listed.stdout.split()]


async def test_the_courier_runs_nothing_of_the_working_directory(
    registry_factory: StartRegistry, files: VmFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told the login of the registry."""
    registry = registry_factory()
    for name in ("asyncio", "msgspec", "socket"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    await push(files, f"{registry.host}/vm:1", "chunked")
    assert read(registry, "chunked") == files.disk.read_bytes()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("format_", ["agoda", "tart", "chunked"])
async def test_connections_that_break(registry_factory: StartRegistry, files: VmFiles, format_: str) -> None:
    registry = registry_factory()
    async with CountingRelay(registry.port) as relay:
        relay.cuts = [2 * MIB, 7 * MIB, 14 * MIB]
        await asyncio.wait_for(push(files, f"{relay.host}/vm:1", format_), WAIT_S)
        assert relay.cuts == []
    assert read(registry, format_) == files.disk.read_bytes()


@pytest.mark.parametrize("format_", ["agoda", "chunked"])
async def test_registry_that_restarts(registry_factory: StartRegistry, files: VmFiles, format_: str) -> None:
    registry = registry_factory()
    async with CountingRelay(registry.port) as relay:
        running = spawn(push(files, f"{relay.host}/vm:1", format_), name="push")
        await asyncio.wait_for(relay.reached(9 * MIB), WAIT_S)
        await asyncio.to_thread(registry.restart)
        await asyncio.wait_for(running, WAIT_S)
    assert read(registry, format_) == files.disk.read_bytes()


async def test_courier_that_dies(registry_factory: StartRegistry, files: VmFiles) -> None:
    registry = registry_factory()
    async with CountingRelay(registry.port) as relay:
        running = spawn(push(files, f"{relay.host}/vm:1"), name="push")
        await asyncio.wait_for(relay.reached(9 * MIB), WAIT_S)
        (courier,) = couriers()
        os.kill(courier, signal.SIGKILL)
        await asyncio.wait_for(running, WAIT_S)
    assert read(registry, "agoda") == files.disk.read_bytes()
    assert couriers() == []


@pytest.mark.parametrize("format_", ["agoda", "tart", "chunked"])
async def test_cancelled_push_is_gone_on_with(registry_factory: StartRegistry, files: VmFiles, format_: str) -> None:
    registry = registry_factory()
    threads = set(threading.enumerate())
    async with CountingRelay(registry.port) as relay:
        running = spawn(push(files, f"{relay.host}/vm:1", format_), name="push")
        await asyncio.wait_for(relay.reached(9 * MIB), WAIT_S)
        await asyncio.wait_for(cancel(running), WAIT_S)
        assert couriers() == []
        working = {thread.name for thread in set(threading.enumerate()) - threads}
        assert not [name for name in working if not name.startswith("asyncio")]
        await push(files, f"{relay.host}/vm:1", format_)
        blob_bytes = sum(layer["size"] for layer in Pushed(registry, "vm", "1").manifest["layers"])
        # Two packs may have been on their way; of a stream nothing is lost.
        assert relay.sent_bytes < blob_bytes + (40 * MIB if format_ == "chunked" else MIB)
    assert read(registry, format_) == files.disk.read_bytes()


@pytest.mark.parametrize("format_", ["agoda", "chunked"])
async def test_same_files_pushed_twice_at_once(registry_factory: StartRegistry, files: VmFiles, format_: str) -> None:
    registry = registry_factory()
    first, second = await asyncio.gather(
        push(files, f"{registry.host}/vm:1", format_), push(files, f"{registry.host}/vm:2", format_)
    )
    assert first.digest == second.digest
    assert read(registry, format_) == files.disk.read_bytes()


async def test_courier_logs_in(registry_factory: StartRegistry, files: VmFiles) -> None:
    registry = registry_factory(basic_auth=BasicAuth("user", "secret word"))
    with pytest.raises(Unauthenticated):
        await push(files, f"{registry.host}/vm:1")
    pushed = await push(files, f"{registry.host}/vm:1", credential=RegistryCredential("user", "secret word"))
    assert pushed.uploaded_bytes > 8 * MIB


async def test_password_is_not_among_the_arguments_of_the_courier(
    registry_factory: StartRegistry, files: VmFiles
) -> None:
    registry = registry_factory(basic_auth=BasicAuth("user", "secret word"))
    async with CountingRelay(registry.port) as relay:
        credential = RegistryCredential("user", "secret word")
        running = spawn(push(files, f"{relay.host}/vm:1", credential=credential), name="push")
        await asyncio.wait_for(relay.reached(9 * MIB), WAIT_S)
        (courier,) = couriers()
        for name in ("cmdline", "environ"):
            assert b"secret word" not in Path(f"/proc/{courier}/{name}").read_bytes()
        await running


async def test_next_push_waits_for_the_chunk_in_the_courier(tmp_path: Path) -> None:
    ledgers = Ledgers(tmp_path)
    ledger = ledgers.open("a")
    assert ledger is not None
    descriptor = courier_lock(ledger.path)
    ledger.close(done=False)  # the push has died
    opening = spawn(asyncio.to_thread(ledgers.open, "a"), name="open")
    await asyncio.sleep(0.2)
    assert not opening.done()
    record = UploadRecord(location="http://registry/", offset=12, digest="sha256:aa")
    with Ledger.beside(ledger.path) as beside:
        beside.set_upload(record)
    os.close(descriptor)
    following = await opening
    assert following is not None
    assert following.upload() == record
    following.close(done=True)
    assert not list(tmp_path.iterdir())


MEASURED = """
import asyncio, resource, sys
from pathlib import Path
from vzkubelet.images import Machine, Pusher, PushRequest
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

async def push(root, disk, aux, reference, form):
    idle = peak()
    pusher = Pusher(Path(root), RegistryCredential(), progress=lambda _: None)
    await pusher.push(PushRequest(Path(disk), Path(aux), Machine("linux", "amd64"), format=form), [parse(reference)])
    await pusher.close()
    print(peak() - idle)

asyncio.run(push(*sys.argv[1:]))
"""


@pytest.mark.parametrize("format_", ["agoda", "tart", "chunked"])
async def test_memory_is_bounded(tmp_path: Path, registry: Registry, format_: str) -> None:
    files = make_vm(tmp_path / "files", size_bytes=300 * MIB)
    arguments = (tmp_path / "cache", files.disk, files.aux, f"{registry.host}/memory/{format_}:1", format_)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MEASURED, *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert int(output) < 200 * MIB
