"""When the progress of a pull is told, so that neither the API server's writes nor a pod's events are flooded."""

from dataclasses import dataclass

from vzkubelet.model import transfer

MESSAGE_FIRST_S = 2.0
"""A pull that is over by then never shows a number."""
MESSAGE_S = 5.0
"""Each message is one patch of the pod's status."""
EVENT_FIRST_S = 30.0
EVENT_MAX_S = 600.0
"""Between events. An object has a burst of 25 and then one event in five minutes (client-go's spam filter): half of
that is left for what else happens to the pod."""


@dataclass(frozen=True, slots=True)
class Telling:
    """What is to be told now."""

    message: str
    """For the waiting container."""
    event: bool
    """Whether it is worth an event as well."""


class PullProgress:
    """One pull of one container. Time is an argument, in seconds that only go forward."""

    def __init__(self, began: float) -> None:
        self._speed = transfer.Speed()
        self._message_at = began + MESSAGE_FIRST_S
        self._event_at = began + EVENT_FIRST_S
        self._event_delay_s = EVENT_FIRST_S

    def heard(self, done_bytes: int, total_bytes: int, now: float, stage: str = "") -> Telling | None:
        """So much is done; None when that is not told now. `stage` is what is done while no bytes move."""
        self._speed.add(now, done_bytes)
        if now < self._message_at or total_bytes <= 0:
            return None
        self._message_at = now + MESSAGE_S
        due = now >= self._event_at
        if due:
            self._event_delay_s = min(self._event_delay_s * 2, EVENT_MAX_S)
            self._event_at = now + self._event_delay_s
        told = transfer.text(done_bytes, total_bytes, 0.0 if stage else self._speed.bytes_per_s(now))
        return Telling(f"Pulling {told}, {stage}" if stage else f"Pulling {told}", due)
