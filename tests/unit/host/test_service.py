"""Definitions of the service, what is written where, and what is told to the host's manager of services."""

import configparser
import plistlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.apple_tools import Manager
from vzkubelet import config
from vzkubelet.config import Option, environment_file
from vzkubelet.errors import InvalidInput, MachineFault, NotFound, Unsupported
from vzkubelet.host.probe import Facts
from vzkubelet.host.service import captured, install, place, purge, systemd
from vzkubelet.host.service.captured import Captured
from vzkubelet.host.service.place import Place

PROGRAM = ("/Users/ci/Library/Application Support/x.app/Contents/MacOS/macos-vz-kubelet", "-P", "-m", "vzkubelet")
TAKEN = Captured(("--nodename=mac-1",), {"VZ_SSH_PASSWORD": "a 'b' $c"})


def facts(system: str, uid: int, home: Path) -> Facts:
    return Facts(system, "arm64", uid, "ci", home, "3.12.8")


@pytest.fixture
def mac_place(tmp_path: Path) -> Place:
    return place.of(facts("darwin", 501, tmp_path))


def test_the_agent_of_a_mac_lives_with_its_user(mac_place: Place, tmp_path: Path) -> None:
    assert mac_place.target == "gui/501/com.agoda.fleet.macos-vz-kubelet"
    assert mac_place.definition == tmp_path / "Library/LaunchAgents/com.agoda.fleet.macos-vz-kubelet.plist"
    assert mac_place.log == tmp_path / "Library/Logs/macos-vz-kubelet.log"


def test_root_of_linux_has_a_unit_of_the_system_and_a_user_his_own() -> None:
    root, user = place.of(facts("linux", 0, Path("/root"))), place.of(facts("linux", 1000, Path("/home/ci")))
    assert root.definition == Path("/etc/systemd/system/macos-vz-kubelet.service")
    assert root.control == ("systemctl",)
    assert user.definition == Path("/home/ci/.config/systemd/user/macos-vz-kubelet.service")
    assert user.control == ("systemctl", "--user")


def test_the_launch_agent_lets_guests_survive(mac_place: Place, tmp_path: Path) -> None:
    wanted = install.plan(mac_place, PROGRAM, TAKEN, tmp_path / "cache", tmp_path)
    job = plistlib.loads(wanted.definition)
    assert job["Label"] == mac_place.name
    assert job["ProgramArguments"] == [*PROGRAM, "--nodename=mac-1", f"--environment-file={mac_place.environment_file}"]
    assert (job["LimitLoadToSessionType"], job["ProcessType"]) == ("Aqua", "Interactive")
    assert job["AbandonProcessGroup"] is job["KeepAlive"] is job["RunAtLoad"] is True
    assert job["EnvironmentVariables"]["PATH"].split(":")[0] == "/opt/homebrew/bin"
    assert job["StandardOutPath"] == job["StandardErrorPath"] == str(mac_place.log)
    assert job["SoftResourceLimits"]["NumberOfFiles"] == job["HardResourceLimits"]["NumberOfFiles"] >= 4096


def test_no_definition_holds_a_secret(mac_place: Place, tmp_path: Path) -> None:
    for where in (mac_place, place.of(facts("linux", 0, tmp_path))):
        wanted = install.plan(where, PROGRAM, TAKEN, tmp_path, tmp_path)
        assert b"a 'b'" not in wanted.definition
        assert environment_file.parse(wanted.environment.decode(), "file") == TAKEN.variables


def unit(command: Sequence[str]) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(systemd.definition(command, Path("/root"), Path("/cache"), system=True))
    return parser


def test_the_unit_stops_the_agent_alone() -> None:
    service = unit(["/usr/bin/agent"])["Service"]
    assert service["KillMode"] == "process"
    assert service["Restart"] == "always"
    assert service["OOMPolicy"] == "continue"
    assert int(service["LimitNOFILE"]) >= 4096
    assert unit(["/usr/bin/agent"])["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize("option", ["ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts",
    "ReadWritePaths", "ProtectKernelTunables", "ProtectKernelModules", "ProtectControlGroups", "RootDirectory",
    "MemoryDenyWriteExecute", "RestrictSUIDSGID", "DynamicUser", "PrivateNetwork"])  # fmt: skip
def test_the_next_agent_sees_the_mounts_of_this_one(option: str) -> None:
    assert option not in unit(["/usr/bin/agent"])["Service"]


@pytest.mark.parametrize(("word", "written"), [
    ("--nodename=mac-1", "--nodename=mac-1"), ("a b", '"a b"'), ("100%", "100%%"), ("$HOME", "$$HOME"),
    ('say "x"', '"say \\"x\\""'), ("a\\b", '"a\\\\b"'), ("", '""'), ("it's", '"it\'s"'),
])  # fmt: skip
def test_words_of_a_unit_are_taken_literally(word: str, written: str) -> None:
    assert systemd.quoted(word) == written


