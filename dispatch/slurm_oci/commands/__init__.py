"""The commands of `slurm-oci-plugins`, one a file."""
