#!/bin/bash --login
# Loads modules first, then does what the site does by default.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word

# The modules for the runtime or for what it binds; none to begin with.
modules=()

# Where modules are is said by your login files. bash has read its own (--login, above). If you use
# another shell, name it here, as in  login_shell=/usr/bin/zsh,  and its variables are taken over.
login_shell=

if [ -n "$login_shell" ]; then
    # What login files print comes before the first NUL. The names are those a shell can export.
    while IFS= read -r -d '' variable; do
        [[ $variable =~ ^[A-Za-z_][A-Za-z_0-9]*= ]] && export "${variable?}"
    done < <(exec -a "-${login_shell##*/}" "$login_shell" -c 'printf "\0"; exec env -0' </dev/null)
fi
if [ ${#modules[@]} -gt 0 ]; then
    module load "${modules[@]}" >&2 </dev/null || exit 125
fi

# PATH, LD_LIBRARY_PATH and LD_PRELOAD stay outside: the image has its own. SLURM_OCI_ENV=all would
# pass them on.
exec /opt/slurm-oci/slurm-oci-run-default "$@"
