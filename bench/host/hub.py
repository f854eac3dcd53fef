"""Weights from a Hugging Face hub, by commit and checksum, into this user's cache.

    <cache>/<repo>@<commit>/            whole and checked, with origin.json beside its files
    <cache>/<repo>@<commit>.partial/    what a download has brought so far, taken up again

The library of the hub says what a repository holds; the files are fetched by our own downloader,
since the library's drops what it had when it was cut. No token is read and nothing is told of
this machine. Only what a model and its tokenizer need is fetched, and never a pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import checkpoint
from bench.build.fetch import download, lockfile
from bench.build.fetch.fault import Fault, Passing
from bench.build.fetch.patience import Patience
from bench.errors import UsageFault
from bench.host.pins import WeightsPin

SCHEME = "hf:"
ENDPOINT_VARIABLE = "HF_ENDPOINT"
OFFLINE_VARIABLE = "HF_HUB_OFFLINE"
ORIGIN = "origin.json"

_ENDPOINT = "https://huggingface.co"
_TIMEOUT_S = 30.0
_NAME = re.compile(r"hf:([A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "merges.txt")
_SMALL_MIB = 64  # what is kept in git itself and not in its large file storage

Say = Callable[[str], None]


@dataclass(frozen=True)
class Fetched:
    """A checkpoint in the cache, checked just now. ``digest`` is ``bench.checkpoint.digest``."""

    directory: Path
    digest: str
    repo: str
    commit: str


@dataclass(frozen=True)
class HubFile:
    """A file as the hub describes it: of large ones the sha256, of all git's own sum, ``blob``."""

    name: str
    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class Repository:
    """What was asked for: ``revision`` may be a branch; ``sha256`` is of model.safetensors."""

    repo: str
    revision: str
    sha256: str | None = None

    @property
    def by_hand(self) -> str:
        return (
            f"bring it by hand: on a machine that reaches the hub, download {self.repo} at "
            f"{self.revision}, copy the directory here and name it: --weights PATH"
        )


def named(text: str, pinned: Mapping[str, WeightsPin]) -> Repository:
    """What ``hf:NAME`` or ``hf:NAME@REVISION`` means.

    Raises:
        UsageFault: it is no such name.
    """
    found = _NAME.fullmatch(text)
    if not found:
        raise UsageFault(
            f"{text!r} is no name of weights on a hub",
            hint=f"hf:NAME or hf:OWNER/NAME, with @REVISION if wanted; pinned: {', '.join(pinned)}",
        )
    name, revision = found.groups()
    for short, pin in pinned.items():
        if name in (short, pin.repo):
            if revision in (None, pin.revision):
                return Repository(pin.repo, pin.revision, pin.sha256)
            return Repository(pin.repo, revision)
    return Repository(name, revision or "main")


def fetch(
    wanted: Repository, cache: Path, environ: Mapping[str, str], patience: Patience, say: Say
) -> Fetched:
    """The repository's model in the cache; asks the hub only for what is not there.

    Raises:
        UsageFault: the hub is not reachable or does not have it, what it has cannot be used, a
            checksum is wrong, or the cache cannot be written.
    """
    try:
        if _COMMIT.fullmatch(wanted.revision):
            there = _cached(cache, wanted.repo, wanted.revision)
            if there is not None:
                return there
        commit, listing = _listing(wanted, cache, environ)
        directory = _place(cache, wanted.repo, commit)
        with lockfile.held(directory.with_name(f"{directory.name}.lock"), say, wanted.repo):
            there = _cached(cache, wanted.repo, commit)
            if there is not None:
                return there
            if directory.exists():
                say(f"{wanted.repo}: in the cache, but damaged: fetching it anew")
                shutil.rmtree(directory)
            return _download(wanted, commit, listing, directory, environ, patience, say)
    except Fault as fault:
        raise UsageFault(fault.message, hint=wanted.by_hand) from fault
    except OSError as error:
        raise UsageFault(
            f"cannot keep weights in {cache}: {error.strerror or error}",
            hint="name a folder that may be written, with free space: XDG_CACHE_HOME=DIR",
        ) from error


