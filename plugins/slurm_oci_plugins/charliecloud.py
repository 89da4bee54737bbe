"""Charliecloud's ch-run: directories and squashfs files, without root and without state."""

import subprocess

from slurm_oci import Container, Mount, Plan, Runtime, SettingRefused
from slurm_oci.container import placed, workdir_in
from slurm_oci.job import STANDARD_PATH


def slurm_oci_runtimes() -> list[Runtime]:
    return [
        Runtime(
            name="charliecloud",
            summary="Charliecloud's ch-run: directories and squashfs, the lightest",
            accepts=("rootfs", "oci-bundle", "squashfs"),
            executables=("ch-run",),
            plan=plan,
            carries=("mounts", "workdir", "variables", "home=none", "slurm=yes", "writable=yes"),
            probe=probe,
        )
    ]


def probe(executable: str) -> dict[str, bool]:
    """Which of the options that came and went this version knows (`ch-run --help`)."""
    found = subprocess.run([executable, "--help"], capture_output=True, text=True, check=False)
    return {"write-fake": "--write-fake" in found.stdout + found.stderr}


def plan(container: Container) -> Plan:
    image, settings = container.image, container.settings
    options: list[str] = []
    notes: tuple[str, ...] = ()
    workdir, mounts, lacking = container.workdir, container.mounts, container.mounts
    if image.root:
        mounts, lacking = placed(container)
    can_make = container.probed.get("write-fake", False) and settings.writable == "no"
    if lacking and can_make:
        options += ["--write-fake"]  # the only way to a mount point that the image lacks
    elif image.root:
        mounts = without(mounts, lacking, container)
    if settings.writable == "yes":
        options += ["--write"]
    if image.root:
        workdir, notes = workdir_in(container.replace(mounts=mounts))
    for mount in mounts:
        options += ["--bind", bind_text(mount)]
    options += ["--cd", workdir]
    env = {"PATH": STANDARD_PATH, **image.env, "USER": container.job.user, **container.env}
    for name in ("HOME", "TMPDIR"):  # ch-run changes these two; the values go through as they are
        if name in env:
            options += ["--env-no-expand", f"--set-env={name}={env[name]}"]
    argv = (container.executables["ch-run"], *options, image.root or image.path, "--")
    return Plan((*argv, *container.command), env, notes=notes)


def without(mounts: tuple[Mount, ...], lacking: tuple[Mount, ...], container: Container) -> tuple[Mount, ...]:
    """`mounts` less the defaults that are `lacking`. Raises SettingRefused for a wish."""
    for mount in lacking:
        if mount.wish:
            raise SettingRefused(
                f"{mount.why} is to be mounted at `{mount.target}`, which `{container.image.name}` lacks"
                " and this ch-run cannot make",
                "ch-run 0.36 or newer can, or another runtime: `slurm-oci-plugins list`",
            )
    return tuple(mount for mount in mounts if mount not in lacking)


def bind_text(mount: Mount) -> str:
    """A mount for `--bind`, which has no sign to write a colon by and no read-only mounts."""
    if ":" in mount.source + mount.target:
        raise SettingRefused(
            f"{mount.why} asks for a mount of `{mount.source}` at `{mount.target}`:"
            " ch-run cannot mount a path with a colon"
        )
    if mount.readonly and mount.why != "the batch script":
        raise SettingRefused(f"{mount.why} asks for a read-only mount, which ch-run does not have")
    return f"{mount.source}:{mount.target}"
