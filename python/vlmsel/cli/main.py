"""``vlmsel``: finds commands without importing them, and ends with the exit codes that ARCHITECTURE.md lists.

Commands of other distributions join through the entry-point group ``vlmsel.commands``: the name is the command, the object
a click command. Those modules are imported to list their one-line help, so they import heavy libraries in their bodies.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from vlmsel.cli.options import WORKSPACE_KEY
from vlmsel.cli.report import printable
from vlmsel.cli.streams import let_go_of_output, open_standard_streams
from vlmsel.errors import ResourceError, UsageError, VlmselError, is_memory_shortage
from vlmsel.files import shortened

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "vlmsel.commands"

BUILT_IN = {
    "index": "List the pairs of tar and JSONL shards in index/.",
    "dedup": "Find copies, and choose which of them to keep.",
    "select": "Choose the best pairs by score: exactly k of them, reproducibly.",
    "shard": "Copy the selected pairs into new tar shards.",
    "sheet": "Draw contact sheets: the best, the cut, the worst.",
    "doctor": "Say what is wrong with a data set before a long run does.",
    "verify": "Re-read every byte of an output folder against its manifest.",
}
"""Commands of this distribution, in ``vlmsel.cli.<name>``, with the help line that ``vlmsel --help`` shows."""

EXIT_BUG = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_BROKEN_PIPE = 141

# Whatever the disk or the system ran out of, met in Python code that did not say it better.
_RESOURCE_ERRNOS = {
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
    errno.EROFS,
}

# A path that cannot be what it was named for, met in Python code that did not say it better.
_PATH_ERRNOS = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENXIO,
    errno.EPERM,
}


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command the way Ctrl-C does, with the exit code of its own signal."""


class BrokenCommand(click.Command):
    """Stands in for a plug-in that cannot be imported: listed, and says why when it is called."""

    def __init__(self, name: str, where: str, error: BaseException) -> None:
        reason = printable(f"{type(error).__name__}: {error}".splitlines()[0])
        super().__init__(name, short_help=f"(cannot be loaded: {reason})", add_help_option=False)
        self.context_settings = {"ignore_unknown_options": True, "allow_extra_args": True}
        self._shortage = error if is_memory_shortage(error) else None
        self._message = (
            f"the command {name!r} comes from {printable(where)}, which cannot be imported ({reason}); "
            "install that distribution again, in the version that fits this vlmsel"
        )

    def invoke(self, ctx: click.Context) -> NoReturn:
        """Explain."""
        if self._shortage is not None:
            raise MemoryError(str(self._shortage)) from self._shortage
        raise click.UsageError(self._message, ctx)


