"""The Go project's own code takes what is pushed here, and what it pushes is taken here.

Its program is built from its packages through the Go module proxy (see `bench.images.reference`).
"""

import asyncio
import base64
import os
from pathlib import Path

import pytest

from bench.images import reference
from tests.cluster.registry import Registry
from tests.support.pushed_images import Pushed, make_vm
from tests.support.vm_images import MIB
from vzkubelet.images import Library, Machine, Pusher, PushRequest
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

MAC = Machine("darwin", "arm64", b"bplist00", b"bplist00")


@pytest.fixture(scope="module")
def program() -> Path:
    return reference.build()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"reference/{tmp_path.name.lower().replace('[', '-').replace(']', '')}"


async def run(command: list[str], directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(directory)}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@pytest.mark.timeout(900)  # the first build
@pytest.mark.parametrize("image_config", [None, {"config": {"Cmd": ["true"]}}])
async def test_it_pulls_what_is_pushed_here(
    tmp_path: Path, registry: Registry, program: Path, path: str, image_config: dict[str, object] | None
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=70 * MIB)
    pusher = Pusher(tmp_path / "cache", RegistryCredential(), progress=lambda _: None)
    request = PushRequest(files.disk, files.aux, MAC, image_config)
    await pusher.push(request, [parse(f"{registry.host}/{path}:1")])
    await pusher.close()
    pulled = tmp_path / "pulled"
    await run(reference.pull_command(program, f"{registry.host}/{path}:1", pulled), pulled)
    assert (pulled / "disk.img").read_bytes() == files.disk.read_bytes()
    assert (pulled / "aux.img").read_bytes() == files.aux.read_bytes()
    assert base64.b64encode(MAC.hardware_model).decode() in (pulled / "config.json").read_text()


@pytest.mark.timeout(900)
async def test_it_pulls_what_was_converted_here(tmp_path: Path, registry: Registry, program: Path, path: str) -> None:
    files = make_vm(tmp_path / "files", size_bytes=20 * MIB)
    pusher = Pusher(tmp_path / "cache", RegistryCredential(), progress=lambda _: None)
    source = parse(f"{registry.host}/{path}:tart")
    await pusher.push(PushRequest(files.disk, files.aux, MAC, format="tart"), [source])
    await pusher.convert(source, [parse(f"{registry.host}/{path}:1")], format="agoda")
    await pusher.close()
    pulled = tmp_path / "pulled"
    await run(reference.pull_command(program, f"{registry.host}/{path}:1", pulled), pulled)
    assert (pulled / "disk.img").read_bytes() == files.disk.read_bytes()
    assert (pulled / "aux.img").read_bytes() == files.aux.read_bytes()


@pytest.mark.timeout(900)
async def test_what_it_pushes_is_pulled_and_converted_here(
    tmp_path: Path, registry: Registry, program: Path, path: str
) -> None:
    files = make_vm(tmp_path / "files", size_bytes=70 * MIB)
    name = f"{registry.host}/{path}:1"
    await run(reference.push_command(program, name, files.disk, files.aux), tmp_path / "scratch")
    library = Library(tmp_path / "store")
    pulled = await library.pull(name, [])
    await library.close()
    assert files.same_as(pulled.disk, pulled.aux)
    assert pulled.machine_id == base64.b64decode(reference.MACHINE_ID)
    pusher = Pusher(tmp_path / "cache", RegistryCredential(), progress=lambda _: None)
    await pusher.convert(parse(name), [parse(f"{registry.host}/{path}:2")], format="chunked")
    await pusher.close()
    assert Pushed(registry, path, "2").chunked("disk") == files.disk.read_bytes()
