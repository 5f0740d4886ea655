"""Reads of what pods refer to, as the Node authorizer grants them: single named secrets and config maps, services,
and tokens of the pod's own service account.

The authorizer learns of a pod's binding from a watch of its own that lags behind ours: of reads at once after a
binding one in seven was refused (1.36, idle, two cores), and none 0.1 s later. So reads in a namespace wait for a
moment after `pod_bound`, which keeps refusals out of the audit log, and one that is refused all the same is asked again
for a few seconds before it is believed. Concurrent reads of one object are one request, and an answer serves for
`SHARE_S`, so that a pod with ten references to a secret, or ten such pods at once, cost one read.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, TypeVar

from vzkubelet import aio
from vzkubelet.aio import Clock, SystemClock
from vzkubelet.errors import Forbidden, NotFound, Unavailable
from vzkubelet.kube.client import Client
from vzkubelet.kube.paths import namespaced
from vzkubelet.model.meta import ObjectReference
from vzkubelet.model.objects import (
    ConfigMap,
    Secret,
    Service,
    ServiceList,
    TokenRequest,
    TokenRequestSpec,
)
from vzkubelet.model.pod import Pod

T = TypeVar("T")

SHARE_S = 1.0
"""Short enough that nobody sees it: an edited config map followed by a new pod must give the new contents."""
API_SERVICE_SHARE_S = 300.0
"""``default/kubernetes`` is made when the cluster is."""
GRAPH_SETTLE_S = 0.2
GRAPH_LAG_S = 5.0
RETRY_FIRST_S = 0.1


class KubeObjects:
    """`ports.Objects` on the API server."""

    def __init__(self, client: Client, clock: Clock | None = None, jitter: random.Random | None = None) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._random = jitter or random.Random()  # noqa: S311  spreads load, keeps no secret
        self._shared: dict[Hashable, tuple[float, asyncio.Task[Any]]] = {}
        self._settled_at: dict[str, float] = {}

    def pod_bound(self, namespace: str) -> None:
        """A pod of this namespace was seen for the first time, now."""
        now = self._clock.monotonic()
        self._settled_at = {name: at for name, at in self._settled_at.items() if at > now}
        self._settled_at[namespace] = now + GRAPH_SETTLE_S

    async def secret(self, namespace: str, name: str) -> Secret:
        return await self._named("secret", namespace, name, Secret)

    async def config_map(self, namespace: str, name: str) -> ConfigMap:
        return await self._named("configmap", namespace, name, ConfigMap)

    async def services(self, namespace: str) -> Sequence[Service]:
        async def of_namespace() -> list[Service]:
            return (await self._client.get(namespaced(namespace, "services"), ServiceList)).items

        async def of_api_server() -> Service | None:
            try:
                return await self._client.get(namespaced("default", "services", "kubernetes"), Service)
            except NotFound:
                return None  # a cluster whose API server publishes no endpoint

        found = await self._share(("services", namespace), SHARE_S, of_namespace)
        if namespace == "default":
            return found
        own = await self._share("api", API_SERVICE_SHARE_S, of_api_server)
        return found if own is None else [*found, own]

    async def service_account_token(self, pod: Pod, audience: str, expiration_s: int) -> str:
        """Never shared: each is bound to the pod. Raises as `ports.Objects` says."""
        meta, account = pod.metadata, pod.spec.service_account_name or "default"
        bound = ObjectReference(api_version="v1", kind="Pod", name=meta.name, uid=meta.uid)
        spec = TokenRequestSpec(
            audiences=[audience] if audience else [], expiration_seconds=expiration_s, bound_object_ref=bound
        )
        path = namespaced(meta.namespace, "serviceaccounts", account, "token")

        async def ask() -> TokenRequest:
            return await self._client.create(path, TokenRequest(spec=spec), TokenRequest)

        try:
            answer = await self._after_lag(meta.namespace, ask)
        except NotFound as exc:
            raise NotFound(f'failed to fetch token: serviceaccount "{meta.namespace}/{account}" not found') from exc
        if answer.status is None or not answer.status.token:
            raise Unavailable(f'the API server gave no token for serviceaccount "{meta.namespace}/{account}"')
        return answer.status.token

    async def _named(self, kind: str, namespace: str, name: str, as_: type[T]) -> T:
        path = namespaced(namespace, f"{kind}s", name)

        async def read() -> T:
            try:
                return await self._after_lag(namespace, lambda: self._client.get(path, as_))
            except NotFound as exc:
                raise NotFound(f'{kind} "{name}" not found') from exc

        return await self._share((kind, namespace, name), SHARE_S, read)

    async def _share(self, key: Hashable, share_s: float, read: Callable[[], Awaitable[T]]) -> T:
        """`read`, or the answer that somebody else's read has given a moment ago or is about to."""
        now = self._clock.monotonic()
        self._shared = {k: kept for k, kept in self._shared.items() if kept[0] > now or not kept[1].done()}
        kept = self._shared.get(key)
        if kept is None or _failed(kept[1]):

            async def run() -> T:
                return await read()

            task = aio.spawn(run(), name=f"read {key}", on_crash=lambda _: None)
            self._shared[key] = kept = (now + share_s, task)
        # A reader that is cancelled does not take the answer away from the others.
        result: T = await asyncio.shield(kept[1])
        return result

    async def _after_lag(self, namespace: str, ask: Callable[[], Awaitable[T]]) -> T:
        await asyncio.sleep(max(0.0, self._settled_at.get(namespace, 0.0) - self._clock.monotonic()))
        deadline, delay_s = self._clock.monotonic() + GRAPH_LAG_S, RETRY_FIRST_S
        while True:
            try:
                return await ask()
            except Forbidden:
                if self._clock.monotonic() + delay_s > deadline:
                    raise
            await asyncio.sleep(delay_s * (0.75 + self._random.random() / 2))
            delay_s *= 2


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
