"""What is in an image file by file, and what differs between two of them, named."""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import py_compile
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.errors import JobFailed, UsageFault
from bench.host import layout
from bench.host.reproduce import differences, listing, steps, why
from bench.host.reproduce.listing import Listing
from tests.unit.archives import chunks, digest, dumped, packed

Member = tuple[str, dict[str, Any]]
HISTORY = [
    {"created_by": "base"},
    {"created_by": "ARG X", "empty_layer": True},
    {"created_by": "RUN |1 A=b /bin/sh -c # Python packages\nset -eu\n # buildkit"},
]


def layer(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, about in members:
            made = tarfile.TarInfo(name)
            content = about.get("content", b"")
            made.size = len(content)
            for key in ("mode", "mtime", "uid", "type", "linkname", "pax_headers"):
                if key in about:
                    setattr(made, key, about[key])
            tar.addfile(made, io.BytesIO(content))
    return buffer.getvalue()


BASE = layer(("etc", {"type": tarfile.DIRTYPE, "mode": 0o755}), ("etc/a", {"content": b"a"}))


def image(top: bytes, *, pack: Callable[[bytes], bytes] = gzip.compress, **config: Any) -> bytes:
    """An image of two layers as an engine saves it."""
    blobs = [pack(one) for one in (BASE, top)]
    settings = {
        "created": "2026-01-01T00:00:00Z",
        "history": HISTORY,
        "rootfs": {"diff_ids": [digest(BASE), digest(top)]},
        **config,
    }
    told = dumped(settings)
    manifest = dumped(
        {
            "config": {"digest": digest(told)},
            "layers": [{"digest": digest(one)} for one in blobs],
        }
    )
    files = {layout.blob(digest(one)): one for one in (told, manifest, *blobs)}
    files["index.json"] = dumped({"manifests": [{"digest": digest(manifest)}]})
    return packed(files)


def read(archive: bytes) -> Listing:
    return listing.read(chunks(archive), "gpt-frontend:cpu-0")


def unpressed(content: bytes) -> bytes:
    return content


# --- the list ---


@pytest.mark.parametrize("pack", [gzip.compress, unpressed])
def test_every_file_is_listed_with_its_checksum(pack: Callable[[bytes], bytes]) -> None:
    top = layer(
        ("opt/file", {"content": b"hello", "mode": 0o640, "mtime": 12, "uid": 7}),
        ("opt/link", {"type": tarfile.SYMTYPE, "linkname": "file"}),
        ("opt/cap", {"pax_headers": {"SCHILY.xattr.security.capability": "x"}}),
    )
    made = read(image(top, pack=pack))
    assert [one.step for one in made.layers] == ["base", "Python packages"]
    assert made.header.layers == 2 and made.layers[1].diff_id == digest(top)
    file, link, cap = made.entries[1]
    assert (file.sha256, file.size) == (digest(b"hello").removeprefix("sha256:"), 5)
    assert (file.mode, file.mtime, file.owner) == ("0640", 12, "7:0")
    assert (link.kind, link.target) == ("link", "file")
    assert cap.attributes == {"security.capability": "78"}


def test_list_is_kept_and_read_again(tmp_path: Path) -> None:
    made = read(image(layer(("opt/a\nb", {"content": b"x"}))))
    listing.write(made, tmp_path / "files")
    assert listing.load(tmp_path / "files") == made
    assert all(json.loads(line) for line in (tmp_path / "files").read_text().splitlines())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-2], "cut short"),
        (lambda lines: ["{}", *lines[1:]], "no list"),
        (lambda lines: [], "no list"),
        (lambda lines: [*lines, "not json"], "no list"),
    ],
)
def test_damaged_list_is_refused(
    change: Callable[[list[str]], list[str]], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "files"
    listing.write(read(image(layer(("a", {})))), path)
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(UsageFault, match=said):
        listing.load(path)
    with pytest.raises(UsageFault, match="cannot read"):
        listing.load(tmp_path / "none")


def test_what_is_no_layout_is_refused() -> None:
    for broken in (b"x" * 2000, packed({"index.json": b'{"manifests": []}'}), b""):
        with pytest.raises(JobFailed, match="cannot be read as the engine saves it"):
            read(broken)


def test_extract_gives_the_wanted_files_only() -> None:
    top = layer(("opt/a", {"content": b"1"}), ("opt/b", {"content": b"2"}))
    archive = image(top)
    of = read(archive).layers[1].digest
    got: list[tuple[str, str, bytes]] = []
    listing.extract(
        chunks(archive), {of: {"opt/b"}}, lambda *one: got.append((*one[:2], one[2].read()))
    )
    assert got == [(of, "opt/b", b"2")]


# --- the differences ---


def between(one: Sequence[Member], other: Sequence[Member], **config: Any) -> list[tuple[str, str]]:
    found = differences.between(read(image(layer(*one))), read(image(layer(*other), **config)))
    assert all(
        (difference.layer, difference.step) == (2, "Python packages")
        for difference in found
        if difference.layer
    )
    return [(difference.path, difference.kind) for difference in found]


FILE: Member = ("f", {"content": b"x", "mode": 0o644, "mtime": 1})


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"content": b"y"}, "content"),
        ({"mode": 0o600}, "mode"),
        ({"uid": 5}, "owner"),
        ({"mtime": 2}, "time stamp"),
        ({"pax_headers": {"SCHILY.xattr.user.a": "b"}}, "attributes"),
        ({"type": tarfile.DIRTYPE, "content": b""}, "type"),
    ],
)
def test_difference_of_a_file_has_its_kind(changed: dict[str, Any], kind: str) -> None:
    assert between([FILE], [("f", {**FILE[1], **changed})]) == [("f", kind)]


