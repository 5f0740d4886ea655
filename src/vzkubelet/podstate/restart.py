"""Whether an exited container is started again (``podutil.ContainerShouldRestart``)."""

from vzkubelet.model import pod as api


def should_restart(spec: api.PodSpec, container: api.Container, exit_code: int) -> bool:
    """The container's own policy goes before the pod's."""
    match container.restart_policy or spec.restart_policy:
        case "Never":
            return False
        case "OnFailure":
            return exit_code != 0
        case _:
            return True
