"""Kubernetes and OCI objects as typed structs, parsed once at the edge.

Only fields that are read or written are declared; unknown fields are skipped on decoding. A struct is therefore never
PUT back to the API server: changes travel as patches.
"""
