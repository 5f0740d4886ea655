"""Kubeconfig files with everything embedded, so that they can be copied anywhere."""

import base64
from pathlib import Path

import yaml

from tests.cluster.pki import KeyPair, write_private


def write(path: Path, *, server: str, ca_certificate: Path, user: str, client: KeyPair) -> Path:
    """Write a kubeconfig with one context for `user`, readable by the owner only."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "default",
        "clusters": [
            {"name": "default", "cluster": {"server": server, "certificate-authority-data": _embedded(ca_certificate)}}
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _embedded(client.certificate),
                    "client-key-data": _embedded(client.key),
                },
            }
        ],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": user}}],
    }
    write_private(path, yaml.safe_dump(content, sort_keys=False).encode())
    return path


def _embedded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
