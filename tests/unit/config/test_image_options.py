from collections.abc import Mapping
from pathlib import Path

import pytest

from vzkubelet import config
from vzkubelet.config import CredentialVerification, ImageSettings
from vzkubelet.errors import InvalidInput

HOST = config.Host(name="mac-1", platform="linux", home="/home/u")


def load(
    flags: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    file: Mapping[str, object] | None = None,
) -> ImageSettings:
    return config.load(flags or {}, env or {}, file, purpose=config.Purpose.STANDALONE, host=HOST).images


def mistake(flags: Mapping[str, str], file: Mapping[str, object] | None = None) -> str:
    with pytest.raises(InvalidInput) as caught:
        load(flags, {}, file)
    return str(caught.value)


def test_defaults_are_the_kubelets_where_it_has_the_setting() -> None:
    assert load() == ImageSettings(
        pull_rate_bytes_per_s=0,
        pull_concurrency=8,
        max_parallel_pulls=2,
        prepull=(),
        prepull_interval_s=600,
        prepull_rate_bytes_per_s=0,
        gc_high_percent=85,
        gc_low_percent=80,
        gc_min_age_s=120,
        gc_max_age_s=0,
        scrub_interval_s=7 * 24 * 3600,
        status_max=50,
        credential_provider_config=None,
        credential_provider_bin_dir=None,
        credential_verification=CredentialVerification.NEVER_PRELOADED,
        credential_allowlist=(),
    )


FLAGS = {
    "image-pull-rate": "50Mi",
    "image-pull-concurrency": "4",
    "max-parallel-image-pulls": "3",
    "prepull": "ghcr.io/a/b:1, c, ghcr.io/a/b:1",
    "prepull-interval": "1h",
    "prepull-rate": "10M",
    "image-gc-high-threshold": "70",
    "image-gc-low-threshold": "60",
    "minimum-image-ttl-duration": "5m",
    "image-maximum-gc-age": "720h",
    "image-scrub-interval": "0",
    "node-status-max-images": "-1",
    "image-credential-provider-config": "~/providers.yaml",
    "image-credential-provider-bin-dir": "/bin/providers",
    "image-pull-credentials-verification-policy": "alwaysverify",
    "preloaded-images-verification-allowlist": "ghcr.io/a/*",
}
SET = ImageSettings(
    pull_rate_bytes_per_s=50 * 2**20,
    pull_concurrency=4,
    max_parallel_pulls=3,
    prepull=("ghcr.io/a/b:1", "docker.io/library/c:latest"),
    prepull_interval_s=3600,
    prepull_rate_bytes_per_s=10_000_000,
    gc_high_percent=70,
    gc_low_percent=60,
    gc_min_age_s=300,
    gc_max_age_s=2_592_000,
    scrub_interval_s=0,
    status_max=-1,
    credential_provider_config=Path("/home/u/providers.yaml"),
    credential_provider_bin_dir=Path("/bin/providers"),
    credential_verification=CredentialVerification.ALWAYS,
    credential_allowlist=("ghcr.io/a/*",),
)


def test_flags_variables_and_file_reach_the_same_settings() -> None:
    variables = {f"VZ_{name.upper().replace('-', '_')}": value for name, value in FLAGS.items()}
    assert load(FLAGS) == load({}, variables) == load({}, {}, FLAGS) == SET


def test_the_file_takes_the_names_of_the_kubelets_configuration() -> None:
    file = {
        "imageGCHighThresholdPercent": 70,
        "imageGCLowThresholdPercent": 60,
        "imageMinimumGCAge": "5m",
        "imageMaximumGCAge": "720h",
        "maxParallelImagePulls": 3,
        "nodeStatusMaxImages": -1,
        "imagePullCredentialsVerificationPolicy": "AlwaysVerify",
        "preloadedImagesVerificationAllowlist": ["ghcr.io/a/*"],
        "prepull": ["ghcr.io/a/b:1", "c"],
    }
    found = load({}, {}, file)
    for name in ("gc_high_percent", "gc_low_percent", "gc_min_age_s", "gc_max_age_s", "max_parallel_pulls"):
        assert getattr(found, name) == getattr(SET, name)
    assert (found.status_max, found.prepull, found.credential_verification, found.credential_allowlist) == (
        SET.status_max,
        SET.prepull,
        SET.credential_verification,
        SET.credential_allowlist,
    )


def test_one_setting_under_both_of_its_names_is_a_mistake() -> None:
    told = mistake({}, {"image-gc-high-threshold": 90, "imageGCHighThresholdPercent": 90})
    assert told == (
        "configuration file: image-gc-high-threshold and imageGCHighThresholdPercent are the same setting: "
        "give one of them"
    )


def test_a_name_of_the_kubelet_that_is_misspelled_gets_a_hint() -> None:
    assert mistake({}, {"imageGCHighThreshold": 90}).endswith("did you mean imageGCHighThresholdPercent?")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"image-gc-high-threshold": "80"}, "--image-gc-low-threshold: 80 is not less than --image-gc-high-threshold"),
        ({"image-gc-high-threshold": "101"}, "not a whole number from 0 to 100"),
        ({"image-maximum-gc-age": "2m"}, "is not longer than --minimum-image-ttl-duration"),
        ({"max-parallel-image-pulls": "0"}, "not a whole number"),
        ({"image-pull-rate": "-1"}, "less than nothing"),
        ({"image-pull-rate": "fast"}, "not a quantity"),
        ({"prepull": "registry.test/UPPER"}, "--prepull: "),
        ({"image-pull-credentials-verification-policy": "Never"}, "is none of NeverVerify, "),
        ({"image-credential-provider-config": "/x"}, "needs --image-credential-provider-bin-dir as well"),
        ({"image-credential-provider-bin-dir": "/x"}, "needs --image-credential-provider-config as well"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(flags: dict[str, str], reason: str) -> None:
    assert reason in mistake(flags)


def test_a_mistaken_threshold_is_told_once() -> None:
    told = mistake({"image-gc-high-threshold": "x", "image-gc-low-threshold": "90"})
    assert told.startswith("--image-gc-high-threshold: ")
    assert "less than" not in told
