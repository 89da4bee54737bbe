"""The oci.conf files that we print.

Each is an example of Slurm's Containers Guide (`guide.py`) with its faults mended and the reason
beside the line. What a user wrote is never left for root's shell, nor for the user's own where that
can be had.
"""

from collections.abc import Callable

from slurm_oci import ocilines
from slurm_oci.pattern import QUOTES_RIGHT, QUOTES_SINCE, RUN_WITHOUT_CONFIG, Version, quotes_rightly
from slurm_oci.problems import Problem
from slurm_oci.values import STEP_KINDS


class OciConfUnavailable(Problem):
    """There is no `oci.conf` as it was asked for."""

    area = "site"


def generate(runtime: str, mode: str, version: Version, prefix: str) -> str:
    """The oci.conf for `runtime` and Slurm's `version`, with our entry point in `prefix`.

    `mode` is one of MODES for that runtime. Raises OciConfUnavailable where it cannot be had.
    """
    if version < RUN_WITHOUT_CONFIG:
        raise OciConfUnavailable(
            f"Slurm {version} has no oci.conf of this kind",
            f"IgnoreFileConfigJson, %m, %p and %U came with Slurm {RUN_WITHOUT_CONFIG}",
        )
    if mode not in MODES[runtime]:
        raise OciConfUnavailable(
            f"`{runtime}` has no `{mode}` form", f"it has `{'` and `'.join(MODES[runtime])}`"
        )
    if runtime in ENTRY_WHY and (runtime not in DIRECT or not quotes_rightly(version)):
        return ENTRY_ONLY.format(runtime=runtime, prefix=prefix, why=ENTRY_WHY[runtime]) + multi(prefix)
    return FORMS[runtime](mode, prefix)


MODES = {  # by runtime, the first one where none is asked for
    "multi": ("run",),
    "runc": ("run", "create-start"),
    "crun": ("run", "create-start"),
    "nvidia-container-runtime": ("run", "create-start"),
    "singularity": ("run",),
    "singularity-4.0-oci": ("run",),
    "singularity-3.8-oci": ("create-start",),
    "charliecloud": ("run",),
    "enroot": ("run",),
}

FORMS: dict[str, Callable[[str, str], str]] = {
    "multi": lambda mode, prefix: multi(prefix),
    "runc": lambda mode, prefix: ocilines.oci("runc", mode),
    "crun": lambda mode, prefix: ocilines.oci("crun", mode),
    "nvidia-container-runtime": lambda mode, prefix: ocilines.oci("nvidia-container-runtime", mode),
    "singularity": lambda mode, prefix: direct("singularity"),
    "singularity-4.0-oci": lambda mode, prefix: ocilines.singularity("4.0"),
    "singularity-3.8-oci": lambda mode, prefix: ocilines.singularity("3.8"),
    "charliecloud": lambda mode, prefix: direct("charliecloud"),
}

MULTI = r"""# oci.conf of slurm-oci: every `--container` goes through one entry point, which finds the runtime.
# Copy or link it beside slurm.conf, on every node. Slurm reads it anew for each step.

# The image need not be an OCI bundle.
IgnoreFileConfigJson=true

# The job's environment as a file. Without it a task has slurmd's environment and nothing of the
# job's. `newline` would lose each variable that contains a newline.
CreateEnvFile=null

# The node's own Slurm configuration must not reach the container by these two variables.
EnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
RunTimeEnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="

# The shell reads its own command line into a variable and becomes the entry point. What a user wrote
# stands behind the comment sign: no shell reads it, and every Slurm from 23.02 on passes it whole.
# The image's name comes from SLURM_CONTAINER in the file above. `exec` lets Slurm's signals through.
RunTimeRun="L=;while IFS= read -r l;do L=$L$l${IFS\#??};done</proc/$$/cmdline;SLURM_OCI_LINE=$L$l exec PREFIX/run - '%m' '%u' %U '%n' %j %s %t \# %@"

# RunTimeQuery, RunTimeKill and RunTimeDelete are left out on purpose: with IgnoreFileConfigJson
# Slurm never calls them, and without it Slurm runs them as root.
"""  # noqa: E501


