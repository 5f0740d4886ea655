"""Pull secrets: which logins are tried for which image, in which order (the kubelet's rules)."""

import base64
import json

import pytest

from vzkubelet.errors import InvalidInput
from vzkubelet.model.docker_config import (
    Candidate,
    Keyring,
    RegistryCredential,
    SecretCoordinates,
    matches,
)
from vzkubelet.model.meta import ObjectMeta
from vzkubelet.model.objects import Secret
from vzkubelet.model.reference import parse


def config(*locations: str) -> bytes:
    """A config.json in which every login's user is called after its location."""
    return json.dumps({"auths": {location: {"username": location, "password": "p"} for location in locations}}).encode()


def users(image: str, *configs: bytes) -> list[str]:
    keyring = Keyring()
    for content in configs:
        keyring.add_config(content, "test")
    return [login.username for login in keyring.lookup(parse(image))]


@pytest.mark.parametrize(
    ("location", "image", "fits"),
    [
        ("registry.io", "registry.io/team/app:1", True),
        ("registry.io", "registry.io:5000/team/app", False),
        ("registry.io:5000", "registry.io:5000/team/app", True),
        ("registry.io:5000", "registry.io/team/app", False),
        ("https://registry.io", "registry.io/team/app", True),
        ("http://registry.io/v1/", "registry.io/team/app", True),
        ("https://registry.io/v2/", "registry.io/team/app", True),
        ("registry.io/team", "registry.io/team/app", True),
        ("registry.io/team", "registry.io/teams/app", True),  # a plain prefix, as in the kubelet
        ("registry.io/other", "registry.io/team/app", False),
        ("registry.io/v1/team", "registry.io/team/app", True),
        ("*.registry.io", "eu.registry.io/app", True),
        ("*.registry.io", "registry.io/app", False),
        ("*.registry.io", "a.b.registry.io/app", False),
        ("*.*.io", "eu.registry.io/app", True),
        ("eu-?.registry.io", "eu-1.registry.io/app", False),  # begins a query, as in the kubelet
        ("eu-*.registry.io", "us-1.registry.io/app", False),
        ("https://index.docker.io/v1/", "busybox", True),
        ("index.docker.io", "docker.io/team/app", True),
        ("https://index.docker.io/v1/", "registry.io/app", False),
        ("docker.io", "busybox", True),
        ("docker.io/team", "team/app", True),
        ("docker.io/team", "busybox", False),
        ("[::1]:5000", "[::1]:5000/app", True),
        ("[::1]", "[::1]:5000/app", False),
        ("host:port", "host.io/app", False),
        ("user@registry.io", "registry.io/app", True),
        ("registry.io/%74eam", "registry.io/team/app", True),
        # What the kubelet's own tests of its keyring say.
        ("https://hello.kubernetes.io", "hello.kubernetes.io/foo/bar", True),
        ("https://*.docker.io", "prefix.docker.io/foo/bar", True),
        ("https://prefix.*.io", "prefix.docker.io/foo/bar", True),
        ("https://prefix.docker.*", "prefix.docker.io/foo/bar", True),
        ("https://prefix.*.io/path", "prefix.docker.io/path/subpath/foo/bar", True),
        ("https://*.docker.io:8888", "prefix.docker.io:8888/foo/bar", True),
        ("https://prefix.docker.*:8888", "prefix.docker.io:8888/foo/bar", True),
        ("https://*.docker.io/v1/", "prefix.docker.io/path/foo", True),
        ("https://*.docker.io/v2/", "prefix.docker.io/path/foo", True),
        ("*.docker.io:1111", "prefix.docker.io:1111/path/foo/bar", True),
        ("https://hello.kubernetes.io", "world.mesos.org/foo/bar", False),
        ("https://*.docker.com", "prefix.docker.io/foo/bar", False),
        ("https://suffix.*.io", "prefix.docker.io/foo/bar", False),
        ("https://prefix.docker.c*", "prefix.docker.io/foo/bar", False),
        ("https://prefix.*.io/path:1111", "prefix.docker.io/path/subpath", False),
        ("https://index.docker.io/v1/", "world.mesos.org/foo/bar", False),
        ("https://index.docker.io/v1/", "google/docker-registry", True),
        ("https://index.docker.io/v1/", "index.docker.io/google/docker-registry", True),
    ],
)
def test_which_login_fits(location: str, image: str, fits: bool) -> None:
    assert users(image, config(location)) == ([location] if fits else [])


@pytest.mark.parametrize(
    ("pattern", "image", "fits"),
    [
        ("*.kubernetes.io", "prefix.kubernetes.io", True),
        ("prefix.*.io", "prefix.kubernetes.io", True),
        ("prefix.kubernetes.*", "prefix.kubernetes.io", True),
        ("*-good.kubernetes.io", "prefix-good.kubernetes.io", True),
        ("*.kubernetes.io/blah", "prefix.kubernetes.io/blah", True),
        ("prefix.*.io/foo", "prefix.kubernetes.io/foo/bar", True),
        ("*.kubernetes.io:1111/blah", "prefix.kubernetes.io:1111/blah", True),
        ("prefix.*.io:1111/foo", "prefix.kubernetes.io:1111/foo/bar", True),
        ("*.kubernetes.io", "kubernetes.io", False),
        ("*.*.kubernetes.io", "prefix.kubernetes.io", False),
        ("*.*.kubernetes.io", "kubernetes.io", False),
        ("*kubernetes.io", "a.kubernetes.io", False),
        ("*kubernetes.io", "kubernetes.io", True),
        ("*.*.*.kubernetes.io", "a.b.c.kubernetes.io", True),
        ("kubernetes.io", "kubernetes.com", False),
        ("k*.io", "quay.io", False),
        ("*.kubernetes.io:1234/blah", "prefix.kubernetes.io:1111/blah", False),
        ("prefix.*.io/foo", "prefix.kubernetes.io:1111/foo/bar", False),
    ],
)
def test_patterns_as_in_the_kubelets_own_tests(pattern: str, image: str, fits: bool) -> None:
    assert matches(pattern, image) is fits


