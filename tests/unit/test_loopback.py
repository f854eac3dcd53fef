"""A proxy on this machine's loopback, made reachable for a build: tried with real sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from bench.errors import UsageFault
from bench.host.loopback import moved, reachable
from bench.host.mirrors import Mirrors
from bench.host.network import HostNetwork

# All of 127/8 is this machine on Linux: another address of it plays the engine's gateway.
GATEWAY = "127.0.0.2"

Listen = Callable[[str], int]


@pytest.fixture
def listen() -> Iterator[Listen]:
    with contextlib.ExitStack() as stack:

        def start(address: str) -> int:
            server = stack.enter_context(socket.create_server((address, 0)))
            return int(server.getsockname()[1])

        yield start


def host(**variables: str) -> HostNetwork:
    return HostNetwork(None, variables, None)


def test_nothing_on_loopback_is_nothing_to_do() -> None:
    found = host(HTTPS_PROXY="http://proxy.example:3128", NO_PROXY="localhost,127.0.0.1")
    assert reachable(found, None, local_engine=False) == (found, False)


def test_a_proxy_that_allows_lan_connections_is_used_by_the_gateway(listen: Listen) -> None:
    port = listen("0.0.0.0")
    found = host(https_proxy=f"http://me:x@127.0.0.1:{port}", NO_PROXY="localhost,.corp.example")
    for local in (True, False):
        assert reachable(found, GATEWAY, local_engine=local) == (
            host(
                https_proxy=f"http://me:x@{GATEWAY}:{port}",
                NO_PROXY=f"localhost,.corp.example,{GATEWAY}",
            ),
            False,
        )


def test_a_proxy_for_loopback_alone_needs_the_hosts_network_or_a_word(listen: Listen) -> None:
    found = host(https_proxy=f"http://127.0.0.1:{listen('127.0.0.1')}")
    assert reachable(found, GATEWAY, local_engine=True) == (found, True)
    assert reachable(found, None, local_engine=True) == (found, True)
    for gateway in (GATEWAY, None):
        with pytest.raises(UsageFault, match=r"cannot reach 127\.0\.0\.1") as caught:
            reachable(found, gateway, local_engine=False)
        assert "allow LAN connections" in str(caught.value.hint)


def test_one_place_out_of_reach_is_enough_for_the_hosts_network(listen: Listen) -> None:
    open_port, shut_port = listen("0.0.0.0"), listen("127.0.0.1")
    found = host(
        https_proxy=f"http://127.0.0.1:{open_port}", PIP_INDEX_URL=f"http://localhost:{shut_port}/s"
    )
    assert reachable(found, GATEWAY, local_engine=True) == (found, True)


def test_docker_desktop_hands_on_to_loopback_itself(listen: Listen) -> None:
    port = listen("127.0.0.1")
    found, host_network = reachable(
        host(https_proxy=f"http://127.0.0.1:{port}"), "host.docker.internal", local_engine=False
    )
    assert found.variables == {"https_proxy": f"http://host.docker.internal:{port}"}
    assert not host_network


@pytest.mark.parametrize("local", [True, False])
def test_a_proxy_that_is_not_running_is_told_at_once(listen: Listen, local: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UsageFault, match=rf"127\.0\.0\.1:{port}, but nothing listens there"):
        reachable(host(ALL_PROXY=f"socks5h://127.0.0.1:{port}"), GATEWAY, local)


def test_all_that_is_on_loopback_moves_and_nothing_else() -> None:
    old = HostNetwork(
        None,
        {
            "HTTP_PROXY": "127.0.0.1:7890",
            "ALL_PROXY": "socks5h://[::1]:1080",
            "PIP_INDEX_URL": "http://t0ken@LOCALHOST:8080/localhost/simple",
            "PIP_EXTRA_INDEX_URL": "https://a.example/simple https://127.0.0.1/simple",
        },
        "# debian bookworm\ndeb http://localhost:3142/deb.example/debian bookworm main\n",
        Mirrors(
            git={"https://github.com/": "http://localhost:9/gh/"}, apt="https://localhost.example/"
        ),
    )
    assert old.on_loopback
    new = moved(old, "172.17.0.1")
    assert not new.on_loopback
    assert new.variables == {
        "HTTP_PROXY": "172.17.0.1:7890",
        "ALL_PROXY": "socks5h://172.17.0.1:1080",
        "PIP_INDEX_URL": "http://t0ken@172.17.0.1:8080/localhost/simple",
        "PIP_EXTRA_INDEX_URL": "https://a.example/simple https://172.17.0.1/simple",
        "PIP_TRUSTED_HOST": "172.17.0.1",
    }
    assert new.apt_sources == (
        "# debian bookworm\ndeb http://172.17.0.1:3142/deb.example/debian bookworm main\n"
    )
    assert new.mirrors == Mirrors(
        git={"https://github.com/": "http://172.17.0.1:9/gh/"}, apt="https://localhost.example/"
    )
    assert moved(old, "fd00::1").variables["HTTP_PROXY"] == "[fd00::1]:7890"
