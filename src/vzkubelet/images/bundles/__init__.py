"""Virtual machines of other tools on this host: into the store, and back out of it."""

from vzkubelet.images.bundles.bundle import Bundle, DiskFormat
from vzkubelet.images.bundles.disks import check_sectors, format_of
from vzkubelet.images.bundles.exporting import Tool, export
from vzkubelet.images.bundles.importing import import_bundle
from vzkubelet.images.bundles.locks import check_unused
from vzkubelet.images.bundles.recognition import check, read

__all__ = [
    "Bundle",
    "DiskFormat",
    "Tool",
    "check",
    "check_sectors",
    "check_unused",
    "export",
    "format_of",
    "import_bundle",
    "read",
]
