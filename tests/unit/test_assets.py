"""Texts by URL from a real server: checked, cached, continued, refused; and without a network."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.build.fetch.patience import Patience
from bench.errors import UsageFault
from bench.host import assets
from tests.unit.text_server import TextServer, serving

CONTENT = b"To be, or not to be.\n" * 50_000  # 1 MB
SUM = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(attempts=3, pause_s=0.0)


@pytest.fixture
def server() -> Iterator[TextServer]:
    with serving(CONTENT) as state:
        yield state


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "texts"


def fetch(url: str, sha256: str | None, cache: Path, said: list[str] | None = None) -> Path:
    lines: list[str] = [] if said is None else said
    return assets.fetch(url, sha256, cache, {}, lines.append, QUICK)


def names(cache: Path) -> set[str]:
    """What lies in the cache, but for the locks of downloads."""
    return {
        path.relative_to(cache).as_posix()
        for path in cache.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_a_text_with_a_checksum_is_kept_under_it_and_fetched_once(
    server: TextServer, cache: Path
) -> None:
    said: list[str] = []
    path = fetch(server.url, SUM, cache, said)
    assert path == cache / SUM
    assert path.read_bytes() == CONTENT
    assert any("1.1 MB (100%)" in line for line in said)
    assert fetch(server.url, SUM, cache) == path
    assert len(server.asked) == 1
    assert names(cache) == {SUM}


def test_what_is_cached_needs_no_network(server: TextServer, cache: Path) -> None:
    fetch(server.url, SUM, cache)
    assert fetch("http://127.0.0.1:1/input.txt", SUM, cache).read_bytes() == CONTENT


def test_a_damaged_copy_is_fetched_anew(server: TextServer, cache: Path) -> None:
    fetch(server.url, SUM, cache).write_bytes(b"damaged")
    assert fetch(server.url, SUM, cache).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_wrong_checksum_is_refused_with_both_sums_and_nothing_is_kept(
    server: TextServer, cache: Path
) -> None:
    with pytest.raises(UsageFault) as caught:
        fetch(server.url, "0" * 64, cache)
    assert f"wrong checksum: sha256 {SUM}, expected {'0' * 64}" in caught.value.message
    assert "--text FILE" in str(caught.value.hint)
    assert "pins.toml" not in str(caught.value.hint)
    assert names(cache) == set()


def test_a_cut_transfer_is_continued_where_it_ended(server: TextServer, cache: Path) -> None:
    server.cuts = [300_000]
    assert fetch(server.url, SUM, cache).read_bytes() == CONTENT
    assert server.asked == ["", "bytes=300000-"]
    assert names(cache) == {SUM}


def test_a_run_that_gave_up_is_taken_up_by_the_next(server: TextServer, cache: Path) -> None:
    server.cuts = [300_000, 0, 0]
    with pytest.raises(UsageFault, match="given up after 3 attempts"):
        fetch(server.url, SUM, cache)
    assert not (cache / SUM).exists()
    assert fetch(server.url, SUM, cache).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=300000-"


def test_without_a_checksum_it_is_kept_under_its_own(server: TextServer, cache: Path) -> None:
    said: list[str] = []
    path = fetch(server.url, None, cache, said)
    assert path == cache / SUM
    assert path.read_bytes() == CONTENT
    assert said[-1] == "1.1 MB of 1.1"
    # The server is asked each time: nothing says that it would answer the same.
    server.content = b"other words"
    assert fetch(server.url, None, cache).read_bytes() == b"other words"
    assert names(cache) == {SUM, hashlib.sha256(b"other words").hexdigest()}


def test_without_a_checksum_a_cut_text_is_not_taken_for_the_whole(
    server: TextServer, cache: Path
) -> None:
    server.cuts = [1000]
    assert fetch(server.url, None, cache).read_bytes() == CONTENT
    server.cuts = [1000] * 3
    with pytest.raises(UsageFault, match=r"given up after 3 attempts: .*1000.* bytes"):
        fetch(server.url, None, cache)
    assert names(cache) == {SUM}


@pytest.mark.parametrize("sha256", [SUM, None])
def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not(
    server: TextServer, cache: Path, sha256: str | None
) -> None:
    server.statuses = [503, 429]
    assert fetch(server.url, sha256, cache).read_bytes() == CONTENT
    assert len(server.asked) == 3
    server.statuses = [404]
    (cache / SUM).unlink()
    with pytest.raises(UsageFault, match="the server answered 404 Not Found"):
        fetch(server.url, sha256, cache)
    assert len(server.asked) == 4


@pytest.mark.parametrize("sha256", [SUM, None])
def test_offline_the_hint_names_a_local_file(cache: Path, sha256: str | None) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers at this port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/input.txt"
        with pytest.raises(UsageFault) as caught:
            fetch(url, sha256, cache)
    assert f"cannot fetch {url}" in caught.value.message
    assert "Connection refused" in caught.value.message
    assert str(caught.value.hint).endswith("name a text that is on this machine: --text FILE")
    assert names(cache) == set()


def test_no_error_shows_a_password(cache: Path) -> None:
    with pytest.raises(UsageFault) as caught:
        fetch("http://me:secret@127.0.0.1:1/input.txt", None, cache)
    assert "secret" not in caught.value.message + str(caught.value.hint)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.com/a.txt", "data:,hello"])
def test_other_addresses_than_the_webs_are_refused(url: str, cache: Path) -> None:
    with pytest.raises(UsageFault, match="not a web address"):
        fetch(url, None, cache)
    assert not cache.exists()


def test_a_mirror_is_asked_in_place_of_the_public_host(server: TextServer, cache: Path) -> None:
    base = server.url.removesuffix("input.txt")
    environ = {"GPT_FRONTEND_URL_MIRRORS": f'{{"https://texts.example/": "{base}"}}'}
    for sha256 in (SUM, None):
        path = assets.fetch("https://texts.example/a.txt", sha256, cache, environ, print, QUICK)
        assert path.read_bytes() == CONTENT
        path.unlink()


def test_a_cache_that_cannot_be_written_is_named(server: TextServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for sha256 in (SUM, None):
        with pytest.raises(UsageFault, match="cannot use the cache") as caught:
            fetch(server.url, sha256, tmp_path / "file" / "texts")
        assert "XDG_CACHE_HOME" in str(caught.value.hint)


def test_a_text_over_the_limit_is_not_fetched_to_its_end(
    server: TextServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "MOST_BYTES", 1000)
    with pytest.raises(UsageFault, match="the text is over"):
        fetch(server.url, None, cache)
    assert names(cache) == set()


def test_the_certificates_of_a_company_are_those_that_pip_takes(cache: Path) -> None:
    environ = {"REQUESTS_CA_BUNDLE": str(cache / "gone.pem")}
    with pytest.raises(UsageFault, match=r"SSL_CERT_FILE=.*gone\.pem is not a file"):
        assets.fetch("https://texts.example/a.txt", SUM, cache, environ, print, QUICK)


def test_where_the_cache_is() -> None:
    assert assets.cache_of({"XDG_CACHE_HOME": "/c"}) == Path("/c/gpt-frontend/texts")
    assert assets.cache_of({}) == Path.home() / ".cache" / "gpt-frontend" / "texts"


def test_a_checksum_may_stand_behind_an_address() -> None:
    url = "https://example.com/a.txt"
    assert assets.parted(url) == (url, None)
    assert assets.parted(f"{url}#sha256={SUM.upper()}") == (url, SUM)
    for wrong in ("#sha256=12", "#md5=" + "0" * 32, "#top"):
        with pytest.raises(UsageFault, match="is not a checksum"):
            assets.parted(url + wrong)


def test_what_is_an_address_and_what_a_file() -> None:
    assert assets.is_url("https://example.com/a.txt")
    assert assets.is_url("file:///a.txt")
    for name in ("a.txt", "/a/b.txt", "C:/a.txt", "tinyshakespeare", os.devnull):
        assert not assets.is_url(name)
