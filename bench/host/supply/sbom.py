"""An image's contents as a CycloneDX bill of materials, by OWASP's own library.

It is a function of the image alone: the serial number is derived from the image's id, the time is
the image's, components are sorted. Two runs over one image give one file.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from bench.errors import UsageFault
from bench.host.image import CONTENT_LABEL, LABELS
from bench.host.pins import Pins
from bench.host.supply import licences
from bench.host.supply.contents import Contents
from bench.host.supply.licences import Stated
from bench.record import ImageRef

if TYPE_CHECKING:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License
    from packageurl import PackageURL

_TVM_LICENCE = Stated(expression="Apache-2.0")
FORMATS = {"json": ".cdx.json", "xml": ".cdx.xml", "licences": ".licences.md"}
# Of the serial numbers: made once, at random; it makes ours differ from others of the same digest.
_NAMESPACE = uuid.UUID("5b0c5b1e-6f0d-4b7c-9c39-7e7a6f1f0a52")
_URL = re.compile(r"https?://[^\s<>\"{}|\\^`]+")
_GITHUB = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")


@dataclass(frozen=True)
class Bill:
    """What a bill is made from: the image, when it was made, what is in it, and the pins."""

    image: ImageRef
    created: datetime
    contents: Contents
    pins: Pins

    @property
    def labels(self) -> Mapping[str, str]:
        return self.image.labels


def created(text: str) -> datetime:
    """An image's time as engines write it, to the second: 2026-11-23T23:20:01.123456789Z."""
    found = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text)
    if found is None:  # an engine may have none
        return datetime.fromtimestamp(0, timezone.utc)
    return datetime.fromisoformat(found[0]).replace(tzinfo=timezone.utc)


def write(bill: Bill, form: str) -> str:
    """The bill as text: CycloneDX 1.6 as ``json`` or ``xml``, or its ``licences`` as Markdown.

    Raises:
        UsageFault: there is no such form.
    """
    if form not in FORMATS:
        raise UsageFault(f"unknown format '{form}'", hint=f"--format {', '.join(FORMATS)}")
    if form == "licences":
        return _licences(bill)
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    chosen = OutputFormat.JSON if form == "json" else OutputFormat.XML
    text = make_outputter(bom(bill), chosen, SchemaVersion.V1_6).output_as_string(indent=2)
    return text.rstrip("\n") + "\n"


def bom(bill: Bill) -> Bom:
    """The bill in the library's own model."""
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    tag = bill.image.tag
    digest = bill.image.digest or bill.image.id
    whole = Component(
        name=tag.rpartition(":")[0] or tag,
        version=tag.rpartition(":")[2],
        type=ComponentType.CONTAINER,
        bom_ref=f"image:{digest}",
        purl=PackageURL("oci", None, "gpt-frontend", digest, {"tag": tag.rpartition(":")[2]}),
        properties=[
            _property(name, value) for name, value in bill.labels.items() if name.startswith(LABELS)
        ],
    )
    made = Bom(
        serial_number=_serial(bill.image.id, tag),
        metadata=BomMetaData(timestamp=bill.created, component=whole),
        components=list(components(bill)),
    )
    made.register_dependency(whole, list(made.components))
    return made


def subject_of(content: bytes) -> str:
    """The digest of the image that a bill is of, as JSON has it.

    Raises:
        UsageFault: it is no bill of ours.
    """
    return _read(content)[0]


def is_of(content: bytes, ids: frozenset[str]) -> bool:
    """Whether a bill is of an image by one of these ids, which its serial number was derived from.

    An engine may know an image by a registry's digest beside its own id; the bill names the former.

    Raises:
        UsageFault: it is no bill of ours.
    """
    _, tag, serial = _read(content)
    return serial in {_serial(one, tag).urn for one in ids}


