"""What a client's upgrade request and we agree on: SPDY/3.1 or WebSocket, and the remote command protocol over it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from vzkubelet.errors import InvalidInput
from vzkubelet.wire import channels, remote_command, spdy, streams, websocket_frames

SPDY: Final = "SPDY/3.1"
_WEBSOCKET_PROTOCOL: Final = "Sec-WebSocket-Protocol"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Headers of the 101, and who speaks after it."""

    headers: Mapping[str, str]
    connection: streams.Connection
    protocol: remote_command.Protocol


def agree(request: web.Request, options: remote_command.Options) -> Agreement:
    """Raises InvalidInput (no or no known upgrade), Forbidden (no common protocol over SPDY)."""
    connection = ",".join(request.headers.getall("Connection", ())).lower()
    upgrade = request.headers.get("Upgrade", "").lower() if "upgrade" in connection else ""
    if upgrade == SPDY.lower():
        offered = request.headers.getall(remote_command.PROTOCOL_HEADER, ())
        name, protocol = remote_command.negotiate(offered)
        headers = {"Connection": "Upgrade", "Upgrade": SPDY, remote_command.PROTOCOL_HEADER: name}
        return Agreement(headers, spdy.Connection(spdy.Role.SERVER), protocol)
    if upgrade == "websocket":
        return _agree_websocket(request, options)
    raise InvalidInput(f"Upgrade request required: {SPDY} or websocket")


def _agree_websocket(request: web.Request, options: remote_command.Options) -> Agreement:
    """Clients fall back to SPDY on any answer but 101."""
    offered = {name.strip() for line in request.headers.getall(_WEBSOCKET_PROTOCOL, ()) for name in line.split(",")}
    key = request.headers.get("Sec-WebSocket-Key", "")
    if request.method != "GET" or not key or request.headers.get("Sec-WebSocket-Version") != websocket_frames.VERSION:
        raise InvalidInput("unable to upgrade: not a WebSocket handshake of version 13")
    if channels.V5 not in offered:
        raise InvalidInput(f"unable to upgrade: WebSocket subprotocol {channels.V5} is required")
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Accept": websocket_frames.accept_key(key),
        _WEBSOCKET_PROTOCOL: channels.V5,
    }
    protocol = remote_command.Protocol.V5
    expected = remote_command.expected_channels(options, protocol)
    return Agreement(headers, channels.Connection(expected), protocol)
