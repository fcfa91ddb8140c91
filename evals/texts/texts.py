"""Windows of filler text: a novel in the public domain, and Python's own documentation topics."""

from __future__ import annotations

import functools
import lzma
import re
from importlib import resources
from typing import Literal

from evals.models.transformer import Tokenizer
from vortex.errors import VortexError

Split = Literal["search", "sealed"]
SOURCES = ("novel", "python-docs")
LICENCES = {
    "novel": "Herman Melville, Moby-Dick (1851), public domain",
    "python-docs": "Python documentation topics, PSF License Version 2",
}


@functools.cache
def text(source: str) -> str:
    """The whole text of a source."""
    if source == "novel":
        data = resources.files("evals.texts").joinpath("data/moby_dick.txt.xz").read_bytes()
        return lzma.decompress(data).decode("utf-8")
    from pydoc_data.topics import topics  # 500 KB of strings: only when asked for

    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(topics[name] for name in sorted(topics)))


def window(
    source: str, split: Split, index: int, *, tokens: int, tokenizer: Tokenizer
) -> list[int]:
    """The index-th window of a source: exactly ``tokens`` ids; windows never overlap.

    The first half of a text is for searching, the second half is sealed.

    Raises:
        VortexError: E501, the text has no such window.
    """
    whole = text(source)
    middle = whole.find("\n\n", len(whole) // 2)
    part = whole[:middle] if split == "search" else whole[middle:]
    # Characters per token vary; a window takes a fixed stretch that surely holds enough of them.
    stretch = tokens * 6
    start = index * stretch
    for begin in (_paragraph(part, start), start):
        ids = tokenizer.encode(part[begin : start + stretch])[:tokens]
        if len(ids) == tokens:
            return ids
    raise VortexError(
        f"text '{source}' has no window {index} of {tokens} tokens in its {split} half",
        code="E501",
        hint=f"use fewer or shorter contexts (at most {len(part) // stretch} of this length)",
    )


def _paragraph(part: str, start: int) -> int:
    """The first paragraph at or after a position."""
    if start == 0:
        return 0
    found = part.find("\n\n", start)
    return found + 2 if 0 <= found < start + 4000 else start
