"""Places to work in: an editor's container, and the same in a terminal."""

from __future__ import annotations

from invoke import Context

from bench.tasks.guard import verb
from bench.tasks.options import JOB


@verb(
    help={
        "profile": "the profile to work on: cpu (default), cpu-source and llvm10 with TVM's tree",
        "base": JOB["base"],
        "build-type": "of TVM, where it is compiled: Debug to step through it",
        "tvm-ref": "a commit, tag or branch of TVM instead of the profile's commit",
        "cuda-from-wheels": "as in build-image, where the pinned base is not to be had",
        "private-repo": "an ssh address, cloned to /src/private inside and installed editable",
        "private-ref": "its tag, branch or commit (default: what it checks out itself)",
        "jobs": "compilers at once (default: by memory and cores)",
        "mirror-folder": "what `invoke mirror` made: objects are taken from there first",
    }
)
def devcontainer(
    c: Context,
    profile: str | None = None,
    base: str | None = None,
    build_type: str | None = None,
    tvm_ref: str | None = None,
    cuda_from_wheels: bool = False,
    private_repo: str | None = None,
    private_ref: str | None = None,
    jobs: str | None = None,
    mirror_folder: str | None = None,
) -> None:
    """Make what .devcontainer/ opens; without options, as asked for the last time."""
    from bench.host.request import build_request
    from bench.host.workplace import verbs
    from bench.host.workplace.choice import Choice

    checked = build_request(jobs=jobs, mirror_folder=mirror_folder)
    said = (profile, base, build_type, tvm_ref, cuda_from_wheels, private_repo, private_ref)
    asked = Choice(
        profile=profile,
        base=base,
        build_type=build_type,
        tvm_ref=tvm_ref,
        cuda_from_wheels=cuda_from_wheels,
        private_repo=private_repo,
        private_ref=private_ref,
    )
    verbs.devcontainer(
        asked if any(said) else None, jobs=checked.jobs, mirror_folder=checked.mirror_folder
    )


@verb(
    help={
        "profile": "another profile than `invoke devcontainer` was told (default: cpu)",
        "base": JOB["base"],
        "command": "run this in place of a shell; needs no terminal",
    }
)
def shell(
    c: Context, profile: str | None = None, base: str | None = None, command: str | None = None
) -> None:
    """Open a shell in a container like the editor's, as you, the project at /workspace."""
    from bench.host.workplace import verbs

    verbs.shell(profile, base, command)
