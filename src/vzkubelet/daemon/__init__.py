"""The composition root: the only package that joins rooms.

`agent` is the node agent of a cluster, `standalone` runs single pods without one, `parts` is what both are made of.
"""

from vzkubelet.config import Config


def run(config: Config) -> int:
    """Run the node agent until it is told to stop; the exit code."""
    from vzkubelet.daemon.agent import run as run_agent  # the command line's other verbs do not need any of it

    return run_agent(config)
