"""How a pod's containers are named and found on an engine: labels are the truth, names are for people.

Several nodes may share one engine (one Docker Desktop, test runs side by side), so everything carries the node's owner
id and nothing without it is ever listed or removed.
"""

from dataclasses import dataclass

from vzkubelet.model.identity import PodRef
from vzkubelet.sidecars.engine import filters
from vzkubelet.sidecars.objects import ListedContainer

OWNER = "io.macos-vz-kubelet.owner"
IMAGE = "io.macos-vz-kubelet.image"
ATTEMPT = "io.macos-vz-kubelet.attempt"
POD_UID = "io.kubernetes.pod.uid"
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
CONTAINER = "io.kubernetes.container.name"
TYPE = "io.kubernetes.docker.type"
SANDBOX = "podsandbox"
SIDECAR = "container"
SANDBOX_NAME = "POD"


@dataclass(frozen=True, slots=True)
class Known:
    """A container of ours, as a listing shows it."""

    id: str
    uid: str
    name: str
    attempt: int
    status: str
    """As `objects.State.status`."""
    is_sandbox: bool


def docker_name(pod: PodRef, container: str, attempt: int) -> str:
    """``k8s_<container>_<pod>_<namespace>_<uid>_<attempt>``, as dockershim named them."""
    return f"k8s_{container}_{pod.name}_{pod.namespace}_{pod.uid}_{attempt}"


def labels(owner: str, pod: PodRef, container: str, attempt: int, *, sandbox: bool = False) -> dict[str, str]:
    return {
        OWNER: owner,
        POD_UID: pod.uid,
        POD_NAME: pod.name,
        POD_NAMESPACE: pod.namespace,
        CONTAINER: container,
        ATTEMPT: str(attempt),
        TYPE: SANDBOX if sandbox else SIDECAR,
    }


def label_filter(owner: str, uid: str | None = None) -> str:
    """For a listing of the owner's containers, of one pod or of all."""
    wanted = [f"{OWNER}={owner}"]
    if uid is not None:
        wanted.append(f"{POD_UID}={uid}")
    return filters(label=wanted)


def known(listed: ListedContainer) -> Known:
    found = listed.labels or {}
    attempt = found.get(ATTEMPT, "")
    return Known(
        id=listed.id,
        uid=found.get(POD_UID, ""),
        name=found.get(CONTAINER, ""),
        attempt=int(attempt) if attempt.isdecimal() else 0,
        status=listed.state,
        is_sandbox=found.get(TYPE) == SANDBOX,
    )
