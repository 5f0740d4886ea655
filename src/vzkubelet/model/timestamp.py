"""metav1.Time and metav1.MicroTime: conversions between seconds since the epoch and wire timestamps."""

from datetime import UTC, datetime


def from_epoch(seconds: float) -> datetime:
    """metav1.Time: whole seconds, UTC. The kubelet truncates, it does not round."""
    return datetime.fromtimestamp(int(seconds), tz=UTC)


def to_epoch(moment: datetime) -> float:
    return moment.timestamp()


def micro_time(seconds: float) -> str:
    """metav1.MicroTime: exactly six digits of fraction, which Go's parser insists on."""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def rfc3339_nano(nanoseconds: int) -> str:
    """RFC 3339 with nine digits of fraction: the time stamp of a CRI log line and of ``kubectl logs --timestamps``."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{fraction:09d}Z"
