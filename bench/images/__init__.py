"""Measures images beside the Go project and beside bare loops: `make bench ARGS=images`."""
