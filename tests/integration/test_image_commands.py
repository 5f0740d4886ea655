"""The image verbs as a user calls them: a round trip, mistakes, and what is looked at before anything is sent."""

import asyncio
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.registry import BasicAuth, Registry
from tests.support import vm_bundles
from tests.support.cluster_fixtures import StartRegistry
from tests.support.vm_images import MIB, RawRepository, make_files, push
from vzkubelet.images import Library, Machine
from vzkubelet.images.formats import agoda
from vzkubelet.model.oci import INDEX, MANIFEST, Platform
from vzkubelet.model.reference import parse

WAIT_S = 60
OpenLibrary = Callable[..., Library]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A repository of this test alone."""
    return f"transfer/{tmp_path.name.lower().replace('[', '-').replace(']', '')}"


async def run(tmp_path: Path, *arguments: str, stdin: bytes = b"", **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "vzkubelet", "image", *arguments, "--cache-dir", str(tmp_path / "daemon")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DOCKER_CONFIG": str(tmp_path / "no-docker-config"), **environment},
    )
    output, _ = await asyncio.wait_for(process.communicate(stdin), WAIT_S)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_command_line_from_push_to_rm(tmp_path: Path, registry_factory: StartRegistry) -> None:
    registry = registry_factory(basic_auth=BasicAuth("ci", "secret"))
    reference = f"{registry.host}/team/vm:1.0"
    files = make_files(tmp_path / "files")
    config = tmp_path / "image.json"
    config.write_text('{"config": {"Cmd": ["/bin/sh"], "User": "ci"}}')
    pushed = await run(
        tmp_path,
        *("push", "--disk-path", str(files.disk), "--aux-path", str(files.aux), "--os", "linux", "--arch", "amd64"),
        *("--image-config", str(config), "--cpu-min", "2", "--memory-min", "512Mi"),
        *("-u", "ci", "--password-stdin", f"{reference},latest"),
        stdin=b"secret\n",
        SOURCE_DATE_EPOCH="1700000000",
    )
    assert pushed[0] == 0, pushed[1]
    assert f"Pushed {reference}\nPushed {registry.host}/team/vm:latest\nDigest: sha256:" in pushed[1]
    refused = await run(tmp_path, "pull", "--platform", "linux/amd64", reference)
    assert refused[0] == 5
    assert refused[1].startswith(f"error: {reference}: the registry wants a login")
    (tmp_path / "config.json").write_text(f'{{"auths": {{"{registry.host}": {{"auth": "Y2k6c2VjcmV0"}}}}}}')
    pulled = await run(tmp_path, "pull", "--platform", "linux/amd64", reference, DOCKER_CONFIG=str(tmp_path))
    assert pulled[0] == 0, pulled[1]
    assert pulled[1].splitlines()[-1] == pushed[1].splitlines()[-1]
    listed = await run(tmp_path, "ls", "--json")
    row = json.loads(listed[1])[0]
    assert (row["reference"], row["os"], row["sizeBytes"]) == (reference, "linux", 8 * MIB + 101_000)
    image = await Library(tmp_path / "daemon" / "images").find(reference)
    assert image is not None
    assert (image.defaults.cmd, image.defaults.user) == (("/bin/sh",), "ci")
    assert (image.cpu_min, image.memory_min_bytes) == (2, 512 * MIB)
    assert "linux/amd64" in (await run(tmp_path, "ls"))[1]
    assert (await run(tmp_path, "rm", reference))[1].startswith(f"Removed {parse(reference)}, 2.")
    assert json.loads((await run(tmp_path, "ls", "--json"))[1]) == []
    assert (await run(tmp_path, "rm", reference))[0] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pull", "A:B:C"], 2, "couldn't parse image name"),
        (["push", "--disk-path", "x", "--aux-path", "x", "r.io/vm:1"], 2, "needs --hardware-model and --machine-id"),
        (
            ["push", "--disk-path", "x", "--aux-path", "x", "--os", "linux", f"r.io/vm@sha256:{'0' * 64}"],
            2,
            "under a tag",
        ),
        (["push", "--disk-path", "x", "--aux-path", "x", "--hardware-model", "%", "r.io/vm:1"], 2, "is not base64"),
        (["push", "--disk-path", "x", "--aux-path", "x", "--image-config", "nope", "r.io/vm:1"], 2, "cannot read nope"),
        (["push", "--aux-path", "x", "r.io/vm:1"], 2, "--disk-path"),
        (["pull", "-p", "x", "r.io/vm:1"], 2, "a password needs --username"),
        (["pull", "-u", "ci", "r.io/vm:1"], 2, "--username needs a password"),
        (["pull", "--password-stdin", "r.io/vm:1"], 2, "--password-stdin needs --username"),
        (["pull", "-u", "ci", "--password-stdin", "r.io/vm:1"], 2, "the password is empty"),
        (["pull", "-u", "ci", "-p", "x", "--password-stdin", "r.io/vm:1"], 2, "exclude each other"),
        (["pull", "--platform", "linux", "r.io/vm:1"], 2, "not of the form OS/ARCH"),
        (["push", "--from", "r.io/vm:1", "--bundle", "x", "r.io/vm:2"], 2, "--from does not go with"),
        (["push", "--from", "r.io/vm:1", "--disk-path", "x", "--aux-path", "x", "r.io/vm:2"], 2, "--from does not go"),
        (["push", "--format", "tart", "--level", "3", "r.io/vm:1"], 2, "--format tart has no levels"),
        (["push", "--level", "12", "r.io/vm:1"], 2, "12 is for --format chunked; gzip takes 1 to 9"),
        (["convert", "--level", "12", "r.io/vm:1", "r.io/vm:2"], 2, "12 is for --format chunked; gzip takes 1 to 9"),
    ],
)
async def test_command_line_mistakes(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    returned, output = await run(tmp_path, *arguments)
    assert (returned, output.count("\n")) == (code, 1), output
    assert words in output


async def test_files_that_cannot_be_pushed(tmp_path: Path, registry: Registry, path: str) -> None:
    files = make_files(tmp_path / "files")
    empty = tmp_path / "empty"
    empty.touch()
    for disk, words in ((tmp_path / "missing", "does not exist"), (empty, "is empty"), (tmp_path, "cannot read")):
        code, output = await run(
            tmp_path,
            *("push", "--disk-path", str(disk), "--aux-path", str(files.aux), "--os", "linux", "--arch", "amd64"),
            f"{registry.host}/{path}:1",
        )
        assert code != 0
        assert words in output


# --- What is pushed is looked at before anything is sent


def make_bundle(directory: Path, **changes: object) -> Path:
    directory.mkdir()
    for name in ("disk.img", "aux.img", "other.img"):
        (directory / name).write_bytes(name.encode() * 1024)
    config: dict[str, object] = {
        "storage": [
            {"mediatype": agoda.AUX, "file": "aux.img"},
            {"mediatype": agoda.DISK, "file": "disk.img"},
        ],
        "os": "darwin",
        "hardwareModelData": "aGFyZHdhcmU=",
        "machineIdData": "bWFjaGluZQ==",
    }
    (directory / "config.json").write_text(json.dumps(config | changes))
    return directory


NOWHERE = "localhost:1/vm:1"
"""Nobody listens: a message about the registry means that a push had begun."""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bundle", "FILE"], "has no auxiliary storage: give --aux-path"),
        (["--bundle", "absent"], "does not exist"),
        (["--bundle", "BUNDLE", "--os", "linux"], "do not go with a bundle"),
        (["--bundle", "BUNDLE", "--arch", "amd64"], "do not go with a bundle"),
        (["--bundle", "BUNDLE", "--cpu-min", "99999999999999999999"], "1<=x<=1024"),
        (["--bundle", "BUNDLE", "--memory-min", "999999999Ei"], "--memory-min"),
        (["--bundle", "BUNDLE", "--memory-min", "1Ei"], "between 1 and 64Ti"),
        (["--bundle", "BUNDLE", "--disk-path", "absent"], "absent does not exist"),
        (["--bundle", "BUNDLE", "--aux-path", "absent"], "absent does not exist"),
    ],
)
async def test_push_of_the_impossible_is_one_line_and_sends_nothing(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    """Hazards: NotADirectoryError; flags beside a bundle without effect; a missing disk told after the small blobs."""
    bundle = make_bundle(tmp_path / "bundle")
    given = [{"BUNDLE": str(bundle), "FILE": str(bundle / "disk.img")}.get(word, word) for word in arguments]
    code, output = await run(tmp_path, "push", *given, NOWHERE)
    assert (code in (2, 3), output.count("\n")) == (True, 1), output
    assert words in output


@pytest.mark.parametrize("beside", ["bundle", "flags"])
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"QFI\xfb" + bytes(508), "is no raw disk: `image import` it first"), (bytes(513), "no whole number of sectors")],
)
async def test_a_disk_that_no_machine_boots_is_not_published(
    tmp_path: Path, content: bytes, words: str, beside: str
) -> None:
    """Hazard: --disk-path beside --bundle was not looked at, and a qcow2 file went out as a raw disk."""
    bundle = make_bundle(tmp_path / "bundle")
    (tmp_path / "given").write_bytes(content)
    source = ["--bundle", str(bundle)]
    if beside == "flags":
        source = ["--aux-path", str(bundle / "aux.img"), "--os", "linux"]
    code, output = await run(tmp_path, "push", *source, "--disk-path", str(tmp_path / "given"), NOWHERE)
    assert (code, output.count("\n")) == (2, 1), output
    assert words in output


async def test_a_running_machine_is_not_pushed_beside_a_bundle(tmp_path: Path) -> None:
    """Hazard: of --disk-path beside --bundle nobody asked whether it was being written."""
    bundle = make_bundle(tmp_path / "bundle")
    disk = tmp_path / "running.img"
    disk.write_bytes(bytes(1024))
    with disk.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, output = await run(tmp_path, "push", "--bundle", str(bundle), "--disk-path", str(disk), NOWHERE)
    assert (code, output.count("\n")) == (4, 1), output
    assert "is running" in output


async def test_push_of_a_device_says_what_it_is(tmp_path: Path) -> None:
    """Hazard: somebody's lock on /dev/null was taken for a running machine."""
    arguments = ("--disk-path", "/dev/null", "--aux-path", "/dev/null", "--os", "linux")
    assert await run(tmp_path, "push", *arguments, NOWHERE) == (
        2,
        "error: cannot read /dev/null: it is no regular file\n",
    )


