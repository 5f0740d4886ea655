"""Pulls in processes of their own, which can be killed; images of every writable format in a registry."""

import asyncio
import sys
from pathlib import Path

from tests.support.vm_images import LINUX, VmFiles
from vzkubelet.images import Pusher, PushRequest
from vzkubelet.model.reference import parse
from vzkubelet.ports import RegistryCredential

FORMATS = ("agoda", "chunked", "tart")
_PULL = """
import asyncio, sys
from pathlib import Path
from vzkubelet.images import Library

async def pull():
    library = Library(Path(sys.argv[1]))
    try:
        image = await library.pull(sys.argv[2], [], lambda progress: None)
        print(image.disk)
        print(image.aux)
    finally:
        await library.close()

asyncio.run(pull())
"""


async def publish(files: VmFiles, reference: str, format_: str, base: str | None = None) -> str:
    """Push with our own tool; the manifest's digest."""
    pusher = Pusher(files.disk.parent / "push", RegistryCredential(), progress=lambda _: None)
    try:
        request = PushRequest(files.disk, files.aux, LINUX, format=format_, base=None if base is None else parse(base))
        return (await pusher.push(request, [parse(reference)])).digest
    finally:
        await pusher.close()


async def start(root: Path, reference: str) -> asyncio.subprocess.Process:
    """A process that pulls into a library and prints the paths of disk and auxiliary storage."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PULL, str(root), reference),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
