"""A base image without a registry: debootstrap's tree, cleaned and imported into the engine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import JobFailed, UsageFault
from bench.host import apt, layout
from bench.host.engine.endpoint import Endpoint
from bench.host.pins import Pins, load

SCRIPTS = Path("/usr/share/debootstrap/scripts")
LABEL = "io.gpt-frontend.base-image"
STOP_TIMEOUT_S = 10
LOG_LINES = 15

# What debootstrap writes that is this machine's, or differs from one making to the next.
LEFTOVERS = (
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/*",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/*-old",
    "var/log/*",
)

Progress = Callable[[str], None]


def make(
    endpoint: Endpoint, suite: str | None, progress: Progress, pins: Pins | None = None
) -> str:
    """Make the base image for a Debian suite (None: the one in pins.toml) and give its tag.

    Raises:
        UsageFault: not root, or debootstrap is missing, or it does not know the suite.
        JobFailed: debootstrap or the import failed; nothing is left behind.
    """
    pins = pins or load()
    wanted, epoch = pins.base_image, pins.defaults.source_date_epoch
    suite = suite or wanted.suite
    tag = wanted.tag if suite == wanted.suite else f"{wanted.tag.partition(':')[0]}:{suite}"
    script = _check(suite)
    public = public_mirror(script)
    mirror = host_mirror() or public
    with _scratch_tree() as tree:
        progress(f"debootstrap {suite}")
        argv = ["debootstrap", f"--variant={wanted.variant}", suite, str(tree), mirror]
        _debootstrap(argv, epoch)
        progress("cleaning the tree")
        clean(tree, suite, mirror, public)
        progress(f"importing {tag}")
        _import(endpoint, tree, tag, suite, epoch)
    return tag


def _check(suite: str) -> Path:
    """The debootstrap program, if this user can run it for this suite."""
    if shutil.which("docker") is None:
        raise UsageFault("the docker program is missing", hint="sudo make engine, or install it")
    program = shutil.which("debootstrap") or shutil.which("debootstrap", path="/usr/sbin:/sbin")
    if program is None:
        raise UsageFault("debootstrap is not installed", hint="sudo apt-get install -y debootstrap")
    if os.geteuid() != 0:
        raise UsageFault(
            "making a base image needs root: debootstrap sets up a root file system",
            hint="sudo .venv/bin/invoke base-image",
        )
    if not re.fullmatch("[a-z]+", suite) or not Path(SCRIPTS, suite).exists():
        raise UsageFault(
            f"debootstrap does not know the suite {suite!r}",
            hint="a Debian release's code name, for example bookworm or trixie",
        )
    return Path(program)


def public_mirror(debootstrap: Path) -> str:
    """Debian's public mirror, as the debootstrap program has it.

    Raises:
        UsageFault: the program has none; it is not the one that Debian and Ubuntu ship.
    """
    found = re.search(r'^DEF_MIRROR="(https?://\S+?)/?"', debootstrap.read_text(), re.MULTILINE)
    if found is None:
        raise UsageFault(
            f"{debootstrap} names no default mirror",
            hint="sudo apt-get install -y --reinstall debootstrap",
        )
    return found[1]


def host_mirror(etc: Path = apt.ETC) -> str | None:
    """The mirror that a Debian machine itself uses: perhaps the only one that it reaches."""
    here = apt.release(etc)
    if here is None or here.distribution != "debian":
        return None
    uris = [entry.uri for entry in apt.own_entries(etc) if entry.suite == here.suite]
    return uris[0].rstrip("/") if uris else None


@contextmanager
def _scratch_tree() -> Iterator[Path]:
    """A directory for a root file system; whatever is mounted in it is unmounted before removal."""
    scratch = Path(tempfile.mkdtemp(prefix="gpt-frontend-base-"))
    # The root directory of the image has the mode of this one.
    tree = scratch / "root"
    tree.mkdir(mode=0o755)
    tree.chmod(0o755)
    try:
        yield tree
    finally:
        for target in mounts_under(scratch):
            subprocess.run(["umount", "--lazy", target], check=True)
        shutil.rmtree(scratch)


def mounts_under(folder: Path, table: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """What is mounted under a folder, the deepest first."""
    targets = (line.split()[4] for line in table.read_text().splitlines())
    return sorted((target for target in targets if target.startswith(f"{folder}/")), reverse=True)


def _debootstrap(argv: list[str], epoch: int) -> None:
    # In a session of its own, so that Ctrl-C ends it here, once, with all that it started.
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={
            **os.environ,
            "LC_ALL": "C",
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            # What makes users writes the day into /etc/shadow.
            "SOURCE_DATE_EPOCH": str(epoch),
        },
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    if process.returncode != 0:
        tail = "\n".join(f"  | {line}" for line in output.splitlines()[-LOG_LINES:])
        raise JobFailed(
            f"debootstrap failed, exit code {process.returncode}\n{tail}",
            hint="check the network and the proxy (http_proxy), and the space under the temporary "
            "directory (900 MB)",
        )


def clean(tree: Path, suite: str, mirror: str, public: str) -> None:
    """Leave nothing of this machine in the tree: its names, its logs, its mirror.

    Raises:
        JobFailed: the mirror's name is still in some file.
    """
    for pattern in LEFTOVERS:
        for path in tree.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    # An empty one makes the container's own unique; a missing one is an error to some programs.
    (tree / "etc" / "machine-id").touch(mode=0o444)
    sources = tree / "etc" / "apt" / "sources.list"
    sources.write_text(sources_for(suite, public), encoding="utf-8")
    if mirror != public:
        left = mentions(tree, mirror.partition("://")[2].partition("/")[0])
        if left:
            raise JobFailed(
                f"the local mirror is still named in {', '.join(left)}",
                hint="please report this: the base image must not carry it",
            )


def sources_for(suite: str, public: str) -> str:
    """sources.list with the release, its updates and its security updates."""
    security = public.removesuffix("/debian") + "/debian-security"
    lines = [
        f"deb {public} {suite} main",
        f"deb {public} {suite}-updates main",
        f"deb {security} {suite}-security main",
    ]
    return "\n".join([*lines, ""])


def mentions(tree: Path, word: str) -> list[str]:
    """The files of a tree that contain a word, as paths within it."""
    found = []
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink() and word.encode() in path.read_bytes():
                found.append(str(path.relative_to(tree)))
    return found


def _import(endpoint: Endpoint, tree: Path, tag: str, suite: str, epoch: int) -> None:
    # Sorted, with one date and with numbers for names: the same files make the same layer.
    layer = tree.with_name("layer.tar")
    tar = ["tar", "--create", "--sort=name", f"--mtime=@{epoch}", "--numeric-owner", "--xattrs"]
    # With attributes come the times of a look and of a change, and tar's own process id.
    tar.append("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime")
    tar += ["--file", str(layer), "--directory", str(tree), "."]
    packed = subprocess.run(tar, capture_output=True, text=True)
    if packed.returncode != 0:
        raise _not_imported(packed.stderr or f"tar: exit code {packed.returncode}")
    # Loaded and not imported: the engine would date what it imports, and so change its digest.
    whole = tree.with_name("image.tar")
    layout.write(whole, layer, tag, epoch, {LABEL: suite}, f"debootstrap {suite}")
    done = subprocess.run(
        ["docker", "load", "--quiet", "--input", str(whole)],
        capture_output=True,
        text=True,
        env=endpoint.cli_environ(os.environ),
    )
    if done.returncode != 0:
        raise _not_imported(done.stderr)


def _not_imported(said: str) -> JobFailed:
    return JobFailed(
        f"the engine did not take the base image: {said.strip().splitlines()[-1]}",
        hint="is there space where the engine keeps its images, and 700 MB under the temporary "
        "directory? docker system df",
    )
