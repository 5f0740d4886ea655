"""The guards of tests/unit/conftest.py can fail: each hazard is planted in a test, run by a pytest of its own."""

import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent.parent
PLANTED = """
import asyncio, os, socket, subprocess, threading, time, warnings
from vzkubelet import aio

async def test_leaks_task():
    aio.spawn(asyncio.sleep(1000), name="left over")

def test_leaks_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()

def test_leaks_descriptor():
    os.open("/dev/null", os.O_RDONLY)

def test_leaks_file():
    open("/dev/null")

def test_connects():
    socket.create_connection(("127.0.0.1", 1))

def test_starts_process():
    subprocess.run(["true"])

async def test_starts_process_in_loop():
    await asyncio.create_subprocess_exec("true")

def test_sleeps():
    time.sleep(0)

def test_warns():
    warnings.warn("something is deprecated")

async def test_forgets_await():
    asyncio.sleep(1)

def test_harmless_without_loop():
    pass

async def test_harmless_hour(looptime):
    await asyncio.sleep(3600)
    assert looptime == 3600

async def test_harmless_threads():
    pool = aio.BlockingPool("pool", 2)
    assert await pool.run(int, "3") + await aio.run_blocking(int, "4") == 7
    pool.close()

async def test_harmless_pair():
    left, right = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=left)
    writer.write(b"x")
    assert right.recv(1) == b"x"
    writer.close()
    await writer.wait_closed()
    right.close()
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Whether each planted test failed, by name."""
    directory = tmp_path_factory.mktemp("planted")
    unit = directory / "unit"
    unit.mkdir()
    shutil.copy(ROOT / "tests/conftest.py", directory)
    shutil.copy(ROOT / "tests/unit/conftest.py", unit)
    (unit / "test_planted.py").write_text(PLANTED)
    report = directory / "report.xml"
    configuration = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(directory), "--confcutdir", str(directory))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *configuration,
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            str(directory),
        ],
        capture_output=True,
        timeout=60,
    )
    outcomes: dict[str, bool] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = case.find("failure") is not None or case.find("error") is not None
        outcomes[case.attrib["name"]] = outcomes.get(case.attrib["name"], False) or bad
    return outcomes


def test_every_planted_hazard_is_caught_and_nothing_else(failed: dict[str, bool]) -> None:
    assert len(failed) == PLANTED.count("def test_")
    assert {name for name, bad in failed.items() if bad} == {name for name in failed if "harmless" not in name}
