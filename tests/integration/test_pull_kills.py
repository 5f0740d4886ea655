"""``kill -9`` at random moments of a pull: each next one goes on, little is fetched twice, the result is bit-identical.

`Ordeal` is the same for any size; two gigabytes and fifty kills take some minutes and are run by hand:
``python -m tests.integration.test_pull_kills DIRECTORY MIB KILLS``.
"""

import asyncio
import random
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.registry import Registry
from tests.support import pulls
from tests.support.registry_proxy import RegistryProxy
from tests.support.vm_images import MIB, VmFiles

WAIT_S = 120
LOST_BYTES = 16 * MIB
"""What a kill may cost."""
POLL_S = 0.002


def make_disk(directory: Path, size_mib: int, seed: int) -> VmFiles:
    """Extents of noise, of text, and holes, as on a disk that is in use."""
    directory.mkdir(parents=True, exist_ok=True)
    noise = random.Random(seed)
    files = VmFiles(directory / "disk", directory / "aux")
    words = [noise.randbytes(noise.randrange(2, 12)) for _ in range(500)]
    text = b"".join(noise.choices(words, k=MIB // 4))[:MIB]
    with files.disk.open("wb") as disk:
        disk.truncate(size_mib * MIB)
        for number in range(size_mib):
            disk.seek(number * MIB)
            match noise.choice("hhtn"):
                case "n":
                    disk.write(noise.randbytes(MIB))
                case "t":
                    cut = noise.randrange(MIB)
                    disk.write(text[cut:] + text[:cut])
    files.aux.write_bytes(noise.randbytes(1000) + bytes(100_000))
    return files


@dataclass
class Ordeal:
    """Kills pulls of `reference` below `root` until that was done often enough, and lets the last one end."""

    root: Path
    reference: str
    proxy: RegistryProxy
    kills: int
    step_bytes: int
    """Passes on average before a kill."""
    seed: int = 0
    killed: int = 0

    async def run(self) -> list[Path]:
        """The disk and the auxiliary storage."""
        chance = random.Random(self.seed)
        for _ in range(self.kills):
            limit = self.proxy.passed.total() + chance.randrange(2 * self.step_bytes)
            process = await pulls.start(self.root, self.reference)
            async with asyncio.timeout(WAIT_S):
                while self.proxy.passed.total() <= limit and process.returncode is None:
                    await asyncio.sleep(POLL_S)
            # Anywhere in what it does with the bytes, too.
            await asyncio.sleep(chance.random() * 0.05)
            if process.returncode is not None:
                break  # so little was lost that it came to its end before
            process.send_signal(signal.SIGKILL)
            await process.communicate()
            self.killed += 1
        else:
            process = await pulls.start(self.root, self.reference)
        output, errors = await asyncio.wait_for(process.communicate(), WAIT_S)
        assert process.returncode == 0, errors.decode()
        return [Path(line) for line in output.decode().splitlines()]


async def check(directory: Path, registry: Registry, format_: str, size_mib: int, kills: int) -> tuple[int, int]:
    """Bytes that passed, and bytes of the image."""
    files = make_disk(directory / "files", size_mib, seed=size_mib)
    name = re.sub(r"[^a-z0-9]+", "-", f"kills{directory.name}".lower()).strip("-")
    await pulls.publish(files, f"{registry.host}/{name}:1", format_)
    async with RegistryProxy(registry.url) as proxy:
        whole = Ordeal(directory / "whole", f"{proxy.host}/{name}:1", proxy, 0, 1)
        assert files.same_as(*await whole.run())
        image_bytes = proxy.passed.total()
        proxy.passed.clear()
        ordeal = Ordeal(directory / "cache", whole.reference, proxy, kills, max(1, image_bytes * 6 // 10 // kills))
        assert files.same_as(*await ordeal.run())
        passed = proxy.passed.total()
    assert ordeal.killed >= kills // 2
    assert passed <= image_bytes * 11 // 10 + ordeal.killed * LOST_BYTES
    assert not list((directory / "cache" / "staging").iterdir()), "leftovers"
    return passed, image_bytes


@pytest.mark.parametrize("format_", pulls.FORMATS)
async def test_killed_again_and_again(format_: str, tmp_path: Path, registry: Registry) -> None:
    passed, image_bytes = await check(tmp_path, registry, format_, size_mib=192, kills=4)
    # Four kills of a pull of some 70 MiB; had each begun anew, more would have passed.
    assert passed < image_bytes + 4 * LOST_BYTES


async def main() -> None:
    directory, size_mib, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with Registry(directory / "registry") as registry:
        for format_ in sys.argv[4:] or pulls.FORMATS:
            passed, image = await check(directory / format_, registry, format_, size_mib, kills)
            lost = (passed - image) / kills / MIB
            sys.stdout.write(f"{format_}: {image / MIB:.0f} MiB image, {passed / MIB:.0f} MiB passed, ")
            sys.stdout.write(f"{kills} kills, {lost:.1f} MiB for each\n")


if __name__ == "__main__":
    asyncio.run(main())
