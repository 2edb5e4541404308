"""The program `signet`: its command groups, exit codes and error messages.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 refused, 2 usage or
environment. A traceback is shown with -v only.
"""

import os
import signal
import sys
import traceback
from importlib import import_module
from typing import NoReturn

import click

from signet import __version__
from signet.errors import EXIT_DONE, EXIT_ENVIRONMENT, EXIT_REFUSED, SignetError
from signet.options import EXIT_CODES, echo, note

_GROUPS = ("board", "device", "fleet", "image", "pki", "release")
# Commands by themselves, and their modules.
_OF_A_PROJECT = {
    "build": "signet.project.commands",
    "dev": "signet.app.commands",
    "doctor": "signet.app.commands",
    "new": "signet.project.commands",
    "test": "signet.app.commands",
}


class _Program(click.Group):
    """Imports a command when it is asked for: to import all takes longer than most commands."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            return None
        if cmd_name in _OF_A_PROJECT:
            command: click.Command = getattr(import_module(_OF_A_PROJECT[cmd_name]), cmd_name)
        else:
            command = import_module(f"signet.{cmd_name}.commands").group
        _state_exit_codes(command)
        return command


def _state_exit_codes(command: click.Command) -> None:
    """End the help of a command, and of all below it, with the exit codes."""
    command.epilog = EXIT_CODES
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            _state_exit_codes(subcommand)


_NAMED = [click.Command(name) for name in (*_GROUPS, *_OF_A_PROJECT)]


@click.group(cls=_Program, commands=_NAMED, epilog=EXIT_CODES)
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
@click.version_option(__version__)
def program(verbose: bool) -> None:
    """Keys, images, provisioning, releases and virtual boards for Signet devices.

    Groups of commands, and some by themselves: these are about a project of one's own.
    """


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    verbose = False
    try:
        with program.make_context("signet", arguments) as context:
            verbose = context.params["verbose"]
            program.invoke(context)
        return EXIT_DONE
    except click.exceptions.Exit as done:  # --help, --version
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_ENVIRONMENT
    except click.UsageError as error:
        hint = f"see {error.ctx.command_path} --help" if error.ctx else None
        return _fail(error.format_message(), hint, EXIT_ENVIRONMENT)
    except SignetError as error:
        if verbose:
            _show_traceback()
        return _fail(str(error), error.hint, error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", None, EXIT_REFUSED)
    except BrokenPipeError:  # the reader of stdout, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ENVIRONMENT
    except Exception as error:  # a bug, or an environment that nothing above foresaw
        if verbose:
            _show_traceback()
        return _fail(f"{type(error).__name__}: {error}", "signet -v shows where", EXIT_ENVIRONMENT)


def _show_traceback() -> None:
    for line in traceback.format_exc().splitlines():
        echo(f"  {line}", err=True)  # indented: what is in it may look like a message


def _fail(message: str, hint: str | None, code: int) -> int:
    note("error", message, "red")
    if hint:
        note("hint", hint, "yellow")
    return code


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt  # so that temporary files go, as they do after Ctrl-C


def main() -> None:
    """Entry point of the program."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))
