"""A container's environment from its pod (kubelet ``makeEnvironmentVariables``), with everything it refers to given."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING
from typing import TypeVar

from vzkubelet.errors import InvalidInput, NotFound
from vzkubelet.model import objects, quantity
from vzkubelet.model import pod as api
from vzkubelet.podstate import resources

T = TypeVar("T")
CONFIG_ERROR = "CreateContainerConfigError"
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]")


@dataclass(frozen=True, slots=True)
class References:
    """Names of the objects a container's environment needs."""

    secrets: frozenset[str]
    config_maps: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What an environment may refer to. A missing object is simply absent from its mapping."""

    secrets: Mapping[str, objects.Secret] = field(default_factory=dict)
    config_maps: Mapping[str, objects.ConfigMap] = field(default_factory=dict)
    services: Sequence[objects.Service] = ()
    pod_ip: str = ""
    host_ip: str = ""
    allocatable_cpu_milli: int = 0
    allocatable_memory_bytes: int = 0


def references(container: api.Container) -> References:
    secrets: set[str] = set()
    config_maps: set[str] = set()
    for source in container.env_from or []:
        if source.secret_ref:
            secrets.add(source.secret_ref.name)
        if source.config_map_ref:
            config_maps.add(source.config_map_ref.name)
    for variable in container.env or []:
        if variable.value_from and variable.value_from.secret_key_ref:
            secrets.add(variable.value_from.secret_key_ref.name)
        if variable.value_from and variable.value_from.config_map_key_ref:
            config_maps.add(variable.value_from.config_map_key_ref.name)
    return References(frozenset(secrets), frozenset(config_maps))


def resolve(pod: api.Pod, container: api.Container, facts: Facts) -> tuple[tuple[str, str], ...]:
    """Names and values in the order the kubelet gives them: services, envFrom, env; the last of a name wins.

    Raises:
        NotFound, InvalidInput: reason CreateContainerConfigError, naming the object or key.
    """
    result: dict[str, str] = {}
    linked = _service_variables(pod, facts.services)
    for source in container.env_from or []:
        result.update(_from_source(source, facts))
    for variable in container.env or []:
        if variable.value_from is not None:
            value = _from_reference(pod, container, variable, variable.value_from, facts)
            if value is None:
                continue
        else:
            value = expand(variable.value, {**linked, **result})
        result[variable.name] = value
    return tuple({**{name: value for name, value in linked.items() if name not in result}, **result}.items())


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by its value; ``$$`` is one dollar; unknown names stay as they are written."""
    parts, position = [], 0
    while (dollar := text.find("$", position)) >= 0 and dollar + 1 < len(text):
        parts.append(text[position:dollar])
        following = text[dollar + 1]
        end = text.find(")", dollar) if following == "(" else -1
        if following == "$":
            parts.append("$")
            position = dollar + 2
        elif end > 0:
            name = text[dollar + 2 : end]
            parts.append(values.get(name, text[dollar : end + 1]))
            position = end + 1
        else:
            parts.append(text[dollar : dollar + 2])
            position = dollar + 2
    parts.append(text[position:])
    return "".join(parts)


def expand_all(words: Iterable[str] | None, environment: Sequence[tuple[str, str]]) -> tuple[str, ...] | None:
    """`expand` over command or args; None stays None."""
    values = dict(environment)
    return None if words is None else tuple(expand(word, values) for word in words)


def _from_source(source: api.EnvFromSource, facts: Facts) -> dict[str, str]:
    if source.secret_ref is not None:
        secret = facts.secrets.get(source.secret_ref.name)
        if secret is None and not source.secret_ref.optional:
            raise NotFound(f'secret "{source.secret_ref.name}" not found', reason=CONFIG_ERROR)
        data = {k: v.decode(errors="replace") for k, v in ((secret and secret.data) or {}).items()}
    elif source.config_map_ref is not None:
        config_map = facts.config_maps.get(source.config_map_ref.name)
        if config_map is None and not source.config_map_ref.optional:
            raise NotFound(f'configmap "{source.config_map_ref.name}" not found', reason=CONFIG_ERROR)
        data = (config_map and config_map.data) or {}
    else:
        data = {}
    return {source.prefix + key: value for key, value in data.items()}