def test_other_differences_have_theirs() -> None:
    link = {"type": tarfile.SYMTYPE, "linkname": "a"}
    assert between([FILE], [FILE]) == []
    assert between([FILE], [FILE, ("log", {})]) == [("log", "presence")]
    assert between([FILE, ("a", {})], [("a", {}), FILE]) == [("", "order")]
    assert between([("l", link)], [("l", {**link, "linkname": "b"})]) == [("l", "link")]
    assert between([FILE], [FILE], created="2026-01-02T00:00:00Z") == [("created", "configuration")]
    assert between([("f", {"pax_headers": {"comment": "1"}})], [("f", {})]) == [("", "unknown")]


def test_another_compression_is_told_as_that() -> None:
    top = layer(FILE)
    ways = [functools.partial(gzip.compress, compresslevel=level) for level in (0, 9)]
    pair = [read(image(top, pack=way)) for way in ways]
    assert {one.kind for one in differences.between(*pair)} == {"compression"}


def test_step_of_another_stage_is_suspected() -> None:
    tvm = "TVM, and versions against the pins"
    assert (
        steps.suspect(tvm, "opt/venv/lib/python3.11/site-packages/tvm/libtvm.so") == "compile TVM"
    )
    assert steps.suspect(tvm, "opt/gpt-frontend/built/facts.json") == "compile TVM"
    assert steps.suspect(tvm, "etc/ld.so.cache") == tvm
    wheel = "opt/venv/lib/python3.11/site-packages/tvm/libtvm.so"
    assert steps.suspect("Python packages", wheel) == "Python packages"
    assert steps.name("COPY --from=x /a /b # buildkit") == "COPY --from=x /a /b"
    assert steps.of_layers([], 2) == ["the base image", "the base image"]


# --- the reasons ---


