"""``ps``: the pods that `run` started on this machine."""

import time

import click

from vzkubelet.cli import flags


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@flags.some("cache-dir")
@click.pass_context
def ps(ctx: click.Context, /, **_: str) -> None:
    """List the pods of this machine, as `kubectl get pods` would."""
    from vzkubelet.daemon import standalone
    from vzkubelet.podstate import record, status

    settings = flags.standalone(ctx)
    rows = [("NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP")]
    for found in standalone.local_pods(settings.cache_dir):
        current = status.compute(found.pod, found.known, "", time.time())
        entries = found.known.containers
        ready = sum(isinstance(entry.state, record.Running) for entry in entries)
        waiting = [entry.state.reason for entry in entries if isinstance(entry.state, record.Waiting)]
        restarts = sum(entry.restart_count for entry in entries)
        age = _age(time.time() - found.known.start_time)
        shown = waiting[0] if waiting and current.phase == "Pending" else current.reason or current.phase
        rows.append(
            (found.pod.metadata.name, f"{ready}/{len(entries)}", shown, str(restarts), age, found.known.ip or "<none>")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _age(seconds: float) -> str:
    whole = int(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= 2 * length:
            return f"{whole // length}{unit}"
    return f"{whole}s"
