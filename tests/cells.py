"""Every per-job setting with each of its values: the rows of the matrix in docs/matrix.md."""

from slurm_oci.settings import CHOICES

OWN = ("user_hook", "debug")  # the dispatcher's, whatever the runtime
CELLS = (
    *("mounts", "mounts :ro", "workdir", "variables"),
    *(f"{name}={value}" for name, values in CHOICES.items() if name not in OWN for value in values),
)
# What holds without being asked for, and all of it together. (Not `home=bind`: a place for it may have to
# be made, which some can do in a writable layer alone; nor `gpu=auto`, which means something for who has been granted some.)
DEFAULTS = ("env=job", "writable=no", "entrypoint=no", "slurm=no", "command=as-given")


def refusal(error, image):
    """The words of a refusal, without what differs between machines."""
    return "refused: " + said(error, "error").rpartition(" [")[0].replace(image, "IMAGE")


def left_out(error, image):
    """The words of the warning that a default could not be had, or nothing."""
    _, separator, why = said(error, "warning").partition("without them: ")
    return f"left out: {why}".replace(image, "IMAGE") if separator else ""


def said(error, what):
    """The first line of that kind, without the word for it."""
    start = f"slurm-oci: {what}: "
    return next((line.removeprefix(start) for line in error.splitlines() if line.startswith(start)), "")
