"""One worker per pod: desired state in; machine, side-cars, volumes and status out.

`supervisor` owns the workers, `worker` asks `podstate` what to do and does it through `ports`, `machine_runtime` makes
a container out of a virtual machine, `view` is what the kubelet API sees. Nothing here knows an implementation.
"""
