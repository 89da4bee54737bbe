"""One task's story, from the words that Slurm passes to a running container."""

import os
import posix
import sys

from slurm_oci import catalog as catalogs
from slurm_oci import container, execute, hook, image, job, problems, request, settings, state
from slurm_oci.choose import choose
from slurm_oci.problems import Problem
from slurm_oci.values import TYPE_CHECKING, Container, Image, Job, Plan, Request, Runtime, Settings, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from slurm_oci.log import Record
    from slurm_oci.values import Step


class Decision(Value):
    """What is done for one task, and how that was found. `runtime` is empty for the user's hook."""

    request: Request
    job: Job
    image: Image
    settings: Settings
    runtime: str
    plan: Plan
    private: str = ""
    container: "Container | None" = None
    notes: tuple[str, ...] = ()


def main(words: "Sequence[str]", prefix: str) -> int:
    """The entry point: does what `words` ask for, or says why not. Returns only on a failure or
    after a supervised task; the exit status."""
    trace: "list[Step]" = []
    environ = {os.fsdecode(name): os.fsdecode(value) for name, value in posix.environ.items()}
    record: "Record | None" = None
    try:
        asked = request.read(words, environ)
        told = job.read(asked, environ, trace)
        asked = resolve_bundle(asked, told, environ)
        catalog = catalogs.read(prefix, trace, execute.warn) or catalogs.build(prefix)
        if catalog["site"]["log"]:
            from slurm_oci import log

            record = log.Record(catalog["site"]["log"], asked)
        decision = decide(asked, told, environ, catalog, prefix, trace, state.place)
        return carry_out(decision, trace, record)
    except Problem as problem:
        if record:
            record.failed(problem)
        if environ.get("SLURM_OCI_DEBUG") == "1":
            show(trace)
        execute.report(problem)
        return problem.status
    except Exception as error:
        import traceback  # a bug of ours, and the one case where its traceback helps

        execute.tell(traceback.format_exc().rstrip())
        execute.report(problems.Internal(f"{type(error).__name__}: {error}", "please report the lines above"))
        return problems.Internal.status


def resolve_bundle(asked: Request, told: Job, environ: "Mapping[str, str]") -> Request:
    """`asked` with the bundle from the job's environment, where oci.conf passes `-` for it.

    Slurm sets SLURM_CONTAINER in that file to what --container says, for every kind of step.
    """
    if asked.bundle != request.FROM_LINE or "SLURM_OCI_LINE" not in environ:
        return asked
    if "SLURM_CONTAINER" not in told.env:
        raise problems.RequestMalformed(
            "oci.conf passes `-` for the image, and the job's environment has no SLURM_CONTAINER"
            f" (it was taken from: {told.env_from})",
            "that form needs CreateEnvFile=null in oci.conf; `slurm-oci-plugins oci-conf` prints it",
        )
    return asked.replace(bundle=told.env["SLURM_CONTAINER"])


def decide(
    asked: Request,
    told: Job,
    environ: "Mapping[str, str]",
    catalog: "Mapping[str, Any]",
    prefix: str,
    trace: "list[Step]",
    private_directory: "Callable[[Request, str], str]",
) -> Decision:
    """What to do for the task. Starts nothing; `private_directory(request, base)` gives the path
    of the task's private directory, if the runtime chosen needs one."""
    site = catalog["site"]
    of_job, notes = settings.of_job(told.env)
    found = look_for_hook(asked, told, environ, site, of_job, trace, notes)
    if found:
        combined = settings.combine([("job", of_job)], told.cwd)
        plan = Plan(found.argv(asked), {**told.env, "SLURM_OCI_HOOK": job.mark(asked)})
        return Decision(asked, told, Image(asked.bundle, ""), combined, "", plan, notes=tuple(notes))

    picture = image.classify(asked.bundle, told.cwd)
    layers: list[tuple[str, Mapping[str, Any]]] = [("site.toml", site["defaults"])]
    if picture.kind == "environment":
        from slurm_oci import definition

        defined = definition.read(picture.path, told)
        layers += defined.layers
        trace += defined.steps
        picture = image.classify(defined.image, told.cwd)
    trace.append(("image", picture.kind, f"`{picture.name}`, by what it holds"))
    if picture.kind == "reference" and not site["pull"]:
        raise problems.PullRefused(
            f"`{picture.name}` would be fetched from a registry, which this site does not allow",
            "make a file of it first, and name that; the site: `pull = true` in site.toml",
        )
    wanted = settings.combine([*layers, ("job", of_job)], told.cwd)
    name, executables = choose(asked, told, picture, wanted, catalog, trace, environ.get("PATH", ""))
    runtime = catalogs.load(name, catalog, prefix)
    refuse_what_is_not_carried(runtime, wanted)
    if picture.kind in ("rootfs", "oci-bundle"):
        from slurm_oci import bundle

        picture = bundle.opened(picture)
        if bundle.is_slurms(picture.path, asked.spool):
            picture = bundle.without_variables(picture)  # which are the job's, and not the image's
    box = container.build(asked, told, picture, wanted).replace(
        own={k: v for k, v in told.env.items() if runtime.variables and k.startswith(runtime.variables)},
        executables=executables,
        probed=by_plugin(runtime, lambda: catalogs.probed(runtime, executables, catalog)),
        prefix=prefix,
    )
    needs = {picture.kind, f"writable={wanted.writable}"} & set(runtime.private)
    private = private_directory(asked, site["state"]) if needs else ""
    plan = planned(runtime, box.replace(private=private))
    notes += plan.notes
    return Decision(asked, told, picture, wanted, name, plan, private, box, tuple(notes))


