"""A tokenizer from the metadata of a GGUF file: byte-level BPE, pre-split as the file says."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Fast

from vortex.errors import VortexError

_CONTROL = 3  # GGUF token type of special tokens
# How text is cut before merges: names are GGUF's, patterns those of the models' tokenizer files.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


class ByteLevelBPE:
    """Encodes without adding special tokens."""

    def __init__(self, fast: Fast) -> None:
        self._fast = fast

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self._fast.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens shown."""
        return str(self._fast.decode(list(ids), skip_special_tokens=False))

    def text(self) -> str:
        """The tokenizer as ``tokenizer.json`` holds it."""
        return str(self._fast.to_str(pretty=True))


def build(tokens: list[str], types: list[int], merges: list[str], pre: str) -> ByteLevelBPE:
    """The tokenizer.

    Raises:
        VortexError: E405, the file cuts text in a way that we do not know.
    """
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs = [(a, b) for a, _, b in (m.partition(" ") for m in merges)]
    fast = Fast(models.BPE(vocab=vocab, merges=pairs))
    if pre == "smollm":
        fast.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif pre in ("qwen2", "llama-bpe"):
        pattern = _QWEN2 if pre == "qwen2" else _LLAMA3
        fast.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        raise VortexError(
            f"the file's tokenizer splits text as '{pre}', which is not supported",
            code="E405",
            hint="known: smollm, qwen2, llama-bpe; or load a Hugging Face folder instead",
        )
    fast.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    fast.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return ByteLevelBPE(fast)
