"""One task's story, from the words that Slurm passes to a running container."""

import _signal as signals
import os
import posix
import sys

from slurm_oci import catalog as catalogs
from slurm_oci import container, execute, hook, image, job, problems, request, settings
from slurm_oci.choose import ways
from slurm_oci.problems import Problem
from slurm_oci.values import TYPE_CHECKING, Container, Image, Job, Plan, Request, Runtime, Settings, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from slurm_oci.cache import Cache, Import
    from slurm_oci.choose import Way
    from slurm_oci.log import Record
    from slurm_oci.values import Step


KNOWN_BY = {
    "name": "a word that no file here has for its name: of a runtime's own store, never of a registry",
    "reference": "by its scheme",
}


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
    first: "Import | None" = None  # what must be done before a plan can be made: `plan` is empty then
    entry: "tuple[Cache, str] | None" = None  # the unpacked image that is used


def main(words: "Sequence[str]", prefix: str) -> int:
    """The entry point: does what `words` ask for, or says why not. Returns only on a failure or
    after a supervised task; the exit status."""
    trace: "list[Step]" = []
    environ = {os.fsdecode(name): os.fsdecode(value) for name, value in posix.environ.items()}
    record: "Record | None" = None
    told: "Job | None" = None
    try:
        asked = request.read(words, environ)
        told = job.read(asked, environ, trace)
        asked = resolve_bundle(asked, told, environ)
        catalog = catalogs.read(prefix, trace, execute.warn) or catalogs.build(prefix)
        if catalog["site"]["log"]:
            from slurm_oci import log

            record = log.Record(catalog["site"]["log"], asked, trace)
        decision = ready(
            lambda: decide(asked, told, environ, catalog, prefix, trace, place), trace, catalog["site"]
        )
        return carry_out(decision, trace, record)
    except SystemExit as end:  # asked for by a signal, while an image was unpacked
        if record:
            record.ended(end.code)
        raise
    except Problem as error:
        problem = error
    except Exception as error:
        problem = unexpected(error)
        if problem.code == "internal" or is_debugged(told, environ):
            tell_where()
    if record:
        record.failed(problem)
    if is_debugged(told, environ):
        show(trace)
    execute.report(problem)
    return problem.status


def place(asked: Request, base: str) -> str:
    """The path of the task's private directory, which is not made yet."""
    from slurm_oci import state  # for the few runtimes that need one

    return state.place(asked, base)


def unexpected(error: Exception) -> Problem:
    """The node's failure, where `error` shows one, else a mistake of this program's own."""
    if isinstance(error, OSError):
        what = f"{error.strerror}: `{error.filename}`" if error.filename else str(error.strerror)
    elif isinstance(error, ImportError | MemoryError) or isinstance(getattr(error, "obj", None), type(sys)):
        what = str(error) or "there is no memory left"  # the last: Python could read a module only in part
    else:  # the one case where a traceback helps
        return problems.Internal(f"{type(error).__name__}: {error}", "please report the lines above")
    shown = "with SLURM_OCI_DEBUG=1 in the job's environment it is shown where that was"
    return problems.NodeFailed(
        f"this node failed: {what}", "submit again; if it stays, tell the administrator", shown
    )


def is_debugged(told: "Job | None", environ: "Mapping[str, str]") -> bool:
    return (told.env if told else environ).get("SLURM_OCI_DEBUG") == "1"


def tell_where() -> None:
    """The traceback of the error that is being handled, where it can be had."""
    try:
        import traceback

        execute.tell(traceback.format_exc().rstrip())
    except Exception:  # neither does a module of Python's load
        pass


def ready(decided: "Callable[[], Decision]", trace: "list[Step]", site: "Mapping[str, Any]") -> Decision:
    """The decision that can be carried out: images that must be unpacked first are there, and stay."""
    done = len(trace)
    decision = decided()
    if decision.first or decision.entry:
        from slurm_oci import images

        def again() -> Decision:
            del trace[done:]
            return decided()

        decision = images.ready(decision, again, site["images"]["limit"])
    return decision


