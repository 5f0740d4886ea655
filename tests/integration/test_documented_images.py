"""docs/images.md: every command exists, and those that can be typed here do what it says, in its order."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.registry import BasicAuth
from tests.support import vm_bundles
from tests.support.cluster_fixtures import StartRegistry
from tests.support.documented import blocks, calls, check_call
from vzkubelet import config
from vzkubelet.cli.image import VERBS
from vzkubelet.cli.verbs import EXIT_CODES

DOCUMENT = Path(__file__).parents[2] / "docs" / "images.md"
TEXT = DOCUMENT.read_text()


def test_every_verb_and_option_exists_and_every_verb_is_told() -> None:
    told = {check_call(words) for words in calls(DOCUMENT)}
    assert set(VERBS) - {"logout", "create"} <= told


def test_every_setting_exists_with_its_default() -> None:
    settings = {setting.name: setting for setting in config.options()}
    for name in re.findall(r"`--(image-[a-z-]+|prepull[a-z-]*|max-[a-z-]+|minimum-[a-z-]+|cache-dir)", TEXT):
        assert name in settings, name
    for row in re.findall(r"^\| `(--[^|]*)` \| ([^|]*) \|", TEXT, flags=re.MULTILINE):
        names, defaults = re.findall(r"--([a-z-]+)", row[0]), row[1].split(", ")
        assert [settings[name].default for name in names] == [default.strip() for default in defaults]


def test_the_exit_codes_are_those_of_the_program() -> None:
    told = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", TEXT, flags=re.MULTILINE) for code in row.split(", ")}
    assert told <= set(EXIT_CODES)
    assert told >= {0, 1, 2, 3, 4, 5, 6, 7, 8, 130, 141, 143}


@pytest.fixture
def shell(tmp_path: Path, registry_factory: StartRegistry) -> "Shell":
    return Shell(tmp_path, registry_factory(basic_auth=BasicAuth("ci", "secret")).host)


class Shell:
    """A Mac's home as far as the document needs one: the program, machines of tart, a registry."""

    def __init__(self, directory: Path, registry: str) -> None:
        self.directory = directory
        self.registry = registry
        self.home = directory / "home"
        vm_bundles.tart(self.home / ".tart" / "vms" / "base")
        program = directory / "bin" / "macos-vz-kubelet"
        program.parent.mkdir()
        # Where a Mac would be asked for, the platform is given.
        program.write_text(
            "#!/bin/bash\n"
            f'words=(); [ "$1 $2" = "image pull" ] && words=(--platform darwin/arm64)\n'
            f'exec {sys.executable} -m vzkubelet "$@" "${{words[@]}}"\n'
        )
        program.chmod(0o755)

    def run(self, script: str, **environment: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace("registry.example", self.registry)],
            cwd=self.directory,
            env={
                "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
                "HOME": str(self.home),
                "XDG_CACHE_HOME": str(self.directory / "cache"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def block(beginning: str) -> str:
    """The block with a line that begins so."""
    found = [text for text in blocks(DOCUMENT) if any(line.startswith(beginning) for line in text.splitlines())]
    assert len(found) == 1, beginning
    return found[0]


def test_every_day(shell: Shell) -> None:
    (shell.directory / "password").write_text("secret")
    everyday = block("macos-vz-kubelet image login registry.example -u ci")
    *before, removal = everyday.strip().splitlines()
    out = shell.run("\n".join(before))
    assert "Imported" in out
    assert "Pushed" in out
    assert "Pulled" in out
    shell.run(block("macos-vz-kubelet image convert registry.example/team/base:1 registry.example/team/base:1-tart"))
    inspected = shell.run("macos-vz-kubelet image inspect --remote registry.example/team/base:1-tart --json")
    assert json.loads(inspected)["format"] == "tart"
    shell.run(block("macos-vz-kubelet image push registry.example/team/base:2 --from"))
    for beginning in (
        "macos-vz-kubelet image export registry.example/team/base:1 ~/.tart/vms/base-copy",
        "macos-vz-kubelet image verify  ",
        "macos-vz-kubelet image prune --dry-run",
    ):
        shell.run(block(beginning))
    copied, made = shell.home / ".tart" / "vms" / "base-copy", shell.home / ".tart" / "vms" / "base"
    for name in ("disk.img", "nvram.bin"):
        assert (copied / name).read_bytes() == (made / name).read_bytes()
    assert (shell.directory / "base-copy" / "vm.json").exists()
    shell.run(f"{removal}\nmacos-vz-kubelet image pull registry.example/team/base:1 --rate 50Mi")
    assert shell.run("macos-vz-kubelet image ls -q") == f"{shell.registry}/team/base:1\n"


def test_in_ci(shell: Shell) -> None:
    environment = {
        "REGISTRY_PASSWORD": "secret",
        "REGISTRY_USER": "ci",
        "MACHINE_DIRECTORY": str(shell.home / ".tart" / "vms" / "base"),
    }
    first = block("digest=$(macos-vz-kubelet image push")
    again = block('macos-vz-kubelet image convert "registry.example/team/base@$digest"')
    hosts = block("macos-vz-kubelet image pull registry.example/team/base:stable")
    shell.run(f"{first}\n{again}\n{hosts}", **environment)
    inspected = json.loads((shell.directory / "image.json").read_text())
    assert inspected["format"] == "chunked"
    assert shell.run("macos-vz-kubelet image ls -q") == f"{shell.registry}/team/base:stable\n"
    assert json.loads((shell.home / ".docker" / "config.json").read_text())["auths"].keys() == {shell.registry}


def test_without_a_network(shell: Shell) -> None:
    shell.run("macos-vz-kubelet image import ~/.tart/vms/base registry.example/team/base:1")
    stick = block("macos-vz-kubelet image export registry.example/team/base:1 /Volumes/USB/base")
    exported, imported = stick.replace("/Volumes/USB", str(shell.directory)).strip().splitlines()
    shell.run(exported)
    before = json.loads(shell.run("macos-vz-kubelet image inspect registry.example/team/base:1 --json"))
    shell.run(f"macos-vz-kubelet image rm registry.example/team/base:1; {imported}")
    after = json.loads(shell.run("macos-vz-kubelet image inspect registry.example/team/base:1 --json"))
    assert after["machine"] == before["machine"]
    assert after["digest"] == before["digest"]


def test_a_qcow2_disk(shell: Shell) -> None:
    disks = shell.home / "disks"
    vm_bundles.aux(disks / "vars.fd")
    raw = vm_bundles.disk(disks / "raw")
    subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", raw, disks / "debian.qcow2"], check=True)
    assert "Imported" in shell.run(block("macos-vz-kubelet image import ~/disks/debian.qcow2"))
