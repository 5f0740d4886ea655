"""Back-off of container restarts and image pulls (kuberuntime ``doBackOff``, ``flowcontrol.Backoff``)."""

from vzkubelet.podstate.record import BackOff

CRASH_INITIAL_S = 10.0
CRASH_MAX_S = 300.0
PULL_INITIAL_S = 10.0
PULL_MAX_S = 300.0
PULL_FAULT_SHOWN_S = 5.0
"""ErrImagePull is seen for so long before ImagePullBackOff; in the kubelet, until its next sync of the pod."""
PULL_LOOK_S = 10.0
"""So often is looked whether somebody has brought the image meanwhile; the kubelet does at each sync of the pod."""
MACHINE_LIMIT_INITIAL_S = 10.0
MACHINE_LIMIT_MAX_S = 60.0
"""A refused start costs a clone, which is made in an instant; a slot that came free should not lie idle for long."""
VOLUME_INITIAL_S = 0.5
VOLUME_MAX_S = 122.0
"""Kubelet's ``exponentialbackoff`` for mounts: 500 ms doubling to 2 min 2 s."""


def waits_until(entry: BackOff, since: float, max_s: float) -> float | None:
    """When a back-off that counts from `since` (the moment of the failure) is over; None when none applies.

    The first failure has no entry yet and is retried at once. An entry older than twice the maximum is forgotten.
    """
    if entry.delay_s == 0 or since - entry.updated_at > 2 * max_s:
        return None
    return since + entry.delay_s


def next_entry(entry: BackOff, now: float, initial_s: float, max_s: float) -> BackOff:
    """The entry after one more failure at `now`."""
    if entry.delay_s == 0 or now - entry.updated_at > 2 * max_s:
        return BackOff(initial_s, now)
    return BackOff(min(entry.delay_s * 2, max_s), now)


def format_delay(delay_s: float) -> str:
    """As Go prints a back-off in the kubelet's messages: ``10s``, ``1m20s``, ``5m0s``."""
    seconds = int(delay_s)
    return f"{seconds // 60}m{seconds % 60}s" if seconds >= 60 else f"{seconds}s"
