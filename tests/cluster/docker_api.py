"""The few calls of the Docker Engine API that setting up an engine needs, over its unix socket."""

import base64
import http.client
import json
import socket
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class DockerApiError(RuntimeError):
    """The engine refused a request, or reported an error inside a progress stream."""


class DockerApi:
    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    def answers(self) -> bool:
        try:
            self._request("GET", "/_ping")
        except (OSError, http.client.HTTPException, DockerApiError):
            return False
        return True

    def import_image(self, archive: bytes, repository: str, tag: str, changes: list[str]) -> None:
        """Make an image of one layer from an uncompressed tar; `changes` are Dockerfile instructions."""
        query = [("fromSrc", "-"), ("repo", repository), ("tag", tag), *(("changes", change) for change in changes)]
        self._progress(
            f"/images/create?{urllib.parse.urlencode(query)}", archive, {"Content-Type": "application/x-tar"}
        )

    def image_id(self, reference: str) -> str:
        image = json.loads(self._request("GET", f"/images/{reference}/json"))
        identity: str = image["Id"]
        return identity

    def tag(self, source: str, repository: str, tag: str) -> None:
        self._request("POST", f"/images/{source}/tag?{urllib.parse.urlencode({'repo': repository, 'tag': tag})}")

    def push(self, repository: str, tag: str, credentials: Mapping[str, str]) -> None:
        auth = base64.urlsafe_b64encode(json.dumps(dict(credentials)).encode()).decode()
        self._progress(f"/images/{repository}/push?tag={tag}", b"", {"X-Registry-Auth": auth})

    def remove_image(self, reference: str) -> None:
        self._request("DELETE", f"/images/{reference}")

    def start_container(self, image: str, *command: str, name: str | None = None) -> str:
        """Start a container on the default bridge and return its ID; nobody waits for it."""
        query = f"?{urllib.parse.urlencode({'name': name})}" if name else ""
        body = json.dumps({"Image": image, "Cmd": command}).encode()
        headers = {"Content-Type": "application/json"}
        identity: str = json.loads(self._request("POST", f"/containers/create{query}", body, headers))["Id"]
        self._request("POST", f"/containers/{identity}/start")
        return identity

    def container_address(self, container: str) -> str:
        """IPv4 address of a running container on the default bridge."""
        settings = json.loads(self._request("GET", f"/containers/{container}/json"))["NetworkSettings"]
        address: str = settings["Networks"]["bridge"]["IPAddress"]
        return address

    def remove_all_containers(self) -> None:
        """Kill and remove every container."""
        for container in json.loads(self._request("GET", "/containers/json?all=true")):
            self._request("DELETE", f"/containers/{container['Id']}?force=true&v=true")

    def _progress(self, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        # The status is 200 as soon as work begins; what goes wrong later is an element of the stream.
        for line in self._request("POST", path, body, headers).splitlines():
            report: dict[str, Any] = json.loads(line) if line.strip() else {}
            if "error" in report:
                raise DockerApiError(f"POST {path}: {report['error']}")

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        connection = _UnixConnection(self._socket_path)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise DockerApiError(f"{method} {path}: {response.status} {content.decode(errors='replace').strip()}")
        return content


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
