"""The host that an agent lives on: what ails it (`doctor`), the signed app of the machines' helpers (`signing`), and
the service that keeps the agent running (`service`).

Everything is asked of the host through `probe.Probe`, so that a test can bring a host of its own.
"""
