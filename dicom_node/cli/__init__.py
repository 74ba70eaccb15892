"""The command line, by topic. Everything heavy is imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import resource
import warnings

import click

from dicom_node import __version__
from dicom_node.cli import models, picturing, results, running, talking, training, watching
from dicom_node.cli.common import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Receive head CT, look for intracerebral hemorrhage, send a DICOM Structured Report back.

    NOT FOR CLINICAL USE.
    """
    # A core dump would hold images and names, in a folder where no `forget` finds them. Child processes inherit this.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # pydicom's warnings quote what breaks the standard's rules, perhaps a name, into a terminal or a cron job's mail.
    warnings.filterwarnings("ignore", module=r"pydicom\.")


for _command in (
    running.serve,
    running.worker,
    running.demo,
    running.check_config,
    watching.status,
    watching.show,
    watching.retry,
    watching.cancel,
    watching.release,
    talking.echo,
    talking.send,
    results.report,
    results.withdraw,
    results.forget,
    models.model,
    models.classify,
    picturing.brace,
    picturing.prepare,
    *training.COMMANDS,
):
    main.add_command(_command)
