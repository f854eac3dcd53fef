"""What of the host's network settings reaches a build, and what is left behind: nothing."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from bench.host import apt, network
from bench.host.network import HostNetwork

OS_RELEASE = 'ID=debian\nNAME="Debian GNU/Linux"\nVERSION_CODENAME=bookworm\n'


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "apt" / "sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text(OS_RELEASE)
    return tmp_path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment in which pip has no configuration file."""
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}


def test_a_bare_host_gives_nothing(environ: dict[str, str], tmp_path: Path) -> None:
    found = network.collect(environ, tmp_path / "no-etc")
    assert found == HostNetwork(None, {}, None)
    with network.secret_files(found) as files:
        assert files == {}


def test_first_bundle_that_is_a_file_is_taken(
    environ: dict[str, str], tmp_path: Path, etc: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"certificates")
    environ |= {"PIP_CERT": "/nowhere", "SSL_CERT_FILE": str(bundle)}
    assert network.collect(environ, etc).ca_bundle == b"certificates"


def test_proxies_are_passed_in_both_spellings(environ: dict[str, str], etc: Path) -> None:
    environ |= {"https_proxy": "http://low:1", "HTTP_PROXY": "http://up:2", "NO_PROXY": "a,b"}
    assert network.collect(environ, etc).variables == {
        "HTTPS_PROXY": "http://low:1",
        "https_proxy": "http://low:1",
        "HTTP_PROXY": "http://up:2",
        "http_proxy": "http://up:2",
        "NO_PROXY": "a,b",
        "no_proxy": "a,b",
    }


def test_indexes_come_from_pips_variables_and_files_without_local_ones(
    environ: dict[str, str], tmp_path: Path, etc: Path
) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://file.example/simple\n"
        "extra-index-url = file:///srv/simple https://extra.example/simple\n"
    )
    environ |= {"PIP_CONFIG_FILE": str(config)}
    assert network.collect(environ, etc).variables == {
        "PIP_INDEX_URL": "https://file.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://extra.example/simple",
    }
    environ["PIP_INDEX_URL"] = "https://variable.example/simple"
    found = network.collect(environ, etc)
    assert found.variables["PIP_INDEX_URL"] == "https://variable.example/simple"


def test_secret_files_are_private_sourced_as_they_are_and_gone_afterwards(tmp_path: Path) -> None:
    awkward = "http://user:it's $HOME `id`@proxy.example:3128"
    host = HostNetwork(b"pem", {"HTTPS_PROXY": awkward}, "# debian bookworm\n")
    with pytest.raises(KeyboardInterrupt), network.secret_files(host) as files:
        assert set(files) == {"ca", "net", "apt"}
        for path in files.values():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        script = f'. {files["net"]}; printf %s "$HTTPS_PROXY"'
        shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        assert shown.stdout == awkward
        raise KeyboardInterrupt
    assert not any(path.parent.exists() for path in files.values())


def test_passwords_and_tokens_are_known_for_masking() -> None:
    variables = {
        "HTTPS_PROXY": "http://me:hunter2@proxy.example",
        "PIP_EXTRA_INDEX_URL": "https://a.example/simple https://t0ken@b.example/simple",
    }
    assert HostNetwork(None, variables, None).passwords == {"hunter2", "t0ken"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HTTPS_PROXY": "http://127.0.0.1:3128"}, True),
        ({"PIP_INDEX_URL": "http://me:x@localhost:8080/simple"}, True),
        ({"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "localhost,127.0.0.1"}, False),
        ({}, False),
    ],
)
def test_settings_on_loopback_are_recognised(variables: dict[str, str], expected: bool) -> None:
    assert HostNetwork(None, variables, None).on_loopback is expected


def test_one_line_and_deb822_entries_of_the_distribution_itself(etc: Path) -> None:
    (etc / "apt" / "sources.list").write_text(
        "# deb http://commented.example/debian bookworm main\n"
        "deb-src http://source.example/debian bookworm main\n"
        "deb [arch=amd64] http://one.example/debian bookworm main contrib # a comment\n"
        "deb [signed-by=/etc/apt/keyrings/other.gpg] http://third.example bookworm main\n"
        "deb http://next.example/debian trixie main\n"
        "deb file:/srv/debian bookworm main\n"
    )
    (etc / "apt" / "sources.list.d" / "own.sources").write_text(
        "# a comment\nTypes: deb deb-src\n# another\nURIs: https://two.example/debian\n"
        "Suites: bookworm bookworm-updates bookworm-backports\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        "\n"
        "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\n"
        "Components: main\n"
    )
    keyring = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert apt.sources_list(etc) == (
        "# debian bookworm\n"
        "deb http://one.example/debian bookworm main contrib\n"
        f"deb {keyring} https://two.example/debian bookworm main\n"
        f"deb {keyring} https://two.example/debian bookworm-updates main\n"
    )


def test_no_apt_sources_without_entries_or_release(etc: Path) -> None:
    assert apt.sources_list(etc) is None
    (etc / "os-release").unlink()
    assert apt.sources_list(etc) is None
