"""Submissions of the reference system ``vortex_torch`` become programs of the language.

Only the syntax tree is read. Where the language has no equivalent, the construct is refused with
its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vortex.errors import printable
from vortex.importer.flow import Flow
from vortex.importer.ops import Algebra, named
from vortex.importer.submission import Reader, read_settings, read_submission

__all__ = ["import_vflow"]


def import_vflow(
    source: str,
    *,
    filename: str = "submission.py",
    config: Mapping[str, object] | None = None,
) -> str:
    """The program of a submission in the published style of ``vortex_torch``.

    Args:
        source: the Python file; it is parsed, never run.
        filename: what messages and the program call it.
        config: the JSON object beside it (``vortex_block_size``, ``vortex_topk_val``, ...), and,
            where a flow needs them, ``head_dim``, ``num_hidden_layers``, ``kv_lora_rank`` and
            ``qk_rope_head_dim`` of the model.

    Returns:
        Program text of the language.

    Raises:
        ProgramError: E304 (no flow is in the file), E305 (Python that is not read), E306 (an op
            without an equivalent), E307 (shapes or arguments of an op), E308 (the configuration),
            E309 (state, or keys and values read per token).
    """
    settings = read_settings(config or {}, Reader(source, filename))
    submission = read_submission(source, filename, settings.module_name)
    flow = Flow(submission, settings, Algebra(submission.reader.error))
    flow.run()
    return _program(flow)


def _needed(lines: list[tuple[str, str]], results: list[str]) -> list[str]:
    """The assignments that the results depend on, as text."""
    wanted, kept = " ".join(results), []
    for name, text in reversed(lines):
        if re.search(rf"(?<![\w.]){name}\b", wanted):
            kept.append(f"        {name} = {text}")
            wanted += f" {text}"
    return kept[::-1]


def _program(flow: Flow) -> str:
    """The text of a program."""
    s, name = flow.settings, named(flow.submission.name, ())
    title = re.sub(r'["\\]', "'", printable(flow.submission.reader.filename))
    many = len(flow.ranked) > 1
    knobs, parts = [f"    page_size = {s.block_size}"], []
    for at, selected in enumerate(flow.ranked, 1):
        knob = f"topk_tokens_{at}" if many else "topk_tokens"
        knobs.append(f"    {knob} = {(selected.pages + s.bos + s.eos) * s.block_size}")
        budget = f"self.{knob}"
        if s.topk_ratio and not selected.own:
            knobs.append(f"    topk_ratio = {s.topk_ratio!r}")
            budget = f"vx.maximum({budget}, self.topk_ratio * vx.context)"
        parts.append(f"vx.top_k({f'scores.score_{at}' if many else 'score'}, tokens={budget})")
    parts += [f"vx.{what}({n})" for what, n in (("sinks", s.bos), ("recent", s.eos)) if n]
    knobs += _dense(flow)
    texts = [selected.score.text for selected in flow.ranked]
    scoring = _needed(flow.lines, texts)
    result = texts[0]
    if many:
        result = f"vx.Scores({', '.join(f'score_{i}={t}' for i, t in enumerate(texts, 1))})"
    used = "\n".join([*scoring, result])
    fields = {flow.names[key]: content.text for key, content in flow.fields.items()
              if not content.constant}  # fmt: skip
    kept = {n: text for n, text in fields.items() if re.search(rf"\bpage\.{n}\b", used)}
    summary = ", ".join(f"{n}={text}" for n, text in kept.items())
    notes = "".join(f"\n    Approximated: {note}" for note in flow.algebra.notes)
    doc = f'"""{name} as submitted, its budget as configured.'
    doc += f'\n{notes}\n    """' if notes else '"""'
    return "\n".join([
        f'"""Imported from {title}."""', "", "import vortex as vx", "", "",
        f"class {name}(vx.Algorithm):", f"    {doc}", "", *knobs, "",
        "    def summarize(self, k, v):", *_needed(flow.summary, [summary]),
        f"        return vx.Summary({summary})", "",
        "    def score(self, q, page):", *scoring, f"        return {result}", "",
        f"    def select(self, {'scores' if many else 'score'}):",
        f"        return {' | '.join(parts)}", "",
    ])  # fmt: skip


def _dense(flow: Flow) -> list[str]:
    """``layers_skip`` as first and last layers."""
    skip, layers = set(flow.settings.skip), flow.settings.layers
    first = next(i for i in range(len(skip) + 1) if i not in skip)
    rest = skip - set(range(first))
    if rest != set(range(layers - len(rest), layers)):
        raise flow.submission.reader.error(
            "E308", f"layers_skip {sorted(skip)} is not the first and last layers", None,
            "dense_layers counts from both ends; last ones need num_hidden_layers",
        )  # fmt: skip
    ends = [f"{end}={n}" for end, n in (("first", first), ("last", len(rest))) if n]
    return [f"    dense_layers = vx.layers({', '.join(ends)})"] if ends else []
