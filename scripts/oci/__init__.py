"""scripts/image: kubetrace as an OCI image, put together file by file from Debian's packages and Python's wheels.

    apt's packages --+
    pip's wheels   --+--> Parts of files --> layers (tar, gzip) --> layout: manifests, index --> one tar
    this checkout  --+         |
                               +--> SBOM (SPDX), sizes

Packages are unpacked and never installed: no script of theirs runs, so that any architecture can be built on any other,
and no user needs to be root. The same inputs give the same bytes.
"""
