"""From `srun --container` to a running container, with each runtime and kind of image."""

import json
import time

import pytest
from conftest import GUIDES_LINE
from images import IMAGES
from running import at_a_terminal

SHELL = "/bin/sh"


@pytest.mark.parametrize(
    ("kind", "runtimes"),
    [
        ("rootfs", ("apptainer", "charliecloud")),
        ("oci-bundle", ("crun",)),
        ("squashfs", ("apptainer", "charliecloud")),
        ("sif", ("apptainer",)),
    ],
)
def test_an_image_gets_a_runtime_by_what_it_is(slurm, kind, runtimes):
    """The first in the default order that takes the kind and is on the node."""
    if not slurm.has(kind):
        pytest.skip(f"{slurm.root.suite} cannot make a {kind}")
    expected = next(name for name in runtimes if name != "apptainer" or slurm.root.has("apptainer"))
    status, out, err = slurm.srun(
        IMAGES[kind], SHELL, "-c", "echo in; cat /etc/os-release", SLURM_OCI_DEBUG="1"
    )
    assert (status, out) == (0, b'in\nID=busybox\nPRETTY_NAME="busybox for tests"\n')
    assert f"slurm-oci: image: {kind} ".encode() in err
    assert f"slurm-oci: runtime: {expected} (the first in the site's order".encode() in err


def test_the_job_names_its_runtime(slurm, pair):
    """SLURM_OCI_RUNTIME decides, whatever the order; its output and status are the command's."""
    runtime, image = pair
    command = "echo out; echo err >&2; exit 7"
    status, out, err = slurm.srun(image, SHELL, "-c", command, SLURM_OCI_RUNTIME=runtime)
    assert (status, out) == (7, b"out\n")
    assert err == b"err\nsrun: error: node1: task 0: Exited with exit code 7"


@pytest.mark.parametrize("status", [0, 1, 126, 127, 255])
def test_the_exit_status_is_the_commands(slurm, pair, status):
    """As without a container."""
    runtime, image = pair
    assert slurm.srun(image, SHELL, "-c", f"exit {status}", SLURM_OCI_RUNTIME=runtime)[0] == status


@pytest.mark.parametrize(("signal", "status"), [("TERM", 143), ("KILL", 137), ("SEGV", 139)])
def test_a_command_killed_by_a_signal_is_told_as_such(slurm, pair, signal, status):
    """128 and the signal's number, which is what srun makes of one without a container."""
    runtime, image = pair
    assert slurm("srun", SHELL, "-c", f"kill -{signal} $$")[0] == status
    assert slurm.srun(image, SHELL, "-c", f"kill -{signal} $$", SLURM_OCI_RUNTIME=runtime)[0] == status


WORDS = [
    "it's",
    "a b",
    "",
    "$HOME",
    "$(id)",
    "`id`",
    "two\nlines",
    "tail\n",
    "tab\t",
    "*",
    "--",
    "-n",
    "\\",
    '"',
]


def test_arguments_arrive_as_they_were_written(slurm, pair):
    """Through Slurm's line, the shell, the entry point and the runtime's own options."""
    runtime, image = pair
    script = 'for word; do printf "%s|" "$word"; done'
    status, out, _ = slurm.srun(image, SHELL, "-c", script, "sh", *WORDS, "é", SLURM_OCI_RUNTIME=runtime)
    assert (status, out) == (0, "".join(word + "|" for word in [*WORDS, "é"]).encode())


def test_bytes_that_are_no_text_arrive_or_are_refused(slurm, pair):
    """A runtime that would change such a word is not started."""
    runtime, image = pair
    status, out, err = slurm.srun(image, "/bin/echo", b"\xff\xfe", SLURM_OCI_RUNTIME=runtime)
    if runtime in ("charliecloud", "unshare"):
        assert (status, out) == (0, b"\xff\xfe\n")
    else:
        assert (status, out) == (125, b"")
        first = err.splitlines()[0]
        assert first.startswith(b"slurm-oci: error: word 1 of the command")
        assert b"is not UTF-8" in first
        assert first.endswith(b"[argument-refused]")


