"""What a clone over SSH needs: an agent with a key, and the server's host key."""

from __future__ import annotations

from bench.host.doctor.finding import Finding, note, ok
from bench.host.doctor.machine import MISSING
from bench.host.doctor.scene import Scene

FORGE = "github.com"
WHY = "`invoke build-image --ssh default` lends the agent to the build; without a key it can clone "
WHY += "public repositories only"
TRUST = f"ssh -T git@{FORGE}, and compare the fingerprint that it shows with the ones at "
TRUST += "https://docs.github.com/authentication (GitHub's SSH key fingerprints) before saying yes"
# Replaced on 2023-03-24, after its private half had been published.
# https://github.blog/2023-03-23-we-updated-our-rsa-ssh-host-key/
REVOKED = "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8"


def check_agent(scene: Scene) -> Finding:
    socket = scene.host.environ.get("SSH_AUTH_SOCK")
    start = 'eval "$(ssh-agent -s)" && ssh-add'
    if not socket:
        return note("ssh agent", "SSH_AUTH_SOCK is not set: no agent", WHY, start)
    done = scene.host.run(["ssh-add", "-l"], timeout=5)
    if done.code == 0:
        keys = [" ".join(line.split()[:1] + line.split()[-1:]) for line in done.out.splitlines()]
        return ok("ssh agent", f"{len(keys)} keys: {', '.join(keys)}")
    if done.code == MISSING:
        return note("ssh agent", "no ssh-add", WHY, "sudo apt-get install openssh-client")
    if "no identities" in done.said:
        return note("ssh agent", "the agent has no keys", WHY, "ssh-add, or ssh-add ~/.ssh/KEY")
    return note("ssh agent", f"nobody answers at {socket}: {done.said}", WHY, start)


def check_known_hosts(scene: Scene) -> Finding:
    done = scene.host.run(["ssh-keygen", "-l", "-F", FORGE], timeout=5)
    if done.code == MISSING:
        return note(
            "known hosts",
            "no ssh-keygen",
            f"whether {FORGE}'s host key is known cannot be told",
            "sudo apt-get install openssh-client",
        )
    keys = [line.split() for line in done.out.splitlines() if not line.startswith("#")]
    if any(REVOKED in words for words in keys):
        return note(
            "known hosts",
            f"{FORGE}'s RSA key of before 2023-03-24 ({REVOKED})",
            "its private half was published; git says `REMOTE HOST IDENTIFICATION HAS CHANGED`",
            f"ssh-keygen -R {FORGE}, then {TRUST}",
        )
    if not keys:
        return note(
            "known hosts",
            f"no host key of {FORGE}",
            "your own git over SSH has to ask whether to trust it; builds have GitHub's keys in "
            "docker/known_hosts, and those of any other host from ~/.ssh/known_hosts only",
            TRUST,
        )
    kinds = sorted({words[1] for words in keys if len(words) > 1})
    return ok("known hosts", f"{FORGE}: {', '.join(kinds)}")
