import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vzkubelet import config
from vzkubelet.config import DriverChoice, GuestNetwork, LogFormat, LogLevel, Taint
from vzkubelet.errors import InvalidInput

LINUX = config.Host(name="Build-7.Example.COM", platform="linux", home="/home/u")
MAC = config.Host(name="mac-1", platform="darwin", home="/Users/ci")
REQUIRED = {
    "APISERVER_CERT_LOCATION": "/pki/kubelet.crt",
    "APISERVER_KEY_LOCATION": "/pki/kubelet.key",
    "VZ_SSH_USER": "admin",
    "VZ_SSH_PASSWORD": "hunter2",
}


def load(
    flags: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    file: Mapping[str, object] | None = None,
    **more: Any,
) -> config.Config:
    return config.load(flags or {}, {**REQUIRED, **(env or {})}, file, **{"host": LINUX, **more})


def mistakes(*sources: Any, **more: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        load(*sources, **more)
    return str(caught.value)


def test_documented_defaults() -> None:
    settings = load()
    assert settings.node.name == "build-7.example.com"
    assert settings.node.startup_timeout_s == 0
    assert settings.node.taints == (Taint("virtual-kubelet.io/provider", "macOS-vz", "NoSchedule"),)
    assert settings.pods.workers == 10
    assert settings.pods.resync_s == 60
    assert settings.logs.level is LogLevel.INFO
    assert settings.kube.kubeconfig == Path("/home/u/.kube/config")
    assert settings.sidecars.docker_host == "unix:///var/run/docker.sock"
    assert settings.server.port == 10250
    assert settings.server.verify_clients
    assert not settings.server.token_webhook
    assert settings.traces.endpoint is None
    assert settings.traces.sample_ratio == 1.0
    assert not settings.traces.insecure
    assert settings.machines.driver is DriverChoice.AUTO
    assert settings.machines.bridge_interface is None
    assert settings.logs.format is LogFormat.TEXT
    assert settings.vz.helper_app.name == "macos-vz-kubelet.app"
    assert settings.vz.host_dir is None
    assert settings.vz.dhcp_leases_file == Path("/var/db/dhcpd_leases")
    assert settings.vz.display == config.Display(1024, 768)
    assert settings.vz.machine_id is config.VzMachineId.KEEP


FLAGS = {
    "nodename": "mac-7",
    "startup-timeout": "90",
    "log-level": "debug",
    "pod-sync-workers": "3",
    "full-resync-period": "2m",
    "client-verify-ca": "/ca.crt",
    "no-verify-clients": "true",
    "authentication-token-webhook": "true",
    "authentication-token-webhook-cache-ttl": "1",
    "authorization-webhook-cache-authorized-ttl": "2s",
    "authorization-webhook-cache-unauthorized-ttl": "3",
    "trace-sample-rate": "12.5",
    "machine-driver": "qemu",
    "cache-dir": "/cache",
    "kubelet-port": "0",
    "node-ip": "10.0.0.7",
    "bind-address": "::",
    "node-taint": "a.b/c=d:NoExecute,e:PreferNoSchedule",
    "guest-network": "user",
    "qemu-firmware": "/firmware.fd",
    "log-format": "json",
    "vz-helper-app": "~/Agent.app",
    "vz-host-dir": "/host",
    "dhcp-leases-file": "/leases",
    "vz-network": "vmnet-host",
    "vz-packet-filter": "softnet --vm-fd {fd} --vm-mac-address '{mac}'",
    "vz-machine-id": "fail-if-running",
    "vz-display": "1920x1080x80",
    "vz-audio": "off",
    "vz-disk-caching": "uncached",
    "vz-disk-sync": "fsync",
    "vz-nested-virtualization": "true",
    "vz-rosetta": "true",
    "max-pods": "4",
    "cpu": "7500m",
    "memory": "16Gi",
}
VARIABLES = {
    "KUBECONFIG": "~/admin.conf",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318",
    "OTEL_EXPORTER_OTLP_INSECURE": "true",
    "OTEL_SERVICE_NAME": "macs",
    "VZ_BRIDGE_INTERFACE": "en0",
    "DOCKER_HOST": "tcp://127.0.0.1:2375",
}


def test_every_documented_flag_and_variable_reaches_its_setting() -> None:
    settings = load(FLAGS, VARIABLES)
    assert settings.node.name == "mac-7"
    assert settings.node.startup_timeout_s == 90
    assert settings.node.ip == "10.0.0.7"
    assert settings.node.taints == (Taint("a.b/c", "d", "NoExecute"), Taint("e", "", "PreferNoSchedule"))
    assert (settings.node.cpu_milli, settings.node.memory_bytes, settings.node.max_pods) == (7500, 2**34, 4)
    assert settings.pods == config.PodSettings(workers=3, resync_s=120)
    assert settings.kube.kubeconfig == Path("/home/u/admin.conf")
    assert settings.server == config.ServerSettings(
        bind_address="::",
        port=0,
        cert_file=Path("/pki/kubelet.crt"),
        key_file=Path("/pki/kubelet.key"),
        client_ca_file=Path("/ca.crt"),
        verify_clients=False,
        token_webhook=True,
        token_cache_s=1,
        authorized_cache_s=2,
        unauthorized_cache_s=3,
    )
    firmware = Path("/firmware.fd")
    assert settings.machines == config.MachineSettings(DriverChoice.QEMU, GuestNetwork.USER, firmware, "en0")
    assert settings.vz == config.VzSettings(
        helper_app=Path("/home/u/Agent.app"),
        host_dir=Path("/host"),
        dhcp_leases_file=Path("/leases"),
        network=config.VzNetwork.VMNET_HOST,
        packet_filter=("softnet", "--vm-fd", "{fd}", "--vm-mac-address", "{mac}"),
        display=config.Display(1920, 1080, 80),
        audio=config.VzAudio.OFF,
        disk_caching=config.VzDiskCaching.UNCACHED,
        disk_sync=config.VzDiskSync.FSYNC,
        machine_id=config.VzMachineId.FAIL_IF_RUNNING,
        nested=True,
        rosetta=True,
    )
    assert (settings.guests.ssh_user, settings.guests.ssh_password) == ("admin", "hunter2")
    assert settings.sidecars.docker_host == "tcp://127.0.0.1:2375"
    assert settings.logs == config.LogSettings(LogLevel.DEBUG, LogFormat.JSON)
    assert settings.traces == config.TraceSettings("collector:4318", True, "macs", 0.125)
    assert settings.cache_dir == Path("/cache")


def test_flag_beats_environment_beats_file_beats_default() -> None:
    file = {"kubeconfig": "/file", "docker-host": "unix:///file", "kubelet-port": 4, "vz-ssh-user": "file"}
    env = {"KUBECONFIG": "/env", "DOCKER_HOST": "unix:///env"}
    settings = load({"kubeconfig": "/flag"}, env, file)
    assert settings.kube.kubeconfig == Path("/flag")
    assert settings.sidecars.docker_host == "unix:///env"
    assert settings.server.port == 4
    assert settings.guests.ssh_user == "admin"


def test_vkubelet_pod_ip_is_the_node_ip_unless_the_flag_says_otherwise() -> None:
    assert load({}, {"VKUBELET_POD_IP": "10.1.1.1"}).node.ip == "10.1.1.1"
    assert load({"node-ip": "10.2.2.2"}, {"VKUBELET_POD_IP": "10.1.1.1"}).node.ip == "10.2.2.2"


def test_client_ca_comes_from_its_variable_by_default() -> None:
    assert load({}, {"APISERVER_CA_CERT_LOCATION": "/ca"}).server.client_ca_file == Path("/ca")


def test_empty_variable_and_null_in_the_file_count_as_not_given() -> None:
    settings = load({}, {"KUBECONFIG": "", "DOCKER_HOST": ""}, {"max-pods": None, "kubelet-port": None})
    assert settings.kube.kubeconfig == Path("/home/u/.kube/config")
    assert settings.node.max_pods is None
    assert settings.server.port == 10250


def test_file_takes_yaml_types() -> None:
    settings = load({}, {}, {"disable-taint": True, "startup-timeout": 1.5, "max-pods": 8})
    assert settings.node.taints == ()
    assert settings.node.startup_timeout_s == 1.5
    assert settings.node.max_pods == 8
    assert len(load({}, {}, {"node-taint": ["a:NoExecute", "b=c:NoSchedule"]}).node.taints) == 2


@pytest.mark.parametrize(
    ("host", "env", "cache"),
    [
        (MAC, {}, "/Users/ci/Library/Caches/com.agoda.fleet.virtualization"),
        (MAC, {"XDG_CACHE_HOME": "/x"}, "/Users/ci/Library/Caches/com.agoda.fleet.virtualization"),
        (LINUX, {}, "/home/u/.cache/com.agoda.fleet.virtualization"),
        (LINUX, {"XDG_CACHE_HOME": "/x"}, "/x/com.agoda.fleet.virtualization"),
    ],
)
def test_default_cache(host: config.Host, env: dict[str, str], cache: str) -> None:
    assert load({}, env, host=host).cache_dir == Path(cache)


def test_documented_ttl_zero_means_the_kubelets_own_default() -> None:
    server = load({"authentication-token-webhook-cache-ttl": "0"}).server
    assert (server.token_cache_s, server.authorized_cache_s, server.unauthorized_cache_s) == (120, 300, 30)


@pytest.mark.parametrize(
    ("given", "level"),
    [("warn", "warning"), ("WARNING", "warning"), ("trace", "debug"), ("fatal", "critical"), ("error", "error")],
)
def test_level_names_of_the_go_project_are_understood(given: str, level: str) -> None:
    assert load({"log-level": given}).logs.level == level


@pytest.mark.parametrize(("given", "ratio"), [("always", 1), ("Never", 0), ("0", 0), ("50", 0.5), ("100", 1), ("", 1)])
def test_trace_sample_rate_is_a_word_or_a_percentage(given: str, ratio: float) -> None:
    assert load({"trace-sample-rate": given}).traces.sample_ratio == ratio


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        config.load(
            {"kubelet-port": "70000", "nodnam": "x", "memory": "lots"},
            {"DOCKER_HOST": "docker", "VZ_SSH_USER": "u"},
            {"full-resync-period": "-1", "cash-dir": "/x", "node-ip": {"a": 1}},
            host=LINUX,
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "10 mistakes in the configuration:"
    text = "\n".join(lines[1:])
    for expected in (
        '--kubelet-port: "70000" is not a whole number from 0 to 65535',
        "--nodnam: no such setting, did you mean nodename?",
        '--memory: "lots" is not a quantity',
        'DOCKER_HOST: "docker" is not the address of a Docker engine',
        'configuration file: full-resync-period: "-1" is not a duration',
        "configuration file: cash-dir: no such setting, did you mean cache-dir?",
        "configuration file: node-ip: is neither a text nor a number",
        "APISERVER_CERT_LOCATION is not set",
        "APISERVER_KEY_LOCATION is not set",
        "VZ_SSH_PASSWORD is not set",
    ):
        assert expected in text
    assert caught.value.exit_code == 2


def test_a_single_mistake_is_a_single_line() -> None:
    assert mistakes({"log-level": "loud"}) == ('--log-level: "loud" is none of debug, info, warning, error, critical')


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("nodename", ""),
        ("nodename", "Mac_1"),
        ("nodename", "-a"),
        ("nodename", "a" * 254),
        ("kubelet-port", "-1"),
        ("kubelet-port", "https"),
        ("pod-sync-workers", "0"),
        ("full-resync-period", "0"),
        ("startup-timeout", "soon"),
        ("node-ip", "10.0.0"),
        ("bind-address", "localhost"),
        ("node-taint", "NoSchedule"),
        ("node-taint", "a=b:Never"),
        ("node-taint", "a b=c:NoSchedule"),
        ("node-taint", "A_b/c=d:NoSchedule"),
        ("disable-taint", "maybe"),
        ("machine-driver", "xen"),
        ("guest-network", "none"),
        ("cpu", "0"),
        ("memory", "-1Gi"),
        ("max-pods", "0"),
        ("docker-host", "unix://"),
        ("trace-sample-rate", "101"),
        ("cache-dir", " "),
    ],
)
def test_refused_value_is_named_with_its_flag(flag: str, value: str) -> None:
    assert mistakes({flag: value}).startswith(f"--{flag}: ")


