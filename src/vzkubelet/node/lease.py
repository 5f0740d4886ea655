"""The node's lease: the heartbeat that the control plane looks at (component-helpers ``apimachinery/lease``)."""

import asyncio
import logging
import random
from collections.abc import Callable
from urllib.parse import quote

from vzkubelet.aio import Clock, SystemClock
from vzkubelet.errors import AlreadyExists, Error, NotFound
from vzkubelet.kube.client import Client, Patch
from vzkubelet.model.lease import Lease, LeaseSpec
from vzkubelet.model.meta import ObjectMeta, OwnerReference
from vzkubelet.model.timestamp import micro_time

_log = logging.getLogger(__name__)

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
DURATION_S = 40
RENEW_S = 10.0
RENEW_JITTER = 0.04
"""nodeLeaseDurationSeconds of the kubelet, renewed after a quarter of it, plus up to 4 %."""
TIMEOUT_S = 10.0
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 7.0


class NodeLease:
    """`node_uid` is asked at each renewal: a node that was made again owns the lease anew.

    A renewal is a patch of our own fields, without resourceVersion: one request, and never a conflict.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        node_uid: Callable[[], str],
        clock: Clock | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self._client = client
        self._name = name
        self._node_uid = node_uid
        self._clock = clock or SystemClock()
        self._random = jitter or random.Random()  # noqa: S311  spreads load, keeps no secret

    async def run(self) -> None:
        """Renew for ever. Cancel it to stop; the lease stays and runs out, as after a crash."""
        failures = 0
        while True:
            try:
                await self.renew()
            except Error as exc:
                delay_s = min(BACKOFF_FIRST_S * (1 << min(failures, 10)), BACKOFF_MAX_S)
                failures += 1
                _log.warning("lease of node %s not renewed, again in %.1f s: %s", self._name, delay_s, exc)
                await asyncio.sleep(delay_s)
                continue
            if failures:
                _log.info("lease of node %s renewed after %d failures", self._name, failures)
            failures = 0
            await asyncio.sleep(RENEW_S * (1 + RENEW_JITTER * self._random.random()))

    async def renew(self) -> None:
        """Renew once, and make the lease where there is none.

        Raises:
            Error: not renewed.
        """
        path = f"{LEASES}/{quote(self._name, safe='')}"
        lease = self._lease()
        body = {"metadata": {"ownerReferences": lease.metadata.owner_references or []}, "spec": lease.spec}
        try:
            await self._patch(path, body)
        except NotFound:
            try:
                await self._client.request("POST", LEASES, None, body=lease, timeout_s=TIMEOUT_S, throttle=False)
            except AlreadyExists:
                await self._patch(path, body)

    async def _patch(self, path: str, body: object) -> None:
        kind = Patch.MERGE.value
        await self._client.request(
            "PATCH", path, None, body=body, content_type=kind, timeout_s=TIMEOUT_S, throttle=False
        )

    def _lease(self) -> Lease:
        uid = self._node_uid()
        owner = OwnerReference(api_version="v1", kind="Node", name=self._name, uid=uid)
        return Lease(
            metadata=ObjectMeta(
                name=self._name, namespace="kube-node-lease", owner_references=[owner] if uid else None
            ),
            spec=LeaseSpec(
                holder_identity=self._name,
                lease_duration_seconds=DURATION_S,
                renew_time=micro_time(self._clock.time()),
            ),
        )
