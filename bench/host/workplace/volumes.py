"""The volumes that outlive a container: TVM's tree, people's own clones, ccache's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import UsageFault
from bench.host.workplace.image import TREE_LABEL

if TYPE_CHECKING:
    from docker import DockerClient


def lay_out(client: DockerClient, name: str, tree: str) -> None:
    """Have the volume ``name`` for TVM's tree at the commit ``tree`` (empty: there is no tree).

    The engine fills an empty volume from the image when it is first mounted. A full one keeps
    what is in it, so that another commit's image would show the first one's tree.

    Raises:
        UsageFault: it holds the tree of another commit, or is in use.
    """
    from docker.errors import APIError, NotFound

    try:
        volume = client.volumes.get(name)
    except NotFound:
        client.volumes.create(name, labels={TREE_LABEL: tree})
        return
    held = (volume.attrs.get("Labels") or {}).get(TREE_LABEL, "")
    if held == tree:
        return
    if held:
        has = f"TVM at {tree[:12]}" if tree else "no TVM to work on"
        raise UsageFault(
            f"the volume {name} holds TVM at {held[:12]}, the image has {has}",
            hint=f"commit and push what you changed in it, then: docker volume rm {name}; or go "
            "back to the profile that it came from: invoke devcontainer --profile NAME",
        )
    try:
        volume.remove()  # nothing was ever in it
    except APIError as error:
        raise UsageFault(
            f"the volume {name} is in use: {error.explanation or error}",
            hint=f"docker ps -a --filter volume={name}; remove that container, then try again",
        ) from error
    client.volumes.create(name, labels={TREE_LABEL: tree})
