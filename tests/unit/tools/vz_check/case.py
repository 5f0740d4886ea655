from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    rule: str
    breach: str
    """The finding must be on the line that ends with `# BREACH`."""
    clean: str
    name: str = ""
