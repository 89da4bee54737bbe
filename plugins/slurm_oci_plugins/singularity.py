"""SingularityCE: what Apptainer runs, by nearly the same command line."""

from slurm_oci import Container, Mount, Plan, Runtime
from slurm_oci_plugins import apptainer, carried


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="singularity",
            summary="SingularityCE, Sylabs': SIF, squashfs, directories",
            accepts=("sif", "squashfs", "rootfs", "oci-bundle"),
            executables=("singularity",),
            plan=plan,
            carries=(
                *("mounts", "workdir", "variables", "arguments", "home=none", "entrypoint=yes"),
                *("writable=tmp", "writable=yes", "gpu=nvidia", "gpu=amd", "gpu=none"),
            ),
            variables=("SINGULARITY_", "SINGULARITYENV_"),
            probe=probe,
        )
    ]


def probe(executable: str) -> dict[str, bool]:
    """Which of the options that came and went this version knows (`singularity help exec`, `… run`)."""
    from slurm_oci.ask import answer  # tasks take the answer from the catalog

    of_exec, of_run = answer(executable, "help", "exec"), answer(executable, "help", "run")
    return {
        "cwd": "--cwd" in of_exec,
        "mount": "--mount" in of_exec,
        "no-eval": "--no-eval" in of_run,
    }


def plan(container: Container) -> Plan:
    if container.probed.get("mount", True):
        return apptainer.plan_for(container, "singularity", "SINGULARITYENV_")
    container = container.replace(mounts=carried.mounts(container, fault_of_bind))
    return with_bind(apptainer.plan_for(container, "singularity", "SINGULARITYENV_"), container)


def fault_of_bind(mount: Mount) -> str:
    if set(mount.source + mount.target) & set(":,"):
        return "this singularity has no `--mount`, and its `--bind` cannot carry `:` or `,`"
    return ""


def with_bind(made: Plan, container: Container) -> Plan:
    """`made` for a version that has no `--mount` yet."""
    by_text = {apptainer.mount_text(m.source, m.target, m.readonly): m for m in container.mounts}
    words = list(made.argv)
    for at in range(len(words) - len(container.command)):
        if words[at] == "--mount" and words[at + 1] in by_text:  # else it is the site's own
            mount = by_text[words[at + 1]]
            text = f"{mount.source}:{mount.target}" + ":ro" * mount.readonly
            words[at : at + 2] = ["--bind", text]
    return made.replace(argv=tuple(words))
