#!/bin/bash
# MPI settings for tasks that each run in a container of their own.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word

# Start the tasks with srun, one container each: srun --mpi=pmix --container=… ./program. The MPI in
# the image must speak what srun speaks (`srun --mpi=list`).

# Tasks in different user namespaces may not read each other's memory (CMA): shared memory it is.
export OMPI_MCA_btl_vader_single_copy_mechanism=none # Open MPI 4
export OMPI_MCA_smsc=^cma                            # Open MPI 5
export UCX_POSIX_USE_PROC_LINK=n
export PSM3_KASSIST_MODE=none

# Or, instead of these four, one container for a node's tasks, which may (apptainer, charliecloud):
#   export SLURM_OCI_SHARE=node

# The network's libraries from the node, where the image has none for it:
#   export SLURM_OCI_MOUNTS=/opt/cray/libfabric:/opt/cray/libfabric:ro
#   export SLURM_OCI_ENV=all LD_LIBRARY_PATH=/opt/cray/libfabric/lib64

exec /opt/slurm-oci/slurm-oci-run-default "$@"
