"""Apptainer: directories, bundles, SIF and squashfs files, without root."""

import os

from slurm_oci import Container, Mount, Plan, Runtime, SettingRefused, problems
from slurm_oci.container import IMAGES_OWN, has_gpus, require_utf8, workdir_in
from slurm_oci.job import STANDARD_PATH

# What apptainer takes for its own process, or its shell in between keeps for itself, is told to the
# container by another name.
BY_OTHER_NAME = (*IMAGES_OWN, "IFS", "PS1")
# By vendor the option that brings the driver's libraries along, and a device that the driver makes.
VENDORS = {"nvidia": ("--nv", "/dev/nvidiactl"), "amd": ("--rocm", "/dev/kfd")}


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="apptainer",
            summary="Apptainer, the Linux Foundation's: SIF, squashfs, directories",
            accepts=("sif", "squashfs", "rootfs", "oci-bundle"),
            executables=("apptainer",),
            plan=plan,
            carries=(
                *("mounts", "workdir", "variables", "arguments", "home=none", "entrypoint=yes"),
                *("writable=tmp", "writable=yes", "gpu=nvidia", "gpu=amd", "gpu=none", "share=node"),
            ),
            variables=("APPTAINER_", "APPTAINERENV_", "SINGULARITY_", "SINGULARITYENV_"),
            probe=probe,
        )
    ]


def probe(executable: str) -> dict[str, bool]:
    """Which of the options that came and went this version knows (`apptainer help exec`)."""
    from slurm_oci.ask import answer  # tasks take the answer from the catalog

    told = answer(executable, "help", "exec")
    return {
        "cwd": "--cwd" in told,
        "sharens": "--sharens" in told,
        "no-eval": "--no-eval" in answer(executable, "help", "run"),
    }


def plan(container: Container) -> Plan:
    return plan_for(container, "apptainer", "APPTAINERENV_")


def plan_for(container: Container, name: str, env_prefix: str) -> Plan:
    require_utf8(name, container)
    settings, image = container.settings, container.image
    if settings.writable == "yes" and not image.root:
        raise SettingRefused(
            f"{settings.origins['writable']} is `yes`: `{image.name}` is no directory, and cannot change",
            "`apptainer build --sandbox DIR IMAGE` makes a directory of it",
        )
    if settings.entrypoint == "yes" and not container.probed.get("no-eval", True):
        raise SettingRefused(
            f"{settings.origins['entrypoint']} is `yes`: this {name} would read the command once more as a"
            " shell does (it has no `run --no-eval`, which Apptainer 1.1 and SingularityCE 3.10 brought)",
            "name the image's entry point in the command",
        )
    options = ["-s", "run", "--no-eval"] if has_entry(container) else ["-s", "exec"]
    options += ["--sharens"] if settings.share == "node" and is_shared(container) else []
    options += container.arguments
    env = {**image.env, **container.env, **container.own}
    own_home = env.get("HOME", container.job.home) == container.job.home
    if not own_home:
        options += ["--no-home", "--home", home_text(name, env["HOME"])]
    elif settings.home == "none":
        options += ["--no-home"]
    options += {"no": [], "tmp": ["--writable-tmpfs"], "yes": ["--writable"]}[settings.writable]
    by_vendor, notes = gpu_options(container)
    options += by_vendor
    for mount in container.mounts:
        # Home, /tmp and the job's directory apptainer binds itself, if it can and the site lets it.
        if mount.wish or mount.why not in ("home", "") or (mount.why == "home" and not own_home):
            fault = fault_of_mount(mount)
            if fault and mount.wish:
                from slurm_oci_plugins import carried  # only for its words

                raise carried.refusal(mount, fault)
            if not fault:
                options += ["--mount", mount_text(mount.source, mount.target, mount.readonly)]
    if image.root and container.workdir_wished:
        workdir_in(container)  # refuses what is not there; apptainer itself would end with 255
    options += ["--cwd" if container.probed.get("cwd", True) else "--pwd", container.workdir]
    for variable in BY_OTHER_NAME:
        if variable in env:
            env[env_prefix + variable] = in_script(env.pop(variable))
    env = {"PATH": STANDARD_PATH, "HOME": container.job.home, "USER": container.job.user, **env}
    argv = (container.executables[name], *options, image.root or image.path or image.name)
    return Plan((*argv, *container.command), env, notes=notes)


