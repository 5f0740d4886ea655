"""Image references: the table of github.com/distribution/reference's own behaviour, and the kubelet's words."""

import pytest

from vzkubelet.errors import InvalidInput
from vzkubelet.model.reference import Reference, digest_fault, parse

D256 = "sha256:" + "f" * 64
D512 = "sha512:" + "f" * 128
HEX64 = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("docker.io/team/app", "docker.io/team/app:latest"),
        ("team/app", "docker.io/team/app:latest"),
        ("test_com/app", "docker.io/test_com/app:latest"),
        ("192.168.0.1:80", "docker.io/library/192.168.0.1:80"),
        ("localhost/app", "localhost/app:latest"),
        ("LOCALDOMAIN/library/debian", "LOCALDOMAIN/library/debian:latest"),
        ("test:5000/repo", "test:5000/repo:latest"),
        ("test:5000/repo:tag", "test:5000/repo:tag"),
        (f"test:5000/repo@{D256}", f"test:5000/repo@{D256}"),
        (f"test:5000/repo:tag@{D256}", f"test:5000/repo@{D256}"),
        (f"xn--7o8h.com/myimage:xn--7o8h.com@{D512}", f"xn--7o8h.com/myimage@{D512}"),
        ("[2001:db8::1]:5000/repo:tag", "[2001:db8::1]:5000/repo:tag"),
        ("[::1]/repo", "[::1]/repo:latest"),
        ("sub-dom1.foo.com/bar/baz/quux:some-long-tag", "sub-dom1.foo.com/bar/baz/quux:some-long-tag"),
        ("dock__er/docker---rules", "docker.io/dock__er/docker---rules:latest"),
        ("lowercase:Upper_Case.1", "docker.io/library/lowercase:Upper_Case.1"),
        (f"docker.io/{HEX64}", f"docker.io/library/{HEX64}:latest"),
        ("example.com/" + "a" * 255, "example.com/" + "a" * 255 + ":latest"),
        ("r.io/x:" + "t" * 128, "r.io/x:" + "t" * 128),
    ],
)
def test_normalised(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(str(parse(text))) == parse(canonical)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "invalid reference format"),
        (":justtag", "invalid reference format"),
        (f"@{D256}", "invalid reference format"),
        ("aa/asdf$$^/aa", "invalid reference format"),
        ("https://github.com/docker/docker", "invalid reference format"),
        ("-docker/docker", "invalid reference format"),
        ("docker///docker", "invalid reference format"),
        ("docker/", "invalid reference format"),
        ("_docker/_docker", "invalid reference format"),
        ("dock..er/docker", "invalid reference format"),
        ("[fc00::1]", "invalid reference format"),
        ("[fe80::1%eth0]:5000/debian", "invalid reference format"),
        ("fc00::1:5000/debian", "invalid reference format"),
        ("app:", "invalid reference format"),
        ("app:tag:tag", "invalid reference format"),
        ("app:" + "t" * 129, "invalid reference format"),
        ("app name", "invalid reference format"),
        ("app\n", "invalid reference format"),
        ("app:tag\n", "invalid reference format"),
        ("ápp", "invalid reference format"),
        ("app:täg", "invalid reference format"),
        ("docker/Docker", "invalid reference format: repository name (docker/Docker) must be lowercase"),
        ("Uppercase:tag", "invalid reference format: repository name (library/Uppercase) must be lowercase"),
        (HEX64, f"invalid repository name ({HEX64}), cannot specify 64-byte hexadecimal strings"),
        ("domain.io/" + "a" * 256, "repository name must not be more than 255 characters"),
        ("repo@sha256:" + "f" * 32, "invalid checksum digest length"),
        ("repo@sha256:" + "F" * 64, "invalid checksum digest format"),
        ("validname@invaliddigest:" + "f" * 64, "unsupported digest algorithm"),
    ],
)
def test_refused_in_the_words_of_the_kubelet(text: str, fault: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    quoted = text.replace("\n", "\\n")
    assert str(caught.value) == f'couldn\'t parse image name "{quoted}": {fault}'
    assert caught.value.reason == "InvalidImageName"


def test_parts() -> None:
    reference = parse(f"127.0.0.1:5000/team/app:1.0@{D256}")
    assert reference == Reference("127.0.0.1:5000", "team/app", "1.0", D256)
    assert reference.repository == "127.0.0.1:5000/team/app"


def test_other_tags_of_a_repository() -> None:
    assert str(parse("r.io/a:1").with_tag("2")) == "r.io/a:2"
    with pytest.raises(InvalidInput, match="invalid tag format"):
        parse("r.io/a:1").with_tag("no/tag")


@pytest.mark.parametrize(
    ("digest", "fault"),
    [
        (D256, ""),
        (D512, ""),
        ("sha256", "invalid checksum digest format"),
        (":ff", "invalid checksum digest format"),
        ("sha256:", "invalid checksum digest format"),
        ("md5:" + "f" * 32, "unsupported digest algorithm"),
        ("sha256:" + "g" * 64, "invalid checksum digest format"),
    ],
)
def test_digests(digest: str, fault: str) -> None:
    assert digest_fault(digest) == fault