def test_flags_become_arguments_and_variables_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taken = captured.capture(
        config.options(),
        {"nodename": "mac-1", "disable-taint": "true", "kubeconfig": "node.kubeconfig", "config": "settings.yaml"},
        {
            "KUBECONFIG": "ignored",
            "VZ_SSH_PASSWORD": " x ",
            "APISERVER_KEY_LOCATION": "tls.key",
            "HOME": "/",
            "PATH": "/",
        },
    )
    assert sorted(taken.arguments) == [
        f"--config={tmp_path}/settings.yaml", "--disable-taint=true", f"--kubeconfig={tmp_path}/node.kubeconfig",
        "--nodename=mac-1",
    ]  # fmt: skip
    assert taken.variables == {"VZ_SSH_PASSWORD": " x ", "APISERVER_KEY_LOCATION": f"{tmp_path}/tls.key"}


def ordered(host: Manager) -> list[str]:
    return [line for line in host.ran if " print " not in line]


def test_installing_on_a_mac(mac_place: Place, tmp_path: Path) -> None:
    host, said = Manager(), list[str]()
    wanted = install.plan(mac_place, PROGRAM, TAKEN, tmp_path / "cache", tmp_path)
    install.install(host, wanted, said.append)
    assert ordered(host) == [
        f"launchctl enable {mac_place.target}",
        f"launchctl bootstrap gui/501 {mac_place.definition}",
    ]
    assert mac_place.environment_file.stat().st_mode & 0o777 == 0o600
    assert mac_place.definition.read_bytes() == wanted.definition
    assert not any("a 'b'" in line for line in said)


def test_installing_again_replaces_the_agent_once_it_is_gone(mac_place: Place, tmp_path: Path) -> None:
    host, waits = Manager(), list[float]()
    host.loaded, host.lingers = True, 3
    install.install(host, install.plan(mac_place, PROGRAM, TAKEN, tmp_path, tmp_path), lambda _: None, waits.append)
    assert [line.split()[1] for line in ordered(host)] == ["bootout", "enable", "bootstrap"]
    assert len(waits) == 3


def test_an_agent_that_does_not_stop_is_told(mac_place: Place, tmp_path: Path) -> None:
    host = Manager()
    host.loaded, host.lingers = True, 10_000
    with pytest.raises(MachineFault, match="launchctl kill KILL gui/501"):
        install.install(
            host, install.plan(mac_place, PROGRAM, TAKEN, tmp_path, tmp_path), lambda _: None, lambda _: None
        )


def test_a_refusal_of_launchd_leads_to_the_session(mac_place: Place, tmp_path: Path) -> None:
    host = Manager()
    host.refuses = "bootstrap"
    with pytest.raises(MachineFault, match="logged in at the screen"):
        install.install(host, install.plan(mac_place, PROGRAM, TAKEN, tmp_path, tmp_path), lambda _: None)


def test_a_service_without_variables_has_no_file_for_them(mac_place: Place, tmp_path: Path) -> None:
    host = Manager()
    install.install(host, install.plan(mac_place, PROGRAM, TAKEN, tmp_path, tmp_path), lambda _: None)
    wanted = install.plan(mac_place, PROGRAM, Captured((), {}), tmp_path, tmp_path)
    install.install(host, wanted, lambda _: None)
    assert not mac_place.environment_file.exists()
    assert "--environment-file" not in wanted.definition.decode()


def test_uninstalling_removes_exactly_what_was_installed(mac_place: Place, tmp_path: Path) -> None:
    host, cache = Manager(), tmp_path / "cache"
    cache.mkdir()
    other = mac_place.definition.with_name("org.other.plist")
    install.install(host, install.plan(mac_place, PROGRAM, TAKEN, cache, tmp_path), lambda _: None)
    other.touch()
    record = install.uninstall(host, mac_place, lambda _: None)
    assert host.ran[-3:-1] == [f"launchctl print {mac_place.target}", f"launchctl bootout {mac_place.target}"]
    assert Path(record.cache_dir) == cache
    assert record.settings() == {"nodename": "mac-1", "environment-file": str(mac_place.environment_file)}
    assert cache.is_dir()
    assert other.exists()
    assert not any(path.exists() for path in (mac_place.definition, mac_place.environment_file, mac_place.record))
    with pytest.raises(NotFound, match="nothing is installed"):
        install.uninstall(host, mac_place, lambda _: None)


def test_a_unit_is_enabled_restarted_and_disabled(tmp_path: Path) -> None:
    where = place.of(facts("linux", 1000, tmp_path))
    host = Manager()
    install.install(host, install.plan(where, ("/usr/bin/agent",), TAKEN, tmp_path, tmp_path), lambda _: None)
    install.uninstall(host, where, lambda _: None)
    name = "macos-vz-kubelet.service"
    assert host.ran == [f"systemctl --user {rest}" for rest in (
        "is-system-running", "daemon-reload", f"enable {name}", f"restart {name}",
        "is-system-running", f"disable --now {name}", "daemon-reload")]  # fmt: skip


