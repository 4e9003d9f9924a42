"""`sbora-bench`: one subcommand a stage.

Exit status 0 done, 2 the user's mistake (one line), 143 stopped by SIGTERM and 130 by Ctrl-C (the same command goes on
from there), 1 anything else.
"""

import io
import logging
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import click

from sbora_bench.cli.adapter import ADAPTER
from sbora_bench.cli.footprint import ESTIMATING
from sbora_bench.cli.grouped import Grouped
from sbora_bench.cli.init import init
from sbora_bench.cli.paper import PAPER
from sbora_bench.cli.plan import PLANNING
from sbora_bench.cli.results import READING
from sbora_bench.cli.stages import STAGES
from sbora_bench.errors import Terminated, UserError
from sbora_bench.files import disk_error


@click.group(cls=Grouped, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Reproduce the SBoRA paper: plan, prepare, train, score, count, and draw its tables."""


for command in (init, *PLANNING, *STAGES, *READING, *ADAPTER, *ESTIMATING, *PAPER):
    cli.add_command(command)


def _terminate(*_: Any) -> None:
    raise Terminated


def _end_with(status: int, *lines: str) -> NoReturn:
    """Exit with `status` and the lines, also where they go to a log on a full disk, which then stays empty."""
    try:
        for line in lines:
            click.echo(line, err=True)
    except OSError:
        sys.stderr = sys.stdout = io.StringIO()  # what is kept back would change the status at exit
    sys.exit(status)


def main() -> None:
    """Entry point: turns mistakes into one line and exit status 2."""
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="transformers"
    )  # of its own names, as PEFT uses them
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports optional kernels that it doesn't find
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli(prog_name="sbora-bench", standalone_mode=False)
    except UserError as error:
        _end_with(2, *(f"sbora-bench: {line}" for line in str(error).splitlines()))
    except click.exceptions.Abort:
        _end_with(130, "sbora-bench: interrupted; the same command goes on from here")
    except Terminated:
        _end_with(128 + signal.SIGTERM, "sbora-bench: terminated; the same command goes on from here")
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        place = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "sbora-bench"
        _end_with(2, str(UserError(f"{place}: {error.format_message()} See {place} --help")))
    except OSError as error:
        explained = disk_error(error, Path(error.filename or "."))
        if explained is error:
            raise
        _end_with(2, f"sbora-bench: {explained}")