def test_the_jobs_environment_is_in_the_container(slurm, pair):
    """The user's own variables and Slurm's; PATH is left to the image."""
    runtime, image = pair
    script = 'echo "$SLURM_JOB_ID|$SLURM_PROCID|$SLURM_STEP_ID|$MINE|$HOME|$PATH"'
    status, out, _ = slurm.srun(
        image, SHELL, "-c", script, MINE="it's\n mine", PATH="/odd:/usr/bin:/bin", SLURM_OCI_RUNTIME=runtime
    )
    job, procid, step, mine, home, path = out.decode().rstrip("\n").split("|")
    assert status == 0
    assert job.isdecimal()
    assert (procid, step, mine, home) == ("0", "0", "it's\n mine", "/home/alice")
    assert "/odd" not in path
    assert "/bin" in path.split(":")


def test_the_user_is_himself(slurm, pair):
    """In uid and gid; a bundle's own process.user is kept by the OCI runtimes."""
    runtime, image = pair
    status, out, _ = slurm.srun(image, SHELL, "-c", "id -u; id -g", SLURM_OCI_RUNTIME=runtime)
    expected = b"0\n0\n" if runtime in ("crun", "runc") else b"1001\n1001\n"
    assert (status, out) == (0, expected)


def test_home_is_there_and_can_be_written(slurm, pair):
    """At its own path, though the image has no such place; the image stays as it was."""
    runtime, image = pair
    script = "pwd; echo kept > /home/alice/from-container"
    assert slurm.srun(image, SHELL, "-c", script, SLURM_OCI_RUNTIME=runtime)[:2] == (0, b"/home/alice\n")
    kept = slurm.root.path("/home/alice/from-container")
    assert kept.read_text() == "kept\n"
    kept.unlink()
    for kind in ("rootfs", "oci-bundle"):
        folder = slurm.root.path(IMAGES[kind])
        assert not list(folder.glob("**/home/*"))


def test_eight_tasks_run_at_once(slurm, pair):
    """Each with its own rank, and nothing shared that they could break for each other."""
    runtime, image = pair
    script = "echo $SLURM_PROCID"
    status, out, err = slurm.srun(image, SHELL, "-c", script, options=["-n8"], SLURM_OCI_RUNTIME=runtime)
    assert (status, sorted(out.split()), err) == (0, [str(n).encode() for n in range(8)], b"")


def test_a_terminal_works(slurm, pair):
    """`srun --pty`: the shell has a terminal, and ^C reaches the foreground command and not it."""
    runtime, image = pair

    def talk(terminal):
        terminal.send(b"tty; stty size; echo $((6 * 7)); sleep 100\n")
        seen = terminal.expect(b"42\r\n")
        time.sleep(0.5)  # for sleep to be in the foreground
        terminal.send(b"\x03")
        terminal.send(b"echo after=$?; exit 5\n")
        return seen, *terminal.finish()

    words = ["srun", "--pty", f"--container={image}", SHELL]
    seen, status, rest = at_a_terminal(slurm, words, talk, env={"SLURM_OCI_RUNTIME": runtime})
    assert b"/dev/" in seen
    assert b"24 80" in seen
    assert status == 5
    assert b"after=130" in rest


def test_a_batch_script_runs_inside(slurm, pair):
    """Slurm keeps the script where no image has it: that one file is bound."""
    runtime, image = pair
    script = b'#!/bin/sh\ncat /etc/os-release | head -1\necho "$SLURM_JOB_ID $# $1"\npwd\nexit 3\n'
    status, out = slurm.batch(script, f"--container={image}", SLURM_OCI_RUNTIME=runtime)
    lines = out.decode().splitlines()
    assert (status, lines[0], lines[2:]) == (3, "ID=busybox", ["/home/alice"])


def test_the_command_starts_in_the_jobs_directory(slurm, pair):
    """--chdir is bound where the image lacks it."""
    runtime, image = pair
    slurm("mkdir", "-p", "/data/of alice", user="root")
    slurm("chown", "alice", "/data/of alice", user="root")
    status, out, err = slurm.srun(
        image, SHELL, "-c", "pwd; touch here", options=["--chdir=/data/of alice"], SLURM_OCI_RUNTIME=runtime
    )
    assert (status, out, err) == (0, b"/data/of alice\n", b"")
    assert slurm.root.path("/data/of alice/here").exists()


