"""Certificates: whether they can be read, belong to their keys, and how long they are still valid."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from vzkubelet.host.finding import Finding, ok, problem, warning
from vzkubelet.host.probe import Probe
from vzkubelet.host.subject import Subject

SOON = timedelta(days=14)
LATE_SHARE = 0.1
"""Of its life that is left: a certificate for a day is not late from the start."""


def client(probe: Probe, subject: Subject) -> Iterator[Finding]:
    assert subject.cluster is not None
    if not subject.cluster.client_certificate:
        return  # a token or a plugin, which see to themselves
    name = subject.config.node.name
    yield _lifetime(
        "client-certificate",
        f"the client certificate in {subject.config.kube.kubeconfig}",
        subject.cluster.client_certificate,
        probe.time(),
        "the API server turns the node away",
        f"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr "
        f"-subj '/O=system:nodes/CN=system:node:{name}'",
        f"kubectl certificate approve {name}   # of a request to kubernetes.io/kube-apiserver-client-kubelet",
    )


def serving(probe: Probe, subject: Subject) -> Iterator[Finding]:
    server, name = subject.config.server, subject.config.node.name
    if server.cert_file is None or server.key_file is None:
        return  # told among the mistakes of the configuration
    request = (
        f"openssl req -new -key {server.key_file} -out {name}.csr -subj '/O=system:nodes/CN=system:node:{name}' "
        f"-addext subjectAltName=DNS:{name}"
    )
    approve = f"kubectl certificate approve {name}   # of a request to kubernetes.io/kubelet-serving"
    why = "kubectl exec, logs and port-forward to this node fail"
    certificate = _read(probe, server.cert_file)
    key = _read(probe, server.key_file)
    if certificate is None or key is None:
        missing = server.cert_file if certificate is None else server.key_file
        yield problem("serving-certificate", f"cannot read {missing}", "the agent refuses to start", f"ls -l {missing}")
        return
    finding = _lifetime(
        "serving-certificate", f"the serving certificate {server.cert_file}", certificate, probe.time(), why,
        request, approve,
    )  # fmt: skip
    yield finding
    if not _belong_together(certificate, key):
        yield problem(
            "serving-certificate",
            f"{server.key_file} is not the key of {server.cert_file}",
            "the agent refuses to start",
            request,
            approve,
        )


def _read(probe: Probe, path: Path) -> bytes | None:
    try:
        return probe.read(path)
    except OSError:
        return None


def _lifetime(check: str, what: str, pem: bytes, now: float, why: str, *fix: str) -> Finding:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as exc:
        return problem(check, f"{what} is not a PEM certificate: {exc}", why, *fix)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    today = datetime.fromtimestamp(now, UTC)
    if today >= ends:
        return problem(check, f"{what} expired on {ends:%Y-%m-%d %H:%M} UTC", why, *fix)
    if today < begins:
        reason = f"{what} is not valid before {begins:%Y-%m-%d %H:%M} UTC"
        return problem(check, reason, why, "date -u   # is this clock right?", *fix)
    left = ends - today
    if left < SOON and left < (ends - begins) * LATE_SHARE:
        return warning(check, f"{what} expires on {ends:%Y-%m-%d %H:%M} UTC", f"then {why}", *fix)
    return ok(check, f"{what} is valid until {ends:%Y-%m-%d}")


def _belong_together(certificate: bytes, key: bytes) -> bool:
    """True also where it cannot be told: the lifetime's finding says what is wrong with the certificate."""
    try:
        public = x509.load_pem_x509_certificate(certificate).public_key()
        private = serialization.load_pem_private_key(key, None)
    except (TypeError, UnsupportedAlgorithm):
        return False  # an encrypted key is of no use to a daemon
    except ValueError:
        return b"CERTIFICATE" not in certificate or b"PRIVATE KEY" in key
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(*form) == private.public_key().public_bytes(*form)
