"""The agent as a service: a LaunchAgent on a Mac, a systemd unit on Linux.

Whatever stops the service stops the agent alone: guests, helpers and side-cars go on, and the next agent finds them.
"""