def resolve_bundle(asked: Request, told: Job, environ: "Mapping[str, str]") -> Request:
    """`asked` with the bundle from the job's environment, where oci.conf passes `-` for it.

    Slurm sets SLURM_CONTAINER in that file to what --container says, for every kind of step. Any other
    line leaves the image's path, and before 26.05.5 quotes, to the shell: what can be seen to have been
    changed there is refused; of what a user's hook hands back nothing is known.
    """
    if asked.bundle != request.FROM_LINE or "SLURM_OCI_LINE" not in environ:
        is_from_slurm = "SLURM_OCI_HOOK" not in environ
        if is_from_slurm and told.env.get("SLURM_CONTAINER", "") not in asked.bundle:
            from slurm_oci import breakage

            breakage.refuse_other_image(asked, told)
        if is_from_slurm and "'" in "".join(asked.command):
            from slurm_oci import breakage

            breakage.refuse_other_command(asked)
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
    notes += told.notes
    found = look_for_hook(asked, told, environ, site, of_job, trace, notes)
    if found:
        combined = settings.combine([("job", of_job)], told.cwd)
        ours = {"SLURM_OCI_HOOK": job.mark(asked), job.SLURMDS_PATH: environ.get("PATH", "")}
        plan = Plan(found.argv(asked), {**told.env, **ours})
        return Decision(asked, told, Image(asked.bundle, ""), combined, "", plan, notes=tuple(notes))

    picture = image.classify(asked.bundle, told.cwd)
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if picture.kind == "environment":
        from slurm_oci import definition

        defined = definition.read(picture.path, told)
        layers += defined.layers
        trace += defined.steps
        picture = image.classify(defined.image, told.cwd)
    how = KNOWN_BY.get(picture.kind, "by what it holds")
    trace.append(("image", picture.kind, f"`{picture.name}`, {how}"))
    layers.append(("job", of_job))
    if site["rules"] or site["forced"] or site["refuse"]:
        from slurm_oci import policy

        usual = policy.usual(site, asked, told, picture, trace)
        wanted = policy.combined(site, usual, layers, told.cwd)
    else:
        wanted = settings.combine([("site.toml", site["defaults"]), *layers], told.cwd)
    refused: Problem | None = None
    for way in ways(asked, told, picture, wanted, catalog, trace, job.slurmds_path(asked, environ)):
        decision = Decision(asked, told, picture, wanted, way.runtime, Plan((), {}), notes=tuple(notes))
        try:
            return by(way, decision, catalog, prefix, private_directory)
        except problems.ImageRefused as problem:
            if way.is_named:
                raise
            trace.append(("runtime", f"not {way.runtime}", problem.message))
            refused = problem
    assert refused
    raise refused


def by(
    way: "Way",
    decision: Decision,
    catalog: "Mapping[str, Any]",
    prefix: str,
    private_directory: "Callable[[Request, str], str]",
) -> Decision:
    """`decision` with the plan of `way`, or with what has to be done first. Raises ImageRefused where
    the runtime does not run this image after all, and any other problem."""
    asked, told, picture, wanted = decision.request, decision.job, decision.image, decision.settings
    runtime = catalogs.load(way.runtime, catalog, prefix)
    with_entrypoint = way.kind == "oci-bundle" and wanted.entrypoint == "yes"
    if with_entrypoint:  # which is known, and begins the command: no runtime has to see to it
        origins = {name: label for name, label in wanted.origins.items() if name != "entrypoint"}
        wanted = wanted.replace(entrypoint="no", origins=origins)
    refuse_what_is_not_carried(runtime, wanted, picture, catalog, prefix)
    arguments = catalog["site"]["arguments"].get(way.runtime, ())
    if arguments and "arguments" not in runtime.carries:
        raise problems.SettingRefused(
            f"`arguments` in site.toml has words for `{way.runtime}`, which takes none of a site's",
            "the site: take them out of site.toml, then `slurm-oci-plugins compile`",
        )
    if way.kind and wanted.writable == "yes":
        raise problems.SettingRefused(
            f"{wanted.origins['writable']} is `yes`: what `{picture.name}` is unpacked to is kept for other"
            " tasks, and stays as it is",
            "SLURM_OCI_WRITABLE=tmp is for changes that may be lost",
            "for changes that stay, unpack it into a directory of your own and name that",
        )
    if way.importer:
        from slurm_oci import cache

        caches = cache.Caches(catalog["site"], asked, told, picture)
        work = cache.Import(way.importer, picture, way.programs, caches.own, caches.key)
        return decision.replace(first=work)
    if way.entry:
        picture = Image(picture.name, way.kind, os.path.join(way.entry[0].entry(way.entry[1]), "image"))
    if picture.kind == "rootfs":
        picture = picture.replace(root=picture.path)
    elif picture.kind == "oci-bundle":
        from slurm_oci import bundle

        picture = bundle.opened(picture)
        if bundle.is_slurms(picture.path, asked.spool):
            picture = bundle.without_variables(picture)  # which are the job's, and not the image's
    entrypoint = bundle.entrypoint(picture) if with_entrypoint and asked.command else ()
    box = container.build(asked, told, picture, wanted, bool(entrypoint)).replace(
        own={k: v for k, v in told.env.items() if runtime.variables and k.startswith(runtime.variables)},
        executables=way.executables,
        configured=catalog["site"]["executables"],
        places=way.places,
        probed=by_plugin(runtime, lambda: catalogs.probed(runtime, way.executables, catalog)),
        prefix=prefix,
        arguments=tuple(arguments),
    )
    if entrypoint:
        box = box.replace(command=(*entrypoint, *box.command))
    needs = {picture.kind, f"writable={wanted.writable}", "gpu" if container.has_gpus(box) else ""}
    is_private = not needs.isdisjoint(runtime.private)
    private = private_directory(asked, catalog["site"]["state"]) if is_private else ""
    plan = planned(runtime, box.replace(private=private))
    image = decision.image if way.entry else picture
    notes = (*decision.notes, *plan.notes)
    if wanted.env == "none":
        from slurm_oci import mpi

        notes += mpi.notes(asked, told, wanted)
    return decision.replace(
        image=image, plan=plan, private=private, container=box, notes=notes, entry=way.entry
    )


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
    try:
        judgement = hook.find(told.home, asked.uid)
    except Problem as problem:
        trace.append(("hook", "refused", problem.message))
        raise
    if judgement.hook:
        from slurm_oci import trust  # few users have a hook

        trust.refuse_itself(judgement.hook.path, asked)
        trace.append(("hook", judgement.hook.path, "there and safe: it takes over"))
    else:
        trace.append(("hook", "no", judgement.warning or f"no {told.home}/{hook.NAME}"))
        notes += [judgement.warning] if judgement.warning else []
    return judgement.hook


