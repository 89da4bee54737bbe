"""`slurm-oci-plugins explain IMAGE [-- COMMAND…]`"""

import json
import shlex
import sys
from typing import Any, NoReturn

import click

from slurm_oci.commands.run import without_dashes
from slurm_oci.completion import files

SECRET = ("TOKEN", "SECRET", "PASSW", "PASSPHRASE", "CREDENTIAL", "API_KEY", "APIKEY", "PRIVATE_KEY", "AUTH")


@click.command("explain", context_settings={"allow_interspersed_args": False})
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@click.option(
    "--oci-conf",
    metavar="FILE",
    shell_complete=files,
    help="The shell's line that Slurm would make of this oci.conf.",
)
@click.option("--slurm-version", metavar="V", help="With --oci-conf: this release.  [default: the installed]")
@click.argument("image", shell_complete=files)
@click.argument("words", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED, shell_complete=files)
@click.pass_obj
def command(
    prefix: str,
    as_json: bool,
    oci_conf: str | None,
    slurm_version: str | None,
    image: str,
    words: tuple[str, ...],
) -> None:
    """What would be done for IMAGE and COMMAND here, and why. Nothing is started.

    Without a COMMAND it is /bin/sh. The settings are taken from this shell's SLURM_OCI_ variables.

    With --oci-conf it is what comes before: the line that Slurm would give to /bin/sh and the words
    that the shell would make of it; exit status 1 if they are not what the user wrote.
    """
    from slurm_oci import state
    from slurm_oci.problems import Problem
    from slurm_oci.trial import decision_for

    trace: list[tuple[str, str, str]] = []
    words = without_dashes(words) or ("/bin/sh",)
    if oci_conf is not None:
        show_launch(oci_conf, slurm_version, image, words, as_json)
    try:
        shown = as_data(decision_for(prefix, image, words, trace, state.propose), trace)
    except Problem as problem:
        shown = {"trace": steps(trace), "error": {"code": problem.code, "lines": problem.lines()}}
    if as_json:
        click.echo(json.dumps(shown, indent=2, ensure_ascii=True))
    else:
        click.echo("\n".join(as_text(shown)))
    sys.exit(1 if "error" in shown else 0)


def show_launch(
    path: str, slurm_version: str | None, image: str, words: tuple[str, ...], as_json: bool
) -> NoReturn:
    """Prints the shell's line and its words, and ends."""
    import attrs

    from slurm_oci.commands.oci_conf import release
    from slurm_oci.launch import launch
    from slurm_oci.problems import visible

    shown = launch(path, release(slurm_version), image, words)
    if as_json:
        click.echo(json.dumps(attrs.asdict(shown), indent=2))
        sys.exit(1 if shown.faults else 0)
    where = f"{shown.key}, {shown.file}:{shown.line}, Slurm {shown.slurm_version}"
    lines = [click.style("/bin/sh -c", bold=True) + f"  ({where})", f"  {visible(shown.shell)}"]
    if shown.words is not None:
        lines += [
            click.style("words", bold=True),
            *(f"  {shlex.quote(visible(word))}" for word in shown.words),
        ]
    if shown.command is not None:
        lines += [click.style("command", bold=True) + "  (as the entry point reads it)"]
        lines += [f"  {shlex.quote(visible(word))}" for word in shown.command]
    if shown.words is None and shown.command is None:
        lines += [f"  the shell does more with it than take its words: {visible(shown.acts)}"]
    click.echo("\n".join([*lines, *(f"fault: {visible(fault)}" for fault in shown.faults)]))
    sys.exit(1 if shown.faults else 0)


def as_data(decision: Any, trace: list[tuple[str, str, str]]) -> dict[str, Any]:
    """The documented JSON form of a decision."""
    plan, job = decision.plan, decision.job
    given = {name: value for name, value in plan.env.items() if job.env.get(name) != value}
    box = decision.container
    settings = {**decision.settings.as_dict(), "variables": masked(dict(decision.settings.variables))}
    return {
        "image": {"name": decision.image.name, "path": decision.image.path, "kind": decision.image.kind},
        "runtime": decision.runtime or "user hook",
        "trace": steps(trace),
        "mode": plan.mode,
        "argv": list(plan.argv),
        "cwd": plan.cwd or job.cwd,
        "env": {"set": masked(given), "unset": sorted(set(job.env) - set(plan.env))},
        "mounts": [mount.as_dict() for mount in box.mounts] if box else [],
        "workdir": box.workdir if box else job.cwd,
        "settings": {
            name: {"value": value, "from": decision.settings.origins.get(name, "built-in")}
            for name, value in settings.items()
            if name not in ("origins", "mounts")
        },
        "own": masked(dict(box.own)) if box else {},
        "files": [file.name for file in plan.files],
        "prepare": [list(argv) for argv in plan.prepare],
        "cleanup": [list(argv) for argv in plan.cleanup]
        + ([["remove", decision.private]] if plan.mode == "supervise" else []),
        "notes": list(decision.notes),
    }


def steps(trace: list[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [{"step": step, "result": result, "why": why} for step, result, why in trace]


def masked(env: dict[str, str]) -> dict[str, str]:
    """`env` with the values of names that look like secrets hidden."""
    return {
        name: "********" if any(part in name.upper() for part in SECRET) else value
        for name, value in sorted(env.items())
    }


def as_text(shown: dict[str, Any]) -> list[str]:
    from slurm_oci.problems import visible

    def head(text: str) -> str:
        return click.style(text, bold=True)

    lines = [head("decision")]
    for step in shown["trace"]:
        lines.append(f"  {step['step'] + ':':13}{visible(step['result'])}  ({visible(step['why'])})")
    if "error" in shown:
        return [*lines, *shown["error"]["lines"]]
    lines += [head("command") + f"  ({shown['mode']})"]
    lines += ["  " + " ".join(shlex.quote(visible(word)) for word in shown["argv"])]
    asked = {name: value for name, value in shown["settings"].items() if value["from"] != "built-in"}
    lines += [head("settings")] if asked else []
    lines += [f"  {name}={visible(str(value['value']))}  ({value['from']})" for name, value in asked.items()]
    lines += [head("mounts")]
    for mount in shown["mounts"]:
        how = " read-only" if mount["readonly"] else ""
        must = "" if mount["wish"] else ", if possible"
        lines.append(
            f"  {visible(mount['source'])} -> {visible(mount['target'])}{how}  ({mount['why']}{must})"
        )
    lines += [f"  working directory: {visible(shown['workdir'])}"]
    lines += [head("environment of the runtime")]
    lines += [f"  set    {visible(name)}={visible(value)}" for name, value in shown["env"]["set"].items()]
    lines += [f"  unset  {visible(name)}" for name in shown["env"]["unset"]]
    lines += [f"  kept   {visible(name)}={visible(value)}" for name, value in shown["own"].items()]
    if shown["cleanup"]:
        lines += [head("afterwards")]
        lines += ["  " + " ".join(shlex.quote(word) for word in argv) for argv in shown["cleanup"]]
    return lines + [f"warning: {visible(note)}" for note in shown["notes"]]
