"""Real components for tests and demos: a control plane, node credentials, a registry and a Docker engine.

Everything binds loopback, lives in a directory of its own and takes free ports, so that several sets run side by side.
``python -m tests.cluster`` runs them as daemons; pytest gets them from ``tests.support.cluster_fixtures``.
"""
