"""The real engine as the checks see it, and the container that asks it for a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.host import image, owner
from bench.host.doctor.machine import GpuAnswer
from bench.host.engine import docker, endpoint
from bench.host.engine.endpoint import Endpoint

if TYPE_CHECKING:
    from docker import DockerClient

# Between two answers. An engine that is exporting an image may take many seconds to start another.
PROBE_TIMEOUT_S = 60
# Asks the driver's own library, as PyTorch and TVM do: nvidia-smi in the container proves less.
PROBE = """
import ctypes, sys
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    sys.exit(f"no libcuda.so.1 in the container: {error}")
code = cuda.cuInit(0)
if code:
    sys.exit(f"cuInit returns {code}")
version, count = ctypes.c_int(), ctypes.c_int()
cuda.cuDriverGetVersion(ctypes.byref(version))
cuda.cuDeviceGetCount(ctypes.byref(count))
for number in range(count.value):
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(100)
    cuda.cuDeviceGet(ctypes.byref(device), number)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    print(f"{name.value.decode()}, compute {major.value}.{minor.value}")
print(f"CUDA {version.value // 1000}.{version.value % 1000 // 10}")
"""


class RealEngine:
    """The engine behind ``where``. Each question opens a connection of its own."""

    def __init__(
        self, where: Endpoint, info: Mapping[str, Any], environ: Mapping[str, str]
    ) -> None:
        self.url = where.url
        self.source = where.source
        self.info = info
        self._where = where
        self._environ = environ

    @classmethod
    def found(cls, environ: Mapping[str, str]) -> RealEngine:
        """The engine that answers.

        Raises:
            UsageFault: none does.
        """
        where = endpoint.find_endpoint(environ)
        connection = contextlib.closing(endpoint.connect(where, environ))
        with connection as client, endpoint.engine_errors():
            return cls(where, client.info(), environ)

    def cli_environ(self) -> Mapping[str, str]:
        return self._where.cli_environ(self._environ)

    def gateway(self) -> str | None:
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        with contextlib.closing(endpoint.connect(self._where, self._environ)) as client:
            try:
                settings = client.api.inspect_network("bridge")["IPAM"]["Config"]
            except (DockerException, RequestException, KeyError):
                return None
        return next((one["Gateway"] for one in settings or [] if "Gateway" in one), None)

    def try_gpu(self) -> GpuAnswer:
        from docker.errors import APIError, DockerException
        from docker.types import DeviceRequest
        from requests.exceptions import RequestException

        with contextlib.closing(endpoint.connect(self._where, self._environ)) as client:
            client.api.timeout = PROBE_TIMEOUT_S
            try:
                refusal = docker.gpu_refusal(client)
                if refusal is not None:
                    return GpuAnswer(refusal)
                ours = client.images.list(filters={"label": image.CONTENT_LABEL})
                if not ours:
                    return GpuAnswer(None)
                return ask_driver(
                    client, str(ours[0].id), [DeviceRequest(count=-1, capabilities=[["gpu"]])]
                )
            except APIError as error:
                return GpuAnswer(str(error.explanation or error))
            except (DockerException, RequestException) as error:
                return GpuAnswer(f"the engine fails: {error}")


def ask_driver(client: DockerClient, image_id: str, devices: Sequence[Any]) -> GpuAnswer:
    """Run the probe in a container that is lent these devices, and remove it.

    Raises:
        APIError, RequestException: the engine does not start it, or stops answering.
    """
    container = client.containers.create(
        image_id,
        ["-c", PROBE],
        entrypoint=["python3"],
        labels={docker.RUN_LABEL: "gpu-probe", docker.OWNER_LABEL: owner.mine()},
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        device_requests=list(devices),
    )
    try:
        container.start()
        code = int(container.wait(timeout=PROBE_TIMEOUT_S)["StatusCode"])
        said = " ".join(container.logs().decode(errors="replace").split("\n")).strip()
        return GpuAnswer(said or f"exit code {code}") if code else GpuAnswer(None, said)
    finally:
        container.remove(force=True, v=True)
