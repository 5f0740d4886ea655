"""On the PYTHONPATH of a helper: product code with a defect that lets an exception out of every delegate method."""

from collections.abc import Callable

from vzkubelet.machines.vz import delegate


def _report(method: str, report: Callable[[], None]) -> None:
    report()
    raise RuntimeError(f"a defect in {method}")


delegate._report = _report
