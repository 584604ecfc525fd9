"""`kythera`: finds the command that was asked for and turns failures into sentences.

Promises: `kythera --help` imports no command; an expected failure never shows a traceback; exit
codes are those of `EXIT_CODES`.
"""

import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from kythera import __version__
from kythera.cli.command import EXIT_CODES, Interrupted, tell_failure
from kythera.model.errors import KytheraError

COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("kythera.cli.up", "up", "Start the platform on this machine; Ctrl-C stops it."),
    "fleet": ("kythera.cli.fleet", "fleet", "Run a whole fleet on this computer, and trouble it."),
    "status": ("kythera.cli.status", "status", "Show machines and cells as they are now."),
    "token": ("kythera.cli.token", "token", "Make the lines with which machines join."),
    "api-token": ("kythera.cli.api_token", "api_token", "Say who may call the API, and what for."),
    "audit": ("kythera.cli.audit", "audit", "Show who changed what."),
    "machine": ("kythera.cli.machines", "machine", "List, drain, promote and remove machines."),
    "doctor": ("kythera.cli.doctor", "doctor", "Check this machine and the running platform."),
    "deploy": ("kythera.cli.deploy", "deploy", "Put a project, or one .js/.ts file, into service."),
    "tail": ("kythera.cli.tail", "tail", "Watch a worker's requests, console and exceptions."),
    "rollback": ("kythera.cli.versions", "rollback", "Serve an earlier version again."),
    "worker": ("kythera.cli.worker", "worker", "List and delete workers."),
    "cron": ("kythera.cli.cron", "cron", "See cron triggers, and try them."),
    "binding": ("kythera.cli.binding", "binding", "Let workers stand for what is not offered."),
    "versions": ("kythera.cli.versions", "versions", "List a worker's versions."),
    "secret": ("kythera.cli.secret", "secret", "Set, list and delete a worker's secrets."),
    "cache": ("kythera.cli.cache", "cache", "Purge what workers have put into the cache."),
    "key": ("kythera.cli.key", "key", "Change the key that seals secrets."),
    "workerd": (
        "kythera.cli.workerd",
        "workerd",
        "Choose the workerd that this machine's cells run.",
    ),
    "wrangler": ("kythera.cli.wrangler", "wrangler", "Run wrangler against this platform."),
    "env": ("kythera.cli.wrangler", "env", "Print the environment that wrangler needs."),
    "backup": ("kythera.cli.backup", "backup", "Put everything into one file."),
}
"""Name -> module, attribute, one line of help (repeated here so that help imports nothing)."""


class Commands(click.Group):
    """The top of the tree: commands are imported when they are run, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a first day's use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _help = COMMANDS[cmd_name]
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_m, _a, line) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say what the exit codes mean."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), line) for code, line in EXIT_CODES.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kythera")
def kythera() -> None:
    """The machines you own, as one computer that runs Cloudflare Workers.

    Start with `kythera up`, then `kythera deploy` or `kythera wrangler deploy` in your project.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        code: Any = kythera.main(args=arguments, prog_name="kythera", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        return _tell_usage(error, as_json=as_json)
    except KytheraError as error:
        return tell_failure(error, as_json=as_json)
    except (click.Abort, KeyboardInterrupt, Interrupted):
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (`| head`); nothing is wrong
        return 0


def _tell_usage(error: click.ClickException, *, as_json: bool) -> int:
    if as_json:
        document = {"error": {"message": error.format_message(), "remedy": "See --help."}}
        click.echo(json.dumps(document), err=True)
    else:
        error.show()
    return error.exit_code
