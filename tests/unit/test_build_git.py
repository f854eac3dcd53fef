"""git's messages, as programs wrote them, against what they mean and what mends them."""

from __future__ import annotations

import pytest

from bench.build.fetch.fault import Passing
from bench.build.fetch.git import Refused, failure

MESSAGES = [
    (
        "fatal: unable to access 'https://code.example/a/': Could not resolve proxy: nowhere",
        Passing,
        "allow LAN connections",
    ),
    (
        "fatal: unable to access 'https://code.example/a/': Could not resolve host: code.example",
        Passing,
        "--mirror",
    ),
    (
        "remote: Enumerating objects: 5\nerror: RPC failed; curl 92 HTTP/2 stream 5 was not closed"
        " cleanly: CANCEL (err 8)\nfatal: early EOF\nfatal: fetch-pack: invalid index-pack output",
        Passing,
        "what is finished is kept",
    ),
    (
        "fatal: unable to access 'https://code.example/a/': server certificate verification "
        "failed. CAfile: none CRLfile: none",
        None,
        "REQUESTS_CA_BUNDLE",
    ),
    (
        "fatal: unable to access 'https://code.example/a/': SSL certificate problem: unable to "
        "get local issuer certificate",
        None,
        "REQUESTS_CA_BUNDLE",
    ),
    (
        "No ED25519 host key is known for code.example and you have requested strict checking.\r\n"
        "Host key verification failed.\r\nfatal: Could not read from remote repository.",
        None,
        "never switched off",
    ),
    (
        "git@code.example: Permission denied (publickey).\r\nfatal: Could not read from remote "
        "repository.\n\nPlease make sure you have the correct access rights",
        None,
        "--ssh default",
    ),
    (
        "fatal: unable to access 'https://code.example/a/': CONNECT tunnel failed, response 407",
        None,
        "the proxy wants a user",
    ),
    (
        "fatal: unable to access 'https://code.example/a/': Received HTTP code 407 from proxy "
        "after CONNECT",
        None,
        "the proxy wants a user",
    ),
    (
        "fatal: could not read Username for 'https://code.example': terminal prompts disabled",
        None,
        "check the URL",
    ),
    ("remote: Repository not found.\nfatal: repository 'https://c.example/a/' not found", None, ""),
    ("fatal: remote error: upload-pack: not our ref 12", None, "the server does not have"),
    ("fatal: transport 'file' not allowed", None, "--mirror"),
    ("error: file write error: No space left on device\nfatal: unable to write", None, "space"),
    ("fatal: something never seen before", Passing, "--mirror"),
    ("error: Server does not allow request for unadvertised object 12", Refused, ""),
    ("fatal: dumb http transport does not support shallow capabilities", Refused, ""),
]


@pytest.mark.parametrize(("message", "kind", "hint"), MESSAGES)
def test_a_message_is_sorted_and_has_its_remedy(
    message: str, kind: type[Exception] | None, hint: str
) -> None:
    found = failure(message)
    # Passing and Refused are asked again or asked otherwise; all else ends the step.
    assert next((sort for sort in (Passing, Refused) if isinstance(found, sort)), None) is kind
    assert hint in (found.hint or "")
    assert found.message and "\n" not in found.message and len(found.message) <= 300


def test_no_message_repeats_a_password() -> None:
    found = failure("fatal: unable to access 'https://me:hunter2@code.example/a/': 500")
    assert "hunter2" not in found.message and "https://****@code.example" in found.message