async def test_push_of_a_fifo_does_not_hang(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    for name in ("disk.img", "config.json"):
        (bundle / name).unlink()
        os.mkfifo(bundle / name)
        code, output = await run(tmp_path, "push", "--bundle", str(bundle), NOWHERE)
        assert code
        assert "no regular file" in output
        (bundle / name).unlink()
        make_bundle(tmp_path / f"again-{name}")
        (tmp_path / f"again-{name}" / name).rename(bundle / name)


async def test_push_follows_no_link_out_of_the_bundle(tmp_path: Path, registry: Registry, path: str) -> None:
    """Hazard: a bundle from elsewhere whose disk is a link to a secret of this host, which is then published."""
    bundle = make_bundle(tmp_path / "bundle")
    (tmp_path / "secret").write_text("secret")
    (bundle / "disk.img").unlink()
    (bundle / "disk.img").symlink_to(tmp_path / "secret")
    code, output = await run(tmp_path, "push", "--bundle", str(bundle), NOWHERE)
    assert code == 2
    assert "no part of the bundle" in output
    (bundle / "disk.img").unlink()
    (bundle / "disk.img").symlink_to("other.img")
    code, output = await run(tmp_path, "push", "--bundle", str(bundle), f"{registry.host}/{path}:1")
    assert code == 0, output


async def test_push_sends_the_files_that_the_bundle_names(tmp_path: Path, registry: Registry, path: str) -> None:
    """Hazard: disk.img was sent, whatever the configuration said."""
    storage = [{"mediatype": agoda.AUX, "file": "aux.img"}, {"mediatype": agoda.DISK, "file": "other.img"}]
    bundle = make_bundle(tmp_path / "bundle", storage=storage)
    code, output = await run(tmp_path, "push", "--bundle", str(bundle), f"{registry.host}/{path}:1")
    assert code == 0, output
    library = Library(tmp_path / "pulled", [Platform(os="darwin", architecture="arm64")])
    try:
        pulled = await library.pull(f"{registry.host}/{path}:1", [])
    finally:
        await library.close()
    assert pulled.disk.read_bytes() == (bundle / "other.img").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"storage": [{"mediatype": agoda.DISK, "file": "disk.img"}]},
        {"storage": [{"mediatype": agoda.AUX, "file": "../aux.img"}, {"mediatype": agoda.DISK, "file": "disk.img"}]},
        {"storage": [{"mediatype": agoda.DISK, "file": "disk.img"}, {"mediatype": agoda.DISK, "file": "other.img"}]},
        {"os": "windows"},
        {"cpuMin": -1},
        {"memoryMinBytes": 2**62},
    ],
)
async def test_bundle_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    bundle = make_bundle(tmp_path / "bundle", **changes)
    code, output = await run(tmp_path, "push", "--bundle", str(bundle), NOWHERE)
    assert (code, output.count("\n")) == (2, 1), output
    assert "config.json" in output


