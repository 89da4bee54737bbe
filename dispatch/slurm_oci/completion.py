"""What a shell offers for the next word of `slurm-oci-plugins`; the shells' side is click's.

A key press must be answered at once and never with an error: the runtimes' names come from the
catalog, plugins are asked only where there is none, and what is wrong there offers nothing.
"""

import click
from click.shell_completion import CompletionItem

VARIABLE = "_SLURM_OCI_PLUGINS_COMPLETE"  # by which the shell asks


def files(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leaves it to the shell, which knows its user's ways with paths."""
    return [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]


def runtimes(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The runtimes of the installation that is meant, in its order."""
    from slurm_oci import catalog
    from slurm_oci.cli import default_prefix
    from slurm_oci.problems import Problem

    prefix = ctx.find_root().params.get("prefix") or default_prefix()
    try:
        known = (catalog.read(prefix) or catalog.build(prefix))["runtimes"]
    except Problem:
        return []
    return [
        CompletionItem(name, help=about["summary"])
        for name, about in known.items()
        if name.startswith(incomplete)
    ]


def bundled(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What `bundle --from` takes."""
    from slurm_oci.bundling import FROM

    return [CompletionItem(kind) for kind in FROM if kind.startswith(incomplete)]


def templates(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The starting points for ~/.slurm-oci-run."""
    from slurm_oci.cli import data_folder
    from slurm_oci.templates import templates as all_templates

    found = all_templates(data_folder("user_templates"))
    return [CompletionItem(t.name, help=t.summary) for t in found if t.name.startswith(incomplete)]
