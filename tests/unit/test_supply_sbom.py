"""What an image lists of itself, and the bill that is made of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UsageFault
from bench.host import pins
from bench.host.supply import beside, inventory, licences, sbom
from bench.host.supply.contents import Contents, Distribution, Package
from bench.host.supply.sbom import Bill
from bench.record import ImageRef

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+b1
Description: GNU C Library
 Package: not-a-package

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b2
Homepage: http://tiswww.case.edu/php/chet/bash/bashtop.html
"""
DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2022 Free Software Foundation, Inc.
License: GPL-3+

Files: lib/*
Copyright: 2020 Somebody
License: Expat
 Permission is hereby granted

License: GPL-3+
 On Debian systems see /usr/share/common-licenses/GPL-3.
"""
PROSE = "GNU C library.\nOn Debian systems see /usr/share/common-licenses/LGPL-2.1.\n"
LABELS = {
    "io.gpt-frontend.profile": "llvm10",
    "io.gpt-frontend.content-id": "c" * 64,
    "io.gpt-frontend.build.llvm": "10.0.0",
    "io.gpt-frontend.build.llvm_config": "/llvm/clang/bin/llvm-config",
    "io.gpt-frontend.build.cuda_from": "wheels",
    "org.opencontainers.image.version": "0.1.0",
    "org.opencontainers.image.licenses": "Apache-2.0",
}
BUILT = {
    "tvm": {
        "commit": "1" * 40,
        "url": "https://github.com/apache/tvm",
        "submodules": {"3rdparty/zlib": "2" * 40},
    },
    "versions": {"llvm": "10.0.0", "nvcc": "13.0.88"},
}


def root(tmp_path: Path) -> Path:
    for name, text in (
        ("var/lib/dpkg/status", STATUS),
        ("usr/share/doc/bash/copyright", DEP5),
        ("usr/share/doc/libc6/copyright", PROSE),
        ("etc/os-release", 'ID=debian\nVERSION_ID="12"\n'),
        ("opt/gpt-frontend/built/facts.json", json.dumps(BUILT)),
        ("opt/private/mine/.git/HEAD", "3" * 40 + "\n"),
        ("usr/local/cuda/bin/nvcc", ""),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def bill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bill:
    monkeypatch.setattr(inventory, "llvm", lambda: None)
    nvidia = {"name": "nvidia-cublas", "version": "13.1", "licence": "NVIDIA Proprietary Software"}
    listed = inventory.collect(root(tmp_path))
    listed["distributions"] = [nvidia, {"name": "Typing_Ext", "version": "4", "licence": "MIT"}]
    image = ImageRef(id=f"sha256:{'a' * 64}", digest=None, tag="gpt-frontend:t-1", labels=LABELS)
    made = sbom.created("2026-11-23T23:20:01.123456789Z")
    return Bill(image, made, Contents.model_validate(listed), pins.load())


def test_dpkgs_packages_are_those_that_are_installed(tmp_path: Path) -> None:
    libc, bash = sorted(inventory.packages(root(tmp_path)), key=lambda one: -len(one["name"]))
    assert (bash["name"], bash["version"], bash["source"]) == ("bash", "5.2.15-2+b2", "bash")
    assert (libc["source"], libc["source_version"]) == ("glibc", "2.36-9")
    assert bash["licences"] == ["Expat", "GPL-3+"] and libc["licences"] == ["LGPL-2.1"]


def test_an_image_of_no_debian_has_no_packages(tmp_path: Path) -> None:
    assert inventory.packages(tmp_path) == []


def test_run_alone_it_lists_the_packages_that_pip_lists() -> None:
    """As the container runs it: a program of one file."""
    code = "import json, runpy, sys; m = runpy.run_path(sys.argv[1])"
    code += "; print(json.dumps([[one['name'], one['version']] for one in m['distributions']()]))"
    pip = ["-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    said = [
        json.loads(
            subprocess.run(
                [sys.executable, *arguments], capture_output=True, text=True, check=True, cwd="/"
            ).stdout
        )
        for arguments in (["-c", code, inventory.__file__], pip)
    ]
    assert len(said[0]) > 20
    assert sorted(map(tuple, said[0])) == sorted((one["name"], one["version"]) for one in said[1])


def test_it_needs_the_standard_library_alone() -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1])"
    command = [sys.executable, "-I", "-S", "-c", code, inventory.__file__]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("debian", "spdx"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-3", "GPL-3.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("Expat", "MIT"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("GPL-2+ with Autoconf exception", "GPL-2+ with Autoconf exception"),
        ("public-domain", "public-domain"),
    ],
)
def test_debians_names_are_translated_only_where_both_mean_the_same(debian: str, spdx: str) -> None:
    assert licences.spdx_of_debian(debian) == spdx


@pytest.mark.parametrize(
    ("one", "stated"),
    [
        ({"expression": "MIT OR Apache-2.0", "licence": "x"}, ("MIT OR Apache-2.0",)),
        ({"licence": "Apache 2.0"}, ("Apache-2.0",)),
        ({"licence": "A text\nof many lines", "classifiers": ["MIT License"]}, ("MIT",)),
        ({"licence": "x" * 200, "classifiers": ["OSI Approved"]}, (licences.UNSTATED,)),
        ({"licence": "UNKNOWN"}, (licences.UNSTATED,)),
        ({"licence": "NVIDIA Proprietary Software"}, (licences.NVIDIA,)),
    ],
)
def test_a_python_package_states_its_licence_in_one_of_three_places(
    one: dict[str, Any], stated: tuple[str, ...]
) -> None:
    assert licences.of_python(Distribution(name="p", version="1", **one)).words == stated


def test_a_bill_has_everything_by_its_package_url(bill: Bill) -> None:
    components = {one["purl"]: one for one in json.loads(sbom.write(bill, "json"))["components"]}
    llvm = next(purl for purl in components if purl.startswith("pkg:generic/llvm@10.0.0"))
    assert "clang%2Bllvm-10.0.0" in llvm or "clang+llvm-10.0.0" in llvm
    assert components[llvm]["hashes"] == [
        {"alg": "SHA-256", "content": pins.load().llvm["10.0.0"].sha256}
    ]
    assert set(components) - {llvm} == {
        "pkg:deb/debian/bash@5.2.15-2%2Bb2?arch=amd64&distro=debian-12",
        "pkg:deb/debian/libc6@2.36-9%2Bb1?arch=amd64&distro=debian-12&upstream=glibc%402.36-9",
        "pkg:pypi/nvidia-cublas@13.1",
        "pkg:pypi/typing-ext@4",
        f"pkg:github/apache/tvm@{'1' * 40}",
        f"pkg:generic/tvm/3rdparty/zlib@{'2' * 40}",
        f"pkg:generic/mine@{'3' * 40}",
        "pkg:generic/nvidia/cuda-toolkit@13.0.88",
        "pkg:generic/gpt-frontend",
    }


def test_nvidias_terms_are_named_where_they_hold(bill: Bill) -> None:
    components = {one["name"]: one for one in json.loads(sbom.write(bill, "json"))["components"]}
    for name in ("nvidia-cublas", "cuda-toolkit"):
        urls = [one["url"] for one in components[name]["externalReferences"]]
        assert licences.NVIDIA_TERMS in urls
    page = sbom.write(bill, "licences")
    assert f"({licences.NVIDIA_TERMS}): nvidia-cublas, /usr/local/cuda." in page
    assert "| GPL-3.0-or-later | 1 | bash |" in page


def test_every_submodule_that_is_locked_has_its_licence(bill: Bill) -> None:
    for source in pins.load().sources.values():
        for path in source.gitlinks:
            assert licences.of_submodule(path).expression, path
    assert licences.of_submodule("3rdparty/new").words == (licences.UNSTATED,)
    components = {one["name"]: one for one in json.loads(sbom.write(bill, "json"))["components"]}
    assert components["3rdparty/zlib"]["licenses"] == [{"license": {"id": "Zlib"}}]
    page = sbom.write(bill, "licences")
    assert "## TVM's sources: 2" in page and "| Zlib | 1 | 3rdparty/zlib |" in page


def test_a_bill_is_a_function_of_the_image(bill: Bill) -> None:
    text = sbom.write(bill, "json")
    assert text == sbom.write(bill, "json")
    assert json.loads(text)["metadata"]["timestamp"] == "2026-11-23T23:20:01+00:00"
    other = Bill(
        bill.image.model_copy(update={"id": "sha256:other"}), bill.created, bill.contents, bill.pins
    )
    serial = [json.loads(one)["serialNumber"] for one in (text, sbom.write(other, "json"))]
    assert serial[0] != serial[1]


@pytest.mark.parametrize("form", ["json", "xml"])
def test_a_bill_is_valid_by_the_schema(bill: Bill, form: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = sbom.write(bill, form)
    if form == "json":
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    else:
        assert 'xmlns="http://cyclonedx.org/schema/bom/1.6"' in text


def test_an_unknown_format_is_refused(bill: Bill) -> None:
    with pytest.raises(UsageFault, match="unknown format 'spdx'"):
        sbom.write(bill, "spdx")


def test_hostile_metadata_stays_data(bill: Bill) -> None:
    hostile = Package(
        name="evil", version="1|<b>", architecture="amd64", source="evil", source_version="1",
        licences=("a|b\n<script>",),
    )  # fmt: skip
    contents = bill.contents.model_copy(update={"packages": (hostile,)})
    made = Bill(bill.image, bill.created, contents, bill.pins)
    assert json.loads(sbom.write(made, "json"))
    assert "<script>" not in sbom.write(made, "licences")


def test_a_file_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    path = beside.path("gpt-frontend:cpu-1", beside.SBOM, tmp_path / "new")
    assert beside.keep(path, "text").read_text() == "text" and path.name == "cpu-1.cdx.json"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageFault, match="cannot write"):
        beside.keep(tmp_path / "file" / "below.json", "text")
