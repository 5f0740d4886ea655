import pytest

from tests.unit.node.test_status import MAC
from vzkubelet import config
from vzkubelet.errors import InvalidInput
from vzkubelet.node import identity

REQUIRED = {
    "APISERVER_CERT_LOCATION": "c",
    "APISERVER_KEY_LOCATION": "k",
    "VZ_SSH_USER": "u",
    "VZ_SSH_PASSWORD": "p",
}


def settings(**flags: str) -> config.NodeSettings:
    return config.load({"nodename": "mac-1", **flags}, REQUIRED).node


def test_the_right_user_is_let_through() -> None:
    identity.require_own_user("system:node:mac-1", "mac-1")


@pytest.mark.parametrize(
    ("user", "way_out"),
    [("system:node:mac-2", "--nodename mac-2"), ("kubernetes-admin", "bootstrap token"), ("", "bootstrap token")],
)
def test_another_users_credential_is_refused_with_a_way_out(user: str, way_out: str) -> None:
    with pytest.raises(InvalidInput, match=way_out):
        identity.require_own_user(user, "mac-1")


def test_settings_win_over_what_the_host_says() -> None:
    given = settings(**{"node-ip": "10.9.9.9", "cpu": "2500m", "memory": "4Gi", "max-pods": "7"})
    made = identity.from_settings(given, MAC, address="10.0.0.1", port=1, runtime_version="vz://1", slots=2)
    assert (made.address, made.cpu_milli, made.memory_bytes, made.max_pods) == ("10.9.9.9", 2500, 4 << 30, 7)


def test_without_settings_the_host_and_its_machine_slots_count() -> None:
    made = identity.from_settings(settings(), MAC, address="10.0.0.1", port=1, runtime_version="vz://1", slots=2)
    assert (made.address, made.cpu_milli, made.max_pods) == ("10.0.0.1", None, 2)
    [taint] = made.taints
    assert (taint.key, taint.value, taint.effect) == ("virtual-kubelet.io/provider", "macOS-vz", "NoSchedule")


def test_a_node_without_taints_has_none() -> None:
    made = identity.from_settings(
        settings(**{"disable-taint": "true"}), MAC, address="10.0.0.1", port=1, runtime_version="vz://1"
    )
    assert made.taints == ()
