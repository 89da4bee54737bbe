"""What a user or an admin sees when something is wrong: one error line, hints, no traceback."""

import json
from pathlib import Path

import pytest
from conftest import GUIDES_LINE
from images import IMAGES
from running import until

IMAGE = IMAGES["rootfs"]


def error_of(result, status):
    """The one error line of a refused task, and its hint lines."""
    assert result[:2] == (status, b"")
    lines = result[2].decode().splitlines()
    assert b"Traceback" not in result[2]
    lines.remove(f"srun: error: node1: task 0: Exited with exit code {status}")  # which comes when it comes
    first, *hints = lines
    assert first.startswith("slurm-oci: error: ")
    assert hints
    assert [hint for hint in hints if not hint.startswith("  ")] == []
    return first, hints


def test_a_missing_image_says_what_is_nearby(slurm):
    """125, with the name that was probably meant."""
    first, hints = error_of(slurm.srun("/images/rotfs", "/bin/true"), 125)
    assert first == "slurm-oci: error: there is no image at `/images/rotfs` [image-missing]"
    assert any("/images/rootfs" in hint for hint in hints)


def test_a_runtime_that_does_not_exist(slurm):
    """127, with the name that was probably meant."""
    first, hints = error_of(slurm.srun(IMAGE, "/bin/true", SLURM_OCI_RUNTIME="aptainer"), 127)
    assert "no container runtime is called `aptainer`" in first
    assert "did you mean `apptainer`?" in hints[0]


def test_a_runtime_that_is_not_on_the_node(slurm):
    """127, never another one in its place."""
    slurm.root.write("/opt/slurm-oci/site.toml", '[executables]\ncrun = "/nowhere/crun"\n')
    first, _ = error_of(slurm.srun(IMAGES["oci-bundle"], "/bin/true", SLURM_OCI_RUNTIME="crun"), 127)
    assert "is started by `/nowhere/crun`, which is no program on this node" in first


@pytest.mark.parametrize("kind", ["rootfs", "oci-bundle"])
def test_a_batch_script_whose_interpreter_the_image_lacks(slurm, kind):
    """127, with what the image has."""
    status, out = slurm.batch("#!/bin/bash\necho inside\n", f"--container={IMAGES[kind]}")
    first, hint, _ = out.decode().splitlines()
    assert (status, first[:65]) == (127, "slurm-oci: error: the batch script begins with `#!/bin/bash`, and")
    assert hint.startswith("  the image has `/bin/sh`: ")


def test_a_file_of_no_known_kind(slurm):
    """125, saying what it looks like."""
    first, _ = error_of(slurm.srun("/etc/passwd", "/bin/true"), 125)
    assert "/etc/passwd" in first
    assert first.endswith("[image-unknown]")


def test_a_kind_that_no_runtime_takes_lists_why(slurm):
    """127, with every runtime and why it was passed over."""
    takers = ("podman", "umoci", "apptainer", "singularity")  # by themselves, or by unpacking it first
    table = "".join(f'{name} = "/nowhere/{name}"\n' for name in takers)
    slurm.root.write("/opt/slurm-oci/site.toml", f"[executables]\n{table}")
    first, hints = error_of(slurm.srun(IMAGES["oci-archive"], "/bin/true"), 127)
    assert first.endswith("of kind oci-archive [runtime-none]")
    assert any(hint.strip().startswith("crun: ") for hint in hints)


def test_a_path_with_a_space_under_the_guides_line(slurm):
    """The shift is recognised, with the likely cause and the cure."""
    slurm.oci_conf("IgnoreFileConfigJson=true", f'RunTimeRun="{GUIDES_LINE}"')
    first, hints = error_of(slurm.srun("/images/two words", "/bin/true"), 125)
    assert first.endswith("[request-shifted]")
    assert any("white space" in hint for hint in hints)
    assert any("oci-conf" in hint for hint in hints)


@pytest.mark.parametrize(
    "name", ["two words", "it's", 'say "x"', "a;touch x", "$(touch x)", "line\nbreak", "*"]
)
def test_any_path_arrives_under_the_shipped_line(slurm, name):
    """And nothing in it is run."""
    place = f"/images/{name}"
    slurm("ln", "-sfn", IMAGE, place, user="root")
    try:
        assert slurm.srun(place, "/bin/echo", "arrived")[:2] == (0, b"arrived\n")
        assert not slurm.root.path("/home/alice/x").exists()
    finally:
        slurm("rm", "-f", place, user="root")


def test_a_command_that_srun_found_elsewhere(slurm):
    """`head` becomes /usr/bin/head on the submit host, which the image lacks."""
    first, hints = error_of(slurm.srun(IMAGE, "head", "-n1", "/etc/os-release"), 127)
    assert first == f"slurm-oci: error: the image `{IMAGE}` has no `/usr/bin/head` [command-missing]"
    assert "`/bin/head`" in hints[0]
    looked_up = slurm.srun(IMAGE, "head", "-n1", "/etc/os-release", SLURM_OCI_COMMAND="in-image")
    assert looked_up == (0, b"ID=busybox\n", b"")


