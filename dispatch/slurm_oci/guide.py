"""The oci.conf examples of Slurm's Containers Guide, as they are printed there.

They are quoted as facts, faults and all, so that `lint` can be tried on them and a site can see
what our own files do differently. Source: SchedMD, "Containers Guide", last modified 27 November
2024, sections on runc, crun, nvidia-container-runtime, Singularity, Charliecloud, Enroot and
"Handling multiple runtimes".
"""

from collections.abc import Iterator

FILTERS = (
    'EnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="',
    'RunTimeEnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="',
)
KILL_BY_PID = ('RunTimeKill="kill -s SIGTERM %p"', 'RunTimeDelete="kill -s SIGKILL %p"')
HEAD = "# Slurm's Containers Guide (SchedMD), {title}, as printed there. `lint` says what is wrong with it."


def example(runtime: str, mode: str = "run") -> str:
    """The guide's file for `runtime`, a name of `ociconf.MODES`."""
    title, lines = EXAMPLES.get(runtime) or (f"{runtime}, {mode}", oci(runtime, mode))
    return "\n".join((HEAD.format(title=title), *lines, *scripts(runtime), ""))


def scripts(runtime: str) -> Iterator[str]:
    """The programs that the guide's lines call and that it prints as well, as comments."""
    for path, text in SCRIPTS.get(runtime, {}).items():
        yield from ("", f"# {path}:", "#")
        yield from (f"#   {line}".rstrip() for line in text.splitlines())


def oci(tool: str, mode: str) -> tuple[str, ...]:
    """runc, crun and nvidia-container-runtime: the same lines, but for the order in crun's."""

    def line(key: str, words: str) -> str:
        return f'RunTime{key}="{tool} --rootless=true --root=/run/user/%U/ {words}"'

    name = "%n.%u.%j.%s.%t"
    last = tool != "crun"
    named = f"{name} -b %b" if last else f"--bundle %b {name}"
    kill = (line("Kill", f"kill -a {name}"), line("Delete", f"delete --force {name}"))
    if mode == "run":
        return (*FILTERS, line("Query", f"state {name}"), *kill, line("Run", f"run {named}"))
    create, start = line("Create", f"create {named}"), line("Start", f"start {name}")
    middle = (create, start, *kill) if last else (*kill, create, start)
    return (*FILTERS, line("Query", f"state {name}"), *middle)


MULTI = (
    "IgnoreFileConfigJson=true",
    'RunTimeRun="/opt/slurm-oci/run %b %m %u %U %n %j %s %t %@"',
    *KILL_BY_PID,
)

SINGULARITY = (
    "IgnoreFileConfigJson=true",
    *FILTERS,
    'RunTimeRun="singularity exec --userns %r %@"',
    *KILL_BY_PID,
)

SINGULARITY_4_0 = (
    *FILTERS,
    'RunTimeQuery="sudo singularity oci state %n.%u.%j.%s.%t"',
    'RunTimeRun="sudo singularity oci run --bundle %b %n.%u.%j.%s.%t"',
    'RunTimeKill="sudo singularity oci kill %n.%u.%j.%s.%t"',
    'RunTimeDelete="sudo singularity oci delete %n.%u.%j.%s.%t"',
)

SINGULARITY_3_8 = (
    *FILTERS,
    'OCIRunTimeQuery="sudo singularity oci state %n.%u.%j.%s.%t"',
    'OCIRunTimeCreate="sudo singularity oci create --bundle %b %n.%u.%j.%s.%t"',
    'OCIRunTimeStart="sudo singularity oci start %n.%u.%j.%s.%t"',
    'OCIRunTimeKill="sudo singularity oci kill %n.%u.%j.%s.%t"',
    'OCIRunTimeDelete="sudo singularity oci delete %n.%u.%j.%s.%t',
)

CHARLIECLOUD = (
    "IgnoreFileConfigJson=true",
    "CreateEnvFile=newline",
    *FILTERS,
    (
        'RunTimeRun="env -i PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin/:/sbin/'
        " USER=$(whoami) HOME=/home/$(whoami)/ ch-run -w --bind /etc/group:/etc/group"
        " --bind /etc/passwd:/etc/passwd --bind /etc/slurm:/etc/slurm --bind %m:/var/run/slurm/"
        ' --bind /var/run/munge/:/var/run/munge/ --set-env=%e --no-passwd %r -- %@"'
    ),
    *KILL_BY_PID,
)

ENROOT = (
    "IgnoreFileConfigJson=true",
    "CreateEnvFile=newline",
    *FILTERS,
    'RunTimeRun="/usr/local/bin/enroot-start-wrapper %b %m %e -- %@"',
    'RunTimeKill="kill -s SIGINT %p"',
    'RunTimeDelete="kill -s SIGTERM %p"',
)

EXAMPLES = {
    "multi": ("Handling multiple runtimes", MULTI),
    "singularity": ("Singularity 4.1 native", SINGULARITY),
    "singularity-4.0-oci": ("Singularity 4.0 OCI mode", SINGULARITY_4_0),
    "singularity-3.8-oci": ("Singularity 3.8 OCI mode", SINGULARITY_3_8),
    "charliecloud": ("Charliecloud", CHARLIECLOUD),
    "enroot": ("Enroot", ENROOT),
}

RUN = """\
#!/bin/bash
if [[ -e ~/.slurm-oci-run ]]; then
        ~/.slurm-oci-run "$@"
else
        /opt/slurm-oci/slurm-oci-run-default "$@"
fi
"""

RUN_DEFAULT = """\
#!/bin/bash --login
# Parse
CONTAINER="$1"
SPOOL_DIR="$2"
USER_NAME="$3"
USER_ID="$4"
NODE_NAME="$5"
JOB_ID="$6"
STEP_ID="$7"
TASK_ID="$8"
shift 8 # subsequent arguments are the command to run in the container
# Run
apptainer run --bind /var/spool --containall "$CONTAINER" "$@"
"""

ENROOT_WRAPPER = """\
#!/bin/bash
BUNDLE="$1"
SPOOLDIR="$2"
ENVFILE="$3"
shift 4
IMAGE=

export USER=$(whoami)
export HOME="$BUNDLE/"
export TERM
export ENROOT_SQUASH_OPTIONS='-comp gzip -noD'
export ENROOT_ALLOW_SUPERUSER=n
export ENROOT_MOUNT_HOME=y
export ENROOT_REMAP_ROOT=y
export ENROOT_ROOTFS_WRITABLE=y
export ENROOT_LOGIN_SHELL=n
export ENROOT_TRANSFER_RETRIES=2
export ENROOT_CACHE_PATH="$SPOOLDIR/"
export ENROOT_DATA_PATH="$SPOOLDIR/"
export ENROOT_TEMP_PATH="$SPOOLDIR/"
export ENROOT_ENVIRON="$ENVFILE"

if [ ! -f "$BUNDLE" ]
then
        IMAGE="$SPOOLDIR/container.sqsh"
        enroot import -o "$IMAGE" -- "$BUNDLE" && \\
        enroot create "$IMAGE"
        CONTAINER="container"
else
        CONTAINER="$BUNDLE"
fi

enroot start -- "$CONTAINER" "$@"
rc=$?

[ $IMAGE ] && unlink $IMAGE

exit $rc
"""

SCRIPTS = {
    "multi": {"/opt/slurm-oci/run": RUN, "/opt/slurm-oci/slurm-oci-run-default": RUN_DEFAULT},
    "enroot": {"/usr/local/bin/enroot-start-wrapper": ENROOT_WRAPPER},
}
