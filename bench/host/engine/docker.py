"""Jobs in a container: created, followed and removed through the docker SDK.

The container has no network, a read-only root, no capabilities, and writes only to the run
directory, the artefact store and a tmpfs /tmp (mounted exec: both compilers load libraries
that they have just written there). Memory, processes and file sizes are bounded, the disk is
watched. It is removed whatever happens.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import signal
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import cores
from bench.catalog import SPEC_FILE, STORE_VARIABLE, input_variable
from bench.errors import UsageFault
from bench.host import caller, owner
from bench.host.engine.base import Ending, Launch, OnLine
from bench.host.engine.endpoint import engine_errors
from bench.host.engine.limits import Limits, size
from bench.host.engine.pids import PidsLimit
from bench.host.engine.stream import LONGEST_LINE, follow
from bench.host.engine.watch import DiskWatch
from bench.host.interrupts import held

if TYPE_CHECKING:
    from docker import DockerClient

RUN_LABEL = "io.gpt-frontend.run"
OWNER_LABEL = "io.gpt-frontend.owner"  # the host process, see bench/host/owner.py
# A root caller without SUDO_UID: results are chowned back, so that any fixed uid will do.
UNPRIVILEGED_UID = 65532
_RUN_DIR = "/run/gpt-frontend/run"
_STORE = "/run/gpt-frontend/store"
_INPUTS = "/run/gpt-frontend/in"
_STOP_S = 10
# The engine keeps a job's output too, on a disk that nobody watches.
_ENGINE_LOG = {"max-size": "64m", "max-file": "2"}
_PROBE_IMAGE = "gpt-frontend/gpu-probe"

GPU_HINT = (
    "install the NVIDIA driver and the NVIDIA Container Toolkit on the engine's machine, then "
    "`nvidia-ctk runtime configure --runtime=docker` and restart the engine; without a GPU "
    "leave --gpu out"
)


@dataclass(frozen=True)
class Identity:
    """As whom a container runs, and whose the run directory is afterwards (None: it is right)."""

    user: str
    userns_mode: str | None = None
    give_back_to: tuple[int, int] | None = None

    @property
    def owner(self) -> tuple[int, int]:
        uid, gid = self.user.split(":")
        return int(uid), int(gid)


def identity(security_options: list[str], environ: Mapping[str, str]) -> Identity:
    """Who the container must be so that what it writes belongs to the caller.

    Rootless engine: its root is the caller. Otherwise the caller's own uid:gid; a root caller
    is not passed on: sudo's caller stands in, else a fixed uid whose files are chowned back.
    With userns-remap the container is taken out of the mapping, or no uid would be the
    caller's.
    """
    names = {part.removeprefix("name=") for o in security_options for part in o.split(",")}
    if "rootless" in names:
        return Identity("0:0")
    mode = "host" if "userns" in names else None
    if os.getuid() != 0:
        return Identity(f"{os.getuid()}:{os.getgid()}", mode)
    sudo = caller.sudo_caller(environ)
    if sudo is not None:
        return Identity(f"{sudo[0]}:{sudo[1]}", mode, give_back_to=sudo)
    return Identity(f"{UNPRIVILEGED_UID}:{UNPRIVILEGED_UID}", mode, give_back_to=(0, 0))


class DockerEngine:
    """Runs jobs in containers of ``image`` (an image id) on the engine behind ``client``."""

    name = "docker"
    command: tuple[str, ...] = ("python", "-m", "bench.job", f"{_RUN_DIR}/{SPEC_FILE}")

    def __init__(self, client: DockerClient, image: str) -> None:
        self._client = client
        self._image = image

    def run(self, launch: Launch, on_line: OnLine) -> Ending:
        with engine_errors():
            info = self._client.info()
            who = identity(info.get("SecurityOptions") or [], os.environ)
        for limit in _lacking(info, launch.limits):
            on_line(f"note: this engine cannot limit {limit}")
        limits = launch.limits.on(int(info.get("MemTotal") or 0))
        with _lent(launch, who):
            container = None
            over: Ending | None = None
            try:
                disk, pids = DiskWatch(launch), PidsLimit()
                with held(then_raise=True), engine_errors():
                    container = self._create(launch, who, limits)
                with engine_errors():
                    self._start(container, launch)
                    pids.find(container)

                def watch() -> Ending | None:
                    pids.look()
                    return disk()

                over = follow(_lines(container), launch.timeout_s, on_line, watch)
                pids.look()
                # A file that met its limit is the budget's: it is never the larger of the two.
                over = over or disk.look()
                return pids.told(disk.told(over or _ending(container, limits)), limits)
            finally:
                if container is not None:
                    with held():
                        _remove(container, at_once=over is not None and over.cause == "disk budget")

    def _create(self, launch: Launch, who: Identity, limits: Limits) -> Any:
        from docker.errors import APIError
        from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

        gpus = [DeviceRequest(count=-1, capabilities=[["gpu"]])] if launch.gpu else []
        try:
            return self._client.containers.create(
                self._image,
                list(self.command),
                name=f"gpt-frontend-{launch.run_id}",
                labels={RUN_LABEL: launch.run_id, OWNER_LABEL: owner.mine()},
                user=who.user,
                userns_mode=who.userns_mode,
                environment={
                    **container_environment(),
                    **{input_variable(name): f"{_INPUTS}/{name}" for name in launch.inputs},
                },
                mounts=[
                    Mount(_RUN_DIR, str(launch.run_dir), type="bind"),
                    Mount(_STORE, str(launch.store), type="bind"),
                    *(
                        Mount(f"{_INPUTS}/{name}", str(path), type="bind", read_only=True)
                        for name, path in launch.inputs.items()
                    ),
                ],
                tmpfs={"/tmp": f"exec,mode=1777,size={limits.tmp}"},
                read_only=True,
                network_mode="none",
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                mem_limit=limits.memory,
                memswap_limit=limits.memory,  # of memory and swap together: no swap
                pids_limit=limits.pids,
                cpuset_cpus=None if launch.pin is None else cores.listed(launch.pin),
                nano_cpus=None if limits.cpus is None else int(limits.cpus * 1e9),
                ulimits=[
                    Ulimit(name=name, soft=bound, hard=bound)
                    for name, bound in (
                        ("fsize", limits.file or limits.budget),
                        ("core", 0),
                    )
                ],
                log_config=LogConfig(type=LogConfig.types.JSON, config=_ENGINE_LOG),
                init=True,
                device_requests=gpus,
            )
        except APIError as error:
            raise _refused(error) from error

    def _start(self, container: Any, launch: Launch) -> None:
        from docker.errors import APIError

        try:
            container.start()
        except APIError as error:
            raise (_no_gpu(error) if launch.gpu else _refused(error)) from error


def container_environment() -> dict[str, str]:
    """What a container of an unknown uid needs: a home, a name, and places for caches."""
    return {
        "HOME": "/tmp/home",
        "USER": "bench",
        "LOGNAME": "bench",
        "XDG_CACHE_HOME": "/tmp/cache",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/cache/torchinductor",
        "TRITON_CACHE_DIR": "/tmp/cache/triton",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        STORE_VARIABLE: _STORE,
    }


def gpu_refusal(client: DockerClient) -> str | None:
    """Why the engine gives no container a GPU, in its own words; None where it does.

    A container of an empty image is started with a GPU request. An engine with a GPU gets as
    far as finding no program in it; one without stops before.
    """
    from docker.errors import APIError, DockerException
    from docker.types import DeviceRequest

    try:
        _import_empty_image(client)
        container = client.containers.create(
            _PROBE_IMAGE,
            ["/absent"],
            labels={RUN_LABEL: "gpu-probe", OWNER_LABEL: owner.mine()},
            network_mode="none",
            device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])],
        )
    except DockerException as error:
        return str(error)
    try:
        container.start()
    except APIError as error:
        said = str(error.explanation or error)
        return None if "/absent" in said else said
    finally:
        with held():
            _remove(container)
            with contextlib.suppress(DockerException):  # another probe is using it
                client.images.remove(_PROBE_IMAGE)
    return None


def _import_empty_image(client: DockerClient) -> None:
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("gpu-probe"))
    client.api.import_image_from_data(empty.getvalue(), repository=_PROBE_IMAGE, tag="latest")


@contextlib.contextmanager
def _lent(launch: Launch, who: Identity) -> Iterator[None]:
    """Let the container's user write its two directories, and take the run's back afterwards.

    The store stays lent: another run's container may be writing to it.
    """
    if who.give_back_to is None:
        yield
        return
    for directory in (launch.run_dir, launch.store):
        caller.give(directory, who.owner)
    try:
        yield
    finally:
        with held():
            caller.give(launch.run_dir, who.give_back_to)


def _lacking(info: Mapping[str, Any], limits: Limits) -> list[str]:
    """What this engine cannot limit, as a rootless one without cgroups of its own.

    Raises:
        UsageFault: the user named one of these limits.
    """
    lacking = []
    for key, name, named in (
        ("MemoryLimit", "memory", limits.memory is not None),
        ("PidsLimit", "pids", limits.pids != Limits.pids),
        ("CpuCfsQuota", "cpus", limits.cpus is not None),
    ):
        if info.get(key) is not False:
            continue
        if named:
            raise UsageFault(
                f"this engine cannot limit {name}",
                hint=f"leave {name} out, or give the engine cgroups: docs/container.md",
            )
        lacking.append(name)
    return lacking


def _lines(container: Any) -> Iterator[str]:
    """The container's output, line by line, to its end."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    # The engine may stop, or the container be removed by somebody: how it ended is asked next.
    with contextlib.suppress(Exception):
        for chunk in container.logs(stream=True, follow=True):
            *whole, rest = (rest + decoder.decode(chunk)).split("\n")
            yield from (line.rstrip("\r") for line in whole)
            if len(rest) > LONGEST_LINE:
                yield rest
                rest = ""
    if rest:
        yield rest


