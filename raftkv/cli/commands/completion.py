"""`raftctl completion`: the shell's completion script, made by click."""

import click

from raftkv.cli.ctl import CtlCommand, Session
from raftkv.cli.exits import BAD_ARGUMENTS, CtlError


@click.command("completion", cls=CtlCommand)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completion(session: Session, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: eval "$(raftctl completion bash)"
    zsh:  eval "$(raftctl completion zsh)"
    fish: raftctl completion fish | source
    """
    from click.shell_completion import get_completion_class

    from raftkv.cli.ctl import COMPLETION_VARIABLE, cli

    kind = get_completion_class(shell)
    if kind is None:
        raise CtlError(f"no completion for {shell}", BAD_ARGUMENTS)
    try:
        source = kind(cli, {}, "raftctl", COMPLETION_VARIABLE).source()
    except RuntimeError as error:
        raise CtlError(str(error)) from None
    click.echo(source)
