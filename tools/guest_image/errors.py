"""The one error that the builder shows to its user."""


class BuildError(Exception):
    """The image cannot be built; the message names the thing, the reason and the way out."""