def _ending(container: Any, limits: Limits) -> Ending:
    from docker.errors import DockerException, NotFound
    from requests.exceptions import RequestException

    try:
        code = int(container.wait(timeout=60)["StatusCode"])
        container.reload()
        state = container.attrs["State"]
    except NotFound:
        return Ending("signal", detail="the container was removed from outside")
    except (DockerException, RequestException) as error:
        return Ending("signal", detail=f"the engine stopped answering ({type(error).__name__})")
    if state.get("OOMKilled"):
        bound = f"over {size(limits.memory or 0)} (--limits memory=)"
        return Ending("out of memory", exit_code=code, detail=bound)
    if code > 128 and code - 128 in {s.value for s in signal.Signals}:
        name = signal.Signals(code - 128).name
        if name == "SIGXFSZ":
            name += f": a file over {size(limits.file or limits.budget)} (--limits file=)"
        return Ending("signal", detail=name)
    return Ending("exited", exit_code=code, detail=state.get("Error") or None)


def remove_abandoned(client: DockerClient) -> list[str]:
    """Remove the containers whose host process is gone, running ones too; gives their names."""
    removed = []
    labelled: dict[str, str | list[str] | bool] = {"label": RUN_LABEL}
    # Another host may be removing them too.
    for container in client.containers.list(all=True, filters=labelled, ignore_removed=True):
        if not owner.alive(container.labels.get(OWNER_LABEL, "")):
            _remove(container)
            removed.append(str(container.name))
    return removed


