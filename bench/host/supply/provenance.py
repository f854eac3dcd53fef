"""Where an image is from: a statement of SLSA provenance v1, as in-toto has it, unsigned.

Specifications: https://slsa.dev/spec/v1.0/provenance and
https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md. It tells what was asked for
and what went in, each by digest. The network's settings (mirrors, proxies, CA, agents, folders of
this machine) are not of that kind: they enter neither the image's content id nor this statement.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.errors import UsageFault
from bench.host import content, git, known_hosts, pins, recipe
from bench.host.image import LABELS

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
# Names, not addresses: nothing is to be fetched there. docs/supply-chain.md says what they mean.
BUILD_TYPE = "urn:gpt-frontend:build-image:v1"
BUILDER = "urn:gpt-frontend:invoke-build-image"
# What of a request decides the image; the rest is how this machine reaches what it needs.
_ASKED = (
    *("profile", "base", "build_type", "cuda_arch", "cuda_from_wheels", "tvm_ref"),
    *("llvm", "llvm_url", "llvm_sha256", "private_repo", "private_ref"),
)
_HOW = ("no_cache", "wheelhouse", "mirror_folder", "ssh")


@dataclass(frozen=True)
class Built:
    """A build that ended well: what was planned, what came out, by whom and when.

    ``digest`` is the manifest's, or the engine's id of the image where it has none.
    """

    tag: str
    digest: str
    content_id: str
    profile: str
    labels: Mapping[str, str]
    request: recipe.BuildRequest
    tvm: recipe.TvmBuild | None
    base: str
    base_id: str
    engine: str
    began: datetime
    ended: datetime


def statement(built: Built, pinned: pins.Pins, root: Path) -> dict[str, Any]:
    """The statement, as JSON has it."""
    algorithm, _, digest = built.digest.partition(":")
    asked = asdict(built.request)
    external = {name: _public(asked[name]) for name in _ASKED if asked[name]}
    if built.request.private_repo:
        external["private_repo"] = _repository(built.request.private_repo)
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": built.tag, "digest": {algorithm: digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {**external, "profile": built.profile},
                # Only whether: their values are this machine's own.
                "internalParameters": {name: bool(asked[name]) for name in _HOW},
                "resolvedDependencies": list(_dependencies(built, pinned, root)),
            },
            "runDetails": {
                "builder": {
                    "id": BUILDER,
                    "version": {
                        "gpt-frontend": built.labels.get("org.opencontainers.image.version", ""),
                        "engine": built.engine,
                    },
                },
                "metadata": {"startedOn": _time(built.began), "finishedOn": _time(built.ended)},
            },
        },
    }


def text(stated: Mapping[str, Any]) -> str:
    """A statement as its file has it."""
    return json.dumps(stated, indent=2, sort_keys=True) + "\n"


def subject(path: Path) -> str:
    """The digest of the image that a statement in a file is about.

    Raises:
        UsageFault: it cannot be read, or is no statement of provenance.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _no_statement(str(path), error) from error
    return subject_of(content, str(path))


def subject_of(content: bytes, name: str) -> str:
    """The same of a statement's ``content``, which is called ``name`` where it is refused.

    Raises:
        UsageFault: it is no statement of provenance.
    """
    try:
        said = json.loads(content)
        if said["_type"] != STATEMENT_TYPE or said["predicateType"] != PREDICATE_TYPE:
            raise ValueError("another type of statement")
        ((algorithm, digest),) = said["subject"][0]["digest"].items()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _no_statement(name, error) from error
    return f"{algorithm}:{digest}"


def _no_statement(name: str, error: Exception) -> UsageFault:
    return UsageFault(
        f"{name} is no statement of provenance: {error}",
        hint="invoke build-image writes one for each image that it builds",
    )


def _dependencies(built: Built, pinned: pins.Pins, root: Path) -> Iterator[dict[str, Any]]:
    commit, dirty = git.state(root)
    yield {"name": "content id", "digest": {"sha256": built.content_id}}
    if commit is not None:
        yield {
            "name": "gpt-frontend",
            "digest": {"gitCommit": commit},
            "annotations": {"edited": bool(dirty)},
        }
    name, _, pin = built.base.partition("@")
    algorithm, _, digest = (pin or built.base_id).partition(":")
    yield {"name": "base", "uri": f"docker://{name}", "digest": {algorithm: digest}}
    if built.tvm is not None:
        yield from _sources(built.tvm)
    if private := built.labels.get(f"{LABELS}.private-commit"):
        yield {
            "name": "private repository",
            "uri": f"git+{_repository(built.request.private_repo or '')}@{private}",
            "digest": {"gitCommit": private},
        }
    profile = pinned.profile(built.profile)
    for lock in content.lock_files(profile, built.tvm):
        path = root / "docker" / "locks" / lock
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        yield {"name": f"docker/locks/{lock}", "digest": {"sha256": sha256}}


def _sources(tvm: recipe.TvmBuild) -> Iterator[dict[str, Any]]:
    source = tvm.source
    yield {
        "name": "tvm",
        "uri": f"git+{_public(source.url)}@{source.commit}",
        "digest": {"gitCommit": source.commit},
    }
    for path, commit in sorted(source.gitlinks.items()):
        yield {"name": f"tvm/{path}", "digest": {"gitCommit": commit}}
    if tvm.archive is not None:
        url, sha256 = _public(tvm.archive.url), tvm.archive.sha256
        yield {"name": "llvm", "uri": url, "digest": {"sha256": sha256}}


def _repository(address: str) -> str:
    """The URL of an ssh address, which git also takes as ``user@host:path``, without the user."""
    if short := known_hosts.SCP.fullmatch(address):
        return f"ssh://{short[1]}/{address.partition(':')[2].lstrip('/')}"
    return str(_public(address))


def _public(value: Any) -> Any:
    """A value without the user and the password that an address in it may carry."""
    if isinstance(value, str):
        return re.sub(r"^([a-z][a-z0-9+.-]*://)[^/@\s]*@", r"\1", value, flags=re.IGNORECASE)
    return value


def _time(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
