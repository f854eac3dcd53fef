"""Licences as packages state them, in SPDX's words where both mean the same.

Debian and PyPI have spellings of their own. Only those are translated whose meaning SPDX shares to
the letter; others stay as they are stated, as names. Nothing is guessed from a text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.host.supply.contents import Distribution, Package

UNSTATED = "not stated in the metadata: see the package's own files"
NVIDIA = "LicenseRef-NVIDIA-Proprietary"
# Where NVIDIA keeps the terms of its toolkit and of the libraries in its wheels.
NVIDIA_TERMS = "https://docs.nvidia.com/cuda/eula/index.html"

# https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/#license-short-name
_DEBIAN = {
    "Apache-2": "Apache-2.0",
    "Artistic-2": "Artistic-2.0",
    "BSD-2-clause": "BSD-2-Clause",
    "BSD-3-clause": "BSD-3-Clause",
    "BSD-4-clause": "BSD-4-Clause",
    "CC0": "CC0-1.0",
    "Expat": "MIT",
    "zlib": "Zlib",
    "GFDL-NIV-1.3+": "GFDL-1.3-no-invariants-or-later",
}
_GNU = re.compile(r"(A?GPL|LGPL|GFDL)-(\d(?:\.\d)?)(\+)?")
# The trove classifiers, and what older packages wrote in their License field.
_PYTHON = {
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache-2.0 License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD 3-Clause": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": NVIDIA,
}
# TVM's submodules by the last part of their path, as the LICENSE of TVM (v0.23.0, v0.26.0) sums up
# what their own files say. But zlib, which that puts under the Unlicense: its own text is Zlib's.
_SUBMODULES = {
    "OpenCL-Headers": "Apache-2.0",
    "cnpy": "MIT",
    "cutlass": "BSD-3-Clause",
    "cutlass_fpA_intB_gemm": "Apache-2.0",
    "dlpack": "Apache-2.0",
    "dmlc-core": "Apache-2.0",
    "libbacktrace": "BSD-3-Clause",
    "libflash_attn": "BSD-3-Clause",
    "rang": "Unlicense",
    "tvm-ffi": "Apache-2.0",
    "zlib": "Zlib",
}
_LONGEST = 80  # a License field beyond is the licence's text, not its name


@dataclass(frozen=True)
class Stated:
    """What a package states: an SPDX expression, or names where it has none. Both may be empty."""

    expression: str = ""
    names: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """For people."""
        return (self.expression,) if self.expression else self.names or (UNSTATED,)


def of_debian(package: Package) -> Stated:
    """The licences of a package of dpkg's: of several files of it, so that all may hold."""
    return Stated(names=tuple(dict.fromkeys(map(spdx_of_debian, package.licences))))


def spdx_of_debian(name: str) -> str:
    """A Debian short name in SPDX's words, or itself."""
    if name in _DEBIAN:
        return _DEBIAN[name]
    found = _GNU.fullmatch(name)
    if found is None:
        return name
    version = found[2] if "." in found[2] else f"{found[2]}.0"
    return f"{found[1]}-{version}-{'or-later' if found[3] else 'only'}"


def of_python(one: Distribution) -> Stated:
    """A Python package's licence: its expression, else its one-line field, else its classifiers."""
    if one.expression:
        return Stated(expression=one.expression)
    field = one.licence.strip()
    if field and field.upper() != "UNKNOWN" and "\n" not in field and len(field) <= _LONGEST:
        return Stated(names=(_PYTHON.get(field, field),))
    named = tuple(dict.fromkeys(_PYTHON.get(each, each) for each in one.classifiers))
    return Stated(names=tuple(each for each in named if each != "OSI Approved"))


def of_submodule(path: str) -> Stated:
    """The licence of a submodule of TVM's; none where it is not a known one."""
    return Stated(expression=_SUBMODULES.get(path.rpartition("/")[2], ""))


def is_nvidia(one: Distribution, stated: Stated) -> bool:
    """Whether NVIDIA's own terms hold for a Python package."""
    return "NVIDIA" in " ".join(stated.words).upper() or one.name.startswith("nvidia-")


def table(groups: Sequence[tuple[str, Iterable[tuple[str, Stated]]]]) -> str:
    """Markdown: of each group of (component, what it states), the licences, the commonest first."""
    said = []
    for title, components in groups:
        counted: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        total = 0
        for name, stated in components:
            total += 1
            for word in stated.words:
                counted[word] += 1
                examples.setdefault(word, []).append(name)
        if not total:
            continue
        said += [f"## {title}: {total}", "", "| licence | components | of them |", "|---|---|---|"]
        for word, count in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
            names = sorted(examples[word])
            shown = ", ".join(names[:5]) + (f", and {count - 5} more" if count > 5 else "")
            said.append(f"| {_cell(word)} | {count} | {_cell(shown)} |")
        said.append("")
    return "\n".join(said)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
