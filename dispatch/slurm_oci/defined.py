"""Runtimes that a site defines in site.toml, by a list of words in oci.conf's letters."""

from slurm_oci.job import STANDARD_PATH
from slurm_oci.pattern import Fields, words
from slurm_oci.values import Container, Plan, Runtime


def runtime(name: str, run: list[str], accepts: list[str], summary: str) -> Runtime:
    """The runtime that `[runtimes.NAME]` in site.toml describes; its words were checked there.

    Its process gets the container's variables, with PATH as the job has it.
    """
    template = tuple(run)

    def plan(container: Container) -> Plan:
        env_file = container.job.env_from
        fields = Fields.of(
            container.request.replace(bundle=container.image.path or container.image.name),
            cwd=container.job.cwd,
            env_file=env_file if env_file.startswith("/") else "",
            rootfs=container.image.root,
        ).replace(command=container.command)
        argv = words(template, fields)
        program = container.executables.get(argv[0], argv[0])
        path = container.job.env.get("PATH", STANDARD_PATH)
        return Plan((program, *argv[1:]), {"PATH": path, **container.env}, container.job.cwd)

    program = run[0].replace("%%", "%")  # it has no other letters
    return Runtime(name, summary, tuple(accepts), plan, executables=(program,))
