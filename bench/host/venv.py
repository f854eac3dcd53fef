"""Make the project's virtual environment from the hashed locks: `make setup`.

Runs as a script on the system's Python before anything is installed. So it imports nothing but the
standard library, not even bench, and its syntax is that of Python 3.6 (annotations that 3.6 cannot
evaluate stand in quotes): an old Python must get far enough to say which one is needed.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from typing import NamedTuple

OLDEST, NEWEST = (3, 10), (3, 13)
MACHINES = ("x86_64", "aarch64")
OLDEST_GLIBC = (2, 28)  # of the torch wheels' platform tag, manylinux_2_28
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LOCKS = os.path.join(ROOT, "docker", "locks")
STAMP = ".gpt-frontend-lock"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_TIMEOUT_S = 5
SHOWN_LINES = 15
# Settings of the caller's that would send packages elsewhere than into the new environment, or
# forbid some of them.
UNWANTED = re.compile(r"PIP_(USER|TARGET|PREFIX|ROOT|PYTHON|CONSTRAINT|REQUIREMENT|NO_BINARY)$")
# What pip says, and what to do about it; the first that matches counts.
SETTINGS = "pip's index settings (pip config list, PIP_FIND_LINKS)"
REMEDIES = (
    ("No space left", "free some disk space; then: make setup"),
    ("CERTIFICATE_VERIFY|SSLError", "name your CA bundle: export PIP_CERT=/path/to/ca.pem"),
    (
        "[Nn]ame ?[Rr]esolution|NewConnection|ConnectionError|Connection (refused|reset)"
        "|timed out|ProxyError|Max retries",
        "check the network and the proxy (https_proxy); then: make setup",
    ),
    ("DO NOT MATCH THE HASHES", f"what is offered is not what is locked: check {SETTINGS}"),
    ("No matching distribution", f"check the network, the proxy (https_proxy) and {SETTINGS}"),
)


class Fault(Exception):
    """An expected failure: what is wrong, what to do about it, and a command's last lines."""

    def __init__(self, message: str, hint: str, output: "tuple[str, ...]" = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.output = output


# --- prerequisites ---


def check_python(version: "tuple[int, ...]", executable: str) -> None:
    """Raise Fault unless the locks cover this Python."""
    if not OLDEST <= version[:2] <= NEWEST:
        raise Fault(
            f"Python 3.{OLDEST[1]} to 3.{NEWEST[1]} is needed, "
            f"this is {version[0]}.{version[1]} ({executable})",
            f"name another one, for example: make setup PYTHON=python3.{NEWEST[1]}",
        )


def check_platform(system: str, machine: str, libc: str) -> None:
    """Raise Fault where TVM and torch have no wheels. libc is like `glibc 2.36`."""
    version = tuple(int(number) for number in re.findall(r"(?<=[ .])\d+", libc))
    glibc_fits = libc.startswith("glibc") and version >= OLDEST_GLIBC
    if system != "Linux" or machine not in MACHINES or not glibc_fits:
        raise Fault(
            f"no wheels of TVM and torch for {system}, {machine}, {libc or 'unknown C library'}",
            f"use Linux on {' or '.join(MACHINES)} with glibc 2.{OLDEST_GLIBC[1]} or newer: "
            "Debian 10, Ubuntu 20.04 and later",
        )


def libc_version() -> str:
    """The C library as `glibc 2.36`; empty where it does not say, as musl does not."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ""


def apt_python() -> str:
    """Debian's name for this Python: python3 is one version, any other is called by its number."""
    name = f"python3.{sys.version_info[1]}"
    is_default = os.path.basename(os.path.realpath("/usr/bin/python3")) == name
    return "python3" if is_default or not os.path.lexists("/usr/bin/" + name) else name


def missing_packages() -> "list[str]":
    """The Debian packages whose programs are needed and not there."""
    from importlib.util import find_spec

    missing = [name for name in ("git", "g++") if shutil.which(name) is None]
    # Debian's python3 comes without ensurepip: `python3 -m venv` starts, and then fails half way.
    if find_spec("ensurepip") is None:
        missing.append(f"{apt_python()}-venv")
    # torch.compile's generated C++ includes Python.h, at run time.
    if not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")):
        missing.append(f"{apt_python()}-dev")
    return missing


def check_prerequisites() -> None:
    """Raise Fault, naming the remedy, for the first prerequisite that is not met."""
    check_python(sys.version_info[:2], sys.executable)
    check_platform(os.uname().sysname, os.uname().machine, libc_version())
    missing = missing_packages()
    if missing:
        sudo, python = "" if os.geteuid() == 0 else "sudo ", apt_python()
        raise Fault(
            f"missing: {', '.join(missing)}",
            f"{sudo}apt-get install -y git make {python} {python}-venv {python}-dev g++",
        )


# --- the stamp: what the environment was made from ---


def read_lock(name: str) -> str:
    """The text of a file of docker/locks."""
    try:
        with open(os.path.join(LOCKS, name), encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise Fault(f"cannot read a lock: {error}", "git checkout docker/locks") from None


def stamp_for(venv: str, kind: str) -> "dict[str, str]":
    """What a complete environment at `venv` with torch build `kind` (cpu or cuda) is made of."""
    names = ["requirements.txt", "tvm.txt", "torch.txt"] + ["torch-cuda.txt"] * (kind == "cuda")
    return {
        "locks": hashlib.sha256("".join(map(read_lock, names)).encode()).hexdigest(),
        "torch": kind,
        "python": f"3.{sys.version_info[1]}",
        # A Python that was removed or replaced by its successor leaves a link to another file;
        # a moved environment has programs whose first line names the old place.
        "interpreter": os.path.realpath(venv_python(venv)),
        "place": venv,
    }


def venv_python(venv: str) -> str:
    """The path of the environment's Python."""
    return os.path.join(venv, "bin", "python")


def is_current(venv: str, wanted: str) -> bool:
    """Whether `venv` is complete, made from these locks, and has the wanted torch build."""
    try:
        with open(os.path.join(venv, STAMP), encoding="utf-8") as file:
            stamp = json.load(file)
        kind = stamp["torch"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if kind not in ("cpu", "cuda") or wanted not in ("auto", kind):
        return False
    return bool(stamp == stamp_for(venv, kind)) and os.access(venv_python(venv), os.X_OK)


def write_stamp(venv: str, kind: str) -> None:
    """Declare the environment complete. By rename, so that a stamp is never half there."""
    path = os.path.join(venv, STAMP)
    with open(path + ".partial", "w", encoding="utf-8") as file:
        json.dump(stamp_for(venv, kind), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".partial", path)


# --- which torch ---


class Torch(NamedTuple):
    """The torch build to install: cpu or cuda, a line that says why, and pip's arguments for it."""

    kind: str
    source: str
    arguments: "tuple[str, ...]" = ()


def torch_version() -> str:
    """The version that torch.txt pins."""
    found = re.search(r"^torch==([\w.]+)", read_lock("torch.txt"), re.MULTILINE)
    if found is None:
        raise Fault("docker/locks/torch.txt does not pin torch", "git checkout docker/locks")
    return found.group(1)


def cpu_build_is_locked(tag: str, machine: str) -> bool:
    """Whether the hash of torch's CPU wheel for this Python tag and machine is known."""
    lines = read_lock("torch-cpu-hashes.txt").splitlines()
    return any(line.startswith(f"{tag} {machine} ") for line in lines)


def pip_settings(listing: str) -> "tuple[list[str], bool]":
    """(find-links, no-index) from the output of `pip config list`: files and PIP_* variables."""
    from ast import literal_eval

    values = dict.fromkeys(("find-links", "no-index"), "")
    for section, key, value in re.findall(r"^(.+)\.([\w-]+)=(.*)$", listing, re.MULTILINE):
        if section in ("global", "install", ":env:") and key in values:
            values[key] += f" {literal_eval(value)}"
    no_index = re.search(r"\b(1|true|yes|on|t|y)\b", values["no-index"].lower())
    return values["find-links"].split(), no_index is not None


def fetch(url: str, method: str = "GET") -> "str | None":
    """A page's text (empty for a HEAD), or None when it does not answer in a few seconds.

    urllib takes the proxy variables into account; the CA bundle is where pip, requests or OpenSSL
    would look for it.
    """
    import ssl
    from urllib.request import Request, urlopen

    bundles = [os.environ.get(name) for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")]
    bundle = next((path for path in bundles if path and os.path.isfile(path)), None)
    try:
        context = ssl.create_default_context(cafile=bundle)
        request = Request(url, method=method)
        with urlopen(request, timeout=PROBE_TIMEOUT_S, context=context) as answer:
            return str(answer.read(5_000_000).decode("utf-8", "replace"))
    except (OSError, ValueError):
        return None


def find_wheel(links: "list[str]", tag: str, machine: str) -> "str | None":
    """The first of pip's find-links, directories or pages, that has torch's CPU wheel."""
    version = re.escape(torch_version())
    pattern = rf"torch-{version}(\+|%2B)cpu-{tag}-{tag}-\w*linux_\w*{machine}\.whl"
    for link in links:
        if re.match("https?://", link):
            names = [fetch(link) or ""]
        else:
            place = re.sub("^file://(localhost)?", "", link)
            names = os.listdir(place) if os.path.isdir(place) else []
        if any(re.search(pattern, name) for name in names):
            return link
    return None


def choose_torch(wanted: str, tag: str, machine: str, pip_listing: str) -> Torch:
    """The CPU build where one is offered, since PyPI's brings several GB of CUDA libraries."""
    if wanted == "cuda":
        return Torch("cuda", "PyPI's CUDA build, several GB, as asked for")
    if cpu_build_is_locked(tag, machine):
        links, no_index = pip_settings(pip_listing)
        place = find_wheel(links, tag, machine)
        if place is not None:
            return Torch("cpu", f"CPU build from {place}")
        if not no_index and fetch(f"{CPU_INDEX}/torch/", "HEAD") is not None:
            return Torch("cpu", "CPU build from PyTorch's index", ("--extra-index-url", CPU_INDEX))
        if wanted == "cpu":  # a mirror that pip is set up for may have it all the same
            return Torch("cpu", "CPU build, from wherever pip is set up to look")
        why = "PyTorch's CPU index does not answer"
        wheel = f"torch-{torch_version()}+cpu-{tag}-{tag}-manylinux_2_28_{machine}.whl"
        remedy = f"set PIP_FIND_LINKS to a directory with {wheel}"
    else:
        why = f"the hash of torch's CPU build is not known for {tag} on {machine}"
        remedy = f"make setup PYTHON=python3.{NEWEST[1]}"
        if wanted == "cpu":
            raise Fault(why, remedy)
    return Torch("cuda", f"PyPI's CUDA build, several GB: {why}. To avoid it: {remedy}")


def torch_requirement(kind: str) -> str:
    """torch.txt, narrowed to one build: `==2.13.0` alone is met by 2.13.0 and 2.13.0+cpu alike."""
    version = torch_version()
    pin = f"torch=={version}+cpu" if kind == "cpu" else f"torch==={version}"
    return read_lock("torch.txt").replace(f"torch=={version}", pin, 1)


# --- installing ---


def run(argv: "list[str]", what: str) -> str:
    """Run a command and give its output. Raises Fault with the last lines if it fails."""
    env = {key: value for key, value in os.environ.items() if not UNWANTED.match(key)}
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    )
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        hints = [remedy for cause, remedy in REMEDIES if re.search(cause, output)]
        raise Fault(
            f"{what}: exit code {done.returncode}",
            next(iter(hints), "see the lines above; then: make setup"),
            tuple(output.rstrip().splitlines()[-SHOWN_LINES:]),
        )
    return output


def stage(label: str, argv: "list[str]") -> None:
    """Run one step of the installation and print how long it took."""
    print(f"  {label:<42}", end="", flush=True)
    start = time.monotonic()
    try:
        run(argv, label)
    except BaseException:
        print(flush=True)
        raise
    print(f"{time.monotonic() - start:6.1f} s", flush=True)


def check_place(venv: str) -> None:
    """Raise Fault rather than clear a directory that is not a virtual environment."""
    if os.path.isfile(os.path.join(venv, "pyvenv.cfg")) or not os.path.lexists(venv):
        return
    if not os.path.isdir(venv) or any(files for _, _, files in os.walk(venv)):
        raise Fault(
            f"{venv} is there and is not a virtual environment",
            "move it away, or name another place with --venv",
        )


def install(venv: str, wanted: str, tvm: str = "tvm.txt") -> None:
    """Make the environment afresh: what the locks no longer name must not linger in it.

    `tvm` is the lock with TVM's wheels, or with what TVM needs where it is built from source.
    """
    check_place(venv)
    print(f"{venv}: Python 3.{sys.version_info[1]}.{sys.version_info[2]}", flush=True)
    # Called from within the environment itself, the Python it was made from makes the new one.
    base = getattr(sys, "_base_executable", None) or sys.executable
    stage("virtual environment", [base, "-I", "-m", "venv", "--clear", venv])
    pip = [venv_python(venv), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    listing = run([*pip, "config", "list"], "pip config list")
    torch = choose_torch(wanted, f"cp3{sys.version_info[1]}", os.uname().machine, listing)
    print(f"  torch: {torch.source}", flush=True)
    narrowed = os.path.join(venv, f"torch-{torch.kind}.txt")
    with open(narrowed, "w", encoding="utf-8") as file:
        file.write(torch_requirement(torch.kind))
    pip += ["install", "--quiet", "--progress-bar", "off", "--no-user", "--no-deps"]
    pip += ["--require-hashes", "--only-binary", ":all:", "-r"]
    stage("packages", [*pip, os.path.join(LOCKS, "requirements.txt")])
    stage("TVM", [*pip, os.path.join(LOCKS, tvm)])
    stage(f"torch {torch_version()} ({torch.kind})", [*pip, narrowed, *torch.arguments])
    if torch.kind == "cuda":
        stage("CUDA packages", [*pip, os.path.join(LOCKS, "torch-cuda.txt")])
    os.remove(narrowed)
    write_stamp(venv, torch.kind)


def set_up(venv: str, wanted: str, check_only: bool) -> None:
    """Bring the environment up to date; do and print nothing where it is."""
    check_prerequisites()
    if is_current(venv, wanted):
        return
    if check_only:
        raise Fault(f"{venv} is not up to date", "make setup")
    import fcntl

    # Two at once would clear each other's work. The lock is on a file that is there anyway.
    with open(os.path.abspath(__file__), encoding="utf-8") as file:
        with contextlib.suppress(OSError):  # a network file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if not is_current(venv, wanted):
            install(venv, wanted)


def main(arguments: "list[str] | None" = None) -> int:
    """The command line. Exit code 0, 2 for an expected failure, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="venv.py", description="Make the environment.")
    parser.add_argument("--venv", default=os.path.join(ROOT, ".venv"), help="where (.venv)")
    parser.add_argument("--torch", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--check", action="store_true", help="install nothing; exit 2 if needed")
    options = parser.parse_args(arguments)
    try:
        set_up(os.path.abspath(options.venv), options.torch, options.check)
    except (Fault, OSError) as error:
        fault = error if isinstance(error, Fault) else Fault(str(error), "see to it; make setup")
        lines = [f"error: {fault}", *(f"  | {line}" for line in fault.output)]
        print("\n".join([*lines, f"hint: {fault.hint}"]), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted\nhint: make setup starts afresh", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # This file's folder heads the module path of a script, where its name hides the standard venv.
    del sys.path[0]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
