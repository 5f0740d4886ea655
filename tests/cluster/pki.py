"""The cluster's certificates: one CA signs the API server, its clients and, through CSRs, the nodes."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALIDITY = datetime.timedelta(days=365)
# A guest or a container on this machine may run with a clock that is a little behind.
BACKDATED = datetime.timedelta(hours=1)
KUBELET_CLIENT_USER = "kube-apiserver-kubelet-client"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM files of a certificate and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Pki:
    """Every file of the cluster's PKI; `create` writes them, `at` only names them."""

    directory: Path

    @property
    def ca(self) -> KeyPair:
        return self.pair("ca")

    @property
    def apiserver(self) -> KeyPair:
        return self.pair("apiserver")

    @property
    def kubelet_client(self) -> KeyPair:
        """The API server's identity towards kubelets."""
        return self.pair("apiserver-kubelet-client")

    @property
    def admin(self) -> KeyPair:
        return self.pair("admin")

    @property
    def service_account_key(self) -> Path:
        return self.directory / "service-account.key"

    @property
    def service_account_public_key(self) -> Path:
        return self.directory / "service-account.pub"

    def pair(self, name: str) -> KeyPair:
        return KeyPair(self.directory / f"{name}.crt", self.directory / f"{name}.key")

    def issue_client(self, name: str, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """Sign a client certificate `name`.crt for `user` directly with the CA key, past the API server."""
        ca_certificate = x509.load_pem_x509_certificate(self.ca.certificate.read_bytes())
        ca_key = serialization.load_pem_private_key(self.ca.key.read_bytes(), password=None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        return self._issue(name, _subject(user, groups), ExtendedKeyUsageOID.CLIENT_AUTH, ca_certificate, ca_key)

    def _issue(
        self,
        name: str,
        subject: x509.Name,
        usage: x509.ObjectIdentifier,
        ca_certificate: x509.Certificate,
        ca_key: ec.EllipticCurvePrivateKey,
        alternative_names: Sequence[x509.GeneralName] = (),
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(subject, ca_certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if alternative_names:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
        return _write(self.pair(name), builder.sign(ca_key, hashes.SHA256()), key)


def create(directory: Path, *, server_addresses: Sequence[str], service_address: str) -> Pki:
    """Make a new CA and everything the control plane needs from it, in `directory`."""
    directory.mkdir(parents=True, mode=0o700)
    pki = Pki(directory)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _subject("kubernetes-test-ca", ())
    ca_certificate = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_ca_key_usage(), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    _write(pki.ca, ca_certificate, ca_key)
    names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    addresses = dict.fromkeys(["127.0.0.1", service_address, *server_addresses])
    alternative_names = [*map(x509.DNSName, names), *(x509.IPAddress(ipaddress.ip_address(a)) for a in addresses)]
    pki._issue(
        "apiserver",
        _subject("kube-apiserver", ()),
        ExtendedKeyUsageOID.SERVER_AUTH,
        ca_certificate,
        ca_key,
        alternative_names,
    )
    pki.issue_client("admin", "kubernetes-admin", ["system:masters"])
    # No system:masters here: what the API server may do at a kubelet is a ClusterRoleBinding, as kubeadm sets it up.
    pki.issue_client("apiserver-kubelet-client", KUBELET_CLIENT_USER)
    pki.issue_client("controller-manager", "system:kube-controller-manager")
    pki.issue_client("scheduler", "system:kube-scheduler")
    _write_service_account_keys(pki)
    return pki


def private_key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may ever read, also while it is being written."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)


def _write_service_account_keys(pki: Pki) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    write_private(pki.service_account_key, private_key_pem(key))
    pki.service_account_public_key.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def _write(pair: KeyPair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    write_private(pair.key, private_key_pem(key))
    return pair


def _subject(common_name: str, organizations: Sequence[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + VALIDITY)
    )


def _ca_key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