def refuse_what_is_not_carried(
    runtime: Runtime, wanted: Settings, picture: Image, catalog: "Mapping[str, Any]", prefix: str
) -> None:
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
            from slurm_oci import advice

            raise advice.not_carried(label, wish, runtime.name, picture, catalog, prefix)


def planned(runtime: Runtime, box: Container) -> Plan:
    """The runtime's plan. Raises PluginFailed for what is none, and any problem that it raises."""
    plan: Plan = by_plugin(runtime, lambda: runtime.plan(box))
    fault = fault_of(plan)
    if fault:  # and no more of the plan, which has all of the job's variables
        raise problems.PluginFailed(
            f"the plugin of `{runtime.name}` gave no plan that can be carried out: {fault}",
            "tell its author; `slurm-oci-plugins list` shows where it comes from",
        )
    return plan


def fault_of(plan: "Any") -> str:
    """What is wrong with what a plugin gave as its plan, if anything is."""
    if not isinstance(plan, Plan):
        return f"it is of the type {type(plan).__name__}"
    try:
        fields = [("argv", plan.argv), ("folders", plan.folders), ("notes", plan.notes)]
        fields += [("env", (*plan.env.keys(), *plan.env.values()))]
        fields += [("prepare", words) for words in plan.prepare]
        fields += [("cleanup", words) for words in plan.cleanup]
        fields += [("links", words) for words in plan.links]
    except (AttributeError, TypeError) as error:
        return str(error)
    for name, texts in fields:
        if not isinstance(texts, tuple | list):
            return f"in its {name} is something of the type {type(texts).__name__}, where a tuple belongs"
        try:
            "".join(texts)
        except TypeError as error:
            return f"in its {name}, {error}"
    if not plan.argv:
        return "its argv is empty"
    if not plan.argv[0].startswith("/"):
        return f"its argv begins with `{plan.argv[0]}`, which is no absolute path"
    return ""


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
        record.decided(decision)
    if decision.plan.mode == "supervise":
        try:
            from slurm_oci import supervise

            status = supervise.supervise(decision.plan, decision.private, decision.request.node)
        finally:
            if decision.entry:
                from slurm_oci import images

                images.release(decision)
        if record:
            record.ended(status)
        return status
    if not decision.runtime:
        execute.become_hook(decision.plan)
    execute.become(decision.plan)


def show(trace: "list[Step]") -> None:
    """The decision trace on stderr, a line a step."""
    lines = (f"slurm-oci: {step}: {result} ({why})" for step, result, why in trace)
    execute.tell("\n".join(map(problems.visible, lines)))


def run(prefix: str) -> int:
    """What `PREFIX/run` calls: `main` on this process's own words."""
    signals.signal(signals.SIGINT, signals.SIG_DFL)  # ^C ends it, without Python's words
    return main(sys.argv[1:], prefix)
