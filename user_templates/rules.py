#!/usr/bin/python3 -I
# In Python: rules that choose image and settings, then the site's default.
#
# Called for every task, in the job's environment and directory, with these words:
#   1 image as given to --container   2 Slurm's directory for the step   3 user   4 uid
#   5 node   6 job   7 step   8 task on the node; then the command, word by word

import os
import sys

image, spool, user, uid, node, job, step, task = sys.argv[1:9]
command = sys.argv[9:]
env = os.environ

# Short names for images, and what jobs in them get where they do not say otherwise.
IMAGES = {
    "tools": ("~/images/tools-2.3.sqsh", {"SLURM_OCI_WORKDIR": "/work"}),
    "torch": ("~/images/torch.sif", {"SLURM_OCI_RUNTIME": "apptainer", "SLURM_OCI_GPU": "nvidia"}),
}
# The same for all jobs below a directory.
DIRECTORIES = {
    "~/project": {"SLURM_OCI_RUNTIME": "unshare"},
}


def give(settings):
    for name, value in settings.items():
        env.setdefault(name, value)


if image in IMAGES:
    image, settings = IMAGES[image]
    image = os.path.expanduser(image)
    give(settings)
for directory, settings in DIRECTORIES.items():
    if (os.getcwd() + "/").startswith(os.path.expanduser(directory) + "/"):
        give(settings)

default = "/opt/slurm-oci/slurm-oci-run-default"
os.execv(default, [default, image, spool, user, uid, node, job, step, task, *command])
