"""`slurm-oci-plugins site`"""

import json
import os

import click


@click.command("site")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.pass_obj
def command(prefix: str, as_json: bool) -> None:
    """The effective site settings and where each comes from."""
    from slurm_oci import site

    path = os.path.join(prefix, site.NAME)
    values, built_in = site.read(path).plain(), site.Site().plain()
    shown = {
        key: {"value": value, "from": "built-in" if value == built_in[key] else path}
        for key, value in values.items()
    }
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for key, found in shown.items():
        click.echo(f"{key + ':':13}{json.dumps(found['value'])}  ({found['from']})")