def test_host_name_that_cannot_be_a_node_name_points_to_the_flag() -> None:
    host = config.Host(name="my_mac", platform="darwin", home="/Users/ci")
    assert mistakes(host=host).startswith('--nodename (default): "my_mac" is not a node name')


def test_secret_is_in_no_text_of_the_config() -> None:
    settings = load()
    assert "hunter2" not in repr(settings)
    shown = config.effective(settings)
    assert shown["guests.ssh_password"] == "(set)"
    assert "hunter2" not in str(shown)
    assert shown["server.port"] == "10250"


def test_secrets_are_no_flags() -> None:
    assert not [option.name for option in config.options() if option.secret and option.flag]
    assert mistakes({"vz-ssh-password": "x"}).startswith("--vz-ssh-password: no such setting")


def test_without_a_cluster_nothing_is_required() -> None:
    settings = config.load({}, {}, purpose=config.Purpose.STANDALONE, host=LINUX)
    assert settings.server.cert_file is None
    assert settings.guests.ssh_user == "root", "the login of the repository's own guest images"


def test_synthetic_driver_needs_no_guest_login_but_still_a_serving_certificate() -> None:
    with pytest.raises(InvalidInput) as caught:
        config.load({"machine-driver": "synthetic"}, {}, host=LINUX)
    assert "SSH" not in str(caught.value)
    assert "APISERVER_KEY_LOCATION is not set" in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "raw", "reason"),
    [
        ("vz-display", "big", "is no display size"),
        ("vz-display", "1920x", "is no display size"),
        ("vz-packet-filter", "softnet '", "is not a command line"),
        ("vz-machine-id", "new", "is none of keep, random, fail-if-running"),
    ],
)
def test_a_setting_of_the_framework_that_cannot_be_read_says_what_it_may_be(flag: str, raw: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        config.load({flag: raw}, {}, host=LINUX, purpose=config.Purpose.STANDALONE)


KEY = base64.b64encode(b"-----BEGIN OPENSSH PRIVATE KEY-----").decode()


def test_a_key_makes_the_password_optional_and_no_default_takes_its_place() -> None:
    for variables in ({"VZ_SSH_PRIVATE_KEY_BASE64": KEY}, {"VZ_SSH_PRIVATE_KEY_PATH": "~/key"}):
        settings = load(env={"VZ_SSH_PASSWORD": "", **variables}).guests
        assert settings.ssh_password == ""
        assert settings.ssh_key is not None or settings.ssh_key_path == Path("/home/u/key")
    assert "VZ_SSH_PASSWORD" in mistakes({}, {"VZ_SSH_PASSWORD": ""})


def test_keys_time_outs_and_algorithms_of_the_guests_login() -> None:
    settings = load(
        env={
            "VZ_SSH_PRIVATE_KEY_BASE64": KEY[:20] + "\n" + KEY[20:],
            "VZ_SSH_PRIVATE_KEY_PASSPHRASE": " opens it ",
            "VZ_SSH_KEX_ALGORITHMS": "curve25519-sha256, ecdh-sha2-nistp256",
            "VZ_SSH_DIAL_TIMEOUT": "5s",
            "VZ_SSH_READINESS_TIMEOUT": "60",
        }
    ).guests
    assert settings.ssh_key == b"-----BEGIN OPENSSH PRIVATE KEY-----"
    assert settings.ssh_key_passphrase == " opens it "
    assert settings.ssh_kex_algorithms == ("curve25519-sha256", "ecdh-sha2-nistp256")
    assert (settings.ssh_dial_timeout_s, settings.ssh_readiness_timeout_s) == (5.0, 60.0)
    assert "OPENSSH" not in repr(settings)
    assert "opens it" not in repr(settings)


def test_a_key_that_is_no_base64_is_refused_and_not_shown() -> None:
    told = mistakes({}, {"VZ_SSH_PRIVATE_KEY_BASE64": "-----BEGIN"})
    assert "VZ_SSH_PRIVATE_KEY_BASE64: is not valid" in told
    assert "BEGIN" not in told
