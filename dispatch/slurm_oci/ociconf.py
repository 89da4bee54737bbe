"""The oci.conf files that we print."""

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
"""


def multi(prefix: str) -> str:
    """The multi-runtime form for an installation in `prefix`. Raises ValueError for a path that
    cannot stand in oci.conf's line."""
    if not prefix.startswith("/") or not set(prefix) <= set(PLAIN):
        raise ValueError(f"the prefix `{prefix}` has signs that oci.conf or the shell would read")
    return MULTI.replace("PREFIX", prefix)


PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-+@"
