"""The machine's state, from files laid out as the kernel lays them, and from nvidia-smi's words."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench import system as neutral
from bench.job import nvml, system
from bench.system import GpuState, SystemState

TICK_HZ = os.sysconf("SC_CLK_TCK")
CPU = "sys/devices/system/cpu"


def no_gpu(arguments: list[str]) -> str:
    raise FileNotFoundError("nvidia-smi")


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def seconds(*values: int) -> str:
    return " ".join(str(value * TICK_HZ) for value in values)


SERVER = {
    "proc/uptime": "3600.25 7000.00",
    "proc/loadavg": "1.50 0.80 0.40 3/200 4242",
    # user nice system idle iowait irq softirq steal guest guest_nice
    "proc/stat": f"cpu  {seconds(100, 2, 30, 5000, 7, 1, 4, 9, 50, 0)}\ncpu0 1\ncpu1 1\n"
    "intr 5\nprocs_running 3\nprocs_blocked 0",
    "proc/self/status": "Name:\tpython\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1",
    # The name in brackets may hold anything; then state and ten fields before the times.
    "proc/self/stat": f"77 (a ) name) S 1 1 1 0 -1 0 0 0 0 0 {seconds(5, 1, 20, 2)} 20 0",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "performance",
    f"{CPU}/cpu1/cpufreq/scaling_governor": "powersave",
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "3000000",
    f"{CPU}/cpu1/cpufreq/scaling_cur_freq": "2000000",
    f"{CPU}/intel_pstate/no_turbo": "0",
    f"{CPU}/smt/active": "1",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "4",
    f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "3",
    "sys/devices/system/node/node0/cpulist": "0",
    "sys/devices/system/node/node1/cpulist": "1",
    "sys/devices/system/node/possible": "0-1",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "sys/class/hwmon/hwmon0/name": "nvme",
    "sys/class/hwmon/hwmon0/temp1_input": "99000",
    "sys/class/hwmon/hwmon1/name": "coretemp",
    "sys/class/hwmon/hwmon1/temp1_input": "61000",
    "sys/class/hwmon/hwmon1/temp2_input": "64500",
    "sys/class/thermal/thermal_zone0/type": "acpitz",
    "sys/class/thermal/thermal_zone0/temp": "98000",
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": "2500000",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143000000",
    "sys/class/powercap/intel-rapl:0:0/name": "core",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "1000000",
}


def test_a_server_tells_all(tmp_path: Path) -> None:
    assert system.read(lay(tmp_path, SERVER), no_gpu) == SystemState(
        uptime_s=3600.25,
        cores=2,
        allowed="0-1",
        load_1m=1.5,
        load_15m=0.4,
        running=3,
        busy_s=137.0,
        own_s=28.0,
        steal_s=9.0,
        governors=("performance", "powersave"),
        frequency_mhz=2500.0,
        turbo=True,
        smt=True,
        numa_nodes=2,
        huge_pages="madvise",
        temperature_c=64.5,
        throttle_events=7,
        energy_j={"package-0": 2.5},
        energy_range_j={"package-0": 262143.0},
        gpus=(),
    )


def test_a_machine_that_tells_nothing_is_no_fault(tmp_path: Path) -> None:
    assert system.read(tmp_path, no_gpu) == SystemState()


@pytest.mark.parametrize("text", ["", "nonsense", "cpu", "cpu  1 2 x 4 5 6 7 8", "[", "nan", "\0"])
def test_a_file_that_says_something_else_leaves_the_rest(tmp_path: Path, text: str) -> None:
    whole = system.read(lay(tmp_path / "whole", SERVER), no_gpu).model_dump()
    for number, name in enumerate(SERVER):
        root = lay(tmp_path / str(number), {**SERVER, name: text})
        found = system.read(root, no_gpu).model_dump()
        changed = {key for key in whole if found[key] != whole[key]}
        # proc/stat and loadavg carry several figures each; no file carries more.
        assert len(changed) <= 4, (name, changed)
        if name == "proc/uptime":
            assert found["uptime_s"] is None


def test_a_directory_where_a_file_should_be_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "proc/stat").mkdir(parents=True)
    assert system.read(tmp_path, no_gpu).busy_s is None


def test_amd_calls_turbo_boost_and_a_guest_has_its_clock_in_cpuinfo(tmp_path: Path) -> None:
    lay(tmp_path, {f"{CPU}/cpufreq/boost": "0"})
    lay(tmp_path, {"proc/cpuinfo": "cpu MHz\t\t: 2600.000\nother : 1\ncpu MHz : 2400.0"})
    found = system.read(tmp_path, no_gpu)
    assert (found.turbo, found.frequency_mhz) == (False, 2500.0)


def test_this_machine_can_be_read() -> None:
    found = system.read()
    assert found.cores is not None and found.cores >= 1
    assert found.busy_s is not None and found.own_s is not None
    assert 0 < found.own_s < found.busy_s
    later = system.read()
    assert later.own_s is not None and later.own_s >= found.own_s
    assert later.uptime_s is not None and found.uptime_s is not None
    assert later.uptime_s >= found.uptime_s


GPU_ROW = "NVIDIA H100 80GB HBM3, 1980, 2619, 123.45, 41, 7\nNVIDIA T4, 585, [N/A], [N/A], 30, 0"


def two_gpus(reasons: dict[str, str]) -> system.Smi:
    def smi(arguments: list[str]) -> str:
        asked = arguments[0].removeprefix("--query-gpu=")
        if asked.startswith("name,"):
            return GPU_ROW
        if asked in reasons:
            return reasons[asked]
        raise subprocess.CalledProcessError(2, "nvidia-smi", f'Field "{asked}" is not a valid')

    return smi


@pytest.mark.parametrize("name", ["clocks_event_reasons.active", "clocks_throttle_reasons.active"])
def test_gpus_in_the_words_of_new_and_old_drivers(tmp_path: Path, name: str) -> None:
    smi = two_gpus({name: "0x0000000000000044\n0x0000000000000001"})
    assert system.read(tmp_path, smi, lambda: [5.5, None]).gpus == (
        GpuState(
            name="NVIDIA H100 80GB HBM3",
            clock_mhz=1980,
            memory_clock_mhz=2619,
            power_w=123.45,
            temperature_c=41,
            energy_j=5.5,
            busy=0.07,
            throttled=("its power cap", "heat (hardware)"),
        ),
        GpuState(name="NVIDIA T4", clock_mhz=585, temperature_c=30, busy=0.0, throttled=()),
    )


def test_gpus_whose_driver_tells_neither_reasons_nor_energy(tmp_path: Path) -> None:
    first, second = system.read(tmp_path, two_gpus({}), list).gpus
    assert (first.throttled, first.energy_j) == (None, None)
    assert (second.throttled, second.energy_j) == (None, None)


@pytest.mark.parametrize("said", ["", "No devices were found", "\n\n", "a, b"])
def test_what_is_no_row_of_a_gpu_is_none(tmp_path: Path, said: str) -> None:
    assert system.read(tmp_path, lambda arguments: said).gpus == ()


class Library:
    """As NVIDIA's: two GPUs, of which the second does not count its energy."""

    nvmlShutdown = nvmlInit_v2 = staticmethod(lambda: 0)  # noqa: N815

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: N802
        handle._obj.value = index.value + 1000
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, used: Any) -> int:  # noqa: N802
        assert isinstance(used._obj, ctypes.c_ulonglong)
        used._obj.value = 12_345
        return 0 if handle.value == 1000 else 3


