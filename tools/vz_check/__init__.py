"""Checks the calls into Apple's frameworks against the SDK metadata, without a Mac."""