def linux_service(tmp_path: Path) -> tuple[Manager, Place, install.Installation]:
    where = place.of(facts("linux", 1000, tmp_path))
    return Manager(), where, install.plan(where, ("/usr/bin/agent",), TAKEN, tmp_path / "cache", tmp_path)


def left(where: Place) -> list[Path]:
    return [path for path in (where.definition, where.environment_file, where.record) if path.exists()]


def test_a_host_without_systemd_keeps_no_secret(tmp_path: Path) -> None:
    host, where, wanted = linux_service(tmp_path)
    host.refuses = "systemctl"
    with pytest.raises(Unsupported, match="a supervisor of your own"):
        install.install(host, wanted, lambda _: None)
    assert host.ran == ["systemctl --user is-system-running"]
    assert left(where) == []


def test_a_degraded_systemd_takes_a_service(tmp_path: Path) -> None:
    host, where, wanted = linux_service(tmp_path)
    host.system_state = "degraded"
    install.install(host, wanted, lambda _: None)
    assert len(left(where)) == 3


@pytest.mark.parametrize("step", ["daemon-reload", "enable", "restart"])
def test_a_first_installation_that_fails_leaves_no_secret(tmp_path: Path, step: str) -> None:
    host, where, wanted = linux_service(tmp_path)
    host.refuses = step
    with pytest.raises(MachineFault, match=step):
        install.install(host, wanted, lambda _: None)
    assert left(where) == []
    assert "systemctl --user disable --now macos-vz-kubelet.service" in host.ran


def test_settings_that_do_not_start_leave_the_service_that_was_there(tmp_path: Path) -> None:
    host, where, wanted = linux_service(tmp_path)
    install.install(host, wanted, lambda _: None)
    host.refuses = "restart"
    with pytest.raises(MachineFault):
        install.install(host, wanted, lambda _: None)
    assert len(left(where)) == 3


def test_uninstalling_needs_no_systemd_that_runs(tmp_path: Path) -> None:
    host, where, wanted = linux_service(tmp_path)
    install.write(wanted, lambda _: None)
    host.refuses = "systemctl"
    install.uninstall(host, where, lambda _: None)
    assert left(where) == []


def test_a_manager_that_refuses_to_stop_keeps_no_secret_on_the_host(mac_place: Place, tmp_path: Path) -> None:
    linux_host, linux_place, wanted = linux_service(tmp_path)
    install.write(wanted, lambda _: None)
    linux_host.refuses = "disable"
    host = Manager()
    install.install(host, install.plan(mac_place, PROGRAM, TAKEN, tmp_path, tmp_path), lambda _: None)
    host.refuses = "bootout"
    for manager, where in ((linux_host, linux_place), (host, mac_place)):
        with pytest.raises(MachineFault, match="files are removed, but the agent may still run"):
            install.uninstall(manager, where, lambda _: None)
        assert left(where) == []


@pytest.mark.parametrize("breaking", ["\n", "\r", "\x85", "\x1b", "\udcff"])
@pytest.mark.parametrize("name", ["nodename", "cache-dir", "config"])
def test_a_flag_cannot_break_out_of_its_line(name: str, breaking: str) -> None:
    options = [Option(name, "", str, "")] if name != "config" else []
    with pytest.raises(InvalidInput, match=f"--{name} has a line break"):
        captured.capture(options, {name: f"/tmp/a{breaking}ExecStartPre=/bin/touch /evil"}, {})


@pytest.mark.parametrize("system", ["darwin", "linux"])
def test_a_path_of_the_host_cannot_break_out_of_its_line(tmp_path: Path, system: str) -> None:
    evil = tmp_path / "a\nExecStartPre=b"
    where = place.of(facts(system, 501, tmp_path))
    with pytest.raises(InvalidInput, match="--cache-dir has a line break"):
        install.plan(where, PROGRAM, TAKEN, evil, tmp_path)
    with pytest.raises(InvalidInput, match="HOME has a line break"):
        install.plan(where, PROGRAM, TAKEN, tmp_path, evil)


def test_a_password_in_a_url_is_no_argument() -> None:
    url = "tcp://user:topsecret@h:1"
    taken = captured.capture(config.options(), {"docker-host": url}, {"DOCKER_HOST": "tcp://other:1"})
    assert taken == Captured((), {"DOCKER_HOST": url})
    assert captured.capture(config.options(), {"docker-host": "tcp://h:1"}, {}).arguments == (
        "--docker-host=tcp://h:1",
    )


def test_purging_leaves_what_is_not_ours(tmp_path: Path) -> None:
    cache, app, directory = tmp_path / "cache", tmp_path / "m.app", tmp_path / "support"
    for path in (cache / "images/blobs", cache / "node", cache / "mine", app / "Contents", directory):
        path.mkdir(parents=True)
    log = tmp_path / "agent.log"
    log.touch()
    removed = list(purge.remove(cache, app, directory, log))
    assert removed == [cache / "images", cache / "node", app, log, directory]
    assert [path.name for path in cache.iterdir()] == ["mine"]
