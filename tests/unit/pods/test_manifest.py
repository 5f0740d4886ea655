import pytest

from vzkubelet.errors import InvalidInput
from vzkubelet.pods import manifest

POD = """
kind: Pod
metadata: {{name: p}}
spec:
  containers:
    - {{name: vm, image: i, resources: {{limits: {{memory: {memory}}}}}}}
"""


def test_a_bad_quantity_is_named_with_its_file_and_field() -> None:
    with pytest.raises(InvalidInput, match=r'pod.yaml: container "vm" resources.limits.memory: "2Gb" is'):
        manifest.parse(POD.format(memory="2Gb"), "pod.yaml")


def test_the_defaults_of_the_api_server_are_set() -> None:
    pod = manifest.parse(POD.format(memory="2Gi"), "pod.yaml").pod
    assert (pod.metadata.namespace, pod.spec.termination_grace_period_seconds) == ("default", 30)
    assert pod.metadata.uid == manifest.parse(POD.format(memory="1Gi"), "pod.yaml").pod.metadata.uid
