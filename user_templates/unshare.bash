#!/bin/bash
# No runtime at all: unshare of util-linux, for directories and bundles on any node.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word
# The script of sbatch (step 4294967291) lies in a directory of Slurm's that few images have a place for.
# The dispatcher makes one.
if [ "$7" = 4294967291 ]; then
    export SLURM_OCI_RUNTIME=unshare
    exec /opt/slurm-oci/slurm-oci-run-default "$@"
fi
image=$1 uid=$4
shift 8

# Of an OCI bundle, the root file system.
[ -f "$image/config.json" ] && image=$image/rootfs

# What of the node is seen inside, each at its own place, where the image has that place. Add your own.
binds=(/dev /proc /sys /tmp "$HOME" "$PWD")

# In a mount namespace of its own the shell below may bind; in a second user namespace the command is
# the user again. The image's own search path is not known: this one fits most.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# shellcheck disable=SC2016 # it is the inner shell that replaces these
exec unshare --map-root-user --mount -- /bin/sh -c '
root=$1 uid=$2 gid=$3 count=$4 directory=/ && shift 4
while [ "$count" -gt 0 ]; do
    if [ -d "$root$1" ]; then
        mount --rbind "$1" "$root$1" || exit 126
        [ "$1" = "$PWD" ] && directory=$PWD
    fi
    count=$((count - 1)) && shift
done
exec unshare --map-user="$uid" --map-group="$gid" --root="$root" --wd="$directory" -- "$@"
' unshare "$image" "$uid" "$(id -g)" "${#binds[@]}" "${binds[@]}" "$@"