def has_entry(container: Container) -> bool:
    """Whether the image has an entry point, and is to use it. Where there is no script for it, `run` has
    the shell read the command as a script. (A file cannot be looked into.) Raises RequestMalformed where
    there is nothing to run then."""
    image = container.image
    if container.settings.entrypoint == "no":
        return False
    if not image.root or os.path.lexists(f"{image.root}/.singularity.d/runscript"):
        return True
    if not container.command:
        raise problems.RequestMalformed(
            f"`{image.name}` has no entry point (`.singularity.d/runscript`), and there is no command to run",
            "name one after the image",
        )
    return False


def gpu_options(container: Container) -> tuple[list[str], tuple[str, ...]]:
    """By vendor, and a note; for GPUs that Slurm has granted, by the vendors whose devices the node has.
    Raises SettingRefused for a vendor whose driver is not there, which apptainer itself would pass over."""
    gpu = container.settings.gpu
    if not has_gpus(container):
        return [], ()
    asked = VENDORS if gpu == "auto" else {gpu: VENDORS[gpu]}
    options = [option for option, device in asked.values() if os.path.exists(device)]
    if options:
        return options, ()
    devices = f"`{'` or `'.join(device for _, device in asked.values())}`"
    if gpu == "auto":
        return [], (f"Slurm has granted GPUs, and no driver of theirs has made {devices} on this node",)
    raise SettingRefused(
        f"{container.settings.origins['gpu']} is `{gpu}`: no driver has made {devices} on this node",
        "is the job where the GPUs are? `sinfo -o '%N %G'` shows which nodes have some",
    )


def is_shared(container: Container) -> bool:
    """Whether there are other tasks to share the container with. Raises SettingRefused."""
    from slurm_oci_plugins import sharing  # few tasks ask for it

    if not container.probed.get("sharens", True):
        raise SettingRefused(
            f"{container.settings.origins['share']} is `node`: this apptainer has no `--sharens`,"
            " which 1.3 brought",
            "leave it out: each task has a container of its own then",
        )
    return sharing.tasks_here(container) > 1 and bool(sharing.parent(container))


def home_text(name: str, home: str) -> str:
    """The container's HOME for `--home`, the one way to another than the passwd entry's: it goes to
    the container as it is, and with `--no-home` nothing is mounted there. Raises ArgumentRefused."""
    if not home or ":" in home:
        raise problems.ArgumentRefused(
            f"the variable HOME is `{home}`: `{name}` cannot pass on an empty one, or one with a colon",
            "unset it, or take another runtime: `slurm-oci-plugins list` shows what this node has",
        )
    return home


def in_script(value: str) -> str:
    """What a variable with the prefix must hold: apptainer writes it in double quotes into a script
    that its own shell reads, and takes care of the double quotes alone."""
    return value.replace("\\", "\\\\").replace("$", "\\$").replace("`", "\\`")


def fault_of_mount(mount: Mount) -> str:
    """What `mount_text` cannot carry: Go's reader of CSV makes one sign of the two, also in quotes
    (encoding/csv)."""
    found = any("\r\n" in path for path in (mount.source, mount.target))
    return "its option `--mount` cannot carry a carriage return before a newline" if found else ""


def mount_text(source: str, target: str, readonly: bool) -> str:
    """A bind mount for `--mount`, whose value is a line of CSV."""
    fields = ["type=bind", f"src={source}", f"dst={target}", *(["ro"] if readonly else [])]
    quoted = [
        '"' + field.replace('"', '""') + '"' if set(field) & set('",\r\n') else field for field in fields
    ]
    return ",".join(quoted)
