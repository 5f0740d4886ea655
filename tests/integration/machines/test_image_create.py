"""``image create`` over the double of a Mac: the verb, the process that installs, and what is left of either."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.cluster.registry import Registry
from tests.support.apple_double import VERSIONS, MacHost, hardware_model_data, mac_host, write_restore_image
from vzkubelet.errors import Exhausted, NotFound, Unavailable
from vzkubelet.images import Library, bundles
from vzkubelet.machines.vz import bundle
from vzkubelet.machines.vz.download import download
from vzkubelet.machines.vz.installation import Installed
from vzkubelet.machines.vz.restore_image import RestoreImage

__all__ = ["mac_host"]

GIB = 1024**3


@dataclass
class Verb:
    """The command line on one Mac."""

    mac: MacHost
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        environment = self.mac.environment() | self.environment | {"XDG_CACHE_HOME": str(self.directory / "cache")}
        return subprocess.Popen(
            [sys.executable, "-m", "vzkubelet", "image", "create", *arguments],
            env=environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def left(self) -> set[str]:
        """Everything beside the restore images and the cache."""
        return {path.name for path in self.directory.iterdir()} - {"cache", "mac", "mac.ipsw", "link.ipsw"}


@pytest.fixture
def verb(mac_host: MacHost, tmp_path: Path) -> Verb:
    return Verb(mac_host, tmp_path)


@pytest.fixture
def ipsw(tmp_path: Path) -> Path:
    return write_restore_image(tmp_path / "mac.ipsw", minimum_cpus=2, minimum_memory_bytes=4 * GIB)


# --- Success --------------------------------------------------------------------------------------------------------


def test_an_installation_makes_a_bundle_that_can_be_pushed(verb: Verb, ipsw: Path) -> None:
    (verb.directory / "link.ipsw").symlink_to(ipsw)  # the framework opens no path that leads through a link
    done = verb.run("machine", "--ipsw", "link.ipsw", "--disk-size", "40Gi")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Installed macOS 15.1 (24B83) into machine\n"
    made = verb.directory / "machine"
    assert sorted(path.name for path in made.iterdir()) == ["aux.img", "config.json", "disk.img", "vm.json"]
    assert (made / "disk.img").stat().st_size == 40 * GIB
    assert (made / "disk.img").stat().st_blocks * 512 < GIB, "the disk is not sparse"
    machine = bundles.read(made).machine
    assert machine.hardware_model == hardware_model_data()
    assert (machine.cpu_min, machine.memory_min_bytes) == (2, 4 * GIB)
    assert machine.machine_id
    window = json.loads((made / "vm.json").read_text())
    assert base64.b64decode(window["machineId"]) == machine.machine_id
    assert {storage["file"] for storage in window["storage"]} == {"disk.img", "aux.img"}
    assert verb.left() == {"machine"}
    assert [call["operation"] for call in verb.mac.calls()] == ["install"]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"macos{version[0]}")
def test_every_host_version_installs_its_own(tmp_path: Path, version: tuple[int, int]) -> None:
    mac = MacHost(tmp_path / "mac", version=list(version))
    write_restore_image(tmp_path / "mac.ipsw", version=".".join(map(str, version)))
    done = Verb(mac, tmp_path).run("machine", "--ipsw", "mac.ipsw")
    assert done.returncode == 0, done.stderr
    mac.check()


async def test_a_bundle_is_pushed_with_its_boot_data(registry: Registry, verb: Verb, tmp_path: Path) -> None:
    made = tmp_path / "bundle"
    made.mkdir()
    for name, fill in (("disk.img", b"d"), ("aux.img", b"a")):
        (made / name).write_bytes(fill * 1_048_576)
    image = RestoreImage(
        url="file:///mac.ipsw",
        version="15.1",
        build="24B83",
        supported=True,
        cpu_min=2,
        memory_min_bytes=4 * GIB,
        hardware_model=hardware_model_data(),
    )
    bundle.write(made, Installed(image=image, machine_id=b"identifier"))
    reference = f"{registry.host}/bundles/mac:1"
    command = [sys.executable, "-m", "vzkubelet", "image", "push", "--bundle", str(made), reference]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "pushing")}
    done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    library = Library(tmp_path / "images")
    try:
        pulled = await library.pull(reference, ())
    finally:
        await library.close()
    assert (pulled.os, pulled.architecture) == ("darwin", "arm64")
    assert (pulled.hardware_model, pulled.machine_id) == (hardware_model_data(), b"identifier")
    assert (pulled.cpu_min, pulled.memory_min_bytes) == (2, 4 * GIB)
    assert pulled.disk.read_bytes() == (made / "disk.img").read_bytes()


def test_a_push_wants_a_bundle_or_files(tmp_path: Path) -> None:
    def told(*arguments: str) -> str:
        command = [sys.executable, "-m", "vzkubelet", "image", "push", *arguments, "localhost:1/mac:1"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode != 0
        return done.stderr

    assert "--bundle" in told("--disk-path", "disk.img")
    assert "is no bundle" in told("--bundle", str(tmp_path))


def test_processors_and_memory_are_never_less_than_the_image_wants(verb: Verb, tmp_path: Path) -> None:
    hungry = write_restore_image(tmp_path / "mac.ipsw", minimum_cpus=6, minimum_memory_bytes=12 * GIB)
    assert verb.run("machine", "--ipsw", str(hungry), "--cpu", "1", "--memory", "1Gi").returncode == 0
    assert json.loads((verb.directory / "machine/vm.json").read_text())["cpus"] == 6


# --- What goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (10006, "softwareupdate --install --all"),
        (10007, "install again"),
        (8, "free space"),
        (1, "log show"),
    ],
)
def test_a_failed_installation_says_why_and_leaves_nothing(verb: Verb, ipsw: Path, code: int, text: str) -> None:
    verb.mac.fail("install", code=code)
    done = verb.run("machine", "--ipsw", str(ipsw))
    assert done.returncode != 0
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert verb.left() == set()


@pytest.mark.parametrize("version", ["15.2", "26.0"])
def test_a_restore_image_for_a_newer_host_is_refused_before_anything_is_made(
    verb: Verb, tmp_path: Path, version: str
) -> None:
    newer = write_restore_image(tmp_path / "mac.ipsw", version=version)
    done = verb.run("machine", "--ipsw", str(newer))
    assert done.returncode != 0
    assert f"macOS {version}" in done.stderr
    assert "macOS 15.1 does not install" in done.stderr
    assert verb.left() == set()
    assert verb.mac.calls() == []


def test_what_is_no_restore_image_is_named(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "mac.ipsw").write_text("no archive")
    assert "the restore image is damaged" in verb.run("machine", "--ipsw", "mac.ipsw").stderr
    assert "there is no restore image" in verb.run("machine", "--ipsw", "nowhere.ipsw").stderr
    assert verb.left() == set()


def test_an_existing_directory_is_not_touched(verb: Verb, ipsw: Path) -> None:
    (verb.directory / "machine").mkdir()
    done = verb.run("machine", "--ipsw", str(ipsw))
    assert "exists: give another directory" in done.stderr
    assert list((verb.directory / "machine").iterdir()) == []


def test_an_interpreter_without_the_entitlement_is_told_to_be_signed(verb: Verb, ipsw: Path) -> None:
    verb.mac.configure(entitlements=[])
    done = verb.run("machine", "--ipsw", str(ipsw))
    assert done.returncode != 0
    assert "macos-vz-kubelet sign" in done.stderr
    assert verb.left() == set()


def test_off_a_mac_it_says_so(verb: Verb, ipsw: Path) -> None:
    verb.environment = {"PYTHONPATH": "", "VZ_DOUBLE_HOST": ""}
    done = verb.run("machine", "--ipsw", str(ipsw))
    assert (done.returncode, done.stderr) == (6, "error: installing macOS needs a Mac with Apple silicon\n")
    assert verb.left() == set()


def test_a_disk_that_macos_does_not_fit_on_is_refused(verb: Verb, ipsw: Path) -> None:
    assert "32Gi or more" in verb.run("machine", "--ipsw", str(ipsw), "--disk-size", "8Gi").stderr


# --- Its end in the middle ------------------------------------------------------------------------------------------


def _until(condition: object, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def _installers(verb: Verb) -> list[int]:
    """Processes that install on this Mac."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"VZ_DOUBLE_HOST={verb.mac.directory}".encode() in (entry / "environ").read_bytes()
            if mine and b"vzkubelet.machines.vz.installer" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _installing(verb: Verb) -> bool:
    return any(path.name.startswith(".staging") and (path / "disk.img").exists() for path in verb.directory.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_installation_is_cancelled_and_leaves_nothing(
    verb: Verb, ipsw: Path, number: signal.Signals
) -> None:
    verb.mac.fail("install", delay_s=30.0)
    process = verb.start("machine", "--ipsw", str(ipsw))
    _until(lambda: _installing(verb))
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in stderr
    _until(lambda: not _installers(verb))
    assert verb.left() == set()
    cancelled = [call["error"] for call in verb.mac.calls() if call["operation"] == "install"]
    assert cancelled == [["VZErrorDomain", 9]]


def test_an_installer_that_dies_is_a_fault_and_not_a_hang(verb: Verb, ipsw: Path) -> None:
    verb.mac.fail("install", delay_s=30.0)
    process = verb.start("machine", "--ipsw", str(ipsw))
    _until(lambda: _installing(verb))
    os.kill(_installers(verb)[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "no answer" in stderr
    assert verb.left() == set()


def test_an_installer_whose_client_was_killed_does_not_go_on(verb: Verb, ipsw: Path) -> None:
    verb.mac.fail("install", delay_s=30.0)
    process = verb.start("machine", "--ipsw", str(ipsw))
    _until(lambda: _installing(verb))
    process.kill()
    process.communicate()
    _until(lambda: not _installers(verb))


# --- The latest one --------------------------------------------------------------------------------------------------


class Site:
    """A web server with one restore image. `cut_after` bytes a response breaks off, `times` times."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = '"one"'
        self.cut_after = 0
        self.times = 0
        self.status = HTTPStatus.OK
        self.ranges: list[str | None] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/UniversalMac_Restore.ipsw"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        if self.status != HTTPStatus.OK:
            request.send_error(self.status)
            return
        first = 0
        if asked and request.headers.get("If-Range") == self.etag:
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
        request.send_response(HTTPStatus.PARTIAL_CONTENT if first else HTTPStatus.OK)
        request.send_header("ETag", self.etag)
        request.send_header("Content-Length", str(len(self.content) - first))
        request.end_headers()
        end = len(self.content)
        if self.times:
            self.times -= 1
            end = min(end, first + self.cut_after)
        request.wfile.write(self.content[first:end])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    content = write_restore_image(tmp_path / "mac.ipsw").read_bytes() + os.urandom(3_000_000)
    made = Site(content)
    thread = Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_the_latest_image_is_fetched_once_and_installed(verb: Verb, tmp_path: Path) -> None:
    made = Site(write_restore_image(tmp_path / "mac.ipsw").read_bytes())
    thread = Thread(target=made.server.serve_forever)
    thread.start()
    try:
        verb.mac.configure(latest_restore_image={"url": made.url, "version": [15, 1], "build": "24B83"})
        for name in ("first", "second"):
            done = verb.run(name, "--ipsw", "latest")
            assert done.returncode == 0, done.stderr
        assert made.ranges == [None], "the second one is in the cache"
        assert verb.left() == {"first", "second"}
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


def test_without_apples_catalogue_a_file_is_asked_for(verb: Verb) -> None:
    done = verb.run("machine", "--ipsw", "latest")
    assert "--ipsw FILE" in done.stderr
    assert verb.left() == set()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vzkubelet.machines.vz.download._RETRY_S", 0.01)


async def test_a_download_goes_on_where_the_connection_broke(site: Site, tmp_path: Path, patient: None) -> None:
    site.cut_after, site.times = 1_000_000, 2
    told: list[tuple[int, int]] = []
    file = await download(site.url, tmp_path / "cache", lambda done, total: told.append((done, total)))
    assert file.read_bytes() == site.content
    assert site.ranges[0] is None
    assert len(site.ranges) == 3
    assert all(asked not in (None, "bytes=0-") for asked in site.ranges[1:])
    assert told[-1] == (len(site.content), len(site.content))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [file.name]


async def test_a_cancelled_download_goes_on_the_next_time(site: Site, tmp_path: Path) -> None:
    site.cut_after, site.times = 1_000_000, 100
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await download(site.url, tmp_path / "cache")
    site.times = 0
    assert (await download(site.url, tmp_path / "cache")).read_bytes() == site.content
    assert site.ranges[-1] != "bytes=0-"
    assert site.ranges[-1] is not None


async def test_another_file_under_the_address_begins_anew(site: Site, tmp_path: Path, patient: None) -> None:
    site.cut_after, site.times = 1_000_000, 1
    first = site.content

    def change(done: int, _total: int) -> None:
        if 0 < done < 1_000_001:
            site.content, site.etag = first[::-1], '"two"'

    assert (await download(site.url, tmp_path / "cache", change)).read_bytes() == first[::-1]


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (503, Unavailable)])
async def test_a_refusal_is_told(site: Site, tmp_path: Path, patient: None, status: int, kind: type[Exception]) -> None:
    site.status = HTTPStatus(status)
    with pytest.raises(kind, match=str(status)):
        await download(site.url, tmp_path / "cache")


async def test_a_full_disk_is_told_as_such(site: Site, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        with pytest.raises(Exhausted, match="No space"):
            await download(site.url, small)
    finally:
        subprocess.run(["umount", small], check=True)
