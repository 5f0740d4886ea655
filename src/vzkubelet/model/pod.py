"""Pod, its spec and its status (core/v1), as far as a node agent reads and writes them."""

from datetime import datetime

import msgspec

from vzkubelet.model.meta import ListMeta, LocalObjectReference, Object, ObjectMeta


class KeySelector(Object, frozen=True):
    """configMapKeyRef and secretKeyRef."""

    name: str = ""
    key: str = ""
    optional: bool | None = None


class ObjectFieldSelector(Object, frozen=True):
    field_path: str = ""
    api_version: str = "v1"


class ResourceFieldSelector(Object, frozen=True):
    resource: str = ""
    container_name: str = ""
    divisor: str | int | None = None


class EnvVarSource(Object, frozen=True):
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None


class EnvVar(Object, frozen=True):
    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class EnvFromReference(Object, frozen=True):
    name: str = ""
    optional: bool | None = None


class EnvFromSource(Object, frozen=True):
    prefix: str = ""
    config_map_ref: EnvFromReference | None = None
    secret_ref: EnvFromReference | None = None


class ContainerPort(Object, frozen=True):
    container_port: int
    name: str = ""
    host_port: int = 0
    protocol: str = "TCP"
    host_ip: str = msgspec.field(default="", name="hostIP")


class ResourceRequirements(Object, frozen=True):
    """Quantities as they were written (`"500m"`, `"2Gi"`, or a bare number)."""

    requests: dict[str, str | int | float] | None = None
    limits: dict[str, str | int | float] | None = None


