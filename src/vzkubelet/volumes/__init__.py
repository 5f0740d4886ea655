"""Volumes: every source as a directory of this host, written atomically."""

from vzkubelet.volumes.setup import NodeFacts as NodeFacts
from vzkubelet.volumes.setup import Volumes as Volumes
