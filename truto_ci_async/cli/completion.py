"""``completion``: the script that lets a shell complete commands, options, choices, files and account ids."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from .messages import Progress
from .options import Choice, Command, Options

SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "_TRUTO_CI_COMPLETE"
EXAMPLES: Final = """\
examples:
  eval "$(truto-ci completion bash)"    # in ~/.bashrc
  eval "$(truto-ci completion zsh)"     # in ~/.zshrc
  truto-ci completion fish | source    # in ~/.config/fish/config.fish
"""


async def run_completion(options: Options, progress: Progress) -> None:
    """Print the script for a shell."""
    classes: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
    script = classes[options.shell](click.Command("truto-ci"), {}, "truto-ci", VARIABLE)
    click.echo(script.source())


def command(name: str) -> Command:
    shell = click.Argument(["shell"], type=Choice(SHELLS), required=True, help="the one you use")
    return Command(
        name, run_completion, [shell], examples=EXAMPLES,
        help="Print the script with which bash, zsh or fish completes commands, options, choices and files, and the "
        "ids of accounts that earlier commands have listed.",
    )  # fmt: skip
