import contextlib
import socket

from vzkubelet.errors import Unavailable
from vzkubelet.kube import transport


def test_a_silent_peer_is_probed_by_the_kernel() -> None:
    made = transport._socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 1)))
    with contextlib.closing(made):
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == transport.KEEPALIVE_INTERVAL_S
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == transport.KEEPALIVE_PROBES
        idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)
        assert idle is not None
        assert made.getsockopt(socket.IPPROTO_TCP, idle) == transport.KEEPALIVE_IDLE_S


def test_the_reason_of_a_broken_connection_is_plain() -> None:
    broken = transport._broken("https://h", ConnectionResetError(104, "Connection reset by peer"))
    assert isinstance(broken, Unavailable)
    assert str(broken) == "API server https://h cannot be reached: [Errno 104] Connection reset by peer"
    assert str(transport._broken("https://h", OSError())).endswith("OSError")