def test_it_starts_in_the_root_where_the_jobs_directory_cannot_be_had(slurm, pair):
    """A directory of the system's own is not laid over the image's: one warning line says so."""
    runtime, image = pair
    if runtime == "apptainer":
        pytest.skip("apptainer binds such a directory by itself")
    status, out, err = slurm.srun(
        image, "/bin/pwd", options=["--chdir=/usr/share"], SLURM_OCI_RUNTIME=runtime
    )
    assert (status, out) == (0, b"/\n")
    assert err.startswith(b"slurm-oci: warning: the command starts in `/`: ")
    assert b"/usr/share" in err
    assert len(err.splitlines()) == 1


def test_a_workdir_that_cannot_be_had_is_refused(slurm, pair):
    """What the job asked for is carried out or refused, never replaced."""
    runtime, image = pair
    status, out, err = slurm.srun(
        image, "/bin/pwd", SLURM_OCI_RUNTIME=runtime, SLURM_OCI_WORKDIR="/no/such/place"
    )
    assert out == b""
    assert b"/no/such/place" in err
    # Into a SIF or squashfs file only apptainer itself looks, and 255 is its own failure.
    assert status == (255 if runtime == "apptainer" and "busybox" in image else 125)


def test_mounts_and_workdir_are_carried_out(slurm, pair):
    """SLURM_OCI_MOUNTS binds, SLURM_OCI_WORKDIR starts there."""
    runtime, image = pair
    status, out, _ = slurm.srun(
        image,
        SHELL,
        "-c",
        "pwd; cat ./hostname",
        SLURM_OCI_RUNTIME=runtime,
        SLURM_OCI_MOUNTS="/etc:/of host",
        SLURM_OCI_WORKDIR="/of host",
    )
    assert (status, out) == (0, b"/of host\n" + slurm.root.path("/etc/hostname").read_bytes())


def test_the_users_config_json_is_never_changed(slurm):
    """crun and runc run from a copy in a private place, which is gone afterwards."""
    config = slurm.root.path(IMAGES["oci-bundle"]) / "config.json"
    before = config.read_bytes()
    for runtime in ("crun", "runc"):
        script = "ls -d /run/slurm-oci/1001 2>/dev/null; true"
        assert slurm.srun(IMAGES["oci-bundle"], SHELL, "-c", script, SLURM_OCI_RUNTIME=runtime)[0] == 0
        assert config.read_bytes() == before
        assert list(slurm.root.path("/run/slurm-oci/1001").iterdir()) == []
    assert not slurm.root.path("/run/user/1001").exists()


def test_nothing_is_left_in_slurms_spool(slurm, pair):
    """Slurm's own rmdir fails on anything left there, and the directories stay for ever."""
    runtime, image = pair
    assert slurm.srun(image, "/bin/true", SLURM_OCI_RUNTIME=runtime)[0] == 0
    slurm.root.wait_idle()
    assert list(slurm.root.path("/var/spool/slurmd").glob("oci-job*")) == []


RUBBISH = {
    "PYTHONHOME": "/nowhere",
    "PYTHONPATH": "/home/alice/rubbish",
    "PYTHONSTARTUP": "/home/alice/rubbish/os.py",
    "BASH_ENV": "/home/alice/rubbish/os.py",
    "ENV": "/home/alice/rubbish/os.py",
    "LD_LIBRARY_PATH": "/home/alice/rubbish",
}


def test_rubbish_in_the_jobs_environment_changes_nothing(slurm, pair):
    """Neither its variables nor modules of Python's own names in the working directory."""
    runtime, image = pair
    folder = slurm.root.path("/home/alice") / "rubbish"
    folder.mkdir(exist_ok=True)
    for name in ("os.py", "sitecustomize.py", "json.py", "slurm_oci.py"):
        (folder / name).write_text("raise SystemExit('rubbish was run')\n")
    (folder / "libc.so.6").write_text("rubbish")
    status, out, err = slurm.srun(
        image,
        SHELL,
        "-c",
        "echo $PYTHONHOME",
        SLURM_OCI_RUNTIME=runtime,
        cwd="/home/alice/rubbish",
        options=["--export=" + ",".join(["ALL", *(f"{k}={v}" for k, v in RUBBISH.items())])],
    )
    assert (status, out, err) == (0, b"/nowhere\n", b"")


