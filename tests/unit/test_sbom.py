"""The bill of materials names every package as scanners know it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from builder.record import Artifact, Base, ImageRecord, Inputs, Package
from builder.sbom import make_sbom

INPUTS = Inputs(target="qemu", base="1" * 64, rendered="2" * 64, template="3" * 64, config="4" * 64, tools={})
RECORD = ImageRecord(
    name="ses",
    bake_id="b1",
    key=INPUTS.key,
    status="baked",
    created=datetime(2026, 11, 22, tzinfo=UTC),
    preset="ses",
    base=Base(name="debian-12", release="debian-12", digest="1" * 64, source="built"),
    inputs=INPUTS,
    artifact=Artifact(file="relay.qcow2", sha256="5" * 64, size=4),
    packages=(
        Package(name="postfix", version="3.7.11-0+deb12u1", arch="amd64"),
        Package(name="libstdc++6", version="12.2.0-14", arch="amd64", source="gcc-12"),
        Package(name="netbase", version="1:6.4", arch="all"),
    ),
)


def test_packages_have_the_urls_of_their_distribution() -> None:
    urls = {component["purl"] for component in json.loads(make_sbom(RECORD))["components"]}
    assert urls == {
        "pkg:deb/debian/postfix@3.7.11-0%2Bdeb12u1?arch=amd64&distro=debian-12",
        "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?arch=amd64&distro=debian-12",
        "pkg:deb/debian/netbase@1:6.4?arch=all&distro=debian-12",
    }


def test_ubuntu_packages_are_ubuntus() -> None:
    base = Base(name="ubuntu-24.04", release="ubuntu-24.04", digest="1" * 64, source="x")
    bom = json.loads(make_sbom(RECORD.model_copy(update={"base": base})))
    assert all("pkg:deb/ubuntu/" in component["purl"] for component in bom["components"])


def test_image_is_the_subject_with_its_digest() -> None:
    subject = json.loads(make_sbom(RECORD))["metadata"]["component"]
    assert (subject["name"], subject["type"]) == ("ses", "operating-system")
    assert subject["hashes"] == [{"alg": "SHA-256", "content": "5" * 64}]


def test_image_depends_on_each_package() -> None:
    bom = json.loads(make_sbom(RECORD))
    subject = next(item for item in bom["dependencies"] if item["ref"].startswith("image:"))
    assert len(subject["dependsOn"]) == len(RECORD.packages)


def test_same_record_gives_the_same_text() -> None:
    assert make_sbom(RECORD) == make_sbom(RECORD)


def test_text_is_valid_cyclonedx() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(make_sbom(RECORD)) is None
