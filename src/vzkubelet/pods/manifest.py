"""A pod from a YAML file, run without an API server: decoding, the defaults the API server would set, checks."""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import yaml

from vzkubelet import errors
from vzkubelet.model import objects, quantity
from vzkubelet.model import pod as api

DEFAULT_GRACE_S = 30
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One pod and the objects beside it in the same file."""

    pod: api.Pod
    secrets: Mapping[str, objects.Secret] = field(default_factory=dict)
    config_maps: Mapping[str, objects.ConfigMap] = field(default_factory=dict)


def parse(text: str, source: str) -> Manifest:
    """Exactly one Pod, any number of ConfigMaps and Secrets.

    Raises:
        InvalidInput: not YAML, not these kinds, or a pod that the API server would refuse; `source` names the file.
    """
    pods: list[api.Pod] = []
    secrets: dict[str, objects.Secret] = {}
    config_maps: dict[str, objects.ConfigMap] = {}
    for document in _documents(text, source):
        match document.get("kind"):
            case "Pod":
                pods.append(_convert(document, api.Pod, source))
            case "Secret":
                secret = _secret(document, source)
                secrets[secret.metadata.name] = secret
            case "ConfigMap":
                config_map = _convert(document, objects.ConfigMap, source)
                config_maps[config_map.metadata.name] = config_map
            case kind:
                raise errors.InvalidInput(
                    f"{source}: kind {kind!r} cannot be run here: give a Pod, ConfigMap or Secret"
                )
    if len(pods) != 1:
        raise errors.InvalidInput(f"{source}: found {len(pods)} pods, exactly one is needed")
    return Manifest(_defaulted(pods[0], source), secrets, config_maps)


def _documents(text: str, source: str) -> Sequence[Mapping[str, Any]]:
    try:
        loaded = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as exc:
        raise errors.InvalidInput(f"{source} is not YAML: {errors.clip(str(exc))}") from exc
    if not all(isinstance(document, dict) for document in loaded):
        raise errors.InvalidInput(f"{source} does not hold Kubernetes objects (mappings with apiVersion and kind)")
    return loaded


def _convert(document: Mapping[str, Any], type_: type[Any], source: str) -> Any:
    try:
        return msgspec.convert(document, type_)
    except msgspec.ValidationError as exc:
        raise errors.InvalidInput(f"{source}: {document.get('kind')}: {exc}") from exc


def _secret(document: Mapping[str, Any], source: str) -> objects.Secret:
    """stringData is what people write by hand; the API server folds it into data."""
    plain = {key: str(value).encode() for key, value in (document.get("stringData") or {}).items()}
    secret: objects.Secret = _convert({k: v for k, v in document.items() if k != "stringData"}, objects.Secret, source)
    return msgspec.structs.replace(secret, data={**(secret.data or {}), **plain})


def _defaulted(pod: api.Pod, source: str) -> api.Pod:
    name = pod.metadata.name
    if not _NAME.fullmatch(name):
        raise errors.InvalidInput(f'{source}: metadata.name "{name}" is not a lower-case DNS name')
    if not pod.spec.containers:
        raise errors.InvalidInput(f"{source}: spec.containers is empty")
    if pod.spec.restart_policy not in {"Always", "OnFailure", "Never"}:
        raise errors.InvalidInput(
            f'{source}: restartPolicy "{pod.spec.restart_policy}" is none of Always, OnFailure, Never'
        )
    _check_containers(pod, source)
    spec = pod.spec
    if spec.termination_grace_period_seconds is None:
        spec = msgspec.structs.replace(spec, termination_grace_period_seconds=DEFAULT_GRACE_S)
    uid = pod.metadata.uid or str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.standalone.macos-vz-kubelet"))
    namespace = pod.metadata.namespace or "default"
    metadata = msgspec.structs.replace(pod.metadata, uid=uid, namespace=namespace, generation=1)
    return msgspec.structs.replace(pod, metadata=metadata, spec=spec, status=api.PodStatus())


def _check_containers(pod: api.Pod, source: str) -> None:
    volumes = {volume.name for volume in pod.spec.volumes or []}
    names: set[str] = set()
    for container in pod.spec.containers:
        if not _NAME.fullmatch(container.name) or container.name in names:
            raise errors.InvalidInput(f'{source}: container name "{container.name}" is no DNS label or used twice')
        names.add(container.name)
        if not container.image:
            raise errors.InvalidInput(f'{source}: container "{container.name}" has no image')
        for mount in container.volume_mounts or []:
            if mount.name not in volumes:
                raise errors.InvalidInput(
                    f'{source}: container "{container.name}" mounts unknown volume "{mount.name}"'
                )
        _check_quantities(container, source)


def _check_quantities(container: api.Container, source: str) -> None:
    given = container.resources
    for kind, quantities in (("requests", given.requests), ("limits", given.limits)):
        for resource, amount in (quantities or {}).items():
            try:
                quantity.parse(amount)
            except errors.InvalidInput as exc:
                field_name = f'container "{container.name}" resources.{kind}.{resource}'
                raise errors.InvalidInput(f"{source}: {field_name}: {exc}") from exc
