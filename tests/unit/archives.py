"""Archives of small images, whole and tampered with."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

from bench.contract import Check, ContractRecord, Expected
from bench.host import layout, pins
from bench.host.supply import archive, provenance, sbom
from bench.host.supply.contents import Contents
from bench.record import ImageRef

TAG = "gpt-frontend:cpu-0123456789ab"
Files = dict[str, bytes]


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


def image_files(layer: bytes = b"a layer " * 200) -> tuple[Files, str, str]:
    """A whole OCI layout: its files, the manifest's digest and the configuration's."""
    config = dumped({"architecture": "amd64", "os": "linux"})
    manifest = dumped(
        {
            "schemaVersion": 2,
            "config": {"digest": digest(config), "size": len(config)},
            "layers": [{"digest": digest(layer), "size": len(layer)}],
        }
    )
    files = {layout.blob(digest(one)): one for one in (config, manifest, layer)}
    files["index.json"] = dumped({"manifests": [{"digest": digest(manifest)}]})
    files["oci-layout"] = dumped({"imageLayoutVersion": "1.0.0"})
    files["manifest.json"] = dumped([{"Config": layout.blob(digest(config)), "RepoTags": [TAG]}])
    return files, digest(manifest), digest(config)


def packed(files: Mapping[str, bytes], folders: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in layout.FOLDERS if folders else ():
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        for name, content in files.items():
            one = tarfile.TarInfo(name)
            one.size = len(content)
            tar.addfile(one, io.BytesIO(content))
    return buffer.getvalue()


def unpacked(archive: Path | bytes) -> Files:
    data = archive if isinstance(archive, bytes) else archive.read_bytes()
    found: Files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for one in tar:
            stream = tar.extractfile(one)
            assert stream is not None, f"{one.name} is no file"
            found[one.name] = stream.read()
    return found


def chunks(content: bytes, size: int = 1000) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def contract(of: str, ok: bool = True) -> bytes:
    check = Check(name="a check", ok=ok, wanted="1", seen="1", hint=None if ok else "mend it")
    made = ContractRecord(
        image=ImageRef(id=of, digest=of, tag=TAG, labels={}),
        profile="cpu",
        created_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
        expected=Expected(
            profile="cpu",
            device="cpu",
            tvm_from="wheel",
            tvm="1",
            tvm_ffi="1",
            torch="1",
            cuda=True,
        ),
        checks=(check,),
        facts={},
        size_bytes=1,
        build_stage_bytes=None,
        seconds=1.0,
    )
    return made.model_dump_json().encode()


def statement(of: str) -> bytes:
    said = {
        "_type": provenance.STATEMENT_TYPE,
        "predicateType": provenance.PREDICATE_TYPE,
        "subject": [{"name": TAG, "digest": {"sha256": of.removeprefix("sha256:")}}],
    }
    return dumped(said)


def bill(of: str) -> bytes:
    """A bill of materials with nothing in it."""
    image = ImageRef(id=of, digest=of, tag=TAG, labels={})
    nothing = Contents(os_release={"ID": "debian"}, packages=(), distributions=())
    made = sbom.Bill(image, datetime(2026, 1, 1, tzinfo=timezone.utc), nothing, pins.load())
    return sbom.write(made, "json").encode()


def beside_of(of: str) -> dict[str, bytes]:
    return {
        archive.CONTRACT: contract(of),
        archive.PROVENANCE: statement(of),
        archive.SBOM: bill(of),
    }


def written(tmp_path: Path) -> Path:
    """An archive of a small image, with all that is known of it."""
    files, manifest, _ = image_files()
    image = ImageRef(id=manifest, digest=manifest, tag=TAG, labels={})
    path = tmp_path / "image.tar"
    archive.write(path, chunks(packed(files)), image, beside_of(manifest))
    return path


def rewritten(path: Path, change: Callable[[Files], None]) -> None:
    """The archive with other files, and a manifest that agrees with them."""
    files = unpacked(path)
    manifest = json.loads(files.pop(archive.MANIFEST))
    del files[archive.SEAL]
    change(files)
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(one).hexdigest(), "size_bytes": len(one)}
        for name, one in files.items()
    }
    files[archive.MANIFEST] = dumped(manifest)
    files[archive.SEAL] = archive._seal(files[archive.MANIFEST])
    path.write_bytes(packed(files, folders=False))


def another_layer(files: Files) -> None:
    name = max((one for one in files if one.startswith("blobs/")), key=lambda one: len(files[one]))
    files[name] = files[name].replace(b"a layer", b"A layer")
