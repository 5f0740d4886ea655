"""The table of all settings: where each comes from, its default and how it is read.

Names, defaults and meanings of the documented flags and variables are a promise; nothing here is renamed.
A setting is called by its flag without dashes in front, or by its variable in lower case with dashes where it has no
flag (secrets: a command line can be read by every user of the host). The configuration file uses the same names.
"""

from collections.abc import Mapping

from vzkubelet.config import guest_options, image_options, values, vz_options
from vzkubelet.config.option import Host as Host
from vzkubelet.config.option import Option as Option
from vzkubelet.config.settings import DriverChoice, GuestNetwork, LogFormat
from vzkubelet.config.values import Parser

DEFAULT_TAINT = "virtual-kubelet.io/provider=macOS-vz:NoSchedule"
MAC_CACHE = "~/Library/Caches/com.agoda.fleet.virtualization"
ANY_ADDRESS = "0.0.0.0"  # noqa: S104  the API server dials whichever address the node reports
CACHE_NAME = "com.agoda.fleet.virtualization"


def table(host: Host, env: Mapping[str, str]) -> tuple[Option, ...]:
    path = values.path(host.home)
    return (
        *_node(path, host),
        *_pods(),
        *_serving(path),
        *_access(path),
        *_machines(path, host, env),
        *vz_options.table(path, host),
        *guest_options.table(path),
        *image_options.table(path),
        *_sidecars(),
        *_telemetry(),
    )


def _node(path: Parser, host: Host) -> tuple[Option, ...]:
    return (
        Option(
            "nodename",
            "node.name",
            values.node_name,
            "Name of the node in the cluster.",
            default=host.name.lower(),
            metavar="NAME",
        ),
        Option(
            "kubeconfig",
            "kube.kubeconfig",
            path,
            "Kubeconfig with the node's credential.",
            default="~/.kube/config",
            env="KUBECONFIG",
            metavar="FILE",
            is_file=True,
        ),
        Option(
            "node-ip",
            "node.ip",
            values.ip_address,
            "Internal address of the node; by default the one that reaches the API server.",
            env="VKUBELET_POD_IP",
            metavar="IP",
        ),
        Option(
            "startup-timeout",
            "node.startup_timeout_s",
            values.seconds,
            "How long to wait for the node to become ready; 0 = for ever.",
            default="0",
            metavar="SECONDS",
        ),
        Option(
            "node-taint",
            "node.taints",
            values.taints,
            "Taints of the node, separated by commas.",
            default=DEFAULT_TAINT,
            metavar="KEY=VALUE:EFFECT",
        ),
        Option("disable-taint", "", values.boolean, "Register the node without any taint.", default="false"),
    )


def _pods() -> tuple[Option, ...]:
    return (
        Option("cpu", "node.cpu_milli", values.cpu_milli, "CPU capacity instead of the host's.", metavar="QUANTITY"),
        Option(
            "memory",
            "node.memory_bytes",
            values.memory_bytes,
            "Memory capacity instead of the host's.",
            metavar="QUANTITY",
        ),
        Option("max-pods", "node.max_pods", values.integer(1, 10_000), "Pod capacity.", metavar="NUMBER"),
        Option(
            "pod-sync-workers",
            "pods.workers",
            values.integer(1, 1000),
            "Pods that are worked on at the same time.",
            default="10",
            metavar="NUMBER",
        ),
        Option(
            "full-resync-period",
            "pods.resync_s",
            values.positive_seconds,
            "Every pod is looked at again after this time.",
            default="60",
            metavar="SECONDS",
        ),
    )


def _serving(path: Parser) -> tuple[Option, ...]:
    return (
        Option(
            "bind-address",
            "server.bind_address",
            values.ip_address,
            "Address that the kubelet API listens on.",
            default=ANY_ADDRESS,
            metavar="IP",
        ),
        Option(
            "kubelet-port",
            "server.port",
            values.integer(0, 65535),
            "Port of the kubelet API; 0 = any free one.",
            default="10250",
            env="KUBELET_PORT",
            metavar="PORT",
        ),
        Option(
            "apiserver-cert-location",
            "server.cert_file",
            path,
            "Serving certificate of the kubelet API (PEM).",
            env="APISERVER_CERT_LOCATION",
            flag=False,
            required=True,
            is_file=True,
        ),
        Option(
            "apiserver-key-location",
            "server.key_file",
            path,
            "Key of the serving certificate (PEM).",
            env="APISERVER_KEY_LOCATION",
            flag=False,
            required=True,
            is_file=True,
        ),
    )


