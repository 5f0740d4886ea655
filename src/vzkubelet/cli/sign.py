"""``sign``: the app that may hold virtual machines."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vzkubelet import config
from vzkubelet.cli import flags

if TYPE_CHECKING:
    from vzkubelet.host.signing.bundle import Plan


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--identity", default="-", metavar="NAME", help="Signing identity of the keychain; - = ad hoc (default).")
@click.option("--entitlement", "extra", multiple=True, metavar="KEY", help="A further entitlement; may be repeated.")
@click.option(
    "--provisioning-profile",
    "profile",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Profile with which Apple granted it.",
)
@click.option("--identifier", metavar="ID", help="Bundle identifier, which a profile may prescribe.")
@click.option("--hardened", is_flag=True, help="Hardened runtime, which notarization asks for.")
@click.option("--force", is_flag=True, help="Sign again although nothing has changed.")
@click.option("--dry-run", "--print", "dry_run", is_flag=True, help="Print the commands and run none.")
@flags.some("vz-helper-app")
@click.pass_context
def sign(
    ctx: click.Context, /, identity: str, extra: tuple[str, ...], profile: Path | None, identifier: str | None,
    hardened: bool, force: bool, dry_run: bool, **_: str | None,
) -> None:  # fmt: skip
    """Make the app whose processes macOS lets run virtual machines, and sign it.

    It is a copy of the interpreter of this environment; the shared one is never touched. Anybody may sign it ad hoc.
    Bridging guests to an interface needs a grant of Apple's on top. When nothing has changed nothing is signed: macOS
    takes a newly signed app for another one, and forgets what it was allowed on the local network.

    \b
    Examples:
      macos-vz-kubelet sign
      macos-vz-kubelet sign --dry-run
      macos-vz-kubelet sign --identity 'Developer ID Application: Example (TEAMID)' --hardened
      macos-vz-kubelet sign --identity 'Developer ID Application: Example (TEAMID)' \\
          --entitlement com.apple.vm.networking --provisioning-profile vzkubelet.provisionprofile
    """
    from vzkubelet.host.local import LocalProbe
    from vzkubelet.host.signing import bundle, interpreter
    from vzkubelet.host.signing import sign as signing

    app = flags.standalone(ctx).vz.helper_app.absolute()
    probe = LocalProbe(config.process_environment())
    chosen = signing.wishes(
        identity=identity,
        identifier=identifier or bundle.IDENTIFIER,
        extra=extra,
        profile_file=profile,
        hardened=hardened,
        now=time.time(),
    )
    python = interpreter.running()
    plan = signing.make_plan(python, chosen)
    click.echo(f"{app}: Python {python.version} from {python.executable}")
    for key in chosen.entitlements:
        click.echo(f"  entitlement {key}")
    if dry_run:
        _print_plan(app, plan)
        return
    if not force and signing.is_current(probe, app, plan):
        click.echo("Nothing has changed since it was signed, so it is left alone (--force signs it again).")
        return
    existed = app.exists()
    signing.sign(probe, app, plan, click.echo)
    click.echo(f"Signed {app}")
    if existed:
        click.echo("macOS takes it for a new app: allow it again under Privacy & Security > Local Network when asked.")
        click.echo("Restart the agent to use it: macos-vz-kubelet install")


def _print_plan(app: Path, plan: "Plan") -> None:
    from vzkubelet.host.signing import sign as signing

    for place in sorted(plan.files):
        click.echo(f"  file {place}")
    for command in signing.commands(app, plan, Path("entitlements.plist")):
        click.echo(f"$ {signing.shell_text(command)}")
