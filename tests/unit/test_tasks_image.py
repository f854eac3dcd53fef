"""The verbs about images and what they are made from, as a user types them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.unit.test_tasks import invoke, refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cuda-arch", "native"], "not a compute capability"),
        (["--jobs", "0"], "not a number from 1"),
        (["--mirror", "github"], "is not NAME=URL"),
        (["--mirror-folder", "/nonexistent"], "is not a directory"),
    ],
)
def test_bad_options_of_a_build_exit_2_before_an_engine_is_asked(
    arguments: list[str], said: str
) -> None:
    assert said in refused(invoke("build-image", *arguments))


def test_matrix_tells_an_rtx_3090_with_an_old_driver_what_fits() -> None:
    done = invoke("matrix", "--gpu", "sm_86", "--driver", "470")
    assert done.returncode == 0, done.stderr
    assert "llvm10" in done.stdout and "RTX 30" in done.stdout
    told = json.loads(invoke("matrix", "--gpu", "sm_86", "--driver", "470", "--json").stdout)
    fits = {row["version"]: row["fits"] for row in told["cuda"]}
    assert fits["11.8"] and not fits["11.0"] and not fits["13.0"]
    assert all(row["source"] for row in told["cuda"])


def test_mirror_of_an_unknown_tvm_exits_2(tmp_path: Path) -> None:
    said = refused(invoke("mirror", "--tvm", "v9.9.9", "--into", str(tmp_path)))
    assert "9.9.9" in said and "0.23.0" in said
    assert not list(tmp_path.iterdir())


def test_verify_image_without_an_engine_exits_2() -> None:
    refused(invoke("verify-image"))


def test_doctor_of_a_profile_that_is_not_there_exits_2() -> None:
    assert "unknown profile" in refused(invoke("doctor", "--profile", "llvm11"))


def test_verbs_of_images_are_listed() -> None:
    listed: subprocess.CompletedProcess[str] = invoke("--list")
    for name in ("build-image", "verify-image", "matrix", "mirror", "base-image"):
        assert name in listed.stdout
