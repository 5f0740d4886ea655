"""KVM is used only after it ran a guest, and a device that hangs costs bounded time, once."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from vzkubelet.aio import spawn
from vzkubelet.machines.process import owned, run
from vzkubelet.machines.qemu import accelerator
from vzkubelet.machines.qemu.accelerator import KVM, TCG, TRIALS, KvmProof, KvmVerdict, precondition


@pytest.fixture(autouse=True)
def trial_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "precondition", lambda _: "")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Path]:
    """Stands for QEMU; whatever it became is ended after the test."""
    yield tmp_path / "qemu"
    for process in owned(tmp_path):
        os.kill(process.ref.pid, signal.SIGKILL)


def write_program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\necho $$ >>{path}.runs\n{script}\n")
    path.chmod(0o755)
    return str(path)


def runs(path: Path) -> int:
    return len(Path(f"{path}.runs").read_text().splitlines())


async def test_a_trial_that_succeeds_is_remembered(tmp_path: Path, program: Path) -> None:
    qemu = write_program(program, "exit 35")
    for _ in range(2):
        assert await KvmProof(qemu, "amd64", tmp_path / "kvm.json").accelerator() is KVM
    assert runs(program) == 1


async def test_a_trial_that_hangs_costs_bounded_time_once(tmp_path: Path, program: Path) -> None:
    """Like a process in the kernel that no signal ends; the loop goes on meanwhile."""
    qemu = write_program(program, "trap '' TERM INT\nsleep 600")
    began, beats = time.monotonic(), 0
    proof = KvmProof(qemu, "amd64", tmp_path / "kvm.json", timeout_s=0.5)
    verdicts = asyncio.gather(*(proof.accelerator() for _ in range(5)))
    while not verdicts.done():
        await asyncio.sleep(0.05)
        beats += 1
    assert await verdicts == [TCG["amd64"]] * 5
    assert time.monotonic() - began < 3
    assert beats >= 8
    assert await KvmProof(qemu, "amd64", tmp_path / "kvm.json").accelerator() is TCG["amd64"]
    assert runs(program) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("kvm-trial")] == []


@pytest.mark.parametrize("script", ["exit 0", "exit 1", "kill -SEGV $$", "echo 'failed to initialize kvm' >&2; exit 1"])
async def test_a_trial_that_fails_means_emulation(tmp_path: Path, program: Path, script: str) -> None:
    proof = KvmProof(write_program(program, script), "amd64", tmp_path / "kvm.json")
    assert await proof.accelerator() is TCG["amd64"]


async def test_a_missing_program_means_emulation(tmp_path: Path) -> None:
    assert await KvmProof(str(tmp_path / "absent"), "amd64", tmp_path / "kvm.json").accelerator() is TCG["amd64"]


async def test_the_verdict_of_another_boot_does_not_count(tmp_path: Path, program: Path) -> None:
    verdict = KvmVerdict("another boot", works=True, reason="a trial guest ran")
    (tmp_path / "kvm.json").write_bytes(msgspec.json.encode(verdict))
    proof = KvmProof(write_program(program, "exit 1"), "amd64", tmp_path / "kvm.json")
    assert await proof.accelerator() is TCG["amd64"]
    assert runs(program) == 1


async def test_the_trial_guest_ends_a_real_qemu_as_expected(tmp_path: Path) -> None:
    """The same guest under emulation: what is proved is that its code and its exit status are right."""
    trial = TRIALS["amd64"]
    (tmp_path / "code").write_bytes(trial.code)
    arguments = [argument.format(code=tmp_path / "code") for argument in trial.arguments]
    status, said = await run(
        "qemu-system-x86_64", "-accel", "tcg", "-m", "16", "-display", "none", "-nodefaults", *arguments
    )
    assert status == trial.exit_status, said


def test_nothing_is_tried_where_kvm_cannot_work(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : x\nflags\t\t: fpu svmx vmxy hypervisor\n")
    assert "does not exist" in precondition("amd64", tmp_path / "kvm", cpuinfo)
    (tmp_path / "kvm").touch()
    assert "neither vmx nor svm" in precondition("amd64", tmp_path / "kvm", cpuinfo)
    cpuinfo.write_text("flags\t\t: fpu vmx\n")
    assert precondition("amd64", tmp_path / "kvm", cpuinfo) == ""


async def test_who_gives_up_while_the_verdict_is_written_leaves_no_staged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, goes_on = threading.Event(), threading.Event()

    def slow(path: Path, data: bytes) -> None:
        staged = path.with_name(".staging-kvm.json")
        staged.write_bytes(data)
        writing.set()
        assert goes_on.wait(30)
        staged.replace(path)

    monkeypatch.setattr(accelerator, "write_atomic", slow)
    proof = KvmProof(str(tmp_path / "absent"), "amd64", tmp_path / "kvm.json")
    asked = spawn(proof.accelerator(), name="accelerator")
    assert await asyncio.to_thread(writing.wait, 30)
    asked.cancel()
    await asyncio.sleep(0)
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert [path.name for path in tmp_path.iterdir()] == ["kvm.json"]
