"""What `read` adds to `load`: the process environment, the file, and files that must be readable."""

from pathlib import Path

import pytest

from vzkubelet import config
from vzkubelet.errors import InvalidInput


@pytest.fixture(autouse=True)
def daemon_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for option in config.options():
        if option.env:
            monkeypatch.delenv(option.env, raising=False)
    for name in ("kubeconfig", "tls.crt", "tls.key"):
        (tmp_path / name).touch()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("APISERVER_CERT_LOCATION", str(tmp_path / "tls.crt"))
    monkeypatch.setenv("APISERVER_KEY_LOCATION", str(tmp_path / "tls.key"))
    monkeypatch.setenv("VZ_SSH_USER", "admin")
    monkeypatch.setenv("VZ_SSH_PASSWORD", "admin")


def test_file_settings_are_read(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("nodename: mac-9\ndisable-taint: true\n")
    settings = config.read({"config": str(file), "max-pods": "3"})
    assert (settings.node.name, settings.node.taints, settings.node.max_pods) == ("mac-9", (), 3)


def test_empty_file_is_no_settings(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").touch()
    assert config.read({"config": str(tmp_path / "settings.yaml")}).server.port == 10250


@pytest.mark.parametrize(
    ("content", "reason"),
    [("- a\n- b\n", "is not a mapping of setting names"), ("a: [", "is not YAML"), ("\x00", "is not YAML")],
)
def test_unusable_file_is_reported_beside_other_mistakes(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    with pytest.raises(InvalidInput) as caught:
        config.read({"config": str(file), "log-level": "loud"})
    assert reason in str(caught.value)
    assert "--log-level" in str(caught.value)


def test_missing_file_is_named() -> None:
    with pytest.raises(InvalidInput, match="--config: cannot read /nowhere: No such file or directory"):
        config.read({"config": "/nowhere"})


def test_unreadable_files_are_reported_beside_other_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "gone"))
    monkeypatch.setenv("APISERVER_CERT_LOCATION", str(tmp_path))
    with pytest.raises(InvalidInput) as caught:
        config.read({"log-level": "loud"})
    assert f"KUBECONFIG): cannot read {tmp_path / 'gone'}: No such file" in str(caught.value)
    assert f"APISERVER_CERT_LOCATION: cannot read {tmp_path}: Is a directory" in str(caught.value)
    assert str(caught.value).startswith("3 mistakes")


def test_without_a_cluster_no_kubeconfig_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert config.read({}, purpose=config.Purpose.STANDALONE).kube.kubeconfig == Path("/nowhere")


def test_variables_of_a_file_count_where_the_environment_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VZ_SSH_PASSWORD")
    file = tmp_path / "agent.env"
    file.write_text("VZ_SSH_USER=other\nVZ_SSH_PASSWORD='a b'\n")
    file.chmod(0o600)
    settings = config.read({"environment-file": str(file)})
    assert (settings.guests.ssh_user, settings.guests.ssh_password) == ("admin", "a b")


def test_both_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"(?s)--environment-file: cannot read .*--config: cannot read "):
        config.read({"environment-file": str(tmp_path / "a"), "config": str(tmp_path / "b")})


def test_helpers_are_not_told_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VZ_SSH_PASSWORD", "hunter2")
    monkeypatch.setenv("VZ_SSH_USER", "admin")
    given = config.helper_environment()
    assert given["VZ_SSH_USER"] == "admin"
    assert "hunter2" not in given.values()


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_file_with_a_secret_that_others_can_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.delenv("VZ_SSH_PASSWORD")
    file = tmp_path / "agent.env"
    file.write_text("VZ_SSH_PASSWORD=geheim\n")
    file.chmod(mode)
    with pytest.raises(InvalidInput, match=f"has VZ_SSH_PASSWORD in it, .*chmod 600 {file}") as caught:
        config.read({"environment-file": str(file)})
    assert "geheim" not in str(caught.value)
    assert "is not set" not in str(caught.value)
    file.write_text("VZ_SSH_USER=other\n")
    monkeypatch.setenv("VZ_SSH_PASSWORD", "x")
    config.read({"environment-file": str(file)})


def test_one_mistake_does_not_hide_the_other_settings() -> None:
    understood, mistakes = config.understand({"kubelet-port": "70000", "nodename": "mac-9", "unknown": "x"})
    assert [mistake.split(":")[0] for mistake in mistakes] == ["--unknown", "--kubelet-port"]
    assert (understood.server.port, understood.node.name) == (10250, "mac-9")
    assert understood.guests.ssh_user == "admin"


def test_a_host_whose_name_is_no_nodes_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "local_host", lambda: config.Host("My_Mac", "linux", "/root"))
    understood, mistakes = config.understand({})
    assert understood.node.name == "localhost"
    assert "is not a node name" in mistakes[0]


def test_the_password_of_a_url_is_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = config.effective(config.read({"docker-host": "tcp://user:topsecret@h:1/x@y"}))
    assert shown["sidecars.docker_host"] == "tcp://h:1/x@y"
