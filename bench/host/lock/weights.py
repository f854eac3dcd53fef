"""The weights by name: that the hub has their commits, and the sha256 that it states for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from bench.checkpoint import WEIGHTS
from bench.host import hub, web
from bench.host.lock.part import Change, Part, Unasked
from bench.host.pins import Pins, WeightsPin
from bench.host.web import CannotAsk

PUBLIC = "https://huggingface.co"
OFFLINE = ("1", "ON", "YES", "TRUE")

Say = Callable[[str], None]


def resolve(pins: Pins, environ: Mapping[str, str], say: Say) -> Part:
    """Every entry of the pins' [weights]; the hub's listing alone is read, no weights are."""
    part = Part("weights")
    for name, pin in pins.weights.items():
        place = f"weights.{name}.sha256"
        say(pin.repo)
        try:
            stated = checksum(pin, environ)
        except CannotAsk as why:
            part.unasked.append(Unasked(place, str(why)))
            continue
        if stated == pin.sha256:
            part.same.append(place)
        elif pin.sha256 is None:
            meaning = f"the checksum that the hub states for {WEIGHTS} of {pin.repo}"
            part.changes.append(Change(place, "(none)", stated, meaning))
            key = ("weights", name, "sha256")
            part.edits[key] = stated
        else:
            # Not written: a commit's file cannot change, so one of the two is wrong.
            part.drift.append(
                f"{place}: the hub states {stated} for {WEIGHTS} of {pin.repo} at "
                f"{pin.revision[:12]}, locked is {pin.sha256}"
            )
    return part


def checksum(pin: WeightsPin, environ: Mapping[str, str]) -> str:
    """The sha256 of model.safetensors at the pinned commit, as the hub states it.

    Raises:
        CannotAsk: the hub is not to be asked, does not answer, or states none.
    """
    if environ.get(hub.OFFLINE_VARIABLE, "").upper() in OFFLINE:
        raise CannotAsk(f"{hub.OFFLINE_VARIABLE} is set")
    endpoint = (environ.get(hub.ENDPOINT_VARIABLE) or PUBLIC).rstrip("/")
    url = f"{endpoint}/api/models/{pin.repo}/revision/{pin.revision}?blobs=true"
    try:
        told = json.loads(web.body(url, environ))
        files = {one["rfilename"]: one.get("lfs") or {} for one in told["siblings"]}
        if told["sha"] != pin.revision:
            raise CannotAsk(f"{pin.repo}: the hub answers with the commit {told['sha']}")
        return str(files[WEIGHTS]["sha256"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CannotAsk(f"{pin.repo}: the hub states no checksum of {WEIGHTS}") from error
