"""Measures the agent on a control plane, a registry and a node of its own: `python -m bench`."""
