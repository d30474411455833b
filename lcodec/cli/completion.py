"""`lcodec completion`: the script that teaches a shell to complete lcodec's commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM = "lcodec"
VARIABLE = "_LCODEC_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that completes commands, options and file names.

    \b
    bash:  lcodec completion bash > ~/.local/share/bash-completion/completions/lcodec
    zsh:   lcodec completion zsh > ~/.zfunc/_lcodec          (a folder of $fpath)
    fish:  lcodec completion fish > ~/.config/fish/completions/lcodec.fish
    """
    from lcodec.cli import cli

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"no completion for {shell}")
    # not .source(): it starts bash to see how old it is, which says nothing about where the script will run
    script = made(cli, {}, PROGRAM, VARIABLE)
    click.echo(script.source_template % script.source_vars())
