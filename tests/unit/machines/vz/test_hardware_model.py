import base64
import plistlib

import pytest

from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.hardware_model import refusal

APPLES = base64.b64decode(
    "YnBsaXN0MDDTAQIDBAUGXxAZRGF0YVJlcHJlc2VudGF0aW9uVmVyc2lvbl8QD1BsYXRmb3JtVmVyc2lvbl8QEk1pbmltdW1TdXBwb3J0ZWRPUxQA"
    "AAAAAAAAAAAAAAAAAAABEAKjBwgIEA0QAAgPKz1SY2VpawAAAAAAAAEBAAAAAAAAAAkAAAAAAAAAAAAAAAAAAABt"
)
"""As a Mac made it: MinimumSupportedOS 13.0.0."""


def model(minimum: object) -> bytes:
    return plistlib.dumps({"MinimumSupportedOS": minimum}, fmt=plistlib.FMT_BINARY)


def test_a_model_of_a_newer_system_is_refused_with_both_versions() -> None:
    assert refusal(APPLES, MacOS(13)) is None
    told = refusal(APPLES, MacOS(12, 6))
    assert told is not None
    assert "needs macOS 13 or later and this host runs macOS 12.6" in told
    assert refusal(model([26, 1, 0]), MacOS(26)) is not None
    assert refusal(model([26, 1, 0]), MacOS(26, 1)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"bplist00",
        b"<plist><dict/></plist>",
        b"\xff" * 100,
        model("13"),
        model([]),
        model([None, 1]),
        plistlib.dumps([]),
    ],
)
def test_data_that_does_not_tell_is_left_to_the_framework(data: bytes) -> None:
    """Hazard: the content is not documented, and a future one keeps every image from being pulled."""
    assert refusal(data, MacOS(13)) is None
