"""What ``--help`` shows: what a command is about, its own options, and at the end those that all commands share."""

from __future__ import annotations

import click

COMMON_HEADING = "Common options"


class CommonOption(click.Option):
    """An option that every command has; ``vlmsel.cli.options`` makes them."""


class Command(click.Command):
    """A click command whose help lists the common options apart, last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, then those that it shares, ``--help`` among them."""
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        shared_help = self.get_help_option(ctx)
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                is_common = isinstance(parameter, CommonOption) or parameter is shared_help
                (common if is_common else own).append(record)
        for heading, records in (("Options", own), (COMMON_HEADING, common)):
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
