"""What the self-check tries beside Apple's framework, as far as Linux has it, and how it tells what differs."""

import fcntl
import sys
from pathlib import Path

import psutil
import pytest

from vzkubelet.errors import Unsupported
from vzkubelet.machines import process, process_table
from vzkubelet.machines.vz import self_check_host
from vzkubelet.machines.vz.self_check_report import Check, State

MAC_ONLY = {
    "clonefile",
    "a clone leaves the change time of its source",
    "F_FULLFSYNC of a file and its directory",
}


async def findings() -> dict[str, Check]:
    return {check.name: check for check in await self_check_host.try_host(sys.executable)}


async def test_every_primitive_is_tried_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    descriptors = psutil.Process().num_fds()
    found = await findings()
    assert len(found) == len(self_check_host._TRIALS)
    for name, check in found.items():
        assert check.state is State.OK or (name in MAC_ONLY and check.state is State.SKIPPED), check
    assert list(tmp_path.iterdir()) == []
    assert process.owned(tmp_path) == []
    assert psutil.Process().num_fds() <= descriptors + 2, "the loop's own"


async def test_a_helper_that_cannot_be_found_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_table, "environment", lambda pid: [])
    found = await findings()
    failed = [check for check in found.values() if check.state is State.FAILED]
    assert [(check.name, check.found) for check in failed] == [
        ("a marked process in the helpers' interpreter is found", "none")
    ]


async def test_a_failure_of_one_trial_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported() -> str:
        raise Unsupported("this system does not tell its boot")

    monkeypatch.setattr(process, "boot_id", unsupported)
    monkeypatch.setattr(self_check_host, "_TRIAL_S", 2.0)
    found = await findings()
    assert len(found) == len(self_check_host._TRIALS)
    assert "does not tell its boot" in found["its memory is told"].found
    assert found["a descriptor is passed over a socket"].state is State.OK


async def test_an_interpreter_that_does_not_start_is_told() -> None:
    checks = await self_check_host.try_host("/nowhere/python")
    assert {check.state for check in checks[:4]} == {State.FAILED}
    assert all("/nowhere/python" in check.found for check in checks[:4])
    assert checks[4].state is State.OK


async def test_an_end_that_is_never_heard_is_told_and_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check_host, "_WAITS", "import time; time.sleep(60)")
    monkeypatch.setattr(self_check_host, "_TRIAL_S", 1.0)
    found = await findings()
    assert found["the end of a process is heard"].found == "nothing within 1 s"
    assert found["a marked process in the helpers' interpreter is found"].state is State.OK


async def test_a_file_system_without_full_sync_differs_and_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check_host, "_FULL_SYNC", 51)
    found = (await findings())["F_FULLFSYNC of a file and its directory"]
    assert found.state is State.DIFFERENT
    assert "for a file; fsync is used instead" in found.found


async def test_a_mac_without_clones_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check_host, "_FULL_SYNC", fcntl.F_GETFD)
    monkeypatch.setattr(self_check_host, "reflink", lambda source, target: False)
    found = await findings()
    assert found["clonefile"] == Check("host", "clonefile", State.FAILED, "a clone", "none: is this APFS?")
    assert found["F_FULLFSYNC of a file and its directory"].state is State.OK


@pytest.mark.parametrize("touches", [True, False])
async def test_clones_that_touch_their_source_are_told(monkeypatch: pytest.MonkeyPatch, touches: bool) -> None:
    def copy(source: Path, target: Path) -> bool:
        target.write_bytes(source.read_bytes())
        if touches:
            source.chmod(0o600)
        return True

    monkeypatch.setattr(self_check_host, "reflink", copy)
    found = (await findings())["a clone leaves the change time of its source"]
    assert found.state is (State.DIFFERENT if touches else State.OK)
