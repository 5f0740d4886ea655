"""What the API needs of the pods of this node."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from vzkubelet.model.logs import LogEntry, LogOptions
from vzkubelet.model.pod import Pod
from vzkubelet.model.stats import Summary
from vzkubelet.ports import ExecRequest, ExitStatus, Streams


class Backend(Protocol):
    """Pods are named as in the URL; the server has checked that pod (its `uid`, where given) and container exist.

    Errors are those of `vzkubelet.errors`. A session is cancelled when its client leaves or the server stops.
    """

    def pods(self) -> Sequence[Pod]:
        """Pods bound to this node, with their current status."""

    async def exec(
        self, namespace: str, pod: str, uid: str | None, container: str, request: ExecRequest, streams: Streams
    ) -> ExitStatus:
        """Raises NotFound or Conflict when the container does not run."""

    async def attach(self, namespace: str, pod: str, uid: str | None, container: str, streams: Streams) -> None:
        """Returns when the container's process has ended."""

    def logs(
        self, namespace: str, pod: str, uid: str | None, container: str, previous: bool, options: LogOptions
    ) -> AsyncIterator[LogEntry]:
        """Honours follow, tail and since; the server applies limit and time stamps. Closed when nobody reads on."""

    async def summary(self) -> Summary: ...

    def healthy(self) -> str | None:
        """None, or what is wrong with the agent (a pod worker that hangs, a watch that is stuck)."""
