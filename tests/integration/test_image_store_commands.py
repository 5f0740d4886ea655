"""The image verbs on what this host has, as a user types them: import, ls, inspect, pin, verify, prune, export, rm."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from tests.support import vm_bundles
from tests.support.vm_bundles import MIB
from vzkubelet.images.store import Store
from vzkubelet.machines.directory import MachineRecord

WAIT_S = 60
REFERENCE = "localhost/mac:1"


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Host:
    """A cache directory of its own, and the verbs on it."""

    directory: Path

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def store(self) -> Store:
        return Store(self.cache / "images")

    def command(self, *arguments: object) -> list[str]:
        words = list(map(str, arguments))
        return [sys.executable, "-m", "vzkubelet", "image", *words, "--cache-dir", str(self.cache)]

    def __call__(self, *arguments: object) -> Done:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=WAIT_S)
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def works(self, *arguments: object) -> Done:
        done = self(*arguments)
        assert done.code == 0, done.err
        return done

    def content(self, kind: str = "disk", reference: str = REFERENCE) -> Path:
        inspected = self.works("inspect", reference, "--json").json
        assert isinstance(inspected, dict)
        return Path(inspected[kind]["path"])


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def imported(host: Host) -> Host:
    host.works("import", vm_bundles.tart(host.directory / "vm"), REFERENCE)
    return host


def test_from_a_bundle_to_a_bundle(host: Host) -> None:
    done = host.works("import", vm_bundles.utm(host.directory / "vm.utm"), REFERENCE)
    assert done.out.startswith(f"Imported {REFERENCE}, UTM, 8.0 MiB\nDigest: sha256:")
    done = host.works("export", REFERENCE, host.directory / "out", "--format", "tart")
    assert done.out == f"Exported {REFERENCE} to {host.directory}/out\n"
    assert sorted(path.name for path in (host.directory / "out").iterdir()) == ["config.json", "disk.img", "nvram.bin"]
    again = host("export", REFERENCE, host.directory / "out")
    assert (again.code, again.err.count("\n")) == (4, 1)
    assert "exists" in again.err


def test_a_disk_and_what_it_does_not_say(host: Host) -> None:
    disk, aux = vm_bundles.disk(host.directory / "disk.raw"), vm_bundles.aux(host.directory / "vars.fd")
    refused = host("import", disk, REFERENCE, "--os", "linux", "--arch", "amd64")
    assert (refused.code, "--aux-path" in refused.err) == (2, True)
    done = host.works(
        *("import", disk, REFERENCE, "--os", "linux", "--arch", "amd64", "--aux-path", aux, "--cpu-min", 2, "--json")
    )
    assert isinstance(done.json, dict)
    assert done.json["reference"] == REFERENCE
    machine = host.works("inspect", REFERENCE, "--json").json
    assert isinstance(machine, dict)
    assert (machine["machine"]["os"], machine["machine"]["cpuMin"]) == ("linux", 2)


@pytest.mark.parametrize("disk", ["disk.qcow2", "machine.utm"])
def test_a_qcow2_disk_is_imported_and_not_pushed(host: Host, disk: str) -> None:
    """Hazard: the container of a qcow2 disk pushed as if it were the disk."""
    raw = vm_bundles.disk(host.directory / "disk.raw")
    path = host.directory / "disk.qcow2"
    aux = vm_bundles.aux(host.directory / "vars.fd")
    source = ["--disk-path", path, "--aux-path", aux, "--os", "linux"]
    if disk == "machine.utm":
        source = ["--bundle", vm_bundles.utm_qemu(host.directory / disk)]
        path = host.directory / disk / "Data" / "0F4B.img"
        path.unlink()
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, path], check=True)
    refused = host("push", *source, "localhost:1/vm:1")
    assert (refused.code, "`image import` it first" in refused.err) == (2, True)


def test_lists_say_what_is_shared(imported: Host) -> None:
    lume = vm_bundles.lume(imported.directory / "other")
    vm_bundles.aux(lume / "nvram.bin", seed=77)
    imported.works("import", lume, "localhost/other:1")
    rows = imported.works("ls", "--json").json
    assert isinstance(rows, list)
    assert [row["reference"] for row in rows] == [REFERENCE, "localhost/other:1"]
    for row in rows:
        assert row["sizeBytes"] == 8 * MIB + 300_000
        assert row["allocatedBytes"] > MIB
        assert 0 < row["uniqueBytes"] < MIB, "the disk belongs to both"
        assert (row["pinned"], row["complete"]) == (False, True)
    table = imported.works("ls").out.splitlines()
    assert table[0].split()[:4] == ["REFERENCE", "DIGEST", "PLATFORM", "SIZE"]
    assert len(table) == 3
    assert imported.works("ls", "-q").out == f"{REFERENCE}\nlocalhost/other:1\n"


def test_a_list_may_end_early(imported: Host) -> None:
    """Hazard: `image ls | head -1` ends with a traceback."""
    line = " ".join(imported.command("ls"))
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} | (exec 0<&-; true); echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.stdout.strip() in ("0", "141")
    assert done.stderr == ""


def test_pinned_images_stay_until_they_are_removed(imported: Host) -> None:
    assert imported.works("pin", REFERENCE).out == f"Pinned {REFERENCE}\n"
    assert "pinned" in imported.works("ls").out
    assert "pinned" in imported.works("inspect", REFERENCE).out
    assert imported.works("prune", "--all").out.endswith("Freed 0 B\n")
    assert imported.works("ls", "-q").out
    assert imported.works("unpin", REFERENCE).out == f"Unpinned {REFERENCE}\n"
    assert imported.works("unpin", REFERENCE).out == f"{REFERENCE} was not pinned\n"
    assert imported.works("prune", "--all").out.startswith(f"Removed {REFERENCE}, 1.")
    assert imported.works("ls", "-q").out == ""
    assert imported("pin", REFERENCE).code == 3


def test_a_prune_that_is_tried_removes_nothing_and_tells_the_same(imported: Host) -> None:
    (imported.cache / "images" / "staging" / ("ab" * 32)).mkdir(parents=True)
    (imported.cache / "images" / "staging" / ("ab" * 32) / "data").write_bytes(b"x" * MIB)
    tried = imported.works("prune", "--all", "--dry-run", "--json").json
    assert isinstance(tried, dict)
    assert imported.works("ls", "-q").out
    done = imported.works("prune", "--all", "--json").json
    assert isinstance(done, dict)
    assert tried.pop("dryRun")
    assert not done.pop("dryRun")
    assert tried == done
    assert done["leftoverBytes"] == MIB
    assert done["freedBytes"] > 2 * MIB
    assert imported.works("ls", "-q").out == ""


def test_a_prune_leaves_named_images_unless_it_is_told(imported: Host) -> None:
    assert imported.works("prune").out == "Freed 0 B\n"
    assert imported.works("prune", "--all", "--unused-for", "1h").out == "Freed 0 B\n"
    assert imported.works("ls", "-q").out
    refused = imported("prune", "--unused-for", "1h")
    assert (refused.code, "--all" in refused.err) == (2, True)
    refused = imported("prune", "--all", "--unused-for", "soon")
    assert (refused.code, "not a duration" in refused.err) == (2, True)


@pytest.mark.parametrize("state", ["node", "standalone/pod"])
def test_images_of_machines_are_not_pruned(imported: Host, state: str) -> None:
    """Hazard: a machine that is started again finds that its image was pruned."""
    directory = imported.cache / state / "machines" / "uid-1"
    directory.mkdir(parents=True)
    record = MachineRecord(
        driver="qemu",
        namespace="default",
        name="vm",
        uid="uid-1",
        image=REFERENCE,
        image_id="",
        os="darwin",
        architecture="arm64",
        cpus=1,
        memory_bytes=MIB,
    )
    (directory / "machine.json").write_bytes(msgspec.json.encode(record))
    assert imported.works("prune", "--all").out == "Freed 0 B\n"
    assert imported.works("ls", "-q").out == f"{REFERENCE}\n"


def test_images_that_are_to_be_here_are_not_pruned(imported: Host) -> None:
    done = subprocess.run(
        imported.command("prune", "--all"),
        env={**os.environ, "VZ_PREPULL": REFERENCE},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert (done.returncode, done.stdout) == (0, "Freed 0 B\n"), done.stderr


def test_one_flipped_byte_is_found_and_ends_with_another_code(imported: Host) -> None:
    assert imported.works("verify").out.endswith("all are as they came\n")
    disk = imported.content()
    disk.chmod(0o644)
    with disk.open("r+b") as file:
        file.seek(7 * MIB + 5000)
        file.write(b"!")
    done = imported("verify", REFERENCE)
    assert done.code == 1
    assert done.out.startswith(f"damaged: content sha256:{disk.name} of {REFERENCE}")
    assert f"pull again: {REFERENCE}" in done.out
    assert "incomplete" in imported.works("ls").out
    assert "incomplete" in imported.works("inspect", REFERENCE).out
    told = imported("verify", "--json")
    assert told.code == 1
    assert isinstance(told.json, dict)
    assert [finding["references"] for finding in told.json["findings"]] == [[REFERENCE]]
    assert imported("verify", "localhost/none").code == 3
    assert imported("export", REFERENCE, imported.directory / "out").code == 3
    imported.works("import", imported.directory / "vm", REFERENCE)
    assert imported.works("verify").code == 0


def test_removing_tells_what_was_freed(imported: Host) -> None:
    imported.works("import", imported.directory / "vm", "localhost/mac:2")
    assert imported.works("rm", REFERENCE).out == f"Removed {REFERENCE}, 0 B freed\n"
    assert imported.works("rm", "localhost/mac:2").out.startswith("Removed localhost/mac:2, 1.")
    missing = imported("rm", REFERENCE)
    assert (missing.code, missing.err.count("\n")) == (3, 1)


def test_names_that_go_with_a_digest_are_told(imported: Host) -> None:
    """Hazard: `rm` of a digest took a tag along, even a pinned one, and named the digest only."""
    imported.works("import", imported.directory / "vm", "localhost/mac:2")
    inspected = imported.works("inspect", REFERENCE, "--json").json
    assert isinstance(inspected, dict)
    done = imported.works("rm", f"localhost/mac@{inspected['digest']}")
    assert done.out.startswith(f"Removed {REFERENCE}, localhost/mac:2, 1.")
    assert imported.works("ls", "-q").out == ""


def test_an_image_that_is_gone_keeps_none_of_the_others(imported: Host) -> None:
    """Hazard: `rm` stopped at the first one that was not there, and its JSON kept silent on what it had removed."""
    second = "localhost/mac:2"
    imported.works("import", imported.directory / "vm", second)
    done = imported("rm", "--json", REFERENCE, "localhost/gone:1", second, "localhost/gone:2")
    assert done.code == 3
    assert [row["reference"] for row in json.loads(done.out)] == [REFERENCE, second]
    assert done.err.count("is not on this host") == done.err.count("\n") == 2
    assert imported.works("ls", "-q").out == ""


def test_a_platform_beside_an_image_of_this_host_is_not_lost(imported: Host) -> None:
    """Hazard: --os and --arch had no effect, and the image went out as what it was not said to be."""
    done = imported("push", "localhost:1/vm:1", "--from", REFERENCE, "--os", "linux", "--arch", "amd64")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"do not go with {REFERENCE} of this host, which is darwin/arm64" in done.err


def test_a_bad_name_removes_none_of_the_others(imported: Host) -> None:
    assert imported("rm", REFERENCE, "A:B:C").code == 2
    assert imported.works("ls", "-q").out == f"{REFERENCE}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["import", "nowhere", REFERENCE], 3, "nowhere does not exist"),
        (["import", "VM", "A:B:C"], 2, "couldn't parse image name"),
        (["import", "VM", f"localhost/vm@sha256:{'0' * 64}"], 2, "under a tag"),
        (["import", "VM", REFERENCE, "--os", "linux"], 2, "do not go with a bundle"),
        (["import", "VM", REFERENCE, "--memory-min", "many"], 2, "--memory-min"),
        (["export", "localhost/none", "out"], 3, "is not on this host"),
        (["export", REFERENCE], 2, "Missing argument"),
        (["inspect", "localhost:1/none"], 8, "cannot be reached"),
        (["pul"], 2, "Did you mean pull?"),
        (["push", "localhost:1/none:1"], 3, "is not on this host: give --bundle"),
        (["push", "--base", "a:1", "localhost:1/none:1"], 2, "--format chunked"),
        (["convert", "a:1", f"localhost/vm@sha256:{'0' * 64}"], 2, "under a tag"),
        (["pull", "--ca-file", "nowhere", "localhost:1/x"], 2, "--ca-file: cannot read nowhere"),
        (["pull", "--ca-file", "/dev/null", "localhost:1/x"], 2, "no certificates"),
    ],
)
def test_mistakes_are_one_line(host: Host, arguments: list[str], code: int, words: str) -> None:
    vm_bundles.tart(host.directory / "vm")
    done = host(*(str(host.directory / "vm") if word == "VM" else word for word in arguments))
    assert (done.code, done.err.count("\n"), done.out) == (code, 1, "")
    assert words in done.err


@pytest.mark.parametrize("verb", ["ls", "verify", "prune", "rm x", "pull localhost:1/x"])
def test_a_cache_that_is_a_file_is_told_as_such(host: Host, verb: str) -> None:
    """Hazard: exit code 8, as if a registry could not be reached."""
    host.cache.touch()
    done = host(*verb.split())
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert "give a directory as --cache-dir" in done.err


@pytest.mark.parametrize("parent", ["vm/disk.img", "n" * 300])
def test_an_export_to_nowhere_is_a_mistake_of_the_command_line(imported: Host, parent: str) -> None:
    """Hazard: exit code 8, with which scripts try again, as if a registry could not be reached."""
    done = imported("export", REFERENCE, imported.directory / parent / "out")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert "cannot write" in done.err


def test_no_permission_is_told(host: Host) -> None:
    """As a user who may not read the machine's disk; root may read all."""
    directory = vm_bundles.tart(host.directory / "vm")
    (directory / "disk.img").chmod(0)
    code = (
        "import os, sys; import vzkubelet.cli.image.import_, vzkubelet.cli.verbs; os.setgid(65534); os.setuid(65534); "
        "from vzkubelet.cli import main; main()"
    )
    for path in (host.directory, *host.directory.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    words = host.command("import", directory, REFERENCE)[3:]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stderr.count("\n")) == (5, 1), done.stderr
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize(
    "verb",
    [
        "ls",
        "verify",
        "prune",
        "pin x",
        "unpin x",
        "inspect x",
        "rm x",
        "export x out",
        "convert localhost:1/x localhost:1/y",
    ],
)
def test_another_users_cache_is_told_as_such(imported: Host, verb: str) -> None:
    """Hazard: a traceback, as `convert` had."""
    code = (
        "import os, importlib, vzkubelet.cli.verbs; "
        "[importlib.import_module('vzkubelet.cli.image.' + name) for name in "
        "'ls verify prune pin unpin inspect rm export convert'.split()]; os.setgroups([]); "
        "os.setgid(65534); os.setuid(65534); os.chdir('/'); from vzkubelet.cli import main; main()"
    )
    words = imported.command(*verb.split())[3:]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "DOCKER_CONFIG": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1), done.stderr
    assert "Permission denied" in done.stderr
    assert "--cache-dir" in done.stderr


# --- Interruptions


@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_an_import_that_is_ended_leaves_nothing(host: Host, signal_: signal.Signals, code: int) -> None:
    directory = vm_bundles.tart(host.directory / "vm")
    with (directory / "disk.img").open("r+b") as disk:
        disk.truncate(64 * 1024 * MIB)  # a hole: seconds of hashing, no bytes
    process = await asyncio.create_subprocess_exec(
        *host.command("import", directory, REFERENCE), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    staging = host.cache / "images" / "staging"
    while not any(staging.glob("*/data")):
        assert process.returncode is None
        await asyncio.sleep(0.02)
    process.send_signal(signal_)
    out, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert (process.returncode, out) == (code, b"")
    assert b"Traceback" not in err
    assert list(staging.iterdir()) == []
    assert host.works("ls", "-q").out == ""
