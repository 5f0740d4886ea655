import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from vzkubelet.errors import InvalidInput
from vzkubelet.kube import kubeconfig

Document = dict[str, Any]


def document(cluster: Document | None = None, user: Document | None = None) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://10.0.0.1:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }


def write(path: Path, content: Document | str) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_embedded_data_is_decoded_and_wins_over_files(tmp_path: Path) -> None:
    user = {"client-certificate-data": b64("CERT"), "client-key-data": b64("KEY"), "client-key": "/nowhere"}
    file = write(tmp_path / "config", document({"certificate-authority-data": b64("CA")}, user))
    access = kubeconfig.load(file)
    assert access.server == "https://10.0.0.1:6443"
    assert (access.ca, access.client_certificate, access.client_key) == (b"CA", b"CERT", b"KEY")


def test_file_names_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    for name in ("ca", "cert", "key"):
        (tmp_path / "pki" / name).write_text(name.upper())
    user = {"client-certificate": "pki/cert", "client-key": "pki/key", "tokenFile": "pki/token"}
    access = kubeconfig.load(write(tmp_path / "config", document({"certificate-authority": "pki/ca"}, user)))
    assert (access.ca, access.client_certificate, access.client_key) == (b"CA", b"CERT", b"KEY")
    assert access.token_file == tmp_path / "pki" / "token"


def test_of_several_files_the_first_that_has_an_entry_wins(tmp_path: Path) -> None:
    first = write(tmp_path / "one", {"contexts": [{"name": "here", "context": {"cluster": "k", "user": "u"}}]})
    second = write(tmp_path / "two", document(user={"token": "second"}))
    third = write(tmp_path / "three", document({"server": "https://third"}, {"token": "third"}))
    access = kubeconfig.load([first, tmp_path / "missing", second, third])
    assert access.server == "https://10.0.0.1:6443"
    assert access.token == "second"


def test_another_context_can_be_chosen(tmp_path: Path) -> None:
    content = document()
    content["contexts"].append({"name": "there", "context": {"cluster": "other", "user": "u"}})
    content["clusters"].append({"name": "other", "cluster": {"server": "https://other", "tls-server-name": "api"}})
    access = kubeconfig.load(write(tmp_path / "config", content), "there")
    assert (access.server, access.server_name) == ("https://other", "api")


def test_an_exec_plugin_is_understood(tmp_path: Path) -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "./login",
        "args": ["a"],
        "env": [{"name": "N", "value": "v"}],
        "interactiveMode": "IfAvailable",
        "provideClusterInfo": True,
    }
    access = kubeconfig.load(write(tmp_path / "config", document(user={"exec": plugin})))
    assert access.exec is not None
    assert access.exec.command == "./login"
    assert access.exec_directory == tmp_path


REFUSED: list[tuple[str, Document | str, str]] = [
    ("empty", "", "no current-context"),
    ("not yaml", "a: [", "not YAML"),
    ("a list", "- a", "not a mapping"),
    ("binary", "\x00\x01", "not YAML"),
    ("clusters of a wrong type", "clusters: 7", "clusters"),
    ("no context", {**document(), "contexts": []}, 'no context "here"'),
    ("no cluster", {**document(), "clusters": []}, 'cluster "k", which does not exist'),
    ("no user", {**document(), "users": []}, 'user "u", which does not exist'),
    ("no server", document({"server": ""}), "is not a URL"),
    ("server without scheme", document({"server": "10.0.0.1:6443"}), "is not a URL"),
    ("a proxy", document({"proxy-url": "http://p"}), "proxy-url"),
    ("basic authentication", document(user={"username": "a", "password": "b"}), "username and password"),
    ("auth-provider", document(user={"auth-provider": {"name": "gcp"}}), "auth-provider"),
    ("impersonation", document(user={"as": "admin"}), "impersonation"),
    ("a certificate without key", document(user={"client-certificate-data": b64("C")}), "together"),
    ("data that is not base64", document({"certificate-authority-data": "$$$"}), "certificate-authority-data"),
    ("a missing CA file", document({"certificate-authority": "ca.crt"}), "ca.crt: No such file"),
    ("CA and no verification", document({"insecure-skip-tls-verify": True, "certificate-authority": "x"}), "exclude"),
    ("a token in clear text", document({"server": "http://10.0.0.1"}, {"token": "t"}), "clear text"),
    ("exec of an unknown version", document(user={"exec": {"apiVersion": "v1alpha1", "command": "x"}}), "v1alpha1"),
    (
        "exec that needs a terminal",
        document(
            user={
                "exec": {
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "command": "x",
                    "interactiveMode": "Always",
                }
            }
        ),
        "terminal",
    ),
]


@pytest.mark.parametrize(("content", "reason"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_cannot_work_is_refused_with_file_and_reason(tmp_path: Path, content: Document | str, reason: str) -> None:
    file = write(tmp_path / "config", content)
    with pytest.raises(InvalidInput) as caught:
        kubeconfig.load(file)
    assert str(file) in str(caught.value)
    assert reason in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read kubeconfig .*/none: no such file"):
        kubeconfig.load(tmp_path / "none")


def test_a_directory_is_no_kubeconfig(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="Is a directory"):
        kubeconfig.load(tmp_path)


def test_a_secret_does_not_get_into_the_message(tmp_path: Path) -> None:
    file = write(tmp_path / "config", document(user={"token": "hush", "username": "u", "password": "hush"}))
    with pytest.raises(InvalidInput) as caught:
        kubeconfig.load(file)
    assert "hush" not in str(caught.value)


def test_a_syntax_error_does_not_quote_the_line_with_the_secret(tmp_path: Path) -> None:
    file = write(tmp_path / "config", "users:\n- token: hush\n  - [hush")
    with pytest.raises(InvalidInput, match=r"not YAML: .* in line 3") as caught:
        kubeconfig.load(file)
    assert "hush" not in str(caught.value)


def test_in_a_pod_the_service_account_is_used(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text("CA")
    variables = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = kubeconfig.in_cluster(variables, tmp_path)
    assert access.server == "https://[fd00::1]:443"
    assert access.token_file == tmp_path / "token"
    assert access.ca == b"CA"


def test_outside_a_pod_there_is_no_service_account(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not inside a cluster"):
        kubeconfig.in_cluster({}, tmp_path)
    with pytest.raises(InvalidInput, match="service account token"):
        kubeconfig.in_cluster({"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "1"}, tmp_path)
