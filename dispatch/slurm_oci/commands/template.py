"""`slurm-oci-plugins template [NAME]`"""

import json
import os
import sys
from typing import Any

import attrs
import click

from slurm_oci.completion import templates


@click.command("template")
@click.option("--write", "write_it", is_flag=True, help="Write it as ~/.slurm-oci-run.")
@click.option(
    "--force", is_flag=True, help="With --write: also over an existing file, which is kept beside it."
)
@click.option("--check", "check_it", is_flag=True, help="Judge the ~/.slurm-oci-run that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print a list, or an object.")
@click.argument("name", required=False, shell_complete=templates)
@click.pass_obj
def command(
    prefix: str, write_it: bool, force: bool, check_it: bool, as_json: bool, name: str | None
) -> None:
    """List the starting points for ~/.slurm-oci-run, print the one called NAME, or write it.

    What is printed or written names this installation, and takes modules from the login files of the
    shell that you use. --check says what every task of yours would meet; exit status 1 if it is refused.
    """
    if (check_it and (name or write_it)) or (write_it and not name) or (force and not write_it):
        raise click.UsageError("expected NAME [--write [--force]], or --check")
    if check_it:
        check(prefix, as_json)
    elif name is None:
        list_all(as_json)
    else:
        show(prefix, name, write_it, force, as_json)


def list_all(as_json: bool) -> None:
    from slurm_oci.cli import data_folder
    from slurm_oci.explanation import Page
    from slurm_oci.templates import templates

    found = templates(data_folder("user_templates"))
    if as_json:
        click.echo(json.dumps([attrs.asdict(template) for template in found], indent=2))
        return
    page, width = Page.of_stdout(), max((len(template.name) for template in found), default=0)
    for template in found:
        click.echo("\n".join(page.folded(f"{template.name:{width}}  {template.summary}", width + 2)))


def show(prefix: str, name: str, write_it: bool, force: bool, as_json: bool) -> None:
    """Prints the template, or writes it and says what the dispatcher will make of it."""
    from slurm_oci import templates
    from slurm_oci.cli import data_folder

    template = templates.named(name, data_folder("user_templates"))
    shell = templates.shell_of_the_person()
    if not os.path.islink(os.path.join(prefix, "lib")):
        prefix = templates.WRITTEN_FOR  # nothing is installed where we look: it will be there
    text = template.text(prefix, shell)
    told: dict[str, Any] = attrs.asdict(template) | {"shell": shell, "text": text}
    if not write_it:
        click.echo(json.dumps(told, indent=2) if as_json else text, nl=as_json)
        return
    path, backup = templates.write(text, templates.passwd_entry().pw_dir, force)
    told |= {"written": path, "backup": backup or None}
    if as_json:
        found = judged(prefix)
        click.echo(json.dumps(told | {"check": found}, indent=2))
        sys.exit(status_of(found))
    click.echo(f"written: {path}" + (f"; what was there is now {backup}" if backup else ""))
    check(prefix, False)


def check(prefix: str, as_json: bool) -> None:
    """Says what the dispatcher makes of the hook, and ends with 1 where it is not run."""
    from slurm_oci.problems import visible

    found = judged(prefix)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        sys.exit(status_of(found))
    lines = {
        "runs": [f"`{found['path']}` is run for every task of yours with --container"],
        "none": [
            f"there is no `{found['path']}`: the site's default is what runs",
            "  `slurm-oci-plugins template NAME --write` makes one",
        ],
        "off": [f"`{found['path']}` is not looked for: {found['why']}"],
        "unreachable": [f"warning: {found['why']}"],
        "refused": ["every task of yours with --container is refused with exit status 125:"],
        "fails": ["every task of yours with --container ends with exit status 126:"],
    }[found["state"]]
    for finding in found["findings"]:
        lines += [finding["message"], *(f"  {hint}" for hint in finding["hints"])]
    click.echo("\n".join(map(visible, lines)))
    sys.exit(status_of(found))


def judged(prefix: str) -> dict[str, Any]:
    """What the dispatcher makes of the hook, by its own rules."""
    from slurm_oci import hook, site, templates, trust

    home = templates.passwd_entry().pw_dir
    judgement = hook.judge(home, os.geteuid())
    findings, hooked = list(judgement.findings), judgement.hook
    if hooked:
        program = next(iter(hooked.interpreter), "") or trust.interpreter_of(hooked.path)
        findings += filter(None, [trust.without_interpreter(hooked.path, program)])
    state, why = "none", judgement.warning
    if not site.read(os.path.join(prefix, site.NAME)).user_hook:
        state, why = "off", "user_hook = false in site.toml"
    elif os.environ.get("SLURM_OCI_USER_HOOK") == "no":
        state, why = "off", "SLURM_OCI_USER_HOOK=no"
    elif findings:
        state = "fails" if hooked else "refused"
    elif hooked:
        state = "runs"
    elif judgement.warning:
        state = "unreachable"
    return {
        "path": os.path.join(home, hook.NAME),
        "state": state,
        "why": why or None,
        "findings": [{"message": f.message, "hints": list(f.hints)} for f in findings],
    }


def status_of(found: dict[str, Any]) -> int:
    return 1 if found["state"] in ("refused", "fails", "unreachable") else 0