def test_the_drivers_library_counts_energy() -> None:
    assert nvml.energies_j(lambda name: Library()) == [12.345, None]


def test_without_the_drivers_library_nothing_is_known() -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    assert nvml.energies_j(missing) == []
    assert nvml.energies_j(lambda name: object()) == []


def test_energy_is_what_lies_between() -> None:
    before = SystemState(
        energy_j={"package-0": 90.0, "package-1": 5.0, "psys": 8.0, "gone": 1.0},
        gpus=(GpuState(name="A", energy_j=100.0), GpuState(name="B")),
    )
    after = SystemState(
        energy_j={"package-0": 10.0, "package-1": 25.0, "psys": 2.0},
        energy_range_j={"package-0": 100.0, "package-1": 100.0},
        gpus=(GpuState(name="A", energy_j=350.0), GpuState(name="B")),
    )
    # package-0 began anew at 100; psys fell, and nobody says where it ends.
    found = neutral.energy_j(before, after)
    assert found == {"gpu-0": 250.0, "package-0": 20.0, "package-1": 20.0}
    assert neutral.energy_j(SystemState(), after) == {}


def test_a_state_survives_its_record_and_keys_of_a_later_version(tmp_path: Path) -> None:
    state = system.read(lay(tmp_path, SERVER), two_gpus({}), lambda: [1.0, 2.0])
    assert SystemState.model_validate_json(state.model_dump_json()) == state
    assert SystemState.model_validate({"moon_phase": 0.5}) == SystemState()