def test_the_guides_own_line_works(slurm, pair):
    """As far as Slurm lets it: without an environment file the job's variables are lost."""
    runtime, image = pair
    slurm.oci_conf("IgnoreFileConfigJson=true", f'RunTimeRun="{GUIDES_LINE}"')
    slurm.root.write("/opt/slurm-oci/site.toml", f'[defaults]\nruntime = "{runtime}"\n')
    status, out, _ = slurm.srun(
        image, SHELL, "-c", "echo $HOME:$USER:$SLURM_JOB_ID; pwd; exit 4", MINE="lost"
    )
    home, folder = out.decode().splitlines()
    assert (status, folder) == (4, "/home/alice")
    assert home.startswith("/home/alice:alice:")
    assert home.rpartition(":")[2].isdecimal()


def test_the_guides_line_with_exec_quotes_and_an_environment_file_works(slurm, pair):
    """The mended form that needs no decoding: white space in the path is no trouble any more."""
    runtime, image = pair
    line = GUIDES_LINE.replace("%b %m", "'%b' '%m'")
    slurm.oci_conf("IgnoreFileConfigJson=true", "CreateEnvFile=newline", f'RunTimeRun="exec {line}"')
    odd = "/images/with two  blanks"
    slurm("ln", "-sfn", image, odd, user="root")
    status, out, _ = slurm.srun(odd, SHELL, "-c", "echo $MINE", MINE="here", SLURM_OCI_RUNTIME=runtime)
    assert (status, out) == (0, b"here\n")


# Slurm runs these three as root; before 25.05 it wants all of them here.
WITH_CONFIG_JSON = (
    "IgnoreFileConfigJson=false",
    f'RunTimeRun="exec {GUIDES_LINE}"',
    'RunTimeQuery="/bin/false"',
    'RunTimeKill="/bin/true"',
    'RunTimeDelete="/bin/true"',
)


@pytest.mark.parametrize("runtime", ["unshare", "crun", "runc"])
def test_slurms_own_config_json_works_for_a_batch_script(slurm, runtime):
    """Slurm names the script in its config.json, and binds it. (ch-run cannot make the mount points
    that Slurm wants, which are files: it refuses them by name.)"""
    slurm.oci_conf(*WITH_CONFIG_JSON)
    slurm.root.write("/opt/slurm-oci/site.toml", f'[defaults]\nruntime = "{runtime}"\n')
    script = b"#!/bin/sh\nhead -n1 /etc/os-release\necho $MINE\nexit 3\n"
    status, out = slurm.batch(script, f"--container={IMAGES['oci-bundle']}", MINE="here")
    assert status == 3
    assert out.startswith(b"ID=busybox\nhere\n")


@pytest.mark.parametrize("runtime", ["unshare", "crun", "runc", "charliecloud"])
def test_slurms_own_config_json_works(slurm, runtime):
    """With IgnoreFileConfigJson=false the bundle is the task's spool directory, made by Slurm."""
    slurm.oci_conf(*WITH_CONFIG_JSON)
    slurm.root.write("/opt/slurm-oci/site.toml", f'[defaults]\nruntime = "{runtime}"\n')
    words = ["it's", "a b", ""]
    status, out, _ = slurm.srun(
        IMAGES["oci-bundle"],
        SHELL,
        "-c",
        'echo "$MINE $SLURM_JOB_ID"; echo $#; exit 9',
        "sh",
        *words[1:],
        MINE="here",
    )
    assert status == 9
    first, count = out.decode().splitlines()
    assert first.startswith("here ")
    assert count == "2"


def test_list_on_the_node_names_what_it_has(slurm):
    """As the admin sees it there."""
    status, out, _ = slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "list", "--json")
    found = {runtime["name"]: runtime for runtime in json.loads(out)}
    assert status == 0
    assert {"crun", "runc", "charliecloud", "unshare"} <= {name for name in found if found[name]["usable"]}
    assert found["apptainer"]["usable"] == slurm.root.has("apptainer")
    assert found["crun"]["executable"] == "/usr/bin/crun"
    assert found["crun"]["version"].startswith("crun version ")
