"""How long a container waits for its guest's first login: what the setting says, down to the connection."""

from pathlib import Path

import pytest

from tests.support.memory_images import MemoryImages, MemoryRegistry
from vzkubelet import config, ports
from vzkubelet.daemon import parts
from vzkubelet.errors import DeadlineExceeded
from vzkubelet.machines import selection
from vzkubelet.machines.synthetic import SyntheticDriver, SyntheticTiming
from vzkubelet.model.identity import PodRef

IMAGE = "registry.test/guest:1"
POD = PodRef("ns", "shut", "uid-shut")


class ShutGuests:
    """Guests that nobody gets into."""

    async def connect(self, address: ports.GuestAddress, host_key: Path, deadline_s: float) -> ports.Guest:
        raise DeadlineExceeded(f"not within {deadline_s:g} s")


async def test_the_readiness_time_out_is_the_deadline_of_the_first_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = SyntheticDriver(tmp_path / "machines", SyntheticTiming())
    monkeypatch.setattr(selection, "select", lambda *_, **__: driver)
    monkeypatch.setattr(parts, "_guests", lambda *_: ShutGuests())
    settings = config.load(
        {"cache-dir": str(tmp_path)}, {"VZ_SSH_READINESS_TIMEOUT": "7s"}, purpose=config.Purpose.STANDALONE
    )
    registry = MemoryRegistry()
    registry.publish(IMAGE)
    image = await MemoryImages(tmp_path / "published", registry).pull(IMAGE, ())
    whole = parts.Parts(settings, parts.StateRoot(tmp_path / "state"))
    spec = ports.ContainerSpec(POD, "vm", 0, image, command=("sleep", "1"))
    with pytest.raises(DeadlineExceeded, match="not within 7 s"):
        await whole.machines.prepare(spec)
    await whole.machines.remove_pod(POD)
    await whole.close()
