"""A real LLVM, packed as its releases are: llvm-config, headers and static libraries in one folder.

Debian's packages, cut down to what the small project asks for. llvm-config finds everything else
from its own place, so it works from wherever the archive is unpacked.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench.host.engine.endpoint import Endpoint
from tests.docker.source import helpers

MAJOR = 14  # Debian 12's oldest
FOLDER = "clang+llvm-{version}-x86_64-linux-gnu-debian-12"
# Of the components core and support, which the small project links.
LIBRARIES = ("Core", "Remarks", "BitstreamReader", "BinaryFormat", "Support", "Demangle")
SALT_BYTES = 16
# What llvm-config itself is linked with: a release for Ubuntu 18.04 needs libtinfo5 like this.
NEEDS = ("libz3-4",)

DOCKERFILE = """\
ARG BASE
FROM ${BASE} AS packages
ARG MAJOR
RUN --mount=type=secret,id=ca --mount=type=secret,id=net --mount=type=secret,id=apt \\
    --mount=type=bind,source=apt-install.sh,target=/mnt/apt-install.sh <<'SHELL'
set -eu
sed 's/^apt-get .* install .*/cd \\/tmp; chmod 777 .; apt-get "$@" download $packages; \\
for file in *.deb; do dpkg-deb -x "$file" \\/x; done/' /mnt/apt-install.sh > /fetch.sh
sh /fetch.sh llvm-$MAJOR llvm-$MAJOR-dev
SHELL
ARG LIBRARIES
RUN <<'SHELL'
set -eu
cd /x/usr/lib/llvm-$MAJOR
mkdir -p /out/bin /out/lib /out/include
cp bin/llvm-config /out/bin/
for name in $LIBRARIES; do cp "lib/libLLVM$name.a" /out/lib/; done
cp -rL include/llvm include/llvm-c /out/include/
SHELL
FROM scratch
COPY --from=packages /out /
"""


@dataclass(frozen=True)
class Archive:
    """``folder`` is the one folder in it, ``version`` what its llvm-config says."""

    path: Path
    sha256: str
    folder: str
    version: str


def unpacked(endpoint: Endpoint, base: str, into: Path) -> Path:
    """The folder that an archive holds; the engine keeps the packages for the next time."""
    arguments = {"BASE": base, "MAJOR": str(MAJOR), "LIBRARIES": " ".join(LIBRARIES)}
    helpers.build(endpoint, DOCKERFILE, arguments, ("--output", f"type=local,dest={into}"))
    return into


def pack(folder: Path, into: Path) -> Archive:
    """An archive of that folder, about 7 MB, unlike any other: nobody has its checksum yet."""
    config = (folder / "include" / "llvm" / "Config" / "llvm-config.h").read_text()
    version = next(
        line.split('"')[1] for line in config.splitlines() if "LLVM_VERSION_STRING" in line
    )
    name = FOLDER.format(version=version)
    path = into / f"{name}-{secrets.token_hex(4)}.tar.xz"
    # The lowest preset: how small it gets is not what is tested.
    with tarfile.open(path, "w:xz", preset=0) as archive:
        archive.add(folder, name)
        salt = tarfile.TarInfo(f"{name}/salt")
        salt.size = SALT_BYTES
        archive.addfile(salt, io.BytesIO(secrets.token_bytes(SALT_BYTES)))
    return Archive(path, hashlib.sha256(path.read_bytes()).hexdigest(), name, version)
