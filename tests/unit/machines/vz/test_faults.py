"""Apple's codes as errors of ours: each at each operation, with a cause and a remedy."""

import itertools

import pytest

from vzkubelet import errors
from vzkubelet.errors import MachineFault, Retry
from vzkubelet.machines.vz import faults
from vzkubelet.machines.vz.apple import VZ_ERROR_DOMAIN, AppleError
from vzkubelet.machines.vz.availability import MacOS
from vzkubelet.machines.vz.faults import Operation, Situation

CODES = (*range(1, 13), -9, *range(10001, 10008), 20001, 20002, *range(30001, 30005))
CALLS = [operation for operation in Operation if operation is not Operation.RUN]
HOST = MacOS(15, 1)
TEXT = "What Apple said."


def told(
    code: int,
    operation: Operation = Operation.START,
    *,
    text: str = TEXT,
    domain: str = VZ_ERROR_DOMAIN,
    reason: str = "",
    underlying: str = "",
    is_macos_guest: bool = True,
    host: MacOS = HOST,
    is_root: bool = False,
) -> errors.Error:
    return faults.translate(
        AppleError(domain, code, text, reason, underlying), Situation(operation, is_macos_guest, host, is_root)
    )


@pytest.mark.parametrize(("code", "operation"), list(itertools.product((*CODES, 0, 77), Operation)))
def test_each_code_at_each_operation_tells_cause_remedy_and_code(code: int, operation: Operation) -> None:
    error = told(code, operation)
    assert TEXT.rstrip(".") in error.message
    assert f"VZErrorDomain {code}" in error.message
    remedy = error.message.partition(f"({VZ_ERROR_DOMAIN} {code}); ")[2]
    assert len(remedy) > 20
    assert error.reason not in ("", "InternalError")
    assert faults.code_of(error) == code
    assert isinstance(error.__cause__, AppleError)


@pytest.mark.parametrize("operation", CALLS)
def test_the_message_says_what_was_being_done(operation: Operation) -> None:
    assert told(3, operation).message.startswith(f"cannot {operation} the virtual machine: ")


def test_a_guest_that_stopped_by_itself_is_not_blamed_on_a_call() -> None:
    error = told(1, Operation.RUN)
    assert not error.message.startswith("cannot"), "nobody asked for anything"
    assert error.reason == "GuestStopped"


@pytest.mark.parametrize("operation", [Operation.START, Operation.RESTORE, Operation.INSTALL])
def test_the_limit_of_macos_guests_is_waited_for(operation: Operation) -> None:
    error = told(6, operation)
    assert type(error) is errors.Exhausted
    assert error.reason == "VirtualMachineLimit"
    assert error.retry is Retry.BACKOFF
    assert "two running macOS guests per host" in error.message
    assert "shutdown -r" in error.message


@pytest.mark.parametrize(
    "signs",
    [
        {"code": -9, "text": "Unable to access security information."},
        {
            "code": 1,
            "text": "The virtual machine failed to start.",
            "underlying": "SecKeyCreateRandomKey_ios failed -25308",
        },
        {"code": 1, "text": "Internal Virtualization error.", "reason": "Failed to generate keypair."},
        {"code": 1, "text": "The virtual machine failed to start.", "underlying": "Interaction is not allowed."},
    ],
)
def test_a_locked_keychain_is_recognised_and_unlocked(signs: dict[str, object]) -> None:
    error = told(**signs)  # type: ignore[arg-type]
    assert error.reason == "KeychainLocked"
    assert error.retry is Retry.BACKOFF
    assert "`security unlock-keychain ~/Library/Keychains/login.keychain-db`" in error.message


def test_a_start_that_failed_without_a_word_suspects_the_keychain_on_macos_15() -> None:
    assert "security unlock-keychain" in told(1).message
    assert "security unlock-keychain" not in told(1, host=MacOS(14, 5)).message
    assert "security unlock-keychain" not in told(1, is_macos_guest=False).message


def test_root_is_blamed_where_root_is_the_cause() -> None:
    assert "do not start under root" in told(1, is_root=True).message
    assert "do not start under root" not in told(1, is_root=True, is_macos_guest=False).message
    assert "do not start under root" not in told(1, is_root=True, host=MacOS(14)).message


