"""Rendered files before the programs that will read them: Postfix, nftables, cloud-init's schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from builder import process
from builder.conformance.local import LocalRelay
from builder.conformance.setups import SETUPS
from builder.releases import Release
from tests.rendered import NEEDS, USER_DATA, preset_names, rendered, user_data

pytestmark = pytest.mark.postfix

_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    **{f"preset-{name}": {"preset": name, **NEEDS.get(name, {})} for name in preset_names()},
    **{f"setup-{name}": dict(setup.config) for name, setup in SETUPS.items()},
}


@pytest.fixture(scope="module")
def relay(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRelay]:
    """A private Postfix that is given one configuration after the other."""
    folder = tmp_path_factory.mktemp("relay") / "sandbox"
    with LocalRelay(rendered("ses", release.name), folder, ports={}, ca_pem="") as running:
        yield running


@pytest.mark.parametrize("name", _CONFIGURATIONS)
def test_postfix_takes_the_rendered_configuration(name: str, release: Release, relay: LocalRelay) -> None:
    config = dict(_CONFIGURATIONS[name])
    files = rendered(config.pop("preset"), release.name, **config)
    said = relay.check(files)
    for table in (path for path in files if path.endswith(".regexp")):
        # Postfix reads a table when it first needs it, and leaves out with a warning what it cannot use.
        said += relay.run(["sh", "-c", f"postmap -q x regexp:{table.removeprefix('root')} 2>&1"], check=False)
    assert "warning" not in said, said
    assert "fatal" not in relay.log()
    assert "warning" not in relay.log()


@pytest.mark.parametrize("name", ["setup-plain", "setup-submission"])
def test_nftables_takes_the_firewall(name: str, release: Release, tmp_path: Path) -> None:
    config = dict(_CONFIGURATIONS[name])
    files = rendered(
        config.pop("preset"),
        release.name,
        networks=["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"],
        firewall={"management_networks": ["10.9.0.0/16"]},
        **config,
    )
    rules = tmp_path / "nftables.conf"
    rules.write_text(files["root/etc/nftables.conf"])
    process.run(["nft", "--check", "--file", rules])


@pytest.mark.parametrize(
    "keys",
    [
        {"networks": [], "submission": {"secret": "relay/users", "networks": ["0.0.0.0/0", "::/0"]}},
        {"networks": ["fe80::1", "fd00::/8", "fd00::/8"], "submission": {"secret": "relay/users"}},
        {"firewall": {"management_ports": []}},
        {"firewall": {"management_ports": [22, 22], "management_networks": []}},
        {"firewall": {"enabled": False}},
    ],
    ids=["submission-alone", "ipv6-alone", "no-management-port", "nobody-manages", "off"],
)
def test_nftables_takes_whatever_relay_yaml_may_say(
    keys: dict[str, Any], release: Release, tmp_path: Path
) -> None:
    rules = tmp_path / "nftables.conf"
    rules.write_text(rendered("ses", release.name, **keys)["root/etc/nftables.conf"])
    process.run(["nft", "--check", "--file", rules])


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The schema of user data from cloud-init's own package."""
    folder = tmp_path_factory.mktemp("cloud-init")
    process.run(["apt-get", "download", "cloud-init"], cwd=folder, timeout_seconds=120)
    (package,) = folder.glob("cloud-init_*.deb")
    process.run(["dpkg-deb", "--extract", package, folder / "tree"])
    (path,) = folder.glob(
        "tree/usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"
    )
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


@pytest.mark.parametrize("kind", USER_DATA)
def test_user_data_follows_cloud_inits_schema(kind: str, release: Release, schema: dict[str, Any]) -> None:
    jsonschema.validate(yaml.safe_load(user_data(kind, release.name)), schema)


def test_the_schema_refuses_what_it_does_not_know(schema: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"write_files": [{"content": "no path"}]}, schema)
