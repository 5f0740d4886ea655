"""What Apple's framework refuses, as the daemon tells it: cause and remedy, nothing left, and the next start works."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.apple_double import MacHost, hardware_model_data
from tests.support.vz_world import VzWorld, ending, vz_image
from vzkubelet import errors
from vzkubelet.machines.vz.slots import GuestKind, Slots
from vzkubelet.ports import MachineDriver, MachinePhase, Share

UID = "0b2f6f0e-9d5c-4f38-8c57-6f1f4c1a7e21"


@pytest.fixture
def mac(tmp_path: Path) -> MacHost:
    return MacHost(tmp_path / "mac", version=[15, 1])


@pytest_asyncio.fixture
async def world(tmp_path: Path, mac: MacHost) -> AsyncIterator[VzWorld]:
    async with ending(VzWorld(tmp_path / "machines", vz_image(tmp_path / "image"), mac)) as made:
        yield made


async def refused(world: VzWorld, driver: MachineDriver) -> errors.Error:
    """A start that fails and leaves nothing but the machine as it was."""
    with pytest.raises(errors.Error) as caught:
        await driver.start(UID)
    assert (await driver.status(UID)).phase is MachinePhase.CREATED
    assert [name for name in world.leftovers() if name != UID] == []
    assert Slots(world.host_directory).held(GuestKind.MACOS) == 0
    assert world.mac.running() == []
    return caught.value


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (1, errors.Error, "log show"),  # as root it is another error, with another remedy
        (2, errors.InvalidInput, "doctor --self-check"),
        (3, errors.Conflict, "state"),
        (4, errors.Conflict, "state"),
        (5, errors.InvalidInput, "raw image"),
        (6, errors.Exhausted, "two running macOS guests"),
        (7, errors.Unavailable, "network"),
        (8, errors.Exhausted, "free space"),
        (9, errors.Conflict, "cancelled"),
        (10, errors.Unsupported, "doctor"),
        (-9, errors.Error, "keychain"),
    ],
)
async def test_a_start_that_the_framework_refuses(
    world: VzWorld, code: int, kind: type[errors.Error], words: str
) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    world.mac.fail("start", code=code)
    error = await refused(world, driver)
    assert isinstance(error, kind)
    assert words in error.message
    assert str(code) in error.message, "the framework's own code can be looked up"
    assert len(error.message) < 1024, "it fits an event"
    await driver.start(UID)


@pytest.mark.parametrize(
    ("settings", "repaired", "words"),
    [
        ({"keychain": "locked"}, {"keychain": "unlocked"}, "security unlock-keychain"),
        ({"root": True}, {"root": False}, "LaunchAgent"),
        (
            {"entitlements": []},
            {"entitlements": ["com.apple.security.virtualization"]},
            "macos-vz-kubelet sign",
        ),
    ],
)
async def test_a_host_that_is_not_prepared(
    world: VzWorld, settings: dict[str, object], repaired: dict[str, object], words: str
) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    world.mac.configure(**settings)
    assert words in (await refused(world, driver)).message
    world.mac.configure(**repaired)
    await driver.start(UID)


async def test_a_bridge_without_its_entitlement(tmp_path: Path, world: VzWorld) -> None:
    bridged = VzWorld(world.root, world.image, world.mac)
    bridged.setup = replace(bridged.setup, bridge_interface="en0")
    driver = await bridged.driver()
    await driver.create(bridged.spec(UID))
    assert "com.apple.vm.networking" in (await refused(bridged, driver)).message
    await driver.close()


async def test_an_image_of_a_newer_mac(world: VzWorld) -> None:
    driver = await world.driver()
    image = replace(world.image, hardware_model=hardware_model_data(minimum_os=(27, 0, 0)))
    await driver.create(world.spec(UID, image=image))
    error = await refused(world, driver)
    assert isinstance(error, errors.Unsupported)
    assert "newer macOS" in error.message


async def test_an_image_without_a_hardware_model_is_refused_before_it_is_cloned(world: VzWorld) -> None:
    driver = await world.driver()
    with pytest.raises(errors.InvalidInput, match="hardware model"):
        await driver.create(world.spec(UID, image=replace(world.image, hardware_model=b"")))
    assert world.leftovers() == []


async def test_a_machine_below_the_images_needs_is_refused(world: VzWorld) -> None:
    driver = await world.driver()
    with pytest.raises(errors.InvalidInput, match="needs 4 CPUs"):
        await driver.create(world.spec(UID, image=replace(world.image, cpu_min=4)))


@pytest.mark.parametrize("tag", ["", "t" * 36, "ä" * 18])
async def test_a_tag_that_the_framework_would_refuse_is_refused_at_once(
    world: VzWorld, tmp_path: Path, tag: str
) -> None:
    driver = await world.driver()
    with pytest.raises(errors.InvalidInput, match="1 to 35 bytes"):
        await driver.create(world.spec(UID, Share(tag, tmp_path)))


async def test_shares_reach_the_guest_as_they_were_asked_for(world: VzWorld, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    driver = await world.driver()
    await driver.create(world.spec(UID, Share("v0", tmp_path / "a"), Share("v1", tmp_path / "b", read_only=True)))
    await driver.start(UID)
    seen = world.mac.guest(world.machine_state(UID).mac)["shares"]
    assert str(tmp_path / "a") in str(seen)
    assert "v1" in str(seen)


async def test_a_guest_that_stops_before_its_start_is_complete(world: VzWorld) -> None:
    driver = await world.driver()
    await driver.create(world.spec(UID))
    world.mac.fail("start", event="stopped-with-error", event_code=1, event_text="it fell over", delay_s=0.2)
    with contextlib.suppress(errors.Error):
        await driver.start(UID)
        async with asyncio.timeout(20):
            assert "it fell over" in (await driver.wait(UID)).fault
    assert (await driver.status(UID)).phase is not MachinePhase.RUNNING
    assert Slots(world.host_directory).held(GuestKind.MACOS) == 0
    await driver.start(UID)


# --- A disk that is full ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """2 MiB, where no blocks can be shared with the image."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "vz-small", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_clone_that_does_not_fit_leaves_nothing(tmp_path: Path, mac: MacHost, small_disk: Path) -> None:
    image = vz_image(tmp_path / "image")
    with image.disk.open("ab") as disk:
        disk.write(b"x" * 4 * 1024 * 1024)
    world = VzWorld(small_disk / "machines", image, mac)
    driver = await world.driver()
    with pytest.raises(errors.Exhausted) as caught:
        await driver.create(world.spec(UID))
    assert caught.value.reason == "DiskFull"
    assert world.leftovers() == []
    await driver.close()
