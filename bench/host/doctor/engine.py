"""The Docker engine: whether it answers, of what kind it is, and what it can build and hold."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bench.errors import BenchError
from bench.host.doctor.finding import Finding, note, ok
from bench.host.doctor.scene import Scene

GIB = 2**30
ROOTS = {"containerd": "/var/lib/containerd"}
# Named build contexts came with buildx 0.8; here-documents and contexts in the frontend that an
# engine brings itself (no syntax line) with BuildKit 0.10, which is in Docker Engine 23.0.
LEAST_BUILDX = (0, 8)
LEAST_BUILDKIT = (0, 10)
LEAST_ENGINE = (23, 0)
INSTALL = "sudo make engine; or https://docs.docker.com/engine/install"
NO_ENGINE = "without a Docker engine jobs run in this environment (--engine local)"


def check_engine(scene: Scene) -> Finding:
    found = scene.engine_or_fault
    if isinstance(found, BenchError):
        return _absent(scene, found)
    kinds = []
    if scene.rootless:
        kinds.append("rootless")
    if scene.desktop:
        kinds.append("Docker Desktop")
    kind = "".join(f"{name}, " for name in kinds)
    return ok("engine", f"{found.info['ServerVersion']} at {found.url} ({kind}{found.source})")


def check_snap(scene: Scene) -> list[Finding]:
    """Docker from the snap store is confined: nothing of it is wrong until a build needs a path."""
    if not scene.snap:
        return []
    listed = scene.host.run(["snap", "list", "docker"]).out.splitlines()
    version = " ".join(listed[-1].split()[:2]) if len(listed) > 1 else "docker"
    return [
        note(
            "snap",
            f"Docker is the snap package ({version})",
            "it is confined: it sees no path outside the home folder, none that begins with a dot, "
            "and neither the NVIDIA driver nor /usr/lib/wsl",
            "sudo snap remove --purge docker (this deletes its images), then sudo make engine or "
            "https://docs.docker.com/engine/install",
        )
    ]


def check_buildx(scene: Scene) -> Finding:
    done = scene.host.run(["docker", "buildx", "version"])
    packages = "sudo apt-get install docker-buildx (Debian, Ubuntu) or docker-buildx-plugin"
    if done.code != 0:
        return Finding(
            "buildx",
            scene.for_image,
            "`docker buildx` does not answer",
            "images are built with it: the docker SDK cannot use BuildKit",
            f"{packages} (docker.com)",
        )
    version = _version(done.out.partition(" ")[2])
    if version is not None and version < LEAST_BUILDX:
        return Finding(
            "buildx",
            scene.for_image,
            done.out.strip(),
            "named build contexts need buildx 0.8",
            f"{packages} (docker.com), newer",
        )
    return ok("buildx", done.out.strip())


def check_buildkit(scene: Scene) -> Finding:
    """The BuildKit in the engine: what it says of itself, else what its engine's version implies.

    Debian's package says `v0.0.0+unknown`.
    """
    engine = scene.engine
    if engine is None:
        return ok("BuildKit", "no engine, no BuildKit")
    done = scene.host.run(["docker", "buildx", "inspect", "default"], environ=engine.cli_environ())
    told = re.search(r"^BuildKit(?: version)?:\s*v?(\S+)", done.out, re.MULTILINE | re.IGNORECASE)
    server = str(engine.info["ServerVersion"])
    version = _version(told[1]) if told else None
    # An engine before 23.0 lets its own version pass for BuildKit's.
    if (
        version is not None
        and told is not None
        and version != (0, 0)
        and version != _version(server)
    ):
        seen, old = f"{told[1]} in engine {server}", version < LEAST_BUILDKIT
    else:
        seen, old = f"that of engine {server}", (_version(server) or LEAST_ENGINE) < LEAST_ENGINE
    if old:
        return Finding(
            "BuildKit",
            scene.for_image,
            seen,
            "docker/Dockerfile uses here-documents and build contexts: BuildKit 0.10, which is in "
            "Docker Engine 23.0",
            f"{INSTALL}, for a newer engine",
        )
    return ok("BuildKit", seen)


def check_engine_storage(scene: Scene) -> Finding:
    """How images are kept; with the containerd snapshotter each has its manifest's digest."""
    if scene.engine is None:
        return ok("engine's storage", "no engine, no images")
    driver = str(scene.engine.info.get("Driver", "unknown"))
    if driver in ("vfs", "devicemapper", "aufs"):
        return note(
            "engine's storage",
            f"storage driver {driver}",
            "each layer is kept as a whole copy: an image takes many times its size"
            if driver == "vfs"
            else "it has been removed from newer engines",
            'put the data root on ext4 or xfs, delete "storage-driver" from '
            "/etc/docker/daemon.json, then: sudo systemctl restart docker",
        )
    kind = "containerd snapshotter" if _snapshotter(scene.engine.info) else "the engine's own store"
    return ok("engine's storage", f"{driver}, {kind}")


