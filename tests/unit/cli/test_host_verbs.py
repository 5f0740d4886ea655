"""``sign``, ``install`` and ``uninstall`` over a Mac that is not there."""

import plistlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.apple_tools import Codesign, Manager, standalone_python
from tests.unit.host.hosts_support import certificate_pem, key_pem
from vzkubelet import cli, config
from vzkubelet.host.service.place import LABEL
from vzkubelet.host.signing import bundle, interpreter

Verb = Callable[..., tuple[int, str, str]]
KEPT_VARIABLES = {"VZ_SSH_USER": "admin", "VZ_SSH_PASSWORD": "a b'c", "DOCKER_HOST": "unix:///d.sock"}


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Verb:
    """Runs a command line; its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.invoke(arguments)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def codesign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Codesign:
    host, python = Codesign(), standalone_python(tmp_path)
    monkeypatch.setattr("vzkubelet.host.local.LocalProbe", lambda _: host)
    monkeypatch.setattr(interpreter, "running", lambda: python)
    monkeypatch.setattr("vzkubelet.telemetry.logs.configure", lambda *_: None)
    return host


def test_sign_prints_what_it_ran_and_does_nothing_twice(verb: Verb, codesign: Codesign, tmp_path: Path) -> None:
    app = tmp_path / "m.app"
    code, out, err = verb("sign", "--vz-helper-app", str(app))
    assert (code, err) == (0, "")
    assert "  entitlement com.apple.security.virtualization\n" in out
    assert out.count("$ codesign ") == 4
    assert out.endswith(f"Signed {app}\n")
    ran = len(codesign.ran)
    code, out, _ = verb("sign", "--vz-helper-app", str(app))
    assert code == 0
    assert "Nothing has changed" in out
    assert not any("--sign" in line for line in codesign.ran[ran:])
    _, out, _ = verb("sign", "--vz-helper-app", str(app), "--force")
    assert "Local Network" in out


def test_sign_changes_nothing_in_a_dry_run(verb: Verb, codesign: Codesign, tmp_path: Path) -> None:
    code, out, _ = verb("sign", "--vz-helper-app", str(tmp_path / "m.app"), "--dry-run", "--hardened")
    assert code == 0
    assert "--options runtime" in out
    assert f"  file {bundle.EXECUTABLE}\n" in out
    assert not codesign.ran
    assert not (tmp_path / "m.app").exists()


def test_sign_tells_a_grant_that_is_missing(verb: Verb, codesign: Codesign, tmp_path: Path) -> None:
    code, _, err = verb("sign", "--vz-helper-app", str(tmp_path / "m.app"), "--entitlement", "com.apple.vm.networking")
    assert code == 2
    assert "--provisioning-profile FILE" in err


KUBECONFIG = """\
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443"}}]
contexts: [{name: x, context: {cluster: c}}]
current-context: x
"""


@pytest.fixture
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what a node is given."""
    directory = tmp_path_factory.mktemp("credentials")
    (directory / "kubeconfig").write_text(KUBECONFIG)
    (directory / "tls.crt").write_bytes(certificate_pem(time.time()))
    (directory / "tls.key").write_bytes(key_pem())
    return directory


@pytest.fixture
def manager(tmp_path: Path, credentials: Path, monkeypatch: pytest.MonkeyPatch) -> Manager:
    host = Manager()
    host.facts = replace(host.facts, home=tmp_path)
    host.modes[tmp_path / "m.app" / bundle.EXECUTABLE] = (0o100755, 501)
    monkeypatch.setattr("vzkubelet.host.local.LocalProbe", lambda _: host)
    for option in config.options():
        monkeypatch.delenv(option.env or "_", raising=False)
    monkeypatch.setenv("APISERVER_CERT_LOCATION", str(credentials / "tls.crt"))
    monkeypatch.setenv("APISERVER_KEY_LOCATION", str(credentials / "tls.key"))
    monkeypatch.setenv("KUBECONFIG", str(credentials / "kubeconfig"))
    for name, value in KEPT_VARIABLES.items():
        monkeypatch.setenv(name, value)
    return host


def test_install_writes_flags_into_the_job_and_secrets_aside(verb: Verb, manager: Manager, tmp_path: Path) -> None:
    app = tmp_path / "m.app"
    arguments = ("--nodename", "mac-1", "--disable-taint", "--vz-helper-app", str(app))
    code, out, err = verb("install", *arguments, "--cache-dir", str(tmp_path / "cache"))
    assert (code, err) == (0, "")
    job = plistlib.loads((tmp_path / f"Library/LaunchAgents/{LABEL}.plist").read_bytes())
    assert job["ProgramArguments"][:4] == [str(app / bundle.EXECUTABLE), "-P", "-m", "vzkubelet"]
    assert {"--nodename=mac-1", "--disable-taint=true"} <= set(job["ProgramArguments"])
    file = tmp_path / "Library/Application Support/macos-vz-kubelet/agent.env"
    assert job["ProgramArguments"][-1] == f"--environment-file={file}"
    assert config.environment_file.read(file).items() >= KEPT_VARIABLES.items()
    assert "a b'c" not in out
    again = config.read(dict(text[2:].split("=", 1) for text in job["ProgramArguments"][4:]))
    assert (again.node.name, again.node.taints, again.guests.ssh_password) == ("mac-1", (), "a b'c")