def _cached(cache: Path, repo: str, commit: str) -> Fetched | None:
    """The finished directory, if its content is still what it was."""
    directory = _place(cache, repo, commit)
    try:
        origin = json.loads((directory / ORIGIN).read_bytes())
        small = {str(name): str(sha256) for name, sha256 in origin["small"].items()}
        digest = checkpoint.digest(directory)
        whole = digest == origin["digest"] and all(
            download.sum_of(directory / name) == sha256 for name, sha256 in small.items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, UsageFault):
        return None  # not there, or damaged
    return Fetched(directory, digest, repo, commit) if whole else None


def _listing(
    wanted: Repository, cache: Path, environ: Mapping[str, str]
) -> tuple[str, dict[str, HubFile]]:
    """The commit behind the revision, and the files of it that we take."""
    endpoint = _endpoint(environ)
    if environ.get(OFFLINE_VARIABLE, "").upper() in ("1", "ON", "YES", "TRUE"):
        raise _unreachable(wanted, cache, endpoint, f"{OFFLINE_VARIABLE} is set")
    # Here, not above: importing it takes a second, and most runs need no hub.
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub import errors as hub

    # Otherwise the client reports the versions of packages, and asks the hub what else to report.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    api = HfApi(endpoint=endpoint, token=False, library_name="gpt-frontend")
    try:
        info = api.model_info(
            wanted.repo, revision=wanted.revision, files_metadata=True, timeout=_TIMEOUT_S
        )
        files = [
            HubFile(
                name=str(one.rfilename),
                size=int(one.size or 0),
                sha256=None if one.lfs is None else str(one.lfs.sha256),
                blob=None if one.blob_id is None else str(one.blob_id),
            )
            for one in info.siblings or ()
        ]
        commit = str(info.sha)
    except hub.GatedRepoError as error:
        raise UsageFault(
            f"{wanted.repo} on {endpoint} is only for who has agreed to its terms",
            hint=wanted.by_hand,
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise UsageFault(
            f"{endpoint} has no repository {wanted.repo}, or keeps it private",
            hint="look at the spelling: hf:OWNER/NAME",
        ) from error
    except hub.RevisionNotFoundError as error:
        raise UsageFault(
            f"{wanted.repo} on {endpoint} has no revision {wanted.revision}",
            hint="name a branch, a tag or a commit: hf:OWNER/NAME@REVISION",
        ) from error
    except hub.HFValidationError as error:
        raise UsageFault(
            f"{wanted.repo} is no name of weights on a hub", hint="hf:OWNER/NAME"
        ) from error
    except hub.HfHubHTTPError as error:
        status = error.response.status_code
        why = f"{error.response.reason_phrase}".strip()
        raise _unreachable(wanted, cache, endpoint, f"it answered {status} {why}") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise _unreachable(wanted, cache, endpoint, str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"what answers there is no hub ({error})"
        raise _unreachable(wanted, cache, endpoint, why) from error
    if not _COMMIT.fullmatch(commit):
        raise _unreachable(wanted, cache, endpoint, f"it states the commit {commit!r}")
    return commit, _taken(wanted, {one.name: one for one in files})


def _taken(wanted: Repository, files: Mapping[str, HubFile]) -> dict[str, HubFile]:
    """The files that a model and its tokenizer need.

    Raises:
        UsageFault: there is no config.json, or no weights but pickles.
    """
    if checkpoint.CONFIG not in files:
        raise UsageFault(
            f"{wanted.repo} has no {checkpoint.CONFIG}", hint="it is no model that can be loaded"
        )
    shards = [name for name in files if _SHARD.fullmatch(name)]
    if checkpoint.WEIGHTS in files:
        weights = [checkpoint.WEIGHTS]
    elif checkpoint.INDEX in files and shards:
        weights = [checkpoint.INDEX, *sorted(shards)]
    else:
        raise UsageFault(
            f"{wanted.repo} at {wanted.revision} has no {checkpoint.WEIGHTS}; other formats are "
            "not opened, since pickles can run any code",
            hint=checkpoint.CONVERT,
        )
    beside = [name for name in _TOKENIZERS if name in files]
    return {name: files[name] for name in [checkpoint.CONFIG, *beside, *weights]}


def _download(
    wanted: Repository,
    commit: str,
    listing: Mapping[str, HubFile],
    directory: Path,
    environ: Mapping[str, str],
    patience: Patience,
    say: Say,
) -> Fetched:
    """Fetch every file, check it, and give the directory its name."""
    partial = directory.with_name(f"{directory.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    _check_space(wanted, partial, listing)
    small: dict[str, str] = {}
    for name, file in listing.items():
        url = f"{_endpoint(environ)}/{wanted.repo}/resolve/{commit}/{name}"
        path = partial / name
        pinned = wanted.sha256 if name == checkpoint.WEIGHTS else None
        if pinned and file.sha256 and file.sha256 != pinned:
            raise UsageFault(
                f"{wanted.repo}: the hub states another checksum for {name} than docker/pins.toml: "
                f"sha256 {file.sha256}, expected {pinned}",
                hint=wanted.by_hand,
            )
        sha256 = pinned or file.sha256
        if sha256:
            if not path.is_file() or download.sum_of(path) != sha256:
                asked = download.Wanted(url, sha256, url)
                opener = download.opener_for(url, environ)
                download.obtain(asked, partial / "parts", patience, opener, say).replace(path)
        elif file.blob:
            path.write_bytes(_small(url, file, environ, patience, say))
        else:
            raise UsageFault(
                f"{wanted.repo}: the hub states no checksum for {name}", hint=wanted.by_hand
            )
        if name == checkpoint.CONFIG:
            checkpoint.geometry(partial)  # before gigabytes are fetched for nothing
        if name in _TOKENIZERS:
            small[name] = download.sum_of(path)
    shutil.rmtree(partial / "parts", ignore_errors=True)
    digest = checkpoint.digest(partial)
    origin = {"repo": wanted.repo, "revision": commit, "digest": digest, "small": small}
    (partial / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    partial.rename(directory)
    return Fetched(directory, digest, wanted.repo, commit)


def _small(
    url: str, file: HubFile, environ: Mapping[str, str], patience: Patience, say: Say
) -> bytes:
    """The content of a file that git keeps itself, checked by git's own sum.

    Raises:
        Fault: it cannot be had, or is another file.
    """
    opener = download.opener_for(url, environ)

    def attempt(_number: int) -> bytes:
        try:
            with opener.open(url, timeout=_TIMEOUT_S) as answer:
                content: bytes = answer.read(_SMALL_MIB * 2**20 + 1)
        except urllib.error.HTTPError as error:
            error.close()
            why = f"{file.name}: the server answered {error.code} {error.reason}"
            passing = error.code in download.PASSING_STATUS
            raise (Passing(why) if passing else Fault(why)) from error
        except (OSError, ValueError) as error:
            raise Passing(f"{file.name}: {error}") from error
        if len(content) < file.size:
            raise Passing(f"{file.name}: the connection ended after {len(content)} bytes")
        return content

    content = patience.run(file.name, attempt, say)
    # A file's name in git: sha1, here no protection against forgery, only against damage.
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False)
    if blob.hexdigest() != file.blob:
        raise Fault(f"{url}: wrong checksum: git's sum is {blob.hexdigest()}, expected {file.blob}")
    return content


def _check_space(wanted: Repository, partial: Path, listing: Mapping[str, HubFile]) -> None:
    there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    needed = sum(file.size for file in listing.values()) - there
    free = shutil.disk_usage(partial).free
    if free < needed:
        raise UsageFault(
            f"{wanted.repo} needs {needed / 1e6:.0f} MB more in {partial.parent}, {free / 1e6:.0f} "
            "MB are free",
            hint="make room, or name another folder: XDG_CACHE_HOME=DIR",
        )


def _endpoint(environ: Mapping[str, str]) -> str:
    return (environ.get(ENDPOINT_VARIABLE) or _ENDPOINT).rstrip("/")


def _place(cache: Path, repo: str, commit: str) -> Path:
    return cache / f"{repo}@{commit}"


def _unreachable(wanted: Repository, cache: Path, endpoint: str, why: str) -> UsageFault:
    hint = wanted.by_hand
    place = _place(cache, wanted.repo, "")
    with contextlib.suppress(OSError):
        for path in sorted(place.parent.glob(f"{place.name}*")):
            commit = path.name.rpartition("@")[2]
            if _COMMIT.fullmatch(commit) and commit != wanted.revision:
                hint = f"in the cache there is {SCHEME}{wanted.repo}@{commit}; or {hint}"
                break
    return UsageFault(f"the hub {endpoint} is not reachable: {why}", hint=hint)
