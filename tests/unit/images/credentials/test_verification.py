"""``imagePullCredentialsVerificationPolicy``, by the tables of the kubelet's own tests."""

import pytest

from vzkubelet.config import CredentialVerification
from vzkubelet.errors import InvalidInput
from vzkubelet.images.credentials.verification import Verification

IMAGE = "test.io/test/test-image:tag"
DIGEST = "sha256:" + "3" * 64


@pytest.mark.parametrize(
    ("policy", "preloaded", "pulled"),
    [
        (CredentialVerification.NEVER, False, False),
        (CredentialVerification.NEVER_PRELOADED, False, True),
        (CredentialVerification.NEVER_ALLOWLISTED, True, True),
        (CredentialVerification.ALWAYS, True, True),
    ],
)
def test_policies(policy: CredentialVerification, preloaded: bool, pulled: bool) -> None:
    verification = Verification(policy)
    assert verification.is_needed(IMAGE, pulled_for_pods=False) is preloaded
    assert verification.is_needed(IMAGE, pulled_for_pods=True) is pulled


@pytest.mark.parametrize(
    ("allowlist", "image", "needed"),
    [
        (["test.io/test/image1", "test.io/test/image2"], IMAGE, True),
        (["test.io/test/image1", "test.io/test/test-image"], IMAGE, False),
        (["different.repo/test/*"], IMAGE, True),
        (["test.io/test/image1", "test.io/test/*"], IMAGE, False),
        (["test.io/*"], IMAGE, False),
        (["docker.io/library/ubuntu"], "ubuntu", True),
        (["docker.io/library/*"], "ubuntu", True),
        (["ubuntu"], "ubuntu", False),
        (["ubuntu"], "ubuntu:tagged", False),
        (["ubuntu"], f"ubuntu@{DIGEST}", False),
        (["host:5000/image"], "host:5000/image:1", False),
        (["host:5000/image"], f"host:5000/image:1@{DIGEST}", False),
    ],
)
def test_allow_list(allowlist: list[str], image: str, needed: bool) -> None:
    verification = Verification(CredentialVerification.NEVER_ALLOWLISTED, allowlist)
    assert verification.is_needed(image, pulled_for_pods=False) is needed
    assert verification.is_needed(image, pulled_for_pods=True) is needed


@pytest.mark.parametrize(
    "pattern",
    [
        "image.repo/pokus*/imagename",
        "image.repo/pokus*",
        "image.repo/*/imagename",
        "/*",
        "image.repo/",
        "",
        "*",
        "test.io/test/image1:tagged",
        f"test.io/test/image1@{DIGEST}",
        "test.io/test/image1 ",
    ],
)
def test_entries_that_the_kubelet_refuses(pattern: str) -> None:
    with pytest.raises(InvalidInput, match="--preloaded-images-verification-allowlist"):
        Verification(CredentialVerification.NEVER_ALLOWLISTED, [pattern])


def test_a_list_for_another_policy_is_a_mistake() -> None:
    with pytest.raises(InvalidInput, match="needs the policy NeverVerifyAllowlistedImages"):
        Verification(CredentialVerification.ALWAYS, ["ubuntu"])