def test_install_wants_the_signed_app_first(verb: Verb, manager: Manager, tmp_path: Path) -> None:
    code, _, err = verb("install", "--vz-helper-app", str(tmp_path / "absent.app"))
    assert code == 2
    assert "run macos-vz-kubelet sign first" in err
    assert manager.ran == []


def test_install_refuses_root_on_a_mac(verb: Verb, manager: Manager, tmp_path: Path) -> None:
    manager.facts = replace(manager.facts, uid=0)
    code, _, err = verb("install", "--vz-helper-app", str(tmp_path / "m.app"))
    assert code == 2
    assert "not root" in err


def test_install_only_prints(verb: Verb, manager: Manager, tmp_path: Path) -> None:
    code, out, _ = verb("install", "--print", "--vz-helper-app", str(tmp_path / "absent.app"))
    assert code == 0
    assert plistlib.loads(out.encode())["Label"] == LABEL
    assert manager.ran == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [(), ("--print",), ("--dry-run",)])
@pytest.mark.parametrize(("flag", "told"), [
    (("--kubeconfig", "/nonexist"), "cannot read /nonexist"), (("--log-level", "loud"), "is none of debug"),
    (("--machine-driver", "qemu"), "runs on Linux hosts"), (("--client-verify-ca", "/dev/null"), "client CA /dev/null"),
    (("--nodename", "mac-1\nx"), "is not a node name"), (("--cache-dir", "/a\nb"), "--cache-dir has a line break"),
])  # fmt: skip
def test_install_refuses_what_the_agent_would(
    verb: Verb, manager: Manager, tmp_path: Path, flag: tuple[str, str], told: str, more: tuple[str, ...]
) -> None:
    code, out, err = verb("install", "--vz-helper-app", str(tmp_path / "m.app"), *flag, *more)
    assert code != 0
    assert told in err
    assert (out, manager.ran, list(tmp_path.iterdir())) == ("", [], [])


def test_install_prints_without_a_nodes_credentials(
    verb: Verb, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option in config.options():
        monkeypatch.delenv(option.env or "_", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, err = verb("install", "--print")
    assert (code, err) == (0, "")
    assert plistlib.loads(out.encode())["Label"] == LABEL


def test_install_is_told_every_mistake_once(verb: Verb, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VZ_SSH_KEX_ALGORITHMS", "none")
    monkeypatch.setenv("APISERVER_CERT_LOCATION", "/absent")
    _, _, err = verb("install", "--log-level", "loud")
    assert err.startswith("error: 3 mistakes in the configuration:")
    assert err.count("/absent") == 1


@pytest.mark.parametrize("flag", ["--print", "--dry-run"])
def test_sign_and_install_are_looked_at_in_the_same_words(
    verb: Verb, codesign: Codesign, tmp_path: Path, flag: str
) -> None:
    assert verb("sign", "--vz-helper-app", str(tmp_path / "m.app"), flag)[0] == 0
    assert not (tmp_path / "m.app").exists()


def test_purging_ends_machines_first_and_removes_images_log_and_app(
    verb: Verb, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[config.Config] = []

    async def reset(settings: config.Config) -> list[str]:
        assert (tmp_path / "cache/images").is_dir()
        assert manager.ran[-1].startswith("launchctl print"), "the agent is stopped before its machines are"
        ended.append(settings)
        return ["pod 1"]

    monkeypatch.setattr("vzkubelet.daemon.reset.run", reset)
    (tmp_path / "m.app/Contents").mkdir(parents=True)
    (tmp_path / "cache/images").mkdir(parents=True)
    where = ("--vz-helper-app", str(tmp_path / "m.app"), "--cache-dir", str(tmp_path / "cache"))
    verb("install", *where, "--machine-driver", "synthetic")
    code, out, err = verb("uninstall", "--purge")
    assert (code, err) == (0, "")
    assert ended[0].machines.driver is config.DriverChoice.SYNTHETIC
    assert "removed pod 1" in out
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "m.app").exists()


def test_uninstall_says_what_stays(verb: Verb, manager: Manager, tmp_path: Path) -> None:
    verb("install", "--vz-helper-app", str(tmp_path / "m.app"), "--cache-dir", str(tmp_path / "cache"))
    code, out, err = verb("uninstall")
    assert (code, err) == (0, "")
    assert f"Images stay in {tmp_path}/cache" in out
    assert not (tmp_path / f"Library/LaunchAgents/{LABEL}.plist").exists()
    assert verb("uninstall")[0] == 3
