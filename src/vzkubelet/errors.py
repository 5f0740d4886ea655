"""The error taxonomy: every error that crosses a room is one of these classes.

A class exists because somebody catches it or because a mapping (Kubernetes reason, HTTP status, exit code, retry)
needs it. Rooms translate foreign exceptions at their edge and chain them (``raise Unavailable(...) from exc``).
Texts name the thing, the reason and the way out; text that came from outside goes through `clip` first.
"""

from enum import Enum
from typing import ClassVar

MAX_FOREIGN_TEXT = 256
"""Characters of foreign text kept in a message: enough to recognise it, too little to flood an event (limit 1024)."""


MACHINE_LIMIT_REASON = "VirtualMachineLimit"
"""Reason of `Exhausted` when the hypervisor refuses one more machine, and type of the node condition that tells it."""


class Retry(Enum):
    """Whether doing the same again may succeed."""

    NEVER = "never"
    BACKOFF = "backoff"


class Error(Exception):
    """Base of all errors of this package.

    `reason` is a CamelCase Kubernetes reason; a raiser that knows a more precise one passes it and it replaces the
    class default (`raise NotFound("...", reason="ErrImagePull")`).
    """

    default_reason: ClassVar[str] = "InternalError"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason

    def __str__(self) -> str:
        return self.message


class InvalidInput(Error):
    """What the user gave cannot work, however often it is tried."""

    default_reason = "Invalid"
    http_status = 400
    exit_code = 2


class Unprocessable(InvalidInput):
    """Readable, and contradictory: what the API machinery answers with HTTP 422."""

    http_status = 422


class NotFound(Error):
    default_reason = "NotFound"
    http_status = 404
    exit_code = 3


class AlreadyExists(Error):
    default_reason = "AlreadyExists"
    http_status = 409
    exit_code = 4


class Conflict(Error):
    """The thing is not in a state that allows this, or it changed meanwhile."""

    default_reason = "Conflict"
    http_status = 409
    exit_code = 4


class Gone(Error):
    """A watch position is too old; list again (HTTP 410)."""

    default_reason = "Expired"
    http_status = 410
    retry = Retry.BACKOFF


class Unauthenticated(Error):
    default_reason = "Unauthorized"
    http_status = 401
    exit_code = 5


class Forbidden(Error):
    default_reason = "Forbidden"
    http_status = 403
    exit_code = 5


class Unsupported(Error):
    """Understood, and not offered by this host, driver or version."""

    default_reason = "NotImplemented"
    http_status = 501
    exit_code = 6


class Exhausted(Error):
    """A bounded resource is used up now and may be free later (virtual machine slots, disk space, descriptors)."""

    default_reason = "ResourceExhausted"
    http_status = 503
    exit_code = 7
    retry = Retry.BACKOFF


class Unavailable(Error):
    """A peer (registry, Docker, API server, guest) cannot be reached or answers with a fault of its own."""

    default_reason = "ServiceUnavailable"
    http_status = 503
    exit_code = 8
    retry = Retry.BACKOFF


class DeadlineExceeded(Error):
    """Something took longer than allowed; the message names what and how long."""

    default_reason = "Timeout"
    http_status = 504
    exit_code = 9
    retry = Retry.BACKOFF


class Integrity(Error):
    """Bytes do not match their digest or their declared size. Never used, always fetched again."""

    default_reason = "IntegrityFailure"
    retry = Retry.BACKOFF

    def __init__(self, message: str, *, expected: str = "", actual: str = "", reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.expected = expected
        self.actual = actual


class MachineFault(Error):
    """A virtual machine driver or the hypervisor failed; `code` is the hypervisor's own where it has one."""

    default_reason = "RunContainerError"
    retry = Retry.BACKOFF

    def __init__(self, message: str, *, code: int | None = None, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.code = code


class ProtocolError(Error):
    """A wire protocol was violated. After it the connection is of no further use."""

    default_reason = "BadRequest"
    http_status = 400


class LocalProtocolError(ProtocolError):
    """We tried to do what the protocol does not allow now: a bug of ours."""

    default_reason = "InternalError"
    http_status = 500


class RemoteProtocolError(ProtocolError):
    """The peer did; `close_code` is what to tell it (a WebSocket close code or an SPDY GOAWAY status)."""

    def __init__(self, message: str, *, close_code: int | None = None, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.close_code = close_code


def clip(text: str, limit: int = MAX_FOREIGN_TEXT) -> str:
    """Foreign text made fit for a message: one line, printable, at most `limit` characters."""
    flat = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
