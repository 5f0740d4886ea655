"""QMP on one connected socket, for callers that are threads: commands block, events are told to a callback."""

import contextlib
import json
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

ANSWER_S = 60.0
"""An emulated guest on a busy machine starts within it."""


class MonitorError(Exception):
    """QEMU refused a command, did not answer, or is gone."""


class Monitor:
    """Owns the socket; the thread that reads ends with the peer."""

    def __init__(self, peer: socket.socket, on_event: Callable[[str, dict[str, Any]], None]) -> None:
        self._peer = peer
        self._on_event = on_event
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._one_at_a_time = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="qmp", daemon=True)

    def open(self) -> None:
        """Start to listen and leave the negotiation mode. Raises: MonitorError."""
        self._reader.start()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """The command's result. Raises: MonitorError."""
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        with self._one_at_a_time:
            try:
                self._peer.sendall(json.dumps(message).encode() + b"\n")
                answer = self._answers.get(timeout=ANSWER_S)
            except (OSError, queue.Empty) as exc:
                raise MonitorError(f"QEMU gave no answer to {command}") from exc
        if answer is None:
            raise MonitorError(f"QEMU ended before it answered {command}")
        if "error" in answer:
            raise MonitorError(f"QEMU failed at {command}: {answer['error'].get('desc', answer['error'])}")
        return answer["return"]

    def wait_closed(self, timeout_s: float) -> None:
        """Until every event was told."""
        self._reader.join(timeout_s)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        self._peer.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._peer.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if "event" in message:
                    self._on_event(message["event"], message.get("data", {}))
                elif "return" in message or "error" in message:
                    self._answers.put(message)
        self._answers.put(None)