@pytest.mark.parametrize("source", ["files", "bundle"])
async def test_a_running_machine_is_not_pushed(tmp_path: Path, source: str) -> None:
    """Hazard: a disk in the middle of being written is published, and no guest of it boots."""
    bundle = vm_bundles.tart(tmp_path / "vm")
    files = ["--disk-path", str(bundle / "disk.img"), "--aux-path", str(bundle / "nvram.bin"), "--os", "linux"]
    with (bundle / "disk.img").open("r+b") as disk:
        fcntl.flock(disk, fcntl.LOCK_EX)
        code, output = await run(
            tmp_path, "push", NOWHERE, *(files if source == "files" else ["--bundle", str(bundle)])
        )
    assert (code, output.count("\n")) == (4, 1), output
    assert "is running" in output


# --- Pulls that take a while


@pytest.fixture
async def large(tmp_path: Path, registry: Registry, path: str) -> str:
    """24 MiB of noise in the registry."""
    files = make_files(tmp_path / "large", size_bytes=24 * MIB, data_bytes=24 * MIB)
    reference = f"{registry.host}/{path}:large"
    await push(files, reference)
    return reference


def slow_pull(tmp_path: Path, reference: str, rate: str) -> list[str]:
    words = ["pull", reference, "--platform", "linux/amd64", "--rate", rate, "--cache-dir", str(tmp_path / "daemon")]
    return [sys.executable, "-m", "vzkubelet", "image", *words]


