"""Split one resolved lock in four: requirements.txt, tvm.txt, torch.txt and torch-cuda.txt.

One resolution keeps the four consistent with each other; separate files let a machine without a GPU
leave the CUDA packages out, and an image that builds TVM from source leave out TVM's wheel.
Called by update.sh, with the resolver's output as the only argument.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CUDA_NAME = re.compile(r"(triton|nvidia-.+|cuda-.+)$")
TVM_NAMES = ("apache-tvm", "apache-tvm-ffi")
INSTALL = "pip install --require-hashes --no-deps -r"
HEADERS = {
    "requirements.txt": "All packages but TVM, torch and its CUDA packages.",
    "tvm.txt": "TVM's wheels; an image that builds TVM from source takes tvm-VERSION.txt instead.",
    "torch.txt": "torch: the wheels on PyPI, and the CPU builds of torch-cpu-hashes.txt.",
    "torch-cuda.txt": "What PyPI's torch needs beside requirements.txt: CUDA libraries and triton.",
}


def blocks(text: str) -> dict[str, list[str]]:
    """Map each package name to its entries, one per version that some Python needs."""
    found: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=\S)", text.strip()):
        name = re.match(r"[A-Za-z0-9._-]+", entry)
        if name is None:
            raise SystemExit(f"error: not a package: {entry.splitlines()[0]!r}")
        found.setdefault(name[0], []).append(entry)
    return found


def cpu_hashes(text: str) -> list[str]:
    """The hashes of torch-cpu-hashes.txt, whose lines are `cp311 x86_64 <sha256>`."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        if not re.fullmatch(r"cp3\d+ (x86_64|aarch64) [0-9a-f]{64}", line):
            raise SystemExit(f"error: torch-cpu-hashes.txt: not a tag, machine and hash: {line!r}")
    return [line.split()[2] for line in lines]


def with_hashes(entry: str, extra: list[str]) -> str:
    """Add hashes to a lock entry, sorted like the resolver's own."""
    head, *_ = entry.split(" \\\n", 1)
    origin = [line for line in entry.splitlines() if line.lstrip().startswith("#")]
    known = re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)
    hashes = [f"    --hash=sha256:{digest}" for digest in sorted({*known, *extra})]
    return "\n".join([" \\\n".join([head, *hashes]), *origin])


def main() -> None:
    packages = blocks(Path(sys.argv[1]).read_text(encoding="utf-8"))
    extra = cpu_hashes((HERE / "torch-cpu-hashes.txt").read_text(encoding="utf-8"))
    contents: dict[str, list[str]] = {name: [] for name in HEADERS}
    for name, entries in packages.items():
        if name == "torch":
            contents["torch.txt"] += [with_hashes(entry, extra) for entry in entries]
        elif name in TVM_NAMES:
            contents["tvm.txt"] += entries
        elif CUDA_NAME.match(name):
            contents["torch-cuda.txt"] += entries
        else:
            contents["requirements.txt"] += entries
    for file_name, entries in contents.items():
        if not entries:
            raise SystemExit(f"error: nothing would be left in {file_name}")
        header = f"# {HEADERS[file_name]}\n# Made by `make lock`; installed with {INSTALL}\n"
        (HERE / file_name).write_text(header + "\n".join(entries) + "\n", encoding="utf-8")
        print(f"{file_name}: {len(entries)} entries")


if __name__ == "__main__":
    main()
