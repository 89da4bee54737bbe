"""`slurm-oci-plugins prefetch IMAGE`"""

import os

import click

from slurm_oci.completion import files


@click.command("prefetch")
@click.option("--store", is_flag=True, help="Into the site's store, as root or the account that owns it.")
@click.argument("image", shell_complete=files)
@click.pass_obj
def command(prefix: str, store: bool, image: str) -> None:
    """Unpack IMAGE now, so that no task has to.

    Into your own cache, or into the site's store ([images] in site.toml). Prints where it is; an
    image that a runtime takes as it is stays where it is. The store's image of a reference is
    fetched anew if the registry has another one.
    """
    from slurm_oci import catalog, images, state
    from slurm_oci import image as images_kind
    from slurm_oci.problems import CacheUnavailable
    from slurm_oci.trial import decision_for, request_for

    if not store:
        # A command that is looked for in no image.
        decision = decision_for(prefix, image, ("./nothing",), [], state.propose, is_ready=True)
        click.echo(decision.entry[0].entry(decision.entry[1]) if decision.entry else decision.image.path)
        return
    site = (catalog.read(prefix) or catalog.build(prefix))["site"]
    if not site["images"]["store"]:
        raise CacheUnavailable("site.toml names no store", "docs/images.md: [images] store = '/a/path'")
    request, job = request_for(image, ())
    picture = images_kind.classify(image, job.cwd)
    click.echo(images.fill(picture, site, request, job, os.environ.get("PATH", "")))
