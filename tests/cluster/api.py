"""A small synchronous client of the API server, for setting up and checking a cluster."""

import http.client
import json
import ssl
import urllib.parse
from pathlib import Path
from typing import Any

from tests.cluster.pki import KeyPair

MERGE_PATCH = "application/merge-patch+json"


class ApiError(Exception):
    """An answer that is not 2xx; `status` is the HTTP code, `reason` that of the Status object."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


class ApiClient:
    """Requests as one identity: a client certificate or a bearer token."""

    def __init__(
        self, server: str, ca_certificate: Path, client: KeyPair | None = None, token: str | None = None
    ) -> None:
        self.server = server
        self._address = urllib.parse.urlsplit(server).netloc
        self._tls = ssl.create_default_context(cafile=str(ca_certificate))
        if client:
            self._tls.load_cert_chain(client.certificate, client.key)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """Answer of one request: parsed JSON, or text.

        Raises: ApiError on an HTTP error, OSError or http.client.HTTPException when there is no answer.
        """
        connection = http.client.HTTPSConnection(self._address, context=self._tls, timeout=30)
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, path, payload, {**self._headers, "Content-Type": content_type})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        answer: Any = json.loads(content) if is_json else content.decode(errors="replace")
        if response.status >= 300:
            reason, message = (
                (answer.get("reason", ""), answer.get("message", "")) if is_json else (response.reason, answer)
            )
            raise ApiError(response.status, reason, message)
        return answer

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def create(self, path: str, body: Any) -> Any:
        return self.request("POST", path, body)

    def delete(self, path: str) -> Any:
        return self.request("DELETE", path)

    def ensure(self, path: str, body: Any) -> None:
        """Create an object unless one of its name is there already."""
        try:
            self.create(path, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    def is_ready(self) -> bool:
        """Whether /readyz answers 200."""
        try:
            self.get("/readyz")
        except (ApiError, OSError, http.client.HTTPException):
            return False
        return True
