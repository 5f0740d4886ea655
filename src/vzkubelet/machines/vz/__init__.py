"""Apple's Virtualization.framework: one helper process per virtual machine, and the driver that talks to them.

Only `apple` (and what it hands out) touches PyObjC, lazily; every module here imports on Linux.
"""
