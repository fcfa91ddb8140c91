"""The command that evaluates a program, or a run's candidates, in an inference engine."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.commands.inspect_run import DIR
from agent.commands.serve_eval_options import Options, above, kinds, lengths, points
from agent.commands.serve_run import RunPart, evaluate_run, run_of
from runs.serving import engine_page
from vortex.errors import ExitCode, VortexError, printable, unwritable
from vortex.exported import read_exported
from vortex.geometry import GEOMETRIES, Geometry, from_config, geometry

if TYPE_CHECKING:
    from evals.engine.engine import Engine, Mode
    from evals.engine.problems import Problem
    from evals.engine.report import EngineReport
    from evals.engine.session import Wanted

_TEMPLATE = 1024  # tokens that a chat format may add
_ELSEWHERE = "name another folder with -o"
_UNKNOWN_VOCAB = 1000  # token numbers that every tokenizer has


@click.command("serve-eval")
@click.argument("export", metavar="EXPORT|RUN", type=click.Path(path_type=Path))
@click.option("--id", "ids", type=int, multiple=True,
              help="Of a RUN, this candidate.  [default: its front]")  # fmt: skip
@click.option("--again", is_flag=True, help="Of a RUN, also what has results of these settings.")
@click.option("--model", help="A Hugging Face folder, or a known shape by name.")
@click.option("--weights", type=click.Path(path_type=Path),
              help="A real checkpoint; without, random weights and timing only.")  # fmt: skip
@click.option("--problems", type=click.Path(path_type=Path), help="JSONL of problems to ask.")
@click.option("--ruler", default="", callback=kinds, help="Generated problems: kinds, or all.")
@click.option("--lengths", default="4096", show_default=True, callback=lengths,
              help="Of generated prompts, in tokens.")  # fmt: skip
@click.option("--count", default=20, show_default=True, callback=above(0),
              help="Generated problems of each kind and length.")  # fmt: skip
@click.option("--k", "samples", default=1, show_default=True, callback=above(0),
              help="Samples of each problem.")  # fmt: skip
@click.option("--temperature", type=float, callback=above(-1e-9),
              help="[default: 0, or 0.6 with several samples]")  # fmt: skip
@click.option("--top-p", default=0.95, show_default=True, callback=above(0))
@click.option("--max-new", "tokens", default=256, show_default=True, callback=above(0),
              help="Tokens of an answer.")  # fmt: skip
@click.option("--chat", is_flag=True, help="Ask in the model's chat format.")
@click.option("--throughput", default="", callback=points, help="Loads to time: 16x32768,...")
@click.option("--pairs", default=4, show_default=True, callback=above(0))
@click.option("--rate", type=float, callback=above(0),
              help="Requests/s, by a Poisson process.")  # fmt: skip
@click.option("--first-limit", default=10.0, show_default=True, callback=above(0),
              help="Seconds to the first token of a good request.")  # fmt: skip
@click.option("--gap-limit", default=0.05, show_default=True, callback=above(0),
              help="Seconds between its tokens, 95th percentile.")  # fmt: skip
@click.option("--url", help="A server that runs the program, instead of an engine here.")
@click.option("--full-url", help="A server of the same model with full attention.")
@click.option("--served", help="The model's name at the servers.  [default: the first listed]")
@click.option("--full-backend", help="Full attention in an engine of its own with this backend.")
@click.option("--local", is_flag=True,
              help="Answers of --weights by our own executor, without an engine.")  # fmt: skip
@click.option("--memory", default=0.8, show_default=True, callback=above(0),
              help="Share of the device for weights and cache, the same for both.")  # fmt: skip
@click.option("--at-once", default=16, show_default=True, callback=above(0))
@click.option("--seed", default=0, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path),
              help="[default: serve-eval; of a RUN, its folder's engine]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True)
@DIR
def serve_eval(
    ids: tuple[int, ...], again: bool, out: Path | None, as_json: bool, runs_dir: Path,
    temperature: float | None, **options: Any,
) -> None:  # fmt: skip
    """Measure a program in an inference engine beside full attention.

    EXPORT is an exported folder or a program file. Writes report.md, report.json and answers.jsonl
    to the folder of -o; run again after a kill, it asks nothing twice.

    RUN is a run: its candidates are measured one after the other, and what was found is kept in
    its record too, for the leaderboard and for exports. Candidates with results are left out.
    """
    if temperature is None:
        temperature = 0.6 if options["samples"] > 1 else 0.0
    given = Options(temperature=temperature, **options)
    run = run_of(given.export, runs_dir, bool(ids or again))
    if run is not None:
        part = RunPart(ids, again, out or run / "engine", as_json)
        evaluate_run(run, given, part, _served(given), _measured)
        return
    out = out or Path("serve-eval")
    found = evaluate(given, out)
    data, text = _reported(found, out)
    click.echo(data if as_json else text, nl=False)
    click.echo(f"report.md, report.json and answers.jsonl are in {out}", err=True)
    if found.failures:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _measured(options: Options, out: Path, folder: Path) -> EngineReport:
    """A candidate's report, also written; ``out`` has the answers of all candidates."""
    found = evaluate(options, out)
    _reported(found, folder)
    return found


