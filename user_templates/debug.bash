#!/bin/bash
# A debugger or profiler round the command, for the tasks of your choice.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word

# By variables of the job. The program is looked for in the image:
#   WRAP='strace -f -o /tmp/trace' srun --container=… ./program     round task 0
#   WRAP='valgrind -q' WRAP_TASKS='0 3' srun …                      round tasks 0 and 3
#   WRAP='perf record -o perf.%q' WRAP_TASKS=all srun …             %q is the task's number
# Around the runtime itself, from the node, it would be: exec perf record … slurm-oci-run-default …
rank=${SLURM_PROCID:-0}
tasks=${WRAP_TASKS:-0}

wrap=()
if [ -n "${WRAP:-}" ] && [[ $tasks == all || " $tasks " == *" $rank "* ]]; then
    read -r -a wrap <<<"${WRAP//%q/$rank}"
fi
exec /opt/slurm-oci/slurm-oci-run-default "${@:1:8}" "${wrap[@]}" "${@:9}"