@pytest.mark.parametrize(
    ("runtime", "kind"),
    [
        *(("crun", "oci-bundle"), ("runc", "oci-bundle"), ("apptainer", "rootfs"), ("podman", "rootfs")),
        *(("unshare", "rootfs"), ("charliecloud", "rootfs"), ("charliecloud", "squashfs")),
    ],
)
def test_a_command_that_the_image_lacks_is_named(slurm, runtime, kind):
    """By slurm-oci, whatever the runtime says of it."""
    if not slurm.root.has({"charliecloud": "ch-run"}.get(runtime, runtime)):
        pytest.skip(f"{slurm.root.suite} has no package of {runtime}")
    image = IMAGES[kind]
    first, _ = error_of(slurm.srun(image, "no-such-tool", SLURM_OCI_RUNTIME=runtime), 127)
    assert (
        first == f"slurm-oci: error: the image `{image}` has no `no-such-tool` in its PATH [command-missing]"
    )
    assert error_of(slurm.srun(image, "", SLURM_OCI_RUNTIME=runtime), 127)[0].endswith("[command-missing]")
    first, _ = error_of(slurm.srun(image, "/usr/bin/head", SLURM_OCI_RUNTIME=runtime), 127)
    assert first == f"slurm-oci: error: the image `{image}` has no `/usr/bin/head` [command-missing]"


@pytest.mark.parametrize(
    ("runtime", "kind"),
    [
        *(("apptainer", "sif"), ("apptainer", "squashfs"), ("charliecloud", "squashfs")),
        *(("podman", "oci-archive"), ("podman", "docker-archive"), ("podman", "oci-layout")),
    ],
)
def test_a_command_is_looked_up_in_a_file_where_that_is_asked_for(slurm, runtime, kind):
    """By the runtime, in the container's PATH."""
    if not slurm.root.has({"charliecloud": "ch-run"}.get(runtime, runtime)):
        pytest.skip(f"{slurm.root.suite} has no package of {runtime}")
    wanted = {"SLURM_OCI_RUNTIME": runtime, "SLURM_OCI_COMMAND": "in-image"}
    status, out, _ = slurm.srun(IMAGES[kind], "head", "-n1", "/etc/os-release", **wanted)
    assert (status, out) == (0, b"ID=busybox\n")


def test_a_misbuilt_plugin_harms_only_itself(slurm):
    """It is named by `list`, and the others go on working."""
    folder = "/opt/slurm-oci/plugins.d"
    slurm.root.write(f"{folder}/broken.py", "import no_such_module\n")
    slurm.root.write(f"{folder}/misspelt.py", "def slurm_oci_runtime():\n    return []\n")
    slurm.root.write(f"{folder}/twice.py", "from slurm_oci_plugins.crun import slurm_oci_runtimes\n")
    try:
        assert slurm.srun(IMAGES["oci-bundle"], "/bin/echo", "works")[:2] == (0, b"works\n")
        status, out, _ = slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "list", "--json")
        aside = {
            runtime["source"]: runtime["reason"]
            for runtime in json.loads(out)
            if "plugins.d" in runtime["source"]
        }
        assert status == 0
        assert "no_such_module" in aside[f"{folder}/broken.py"]
        assert "slurm_oci_runtime" in aside[f"{folder}/misspelt.py"]
        assert "`crun` is taken" in aside[f"{folder}/twice.py"]
    finally:
        slurm("sh", "-c", f"rm {folder}/*.py", user="root")


def test_a_broken_site_toml_is_named_with_its_line(slurm):
    """A site's wish is not passed over in silence."""
    slurm.root.write("/opt/slurm-oci/site.toml", "# ours\nuser_hoook = false\n")
    first, _ = error_of(slurm.srun(IMAGE, "/bin/true"), 125)
    assert "/opt/slurm-oci/site.toml:2: there is no `user_hoook`" in first


def test_a_node_without_oci_conf_can_end_the_task_with_a_word(slurm):
    """By the TaskProlog that docs/slurm.md shows; Slurm itself would run the command on the host."""
    page = (Path(__file__).parents[2] / "docs/slurm.md").read_text()
    text = page.partition("<!-- task prolog -->\n```sh\n")[2].partition("```")[0]
    slurm.root.write("/etc/slurm/task_prolog", text, mode=0o755)
    original = slurm.root.path("/etc/slurm/slurm.conf").read_text()
    slurm.root.write("/etc/slurm/slurm.conf", original + "TaskProlog=/etc/slurm/task_prolog\n")
    try:
        assert slurm("scontrol", "reconfigure", user="root")[0] == 0
        assert slurm.srun(IMAGE, "/bin/echo", "inside")[:2] == (0, b"inside\n")
        slurm.root.clear_oci_conf()
        assert slurm("srun", "/bin/echo", "no container")[:2] == (0, b"no container\n")
        said = b"slurm-oci: this node has no /etc/slurm/oci.conf, so --container would be ignored\n"
        until(lambda: slurm.srun(IMAGE, "/bin/true")[0] == 1)  # slurmd reads slurm.conf in its own time
        assert slurm.srun(IMAGE, "/bin/echo", "outside")[:2] == (1, said)
        assert slurm.batch("#!/bin/sh\necho outside\n", f"--container={IMAGE}")[1].startswith(said)
    finally:
        slurm.root.write("/etc/slurm/slurm.conf", original)
        slurm("scontrol", "reconfigure", user="root")