class Commands(click.Group):
    """The group behind ``vlmsel``; commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands of this distribution in the order of the work, then those of plug-ins by name."""
        return [*BUILT_IN, *sorted(set(_plug_ins()) - set(BUILT_IN)), *sorted(self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now, or None."""
        if cmd_name in BUILT_IN:
            command: click.Command = import_module(f"vlmsel.cli.{cmd_name}").command
            return command
        plug_in = _plug_ins().get(cmd_name)
        return _load(plug_in) if plug_in is not None else super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest names where there is no such command."""
        name = args[0]
        if name.startswith("-") or ctx.resilient_parsing or name in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        near = get_close_matches(name.lower(), self.list_commands(ctx))
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise click.UsageError(f"No such command '{name}'.{hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from :data:`BUILT_IN` without an import."""
        rows = list(BUILT_IN.items())
        limit = formatter.width - 6 - max(map(len, self.list_commands(ctx)))
        for name in self.list_commands(ctx):
            if name not in BUILT_IN and (command := self.get_command(ctx, name)) and not command.hidden:
                rows.append((name, command.get_short_help_str(limit)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _plug_ins() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    found: dict[str, EntryPoint] = {}
    for plug_in in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        found.setdefault(plug_in.name, plug_in)
    return found


def _load(plug_in: EntryPoint) -> click.Command:
    try:
        loaded = plug_in.load()
    except (Exception, SystemExit) as error:  # Whatever a foreign module raises must not take the other commands along.
        return BrokenCommand(plug_in.name, plug_in.value, error)
    if not isinstance(loaded, click.Command):
        return BrokenCommand(plug_in.name, plug_in.value, TypeError("it is no click command"))
    return loaded


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from vlmsel import _core

        click.echo(f"vlmsel {_core.__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.option(
    "-w",
    "--workspace",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of index/ dedup/ scores/ selection/ shards/; here by default. Also an option of each command.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
@click.pass_context
def commands(ctx: click.Context, workspace: Path | None) -> None:
    """Choose the image-text pairs worth training a vision-language model on.

    \b
    tar / JSONL --index--> index/ --dedup--> dedup/ --score--> scores/ --select--> selection/ --shard--> shards/
    """
    ctx.meta[WORKSPACE_KEY] = workspace


def run(args: Sequence[str] | None = None, command: click.Command = commands, name: str = "vlmsel") -> int:
    """Run one command line (``sys.argv`` unless given); print what went wrong and return the exit code."""
    try:
        try:
            with command.make_context(name, list(sys.argv[1:] if args is None else args)) as ctx:
                command.invoke(ctx)
        finally:
            # Here, where a full disk or a closed pipe behind stdout can still be told; at exit it could not.
            sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_BUG if end.code else 0
    except (KeyboardInterrupt, click.Abort) as stop:
        return _interrupted(stop)
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except Exception as error:
        return _failed(error)
    return 0


def _interrupted(stop: BaseException) -> int:
    terminated = isinstance(stop, Terminated) or isinstance(stop.__cause__, Terminated)
    word = "terminated" if terminated else "interrupted"
    _complain(f"{word}: what was finished is kept; the same command goes on from there")
    return EXIT_TERMINATED if terminated else EXIT_INTERRUPTED


def _failed(error: Exception) -> int:
    if os.environ.get("VLMSEL_TRACEBACK", "0") not in {"", "0"}:
        import traceback

        _complain(traceback.format_exc().rstrip())
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        _complain(error.format_message())
        return error.exit_code
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        if context is not None:
            _complain(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n")
        _complain(f"Error: {error.format_message()}")
        return error.exit_code
    if isinstance(error, VlmselError) and error.exit_code != EXIT_BUG:
        _complain(f"Error: {error}")
        return error.exit_code
    if is_memory_shortage(error):
        detail = f" ({first_line})" if (first_line := str(error).strip().partition("\n")[0]) else ""
        _complain(
            f"Error: out of memory{detail}; lower --memory-limit or --threads, or free memory, and run the same command again"
        )
        return ResourceError.exit_code
    if isinstance(error, OSError) and error.errno in _PATH_ERRNOS:
        where = shortened(os.fsdecode(error.filename)) if error.filename else "a path of this command"
        _complain(f"Error: {where}: {error.strerror}; look at the paths of the command")
        return UsageError.exit_code
    if isinstance(error, OSError) and error.errno in _RESOURCE_ERRNOS:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"Error: {where}{error.strerror}; see to that and run the same command again")
        return ResourceError.exit_code
    _complain(
        f"Error: this is a bug in vlmsel: {type(error).__name__}: {error}\n"
        "Set VLMSEL_TRACEBACK=1, run it again, and report what it prints."
    )
    return EXIT_BUG


def _complain(text: str) -> None:
    with suppress(OSError):  # Where nobody reads stderr, the exit code still tells.
        print(printable(text, newlines=True), file=sys.stderr, flush=True)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def main(command: click.Command = commands, name: str = "vlmsel") -> NoReturn:
    """The console script, and how another program of ours runs its one command."""
    open_standard_streams()
    if "_VLMSEL_COMPLETE" in os.environ:
        command.main(prog_name=name)  # A shell asks for completions; click answers and ends the process.
    signal.signal(signal.SIGTERM, _terminate)
    code = run(command=command, name=name)
    let_go_of_output()
    sys.exit(code)


if __name__ == "__main__":
    main()
