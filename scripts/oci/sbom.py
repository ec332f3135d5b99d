"""What an image is made of, as SPDX 2.3 JSON (spdx.github.io/spdx-spec/v2.3)."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence

from oci.files import Part

_NOT_SAID = "NOASSERTION"


def spdx(reference: str, architecture: str, digest: str, parts: Sequence[Part], epoch: int, tool: str) -> str:
    """The document of one platform's image, whose manifest has this digest: each package with version and checksum."""
    name = f"{reference.rpartition('/')[2].replace(':', '-')}-{architecture}"
    image = {
        "SPDXID": "SPDXRef-image",
        "name": reference,
        "versionInfo": reference.rpartition(":")[2],
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": _NOT_SAID,
        "filesAnalyzed": False,
        "licenseConcluded": _NOT_SAID,
        "licenseDeclared": _NOT_SAID,
        "copyrightText": _NOT_SAID,
        "checksums": [{"algorithm": "SHA256", "checksumValue": digest.partition(":")[2]}],
    }
    packages = [image, *(_package(part) for part in parts)]
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image")]
    relations += [("SPDXRef-image", "CONTAINS", str(package["SPDXID"])) for package in packages[1:]]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:kubetrace:{name}:{digest.partition(':')[2]}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "creators": [f"Tool: {tool}"],
        },
        "packages": packages,
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in relations
        ],
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _package(part: Part) -> dict[str, object]:
    # Ids of letters, digits, '.' and '-' only; the hash keeps g++ and g-- apart.
    name = re.sub(r"[^A-Za-z0-9.-]", "-", part.name)
    kind = "deb" if part.control else "python"
    return {
        "SPDXID": f"SPDXRef-{kind}-{name}-{hashlib.sha256(part.name.encode()).hexdigest()[:8]}",
        "name": part.name,
        "versionInfo": part.version,
        "downloadLocation": _NOT_SAID,
        "filesAnalyzed": False,
        "licenseConcluded": _NOT_SAID,
        "licenseDeclared": part.license or _NOT_SAID,
        "copyrightText": _NOT_SAID,
        **({"supplier": _supplier(part.supplier)} if part.supplier else {}),
        **({"sourceInfo": f"built from: {part.source}"} if part.source else {}),
        "checksums": [{"algorithm": "SHA256", "checksumValue": part.sha256}],
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": part.purl}
        ],
    }


def _supplier(maintainer: str) -> str:
    # "Name <address>" is "Organization: Name (address)"; Debian's maintainers are mostly teams
    name, _, address = maintainer.partition("<")
    return f"Organization: {name.strip()} ({address.rstrip('> ')})"
