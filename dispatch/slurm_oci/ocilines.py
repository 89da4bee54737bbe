"""The oci.conf files for runtimes that keep a container's state: runc and its like.

Slurm calls their `state`, `kill` and `delete` twice over: as the job's user while a task runs in
the create and start form, and once for the whole step at its end, then as root and with -1 for the
task's number. So each of these lines becomes the user first, and -1 means all tasks of the step.
Source: slurmstepd's `_kill_container` and `cleanup_container`, and 26.05.5's log.
"""

from slurm_oci.state import BASE

NAME = "%n.%j.%s.%t"
STATE = f"{BASE}/oci-%U"

NO_STATE = f"slurm-oci: error: no {STATE} of your own can be had: the site must mkdir -m 1777 {BASE}"
MAKE = f"mkdir -p -m 700 {STATE} && [ -O {STATE} ] && [ ! -h {STATE} ]||{{ echo {NO_STATE} >&2;exit 125;}};"
AS_USER = (
    "D=;[ $(id -u) != 0 ]||D='timeout -s KILL 60 setpriv --reuid=%U --regid='$(id -g %U)"
    "' --clear-groups';exec $D sh -c"
)
STOPPED = r"[ %t = -1 ]&&printf {\\\\042status\\\\042:\\\\042stopped\\\\042}"

FILTERS = """\
# The node's own Slurm configuration must not reach the container by these two variables.
EnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
RunTimeEnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
"""

HEAD = """\
# oci.conf for {tool}, which Slurm calls itself: --container names an OCI bundle.
# It needs, on each node and at each boot:   mkdir -m 1777 {base}
# which tmpfiles.d does with the line:       d {base} 1777 root root -
"""

TO_FILE = "</dev/null >>container-%j.%s.%t.out 2>&1"

RUN = """\
# `run` instead of `create` and `start`: Slurm need not ask every second whether it still runs.
"""

CREATE_START = """\
# If there is a `run`, take it. Slurm reads what RunTimeCreate prints until nobody holds that pipe any
# more, and the container, which waits for RunTimeStart, holds it: with the guide's line each task
# hangs. So the container's output goes into a file in the job's directory (there is no way to the
# task's own), its input is empty, its exit status is lost, and Slurm asks over and over whether it
# still runs.
"""

STATE_TEXT = f"""\
# Other than in the guide: the state lies in {BASE}, in a directory of the user's own that no other
# user can make or change first; /run/user/%U is there only for users who are logged in or linger.
# The container's name is without %u: some users' names hold signs that no container's may. The
# bundle's path is in quotes, and `exec` lets Slurm's signals reach the runtime.
"""

END = """\
# At a step's end Slurm runs these three as root, so they become the job's user (%U) before anything
# else: the runtime reads files there that the user can write. A user who holds it up, holds it up
# for a minute. The task's number is then -1, which the guide's lines pass on as it is and so never
# find a container; here it stands for all of the step's. If none is left, the answer is `stopped`:
# without an answer Slurm writes an error into the output of each batch job.
"""

NVIDIA = "nvidia-container-runtime"
NVIDIA_RUN = """\
# nvidia-container-runtime gives a container its GPUs only if one of its words is `create`. In the
# guide's `run` line none is, so that no GPU arrives. Here the folder of the state is called so.
"""


def oci(tool: str, mode: str) -> str:
    """runc, crun or nvidia-container-runtime, with `run` or with `create-start`."""
    bundle = "--bundle '%b'" if tool == "crun" else "-b '%b'"
    call = f"{tool} --rootless=true"
    state = STATE
    if mode == "create-start":
        lines = (
            f'RunTimeCreate="{MAKE}exec {call} --root={state} create {bundle} {NAME}'
            f' {TO_FILE}"\n'
            f'RunTimeStart="exec {call} --root={state} start {NAME}"\n'
        )
        why = CREATE_START
    elif tool == NVIDIA:
        state = f"{STATE}/create"
        lines = f'RunTimeRun="{MAKE}cd {STATE} && exec {call} --root create run {bundle} {NAME}"\n'
        why = RUN + NVIDIA_RUN
    else:
        lines = f'RunTimeRun="{MAKE}exec {call} --root={state} run {bundle} {NAME}"\n'
        why = RUN
    rooted = f"{call} --root={state}"
    ends = (
        query(each(state, f"exec {rooted} state $c")),
        f"RunTimeKill=\"{AS_USER} '{each(state, f'{rooted} kill -a $c')}'\"\n",
        f"RunTimeDelete=\"{AS_USER} '{each(state, f'{rooted} delete --force $c')}'\"\n",
    )
    head = HEAD.format(tool=tool, base=BASE)
    return "\n".join((head, FILTERS, STATE_TEXT + why + lines, END + "".join(ends)))


def query(asked: str) -> str:
    return f"RunTimeQuery=\"{AS_USER} '{asked};{STOPPED}'\"\n"


def each(state: str, command: str) -> str:
    """The shell's words that run `command` for the task's container $c, at the end for each one."""
    named = NAME.removesuffix("%t") + "$t"
    return f"t=%t;[ $t != -1 ]||t=*;for d in {state}/{named};do c=${{d\\#\\#*/}};[ ! -d $d ]||{command};done"


SINGULARITY_HEAD = """\
# oci.conf for Singularity {version}'s OCI mode: --container names an OCI bundle. For trying only.
#
# WARNING (of Slurm's Containers Guide): Singularity (v{warned}) requires sudo or setuid binaries for OCI
# support, which is a security risk since the user is able to modify these calls. This example is
# only provided for testing purposes.
# WARNING (of the guide): Upstream singularity development of the OCI interface appears to have
# ceased and sites should use the user namespace support instead (`oci-conf --runtime singularity`).
#
# `lint` goes on saying so: who may run this with sudo is root on the node.
"""

SINGULARITY_TEXT = """\
# Other than in the guide: the container's name is without %u, because some users' names hold signs
# that no container's may; the bundle's path is in quotes; `exec` lets Slurm's signals reach sudo.
"""

SINGULARITY_3_8_TEXT = """\
# The keys are without the `OCI` that the guide puts before them, which no Slurm knows, and the last
# line has the closing quote that it lacks there.
"""

SINGULARITY_END = """\
# At a step's end Slurm runs these three as root, with -1 for the task's number: they become the job's
# user first, and then have no container to name, so that what a killed task leaves is yours to delete.
"""


def singularity(version: str) -> str:
    """Singularity's OCI mode, `4.0` or `3.8`."""
    call = "sudo singularity oci"
    text = SINGULARITY_TEXT
    if version == "4.0":
        lines = f"RunTimeRun=\"exec {call} run --bundle '%b' {NAME}\"\n"
    else:
        text += SINGULARITY_3_8_TEXT + CREATE_START
        lines = (
            f"RunTimeCreate=\"exec {call} create --bundle '%b' {NAME} {TO_FILE}\"\n"
            f'RunTimeStart="exec {call} start {NAME}"\n'
        )
    ends = (
        query(f"[ %t = -1 ]||exec {call} state {NAME}"),
        f"RunTimeKill=\"{AS_USER} '[ %t = -1 ]||exec {call} kill {NAME}'\"\n",
        f"RunTimeDelete=\"{AS_USER} '[ %t = -1 ]||exec {call} delete {NAME}'\"\n",
    )
    head = SINGULARITY_HEAD.format(version=version, warned={"4.0": "4.0.2", "3.8": "3.8.0"}[version])
    return "\n".join((head, FILTERS, text + lines, SINGULARITY_END + "".join(ends)))
