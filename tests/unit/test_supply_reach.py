"""A registry reached as the engine reaches it: by scheme, login and proxy."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.host import distribution, web
from bench.host.distribution import Login, Repository
from bench.host.supply import reach
from bench.host.web import CannotAsk
from tests.unit import writable_registry
from tests.unit.writable_registry import IDENTITY, PASSWORD, USER, Registry


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's own file of logins, not there yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def entry(user: str = USER, password: str = PASSWORD) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def helper(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int = 0) -> None:
    """A credential helper of the name ``test``, first in the PATH."""
    program = folder / "docker-credential-test"
    program.write_text(f"#!/bin/sh\ncat >{folder}/asked\nprintf '%s' '{answer}'\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_without_a_file_there_is_no_login(config: Path) -> None:
    assert reach.login("registry.example:5000") is None


@pytest.mark.parametrize(
    ("auths", "made"),
    [
        ({"registry.example:5000": entry()}, Login(USER, PASSWORD)),
        ({"https://registry.example:5000/v1/": entry()}, Login(USER, PASSWORD)),
        ({"registry.example:5000": {"identitytoken": IDENTITY}}, Login(identity=IDENTITY)),
        ({"registry.example": entry()}, None),
        ({"registry.example:5000": {}}, None),
    ],
)
def test_a_login_is_read_from_dockers_file(
    config: Path, auths: dict[str, Any], made: Login | None
) -> None:
    config.write_text(json.dumps({"auths": auths}))
    assert reach.login("registry.example:5000") == made


def test_docker_hubs_login_is_by_its_own_name(config: Path) -> None:
    config.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": entry()}}))
    assert reach.login(distribution.DOCKER_HUB) == Login(USER, PASSWORD)


@pytest.mark.parametrize(
    ("user", "made"), [(USER, Login(USER, PASSWORD)), ("<token>", Login(identity=PASSWORD))]
)
def test_a_login_is_had_from_a_helper(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, made: Login
) -> None:
    helper(tmp_path, monkeypatch, json.dumps({"Username": user, "Secret": PASSWORD}))
    config.write_text(json.dumps({"credHelpers": {"registry.example": "test"}}))
    assert reach.login("registry.example") == made
    assert (tmp_path / "asked").read_text() == "registry.example"
    assert reach.login("another.example") is None


def test_a_helper_that_fails_is_named(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, "the keyring is locked", status=1)
    config.write_text(json.dumps({"credsStore": "test"}))
    with pytest.raises(CannotAsk, match=r"login of registry\.example cannot be read: .*is locked"):
        reach.login("registry.example")


def test_a_damaged_file_is_told_without_what_is_in_it(config: Path) -> None:
    damaged = base64.b64encode(b"a-password-without-user").decode()
    config.write_text(json.dumps({"auths": {"registry.example": {"auth": damaged}}}))
    with pytest.raises(CannotAsk, match=r"login of registry\.example cannot be read") as told:
        reach.login("registry.example")
    assert "a-password" not in str(told.value)


def test_a_password_is_in_no_representation() -> None:
    assert PASSWORD not in repr(Login(USER, PASSWORD, PASSWORD))


@pytest.mark.parametrize(
    ("host", "told", "expected"),
    [
        ("registry.example:5000", {}, False),
        (
            "registry.example:5000",
            {"IndexConfigs": {"registry.example:5000": {"Secure": False}}},
            True,
        ),
        ("registry.example", {"IndexConfigs": {"registry.example:5000": {"Secure": False}}}, False),
        ("registry.example", {"IndexConfigs": {"registry.example": {"Secure": True}}}, False),
        ("10.1.2.3:5000", {"InsecureRegistryCIDRs": ["127.0.0.0/8", "10.0.0.0/8"]}, True),
        ("11.1.2.3:5000", {"InsecureRegistryCIDRs": ["10.0.0.0/8"]}, False),
        ("[fd00::1]:5000", {"InsecureRegistryCIDRs": ["fd00::/8", "10.0.0.0/8"]}, True),
    ],
)
def test_an_engine_says_whom_it_takes_without_tls(
    host: str, told: dict[str, Any], expected: bool
) -> None:
    assert reach.insecure(host, {"RegistryConfig": told}) is expected


@pytest.mark.parametrize(
    ("place", "order"),
    [
        ("localhost:5000/a", ["http", "https"]),
        ("127.1.2.3:5000/a", ["http", "https"]),
        ("[::1]:5000/a", ["http", "https"]),
        ("plain.example/a", ["https", "http"]),
        ("registry.example/a", ["https"]),
    ],
)
def test_plain_http_is_spoken_where_the_engine_would(
    config: Path, monkeypatch: pytest.MonkeyPatch, place: str, order: list[str]
) -> None:
    asked: list[str] = []
    proxies: list[bool] = []

    def body(url: str, environ: dict[str, str]) -> bytes:
        asked.append(url.partition(":")[0])
        proxies.append("https_proxy" in environ)
        raise CannotAsk(f"{url}: closed")

    monkeypatch.setattr(web, "body", body)
    info = {"RegistryConfig": {"IndexConfigs": {"plain.example": {"Secure": False}}}}
    with pytest.raises(CannotAsk, match="closed"):
        reach.repository(place, info, {"https_proxy": "http://proxy.example"})
    assert asked == order
    assert proxies == [order[0] == "https"] * len(order), "a proxy is not this machine"


@pytest.mark.parametrize("how", ["basic", "bearer"])
def test_who_is_logged_in_may_write(config: Path, how: str) -> None:
    with writable_registry.serving(Registry(login=how)) as state:
        host = state.place.partition("/")[0]
        config.write_text(json.dumps({"auths": {host: entry()}}))
        there = reach.repository(state.place, {}, {})
        there.put_blob(b"content")
        assert list(state.blobs.values()) == [b"content"]
        assert state.tokens == (how == "bearer"), "one token is enough"


def test_a_token_in_place_of_a_password_is_exchanged(config: Path) -> None:
    with writable_registry.serving(Registry(login="bearer")) as state:
        host = state.place.partition("/")[0]
        config.write_text(json.dumps({"auths": {host: {"identitytoken": IDENTITY}}}))
        reach.repository(state.place, {}, {}).put_blob(b"content")
        assert list(state.blobs.values()) == [b"content"] and "POST /token" in state.asked


@pytest.mark.parametrize("how", ["basic", "bearer"])
def test_nobody_may_not_write(config: Path, how: str) -> None:
    with writable_registry.serving(Registry(login=how)) as state:
        with pytest.raises(CannotAsk, match=r"wants a login|answered 401"):
            reach.repository(state.place, {}, {}).put_blob(b"content")
        assert state.blobs == {}


def test_a_wrong_password_is_asked_twice_at_most(config: Path) -> None:
    with writable_registry.serving(Registry(login="basic")) as state:
        there = Repository(f"http://127.0.0.1:{state.port}", "a", {}, Login(USER, "wrong"))
        with pytest.raises(web.Refusal, match="answered 401"):
            there.manifest("latest")
        assert len(state.asked) == 2


def test_a_password_goes_to_no_other_server_without_tls() -> None:
    refusal = web.Refusal("401", 401, _header('Bearer realm="http://elsewhere.example/token"'))
    there = Repository("https://registry.example", "a", {}, Login(USER, PASSWORD))
    with pytest.raises(CannotAsk, match="no password is sent there without TLS"):
        there._authorized("https://registry.example/v2/a/x", refusal)


def _header(challenge: str) -> Any:
    return {"WWW-Authenticate": challenge}


def test_an_upload_elsewhere_sees_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []

    def opened(url: str, environ: Any, headers: dict[str, str], **_: Any) -> Any:
        seen.append((url, "Authorization" in headers))
        raise CannotAsk("closed")

    monkeypatch.setattr(web, "opened", opened)
    there = Repository("https://registry.example", "a", {}, Login(USER, PASSWORD))
    there._authorization = "Bearer a-token"
    for url in ("https://registry.example/v2/a/x", "https://storage.example/x"):
        with pytest.raises(CannotAsk):
            there.ask(url, method="PUT", content=b"")
    assert seen == [("https://registry.example/v2/a/x", True), ("https://storage.example/x", False)]


def test_an_answer_that_breaks_off_is_no_other_content() -> None:
    answer: Any = SimpleNamespace(headers={"Content-Length": "10"}, read=lambda _: b"short")
    with pytest.raises(CannotAsk, match="5 of 10 bytes came"):
        web.whole(answer, "https://registry.example/")