def _reported(found: EngineReport, out: Path) -> tuple[str, str]:
    """Write a report; returns it as JSON and as Markdown.

    Raises:
        VortexError: E604.
    """
    from evals.engine.report import render_markdown

    data = json.dumps(found.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"
    text = render_markdown(found)
    _write(out / "report.json", data)
    _write(out / "report.md", text)
    return data, text


def evaluate(options: Options, out: Path) -> EngineReport:
    """Do what was asked for.

    Raises:
        VortexError: E8xx, the export; E9xx, the rest.
    """
    from evals.engine.problems import read_problems
    from evals.engine.session import evaluate_in

    if not options.throughput and not options.problems and not options.ruler:
        raise VortexError("nothing is asked for", code="E906",
                          hint="--throughput, --problems or --ruler")  # fmt: skip
    given = list(read_problems(options.problems)) if options.problems else []
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # said before hours of work, not after
        raise unwritable(out, error, _ELSEWHERE) from None
    with tempfile.TemporaryDirectory() as scratch:
        wanted = _wanted(options, given)
        rounds = _rounds(options, wanted, given, Path(scratch))
        return evaluate_in(
            rounds, wanted, out / "answers.jsonl", lambda text: click.echo(text, err=True)
        )


def _served(options: Options) -> Geometry | None:
    """The shape of the model that an engine is to serve; None: nothing is served, or none named.

    Raises:
        VortexError: E401 or E404, there is no such model.
    """
    return None if options.local or not _source(options) else _shape(options)


def _wanted(options: Options, given: Sequence[Problem]) -> Wanted:
    from evals.engine.engine import Sampling
    from evals.engine.serving_throughput import Plan
    from evals.engine.session import Wanted
    from evals.engine.shapes import SPARE
    from vortex.serving.sglang.bookkeeping import budget_tokens, covered_tokens

    exported = read_exported(options.export)

    def problems(engine: Engine) -> list[Problem]:
        return [*given, *_generated(options, engine)]

    def shown(engine: Engine) -> Callable[[str], str]:
        chat = getattr(engine, "chat", None)  # a server does it itself
        return chat if options.chat and callable(chat) else str

    vocab, covered = _UNKNOWN_VOCAB, covered_tokens(exported.candidate)
    if _source(options):
        shape = _shape(options)
        vocab, covered = shape.vocab, min(covered, max(0, shape.max_context - SPARE))
    plan = Plan(
        vocab, pairs=options.pairs, rate=options.rate, first_limit=options.first_limit,
        gap_limit=options.gap_limit, seed=options.seed,
    )  # fmt: skip
    return Wanted(
        program=exported.name, candidate_hash=exported.candidate.candidate_hash,
        points=options.throughput, plan=plan, problems=problems,
        sampling=Sampling(options.tokens, options.temperature, options.top_p),
        samples=options.samples, at_once=options.at_once, shown=shown, seed=options.seed,
        covered=covered,
        budget=budget_tokens(exported.candidate), chat=options.chat,
    )  # fmt: skip


def _source(options: Options) -> str | Path | None:
    return options.weights or options.model


def _shape(options: Options) -> Geometry:
    """The shape of the model.

    Raises:
        VortexError: E401 or E404, there is no such model.
    """
    if options.weights:
        return from_config(options.weights.expanduser())
    return geometry(str(options.model))


def _generated(options: Options, engine: Engine) -> list[Problem]:
    """Problems of the generators, as long as the served model's tokenizer says.

    Raises:
        VortexError: E902; E906, there is no tokenizer.
    """
    from evals.engine.generators import generate

    if not options.ruler:
        return []
    own = getattr(engine, "encode", None)
    encode = own if callable(own) else _tokenizer(_source(options))
    return [
        problem
        for kind in options.ruler
        for length in options.lengths
        for problem in generate(kind, length, options.count, encode, seed=options.seed)
    ]


def _tokenizer(source: str | Path | None) -> Callable[[str], list[int]]:
    from tokenizers import Tokenizer

    file = Path(source).expanduser() / "tokenizer.json" if source else None
    if file is None or not file.is_file():
        raise VortexError(
            "generated prompts need the served model's tokenizer", code="E906",
            hint="--model FOLDER with its tokenizer.json",
        )  # fmt: skip
    try:
        fast = Tokenizer.from_file(str(file))
    except Exception as error:  # the package has no type of its own for it
        raise VortexError(
            f"{file} is no tokenizer: {printable(str(error), limit=200)}", code="E906",
            hint="--model FOLDER with the model's tokenizer.json",
        ) from None  # fmt: skip
    return lambda text: list(fast.encode(text, add_special_tokens=False).ids)


Rounds = Sequence["Callable[[], Sequence[Engine]]"]


def _rounds(
    options: Options, wanted: Wanted, given: Sequence[Problem], scratch: Path
) -> Rounds:  # fmt: skip
    """How engines are started: servers, one engine with a switch, or one engine after the other.

    Raises:
        VortexError: E906, options that do not go together.
    """
    if options.local:
        return [lambda: [_local(options)]]
    if options.url or options.full_url:
        return [lambda: _servers(options)]
    if not _source(options):
        raise VortexError("no model is named", code="E906", hint="--model, --weights or --url")
    from evals.engine.sglang_engine import Setup, SGLangEngine
    from evals.engine.shapes import context_for

    needed = _longest(options, wanted, given)
    model = _folder(options, needed or 0, scratch)
    longest = from_config(model).max_context
    setup = Setup(
        model=model, export=options.export, memory=options.memory,
        weights=options.weights is not None,
        page_size=engine_page(read_exported(options.export).candidate, _shape(options)),
        context=None if needed is None else context_for(needed, longest),
        more={"chunked_prefill_size": 16384},
    )  # fmt: skip
    if not options.full_backend:
        return [lambda: [SGLangEngine(setup)]]
    from dataclasses import replace

    plain = replace(setup, export=None, backend=options.full_backend)
    return [lambda: [SGLangEngine(plain)], lambda: [_sparse_only(SGLangEngine(setup))]]


def _local(options: Options) -> Engine:
    if options.weights is None or options.throughput or options.url or options.full_url:
        raise VortexError(
            "--local gives answers of --weights alone: no speed, no server", code="E906",
            hint="--local --weights CHECKPOINT with --ruler or --problems",
        )  # fmt: skip
    from evals.engine.local_engine import LocalEngine

    candidate = read_exported(options.export).candidate
    return LocalEngine(options.weights.expanduser(), candidate)


def _sparse_only(engine: Any) -> Any:
    """The plugin's engine where full attention has one of its own."""
    engine.modes = ("sparse",)
    return engine


def _servers(options: Options) -> list[Engine]:
    from evals.engine.http_engine import HTTPEngine

    found: list[Engine] = []
    try:
        urls: dict[Mode, str | None] = {"full": options.full_url, "sparse": options.url}
        for mode, url in urls.items():
            if url:
                found.append(HTTPEngine(url, mode, model=options.served, chat=options.chat))
    except BaseException:
        for engine in found:
            engine.close()
        raise
    return found


def _longest(options: Options, wanted: Wanted, given: Sequence[Problem]) -> int | None:
    """Tokens of the longest sequence of all that is asked; None where no tokenizer tells."""
    needed = [p.context + wanted.plan.many for p in wanted.points]
    if options.weights is None:  # random ones are only timed
        return max(needed, default=None)
    needed += [wanted.covered] if wanted.points else []
    try:
        encode = _tokenizer(options.weights) if given else None
    except VortexError:  # the engine may know one of another kind
        return None
    prompts = [len(encode(p.prompt)) for p in given] if encode else []
    prompts += options.lengths if options.ruler else ()
    reply = options.tokens + (_TEMPLATE if options.chat else 0)
    return max([*needed, *(prompt + reply for prompt in prompts)])


def _folder(options: Options, longest: int, scratch: Path) -> Path:
    """The folder that the engine loads; a shape by name is stretched to ``longest`` tokens.

    Raises:
        VortexError: E401 or E404, no such model.
    """
    from evals.engine.shapes import shape_folder

    if options.weights:
        folder = options.weights.expanduser()
        if not any(folder.glob("*.safetensors")):
            raise VortexError(
                f"{folder} holds no *.safetensors", code="E404",
                hint="--model FOLDER times random weights of its shape",
            )  # fmt: skip
        return folder
    assert options.model is not None
    named = GEOMETRIES.get(options.model.lower())
    if named is None:
        geometry(options.model)  # says what is wrong with it
        return Path(options.model).expanduser()
    return shape_folder(named.name, scratch / named.name, longest)


def _write(path: Path, text: str) -> None:
    """Whole or not at all.

    Raises:
        VortexError: E604.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise unwritable(path, error, _ELSEWHERE) from None


COMMANDS = (serve_eval,)
