"""Docker side-cars: every container of a pod but the first, in one sandbox per pod.

`Sidecars` is the port's implementation; `remove_network` takes back the Docker network that guests and side-cars share.
Everything on the engine is found by labels (`naming`), never by memory, so a later daemon finds what an earlier left.
"""

from vzkubelet.sidecars.network import remove_network as remove_network
from vzkubelet.sidecars.runtime import Sidecars as Sidecars