@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_pull_that_is_ended_goes_on_where_it_was(
    tmp_path: Path, large: str, signal_: signal.Signals, code: int
) -> None:
    process = await asyncio.create_subprocess_exec(
        *slow_pull(tmp_path, large, "4Mi"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    staging = tmp_path / "daemon" / "images" / "staging"

    def staged_bytes() -> int:
        return max((path.stat().st_blocks * 512 for path in staging.glob("*/data")), default=0)

    while staged_bytes() < 4 * MIB:
        assert process.returncode is None
        await asyncio.sleep(0.05)
    process.send_signal(signal_)
    out, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert (process.returncode, out) == (code, b"")
    assert b"Traceback" not in err, err.decode()
    assert json.loads((await run(tmp_path, "ls", "--json"))[1]) == []
    assert staged_bytes() >= 4 * MIB, "what had come was thrown away"
    returned, output = await run(tmp_path, "pull", large, "--platform", "linux/amd64", "--json")
    assert returned == 0, output
    told = json.loads(output)
    assert (told["reference"], told["os"]) == (large, "linux")
    assert Path(told["disk"]).read_bytes() == (tmp_path / "large" / "disk-1").read_bytes()


async def test_without_a_terminal_progress_is_lines_and_quiet_is_silent(tmp_path: Path, large: str) -> None:
    """Hazard: nothing in the log of a build for half an hour, or a line for each block."""
    process = await asyncio.create_subprocess_exec(
        *slow_pull(tmp_path, large, "3Mi"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 0, err
    assert out.startswith(f"Pulled {large}\nDigest: sha256:".encode())
    lines = err.decode().splitlines()
    assert 1 <= len(lines) <= 4
    assert re.fullmatch(r"pull: \d+\.\d of 24\.\d MiB, \d(\.\d)? MiB/s, \d+s left", lines[0])
    process = await asyncio.create_subprocess_exec(
        *slow_pull(tmp_path, large, "0"), "-q", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert err == b""
    assert re.fullmatch(rb"sha256:[0-9a-f]{64}\n", out)


async def test_inspect_asks_the_registry_for_what_is_not_here(tmp_path: Path, large: str) -> None:
    returned, output = await run(tmp_path, "inspect", large, "--json")
    assert returned == 0, output
    there = json.loads(output)
    assert "local" not in there
    assert (there["format"], there["disk"]["sizeBytes"], there["disk"]["blobs"]["layout"]) == (
        "agoda",
        24 * MIB,
        "gzip",
    )
    assert not (tmp_path / "daemon" / "images").exists(), "to look is not to keep"
    manifest = (await run(tmp_path, "inspect", large, "--manifest"))[1]
    assert f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}" == there["digest"]
    assert (await run(tmp_path, "pull", large, "--platform", "linux/amd64"))[0] == 0
    here = json.loads((await run(tmp_path, "inspect", large, "--json"))[1])
    assert here["local"]["complete"]
    assert {name: here[name] for name in ("digest", "format", "machine")} == {
        name: there[name] for name in ("digest", "format", "machine")
    }
    assert here["disk"]["digest"] == there["disk"]["rawDigest"]
    shown = (await run(tmp_path, "inspect", large))[1]
    assert "Platform:   linux/amd64" in shown
    assert "Path:       " in shown
    asked = (await run(tmp_path, "inspect", "--remote", large))[1]
    assert "Host:       24" in asked, "hazard: what is here was denied, because the registry had been asked"
    (tmp_path / "daemon" / "images").rename(tmp_path / "elsewhere")
    asked = (await run(tmp_path, "inspect", "--remote", large))[1]
    assert "Host:       nothing of it" in asked


async def test_an_image_of_this_host_is_pushed_under_its_name_or_another(
    tmp_path: Path, registry: Registry, path: str
) -> None:
    reference = f"{registry.host}/{path}:1"
    vm_bundles.tart(tmp_path / "vm")
    assert (await run(tmp_path, "import", str(tmp_path / "vm"), reference))[0] == 0
    returned, output = await run(tmp_path, "push", reference, "--json")
    assert returned == 0, output
    first = json.loads(output)
    assert (first["references"], first["uploadedBytes"] > MIB) == ([reference], True)
    returned, output = await run(tmp_path, "push", f"{registry.host}/{path}:2", "--from", reference, "--format", "tart")
    assert returned == 0, output
    there = json.loads((await run(tmp_path, "inspect", f"{registry.host}/{path}:2", "--json"))[1])
    assert there["format"] == "tart"
    assert there["machine"]["cpuCount"] == 6
    assert there["machine"]["display"] == "1920x1200px"


async def test_a_conversion_to_every_format_and_back_keeps_every_bit(
    tmp_path: Path, registry: Registry, path: str
) -> None:
    bundle = vm_bundles.tart(tmp_path / "vm")
    names = [f"{registry.host}/{path}:{tag}" for tag in ("1", "chunked", "tart", "agoda")]
    assert (await run(tmp_path, "push", names[0], "--bundle", str(bundle)))[0] == 0
    for source, target, format_ in zip(names, names[1:], ("chunked", "tart", "agoda"), strict=False):
        returned, output = await run(tmp_path, "convert", source, target, "--format", format_, "--json")
        assert returned == 0, output
        there = json.loads((await run(tmp_path, "inspect", target, "--json"))[1])
        assert (there["digest"], there["format"]) == (json.loads(output)["digest"], format_)
    assert (await run(tmp_path, "pull", names[-1], "--platform", "darwin/arm64"))[0] == 0
    exported = tmp_path / "exported"
    assert (await run(tmp_path, "export", names[-1], str(exported), "--format", "tart"))[0] == 0
    for name in ("disk.img", "nvram.bin"):
        assert (exported / name).read_bytes() == (bundle / name).read_bytes()
    before, after = (json.loads((directory / "config.json").read_text()) for directory in (bundle, exported))
    assert {key: after[key] for key in before} == before


async def test_a_platform_that_is_asked_for_is_what_is_shown_and_converted(
    tmp_path: Path, registry: Registry, path: str
) -> None:
    """Hazard: the cache had the tag for Linux; --platform darwin/arm64 had no effect, and Linux was published."""
    raw = RawRepository(registry.url, path)
    entries = []
    mac = Machine("darwin", "arm64", hardware_model=b"model", machine_id=b"machine")
    for machine in (mac, Machine("linux", "amd64")):
        reference = f"{registry.host}/{path}:{machine.os}"
        await push(make_files(tmp_path / machine.os, data_bytes=64 * 1024), reference, machine=machine)
        content = (await run(tmp_path, "inspect", reference, "--manifest"))[1].encode()
        entry = {"mediaType": MANIFEST, "digest": raw.digest(machine.os), "artifactType": agoda.ARTIFACT_TYPE}
        platform = {"os": machine.os, "architecture": machine.architecture}
        entries.append(entry | {"size": len(content), "platform": platform})
    raw.put_manifest("both", {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, INDEX)
    both = f"{registry.host}/{path}:both"
    assert (await run(tmp_path, "pull", both, "--platform", "linux/amd64"))[0] == 0
    for os_, wanted in (("darwin", "darwin/arm64"), ("linux", "linux/amd64")):
        shown = json.loads((await run(tmp_path, "inspect", both, "--json", "--platform", wanted))[1])
        assert (shown["machine"]["os"], "local" in shown) == (os_, os_ == "linux")
    target = f"{registry.host}/{path}:tart"
    code, output = await run(tmp_path, "convert", both, target, "--format", "tart", "--platform", "darwin/arm64")
    assert code == 0, output
    assert json.loads((await run(tmp_path, "inspect", target, "--json"))[1])["machine"]["os"] == "darwin"
    only = f"{registry.host}/{path}:darwin"
    for words in (["inspect", only], ["convert", only, target]):
        code, output = await run(tmp_path, *words, "--platform", "linux/amd64")
        assert (code, output.count("\n")) == (2, 1), output
        assert "is an image for darwin/arm64, not for linux/amd64" in output


async def test_a_push_that_is_ended_says_so_and_goes_on(tmp_path: Path, registry: Registry, path: str) -> None:
    files = make_files(tmp_path / "large", size_bytes=256 * MIB, data_bytes=256 * MIB)
    source = ["--disk-path", str(files.disk), "--aux-path", str(files.aux), "--os", "linux", "--arch", "amd64"]
    words = ["push", f"{registry.host}/{path}:1", *source, "--cache-dir", str(tmp_path / "daemon")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vzkubelet", "image", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ledgers = tmp_path / "daemon" / "images" / "uploads"
    while not ledgers.exists():
        assert process.returncode is None
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert (process.returncode, out) == (143, b"")
    assert b"Traceback" not in err, err.decode()
    returned, output = await run(tmp_path, *words[:-2])
    assert returned == 0, output


async def test_a_full_volume_is_one_line_with_figures(tmp_path: Path, large: str) -> None:
    volume = tmp_path / "daemon"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", volume], check=True)
    try:
        returned, output = await run(tmp_path, "pull", large, "--platform", "linux/amd64")
        assert (returned, output.count("\n")) == (7, 1), output
        assert re.search(r"\d+ bytes free", output)
    finally:
        subprocess.run(["umount", volume], check=True)


async def test_a_terminal_gets_a_bar_with_rate_and_time_left(tmp_path: Path, large: str) -> None:
    controller, terminal = os.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            shown.extend(os.read(controller, 65536))
        except OSError:  # EIO: the other side has gone
            asyncio.get_running_loop().remove_reader(controller)

    asyncio.get_running_loop().add_reader(controller, read)
    try:
        process = await asyncio.create_subprocess_exec(
            *slow_pull(tmp_path, large, "8Mi"),
            stdout=asyncio.subprocess.PIPE,
            stderr=terminal,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(terminal)
        out, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    finally:
        asyncio.get_running_loop().remove_reader(controller)
        os.close(controller)
    assert process.returncode == 0
    assert out.startswith(f"Pulled {large}\n".encode()), "the bar is not on standard output"
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", bytes(shown)).decode()
    assert "━" in text
    assert re.search(r"pull .*\d+\.\d of 24\.\d MiB, [\d.]+ MiB/s, \d+s left", text)
    assert "24.0 of 24.0 MiB" in text
