"""The settings of virtual machine images: pulling, keeping, checking and removing them.

Names, defaults and ranges are the kubelet's where it has the setting; the file also takes the names of its
KubeletConfiguration (kubelet.config.k8s.io/v1beta1).
"""

from collections.abc import Mapping
from typing import Any

from vzkubelet.config import values
from vzkubelet.config.option import Option
from vzkubelet.config.settings import CredentialVerification
from vzkubelet.config.values import Parser
from vzkubelet.errors import InvalidInput
from vzkubelet.model import quantity, reference


def table(path: Parser) -> tuple[Option, ...]:
    return (*_pulls(), *_prepull(), *_collection(), *_upkeep(), *_credentials(path))


def contradictions(parsed: Mapping[str, Any]) -> list[str]:
    """What is wrong with settings that are fine one by one (kubelet ``config/validation``)."""
    found = []
    high, low = parsed.get("image-gc-high-threshold"), parsed.get("image-gc-low-threshold")
    if high is not None and low is not None and low >= high:
        found.append(f"--image-gc-low-threshold: {low} is not less than --image-gc-high-threshold {high}")
    least, most = parsed.get("minimum-image-ttl-duration"), parsed.get("image-maximum-gc-age")
    if least is not None and most and most <= least:
        found.append(f"--image-maximum-gc-age: {most:g} s is not longer than --minimum-image-ttl-duration {least:g} s")
    given = [name for name in _PROVIDER if parsed.get(name) is not None]
    if len(given) == 1:
        (other,) = set(_PROVIDER) - set(given)
        found.append(f"--{given[0]}: needs --{other} as well")
    return found


_PROVIDER = ("image-credential-provider-config", "image-credential-provider-bin-dir")


def _pulls() -> tuple[Option, ...]:
    return (
        Option(
            "image-pull-rate",
            "images.pull_rate_bytes_per_s",
            _rate,
            "Bytes per second that all pulls of virtual machine images together may take; 0 = as many as there are.",
            default="0",
            env="VZ_IMAGE_PULL_RATE",
            metavar="QUANTITY",
        ),
        Option(
            "image-pull-concurrency",
            "images.pull_concurrency",
            values.integer(1, 64),
            "Ranges of one image that are downloaded at the same time.",
            default="8",
            env="VZ_IMAGE_PULL_CONCURRENCY",
            metavar="NUMBER",
        ),
        Option(
            "max-parallel-image-pulls",
            "images.max_parallel_pulls",
            values.integer(1, 100),
            "Virtual machine images that are pulled for pods at the same time.",
            default="2",
            env="VZ_MAX_PARALLEL_IMAGE_PULLS",
            alias="maxParallelImagePulls",
            metavar="NUMBER",
        ),
    )


def _prepull() -> tuple[Option, ...]:
    return (
        Option(
            "prepull",
            "images.prepull",
            _references,
            "Images to have on this host before a pod asks, separated by commas; never collected.",
            default="",
            env="VZ_PREPULL",
            metavar="REF,…",
        ),
        Option(
            "prepull-interval",
            "images.prepull_interval_s",
            values.positive_seconds,
            "How often the registry is asked for newer ones of them.",
            default="10m",
            env="VZ_PREPULL_INTERVAL",
            metavar="SECONDS",
        ),
        Option(
            "prepull-rate",
            "images.prepull_rate_bytes_per_s",
            _rate,
            "Bytes per second for images that no pod waits for; 0 = within --image-pull-rate.",
            default="0",
            env="VZ_PREPULL_RATE",
            metavar="QUANTITY",
        ),
    )


