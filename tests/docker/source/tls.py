"""A certificate authority of the test's own, by openssl."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")


@dataclass(frozen=True)
class Authority:
    """``bundle`` is what trusts it."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Authority:
        """A new one, its files in a folder."""
        _openssl(
            folder, "req", "-x509", *EC, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
            "-subj", "/CN=planted authority",
        )  # fmt: skip
        return cls(folder)

    @property
    def bundle(self) -> Path:
        return self.folder / "ca.pem"

    def context_for(self, address: str) -> ssl.SSLContext:
        """What a server at an IP address needs to be believed by whoever trusts the authority."""
        _openssl(
            self.folder, "req", "-x509", *EC, "-keyout", "server.key", "-out", "server.pem",
            "-days", "2", "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=planted server",
            "-addext", f"subjectAltName=IP:{address}", "-addext", "basicConstraints=CA:FALSE",
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        return context


def _openssl(folder: Path, *words: str) -> None:
    done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
