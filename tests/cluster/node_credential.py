"""Node credentials, minted as a real cluster does: bootstrap token, certificate signing requests, approval."""

import base64
import datetime
import ipaddress
import secrets
import shutil
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.cluster import kubeconfig
from tests.cluster.api import ApiClient, ApiError
from tests.cluster.bootstrap_policy import BOOTSTRAP_GROUP
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pki import KeyPair, private_key_pem, write_private

REQUESTS_PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_SIGNER = "kubernetes.io/kubelet-serving"
TOKEN_LIFETIME = datetime.timedelta(minutes=15)
SIGNING_TIMEOUT_S = 30.0
# The API server's authenticators and authorizers read tokens and bindings from watches that lag a write.
PROPAGATION_TIMEOUT_S = 10.0


class CredentialFailed(RuntimeError):
    """A certificate was denied, or not signed in time."""


@dataclass(frozen=True, slots=True)
class NodeCredential:
    """The files a node agent starts with."""

    node_name: str
    directory: Path
    kubeconfig: Path
    client: KeyPair
    serving: KeyPair
    ca_certificate: Path
    server: str

    def environment(self) -> dict[str, str]:
        """The variables that hand these files to the agent."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "APISERVER_CERT_LOCATION": str(self.serving.certificate),
            "APISERVER_KEY_LOCATION": str(self.serving.key),
            "APISERVER_CA_CERT_LOCATION": str(self.ca_certificate),
        }

    def api(self) -> ApiClient:
        """Client with the node's identity."""
        return ApiClient(self.server, self.ca_certificate, self.client)


def mint(
    cluster: ControlPlane,
    node_name: str,
    directory: Path,
    *,
    addresses: Sequence[str] = ("127.0.0.1",),
    client_lifetime_s: int | None = None,
) -> NodeCredential:
    """Join `node_name`: write its kubeconfig, client and serving certificate into `directory`.

    `addresses` are the IP addresses that the API server dials the node at. `client_lifetime_s` is at least 600, which
    is the API's own floor.
    Raises: CredentialFailed, ApiError.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_certificate = Path(shutil.copyfile(cluster.pki.ca.certificate, directory / "ca.crt"))
    client = _request_client_certificate(cluster, node_name, directory, client_lifetime_s)
    credential = NodeCredential(
        node_name=node_name,
        directory=directory,
        kubeconfig=kubeconfig.write(
            directory / "kubeconfig",
            server=cluster.server,
            ca_certificate=ca_certificate,
            user=f"system:node:{node_name}",
            client=client,
        ),
        client=client,
        serving=KeyPair(directory / "serving.crt", directory / "serving.key"),
        ca_certificate=ca_certificate,
        server=cluster.server,
    )
    renew_serving_certificate(cluster, credential, addresses)
    return credential


def renew_serving_certificate(
    cluster: ControlPlane, credential: NodeCredential, addresses: Sequence[str], lifetime_s: int | None = None
) -> None:
    """Request a serving certificate as the node, approve it as the admin, replace the files.

    Raises: CredentialFailed, ApiError.
    """
    node = credential.api()
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName(credential.node_name), *(x509.IPAddress(ipaddress.ip_address(a)) for a in addresses)]
    request = _certificate_request(credential.node_name, key, names)
    name = _create_request(node, request, SERVING_SIGNER, "server auth", lifetime_s)
    approve(cluster.api, name)
    certificate = _wait_for_certificate(node, name)
    write_private(credential.serving.key, private_key_pem(key))
    credential.serving.certificate.write_bytes(certificate)


def approve(admin: ApiClient, request_name: str) -> None:
    """The cluster operator's step for a serving certificate; kube-controller-manager never takes it."""
    path = f"{REQUESTS_PATH}/{request_name}"
    request = admin.get(path)
    condition = {
        "type": "Approved",
        "status": "True",
        "reason": "TestClusterApproved",
        "message": "approved for a test node",
    }
    request["status"] = {"conditions": [condition]}
    admin.request("PUT", f"{path}/approval", request)


def create_bootstrap_token(admin: ApiClient) -> str:
    """A new bootstrap token, `id.secret`, that may request node client certificates for a few minutes."""
    token_id, secret = _random_text(6), _random_text(16)
    expires = datetime.datetime.now(datetime.UTC) + TOKEN_LIFETIME
    admin.create(
        "/api/v1/namespaces/kube-system/secrets",
        {
            "metadata": {"name": f"bootstrap-token-{token_id}"},
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {
                "token-id": token_id,
                "token-secret": secret,
                "expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "usage-bootstrap-authentication": "true",
                "usage-bootstrap-signing": "true",
                "auth-extra-groups": BOOTSTRAP_GROUP,
            },
        },
    )
    return f"{token_id}.{secret}"


def delete_bootstrap_token(admin: ApiClient, token: str) -> None:
    admin.delete(f"/api/v1/namespaces/kube-system/secrets/bootstrap-token-{token.partition('.')[0]}")


def _request_client_certificate(
    cluster: ControlPlane, node_name: str, directory: Path, lifetime_s: int | None
) -> KeyPair:
    token = create_bootstrap_token(cluster.api)
    try:
        bootstrap = ApiClient(cluster.server, cluster.pki.ca.certificate, token=token)
        key = ec.generate_private_key(ec.SECP256R1())
        request = _certificate_request(node_name, key)
        name = _when_propagated(lambda: _create_request(bootstrap, request, CLIENT_SIGNER, "client auth", lifetime_s))
        certificate = _wait_for_certificate(bootstrap, name)
    finally:
        delete_bootstrap_token(cluster.api, token)
    pair = KeyPair(directory / "client.crt", directory / "client.key")
    write_private(pair.key, private_key_pem(key))
    pair.certificate.write_bytes(certificate)
    return pair


def _certificate_request(
    node_name: str, key: ec.EllipticCurvePrivateKey, names: Sequence[x509.GeneralName] = ()
) -> bytes:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node_name}"),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _create_request(api: ApiClient, request: bytes, signer: str, usage: str, lifetime_s: int | None) -> str:
    spec: dict[str, Any] = {
        "request": base64.b64encode(request).decode(),
        "signerName": signer,
        "usages": ["digital signature", usage],
    }
    if lifetime_s is not None:
        spec["expirationSeconds"] = lifetime_s
    created = api.create(REQUESTS_PATH, {"metadata": {"generateName": "node-csr-"}, "spec": spec})
    name: str = created["metadata"]["name"]
    return name


def _wait_for_certificate(api: ApiClient, name: str) -> bytes:
    deadline = time.monotonic() + SIGNING_TIMEOUT_S
    while True:
        status = api.get(f"{REQUESTS_PATH}/{name}").get("status", {})
        for condition in status.get("conditions", []):
            if condition["type"] in ("Denied", "Failed"):
                raise CredentialFailed(
                    f"certificate request {name} was {condition['type'].lower()}: {condition.get('message', '')}"
                )
        if "certificate" in status:
            return base64.b64decode(status["certificate"])
        if time.monotonic() > deadline:
            raise CredentialFailed(
                f"certificate request {name} has no certificate after {SIGNING_TIMEOUT_S:g} s; status: {status}"
            )
        time.sleep(0.05)


def _when_propagated(attempt: Callable[[], str]) -> str:
    deadline = time.monotonic() + PROPAGATION_TIMEOUT_S
    while True:
        try:
            return attempt()
        except ApiError as error:
            if error.status not in (401, 403) or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _random_text(length: int) -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(length))