def _collection() -> tuple[Option, ...]:
    return (
        Option(
            "image-gc-high-threshold",
            "images.gc_high_percent",
            values.integer(0, 100),
            "Use of the disk in percent from which unused images are removed; 100 = never.",
            default="85",
            env="VZ_IMAGE_GC_HIGH_THRESHOLD",
            alias="imageGCHighThresholdPercent",
            metavar="PERCENT",
        ),
        Option(
            "image-gc-low-threshold",
            "images.gc_low_percent",
            values.integer(0, 100),
            "Use of the disk in percent at which their removal stops.",
            default="80",
            env="VZ_IMAGE_GC_LOW_THRESHOLD",
            alias="imageGCLowThresholdPercent",
            metavar="PERCENT",
        ),
        Option(
            "minimum-image-ttl-duration",
            "images.gc_min_age_s",
            values.seconds,
            "Age below which an unused image is not removed.",
            default="2m",
            env="VZ_MINIMUM_IMAGE_TTL_DURATION",
            alias="imageMinimumGCAge",
            metavar="SECONDS",
        ),
        Option(
            "image-maximum-gc-age",
            "images.gc_max_age_s",
            values.seconds,
            "Time without use after which an image is removed however empty the disk is; 0 = never.",
            default="0",
            env="VZ_IMAGE_MAXIMUM_GC_AGE",
            alias="imageMaximumGCAge",
            metavar="SECONDS",
        ),
    )


def _upkeep() -> tuple[Option, ...]:
    return (
        Option(
            "image-scrub-interval",
            "images.scrub_interval_s",
            values.seconds,
            "How often all stored images are read and compared with their digests, at idle priority; 0 = never.",
            default="168h",
            env="VZ_IMAGE_SCRUB_INTERVAL",
            metavar="SECONDS",
        ),
        Option(
            "node-status-max-images",
            "images.status_max",
            _count_or_all,
            "Images that the node's status lists, the largest first; -1 = all.",
            default="50",
            env="VZ_NODE_STATUS_MAX_IMAGES",
            alias="nodeStatusMaxImages",
            metavar="NUMBER",
        ),
    )


def _credentials(path: Parser) -> tuple[Option, ...]:
    return (
        Option(
            "image-credential-provider-config",
            "images.credential_provider_config",
            path,
            "CredentialProviderConfig file (or directory of them) of plugins that log in to registries.",
            env="VZ_IMAGE_CREDENTIAL_PROVIDER_CONFIG",
            metavar="PATH",
        ),
        Option(
            "image-credential-provider-bin-dir",
            "images.credential_provider_bin_dir",
            path,
            "Directory with the programs of these plugins.",
            env="VZ_IMAGE_CREDENTIAL_PROVIDER_BIN_DIR",
            metavar="DIR",
        ),
        Option(
            "image-pull-credentials-verification-policy",
            "images.credential_verification",
            _verification,
            "Which images that are here already a pod may use only with credentials for them.",
            default="NeverVerifyPreloadedImages",
            env="VZ_IMAGE_PULL_CREDENTIALS_VERIFICATION_POLICY",
            alias="imagePullCredentialsVerificationPolicy",
            metavar="|".join(CredentialVerification),
        ),
        Option(
            "preloaded-images-verification-allowlist",
            "images.credential_allowlist",
            _list,
            "Images for NeverVerifyAllowlistedImages, without tag, separated by commas; a last segment * fits any.",
            default="",
            env="VZ_PRELOADED_IMAGES_VERIFICATION_ALLOWLIST",
            alias="preloadedImagesVerificationAllowlist",
            metavar="IMAGE,…",
        ),
    )


def _rate(raw: str) -> int:
    value = quantity.to_int(raw)
    if value < 0:
        raise InvalidInput(f'"{raw}" is less than nothing')
    return value


def _count_or_all(raw: str) -> int:
    return -1 if raw.strip() == "-1" else values.integer(0, 10_000)(raw)


def _list(raw: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in raw.split(",") if word.strip()))


def _references(raw: str) -> tuple[str, ...]:
    """References in full, each once."""
    return tuple(dict.fromkeys(str(reference.parse(word)) for word in _list(raw)))


def _verification(raw: str) -> CredentialVerification:
    """Spelled as in Kubernetes, in whatever case."""
    for policy in CredentialVerification:
        if policy.value.lower() == raw.strip().lower():
            return policy
    raise InvalidInput(f'"{raw}" is none of {", ".join(CredentialVerification)}')