def _read(content: bytes) -> tuple[str, str, str]:
    """(digest, tag, serial number) of a bill."""
    try:
        said = json.loads(content)
        whole = said["metadata"]["component"]
        digest = str(whole["bom-ref"]).removeprefix("image:")
        return digest, f"{whole['name']}:{whole['version']}", str(said["serialNumber"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UsageFault(
            f"its bill of materials cannot be read: {error}", hint="invoke sbom makes it anew"
        ) from error


def _serial(image: str, tag: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, f"{image} {tag}")


def components(bill: Bill) -> Iterator[Component]:
    """Everything in the image: the distribution's, Python's, sources, and what came otherwise."""
    yield from _debian(bill)
    yield from _python(bill)
    yield from _sources(bill)
    yield from _toolchain(bill)
    yield _component(
        "gpt-frontend",
        bill.labels.get("org.opencontainers.image.version", ""),
        _purl("generic", None, "gpt-frontend", None),
        Stated(expression=bill.labels.get("org.opencontainers.image.licenses", "")),
        note=f"content id {bill.labels.get(CONTENT_LABEL, 'unknown')}",
    )


def _debian(bill: Bill) -> Iterator[Component]:
    release = bill.contents.os_release
    distribution = release.get("ID", "debian")
    distro = f"{distribution}-{release.get('VERSION_ID', 'unknown')}"
    for one in bill.contents.packages:
        source = "" if one.source == one.name else f"{one.source}@{one.source_version}"
        qualifiers = {"arch": one.architecture, "distro": distro}
        if source:
            qualifiers["upstream"] = source
        yield _component(
            one.name,
            one.version,
            _purl("deb", distribution, one.name, one.version, qualifiers),
            licences.of_debian(one),
            homepage=one.homepage,
        )


def _python(bill: Bill) -> Iterator[Component]:
    for one in bill.contents.distributions:
        stated = licences.of_python(one)
        nvidia = licences.is_nvidia(one, stated)
        yield _component(
            one.name,
            one.version,
            _purl("pypi", None, re.sub(r"[-_.]+", "-", one.name).lower(), one.version),
            stated,
            homepage=one.homepage,
            terms=licences.NVIDIA_TERMS if nvidia else "",
        )


def _sources(bill: Bill) -> Iterator[Component]:
    """TVM's commit and its submodules', where it was compiled; private repositories."""
    if tvm := _tvm(bill.contents):
        yield _git("tvm", str(tvm["url"]), str(tvm["commit"]), _TVM_LICENCE)
        for path, commit in sorted(tvm.get("submodules", {}).items()):
            # Where it is from is in the checkout's .gitmodules, which the image does not keep.
            yield _component(
                path,
                str(commit),
                _purl("generic", None, f"tvm/{path}", str(commit)),
                licences.of_submodule(path),
                note="a submodule of TVM's sources, by its gitlink",
            )
    for one in bill.contents.repositories:
        purl = _purl("generic", None, one.name, one.commit)
        yield _component(one.name, one.commit, purl, Stated(), note="a private repository")


def _tvm(contents: Contents) -> dict[str, Any]:
    """The facts of TVM's checkout; {} where TVM is a wheel's."""
    tvm: dict[str, Any] = (contents.built or {}).get("tvm", {})
    return tvm if tvm.get("commit") else {}


def _git(name: str, url: str, commit: str, stated: Stated) -> Component:
    found = _GITHUB.fullmatch(url)
    if found:
        purl = _purl("github", found[1].lower(), found[2].lower(), commit)
    else:
        purl = _purl("generic", None, name, commit, {"vcs_url": f"git+{url}@{commit}"})
    return _component(name, commit, purl, stated, homepage=url)


def _toolchain(bill: Bill) -> Iterator[Component]:
    """LLVM, which is linked into TVM, and a CUDA toolkit that no package manager knows of."""
    versions = (bill.contents.built or {}).get("versions", {})
    label = f"{LABELS}.build."
    version = versions.get("llvm") or bill.contents.llvm
    if version:
        pin = bill.pins.llvm.get(bill.labels.get(f"{label}llvm", ""))
        from_archive = bill.labels.get(f"{label}llvm_config", "").startswith("/llvm/")
        known = pin is not None and from_archive
        yield _component(
            "llvm",
            str(version),
            _purl(
                "generic",
                None,
                "llvm",
                str(version),
                {"download_url": pin.url, "checksum": f"sha256:{pin.sha256}"}
                if known and pin
                else None,
            ),
            # LLVM's own licence since its release 9; TVM's wheels and builds link nothing older.
            Stated(expression="Apache-2.0 WITH LLVM-exception"),
            sha256=pin.sha256 if known and pin else "",
            note="linked statically into TVM",
        )
    if bill.contents.toolkit and bill.labels.get(f"{label}cuda_from") == "wheels":
        version = versions.get("nvcc") or "unknown"
        yield _component(
            "cuda-toolkit",
            str(version),
            _purl("generic", "nvidia", "cuda-toolkit", str(version)),
            Stated(names=(licences.NVIDIA,)),
            terms=licences.NVIDIA_TERMS,
            note="laid out in /usr/local/cuda from the wheels in docker/locks/cuda.txt",
        )


def _component(
    name: str,
    version: str,
    purl: PackageURL,
    stated: Stated,
    *,
    homepage: str = "",
    terms: str = "",
    sha256: str = "",
    note: str = "",
) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import (
        ExternalReference,
        ExternalReferenceType,
        HashAlgorithm,
        HashType,
        XsUri,
    )
    from cyclonedx.model.component import Component, ComponentType

    make = LicenseFactory()
    named = [stated.expression] if stated.expression else list(stated.names)
    # An array of CycloneDX may hold one expression, or several licences of one name each.
    made = [make.make_from_string(one) if len(named) == 1 else _single(make, one) for one in named]
    references = [
        ExternalReference(type=kind, url=XsUri(url))
        for kind, url in (
            (ExternalReferenceType.WEBSITE, homepage),
            (ExternalReferenceType.LICENSE, terms),
        )
        if _URL.fullmatch(url)
    ]
    return Component(
        name=name,
        version=version or None,
        type=ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        licenses=made,
        external_references=references,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [],
        properties=[_property(f"{LABELS}.note", note)] if note else [],
    )


def _single(make: LicenseFactory, name: str) -> License:
    """A licence that may stand beside others, so no expression."""
    from cyclonedx.contrib.license.exceptions import InvalidSpdxLicenseException

    try:
        return make.make_with_id(name)
    except InvalidSpdxLicenseException:
        return make.make_with_name(name)


def _property(name: str, value: str) -> Property:
    from cyclonedx.model import Property

    return Property(name=name, value=value)


def _purl(
    kind: str,
    namespace: str | None,
    name: str,
    version: str | None,
    qualifiers: Mapping[str, str] | None = None,
) -> PackageURL:
    from packageurl import PackageURL

    return PackageURL(kind, namespace, name, version, dict(qualifiers or {}))


def _licences(bill: Bill) -> str:
    contents = bill.contents
    python = [(one.name, licences.of_python(one)) for one in contents.distributions]
    groups = [
        ("Debian packages", [(one.name, licences.of_debian(one)) for one in contents.packages]),
        ("Python packages", python),
    ]
    if tvm := _tvm(contents):
        submodules = [(path, licences.of_submodule(path)) for path in tvm.get("submodules", {})]
        groups.append(("TVM's sources", [("tvm", _TVM_LICENCE), *submodules]))
    said = (
        f"# Licences of what {bill.image.tag} carries\n\n{bill.image.digest or bill.image.id}\n\n"
    )
    nvidia = [
        one.name
        for one in contents.distributions
        if licences.is_nvidia(one, licences.of_python(one))
    ]
    if bill.contents.toolkit:
        nvidia.append("/usr/local/cuda")
    if nvidia:
        said += f"Under NVIDIA's own terms ({licences.NVIDIA_TERMS}): {', '.join(nvidia)}.\n\n"
    return said + licences.table(groups)
