"""Virtual machines behind `ports.MachineDriver`: one driver per hypervisor, one directory per machine.

`selection.select` makes the driver that a host can run. What a machine is made of lies in `directory`; how its disk
comes from the image in `clone`; how its address is found in `addresses`.
"""
