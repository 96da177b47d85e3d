"""The list of what is in an image as CycloneDX, the format that scanners for known holes read."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

    from builder.record import ImageRecord, Package

SBOM = "sbom.cdx.json"
# Any fixed one will do: it makes the serial number a function of the bake key.
_NAMESPACE = uuid.UUID("7f2c2f5e-6d0c-4f0e-9a83-6f2d2b1f2a10")


def make_sbom(record: ImageRecord) -> str:
    """Return the CycloneDX 1.5 JSON of an image; the same record gives the same text.

    Package URLs follow the purl type `deb`: pkg:deb/debian/NAME@VERSION?arch=…&distro=debian-12.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot5

    artifact = record.artifact
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=artifact.sha256)] if artifact.sha256 else []
    image = Component(
        name=record.name,
        version=record.key[:12],
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=f"image:{record.key}",
        hashes=hashes,
    )
    bom = Bom(
        serial_number=uuid.uuid5(_NAMESPACE, record.key),
        metadata=BomMetaData(component=image, timestamp=record.created),
        components=[_component(package, record.base.release) for package in record.packages],
    )
    bom.register_dependency(image, bom.components)
    return JsonV1Dot5(bom).output_as_string(indent=2) + "\n"


def _component(package: Package, release: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    qualifiers = {"arch": package.arch, "distro": release}
    # The vendor's name is the first half of ours: `debian-12`, `ubuntu-24.04`.
    purl = PackageURL("deb", release.partition("-")[0], package.name, package.version, qualifiers)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=purl.to_string(),
    )
