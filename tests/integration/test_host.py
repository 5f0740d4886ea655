"""`doctor`, the copied interpreter and the service's unit on this very machine."""

import asyncio
import base64
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from tests.support.cluster_fixtures import MintCredential
from tests.unit.host.hosts_support import certificate_pem
from vzkubelet.daemon import preflight
from vzkubelet.host.local import LocalProbe
from vzkubelet.host.service import install, place
from vzkubelet.host.service.captured import Captured
from vzkubelet.host.signing import bundle, interpreter
from vzkubelet.host.signing.bundle import Wishes
from vzkubelet.host.signing.sign import PROOF

SCRIPT = Path(sys.executable).parent / "macos-vz-kubelet"
LOGIN = {"VZ_SSH_USER": "root", "VZ_SSH_PASSWORD": "a b'c"}


def run(*arguments: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(home), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def findings(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in report["findings"]}


def test_doctor_of_a_node_with_a_real_control_plane(
    mint_credential: MintCredential, cluster: ControlPlane, tmp_path: Path
) -> None:
    credential = mint_credential()
    done = run(
        "doctor", "--json", "--nodename", credential.node_name, "--kubelet-port", "0", "--guest-network=user",
        home=tmp_path, **credential.environment(), **LOGIN,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    found = findings(report)
    assert report["driver"] == "qemu"
    assert report["problems"] == 0
    for check in ("kubeconfig", "api-server", "clock", "client-certificate", "serving-certificate", "programs", "port"):
        assert found[check]["severity"] == "ok", found[check]
    assert f"system:node:{credential.node_name}" in found["api-server"]["what"]
    assert found["acceleration"]["severity"] in ("ok", "warning")
    assert not list(tmp_path.glob(".cache/*")), "an examination leaves nothing behind"


def test_doctor_tells_a_credential_of_another_node(
    mint_credential: MintCredential, cluster: ControlPlane, tmp_path: Path
) -> None:
    credential = mint_credential()
    done = run("doctor", "--json", "--nodename", "other", home=tmp_path, **credential.environment(), **LOGIN)
    assert done.returncode == 1, done.stderr
    found = findings(json.loads(done.stdout))["api-server"]
    assert found["severity"] == "problem"
    assert found["fix"] == [f"macos-vz-kubelet --nodename {credential.node_name}"]


def test_doctor_tells_a_server_that_is_not_there(mint_credential: MintCredential, tmp_path: Path) -> None:
    credential = mint_credential()
    gone = tmp_path / "gone.kubeconfig"
    gone.write_text(credential.kubeconfig.read_text().replace(credential.server, "https://127.0.0.1:1"))
    environment = {**credential.environment(), "KUBECONFIG": str(gone), **LOGIN}
    done = run("doctor", "--nodename", credential.node_name, home=tmp_path, **environment)
    assert done.returncode == 1
    assert "✘ api-server" in done.stdout
    assert "! clock" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_doctor_tells_a_certificate_authority_of_another_cluster(
    mint_credential: MintCredential, cluster: ControlPlane, tmp_path: Path
) -> None:
    credential = mint_credential()
    document = yaml.safe_load(credential.kubeconfig.read_text())
    entry = document["clusters"][0]["cluster"]
    entry.pop("certificate-authority", None)
    other = certificate_pem(time.time(), name="another cluster")
    entry["certificate-authority-data"] = base64.b64encode(other).decode()
    wrong = credential.directory / "other.kubeconfig"
    wrong.write_text(yaml.safe_dump(document))
    environment = {**credential.environment(), "KUBECONFIG": str(wrong), **LOGIN}
    done = run("doctor", "--json", "--nodename", credential.node_name, home=tmp_path, **environment)
    found = findings(json.loads(done.stdout))["api-server"]
    assert f"the certificate-authority in {wrong} is not the one of {credential.server}" in found["what"]
    assert "set-cluster" in found["fix"][-1]


def test_doctor_without_a_cluster_needs_no_settings(tmp_path: Path) -> None:
    done = run("doctor", "--standalone", "--guest-network", "user", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✔ programs" in done.stdout
    assert "kubeconfig" not in done.stdout


def test_doctor_tells_every_mistake_of_the_configuration(tmp_path: Path) -> None:
    done = run("doctor", "--json", "--kubelet-port", "x", home=tmp_path, VZ_SSH_USER="root")
    assert done.returncode == 1, done.stderr
    found = [entry for entry in json.loads(done.stdout)["findings"] if entry["check"] == "configuration"]
    assert [entry["what"].split()[0] for entry in found] == [
        "--kubelet-port:", "APISERVER_CERT_LOCATION", "APISERVER_KEY_LOCATION", "VZ_SSH_PASSWORD",
    ]  # fmt: skip


def test_doctor_looks_at_the_installed_agent(tmp_path: Path) -> None:
    """Without any flag: the settings are those that `install` wrote down."""
    where = place.of(_Elsewhere(tmp_path).facts)
    taken = Captured((f"--cache-dir={tmp_path}/elsewhere", "--guest-network=user"), {"VZ_SSH_USER": "u"})
    wanted = install.plan(where, ("agent",), taken, tmp_path / "elsewhere", tmp_path)
    install.write(wanted, lambda _: None)
    subject = asyncio.run(preflight.subject({}, _Elsewhere(tmp_path), in_cluster=False))
    assert subject.config.cache_dir == tmp_path / "elsewhere"
    assert subject.config.guests.ssh_user == "u"
    overruled = asyncio.run(preflight.subject({"cache-dir": "/x"}, _Elsewhere(tmp_path), in_cluster=False))
    assert (str(overruled.config.cache_dir), overruled.config.guests.ssh_user) == ("/x", "u")


def test_only_a_mac_checks_itself(tmp_path: Path) -> None:
    done = run("doctor", "--self-check", home=tmp_path)
    assert done.returncode == 6
    assert "Mac" in done.stderr or "macOS" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_a_mac_signs(tmp_path: Path) -> None:
    done = run("sign", "--dry-run", home=tmp_path)
    assert done.returncode == 6
    assert "not a Mac program" in done.stderr


class _Elsewhere(LocalProbe):
    """This machine, for a user whose home is another directory."""

    def __init__(self, home: Path) -> None:
        super().__init__({"PATH": os.environ["PATH"]})
        self.facts = dataclasses.replace(self.facts, home=home, uid=1000)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The bundle that `sign` would make of this interpreter, without its signature."""
    running = interpreter.running()
    data = running.executable.read_bytes()
    plan = bundle.plan(running, data, {}, Wishes({"com.apple.security.virtualization": True}))
    for relative, content in plan.files.items():
        file = tmp_path / "My Apps" / "m.app" / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    app = tmp_path / "My Apps" / "m.app"
    (app / bundle.EXECUTABLE).chmod(0o755)
    return app


def test_the_copied_interpreter_finds_library_and_packages(app: Path) -> None:
    """Everything but codesign is the same on every system: PEP 405 and path files."""
    program = app / bundle.EXECUTABLE
    done = subprocess.run([program, "-P", "-c", PROOF], capture_output=True, text=True, cwd="/", env={}, timeout=30)
    assert done.stdout == "ok\n", done.stderr
    where = "import sys, vzkubelet; print(sys.prefix, sys.executable, vzkubelet.__file__, sep='\\n')"
    said = subprocess.run([program, "-c", where], capture_output=True, text=True, cwd="/", env={}, timeout=30).stdout
    prefix, executable, package = said.splitlines()
    assert Path(prefix) == app / "Contents"
    assert Path(executable) == program
    assert Path(package).name == "__init__.py"


def test_the_agent_runs_from_the_copied_interpreter(app: Path) -> None:
    done = subprocess.run(
        [app / bundle.EXECUTABLE, "-P", "-m", "vzkubelet", "version"],
        capture_output=True,
        text=True,
        env={},
        timeout=30,
    )
    assert done.stdout.startswith("macos-vz-kubelet "), done.stderr


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    awkward = tmp_path / 'ca che 100% "$HOME"'
    done = run("install", "--print", "--nodename", "mac-1", "--cache-dir", str(awkward), home=tmp_path, **LOGIN)
    assert done.returncode == 0, done.stderr
    assert LOGIN["VZ_SSH_PASSWORD"] not in done.stdout
    unit = tmp_path / "macos-vz-kubelet.service"
    unit.write_text(done.stdout)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_nothing_is_installed_without_the_settings_that_the_agent_needs(tmp_path: Path) -> None:
    done = run("install", "--nodename", "mac-1", home=tmp_path)
    assert done.returncode == 2
    assert "VZ_SSH_PASSWORD is not set" in done.stderr


def test_there_is_nothing_to_uninstall(tmp_path: Path) -> None:
    done = run("uninstall", home=tmp_path)
    assert done.returncode == 3
    assert "nothing is installed" in done.stderr