def look_for_hook(
    asked: Request,
    told: Job,
    environ: "Mapping[str, str]",
    site: "Mapping[str, Any]",
    of_job: "Mapping[str, str]",
    trace: "list[Step]",
    notes: list[str],
) -> "hook.Hook | None":
    """The user's own script, where it is to be run. Raises HookUnsafe."""
    why = ""
    if environ.get("SLURM_OCI_HOOK") == job.mark(asked):
        why = "it is the user's hook that calls"
    elif environ.get("SLURM_OCI_HOOK") == job.WITHOUT_HOOK:
        why = "called as slurm-oci-run-default"
    elif not site["user_hook"]:
        why = "user_hook = false in site.toml"
    elif of_job.get("user_hook") == "no":
        why = "SLURM_OCI_USER_HOOK=no"
    if why:
        trace.append(("hook", "no", why))
        return None
    judgement = hook.find(told.home, asked.uid)
    if judgement.hook:
        trace.append(("hook", judgement.hook.path, "there and safe: it takes over"))
    else:
        trace.append(("hook", "no", judgement.warning or f"no {told.home}/{hook.NAME}"))
        notes += [judgement.warning] if judgement.warning else []
    return judgement.hook


def refuse_what_is_not_carried(runtime: Runtime, wanted: Settings) -> None:
    """Raises SettingRefused for the first wish that the runtime has no means for."""
    for name, label in wanted.origins.items():
        value = getattr(wanted, name)
        if value == getattr(Settings, name) or name in ("runtime", "env", "command", "user_hook", "debug"):
            continue
        if name == "slurm":
            wish = "mounts"  # which is all that it takes
        else:
            wish = name if name in ("mounts", "workdir", "variables") else f"{name}={value}"
        if wish not in runtime.carries:
            raise problems.SettingRefused(
                f"{label} asks for `{wish}`, which `{runtime.name}` cannot do",
                f"`slurm-oci-plugins show {runtime.name}` lists what it can",
            )


def planned(runtime: Runtime, box: Container) -> Plan:
    """The runtime's plan. Raises PluginFailed for what is none, and any problem that it raises."""
    plan: Plan = by_plugin(runtime, lambda: runtime.plan(box))
    if not isinstance(plan, Plan) or not plan.argv or not all(isinstance(word, str) for word in plan.argv):
        raise problems.PluginFailed(
            f"the plugin of `{runtime.name}` gave no plan that can be carried out: {plan!r}",
            "tell its author; `slurm-oci-plugins list` shows where it comes from",
        )
    return plan


def by_plugin(runtime: Runtime, function: "Callable[[], Any]") -> "Any":
    """What a function of the plugin's gives; its mistake is named as such. Raises PluginFailed."""
    try:
        return function()
    except Problem:
        raise
    except (Exception, SystemExit) as error:
        raise problems.PluginFailed(
            f"the plugin of `{runtime.name}` failed: {type(error).__name__}: {error}",
            "tell its author; `slurm-oci-plugins list` shows where it comes from",
        ) from None


def carry_out(decision: Decision, trace: "list[Step]", record: "Record | None" = None) -> int:
    if decision.settings.debug == "1":
        show(trace)
    for note in decision.notes:
        execute.warn(note)
    if record:
        record.decided(decision, trace)
    if decision.plan.mode == "supervise":
        status = execute.supervise(decision.plan, decision.private, decision.request.node)
        if record:
            record.ended(status)
        return status
    if not decision.runtime:
        execute.become_hook(decision.plan)
    execute.become(decision.plan)


def show(trace: "list[Step]") -> None:
    """The decision trace on stderr, a line a step."""
    execute.tell("\n".join(f"slurm-oci: {step}: {result} ({why})" for step, result, why in trace))


def run(prefix: str) -> int:
    """What `PREFIX/run` calls: `main` on this process's own words."""
    return main(sys.argv[1:], prefix)