def test_a_missing_entitlement_is_signed() -> None:
    text = "Invalid virtual machine configuration."
    reason = "The process doesn't have the com.apple.security.virtualization entitlement."
    error = told(2, Operation.VALIDATE, text=text, reason=reason)
    assert type(error) is errors.Forbidden
    assert error.reason == "NotEntitled"
    assert "`macos-vz-kubelet sign`" in error.message


def test_bridging_without_its_entitlement_offers_nat() -> None:
    text = "The process doesn’t have the “com.apple.vm.networking” entitlement."
    error = told(2, Operation.VALIDATE, text=text)
    assert type(error) is errors.Forbidden
    assert "VZ_BRIDGE_INTERFACE" in error.message
    assert "NAT" in error.message


@pytest.mark.parametrize("code", [2, 5])
def test_auxiliary_storage_of_another_model_is_recognised(code: int) -> None:
    error = told(code, Operation.VALIDATE, text="The hardware model does not match the auxiliary storage.")
    assert error.reason == "AuxiliaryStorageMismatch"
    assert type(error) is errors.InvalidInput


@pytest.mark.parametrize(
    ("domain", "code"),
    [(VZ_ERROR_DOMAIN, 8), ("NSPOSIXErrorDomain", 28), ("NSPOSIXErrorDomain", 69), ("NSCocoaErrorDomain", 640)],
)
def test_a_full_disk_is_a_full_disk_in_every_domain(domain: str, code: int) -> None:
    error = told(code, Operation.SAVE, domain=domain)
    assert type(error) is errors.Exhausted
    assert error.reason == "DiskFull"
    assert "df -h" in error.message


def test_a_full_disk_behind_an_internal_error_is_found() -> None:
    assert told(1, Operation.RUN, underlying="No space left on device").reason == "DiskFull"


@pytest.mark.parametrize(
    ("domain", "code", "kind"),
    [
        ("NSPOSIXErrorDomain", 2, errors.NotFound),
        ("NSCocoaErrorDomain", 260, errors.NotFound),
        ("NSPOSIXErrorDomain", 13, errors.Forbidden),
        ("NSCocoaErrorDomain", 257, errors.Forbidden),
        ("NSPOSIXErrorDomain", 35, errors.Conflict),
        ("NSPOSIXErrorDomain", 5, MachineFault),
        ("NSException", 0, MachineFault),
    ],
)
def test_errors_of_other_domains_are_not_read_as_the_frameworks(
    domain: str, code: int, kind: type[errors.Error]
) -> None:
    assert type(told(code, Operation.CONFIGURE, domain=domain)) is kind


def test_a_code_of_another_domain_does_not_mean_the_limit_of_guests() -> None:
    assert told(6, domain="NSPOSIXErrorDomain").reason != "VirtualMachineLimit"


@pytest.mark.parametrize("text", ["Failed to lock auxiliary storage.", "The disk image is locked.", "It is in use."])
def test_a_disk_in_use_is_not_taken_for_a_wrong_one(text: str) -> None:
    error = told(2, Operation.START, text=text)
    assert error.reason == "DiskInUse"
    assert "`lsof PATH`" in error.message


def test_a_block_device_is_not_taken_for_a_lock() -> None:
    assert told(2, Operation.START, text="A block device is blocked.").reason != "DiskInUse"


def test_a_restore_that_fails_leads_to_a_cold_start() -> None:
    error = told(12, Operation.RESTORE)
    assert isinstance(error, MachineFault)
    assert error.code == 12
    assert "start the machine without it" in error.message


def test_nobody_listening_is_not_a_broken_machine() -> None:
    error = told(1, Operation.VSOCK)
    assert type(error) is errors.Unavailable
    assert "listens" in error.message


def test_a_handler_that_never_came_names_the_operation_and_the_time() -> None:
    error = faults.timed_out(Operation.PAUSE, 50.0)
    assert "cannot pause the virtual machine" in error.message
    assert "within 50 s" in error.message


def test_foreign_text_cannot_flood_an_event() -> None:
    assert len(told(1, text="x" * 10_000).message) < 1024
