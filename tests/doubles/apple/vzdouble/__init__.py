"""The double of PyObjC, Foundation, Virtualization and libdispatch; see ../README.md."""
