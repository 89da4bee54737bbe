"""Each runtime of this node, tried with a task of the user's in a tiny image."""

import os
from collections.abc import Callable, Iterator, Mapping

from slurm_oci import catalog, execute, job, node, state, supervise
from slurm_oci.checks import Finding, Group, last_line, tiny, tried
from slurm_oci.choose import allowed
from slurm_oci.installed_slurm import this_node
from slurm_oci.main import Decision, by_plugin, carry_out, decide
from slurm_oci.plugins import Found, Gathered
from slurm_oci.problems import Problem
from slurm_oci.values import Job, Plan, Request, Runtime

GROUP = Group("runtimes")


def checks(gathered: Gathered, images: Mapping[str, str]) -> Iterator[Finding]:
    """`images`: the tiny image's path by kind. One finding for each runtime that this node has."""
    by_name = {found.runtime.name: found for found in gathered.found}
    absent, refused = [], []
    good = 0
    for name in gathered.order():
        found = by_name[name]
        executables, missing = node.on_node(found, gathered)
        if not allowed(name, gathered.site.plain()):
            refused.append(name)
            continue
        if missing:
            absent.append(name)
            continue
        version = (
            node.version_of(next(iter(executables.values())), found.runtime.version) if executables else ""
        )
        for finding in of_runtime(found, gathered.prefix, images, version or ""):
            good += finding.state == "ok"
            yield finding
    if absent:
        yield GROUP.ok("absent", "not on this node: " + ", ".join(absent))
    if refused:
        yield GROUP.ok("refused", "not allowed by site.toml: " + ", ".join(refused))
    if not good:
        yield GROUP.failed("none", "no runtime works here", "mend or install one of those above")


def of_runtime(found: Found, prefix: str, images: Mapping[str, str], version: str) -> Iterator[Finding]:
    runtime = found.runtime
    kind = next((kind for kind in runtime.accepts if kind in images), "")
    if not kind:
        takes = ", ".join(runtime.accepts)
        cure = "try it with an image of its own: `slurm-oci-plugins run IMAGE -- true`"
        yield GROUP.warning(runtime.name, f"not tried: there is no tiny image that is {takes}", cure, version)
        return
    task = Task(runtime.name, prefix, images[kind])
    status, said = tried(task.run)
    if status == 0 and tiny.SAYS.decode() in said:
        yield GROUP.ok(
            runtime.name, f"runs a program in an image of kind {kind}{in_brackets(version)}", version
        )
    else:
        yield failure(task, f"a program in an image of kind {kind}", status, said, version)
        return
    if runtime.check:
        status, said = tried(task.check)
        if status:
            yield failure(task, "create, start, kill and delete, one by one,", status, said, "")
        else:
            message = "create, start, kill and delete work one by one, as Slurm calls them"
            yield GROUP.ok(f"{runtime.name}-steps", message)


def in_brackets(version: str) -> str:
    return f" ({version})" if version else ""


def failure(task: "Task", what: str, status: int, said: str, version: str) -> Finding:
    ended = "gave no answer in time" if status == 124 else f"ended with {status}"
    cure = (
        f"by hand, as this user: `SLURM_OCI_RUNTIME={task.name} slurm-oci-plugins run IMAGE -- true`;"
        " `order` in site.toml without it, or uninstalling it, has others take its place"
    )
    return GROUP.failed(task.name, f"{what} {ended}: {last_line(said)}", cure, version)


class Task:
    """A task of this user, as Slurm would start it, but for Slurm."""

    def __init__(self, name: str, prefix: str, image: str) -> None:
        self.name = name  # of the runtime
        self.prefix = prefix
        self.image = image

    def run(self) -> int:
        """What `slurm-oci-plugins run` does. Returns where it failed, or where it stayed as the parent."""
        return self.told(lambda decision: carry_out(decision, []))

    def check(self) -> int:
        """The plan that the runtime's plugin has for this."""

        def carried(decision: Decision) -> int:
            runtime = catalog.load(self.name, self.catalog, self.prefix)
            plan = self.plan_of(runtime, decision)
            return supervise.supervise(plan, decision.private, decision.request.node)

        return self.told(carried)

    def plan_of(self, runtime: Runtime, decision: Decision) -> Plan:
        check, box = runtime.check, decision.container
        assert check is not None
        assert box is not None
        waiting = box.replace(command=(tiny.PLACE, "wait"), private=decision.private)
        plan: Plan = by_plugin(runtime, lambda: check(waiting))
        return plan

    def told(self, carry: Callable[[Decision], int]) -> int:
        try:
            self.catalog = catalog.read(self.prefix) or catalog.build(self.prefix)
            return carry(self.decision())
        except Problem as problem:
            execute.report(problem)
            return problem.status

    def decision(self) -> Decision:
        asked = Request(self.image, "", "", os.geteuid(), this_node(), 0, 0, 0, (tiny.PLACE,))
        user, home, shell = job.passwd_entry(asked, [])
        env = job.least(asked, user, home, shell)
        env |= {"SLURM_OCI_RUNTIME": self.name, "SLURM_OCI_USER_HOOK": "no"}
        told = Job(env, "process", "/", user, home, shell)
        environ = {"PATH": os.environ.get("PATH", "")}
        return decide(asked.replace(user=user), told, environ, self.catalog, self.prefix, [], state.place)
