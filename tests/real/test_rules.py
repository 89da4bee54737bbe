"""Rules of site.toml by what Slurm itself tells a task: its partition, account and QOS, the kind of step."""

import pytest
from images import IMAGES

RULES = """
[[rules]]
partition = "other"
runtime = "nothing"

[[rules]]
partition = ["other", "debug"]
step = "step"
mounts = ["/images:/opt:ro"]
env = "slurm"

[[rules]]
kind = "rootfs"
runtime = "unshare"
env = "job"
"""
LOOK = 'ls /opt | grep rootfs; echo "$MINE"'


@pytest.fixture(params=["compiled", "asked"])
def ruled(request, slurm):
    """The rules in force, by the catalog or by the plugins themselves."""
    slurm.root.write("/opt/slurm-oci/site.toml", RULES)
    if request.param == "compiled":
        status, _, err = slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "compile", user="root")
        assert status == 0
        assert b":4: `rules[1].runtime` names no runtime: `nothing`" in err
    yield slurm
    slurm("rm", "-f", "/opt/slurm-oci/site.toml", user="root")
    assert slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "compile", user="root")[0] == 0


def test_the_rules_that_fit_a_step_give_its_settings(ruled):
    """Of each the first; the job itself may have it otherwise, and what stays is said by the trace."""
    image = IMAGES["rootfs"]
    assert ruled.srun(image, "/bin/sh", "-c", LOOK, MINE="m")[:2] == (0, b"rootfs\n\n")
    assert ruled.srun(image, "/bin/sh", "-c", LOOK, MINE="m", SLURM_OCI_ENV="job")[:2] == (
        0,
        b"rootfs\nm\n",
    )
    error = ruled.srun(image, "/bin/true", SLURM_OCI_DEBUG="1")[2].decode()
    assert "slurm-oci: rules: 2, 3 (of 3 in site.toml)" in error
    assert "slurm-oci: runtime: unshare (asked for by `runtime` in rule 3 of site.toml)" in error


def test_a_rule_for_steps_holds_for_no_batch_script(ruled):
    """Which has its variables by the next rule."""
    options = (f"--container={IMAGES['rootfs']}", "--export=ALL,MINE=m", f"--wrap={LOOK}")
    assert ruled.batch(None, *options) == (0, b"m\n")
