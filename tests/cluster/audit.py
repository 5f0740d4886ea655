"""The API server's audit log: what a node's identity asked for, and what it should not have."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
"""
NODE_USER_PREFIX = "system:node:"
# Every authenticated client has these. Whatever else RBAC grants a node is not part of the Node authorizer's grants.
_COMMON_BINDINGS = ("system:basic-user", "system:discovery", "system:public-info-viewer")


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    groups: tuple[str, ...] = ()


class _Object(msgspec.Struct, frozen=True, rename="camel"):
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class _Status(msgspec.Struct, frozen=True):
    code: int = 0
    reason: str = ""
    message: str = ""


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One finished or, for a watch, started request (audit.k8s.io/v1 Event)."""

    audit_id: str = msgspec.field(name="auditID")
    stage: str
    verb: str
    uri: str = msgspec.field(name="requestURI")
    user: _User = _User()
    user_agent: str = msgspec.field(name="userAgent", default="")
    object: _Object = msgspec.field(name="objectRef", default=_Object())
    status: _Status = msgspec.field(name="responseStatus", default=_Status())
    received: str = msgspec.field(name="requestReceivedTimestamp", default="")
    annotations: dict[str, Any] = {}

    @property
    def decision(self) -> str:
        return str(self.annotations.get("authorization.k8s.io/decision", ""))

    @property
    def decision_reason(self) -> str:
        """Empty for the Node authorizer, `RBAC: allowed by ClusterRoleBinding ...` for RBAC."""
        return str(self.annotations.get("authorization.k8s.io/reason", ""))

    @property
    def is_node(self) -> bool:
        return self.user.username.startswith(NODE_USER_PREFIX)

    def __str__(self) -> str:
        outcome = f"{self.status.code} {self.status.message or self.decision_reason}".strip()
        return f"{self.received} {self.user.username} {self.verb} {self.uri} -> {outcome}"


def read(path: Path) -> list[AuditEvent]:
    """Events of an audit log, oldest first. A line that is still being written is left out."""
    decoder = msgspec.json.Decoder(AuditEvent)
    content = path.read_bytes()
    return [decoder.decode(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def forbidden_node_requests(events: Iterable[AuditEvent]) -> list[AuditEvent]:
    """Requests of node identities that an authorizer or NodeRestriction refused."""
    return [e for e in events if e.is_node and (e.decision == "forbid" or e.status.code == 403)]


def requests_outside_node_grants(events: Iterable[AuditEvent]) -> list[AuditEvent]:
    """Requests of node identities that only RBAC allowed, beyond what every authenticated client may do.

    The Node authorizer allows with an empty reason, RBAC names the binding (plugin/pkg/auth/authorizer).
    """
    return [
        e for e in events if e.is_node and e.decision == "allow" and not _is_granted_to_every_node(e.decision_reason)
    ]


def _is_granted_to_every_node(reason: str) -> bool:
    return not reason or any(f'ClusterRoleBinding "{name}" of' in reason for name in _COMMON_BINDINGS)
