"""Which keys a private repository's host is known under; real ssh-keygen, real files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.errors import UsageFault
from bench.host import known_hosts


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("git@github.com:me/project.git", "github.com"),
        ("github.com:me/project", "github.com"),
        ("ssh://git@host.example/project.git", "host.example"),
        ("ssh://git@host.example:22/project.git", "host.example"),
        ("ssh://git@host.example:2222/project.git", "[host.example]:2222"),
    ],
)
def test_host_of_an_address(address: str, host: str) -> None:
    assert known_hosts.host_of(address) == host


@pytest.mark.parametrize("address", ["https://github.com/me/project", "/srv/project.git", "x"])
def test_what_is_not_ssh_is_refused(address: str) -> None:
    with pytest.raises(UsageFault, match="not an ssh address"):
        known_hosts.host_of(address)


def test_github_is_pinned_by_the_fingerprints_that_it_publishes(tmp_path: Path) -> None:
    lines = known_hosts.for_repository("git@github.com:me/p.git", {"HOME": str(tmp_path)})
    (tmp_path / "lines").write_text(lines)
    told = subprocess.run(
        ["ssh-keygen", "-lf", str(tmp_path / "lines")], capture_output=True, text=True, check=True
    ).stdout
    assert "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU" in told
    assert "SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM" in told
    assert len(lines.splitlines()) == 2


def test_own_file_is_read_hashed_names_too_and_nothing_else(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    own = tmp_path / ".ssh" / "known_hosts"
    own.parent.mkdir()
    own.write_text(f"[host.example]:2222 {public}\nother.example {public}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(own)], check=True, capture_output=True)
    assert "host.example" not in own.read_text()
    address = "ssh://git@host.example:2222/p.git"
    lines = known_hosts.for_repository(address, {"HOME": str(tmp_path)})
    assert len(lines.splitlines()) == 1 and public in lines


def test_unknown_host_is_an_error_that_says_how_to_know_it(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match=r"host key of \[host\.example\]:2222") as caught:
        known_hosts.for_repository("ssh://git@host.example:2222/p", {"HOME": str(tmp_path)})
    assert "ssh-keyscan host.example -p 2222" in str(caught.value.hint)


def test_ssh_is_told_to_accept_nothing_else(tmp_path: Path) -> None:
    address = "git@github.com:me/p.git"
    with known_hosts.ssh_environment(address, {"HOME": str(tmp_path)}) as environ:
        command = environ["GIT_SSH_COMMAND"]
        assert "StrictHostKeyChecking=yes" in command
        file = command.partition("UserKnownHostsFile=")[2].split()[0]
        assert "github.com ssh-ed25519" in Path(file).read_text()
    assert not Path(file).exists()
