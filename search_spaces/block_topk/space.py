"""Reads the seed and control programs: data files in the language, never imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vortex.errors import VortexError

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class SeedFile:
    """A program file. ``control`` files may use reserved selectors."""

    name: str
    text: str
    control: bool


def _read(folder: Path, *, control: bool) -> tuple[SeedFile, ...]:
    found, path = [], folder
    try:
        for path in sorted(folder.glob("*.py")):
            if path.stem != "__init__":
                found.append(SeedFile(path.stem, path.read_text(encoding="utf-8"), control))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise VortexError(
            f"cannot read {path}: {why}", code="E301",
            hint="--seeds FOLDER with one program a file",
        ) from None  # fmt: skip
    return tuple(found)


def controls() -> tuple[SeedFile, ...]:
    """Full attention, random pages and the oracle: in every run."""
    return _read(_HERE / "controls", control=True)


def library() -> tuple[SeedFile, ...]:
    """Published algorithms, the seeds among them."""
    more = _read(_HERE / "library", control=False)
    return tuple(sorted((*_read(_HERE / "seeds", control=False), *more), key=lambda s: s.name))


def seeds(folder: Path | None = None) -> tuple[SeedFile, ...]:
    """The known algorithms, the whole library where the folder is called ``library``, or the
    programs of a folder of the user's.

    Raises:
        VortexError: E301, the folder holds no program.
    """
    if folder is not None and are_ours(folder):
        return library()
    found = _read(folder or _HERE / "seeds", control=False)
    if not found:
        raise VortexError(
            f"no seed program in {folder}", code="E301", hint="it should hold files NAME.py"
        )
    return found


def are_ours(folder: Path | None) -> bool:
    """Whether the seeds of this choice are known algorithms, not programs of the user's."""
    return folder is None or (folder == Path("library") and not folder.is_dir())
