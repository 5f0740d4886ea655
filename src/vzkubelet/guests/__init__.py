"""The channel into a guest: SSH, and nothing that has to be installed there.

`guest` implements the port over the others: `ssh` makes connections (`host_key` remembers whom they go to),
`connections` shares them, `session` is one channel with back pressure, `shell` makes scripts, `launch` and `users` say
how a process comes to be, `supervisor` keeps the container's process, `command` runs one beside it, `linux` knows that
system.
"""