# What stands before `exec` there, as the shell gets it: it hands its own line over, and no more.
HANDOVER = MULTI.partition('RunTimeRun="')[2].partition("exec ")[0].replace("\\#", "#")


def multi(prefix: str) -> str:
    """The multi-runtime form for an installation in `prefix`. Raises OciConfUnavailable for a path
    that cannot stand in oci.conf's line."""
    if not prefix.startswith("/") or not set(prefix) <= set(PLAIN):
        raise OciConfUnavailable(
            f"the prefix `{prefix}` has characters that oci.conf or the shell would read",
            "install into an absolute path of nothing but letters A-Z and a-z, digits, and `/._-+@`",
        )
    return MULTI.replace("PREFIX", prefix)


PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+@"


def direct(runtime: str) -> str:
    """A runtime that Slurm starts by itself and that takes the command's words from Slurm's %@."""
    common = MULTI[MULTI.index("# The image need") : MULTI.index("# The shell reads")]
    never_called = MULTI[MULTI.index("# RunTimeQuery, ") :]
    return f"{DIRECT_HEAD.format(runtime=runtime)}\n{common}{DIRECT[runtime]}\n{never_called}"


DIRECT_HEAD = f"""\
# oci.conf for {{runtime}}, which Slurm starts by itself. It needs bash 4.4 or newer, and Slurm
# {QUOTES_RIGHT} or newer: those before quote %@ wrongly (for theirs: --slurm-version).
# The multi-runtime form, `slurm-oci-plugins oci-conf`, does more and needs less.
"""


def bash(run: str, script: str, ends: str = "") -> str:
    """The line that runs `run` with the image and the command, for a batch step with `script` and
    the batch script's path, which lies where no image has it."""
    # bash becomes `env`, which becomes the runtime. Of bash, @Q quotes each word for `eval`: no double
    # quote can stand in oci.conf, and `\\'\\''` is how a word of no signs is written there.
    return (
        r"exec bash -c 'IFS=;set -f;mapfile -td '\\'\\'' e<$0;i=$1;shift;o=();"
        f"[ %s != {BATCH} ]||o=({script} $1);"
        f"eval exec env -i ${{e[@]@Q}} {run} ${{o[@]}} ${{i@Q}}{ends} ${{@@Q}}' '%e' '%r' %@"
    )


BATCH = next(number for number, kind in STEP_KINDS.items() if kind == "batch")

DIRECT = {
    "singularity": f"""\
# Other than in the guide: `exec` all the way, so that Slurm's signals reach the container; the job's
# environment from the file (the guide's line gives the container slurmd's; --env-file would have a
# shell read the values); the batch script, which no image has; the path in quotes. A path with a
# single quote in it fails, as the user.
RunTimeRun="{bash("singularity exec --userns", "--bind")}"
""",
    "charliecloud": f"""\
# Other than in the guide: `exec` all the way, so that Slurm's signals reach the container; the job's
# environment from the file as it is (ch-run's --set-env takes quotes and $ in values for its own);
# the batch script, which no image has (-W needs ch-run 0.36); the user's real home instead of
# /home/$(whoami); the path in quotes (one with a single quote in it fails, as the user).
# Left out are -w, which changes the image and refuses squashfs, and what would need it: the binds of
# /etc/slurm and of munge's socket, for Slurm's commands inside. PMIx needs --bind '%m' behind
# `ch-run`, and that directory in the image.
RunTimeRun="{bash("ch-run --home", "-W --bind", " --")}"
""",
}

ENTRY_ONLY = """\
# oci.conf for {runtime}, through slurm-oci's entry point.
{why}
# In {prefix}/site.toml write:   order = ["{runtime}"]

"""

OLD_QUOTES = f"""\
# A line of its own needs %@, which Slurm quotes wrongly before {QUOTES_SINCE}: an argument with a
# single quote ends the task or arrives as another. The entry point gets every argument as it was
# written."""

ENTRY_WHY = {
    "singularity": OLD_QUOTES,
    "charliecloud": OLD_QUOTES,
    "enroot": """\
# The guide's wrapper script imports and creates under names that all tasks of a step share, takes no
# directories, leaves the created root file system behind and loses the job's environment (enroot
# sets ENROOT_ENVIRON anew). No line in this file mends that; the entry point does.""",
}
