"""What the demos share: talk on stderr, progress for minutes that are watched, and public commands typed as a user would."""

from __future__ import annotations

import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import click
from vlmsel.cli.progress import Progress, watched


def say(text: str) -> None:
    """One piece of talk."""
    with suppress(OSError):  # Where nobody can take it, the demo goes on.
        click.echo(text, err=True)


def show(title: str, unit: str) -> Progress:
    """A progress display. Two minutes are short: where no bar can be drawn, a line every ten seconds."""
    return Progress(title, unit=unit, interval_s=None if watched(sys.stderr) else 10.0)


def type_command(command: str) -> None:
    """Run a command line as a user would type it; its result joins the talk on stderr. Ends the demo if it fails."""
    say(f"\n$ {command}")
    program, *arguments = shlex.split(command)
    script = Path(sys.executable).with_name(program)
    words = [str(script)] if script.is_file() else [sys.executable, "-m", f"{program}.cli.main"]
    done = subprocess.run([*words, *arguments], stdout=sys.stderr, check=False)
    if done.returncode:
        say(f"`{command}` ended with exit code {done.returncode}; the demo stops here and can be run again")
        sys.exit(done.returncode)
