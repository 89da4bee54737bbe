"""`slurm-oci-plugins explain IMAGE [-- COMMAND…]`"""

import contextlib
import json
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from slurm_oci.commands.run import OfImage, without_dashes
from slurm_oci.completion import files
from slurm_oci.secret import HIDDEN, is_secret, without_passwords

SHELL = ("/bin/sh",)


@click.command("explain", cls=OfImage, context_settings={"allow_interspersed_args": False})
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

    Without a COMMAND it is the bundle's own, else /bin/sh. The settings are taken from this shell's
    SLURM_OCI_ variables.

    With --oci-conf it is what comes before: the line that Slurm would give to /bin/sh and the words
    that the shell would make of it; exit status 1 if they are not what the user wrote.
    """
    from slurm_oci.problems import Problem
    from slurm_oci.trial import catalog_of

    trace: list[tuple[str, str, str]] = []
    words = without_dashes(words)
    if oci_conf is not None:
        show_launch(oci_conf, slurm_version, image, words or SHELL, as_json)
    try:
        catalog = catalog_of(prefix)
        decision = decision_of(prefix, image, words, trace, catalog)
        shown = as_data(decision, trace) | {"considered": considered(decision, trace, catalog)}
    except Problem as problem:
        shown = {"trace": steps(trace), "error": {"code": problem.code, "lines": problem.lines()}}
    if as_json:
        click.echo(json.dumps(shown, indent=2, ensure_ascii=True))
    else:
        from slurm_oci.explanation import page

        click.echo(page(shown).text(), color=True)
    sys.exit(1 if "error" in shown else 0)


def decision_of(
    prefix: str, image: str, words: tuple[str, ...], trace: list[tuple[str, str, str]], catalog: Any
) -> Any:
    """What would be done. Without `words`, for an image that says nothing to run, a shell."""
    from slurm_oci import state
    from slurm_oci.problems import RequestMalformed
    from slurm_oci.trial import decision_for

    try:
        return decision_for(prefix, image, words, trace, state.propose, catalog)
    except RequestMalformed:
        if words:
            raise
        trace.clear()
        return decision_for(prefix, image, SHELL, trace, state.propose, catalog)


def show_launch(
    path: str, slurm_version: str | None, image: str, words: tuple[str, ...], as_json: bool
) -> NoReturn:
    """Prints the shell's line and its words, and ends."""
    import attrs

    from slurm_oci import installed_slurm
    from slurm_oci.commands.oci_conf import release
    from slurm_oci.explanation import Page, shell_word
    from slurm_oci.launch import launch
    from slurm_oci.problems import visible

    assumed = slurm_version is None and installed_slurm.found() is None
    shown = launch(path, release(slurm_version), image, words)
    if as_json:
        click.echo(json.dumps(attrs.asdict(shown) | {"slurm_assumed": assumed}, indent=2))
        sys.exit(1 if shown.faults else 0)
    page = Page.of_stdout()
    beside = f"{shown.key}, {shown.file}:{shown.line}, Slurm {shown.slurm_version}"
    beside += ", assumed: there is no slurmd here" if assumed else ""
    if shown.shell.isprintable():
        page.head("/bin/sh -c", beside)
        page.line(shown.shell, hanging=2)
    else:
        page.head("/bin/sh -c", beside + r"; a backslash is shown as \\, a line break as \n, a byte as \xff")
        page.line(shown.shell.replace("\\", "\\\\"), hanging=2)
    if shown.words is not None:
        page.head("words", "as /bin/sh makes them")
        page.lines += [f"  {shell_word(word)}" for word in shown.words]
    elif shown.starts:
        page.line(f"the shell does more with it than take its words: {shown.acts}")
    else:
        page.line(f"the shell does not start it: {shown.acts}")
    if shown.image is not None:
        page.head("image", "from SLURM_CONTAINER in the job's environment")
        page.lines.append(f"  {shell_word(shown.image)}")
    if shown.command is not None:
        page.head("command", "as the entry point reads it in the line above")
        page.lines += [f"  {shell_word(word)}" for word in shown.command]
    for fault in shown.faults:
        page.lines += [page.styled(line, fg="red") for line in page.folded(f"fault: {visible(fault)}", 4)]
    click.echo(page.text(), color=True)
    sys.exit(1 if shown.faults else 0)


