"""Certificates: whether they can be read, belong to their keys, and how long they are still valid."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from vzkubelet.host.finding import Finding, ok, problem, warning
from vzkubelet.host.probe import Probe
from vzkubelet.host.subject import Subject

USER_PREFIX = "system:node:"
NODE_GUIDE = 'docs/macos.md, section "A node"'
SOON = timedelta(days=14)
LATE_SHARE = 0.1
"""Of its life that is left: a certificate for a day is not late from the start."""


def client(probe: Probe, subject: Subject) -> Iterator[Finding]:
    assert subject.cluster is not None
    cluster, where = subject.cluster, subject.config.kube.kubeconfig
    if not cluster.client_certificate:
        return  # a token or a plugin, which see to themselves
    fixes = client_request(subject)
    why = "the API server turns the node away"
    found = _lifetime(
        "client-certificate",
        f"the client certificate in {where}",
        cluster.client_certificate,
        probe.time(),
        why,
        *fixes,
    )
    yield found
    if cluster.pair_fault:
        what = cluster.pair_fault
        if "mismatch" in what.lower():
            what = f"the client key in {where} is not the key of its client certificate"
        yield problem("client-certificate", what, "the agent refuses to start", *fixes)
    user, own = _common_name(cluster.client_certificate), USER_PREFIX + subject.config.node.name
    if user and user != own and not cluster.user:  # whom the API server takes us for is told where it answered
        yield problem(
            "client-certificate",
            f'the client certificate in {where} is that of "{user}", not of {own}',
            "the API server lets a node write only what is its own",
            *(
                [f"macos-vz-kubelet --nodename {user.removeprefix(USER_PREFIX)}"]
                if user.startswith(USER_PREFIX)
                else fixes
            ),
        )


def serving(probe: Probe, subject: Subject) -> Iterator[Finding]:
    server = subject.config.server
    if server.cert_file is None or server.key_file is None:
        return  # told among the mistakes of the configuration
    why = "kubectl exec, logs and port-forward to this node fail"
    certificate = _read(probe, server.cert_file)
    key = _read(probe, server.key_file)
    if certificate is None or key is None:
        missing = server.cert_file if certificate is None else server.key_file
        yield problem("serving-certificate", f"cannot read {missing}", "the agent refuses to start", f"ls -l {missing}")
        return
    fixes = _serving_request(subject, server.cert_file, server.key_file)
    what = f"the serving certificate {server.cert_file}"
    yield _lifetime("serving-certificate", what, certificate, probe.time(), why, *fixes)
    fault = _pair_fault(certificate, key, server.cert_file, server.key_file)
    if fault:
        mend = _without_passphrase(server.key_file) if "encrypted" in fault else fixes
        yield problem("serving-certificate", fault, "the agent refuses to start", *mend)
    names = _names(certificate)
    if names is not None and subject.address and subject.address not in names:
        yield problem(
            "serving-certificate",
            f"{what} is for {', '.join(names) or 'no name at all'}, not for this node's address {subject.address}",
            "an API server with --kubelet-certificate-authority refuses kubectl exec, logs and port-forward",
            *fixes,
        )


def client_request(subject: Subject) -> tuple[str, ...]:
    """How the node gets a new client certificate."""
    path = shlex.quote(str(subject.config.kube.kubeconfig))
    return (
        *_guide(subject),
        "certify node kube-apiserver-client-kubelet 'client auth'",
        f"kubectl config --kubeconfig {path} set-credentials node --client-certificate node.crt --client-key node.key "
        "--embed-certs   # node: the user's name in it",
    )


def _serving_request(subject: Subject, certificate: Path, key: Path) -> tuple[str, ...]:
    return (
        *_guide(subject),
        "certify serving kubelet-serving 'server auth' -addext \"subjectAltName=DNS:$NODE,IP:$IP\"",
        f"install -m 600 serving.key {shlex.quote(str(key))}",
        f"install -m 644 serving.crt {shlex.quote(str(certificate))}   # a running agent takes both by itself",
    )


def _guide(subject: Subject) -> tuple[str, ...]:
    return (
        f"# as administrator, with the shell function certify of {NODE_GUIDE}, which requests, approves and fetches:",
        f"NODE={subject.config.node.name} IP={subject.address or 'ADDRESS'}",
    )


def _without_passphrase(key: Path) -> tuple[str, ...]:
    path = shlex.quote(str(key))
    return (f"openssl pkey -in {path} -out plain.key && install -m 600 plain.key {path}",)


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


def _pair_fault(certificate: bytes, key: bytes, certificate_file: Path, key_file: Path) -> str:
    """Empty also where it cannot be told: the lifetime's finding says what is wrong with the certificate."""
    mismatch = f"{key_file} is not the key of {certificate_file}"
    try:
        private = serialization.load_pem_private_key(key, None)
    except TypeError:
        return f"the key {key_file} is encrypted; the agent needs it without a passphrase"
    except UnsupportedAlgorithm:
        return mismatch
    except ValueError:
        return f"{key_file} is not a PEM key"
    try:
        public = x509.load_pem_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return ""
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return "" if public.public_bytes(*form) == private.public_key().public_bytes(*form) else mismatch


def _common_name(certificate: bytes) -> str:
    try:
        names = x509.load_pem_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(names[0].value) if names else ""


def _names(certificate: bytes) -> tuple[str, ...] | None:
    """Host names and addresses that a certificate is for; None when it cannot be read."""
    try:
        found = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return ()
    except ValueError:
        return None
    addresses = found.value.get_values_for_type(x509.IPAddress)
    return (*found.value.get_values_for_type(x509.DNSName), *map(str, addresses))
