"""What one image is made from: a profile of the pins, and what the user wants otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from bench.errors import UsageFault
from bench.host import git
from bench.host.mirrors import Mirrors
from bench.host.pins import Llvm, Pins, Profile, Source
from bench.host.toolchain import Toolchain, of_profile

RELEASE = re.compile(r"v?(\d+\.\d+[\w.]*)")
ARCHIVE = re.compile(r"\.tar\.(xz|gz|bz2)$")


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for; None or empty where nothing was said.

    ``llvm`` is ``apt:14`` or a key of the pins' ``[llvm]``; ``llvm_url`` with ``llvm_sha256`` names
    an archive instead. ``cuda_arch`` are compute capabilities: ``86``. ``ssh`` is as for buildx:
    ``default``, or ``default=PATH``. ``private_repo`` is an ssh address. ``frozen`` refuses what is
    not locked, and with ``frozen_packages`` Debian's packages too (bench/host/lock/frozen.py).
    ``again`` builds once more to compare: nothing built or compiled earlier serves.
    """

    profile: str | None = None
    base: str | None = None
    wheelhouse: Path | None = None
    no_cache: bool = False
    build_type: str | None = None
    cuda_arch: tuple[str, ...] = ()
    cuda_from_wheels: bool = False
    jobs: int | None = None
    tvm_ref: str | None = None
    llvm: str | None = None
    llvm_url: str | None = None
    llvm_sha256: str | None = None
    ssh: str | None = None
    private_repo: str | None = None
    private_ref: str | None = None
    mirrors: Mirrors = field(default_factory=Mirrors)
    mirror_folder: Path | None = None
    cache_from: tuple[str, ...] = ()
    cache_to: tuple[str, ...] = ()
    frozen: bool = False
    frozen_packages: bool = False
    again: bool = False

    @property
    def changes_source(self) -> bool:
        """Whether anything is asked for that only a build from source can give."""
        return bool(
            self.build_type
            or self.cuda_arch
            or self.cuda_from_wheels
            or self.tvm_ref
            or self.llvm
            or self.llvm_url
        )


@dataclass(frozen=True)
class TvmBuild:
    """TVM compiled from source: all that decides what comes out.

    ``version`` is the entry of the pins' ``[sources]`` whose packages go with it.

    ``own_gitlinks`` where the commit is not the locked one, so that its tree alone says which
    submodules belong to it. ``cuda_from`` is none, base or wheels.
    """

    version: str
    source: Source
    own_gitlinks: bool
    build_type: str
    llvm_version: str
    llvm_config: str
    archive: Llvm | None
    cuda_from: str
    cuda_arch: tuple[str, ...]

    @property
    def arguments(self) -> dict[str, str]:
        """The Dockerfile's build arguments."""
        archive, source = self.archive, self.source
        version = self.llvm_version
        packages = f"llvm-{version}-dev libpolly-{version}-dev" if archive is None else ""
        return {
            "CUDA_FROM": self.cuda_from,
            "CUDA_ARCH": ";".join(self.cuda_arch),
            "LLVM_FROM": "archive" if archive else "apt",
            "LLVM_CONFIG": self.llvm_config,
            "LLVM_URL": archive.url if archive else "",
            "LLVM_SHA256": archive.sha256 if archive else "",
            "LLVM_FOLDER": archive.folder if archive else "",
            "APT_LLVM": " ".join(archive.apt) if archive else packages,
            "BUILD_TYPE": self.build_type,
            "SOURCE_URL": source.url,
            "SOURCE_COMMIT": source.commit,
            "SOURCE_VERSION": self.version,
            "SOURCE_GITLINKS": "\n".join(f"{path} {sha}" for path, sha in source.gitlinks.items()),
            "SOURCE_BY_PARENT": "\n".join(source.read_by_parent),
            "SOURCE_OWN_GITLINKS": "1" if self.own_gitlinks else "",
        }

    @property
    def labels(self) -> dict[str, str]:
        """What an image tells of it, by label name."""
        return {
            "tvm_commit": self.source.commit,
            "build_type": self.build_type,
            "llvm": self.llvm_version,
            "llvm_config": self.llvm_config,
            "cuda_from": self.cuda_from,
            "cuda_arch": ",".join(self.cuda_arch),
        }


# The Dockerfile declares them all; a profile of wheels has no use for these.
NO_TVM_BUILD = {
    "CUDA_FROM": "none",
    "CUDA_ARCH": "",
    "LLVM_FROM": "apt",
    "LLVM_CONFIG": "",
    "LLVM_URL": "",
    "LLVM_SHA256": "",
    "LLVM_FOLDER": "",
    "APT_LLVM": "",
    "BUILD_TYPE": "",
    "SOURCE_URL": "",
    "SOURCE_COMMIT": "",
    "SOURCE_VERSION": "",
    "SOURCE_GITLINKS": "",
    "SOURCE_BY_PARENT": "",
    "SOURCE_OWN_GITLINKS": "",
}