def as_data(decision: Any, trace: list[tuple[str, str, str]]) -> dict[str, Any]:
    """The documented JSON form of a decision."""
    plan, job = decision.plan, decision.job
    box = decision.container
    settings = {**decision.settings.as_dict(), "variables": masked(dict(decision.settings.variables))}
    return {
        "image": image_data(decision),
        "import": import_data(decision.first),
        "runtime": decision.runtime or "user hook",
        "trace": steps(trace),
        "mode": None if decision.first else plan.mode,
        "argv": without_secrets(decision),
        "cwd": plan.cwd or job.cwd,
        "env": differences(job.env, plan.env),
        "container_env": of_container(job.env, box.env if box else job.env),
        "mounts": [mount.as_dict() for mount in box.mounts] if box else [],
        "workdir": box.workdir if box else job.cwd,
        "settings": {
            name: setting_data(name, value, decision.settings)
            for name, value in settings.items()
            if name not in ("origins", "mounts", "lost")
        },
        "own": masked(dict(box.own)) if box else {},
        "files": [file.name for file in plan.files],
        "prepare": [list(argv) for argv in plan.prepare],
        "cleanup": [list(argv) for argv in plan.cleanup]
        + ([["remove", decision.private]] if plan.mode == "supervise" else []),
        "notes": [*map(without_passwords, decision.notes)],
        "hints": hints(decision),
    }


def image_data(decision: Any) -> dict[str, str]:
    """Before a hook nothing looks at the image; here it is told as far as it can be seen."""
    from slurm_oci.image import classify
    from slurm_oci.problems import Problem

    found = decision.image
    if not found.kind:
        with contextlib.suppress(Problem):
            found = classify(found.name, decision.job.cwd)
    return {"name": found.name, "path": found.path, "kind": found.kind}


def hints(decision: Any) -> list[str]:
    """What the reader should know of what is shown."""
    if decision.first:
        return ["the plan is made when the image is unpacked: how the command runs is not known before"]
    if not decision.runtime:
        return ["SLURM_OCI_USER_HOOK=no shows what happens after it hands back"]
    return []


def setting_data(name: str, value: Any, settings: Any) -> dict[str, Any]:
    """Its value, where that comes from, and what it came over, if anything; the last first."""
    found = {"value": value, "from": settings.origins.get(name, "built-in")}
    over = [{"value": lost, "from": origin} for lost_name, lost, origin in settings.lost if lost_name == name]
    if over and name != "variables":  # which add up
        found["over"] = over[::-1]
    return found


def import_data(first: Any) -> dict[str, Any] | None:
    """What is done before a plan can be made: all of the plan is empty then."""
    if not first:
        return None
    return {
        "importer": first.importer.name,
        "makes": first.importer.gives,
        "cache": first.cache.path,
        "commands": [
            [*map(without_passwords, argv)] for argv in first.importer.commands(first.image, first.programs)
        ],
    }


def steps(trace: list[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [
        {"step": step, "result": without_passwords(result), "why": without_passwords(why)}
        for step, result, why in trace
    ]


def considered(decision: Any, trace: list[tuple[str, str, str]], catalog: Any) -> list[dict[str, str]]:
    """Every runtime in the site's order, and why it was taken or passed over; none where one was asked
    for by name."""
    from slurm_oci.explanation import UNFIT

    chosen, kind = decision.runtime, decision.image.kind
    fit = {name for name, *_ in catalog["candidates"].get(kind, ())}
    if chosen not in fit:
        return []
    why = {result.removeprefix("not "): why for step, result, why in trace if step == "runtime"}
    if not why[chosen].startswith("the first"):
        return []
    return [
        {"name": name, "why": why.get(name) or (f"`{chosen}` comes before it" if name in fit else UNFIT)}
        for name in catalog["order"]
    ]


def differences(job: Mapping[str, str], other: Mapping[str, str]) -> dict[str, Any]:
    """What `other` sets otherwise than the job's environment, and what it lacks."""
    given = {name: value for name, value in other.items() if job.get(name) != value}
    return {"set": masked(given), "unset": sorted(set(job) - set(other))}


def of_container(job: Mapping[str, str], env: Mapping[str, str]) -> dict[str, Any]:
    """`differences`; what the image has its own of is no variable that the container lacks."""
    from slurm_oci.container import IMAGES_OWN

    found = differences(job, env)
    own = [name for name in IMAGES_OWN if name in found["unset"]]
    return found | {"unset": [name for name in found["unset"] if name not in own], "image": own}


def without_secrets(decision: Any) -> list[str]:
    """The plan's words; where a runtime is told a variable that looks like a secret by an option, its
    value is hidden. What the user wrote as the command stays."""
    argv, box = decision.plan.argv, decision.container
    env = dict(box.env) if box else {}
    secrets = [value for name, value in env.items() if value and masked({name: value})[name] != value]
    end = len(argv) - len(box.command if box else decision.request.command)
    words = list(argv[:end])
    for secret in secrets:
        words = [word.replace(secret, HIDDEN) if len(secret) > 2 else word for word in words]
    return [*map(without_passwords, words), *argv[end:]]


def masked(env: dict[str, str]) -> dict[str, str]:
    """`env` with the values of names that look like secrets hidden, and passwords in URIs."""
    return {
        name: HIDDEN if is_secret(name) else without_passwords(value) for name, value in sorted(env.items())
    }
