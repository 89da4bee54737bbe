"""`slurm-oci-plugins completion SHELL`"""

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete this command's words.

    \b
    bash: eval "$(slurm-oci-plugins completion bash)"
    zsh:  eval "$(slurm-oci-plugins completion zsh)"      after compinit
    fish: slurm-oci-plugins completion fish | source

    As a file where the shell looks for such (docs/install.md), it serves all users.
    """
    from click.shell_completion import get_completion_class

    from slurm_oci.completion import VARIABLE

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "slurm-oci-plugins", VARIABLE).source())
