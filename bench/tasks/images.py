"""Images: built, verified, mirrored."""

from __future__ import annotations

from invoke import Context

from bench.tasks.guard import verb

_BUILD_HELP = {
    "profile": "llvm10 (default), latest or cpu-source compile TVM; cpu, cuda-wheels take wheels",
    "base": "any Debian or Ubuntu image instead of the profile's pinned base",
    "wheelhouse": "a directory of wheels to install torch from (default: PIP_FIND_LINKS)",
    "no-cache": "build every layer again",
    "dry-run": "print the build command and the image's tag, build nothing",
    "build-type": "Debug, RelWithDebInfo or Release (default: the profile's)",
    "cuda-arch": "GPUs to compile for, as 86,90 (default: the profile's)",
    "cuda-from-wheels": "CUDA's compiler and runtime from NVIDIA's wheels, on a base without them",
    "jobs": "compilers at once (default: by memory and cores)",
    "tvm-ref": "a commit, tag or branch of TVM instead of the profile's commit",
    "llvm": "apt:14 and the like for the distribution's, or a release in docker/pins.toml",
    "llvm-url": "an LLVM release's archive instead; goes with --llvm-sha256",
    "llvm-sha256": "the archive's checksum",
    "ssh": "lend your ssh agent to the build, for --private-repo: default",
    "private-repo": "an ssh address; the repository is cloned to /opt/private in the image",
    "private-ref": "its tag, branch or commit (default: HEAD)",
    "mirror": "NAME=URL, may be repeated: github, apt, pip, registry or any git host",
    "mirror-folder": "what `invoke mirror` made: objects are taken from there first",
    "cache-from": "a BuildKit cache to read, as type=registry,ref=HOST/NAME; may be repeated",
    "cache-to": "a BuildKit cache to write, as type=registry,ref=HOST/NAME,mode=max",
    "frozen": "refuse whatever is not locked, naming it (default where CI is set, but that "
    "Debian's packages are only told of)",
    "no-frozen": "take it all the same, in CI too",
}


@verb(help=_BUILD_HELP, iterable=("mirror", "cache_from", "cache_to"))
def build_image(
    c: Context,
    profile: str | None = None,
    base: str | None = None,
    wheelhouse: str | None = None,
    no_cache: bool = False,
    dry_run: bool = False,
    build_type: str | None = None,
    cuda_arch: str | None = None,
    cuda_from_wheels: bool = False,
    jobs: str | None = None,
    tvm_ref: str | None = None,
    llvm: str | None = None,
    llvm_url: str | None = None,
    llvm_sha256: str | None = None,
    ssh: str | None = None,
    private_repo: str | None = None,
    private_ref: str | None = None,
    mirror: list[str] | None = None,
    mirror_folder: str | None = None,
    cache_from: list[str] | None = None,
    cache_to: list[str] | None = None,
    frozen: bool = False,
    no_frozen: bool = False,
) -> None:
    """Build the image that jobs run in and check its contract; an unchanged one is found."""
    from bench.host import verbs
    from bench.host.request import build_request

    request = build_request(
        profile=profile,
        base=base,
        wheelhouse=wheelhouse,
        no_cache=no_cache,
        build_type=build_type,
        cuda_arch=cuda_arch,
        cuda_from_wheels=cuda_from_wheels,
        jobs=jobs,
        tvm_ref=tvm_ref,
        llvm=llvm,
        llvm_url=llvm_url,
        llvm_sha256=llvm_sha256,
        ssh=ssh,
        private_repo=private_repo,
        private_ref=private_ref,
        mirror=mirror or (),
        mirror_folder=mirror_folder,
        cache_from=tuple(cache_from or ()),
        cache_to=tuple(cache_to or ()),
        frozen=frozen,
        no_frozen=no_frozen,
    )
    verbs.build_image(request, dry_run=dry_run)


@verb(
    help={
        "image": "a tag or an id (default: the newest that build-image made)",
        "json": "print the whole record as JSON",
        "rebuild": "instead: build it again without any cache, and compare byte for byte",
        "files": "instead: write every file's checksum to this file, for --against elsewhere",
        "against": "instead: compare it with the list that --files wrote, on any machine",
        "wheelhouse": _BUILD_HELP["wheelhouse"] + "; for --rebuild",
        "mirror": _BUILD_HELP["mirror"] + "; for --rebuild",
        "mirror-folder": _BUILD_HELP["mirror-folder"] + "; for --rebuild",
        "jobs": _BUILD_HELP["jobs"] + "; for --rebuild",
        "ssh": _BUILD_HELP["ssh"] + "; for --rebuild",
        "private-repo": "its address, where the image has one; for --rebuild",
    },
    iterable=("mirror",),
)
def verify_image(
    c: Context,
    image: str | None = None,
    json: bool = False,
    rebuild: bool = False,
    files: str | None = None,
    against: str | None = None,
    wheelhouse: str | None = None,
    mirror: list[str] | None = None,
    mirror_folder: str | None = None,
    jobs: str | None = None,
    ssh: str | None = None,
    private_repo: str | None = None,
) -> None:
    """Hold an image to its contract; or build it again and compare. Exit 1 if that fails."""
    from bench.errors import UsageFault
    from bench.host import verbs
    from bench.host.reproduce import verbs as reproduce

    chosen = [
        name
        for name, value in (("--rebuild", rebuild), ("--files", files), ("--against", against))
        if value
    ]
    if len(chosen) > 1:
        raise UsageFault(f"{' and '.join(chosen)} are two questions", hint="ask one at a time")
    if rebuild:
        reproduce.rebuild(
            image,
            as_json=json,
            wheelhouse=wheelhouse,
            mirror=mirror or (),
            mirror_folder=mirror_folder,
            jobs=jobs,
            ssh=ssh,
            private_repo=private_repo,
        )
    elif files:
        reproduce.files(image, files)
    elif against:
        reproduce.against(image, against, as_json=json)
    else:
        verbs.verify_image(image, as_json=json)


@verb(
    help={
        "tvm": "show what fits this TVM, as v0.23.0",
        "gpu": "show what fits this GPU architecture, as sm_86",
        "cuda": "show what fits this CUDA toolkit, as 12.4",
        "driver": "show what fits this NVIDIA driver, as 535.104",
        "json": "print the tables as JSON, each row with its source",
    }
)
def matrix(
    c: Context,
    tvm: str | None = None,
    gpu: str | None = None,
    cuda: str | None = None,
    driver: str | None = None,
    json: bool = False,
) -> None:
    """Say which TVM, LLVM, CUDA, GPU, driver and torch fit together, and which profile to take."""
    from bench.host import verbs

    verbs.matrix(tvm=tvm, gpu=gpu, cuda=cuda, driver=driver, as_json=json)


@verb(
    help={
        "into": "the folder (default: gpt-frontend/mirror in your cache)",
        "tvm": "only the repositories of this TVM, as v0.23.0 (default: of all profiles)",
        "mirror": "NAME=URL: fetch from there, as in build-image",
    },
    iterable=("mirror",),
)
def mirror(
    c: Context,
    into: str | None = None,
    tvm: str | None = None,
    mirror: list[str] | None = None,
) -> None:
    """Mirror TVM's repositories on this disk, for build-image --mirror-folder."""
    from bench.host import verbs

    verbs.mirror(into, tvm, mirror or ())


@verb(help={"suite": "the Debian suite (default: the one in docker/pins.toml)"})
def base_image(c: Context, suite: str | None = None) -> None:
    """Make a base image with debootstrap, for machines that reach no image registry (as root)."""
    from bench.host import verbs

    verbs.base_image(suite)
