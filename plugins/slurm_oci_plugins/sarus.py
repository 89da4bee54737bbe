"""Sarus: images in the user's own Sarus repository, by name. It is setuid root; `sarus pull` fetches."""

from slurm_oci import Container, Mount, Plan, Runtime, problems
from slurm_oci.container import IMAGES_OWN, require_utf8, workdir_in
from slurm_oci.job import STANDARD_PATH
from slurm_oci_plugins import carried


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="sarus",
            summary="Sarus, CSCS's: images in its own repository",
            accepts=("name", "reference"),
            executables=("sarus",),
            fetches=False,  # it has only what was fetched before
            plan=plan,
            carries=(
                *("mounts", "workdir", "variables", "arguments"),
                *("home=none", "entrypoint=yes", "gpu=none"),
            ),
            variables=("SARUS_",),
        )
    ]


def plan(container: Container) -> Plan:
    require_utf8("sarus", container)  # it writes a config.json for runc
    options = [*container.arguments]
    mounts = carried.mounts(container, fault_of_mount)
    for mount in mounts:
        fields = ["type=bind", f"source={mount.source}", f"destination={mount.target}"]
        options.append("--mount=" + ",".join([*fields, *(["readonly"] if mount.readonly else [])]))
    workdir, notes = workdir_in(container.replace(mounts=mounts))
    options.append(f"--workdir={workdir}")
    # The empty text must be a word of its own.
    options += [] if container.settings.entrypoint == "yes" else ["--entrypoint", ""]
    env = {"PATH": STANDARD_PATH, "HOME": container.job.home, "USER": container.job.user, **container.own}
    for name, value in {**container.image.env, **container.env}.items():
        # Without this the image's own would count before the job's.
        if name in IMAGES_OWN or carried.is_taken_away(name):
            options.append(f"--env={name}={value}")
        else:
            options.append(f"--env={name}")
            env[name] = value
    argv = (container.executables["sarus"], "run", *options, repository_name(container.image.name))
    return Plan((*argv, *container.command), env, notes=notes)


def repository_name(name: str) -> str:
    """`NAME` as `sarus images` lists it. Raises ImageRefused for what `sarus pull` cannot fetch."""
    scheme, separator, rest = name.partition("://")
    if separator and scheme != "docker":
        raise problems.ImageRefused(
            f"`sarus` cannot run `{name}`: it knows images by docker:// alone",
            "`sarus images` lists what there is",
        )
    bare = rest if separator else name
    if bare.startswith("-"):
        raise problems.ImageRefused(
            f"`sarus` would take `{bare}` for an option", "`sarus images` lists what there is"
        )
    return bare


def fault_of_mount(mount: Mount) -> str:
    return "sarus cannot carry `,` or `=` in a path" if set(mount.source + mount.target) & set(",=") else ""
