"""API objects in memory: `ports.Objects` for tests, with an API server that can be switched off."""

from collections.abc import Sequence

from vzkubelet.errors import Error, NotFound
from vzkubelet.model.meta import ObjectMeta
from vzkubelet.model.objects import ConfigMap, Secret, Service
from vzkubelet.model.pod import Pod


class MemoryObjects:
    """`reads` records every request; `fault` makes all of them fail."""

    def __init__(self) -> None:
        self.secrets: dict[tuple[str, str], Secret] = {}
        self.config_maps: dict[tuple[str, str], ConfigMap] = {}
        self.fault: Error | None = None
        self.reads: list[tuple[str, ...]] = []

    def add_secret(self, namespace: str, name: str, **data: bytes) -> None:
        self.secrets[namespace, name] = Secret(metadata=ObjectMeta(namespace=namespace, name=name), data=data)

    def add_config_map(
        self, namespace: str, name: str, data: dict[str, str], binary: dict[str, bytes] | None = None
    ) -> None:
        meta = ObjectMeta(namespace=namespace, name=name)
        self.config_maps[namespace, name] = ConfigMap(metadata=meta, data=data, binary_data=binary)

    async def secret(self, namespace: str, name: str) -> Secret:
        self._record("secret", namespace, name)
        if (namespace, name) not in self.secrets:
            raise NotFound(f'secret "{name}" not found')
        return self.secrets[namespace, name]

    async def config_map(self, namespace: str, name: str) -> ConfigMap:
        self._record("configmap", namespace, name)
        if (namespace, name) not in self.config_maps:
            raise NotFound(f'configmap "{name}" not found')
        return self.config_maps[namespace, name]

    async def services(self, namespace: str) -> Sequence[Service]:
        self._record("services", namespace)
        return ()

    async def service_account_token(self, pod: Pod, audience: str, expiration_s: int) -> str:
        self._record("token", pod.metadata.uid, audience, str(expiration_s))
        return f"token for {pod.spec.service_account_name} until {expiration_s} s as {audience or 'default'}"

    def _record(self, *request: str) -> None:
        self.reads.append(request)
        if self.fault is not None:
            raise self.fault
