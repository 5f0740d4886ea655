"""Last of its level: what every node of this run asked of the API server."""

from tests.cluster import audit
from tests.cluster.agent import Agent
from tests.cluster.control_plane import ControlPlane
from tests.support.cluster_fixtures import assert_no_refusal


def test_no_request_of_a_node_was_forbidden_or_beyond_its_grants(cluster: ControlPlane, node: Agent) -> None:
    recorded = {event.user.username for event in audit.read(cluster.audit_log)}
    assert f"system:node:{node.name}" in recorded, "no request of the agent was recorded"
    assert_no_refusal(cluster)