def test_deeper_paths_before_shallower_ones_as_in_the_kubelets_own_tests() -> None:
    content = config("bar.example.com/pong", "bar.example.com")
    both = ["bar.example.com/pong", "bar.example.com"]
    assert users("bar.example.com/pong", content) == both
    assert users("bar.example.com/pongz", content) == both
    assert users("bar.example.com/pong/pang", content) == both
    assert users("bar.example.com/ping", content) == ["bar.example.com"]
    assert users("foo.example.com/pong", content) == []


def test_most_specific_login_first() -> None:
    found = users("r.io/team/app", config("r.io", "r.io/team/app", "r.io/team", "*.io"))
    assert found == ["r.io/team/app", "r.io/team", "r.io", "*.io"]


def test_logins_of_one_place_in_the_order_of_the_secrets() -> None:
    first = json.dumps({"auths": {"r.io": {"username": "old", "password": "1"}}}).encode()
    second = json.dumps({"auths": {"https://r.io": {"username": "new", "password": "2"}}}).encode()
    assert users("r.io/app", first, second) == ["old", "new"]


def test_docker_hub_alias_only_when_nothing_fits_better() -> None:
    assert users("busybox", config("docker.io", "https://index.docker.io/v1/")) == ["docker.io"]


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        ({"username": "u", "password": "p"}, RegistryCredential("u", "p")),
        ({"auth": base64.b64encode(b"u:p:with:colons").decode()}, RegistryCredential("u", "p:with:colons")),
        ({"auth": base64.b64encode(b"user:pw").decode().rstrip("=")}, RegistryCredential("user", "pw")),
        ({"auth": base64.b64encode(b"u:p").decode(), "username": "x", "password": "y"}, RegistryCredential("u", "p")),
        ({"identitytoken": "t"}, RegistryCredential("", "", "t")),
        ({"auth": base64.b64encode(b"u:").decode(), "identitytoken": "t"}, RegistryCredential("u", "", "t")),
        ({"username": "<token>", "password": "t"}, RegistryCredential("", "", "t")),
        ({"username": "u", "password": "p", "email": "e@x", "unknown": 1}, RegistryCredential("u", "p")),
    ],
)
def test_forms_of_an_entry(entry: dict[str, object], login: RegistryCredential) -> None:
    keyring = Keyring()
    keyring.add_config(json.dumps({"auths": {"r.io": entry}, "credsStore": "x"}).encode(), "test")
    assert keyring.lookup(parse("r.io/app")) == (login,)


def secret(type_: str, key: str, content: bytes) -> Secret:
    return Secret(metadata=ObjectMeta(namespace="ns", name="pull"), type=type_, data={key: content})


def candidates(*secrets: Secret, image: str) -> list[str]:
    """Users of the logins."""
    keyring = Keyring()
    for each in secrets:
        keyring.add_secret(each)
    return [candidate.login.username for candidate in keyring.candidates(parse(image))]


def test_both_kinds_of_pull_secret() -> None:
    new = secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", config("r.io"))
    old = secret("kubernetes.io/dockercfg", ".dockercfg", b'{"r.io/team": {"username": "legacy", "password": "p"}}')
    assert candidates(new, old, image="r.io/team/app") == ["legacy", "r.io"]


def test_candidates_know_the_secret_that_they_come_from() -> None:
    meta = ObjectMeta(namespace="ns", name="pull", uid="u-1")
    keyring = Keyring()
    keyring.add_secret(
        Secret(metadata=meta, type="kubernetes.io/dockerconfigjson", data={".dockerconfigjson": config("r.io")})
    )
    keyring.add_logins({"r.io/team": RegistryCredential("node", "p"), "host:port": RegistryCredential("no url")})
    assert keyring.candidates(parse("r.io/team/app")) == (
        Candidate(RegistryCredential("node", "p")),
        Candidate(RegistryCredential("r.io", "p"), SecretCoordinates("ns", "pull", "u-1")),
    )


def test_other_secrets_are_passed_over() -> None:
    opaque = secret("Opaque", ".dockerconfigjson", config("r.io"))
    empty = secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", b"")
    assert candidates(opaque, empty, image="r.io/app") == []


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"auths": 1}', b'{"auths": {"r.io": "hunter2"}}', b"\xff"])
def test_broken_secret_is_named_and_never_quoted(content: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        candidates(secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", content), image="r.io/app")
    assert "secret ns/pull" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("auth", ["%%%", base64.b64encode(b"no colon").decode(), base64.b64encode(b"\xff:x").decode()])
def test_auth_field_that_is_none_is_not_quoted_either(auth: str) -> None:
    with pytest.raises(InvalidInput, match="unable to parse auth field") as caught:
        Keyring().add_config(json.dumps({"auths": {"r.io": {"auth": auth}}}).encode(), "secret x")
    assert auth not in str(caught.value)


def test_passwords_do_not_show_in_representations() -> None:
    assert "hunter2" not in repr(RegistryCredential("u", "hunter2", "hunter2"))
