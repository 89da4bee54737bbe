"""`slurm-oci-plugins compile`"""

import click


@click.command("compile")
@click.pass_obj
def command(prefix: str) -> None:
    """Ask all plugins once and write the catalog that the entry point reads.

    Needed after a change of site.toml, plugins.d or an installed plugin. Without it nothing
    breaks: each task asks the plugins itself, which takes longer.

    Needed also on each node whose GPUs are described in YAML, after a change of these files in
    /etc/cdi or /var/run/cdi: tasks take from the catalog what they say.
    """
    from slurm_oci import installation
    from slurm_oci.compiled import write
    from slurm_oci.execute import warn
    from slurm_oci.misfits import misfits

    if installation.is_source(prefix):
        raise installation.nowhere()
    gathered = write(prefix, warn)
    for aside in gathered.aside:
        warn(f"{aside.name} ({aside.source}): {aside.reason}")
    for misfit in misfits(gathered):
        warn(str(misfit))
    click.echo(f"{prefix}/catalog.json: {len(gathered.found)} runtimes")
