"""Last of its level: what the agents of this run asked of the API server."""

from tests.cluster import audit
from tests.cluster.agent import Agent
from tests.cluster.control_plane import ControlPlane

AGENTS = "system:node:vz-"
"""Nodes that a whole agent ran. Other nodes of this cluster belong to tests that provoke refusals on purpose."""


def test_no_request_of_a_node_was_forbidden_or_beyond_its_grants(cluster: ControlPlane, node: Agent) -> None:
    events = [event for event in audit.read(cluster.audit_log) if event.user.username.startswith(AGENTS)]
    assert any(event.user.username.endswith(node.name) for event in events), "no request of the agent was recorded"
    assert [str(event) for event in audit.forbidden_node_requests(events)] == []
    assert [str(event) for event in audit.requests_outside_node_grants(events)] == []
