"""The checks in their order, and an examination by all of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from bench.errors import UsageFault
from bench.host import pins
from bench.host.doctor import driver, engine, gpu, host, needs, network, ssh, wsl
from bench.host.doctor.finding import Finding, note
from bench.host.doctor.machine import Host, RealHost
from bench.host.doctor.scene import Scene

Check = Callable[[Scene], Finding | list[Finding]]

CHECKS: tuple[Check, ...] = (
    engine.check_engine,
    engine.check_snap,
    engine.check_buildx,
    engine.check_buildkit,
    engine.check_engine_storage,
    engine.check_engine_disk,
    engine.check_engine_memory,
    host.check_disk,
    host.check_memory,
    host.check_python,
    host.check_compiler,
    host.check_python_headers,
    host.check_cpu,
    wsl.check_wsl,
    gpu.check_gpu,
    driver.check_driver,
    ssh.check_agent,
    ssh.check_known_hosts,
    network.check_ca_bundle,
    network.check_mirrors,
    # Last: their answers come in while the others look.
    network.check_proxy,
    network.check_reach,
    host.check_clock,
)


def examine(profile: str | None = None, host: Host | None = None) -> list[Finding]:
    """Every check's finding. A check that breaks is itself a finding, not an end.

    With ``profile`` the machine is measured by what that image's build needs, and what stops the
    build blocks; without, only what stops the local engine does.

    Raises:
        UsageFault: there is no such profile.
    """
    findings: list[Finding] = []
    wanted = needs.Needs()
    try:
        wanted = needs.of(profile, pins.load())
    except UsageFault as fault:
        if profile is not None:
            raise
        findings.append(
            Finding("pins", "blocks", fault.message, "no image can be planned", fault.hint or "")
        )
    scene = Scene(RealHost() if host is None else host, wanted)
    findings += _found(_begin, scene)
    return findings + list(chain.from_iterable(_found(check, scene) for check in CHECKS))


def _begin(scene: Scene) -> list[Finding]:
    scene.ask(network.targets(scene))
    return []


def _found(check: Check, scene: Scene) -> list[Finding]:
    try:
        found = check(scene)
    except Exception as error:  # whatever breaks, the other checks still tell
        name = check.__name__.removeprefix("check_").removeprefix("_")
        said = f"could not be checked: {type(error).__name__}: {error}"
        why = "doctor met something unknown; the other findings count all the same"
        return [note(name, said, why, "report it with the output of: invoke doctor --json")]
    return found if isinstance(found, list) else [found]
