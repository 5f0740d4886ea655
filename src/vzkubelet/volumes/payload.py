"""What the files of configMap, secret, downwardAPI and projected volumes hold (kubelet ``MakePayload``)."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from vzkubelet import errors, ports
from vzkubelet.model import objects
from vzkubelet.model import pod as api
from vzkubelet.podstate import environment
from vzkubelet.volumes.atomic import File, checked_path

DEFAULT_MODE = 0o644
DEFAULT_TOKEN_EXPIRATION_S = 3607
"""What the API server's admission asks for in every pod's token volume; the 7 tells its tokens from others."""

Files = dict[str, File]
T = TypeVar("T")


class Payloads:
    """Collects the files of one pod's volumes. Every API object is read once, however many volumes name it."""

    def __init__(self, pod: api.Pod, source: ports.Objects, facts: environment.Facts) -> None:
        self._pod = pod
        self._source = source
        self._facts = facts
        self._secrets: dict[str, objects.Secret] = {}
        self._config_maps: dict[str, objects.ConfigMap] = {}

    async def secret(self, source: api.SecretVolumeSource) -> Files:
        """Raises the errors of `ports.Objects`; NotFound for a missing key."""
        keys = api.ProjectedKeys(name=source.secret_name, items=source.items, optional=source.optional)
        return await self._secret(keys, _mode(source.default_mode))

    async def config_map(self, source: api.ConfigMapVolumeSource) -> Files:
        """See `secret`."""
        keys = api.ProjectedKeys(name=source.name, items=source.items, optional=source.optional)
        return await self._config_map(keys, _mode(source.default_mode))

    def downward_api(self, source: api.DownwardAPIVolumeSource) -> Files:
        """Raises InvalidInput with all faults."""
        return self._downward(source.items or [], _mode(source.default_mode))

    async def projected(self, source: api.ProjectedVolumeSource) -> Files:
        """All sources in one directory, later ones win. Raises with every source's fault, as the kubelet does."""
        files: Files = {}
        faults: list[errors.Error] = []
        for part in source.sources or []:
            try:
                files.update(await self._projection(part, _mode(source.default_mode)))
            except errors.Error as exc:
                faults.append(exc)
        _raise_all(faults)
        return files

    async def _projection(self, part: api.VolumeProjection, mode: int) -> Files:
        if part.secret is not None:
            return await self._secret(part.secret, mode)
        if part.config_map is not None:
            return await self._config_map(part.config_map, mode)
        if part.downward_api is not None:
            return self._downward(part.downward_api.items or [], mode)
        if part.service_account_token is not None:
            return await self._token(part.service_account_token, mode)
        if part.cluster_trust_bundle is not None:
            raise errors.Unsupported("projected source clusterTrustBundle is not supported by this node")
        raise errors.Unsupported("a projected source is of a kind that this node does not support")

    async def _secret(self, wanted: api.ProjectedKeys, mode: int) -> Files:
        secret = await self._read(self._source.secret, self._secrets, wanted)
        data = {} if secret is None else secret.data or {}
        return _pick(data, wanted, mode, "references non-existent secret key: ")

    async def _config_map(self, wanted: api.ProjectedKeys, mode: int) -> Files:
        found = await self._read(self._source.config_map, self._config_maps, wanted)
        data: dict[str, bytes] = {}
        if found is not None:
            data = {**(found.binary_data or {}), **{key: text.encode() for key, text in (found.data or {}).items()}}
        return _pick(data, wanted, mode, "configmap references non-existent config key: ")

    async def _read(
        self, read: Callable[[str, str], Awaitable[T]], known: dict[str, T], wanted: api.ProjectedKeys
    ) -> T | None:
        if wanted.name not in known:
            try:
                known[wanted.name] = await read(self._pod.metadata.namespace, wanted.name)
            except errors.NotFound:
                if wanted.optional:
                    return None
                raise
        return known[wanted.name]

    async def _token(self, source: api.ServiceAccountTokenProjection, mode: int) -> Files:
        expiration_s = source.expiration_seconds or DEFAULT_TOKEN_EXPIRATION_S
        try:
            token = await self._source.service_account_token(self._pod, source.audience, expiration_s)
        except errors.Error as exc:
            raise type(exc)(f"failed to fetch token: {exc.message}") from exc
        return {checked_path(source.path): File(token.encode(), mode)}

    def _downward(self, items: Sequence[api.DownwardAPIVolumeFile], default_mode: int) -> Files:
        files: Files = {}
        faults: list[errors.Error] = []
        for item in items:
            try:
                text = self._value(item)
                files[checked_path(item.path)] = File(text.encode(), default_mode if item.mode is None else item.mode)
            except errors.Error as exc:
                faults.append(exc)
        _raise_all(faults)
        return files

    def _value(self, item: api.DownwardAPIVolumeFile) -> str:
        if item.field_ref is not None:
            path = item.field_ref.field_path
            if not path.startswith("metadata."):  # files are written before the pod has an address or a node
                raise errors.InvalidInput(f"unsupported fieldPath: {path}")
            return environment.field_value(self._pod, path, "", "")
        if item.resource_field_ref is not None:
            name = item.resource_field_ref.container_name
            named = [container for container in self._pod.spec.containers if container.name == name]
            if not named:
                raise errors.InvalidInput(f"container {name} not found")
            return environment.resource_value(self._pod, named[0], item.resource_field_ref, self._facts)
        return ""


def _mode(default_mode: int | None) -> int:
    return DEFAULT_MODE if default_mode is None else default_mode


def _pick(data: Mapping[str, bytes], wanted: api.ProjectedKeys, mode: int, missing: str) -> Files:
    if not wanted.items:
        return {checked_path(key): File(content, mode) for key, content in data.items()}
    files: Files = {}
    for item in wanted.items:
        if item.key in data:
            files[checked_path(item.path)] = File(data[item.key], mode if item.mode is None else item.mode)
        elif not wanted.optional:
            raise errors.NotFound(missing + item.key)
    return files


def _raise_all(faults: Sequence[errors.Error]) -> None:
    """One error for all, of the first one's class, in the form of apimachinery's Aggregate."""
    texts = list(dict.fromkeys(fault.message for fault in faults))
    if len(texts) == 1:
        raise faults[0]
    if texts:
        raise type(faults[0])(f"[{', '.join(texts)}]") from faults[0]
