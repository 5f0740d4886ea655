"""Last of its level: what the nodes of this run asked of the API server."""

from tests.cluster import audit
from tests.cluster.agent import Agent
from tests.cluster.control_plane import ControlPlane


def test_no_request_of_a_node_was_forbidden_or_beyond_its_grants(cluster: ControlPlane, node: Agent) -> None:
    events = [event for event in audit.read(cluster.audit_log) if event.user_agent.startswith("macos-vz-kubelet")]
    assert any(event.is_node for event in events), "no request of an agent was recorded"
    assert [str(event) for event in audit.forbidden_node_requests(events)] == []
    assert [str(event) for event in audit.requests_outside_node_grants(events)] == []