def tvm_build(
    request: BuildRequest, profile: Profile, pins: Pins, environ: Mapping[str, str]
) -> TvmBuild | None:
    """How TVM is compiled for a profile, or None where it comes as a wheel.

    Raises:
        UsageFault: the request does not fit the profile or itself, or its ref is not to be had.
    """
    if not profile.from_source:
        if request.changes_source:
            names = ", ".join(name for name, one in pins.profiles.items() if one.from_source)
            raise UsageFault(
                "this profile takes TVM's wheel: nothing of TVM is compiled for it",
                hint=f"choose a profile that compiles it: {names}",
            )
        return None
    if (request.cuda_arch or request.cuda_from_wheels) and profile.device != "cuda":
        raise UsageFault("this profile has no CUDA", hint="--profile llvm10 --cuda-from-wheels")
    version = profile.tvm
    if release := RELEASE.fullmatch(request.tvm_ref or ""):
        version = release[1]
        if version not in pins.sources:
            known = ", ".join(f"v{name}" for name in pins.sources)
            raise UsageFault(
                f"TVM v{version} is not locked: nobody has said which submodules and which tvm-ffi",
                hint=f"--tvm-ref {known}; another one is added to [sources] in docker/pins.toml "
                "with a docker/locks/tvm-VERSION.in; or name its commit, with what is locked now",
            )
    source, own = pins.sources[version], False
    if request.tvm_ref and not release:
        told = {**environ, **request.mirrors.git_variables}
        commit = git.resolve(source.url, request.tvm_ref, told)
        if commit != source.commit:
            changes = {"commit": commit, "gitlinks": {}, "read_by_parent": ()}
            source, own = source.model_copy(update=changes), True
    llvm_version, config, archive = _llvm(request, profile, pins)
    if request.build_type not in (None, "Debug", "RelWithDebInfo", "Release"):
        raise UsageFault(
            f"unknown build type: {request.build_type}", hint="Debug, RelWithDebInfo or Release"
        )
    cuda_from = "none"
    if profile.device == "cuda":
        cuda_from = "wheels" if request.cuda_from_wheels else "base"
    return TvmBuild(
        version=version,
        source=source,
        own_gitlinks=own,
        build_type=request.build_type or str(profile.build_type),
        llvm_version=llvm_version,
        llvm_config=config,
        archive=archive,
        cuda_from=cuda_from,
        cuda_arch=request.cuda_arch or profile.cuda_arch,
    )


def toolchain_of(request: BuildRequest, name: str, pins: Pins, base: str | None) -> Toolchain:
    """What the solver is asked about: a profile, with what the user wants otherwise.

    Raises:
        UsageFault: there is no such profile.
    """
    # Another commit or a branch is taken for what the profile builds: nothing tells its version.
    release = RELEASE.fullmatch(request.tvm_ref or "")
    return of_profile(
        pins,
        name,
        tvm=release[1] if release else None,
        # Of an archive by its address nothing is known but its name.
        llvm="" if request.llvm_url else request.llvm,
        cuda=pins.versions.torch_cuda if request.cuda_from_wheels else None,
        cuda_arch=request.cuda_arch,
        base=base,
    )


def _llvm(request: BuildRequest, profile: Profile, pins: Pins) -> tuple[str, str, Llvm | None]:
    """(version, path of llvm-config, archive or None for the distribution's)."""
    if bool(request.llvm_url) != bool(request.llvm_sha256):
        raise UsageFault(
            "--llvm-url and --llvm-sha256 go together",
            hint="sha256sum FILE prints the checksum of an archive that you trust",
        )
    if request.llvm_url and request.llvm_sha256:
        if request.llvm:
            raise UsageFault("--llvm and --llvm-url exclude each other", hint="leave one out")
        if not re.fullmatch(r"[0-9a-f]{64}", request.llvm_sha256):
            raise UsageFault(f"not a sha256: {request.llvm_sha256}", hint="64 hexadecimal digits")
        if "@" in urlsplit(request.llvm_url).netloc:
            raise UsageFault(
                "--llvm-url with a password would stay in the image's history",
                hint="name a mirror with it instead: --mirror github=URL; or a URL without",
            )
        name = PurePosixPath(urlsplit(request.llvm_url).path).name
        if not ARCHIVE.search(name):
            raise UsageFault(f"not an archive of LLVM: {name}", hint="a .tar.xz or .tar.gz")
        folder = ARCHIVE.sub("", name)
        found = re.search(r"\d+\.\d+\.\d+", folder)
        archive = Llvm(url=request.llvm_url, sha256=request.llvm_sha256, folder=folder)
        # An archive of that release needs what the pinned one of it needs.
        version = found[0] if found else folder
        if version in pins.llvm:
            archive = archive.model_copy(update={"apt": pins.llvm[version].apt})
        return version, f"/llvm/{folder}/bin/llvm-config", archive
    name = request.llvm or str(profile.llvm)
    if distribution := re.fullmatch(r"apt:(\d+)", name):
        return distribution[1], f"/usr/lib/llvm-{distribution[1]}/bin/llvm-config", None
    if name not in pins.llvm:
        raise UsageFault(
            f"unknown LLVM: {name}", hint=f"apt:14 and the like, or {', '.join(pins.llvm)}"
        )
    archive = pins.llvm[name]
    return name, f"/llvm/{archive.folder}/bin/llvm-config", archive
