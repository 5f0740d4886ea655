"""CredentialProviderConfig, by the tables of the kubelet's own tests."""

from pathlib import Path

import msgspec
import pytest
import yaml

from vzkubelet.errors import InvalidInput
from vzkubelet.images.credentials import provider_config
from vzkubelet.images.credentials.provider_config import ProviderSettings

V1 = "credentialprovider.kubelet.k8s.io/v1"
PROVIDER: dict[str, object] = {
    "name": "test",
    "matchImages": ["registry.io/foobar"],
    "defaultCacheDuration": "10m",
    "apiVersion": V1,
    "args": ["--v=5"],
    "env": [{"name": "FOO", "value": "BAR"}],
}
SETTINGS = ProviderSettings("test", V1, ("registry.io/foobar",), 600.0, ("--v=5",), (("FOO", "BAR"),))


def config(*providers: dict[str, object], **changes: object) -> dict[str, object]:
    document = {"kind": "CredentialProviderConfig", "apiVersion": "kubelet.config.k8s.io/v1", "providers": providers}
    return {**document, "providers": list(providers), **changes}


def write(path: Path, document: object) -> Path:
    path.write_text(yaml.safe_dump(document))
    return path


def read(tmp_path: Path, document: object) -> tuple[ProviderSettings, ...]:
    return provider_config.read(write(tmp_path / "config.yaml", document))


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha1"])
def test_a_plugin(version: str, tmp_path: Path) -> None:
    assert read(tmp_path, config(PROVIDER, apiVersion=f"kubelet.config.k8s.io/{version}")) == (SETTINGS,)


def test_json(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(msgspec.json.encode(config(PROVIDER)))
    assert provider_config.read(file) == (SETTINGS,)


def test_several_plugins_in_order_with_every_version_of_the_protocol(tmp_path: Path) -> None:
    versions = [f"credentialprovider.kubelet.k8s.io/{version}" for version in ("v1", "v1alpha1", "v1beta1")]
    named = {version.rpartition("/")[2]: version for version in versions}
    found = read(tmp_path, config(*({**PROVIDER, "name": name, "apiVersion": v} for name, v in named.items())))
    assert [(each.name, each.api_version) for each in found] == list(named.items())


def test_a_directory_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.yml", "a.json", "c.yaml"):
        write(tmp_path / name, config({**PROVIDER, "name": name[0]}))
    write(tmp_path / "ignored.txt", "not a config")
    (tmp_path / "d.yaml").mkdir()
    assert [each.name for each in provider_config.read(tmp_path)] == ["a", "b", "c"]


def test_a_directory_without_configuration(tmp_path: Path) -> None:
    write(tmp_path / "config.txt", config(PROVIDER))
    with pytest.raises(InvalidInput, match="no configuration files found in directory"):
        provider_config.read(tmp_path)


def test_one_name_in_two_files(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        write(tmp_path / name, config(PROVIDER))
    with pytest.raises(InvalidInput, match='Duplicate value: "test"'):
        provider_config.read(tmp_path)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (config(PROVIDER, kind="WrongKind"), "wrong Kind"),
        (config(PROVIDER, apiVersion="foobar/v1"), "is not kubelet.config.k8s.io/v1"),
        (config(PROVIDER, apiVersion="kubelet.config.k8s.io/v9"), "is not kubelet.config.k8s.io/v1"),
        (config({**PROVIDER, "matchImage": ["typo"]}), "unknown field `matchImage`"),
        (config({**PROVIDER, "defaultCacheDuration": 5}), "error decoding config"),
        ([], "error decoding config"),
        ("{", "error decoding config"),
    ],
)
def test_what_is_no_configuration(document: object, text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=text):
        read(tmp_path, document)


@pytest.mark.parametrize(
    ("providers", "text"),
    [
        ([], "at least 1 item in plugins is required"),
        ([{**PROVIDER, "matchImages": []}], "at least 1 item in matchImages is required"),
        ([{k: v for k, v in PROVIDER.items() if k != "defaultCacheDuration"}], "defaultCacheDuration: Required value"),
        ([{**PROVIDER, "defaultCacheDuration": "-1m"}], "must be greater than or equal to 0"),
        ([{**PROVIDER, "defaultCacheDuration": "soon"}], "defaultCacheDuration: .* is not a duration"),
        ([{**PROVIDER, "name": "foo/../bar"}], "cannot contain '/'"),
        ([{**PROVIDER, "name": "."}], r"cannot be '\.'"),
        ([{**PROVIDER, "name": ".."}], r"cannot be '\.\.'"),
        ([{**PROVIDER, "name": "foo bar"}], "cannot contain spaces"),
        ([{**PROVIDER, "name": ""}], "name: Required value"),
        ([PROVIDER, PROVIDER], 'Duplicate value: "test"'),
        ([{**PROVIDER, "apiVersion": ""}], "apiVersion: Required value"),
        ([{**PROVIDER, "apiVersion": "credentialprovider.kubelet.k8s.io/v2"}], "apiVersion: Unsupported value"),
        ([{**PROVIDER, "matchImages": ["%invalid%:port"]}], "match image is invalid"),
        ([{**PROVIDER, "tokenAttributes": {"serviceAccountTokenAudience": "a"}}], "tokenAttributes: Forbidden"),
    ],
)
def test_mistakes(providers: list[dict[str, object]], text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=text):
        read(tmp_path, config(*providers))


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, config({**PROVIDER, "name": "a b", "apiVersion": "", "matchImages": []}))
    assert all(word in str(caught.value) for word in ("name", "apiVersion", "matchImages", "config.yaml"))


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read .*absent\.yaml: No such file"):
        provider_config.read(tmp_path / "absent.yaml")
