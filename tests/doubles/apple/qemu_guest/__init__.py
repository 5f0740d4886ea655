"""Real guests behind the double: a configured virtual machine as a QEMU process. Knows nothing of Apple's classes."""