def _remove(container: Any, *, at_once: bool = False) -> None:
    from docker.errors import APIError
    from requests.exceptions import RequestException

    # It may have ended, somebody may be removing it, or the engine may be gone: the label lets
    # `invoke clean` find what could not be removed.
    with contextlib.suppress(APIError, RequestException):
        if at_once:  # in the seconds that a polite end takes, a disk can be filled
            container.kill()
        else:
            container.stop(timeout=_STOP_S)
    with contextlib.suppress(APIError, RequestException):
        container.remove(force=True, v=True)


def _refused(error: Any) -> UsageFault:
    said = str(error.explanation or error)
    if "CPUs are not available" in said:  # what the engine says of --cpuset-cpus
        return UsageFault(
            f"the engine cannot pin a container to these cores: {said}",
            hint="--pin with some of those that it says are available",
        )
    return UsageFault(
        f"the engine cannot start the container: {error.explanation or error}",
        hint="run `invoke doctor`; `--engine local` needs no container",
    )


def _no_gpu(error: Any) -> UsageFault:
    return no_gpu(str(error.explanation or error))


def no_gpu(said: str) -> UsageFault:
    """The refusal of ``--gpu`` with the engine's own reason and the remedy."""
    return UsageFault(f"the engine has no GPU to give: {said}", hint=GPU_HINT)
