"""A packet filter's life: it ends with its machine whatever happens to the process that started it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from vzkubelet.errors import MachineFault, NotFound
from vzkubelet.machines.vz import packet_filter
from vzkubelet.machines.vz.network import check_frame_socket
from vzkubelet.machines.vz.packet_filter import PacketFilter
from vzkubelet.machines.vz.plan import FileHandleNetwork

MAC = "02:00:00:00:00:01"
ECHO = """
import socket, sys
print("arguments", *sys.argv[1:], flush=True)
frames = socket.socket(fileno=0)
while True:
    frames.send(frames.recv(65536)[::-1])
"""
DEAF = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN);" + ECHO
)
START_5_S = 5.0


def eventually(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + START_5_S
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def group(pid: int) -> list[int]:
    """Processes of a group that have not ended."""
    found = []
    for one in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if one.info["status"] != psutil.STATUS_ZOMBIE and os.getpgid(one.pid) == pid:
                found.append(one.pid)
    return found


def network(program: str, *arguments: str) -> FileHandleNetwork:
    return FileHandleNetwork(command=(sys.executable, "-c", program, *arguments))


@pytest.fixture
def echo() -> Iterator[PacketFilter]:
    found = packet_filter.start(network(ECHO, "--fd={fd}", "--mac", "{mac}"), MAC)
    yield found
    found.close()


def test_frames_reach_the_filter_and_come_back_whole(echo: PacketFilter) -> None:
    frame = bytes(range(256)) * 6
    with socket.socket(fileno=os.dup(echo.descriptor)) as ours:
        ours.settimeout(START_5_S)
        ours.send(frame)
        assert ours.recv(65536) == frame[::-1]
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 2 * ours.getsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF
        )
    check_frame_socket(echo.descriptor)
    assert echo.fault() == ""


def test_closing_ends_the_filter_and_its_watcher(echo: PacketFilter) -> None:
    pid = echo.pid
    assert len(group(pid)) == 2
    echo.close()
    assert eventually(lambda: group(pid) == [])
    echo.close()


def test_a_filter_that_ignores_signals_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_filter, "_GRACE_S", 0.2)
    found = packet_filter.start(network(DEAF), MAC)
    assert eventually(lambda: "arguments" in found._said())
    found.close()
    assert eventually(lambda: group(found.pid) == [])


def test_a_filter_that_is_not_ours_to_kill_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one under sudo: who waits for it tells nobody that the guest has powered off."""
    monkeypatch.setattr(packet_filter, "_GRACE_S", 0.2)
    found = packet_filter.start(network("import time; time.sleep(60)"), MAC)
    killpg, refused = os.killpg, []

    def refuse(group: int, number: int) -> None:
        refused.append(number)
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    # The watcher, which is allowed to, would kill it after three seconds.
    for pid in group(found.pid):
        if pid != found.pid:
            os.kill(pid, signal.SIGKILL)
    try:
        begun = time.monotonic()
        found.close()
        assert time.monotonic() - begun < START_5_S
        assert refused == [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
        assert group(found.pid), "it was to survive"
    finally:
        killpg(found.pid, signal.SIGKILL)
        found.wait(START_5_S)


def test_softnet_behind_sudo_gets_its_options_and_its_own_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"sudo": 'printf "%s " "$@" >&2\nexit 1', "softnet": "exit 0"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(MachineFault) as told:
        packet_filter.start(FileHandleNetwork(command=("sudo", "-n", "softnet", "-x")), MAC)
    assert f"-n {tmp_path}/softnet -x --vm-fd 0 --vm-mac-address {MAC}" in told.value.message
    assert f"sudo chown root {tmp_path}/softnet" in told.value.message
    (tmp_path / "softnet").unlink()
    with pytest.raises(NotFound, match="packet filter softnet is not installed"):
        packet_filter.start(FileHandleNetwork(command=("sudo", "-n", "softnet")), MAC)


def test_a_filter_that_ended_tells_how_and_what_it_said() -> None:
    found = packet_filter.start(
        network("import time; time.sleep(0.6); raise SystemExit('vmnet: interface is gone')"), MAC
    )
    assert found.wait() == f"the packet filter {sys.executable} ended (exit status 1): vmnet: interface is gone"
    found.close()
    assert eventually(lambda: group(found.pid) == [])


def test_a_filter_that_ends_at_once_is_no_filter() -> None:
    with pytest.raises(MachineFault, match=r"exit status 1.*root privileges are required"):
        packet_filter.start(network("raise SystemExit('root privileges are required')"), MAC)


def test_softnet_without_its_rights_is_told_how_to_get_them(tmp_path: Path) -> None:
    softnet = tmp_path / "softnet"
    softnet.write_text('#!/bin/sh\necho "$@" >&2\nexit 1\n')
    softnet.chmod(0o755)
    with pytest.raises(MachineFault) as told:
        packet_filter.start(FileHandleNetwork(command=(str(softnet), "--allow=10.0.0.0/8")), MAC)
    assert f"--allow=10.0.0.0/8 --vm-fd 0 --vm-mac-address {MAC}" in told.value.message
    assert f"sudo chown root {softnet}" in told.value.message


def test_a_filter_that_is_not_installed_is_named() -> None:
    with pytest.raises(NotFound, match="no-such-filter is not installed"):
        packet_filter.start(FileHandleNetwork(command=("no-such-filter",)), MAC)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_filter_ends_when_its_helper_is_killed(number: int) -> None:
    helper = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys, time\n"
            "from vzkubelet.machines.vz import packet_filter\n"
            "from vzkubelet.machines.vz.plan import FileHandleNetwork\n"
            "found = packet_filter.start(FileHandleNetwork(command=(sys.executable, '-c', sys.argv[1])), '-')\n"
            "print(found.pid, flush=True)\n"
            "time.sleep(60)\n",
            "import time; time.sleep(60)",
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert helper.stdout is not None
        pid = int(helper.stdout.readline())
        assert len(group(pid)) == 2
        helper.send_signal(number)
        helper.wait()
        assert eventually(lambda: group(pid) == [])
    finally:
        helper.kill()
        helper.wait()
        if helper.stdout is not None:
            helper.stdout.close()
