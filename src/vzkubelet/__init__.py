"""A Kubernetes node agent that runs the first container of a pod as a virtual machine."""

__version__ = "0.1.0"
