"""The RBAC objects that kubeadm adds to a new cluster so that nodes can join and the API server can reach kubelets."""

from tests.cluster.api import ApiClient
from tests.cluster.pki import KUBELET_CLIENT_USER

BOOTSTRAP_GROUP = "system:bootstrappers:default-node-token"

_BINDINGS: tuple[tuple[str, str, str, str], ...] = (
    # binding, cluster role, kind and name of the subject
    ("kubelet-bootstrap", "system:node-bootstrapper", "Group", BOOTSTRAP_GROUP),
    (
        "node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "Group",
        BOOTSTRAP_GROUP,
    ),
    (
        "node-autoapprove-certificate-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "Group",
        "system:nodes",
    ),
    ("apiserver-kubelet-api-admin", "system:kubelet-api-admin", "User", KUBELET_CLIENT_USER),
)


def apply(api: ApiClient) -> None:
    """Create the bindings that are missing.

    Raises: ApiError when the API server refuses one.
    """
    for binding, role, kind, subject in _BINDINGS:
        api.ensure(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            {
                "metadata": {"name": binding},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": subject}],
            },
        )