class VolumeMount(Object, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: str | None = None


class Capabilities(Object, frozen=True):
    add: list[str] | None = None
    drop: list[str] | None = None


class SecurityContext(Object, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    privileged: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    capabilities: Capabilities | None = None


class PodSecurityContext(Object, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    fs_group: int | None = None
    supplemental_groups: list[int] | None = None


class ExecAction(Object, frozen=True):
    command: list[str] | None = None


class HTTPHeader(Object, frozen=True):
    name: str
    value: str = ""


class HTTPGetAction(Object, frozen=True):
    port: int | str
    path: str = ""
    host: str = ""
    scheme: str = "HTTP"
    http_headers: list[HTTPHeader] | None = None


class TCPSocketAction(Object, frozen=True):
    port: int | str
    host: str = ""


class Probe(Object, frozen=True):
    exec_: ExecAction | None = msgspec.field(default=None, name="exec")
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class SleepAction(Object, frozen=True):
    seconds: int = 0


class LifecycleHandler(Object, frozen=True):
    exec_: ExecAction | None = msgspec.field(default=None, name="exec")
    http_get: HTTPGetAction | None = None
    sleep: SleepAction | None = None


class Lifecycle(Object, frozen=True):
    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None


class Container(Object, frozen=True):
    name: str
    image: str = ""
    command: list[str] | None = None
    args: list[str] | None = None
    working_dir: str = ""
    ports: list[ContainerPort] | None = None
    env_from: list[EnvFromSource] | None = None
    env: list[EnvVar] | None = None
    resources: ResourceRequirements = ResourceRequirements()
    volume_mounts: list[VolumeMount] | None = None
    restart_policy: str | None = None
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    image_pull_policy: str = "IfNotPresent"
    security_context: SecurityContext | None = None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False


class KeyToPath(Object, frozen=True):
    key: str
    path: str
    mode: int | None = None


class HostPathVolumeSource(Object, frozen=True):
    path: str
    type: str | None = None


class EmptyDirVolumeSource(Object, frozen=True):
    medium: str = ""
    size_limit: str | int | None = None


class SecretVolumeSource(Object, frozen=True):
    secret_name: str = ""
    items: list[KeyToPath] | None = None
    default_mode: int | None = None
    optional: bool | None = None


class ConfigMapVolumeSource(Object, frozen=True):
    name: str = ""
    items: list[KeyToPath] | None = None
    default_mode: int | None = None
    optional: bool | None = None


class DownwardAPIVolumeFile(Object, frozen=True):
    path: str
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardAPIVolumeSource(Object, frozen=True):
    items: list[DownwardAPIVolumeFile] | None = None
    default_mode: int | None = None


class ServiceAccountTokenProjection(Object, frozen=True):
    path: str
    audience: str = ""
    expiration_seconds: int | None = None


class ProjectedKeys(Object, frozen=True):
    """A secret or configMap inside a projected volume."""

    name: str = ""
    items: list[KeyToPath] | None = None
    optional: bool | None = None


class DownwardAPIProjection(Object, frozen=True):
    items: list[DownwardAPIVolumeFile] | None = None


class VolumeProjection(Object, frozen=True):
    secret: ProjectedKeys | None = None
    config_map: ProjectedKeys | None = None
    downward_api: DownwardAPIProjection | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: ServiceAccountTokenProjection | None = None
    cluster_trust_bundle: msgspec.Raw | None = None


class ProjectedVolumeSource(Object, frozen=True):
    sources: list[VolumeProjection] | None = None
    default_mode: int | None = None


class Volume(Object, frozen=True):
    """One volume. A source not declared here leaves every field None, which `volumes` reports as unsupported."""

    name: str
    host_path: HostPathVolumeSource | None = None
    empty_dir: EmptyDirVolumeSource | None = None
    secret: SecretVolumeSource | None = None
    config_map: ConfigMapVolumeSource | None = None
    downward_api: DownwardAPIVolumeSource | None = msgspec.field(default=None, name="downwardAPI")
    projected: ProjectedVolumeSource | None = None


class Toleration(Object, frozen=True):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class HostAlias(Object, frozen=True):
    ip: str = ""
    hostnames: list[str] | None = None


class PodReadinessGate(Object, frozen=True):
    condition_type: str = ""


class PodOS(Object, frozen=True):
    name: str = ""


class PodSpec(Object, frozen=True):
    containers: list[Container] = []
    init_containers: list[Container] | None = None
    volumes: list[Volume] | None = None
    restart_policy: str = "Always"
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    node_selector: dict[str, str] | None = None
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    node_name: str = ""
    host_network: bool = False
    host_aliases: list[HostAlias] | None = None
    hostname: str = ""
    subdomain: str = ""
    enable_service_links: bool | None = None
    image_pull_secrets: list[LocalObjectReference] | None = None
    security_context: PodSecurityContext | None = None
    tolerations: list[Toleration] | None = None
    readiness_gates: list[PodReadinessGate] | None = None
    runtime_class_name: str | None = None
    os: PodOS | None = None


class ContainerStateWaiting(Object, frozen=True):
    reason: str = ""
    message: str = ""


class ContainerStateRunning(Object, frozen=True):
    started_at: datetime | None = None


class ContainerStateTerminated(Object, frozen=True, omit_defaults=False):
    exit_code: int
    reason: str = ""
    message: str = ""
    signal: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    container_id: str = msgspec.field(default="", name="containerID")


class ContainerState(Object, frozen=True):
    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(Object, frozen=True, omit_defaults=False):
    """Always written whole: an absent field in a strategic merge patch keeps the old value."""

    name: str
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    container_id: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="containerID")
    started: bool | None = None


class PodCondition(Object, frozen=True):
    type: str
    status: str
    last_probe_time: datetime | None = None
    last_transition_time: datetime | None = None
    reason: str = ""
    message: str = ""
    observed_generation: int = 0


class PodIP(Object, frozen=True):
    ip: str = ""


class PodStatus(Object, frozen=True):
    phase: str = ""
    conditions: list[PodCondition] | None = None
    message: str = ""
    reason: str = ""
    host_ip: str = msgspec.field(default="", name="hostIP")
    host_ips: list[PodIP] | None = msgspec.field(default=None, name="hostIPs")
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: list[PodIP] | None = msgspec.field(default=None, name="podIPs")
    start_time: datetime | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    container_statuses: list[ContainerStatus] | None = None
    qos_class: str = ""
    observed_generation: int = 0


class Pod(Object, frozen=True):
    api_version: str = "v1"
    kind: str = "Pod"
    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def key(self) -> str:
        """``namespace/name``, as logs and events name a pod."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class PodList(Object, frozen=True):
    api_version: str = "v1"
    kind: str = "PodList"
    metadata: ListMeta = ListMeta()
    items: list[Pod] = []
