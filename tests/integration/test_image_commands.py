"""The image verbs as a user calls them: a round trip, mistakes, and what is looked at before anything is sent."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.registry import BasicAuth, Registry
from tests.support.cluster_fixtures import StartRegistry
from tests.support.vm_images import MIB, make_files
from vzkubelet.images import Library
from vzkubelet.images.formats import agoda
from vzkubelet.model.oci import Platform
from vzkubelet.model.reference import parse

WAIT_S = 30
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
        (["pull", "--platform", "linux", "r.io/vm:1"], 2, "not of the form OS/ARCH"),
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