def check_engine_disk(scene: Scene) -> Finding:
    engine, needs = scene.engine, scene.needs
    if engine is None:
        return ok("engine's disk", "no engine, no images")
    root = str(engine.info.get("DockerRootDir") or "/nonexistent")
    # The same path on another machine, or in a virtual machine, says nothing.
    local = engine.url.startswith("unix://") and not scene.desktop
    if not local or not scene.host.exists(root):
        return ok("engine's disk", f"{root} is not on this machine")
    roots = [root]
    if _snapshotter(engine.info) and root == "/var/lib/docker":  # layers are then containerd's
        roots += [path for path in ROOTS.values() if scene.host.exists(path)]
    room = {path: (scene.host.free_bytes(path) or 0) / GIB for path in roots}
    root = min(room, key=lambda path: room[path])
    seen = f"{room[root]:.0f} GiB free at {root}"
    if room[root] < needs.disk_gib:
        what = f"profile {needs.profile}" if needs.profile else "an image"
        # The need is an estimate; half of it is what the image alone takes.
        certain = room[root] < needs.disk_gib / 2
        return Finding(
            "engine's disk",
            scene.for_image if certain else "note",
            seen,
            f"{what} and its build take about {needs.disk_gib:.0f} GiB",
            "invoke clean --images; docker system df; docker system prune; or move the data root "
            '("data-root" in /etc/docker/daemon.json)',
        )
    return ok("engine's disk", seen)


def check_engine_memory(scene: Scene) -> Finding:
    """Builds get the engine's memory, which in a virtual machine is not the host's."""
    if scene.engine is None:
        return ok("engine's memory", "no engine, no builds")
    total = int(scene.engine.info.get("MemTotal") or 0)
    if not total:
        return ok("engine's memory", "the engine does not say")
    seen = f"{total / GIB:.1f} GiB for containers and builds"
    if total / GIB >= scene.needs.memory_gib:
        return ok("engine's memory", seen)
    if scene.desktop:
        remedy = "Docker Desktop > Settings > Resources > Memory"
        if scene.wsl:
            remedy = "[wsl2] memory=12GB in %UserProfile%\\.wslconfig, then: wsl --shutdown"
    elif scene.wsl:
        remedy = "[wsl2] memory=12GB in %UserProfile%\\.wslconfig, then: wsl --shutdown"
    elif scene.needs.from_source:
        remedy = "invoke build-image --jobs 1; or add memory or swap"
    else:
        remedy = "invoke bench --model gpt-nano; or add memory"
    return note(
        "engine's memory",
        seen,
        f"about {scene.needs.memory_gib:.0f} GiB are needed: a compiler that runs out is killed "
        "(`c++: fatal error: Killed signal terminated program cc1plus`)",
        remedy,
    )


def _absent(scene: Scene, fault: BenchError) -> Finding:
    """No engine: its hint, or a better one that the rest of the machine gives away."""
    host, remedy = scene.host, fault.hint or INSTALL
    guessed = "DOCKER_HOST" not in host.environ and "permission denied" not in fault.message
    client = host.which("docker")
    if guessed and scene.wsl == 1:
        remedy = "WSL 1 has no engine; in PowerShell: wsl --set-version DISTRIBUTION 2"
    elif guessed and client and scene.wsl:
        said = host.run(["docker", "version"]).said
        if "could not be found in this WSL" in said:
            remedy = "Docker Desktop > Settings > Resources > WSL integration: switch this one on"
        elif host.run(["ps", "-p", "1", "-o", "comm="]).out.strip() != "systemd":
            remedy = (
                "sudo service docker start; or [boot] systemd=true in /etc/wsl.conf, then "
                "wsl --shutdown"
            )
        else:
            remedy = "sudo systemctl start docker; sudo journalctl -u docker tells why it stopped"
    elif guessed and client and host.run(["systemctl", "cat", "docker.service"]).code == 0:
        remedy = "sudo systemctl start docker; sudo journalctl -u docker tells why it stopped"
    elif guessed and client is None:
        remedy = f"{INSTALL}; or run without one: --engine local"
    return Finding("engine", scene.for_image, fault.message, NO_ENGINE, remedy)


def _snapshotter(info: Mapping[str, object]) -> bool:
    status = info.get("DriverStatus")
    return ["driver-type", "io.containerd.snapshotter.v1"] in (
        status if isinstance(status, list) else []
    )


def _version(text: str) -> tuple[int, int] | None:
    """The first two numbers of a version; None where there is none."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None
