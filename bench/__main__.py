"""`python -m bench`: all measurements of one run, as tables and as JSON; `python -m bench images`: those of images."""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from bench import exec_round_trip, figures, idle, timeline, world
from bench.figures import Host, PodStart, Report, Spread
from bench.images import __main__ as images
from bench.world import NAMESPACE, World

FIRST = "first"
QUIET_S = 5.0
"""Between the end of some work and a window in which nothing is to happen."""


def main() -> int:
    if sys.argv[1:2] == ["images"]:
        return images.main(sys.argv[2:])
    options = _options()
    signal.signal(signal.SIGTERM, _end)
    began, load_before = time.monotonic(), os.getloadavg()[0]

    def say(what: str) -> None:
        print(f"[bench {time.monotonic() - began:5.1f} s] {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="vz-bench-") as name:
        directory = Path(name)
        with world.running(directory, say) as found:
            report = _measure(found, directory, options, load_before, say)
            say("stopping")
    say("done")
    print(figures.as_text(report))
    encoded = figures.as_json(report)
    if options.json:
        options.json.write_bytes(encoded)
    else:
        print(encoded.decode(), end="")
    return 0


def _measure(found: World, directory: Path, options: argparse.Namespace, load_before: float, say: world.Say) -> Report:
    say("a first pod, which pulls the image")
    bound_at, ready_at = found.run_pod(FIRST)
    say(f"it was Ready {ready_at - bound_at:.1f} s after it was bound; idle with it ({options.window / 2:.0f} s)")
    time.sleep(QUIET_S)
    with_pod = idle.measure(found, options.window / 2)
    found.delete_pod(FIRST)
    quiet_until = max(found.ready_at + options.settle, time.monotonic() + QUIET_S)
    say(f"letting the agent settle until {options.settle:.0f} s after it was Ready")
    time.sleep(max(quiet_until - time.monotonic(), 0.0))
    say(f"idle without a pod ({options.window:.0f} s)")
    without_pod = idle.measure(found, options.window)
    starts = _pod_starts(found, options.pods, say)
    say(f"exec ({options.rounds} rounds)")
    round_trip = exec_round_trip.measure(found, _name(options.pods), directory, options.rounds)
    found.delete_pod(_name(options.pods))
    host = Host(os.cpu_count() or 1, found.accelerator, round(load_before, 1), round(os.getloadavg()[0], 1))
    return Report(host, starts, round_trip, {"no pod": without_pod, "one pod": with_pod})


def _pod_starts(found: World, pods: int, say: world.Say) -> PodStart:
    """One pod after another, each alone on the node, with the image cached. The last one is left running."""
    totals: list[float] = []
    steps: dict[str, list[float]] = {}
    for number in range(1, pods + 1):
        name = _name(number)
        bound_at, ready_at = found.run_pod(name)
        totals.append(ready_at - bound_at)
        for step, spent_s in timeline.steps(found.log, f"{NAMESPACE}/{name}", bound_at, ready_at).items():
            steps.setdefault(step, []).append(spent_s)
        say(f"pod {number} of {pods} was Ready {totals[-1]:.1f} s after it was bound")
        if number < pods:
            found.delete_pod(name)
    return PodStart(Spread.of(totals), {step: Spread.of(values) for step, values in steps.items()})


def _name(number: int) -> str:
    return f"pod-{number}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there, not to standard output")
    parser.add_argument("--pods", type=_positive, default=8, help="how many pods to start (default: 8)")
    parser.add_argument("--rounds", type=_positive, default=15, help="how often to run each kind of exec (default: 15)")
    parser.add_argument("--settle", type=float, default=60.0, metavar="S", help="before the idle window (default: 60)")
    parser.add_argument(
        "--window",
        type=float,
        default=60.0,
        metavar="S",
        help="of idleness without pods, half of it with (default: 60)",
    )
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _end(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(143)  # through the context managers, so that nothing is left


if __name__ == "__main__":
    sys.exit(main())
