# Speaks PMI2 with Slurm: who it is, its name into the common key-value space, its neighbour's out of it.
# For bash and busybox's sh, which know descriptors of more than one digit.

ask() { # a request; its answer is in $answer
    printf '%6d%s' ${#1} "$1" >&"$PMI_FD"
    answer=
    length=$(dd bs=1 count=6 2>/dev/null <&"$PMI_FD")
    answer=$(dd bs=1 count=$length 2>/dev/null <&"$PMI_FD")
    case $answer in *"rc=0;"*) ;; *) echo "to $1 Slurm says $answer" >&2 && exit 1 ;; esac
}

field() { # of the answer
    answer=${answer#*";$1="}
    echo "${answer%%;*}"
}

echo 'cmd=init pmi_version=2 pmi_subversion=0' >&"$PMI_FD"
read -r greeting <&"$PMI_FD"
case $greeting in *rc=0*) ;; *) echo "Slurm greets with $greeting" >&2 && exit 1 ;; esac
ask "cmd=fullinit;pmijobid=$PMI_JOBID;pmirank=$PMI_RANK;threaded=FALSE;"
rank=$(field rank) size=$(field size)
ask "cmd=kvs-put;key=rank$rank;value=$SLURMD_NODENAME;"
ask 'cmd=kvs-fence;'
neighbour=$(((rank + 1) % size))
ask "cmd=kvs-get;jobid=$PMI_JOBID;srcid=-1;key=rank$neighbour;"
echo "rank $rank of $size on $SLURMD_NODENAME, beside $(field value)"
ask 'cmd=finalize;'