def _access(path: Parser) -> tuple[Option, ...]:
    return (
        Option(
            "client-verify-ca",
            "server.client_ca_file",
            path,
            "CA that client certificates are verified against.",
            env="APISERVER_CA_CERT_LOCATION",
            metavar="FILE",
            is_file=True,
        ),
        Option(
            "no-verify-clients",
            "server.verify_clients",
            values.boolean,
            "Do not ask for client certificates.",
            default="false",
        ),
        Option(
            "authentication-token-webhook",
            "server.token_webhook",
            values.boolean,
            "Check bearer tokens with TokenReview.",
            default="false",
        ),
        Option(
            "authentication-token-webhook-cache-ttl",
            "server.token_cache_s",
            values.cache_ttl(120),
            "Life of a TokenReview answer; 0 = 2m.",
            default="0",
            metavar="SECONDS",
        ),
        Option(
            "authorization-webhook-cache-authorized-ttl",
            "server.authorized_cache_s",
            values.cache_ttl(300),
            "Life of an answer that allows; 0 = 5m.",
            default="0",
            metavar="SECONDS",
        ),
        Option(
            "authorization-webhook-cache-unauthorized-ttl",
            "server.unauthorized_cache_s",
            values.cache_ttl(30),
            "Life of an answer that denies; 0 = 30s.",
            default="0",
            metavar="SECONDS",
        ),
    )


def _machines(path: Parser, host: Host, env: Mapping[str, str]) -> tuple[Option, ...]:
    xdg_cache = f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/{CACHE_NAME}"
    return (
        Option(
            "machine-driver",
            "machines.driver",
            values.choice(DriverChoice),
            "Who runs the virtual machines.",
            default="auto",
            metavar="auto|vz|qemu|synthetic",
        ),
        Option(
            "cache-dir",
            "cache_dir",
            path,
            "Where images, machines and volumes are kept.",
            default=MAC_CACHE if host.platform == "darwin" else xdg_cache,
            metavar="DIR",
        ),
        Option(
            "guest-network",
            "machines.network",
            values.choice(GuestNetwork),
            "Network of QEMU guests.",
            default="auto",
            metavar="auto|bridge|user",
        ),
        Option(
            "qemu-firmware",
            "machines.firmware",
            path,
            "UEFI firmware of QEMU guests instead of the installed one.",
            env="VZ_QEMU_FIRMWARE",
            metavar="FILE",
            is_file=True,
        ),
        Option(
            "vz-bridge-interface",
            "machines.bridge_interface",
            values.text,
            "Interface that guests are bridged to.",
            env="VZ_BRIDGE_INTERFACE",
            flag=False,
        ),
    )


def _sidecars() -> tuple[Option, ...]:
    return (
        Option(
            "docker-host",
            "sidecars.docker_host",
            values.docker_host,
            "Address of the Docker engine for side-cars.",
            default="unix:///var/run/docker.sock",
            env="DOCKER_HOST",
            metavar="URL",
        ),
    )


def _telemetry() -> tuple[Option, ...]:
    return (
        Option(
            "log-level",
            "logs.level",
            values.log_level,
            "Least important level that is logged.",
            default="info",
            metavar="debug|info|warning|error",
        ),
        Option(
            "log-format",
            "logs.format",
            values.choice(LogFormat),
            "How log lines look.",
            default="text",
            metavar="text|json",
        ),
        Option(
            "trace-sample-rate",
            "traces.sample_ratio",
            values.sample_ratio,
            "Share of traces that is kept.",
            default="always",
            metavar="always|never|PERCENT",
        ),
        Option(
            "otel-exporter-otlp-endpoint",
            "traces.endpoint",
            values.text,
            "Where traces go; none = no tracing.",
            env="OTEL_EXPORTER_OTLP_ENDPOINT",
            flag=False,
        ),
        Option(
            "otel-exporter-otlp-insecure",
            "traces.insecure",
            values.boolean,
            "Send traces without verified TLS.",
            default="false",
            env="OTEL_EXPORTER_OTLP_INSECURE",
            flag=False,
        ),
        Option(
            "otel-service-name",
            "traces.service_name",
            values.text,
            "Service name of traces.",
            default="macos-vz-kubelet",
            env="OTEL_SERVICE_NAME",
            flag=False,
        ),
    )