def _from_reference(
    pod: api.Pod, container: api.Container, variable: api.EnvVar, source: api.EnvVarSource, facts: Facts
) -> str | None:
    if source.field_ref is not None:
        return field_value(pod, source.field_ref.field_path, facts.pod_ip, facts.host_ip)
    if source.resource_field_ref is not None:
        return resource_value(pod, container, source.resource_field_ref, facts)
    if source.secret_key_ref is not None:
        secret = facts.secrets.get(source.secret_key_ref.name)
        data = None if secret is None else secret.data or {}
        value = _key(pod, source.secret_key_ref, data, "secret", "Secret")
        return None if value is None else value.decode(errors="replace")
    if source.config_map_key_ref is not None:
        config_map = facts.config_maps.get(source.config_map_key_ref.name)
        return _key(
            pod,
            source.config_map_key_ref,
            None if config_map is None else config_map.data or {},
            "configmap",
            "ConfigMap",
        )
    raise InvalidInput(f'the value of environment variable "{variable.name}" has no known source', reason=CONFIG_ERROR)


def _key(pod: api.Pod, selector: api.KeySelector, data: Mapping[str, T] | None, kind: str, title: str) -> T | None:
    if data is None:
        if selector.optional:
            return None
        raise NotFound(f'{kind} "{selector.name}" not found', reason=CONFIG_ERROR)
    if selector.key not in data:
        if selector.optional:
            return None
        where = f"{pod.metadata.namespace}/{selector.name}"
        raise NotFound(f"couldn't find key {selector.key} in {title} {where}", reason=CONFIG_ERROR)
    return data[selector.key]


def field_value(pod: api.Pod, path: str, pod_ip: str, host_ip: str) -> str:
    """A downward API field. Raises InvalidInput for a path that is not offered."""
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript is not None:
        mapping = pod.metadata.labels if subscript[1] == "labels" else pod.metadata.annotations
        return (mapping or {}).get(subscript[2], "")
    values = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.metadata.uid,
        "metadata.labels": _map_lines(pod.metadata.labels),
        "metadata.annotations": _map_lines(pod.metadata.annotations),
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
    }
    if path not in values:
        raise InvalidInput(f"unsupported fieldPath: {path}", reason=CONFIG_ERROR)
    return values[path]


def _map_lines(mapping: Mapping[str, str] | None) -> str:
    return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted((mapping or {}).items()))


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def resource_value(pod: api.Pod, container: api.Container, selector: api.ResourceFieldSelector, facts: Facts) -> str:
    """requests and limits of a container; without a limit the node's allocatable, as the kubelet gives it."""
    named = [c for c in pod.spec.containers if c.name == (selector.container_name or container.name)]
    if not named:
        raise InvalidInput(f"container {selector.container_name} not found", reason=CONFIG_ERROR)
    parsed = resources.container_resources(named[0])
    cpu_limit = parsed.cpu_limit_milli or facts.allocatable_cpu_milli
    memory_limit = parsed.memory_limit_bytes or facts.allocatable_memory_bytes
    amounts = {
        "limits.cpu": (cpu_limit, True),
        "limits.memory": (memory_limit, False),
        "requests.cpu": (parsed.cpu_request_milli, True),
        "requests.memory": (parsed.memory_request_bytes, False),
    }
    if selector.resource not in amounts:
        raise InvalidInput(f"unsupported container resource : {selector.resource}", reason=CONFIG_ERROR)
    amount, is_cpu = amounts[selector.resource]
    divisor = quantity.parse(selector.divisor or "1") or quantity.parse("1")
    if is_cpu:
        divisor *= 1000
    return str(int((amount / divisor).to_integral_value(rounding=ROUND_CEILING)))


def _service_variables(pod: api.Pod, services: Sequence[objects.Service]) -> dict[str, str]:
    variables: dict[str, str] = {}
    linked = pod.spec.enable_service_links is not False
    for service in services:
        ip = service.spec.cluster_ip
        is_api_server = service.metadata.namespace == "default" and service.metadata.name == "kubernetes"
        if ip in {"", "None"} or not service.spec.ports:
            continue
        if is_api_server or (linked and service.metadata.namespace == pod.metadata.namespace):
            variables.update(_variables_of(service))
    return variables


def _variables_of(service: objects.Service) -> dict[str, str]:
    prefix = service.metadata.name.upper().replace("-", "_")
    ip, ports = service.spec.cluster_ip, service.spec.ports or []
    variables = {f"{prefix}_SERVICE_HOST": ip, f"{prefix}_SERVICE_PORT": str(ports[0].port)}
    for port in ports:
        if port.name:
            variables[f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}"] = str(port.port)
    for index, port in enumerate(ports):
        url = f"{port.protocol.lower()}://{ip}:{port.port}"
        if index == 0:
            variables[f"{prefix}_PORT"] = url
        port_prefix = f"{prefix}_PORT_{port.port}_{port.protocol.upper()}"
        variables[port_prefix] = url
        variables[f"{port_prefix}_PROTO"] = port.protocol.lower()
        variables[f"{port_prefix}_PORT"] = str(port.port)
        variables[f"{port_prefix}_ADDR"] = ip
    return variables