def explained(tmp_path: Path, one: bytes, other: bytes, name: str = "file") -> why.Why:
    pair = [tmp_path / side / name for side in ("first", "second")]
    for path, content in zip(pair, (one, other), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return why.explain(*pair)


def zipped(*members: tuple[str, bytes, int]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content, year in members:
            file.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("one", "other", "kind", "said"),
    [
        (b"at 2026-01-01 10:00:00\n", b"at 2026-01-02 11:00:01\n", "a date", "line 1"),
        (b"a\nt=1795536528.25\n", b"a\nt=1795536529\n", "a date", "line 2"),
        (b"a\nb\n", b"b\na\n", "order of lines", "another order"),
        (b"a\nseed 1\n", b"a\nseed 2\n", "text", "'seed 1', then 'seed 2'"),
        (b"\0" * 50 + b"1", b"\0" * 50 + b"2", "content", "from byte 50"),
        (b"\0Jan  1 2026\0", b"\0Jan  2 2026\0", "a date", "Jan  1 2026"),
        (b"", b"\0", "content", "from byte 0"),
        (
            zipped(("a", b"1", 2026), ("b", b"2", 2026)),
            zipped(("b", b"2", 2026), ("a", b"1", 2026)),
            "archive order",
            "from a on",
        ),
        (zipped(("a", b"1", 2025)), zipped(("a", b"1", 2026)), "archive times", "a"),
        (zipped(("a", b"1", 2026)), zipped(("b", b"1", 2026)), "archive members", "a, b"),
        (zipped(("a", b"x\n", 2026)), zipped(("a", b"y\n", 2026)), "text", "in its member a"),
        (
            layer(("a", {}), ("b", {})),
            layer(("b", {}), ("a", {})),
            "archive order",
            "another order",
        ),
        (layer(("a", {"mtime": 1})), layer(("a", {"mtime": 2})), "archive times", "a"),
        (
            gzip.compress(layer(("a", {}), ("b", {})), mtime=0),
            gzip.compress(layer(("b", {}), ("a", {})), mtime=0),
            "archive order",
            "another order",
        ),
        (gzip.compress(b"x", mtime=1), gzip.compress(b"x", mtime=2), "gzip header", "another time"),
        (gzip.compress(b"x\n"), gzip.compress(b"y\n"), "text", "unpacked: line 1"),
    ],
)
def test_reason_is_named(one: bytes, other: bytes, kind: str, said: str, tmp_path: Path) -> None:
    found = explained(tmp_path, one, other)
    assert found.kind == kind, found
    assert said in found.detail


def test_bytecode_with_a_time_in_its_header(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("x = 1\n")
    made = []
    for time in (1, 2):
        os.utime(source, (time, time))
        where = py_compile.compile(
            str(source), invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP
        )
        made.append(Path(str(where)).read_bytes())
    assert explained(tmp_path, made[0], made[1], "a.pyc").kind == "bytecode header"
    assert explained(tmp_path, made[0], made[0][:-1] + b"?", "a.pyc").kind == "bytecode"


def compiled(tmp_path: Path, code: str, *flags: str, **environ: str) -> bytes:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "a.cc").write_text(code)
    command = ["g++", "-shared", "-fPIC", "-o", "a.so", *flags, "a.cc"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, **environ}, check=True)
    return (tmp_path / "a.so").read_bytes()


def test_a_date_that_was_compiled_in(tmp_path: Path) -> None:
    code = 'extern "C" const char* when() { return __DATE__ " " __TIME__; }'
    one, other = (
        compiled(tmp_path, code, SOURCE_DATE_EPOCH=str(date)) for date in (10**9, 2 * 10**9)
    )
    found = explained(tmp_path, one, other, "libtvm.so")
    assert found.kind == "__DATE__ or __TIME__"
    assert "Sep  9 2001" in found.detail and "May 18 2033" in found.detail
    assert "SOURCE_DATE_EPOCH" in found.remedy


def test_debug_information_and_code_are_told_apart(tmp_path: Path) -> None:
    code = 'extern "C" int f() { return 1; }'
    pair = [compiled(tmp_path / name, code, "-g") for name in ("one", "two")]
    assert explained(tmp_path, pair[0], pair[1], "a.so").kind == "debug information"
    changed = compiled(tmp_path / "one", code.replace("1;", "2;"), "-g")
    found = explained(tmp_path, pair[0], changed, "a.so")
    assert found.kind == "machine code" and ".text" in found.detail
