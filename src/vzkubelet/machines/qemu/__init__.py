"""QEMU as the hypervisor of Linux hosts: one process per machine that outlives the daemon.

Nothing here is a child that has to be held: QEMU, virtiofsd and dnsmasq run in sessions of their own, carry their owner
in their environment so that any later daemon finds them, and are watched through pidfds.
"""
