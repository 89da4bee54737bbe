#!/bin/bash
# Podman, called directly: directories of your own, bundles, and images in your store.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word
image=$1 uid=$4 step=$7
shift 8

# In the job's control group and network, as yourself, with home, /tmp and the job's directory. More
# options, one by one:
#   options+=(--mount type=bind,src=/scratch,dst=/scratch)   another directory; ,ro for read-only
#   options+=(--device nvidia.com/gpu=all)                   GPUs, where the node has CDI files
options=(--rm --interactive --cgroups=disabled --network=host --userns=keep-id --log-driver=passthrough)
options+=(--security-opt=label=disable --env-host --env "PATH=/usr/local/bin:/usr/bin:/bin" --workdir "$PWD")

places=("$HOME" /tmp)
[[ $PWD/ == "$HOME"/* || $PWD/ == /tmp/* ]] || places+=("$PWD")
# The script of sbatch (step 4294967291) lies in a directory of Slurm's that must be in the container.
[ "$step" = 4294967291 ] && places+=("${1%/*}")
for place in "${places[@]}"; do
    options+=(--mount "type=bind,src=$place,dst=$place")
done

# A job has no runtime directory of its own in many sites: one that nobody else can have made.
if [ ! -d "${XDG_RUNTIME_DIR:-/none}" ]; then
    export XDG_RUNTIME_DIR=/tmp/run-$uid
    mkdir -m 700 "$XDG_RUNTIME_DIR" 2>/dev/null
    [ -O "$XDG_RUNTIME_DIR" ] && [ ! -L "$XDG_RUNTIME_DIR" ] || exit 125
fi

# Of an OCI bundle, podman takes the root file system. Places to mount at are made in the directory.
[ -f "$image/config.json" ] && image=$image/rootfs
[ -d "$image" ] && options+=(--rootfs)
exec podman run "${options[@]}" "$image" "$@"
