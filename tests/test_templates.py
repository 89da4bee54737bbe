"""The starting points for `~/.slurm-oci-run`: each as it is, and the command that hands them out."""

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import shellingham
from conftest import NAMESPACES, ROOT, STANDARD_PATH, Ended, Slurm, folder_of

from slurm_oci import templates
from slurm_oci.templates import LOGIN_SHELLS, Template

FOLDER = ROOT / "user_templates"
ALL = templates.templates(str(FOLDER))
BASH = [template for template in ALL if template.language == "bash"]
BATCH = 4294967291  # the step number of a batch script
ORDER = 'order = ["tool"]\n'
TOOL = '\n[runtimes.tool]\nrun = ["tool", "%b", "--", "%@"]\naccepts = ["rootfs"]\n'
WORDS = """#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word
"""


def template(slurm: Slurm, *words: object) -> Ended:
    return slurm.call("template", *words, program="bin/slurm-oci-plugins")


@pytest.fixture
def hook(slurm):
    """Makes the template called `name`, as the command prints it, the user's hook."""

    def make(name: str, *changes: tuple[str, str]) -> None:
        text = template(slurm, name).out
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        slurm.hook(text)

    slurm.job["PATH"] = f"{slurm.place}/bin:/usr/bin:/bin"
    return make


@pytest.fixture
def tool(slurm, stand_in):
    """The runtime that the site's default comes to."""
    path = slurm.prefix / "site.toml"
    made = stand_in("tool", "exit 7")
    path.write_text(ORDER + path.read_text() + TOOL + f'[executables]\ntool = "{made.path}"\n')
    return made


@pytest.fixture
def image(place):
    """A directory, as an image for a runtime that does not look."""
    (place / "image/bin").mkdir(parents=True)
    for program in ("echo", "perf", "strace"):
        (place / "image/bin" / program).write_text("")
    return place / "image"


# As files


def test_there_is_one_for_every_runtime_of_ours():
    """By the runtime's name."""
    runtimes = {path.stem for path in (ROOT / "plugins/slurm_oci_plugins").glob("*.py")}
    ours = {name for name in runtimes if "def slurm_oci_runtimes" in text_of(name)}
    assert ours - {template.name for template in ALL} == set()


def text_of(plugin: str) -> str:
    return (ROOT / f"plugins/slurm_oci_plugins/{plugin}.py").read_text()


@pytest.mark.parametrize("given", ALL, ids=lambda given: given.name)
def test_each_says_what_it_is_for_and_explains_its_words(given):
    """In one line of the length of one, then the eight fields, in the same words in all."""
    text = Path(given.path).read_text()
    words = WORDS if given.language == "bash" else re.sub(r"\$(\d)", r"\1", WORDS)
    assert text.split("\n", 2)[2].startswith(words)
    assert given.summary.endswith((".", "…"))
    assert len(given.summary) <= 90
    assert os.access(given.path, os.X_OK)


def test_names_are_used_once():
    """Whatever language a template is in."""
    assert len({given.name for given in ALL}) == len(ALL) == len(list(FOLDER.iterdir()))


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("given", BASH, ids=lambda given: given.name)
def test_scripts_are_clean(given):
    """As shellcheck sees it."""
    done = subprocess.run(["shellcheck", given.path], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_crun_and_runc_differ_in_their_names_alone():
    """And in crun's own option, and in where runc writes its warnings."""
    crun = (FOLDER / "crun.py").read_text()
    expected = crun.replace('"--cgroup-manager=disabled"', '"--log", private + "/log"').replace(
        "crun", "runc"
    )
    assert (FOLDER / "runc.py").read_text() == expected


def test_apptainer_and_singularity_differ_in_their_names_alone():
    """The one was made from the other."""
    singularity = (FOLDER / "singularity.bash").read_text()
    expected = singularity.replace("SingularityCE", "Apptainer").replace("singularity", "apptainer")
    assert (FOLDER / "apptainer.bash").read_text() == expected


# Those that hand back


@pytest.mark.parametrize(
    "name", ["default", "project", "modules", "names", "gpu", "mpi", "debug", "rules", "nvidia"]
)
def test_what_a_template_is_not_for_goes_on_as_without_it(slurm, hook, tool, image, name):
    """The same words reach the site's runtime, byte for byte, and its exit status comes back."""
    hook(name)
    words = ["/bin/echo", "it's", "", " a\n", "\udcff", "$HOME"]
    ended = slurm.run(image, *words)
    assert (ended.status, ended.out, ended.err) == (7, "", "")
    assert tool.words == [[str(image), "--", *words]]


def test_a_project_has_its_own_runtime(slurm, hook, tool, image):
    """For jobs submitted from below its directory, unless they ask for another."""
    hook("project", ("runtime=unshare", "runtime=none-such"))
    project = slurm.home / "project"
    for place, runtime, status in [
        (f"{project}/deep", "", 127),
        (str(project), "", 127),
        (f"{project}s", "", 7),
        (f"{project}/deep", "tool", 7),
    ]:
        slurm.job |= {"SLURM_SUBMIT_DIR": place, "SLURM_OCI_RUNTIME": runtime}
        ended = slurm.run(image, "/bin/echo")
        assert (ended.status, ended.err.partition(" (")[0]) == (
            status, "" if status == 7 else "slurm-oci: error: no container runtime is called `none-such`",
        )  # fmt: skip


def test_modules_are_loaded_by_the_login_shell_s_own_function(slurm, hook, tool, image):
    """And what they set is what the job's container gets; what they print is not in its output."""
    hook("modules", ("modules=()", "modules=(gcc/13 'a b')"))
    function = 'module() { echo "loading"; export LOADED="$*"; }\n'
    (slurm.home / ".bash_profile").write_text(function)
    ended = slurm.run(image, "/bin/echo")
    assert (ended.status, ended.out, ended.err) == (7, "", "loading\n")
    assert tool.calls[0].env["LOADED"] == "load gcc/13 a b"


def test_a_module_that_cannot_be_loaded_ends_the_task(slurm, hook, tool, image):
    """Instead of running without it."""
    hook("modules", ("modules=()", "modules=(none)"))
    (slurm.home / ".bash_profile").write_text("module() { return 1; }\n")
    assert slurm.run(image, "/bin/echo").status == 125
    assert tool.calls == []


LOGIN_FILES = {
    "zsh": (".zprofile", "echo Welcome\nexport MODULEPATH=$'/own\\nzsh'\n"),
    "fish": (
        ".config/fish/config.fish",
        "status --is-login; and set -x MODULEPATH '/own\nfish'; and echo Welcome\n",
    ),
    "tcsh": (".login", 'echo Welcome\nsetenv MODULEPATH "/own\\\ntcsh"\n'),
    "ksh": (".profile", "echo Welcome\nexport MODULEPATH=$'/own\\nksh'\n"),
}


@pytest.mark.parametrize("name", LOGIN_FILES)
def test_another_shell_s_login_files_say_where_modules_are(slurm, hook, tool, image, name):
    """Their variables are taken over, whole, and what they print is not."""
    shell = shutil.which(name)
    if not shell:
        pytest.skip(f"{name} is not installed")
    hook("modules", ("\nlogin_shell=\n", f"\nlogin_shell={shell}\n"))
    path, text = LOGIN_FILES[name]
    (slurm.home / path).parent.mkdir(parents=True, exist_ok=True)
    (slurm.home / path).write_text(text)
    ended = slurm.run(image, "/bin/echo")
    assert (ended.status, ended.out) == (7, "")
    assert tool.calls[0].env["MODULEPATH"] == f"/own\n{name}"


@pytest.mark.parametrize(
    ("name", "exists", "becomes"),
    [
        ("tools", (), "HOME/images/tools-2.3.sqsh"),
        ("torch", ("torch",), "HOME/images/torch"),
        ("other", ("other.d",), "HOME/images/other.d"),
        ("other", (), "other"),
        ("./torch", (), "HOME/torch"),
    ],
)
def test_short_names_stand_for_images(slurm, hook, tool, name, exists, becomes):
    """What is listed, what is there under that name, and else the word itself."""
    hook("names")
    for folder in exists:
        (slurm.home / "images" / folder / "bin").mkdir(parents=True)
        (slurm.home / "images" / folder / "bin/echo").write_text("")
    ended = slurm.run(name, "/bin/echo", "x")
    becomes = becomes.replace("HOME", str(slurm.home))
    if exists:
        assert tool.words == [[becomes, "--", "/bin/echo", "x"]]
    else:
        assert f"`{becomes}`" in ended.err.splitlines()[0]


def test_a_job_with_gpus_asks_for_its_vendor_s_libraries(slurm, hook, tool, image):
    """As the node's devices say, unless the job says it itself; one without GPUs asks for nothing."""
    hook("gpu")
    slurm.run(image, "/bin/echo")
    slurm.job["SLURM_STEP_GPUS"] = "0,1"
    expected = (
        "nvidia" if os.path.exists("/dev/nvidiactl") else "amd" if os.path.exists("/dev/kfd") else "auto"
    )
    ended = slurm.run(image, "/bin/echo")
    slurm.job["SLURM_OCI_GPU"] = "amd"
    assert slurm.run(image, "/bin/echo").code == "setting-refused"
    if expected == "auto":  # else this runtime, which cannot do it, refuses
        assert [call.env.get("SLURM_OCI_GPU") for call in tool.calls] == [None, "auto"]
    else:
        assert f"asks for `gpu={expected}`" in ended.err


def test_mpi_tasks_do_without_reading_each_other_s_memory(slurm, hook, tool, image):
    """By the libraries' own variables."""
    hook("mpi")
    slurm.run(image, "/bin/echo")
    assert {name: tool.calls[0].env[name] for name in ("OMPI_MCA_smsc", "UCX_POSIX_USE_PROC_LINK")} == {
        "OMPI_MCA_smsc": "^cma",
        "UCX_POSIX_USE_PROC_LINK": "n",
    }


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, []),
        ({"WRAP": "perf record -o perf.%q"}, []),
        ({"WRAP": "perf record -o perf.%q", "WRAP_TASKS": "1 12"}, ["perf", "record", "-o", "perf.12"]),
        ({"WRAP": "strace -f", "WRAP_TASKS": "1 2"}, []),
        ({"WRAP": "strace -f", "WRAP_TASKS": "all"}, ["strace", "-f"]),
        ({"WRAP": "strace -f", "SLURM_PROCID": "0"}, ["strace", "-f"]),
    ],
)
def test_a_debugger_goes_round_the_chosen_tasks(slurm, hook, tool, image, variables, expected):
    """By default the first one; the command stays as it was."""
    hook("debug")
    for name in ("perf", "strace"):
        (image / "bin" / name).write_text("")
    slurm.job |= {"SLURM_PROCID": "12", **variables}
    slurm.run(image, "/bin/echo", "a b", "")
    assert tool.words == [[str(image), "--", *expected, "/bin/echo", "a b", ""]]


def test_rules_in_python_choose_image_and_settings(slurm, hook, tool, image):
    """Short names with settings, and directories; what the job says itself stays."""
    hook("rules", ('("~/images/torch.sif", {"SLURM_OCI_RUNTIME": "apptainer"', f'("{image}", {{"X": "1"'))
    slurm.job["X"] = "job's"
    refused = slurm.run("torch", "/bin/echo").err
    assert refused.startswith(
        "slurm-oci: error: SLURM_OCI_GPU asks for `gpu=nvidia`, which `tool` cannot do [setting-refused]\n"
        "  for images of kind rootfs these can: apptainer, "
    )
    slurm.job["SLURM_OCI_GPU"] = "auto"
    assert slurm.run("torch", "/bin/echo", "a b").status == 7
    assert (tool.words, tool.calls[0].env["X"]) == ([[str(image), "--", "/bin/echo", "a b"]], "job's")
    assert f"there is no image at `{slurm.home}/images/tools-2.3.sqsh`" in slurm.run("tools", "/bin/echo").err
    slurm.job["SLURM_OCI_DEBUG"] = "1"
    below = folder_of(slurm.home / "project/x", slurm.uid)
    assert "runtime: unshare (asked for by SLURM_OCI_RUNTIME)" in slurm.run(image, "/bin/echo", cwd=below).err


# Those that call a runtime themselves


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("bundle", [False, True])
def test_apptainer_is_called(slurm, hook, stand_in, image, bundle, batch):
    """With the image or a bundle's root, and for a batch script the script's directory."""
    hook("apptainer")
    program = stand_in("apptainer", "exit 7")
    if bundle:
        (image / "config.json").write_text("{}")
    command = ["/spool/job/slurm_script" if batch else "/bin/echo", "a b", ""]
    assert slurm.call(*slurm.words(image, *command, step=BATCH if batch else 0)).status == 7
    script = ["--mount", "type=bind,src=/spool/job,dst=/spool/job,ro"] if batch else []
    root = f"{image}/rootfs" if bundle else str(image)
    assert program.words == [["--silent", "exec", *script, root, *command]]
    assert program.calls[0].cwd == str(slurm.home)


@pytest.mark.parametrize("batch", [False, True])
def test_ch_run_is_called(slurm, hook, stand_in, image, batch):
    """In the job's directory, which is bound where home and /tmp do not hold it."""
    hook("charliecloud")
    program = stand_in("ch-run", "exit 7")
    command = ["/spool/job/slurm_script" if batch else "/bin/echo", "a b", ""]
    words = slurm.words(image, *command, step=BATCH if batch else 0)
    elsewhere = slurm.place / "elsewhere"
    assert slurm.call(*words).status == 7
    slurm.job["HOME"] = str(folder_of(elsewhere, slurm.uid))
    slurm.call(*words, cwd="/usr")
    script = ["--bind", "/spool/job:/spool/job"] if batch else []

    def expected(home: Path, cwd: str, *more: str) -> list[str]:
        kept = ["--env-no-expand", f"--set-env=HOME={home}"]
        return [
            "--write-fake",
            "--bind",
            f"{home}:{home}",
            *kept,
            "--cd",
            cwd,
            *more,
            *script,
            str(image),
            "--",
            *command,
        ]

    assert program.words == [
        expected(slurm.home, str(slurm.home)),
        expected(elsewhere, "/usr", "--bind", "/usr:/usr"),
    ]


@pytest.mark.parametrize("batch", [False, True])
def test_podman_is_called(slurm, hook, stand_in, image, batch):
    """In a runtime directory that is the user's alone, where the job has none."""
    hook("podman")
    program = stand_in("podman", "exit 7")
    command = ["/spool/job/slurm_script" if batch else "/bin/echo", "a b", ""]
    slurm.job["XDG_RUNTIME_DIR"] = str(slurm.home)
    assert slurm.call(*slurm.words(image, *command, step=BATCH if batch else 0)).status == 7
    assert slurm.call(*slurm.words("alpine:3", "/bin/echo"), cwd="/usr").status == 7
    fixed = [
        *("run", "--rm", "--interactive", "--cgroups=disabled", "--network=host", "--userns=keep-id"),
        *("--log-driver=passthrough", "--security-opt=label=disable", "--env-host"),
        *("--env", "PATH=/usr/local/bin:/usr/bin:/bin", "--workdir"),
    ]

    def binds(*places: object) -> list[str]:
        return [word for place in places for word in ("--mount", f"type=bind,src={place},dst={place}")]

    script = ["/spool/job"] if batch else []
    assert program.words == [
        [*fixed, str(slurm.home), *binds(slurm.home, "/tmp", *script), "--rootfs", str(image), *command],
        [*fixed, "/usr", *binds(slurm.home, "/tmp", "/usr"), "alpine:3", "/bin/echo"],
    ]
    assert program.calls[0].env["XDG_RUNTIME_DIR"] == str(slurm.home)


@pytest.mark.parametrize("name", ["podman", "enroot"])
def test_a_runtime_directory_of_somebody_else_is_not_used(slurm, hook, stand_in, image, name):
    """Where the job has none, one is made, for the user alone."""
    hook(name, ("/tmp/run-$uid", f"{slurm.place}/bin/run-$uid"))
    program = stand_in(name)
    slurm.job["XDG_RUNTIME_DIR"] = "/no/where"
    assert slurm.run(image, "/bin/echo").status == 125  # the directory is not the user's to make it in
    mine = folder_of(slurm.place / f"bin/run-{slurm.uid}", slurm.uid)
    assert slurm.run(image, "/bin/echo").status == 0
    assert [call.env["XDG_RUNTIME_DIR"] for call in program.calls] == [str(mine)]


@pytest.mark.parametrize("batch", [False, True])
def test_enroot_is_called(slurm, hook, stand_in, place, batch):
    """With Slurm's variables by name, and the job's directory entered inside."""
    hook("enroot")
    program = stand_in("enroot", "exit 7")
    slurm.job |= {"XDG_RUNTIME_DIR": str(slurm.home), "OMP_NUM_THREADS": "4", "OTHER": "1"}
    command = ["/spool/job/slurm_script" if batch else "/bin/echo", "a b", ""]
    assert slurm.call(*slurm.words(place / "i.sqsh", *command, step=BATCH if batch else 0)).status == 7

    def mount(path: object) -> list[str]:
        return ["--mount", f"{path}:{path}:none:x-create=dir,rbind"]

    variables = ["--env", "OMP_NUM_THREADS", "--env", "SLURM_JOB_ID", "--env", "SLURM_OCI_HOOK"]
    variables += ["--env", "SLURM_OCI_SLURMDS_PATH"]
    inner = ["/bin/sh", "-c", 'cd -- "$0" && exec "$@"', str(slurm.home)]
    script = mount("/spool/job") if batch else []
    assert program.words == [
        ["start", *mount(slurm.home), *script, *variables, "--", f"{place}/i.sqsh", *inner, *command]
    ]
    env = program.calls[0].env
    assert {name: env[name] for name in env if name.startswith("ENROOT_")} == {
        "ENROOT_MOUNT_HOME": "y",
        "ENROOT_LOGIN_SHELL": "n",
    }


@pytest.mark.parametrize("image_name", ["alpine:3", "docker://alpine:3"])
def test_shifter_and_sarus_are_called(slurm, hook, stand_in, image_name):
    """By the name that their own stores know."""
    programs = {name: stand_in(name, "exit 7") for name in ("shifter", "sarus")}
    for name in programs:
        hook(name)
        assert slurm.run(image_name, "/bin/echo", "a b", "").status == 7
    home = slurm.home
    bind = f"--mount=type=bind,source={home},destination={home}"
    assert programs["shifter"].words == [
        ["--image=docker:alpine:3", f"--workdir={home}", "/bin/echo", "a b", ""]
    ]
    assert programs["sarus"].words == [
        ["run", f"--workdir={home}", bind, "--entrypoint", "", "alpine:3", "/bin/echo", "a b", ""]
    ]


def test_bundles_have_nvidia_s_runtime(slurm, hook, tool, place):
    """Unless the job asks for another."""
    hook("nvidia")
    (place / "rootfs").mkdir()
    (place / "config.json").write_text(json.dumps(BUNDLE))
    assert "`nvidia-container-runtime`" in slurm.run(place, "/bin/echo").err
    slurm.job["SLURM_OCI_RUNTIME"] = "tool"
    assert slurm.run(place, "/bin/echo").code == "image-refused"


BUNDLE = {
    "ociVersion": "1.0.2",
    "root": {"path": "rootfs"},
    "hooks": {"prestart": [{"path": "/bin/false"}]},
    "process": {
        "args": ["sh"], "cwd": "/", "terminal": True, "user": {"uid": 5, "gid": 6}, "noNewPrivileges": True,
        "env": ["PATH=/image/bin", "IMAGE=1"],
    },
}  # fmt: skip
KEEP_CONFIG = 'for word; do [ "$last" = --bundle ] && cp "$word/config.json" "$HOME/kept"; last=$word; done; '


@pytest.mark.parametrize("name", ["crun", "runc"])
def test_an_oci_runtime_is_called_with_a_bundle_of_the_task_s_own(slurm, hook, stand_in, place, name):
    """That has the command, the job's variables and directories; nothing is left of it."""
    hook(name)
    program = stand_in(name, KEEP_CONFIG + "exit 7")
    (place / "b/rootfs/tmp").mkdir(parents=True)
    (place / "b/config.json").write_text(json.dumps(BUNDLE))
    assert slurm.run(place / "b", "/bin/echo", "a b", "").status == 7
    private = Path(program.calls[0].env["XDG_RUNTIME_DIR"])
    options = ["--cgroup-manager=disabled"] if name == "crun" else ["--log", f"{private}/log"]
    assert program.words == [
        [*options, "--root", f"{private}/state", "run", "--bundle", str(private), "task"]
    ]
    assert not private.exists()
    config = json.loads((slurm.home / "kept").read_text())
    env = dict(text.split("=", 1) for text in config["process"].pop("env"))
    assert env.pop("SLURM_OCI_SLURMDS_PATH").startswith(f"{slurm.place}/bin:")
    assert env == {**slurm.variables(), "PATH": "/image/bin", "SLURM_OCI_HOOK": "42.0.0"} | {
        extra: env[extra]
        for extra in env
        if extra == "LC_CTYPE"  # which Python adds
    }
    assert config == {
        "ociVersion": "1.0.2",
        "root": {"path": f"{place}/b/rootfs", "readonly": True},
        "process": {
            "noNewPrivileges": True,
            "args": ["/bin/echo", "a b", ""],
            "cwd": "/",
            "terminal": False,
            "user": {"uid": 5, "gid": 6},
        },
        "mounts": [
            {"destination": "/tmp", "type": "bind", "source": "/tmp", "options": ["rbind", "rprivate"]}
        ],
        "linux": {
            "namespaces": [{"type": "user"}, {"type": "mount"}],
            "uidMappings": [{"containerID": 5, "hostID": slurm.uid, "size": 1}],
            "gidMappings": [{"containerID": 6, "hostID": slurm.gid, "size": 1}],
        },
    }


@pytest.mark.parametrize("name", ["crun", "runc"])
def test_an_oci_runtime_s_call_says_what_is_missing(slurm, hook, stand_in, place, name):
    """With the numbers that the dispatcher has for it, and no traceback."""
    hook(name)
    tool = stand_in(name)
    (place / "b/rootfs").mkdir(parents=True)

    def said(status):
        ended = slurm.run(place / "b", "/bin/echo")
        assert (ended.status, "Traceback" in ended.err) == (status, False)
        return ended.err

    assert "is no OCI bundle: it has no config.json" in said(125)
    (place / "b/config.json").write_text("{")
    assert "config.json` cannot be used" in said(125)
    (place / "b/config.json").write_text("{}")
    assert "config.json` cannot be used" in said(125)
    (place / "b/config.json").write_text(json.dumps(BUNDLE))
    tool.path.unlink()
    if not shutil.which(name, path=STANDARD_PATH):
        assert f"`{name}` is not on this node" in said(127)


@pytest.mark.parametrize("name", ["crun", "runc"])
def test_an_oci_runtime_s_call_keeps_pmi2_s_descriptor(slurm, hook, stand_in, place, name):
    """And a row without gaps up to it."""
    hook(name)
    tool = stand_in(name)
    (place / "b/rootfs").mkdir(parents=True)
    (place / "b/config.json").write_text(json.dumps(BUNDLE))
    slurm.job["PMI_FD"] = "7"
    opened = ("/bin/sh", "-c", 'exec 7<>/dev/zero; exec "$@"', "sh")
    assert slurm.run(place / "b", "/bin/x", wrap=opened).status == 0
    call = tool.calls[0]
    assert call.argv[-5:-2] == ["--preserve-fds", "5", "--bundle"]
    assert {"3", "4", "5", "6", "7"} <= set(call.descriptors)


def test_the_call_of_crun_passes_signals_on(slurm, hook, stand_in, place):
    """And ends as crun does."""
    hook("crun")
    stand_in("crun", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done")
    (place / "rootfs").mkdir()
    (place / "config.json").write_text(json.dumps(BUNDLE))
    process = slurm.start(*slurm.words(place, "/bin/echo"))
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    process.communicate()
    assert process.returncode == 9


@pytest.mark.skipif(not NAMESPACES or not shutil.which("unshare"), reason="no namespaces, or no unshare")
def test_unshare_of_util_linux_is_enough(slurm, hook, rootfs):
    """For the user himself in the image, with /tmp and the job's directory."""
    hook("unshare")
    image = rootfs()
    script = 'cat /etc/greeting; id -u; pwd; echo "$@"; exit 7'
    ended = slurm.run(image, "/bin/sh", "-c", script, "sh", "a  b", cwd="/tmp")
    assert (ended.status, ended.out, ended.err) == (
        7, f"hello from the image\n{slurm.uid}\n/tmp\na  b\n", "",
    )  # fmt: skip


# The command


def test_all_are_listed_with_one_line_each(slurm):
    """The same as JSON."""
    ended = template(slurm)
    width = max(len(given.name) for given in ALL)
    assert ended.out == "".join(f"{given.name:{width}}  {given.summary}\n" for given in ALL)
    listed = json.loads(template(slurm, "--json").out)
    own = f"{slurm.prefix}/user_templates/"
    assert [{**entry, "path": own + Path(entry["path"]).name} for entry in listed] == [
        {"name": g.name, "summary": g.summary, "language": g.language, "path": own + Path(g.path).name}
        for g in ALL
    ]


@pytest.mark.parametrize("given", ALL, ids=lambda given: given.name)
def test_one_is_printed_for_this_installation(slurm, given):
    """As the file, with the path that the person's tasks find it by."""
    text = Path(given.path).read_text()
    assert template(slurm, given.name).out == text.replace("/opt/slurm-oci/", f"{slurm.prefix}/")


def test_a_name_that_is_none_is_told_the_nearest(slurm):
    """With 1."""
    ended = template(slurm, "defualt")
    assert (ended.status, ended.code) == (1, "template-unknown")
    assert "  did you mean `default`?" in ended.err.splitlines()


@pytest.mark.parametrize(
    "words", [["--write"], ["--check", "default"], ["--force"], ["default", "--force"], ["a", "b"]]
)
def test_what_cannot_be_meant_is_wrong_usage(slurm, words):
    """With 2, and nothing is done."""
    assert (template(slurm, *words).status, template(slurm, "--check").err) == (2, "")


def test_it_becomes_the_hook_and_works(slurm, tool, image):
    """Mode 0700, whatever the umask, and the dispatcher's judgement with it."""
    slurm.set_up()
    ended = template(slurm, "default", "--write")
    path = slurm.home / ".slurm-oci-run"
    assert (ended.status, ended.err, ended.out) == (
        0, "", f"written: {path}\n`{path}` is run for every task of yours with --container\n",
    )  # fmt: skip
    assert (path.stat().st_mode & 0o7777, path.read_text()) == (0o700, template(slurm, "default").out)
    assert slurm.run(image, "/bin/echo").status == 7


def test_an_existing_hook_is_never_lost(slurm):
    """Refused without --force, and with it kept beside the new one, however often."""
    path = slurm.hook("#!/bin/sh\n")
    ended = template(slurm, "default", "--write")
    assert (ended.status, ended.code, path.read_text()) == (1, "template-not-written", "#!/bin/sh\n")
    for number in (1, 2):
        ended = template(slurm, "default", "--write", "--force")
        assert ended.out.startswith(f"written: {path}; what was there is now {path}.{number}\n")
    assert sorted(file.name for file in slurm.home.iterdir()) == [
        ".slurm-oci-run" + n for n in ("", ".1", ".2")
    ]
    assert Path(f"{path}.1").read_text() == "#!/bin/sh\n"


@pytest.mark.parametrize("force", [False, True])
def test_a_hook_that_somebody_makes_meanwhile_is_not_lost(tmp_path, monkeypatch, force):
    """Two who write at once: one of them is told."""
    path = tmp_path / ".slurm-oci-run"
    if force:
        path.write_text("old")
    made = templates.tempfile.mkstemp

    def slowly(**where):
        if not force:
            path.write_text("another's")
        return made(**where)

    monkeypatch.setattr(templates.tempfile, "mkstemp", slowly)
    if force:
        monkeypatch.setattr(os, "link", lambda *_: os.stat("/no/such/file"))
    with pytest.raises(templates.TemplateNotWritten):
        templates.write("new", str(tmp_path), force)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        (path.name, "old" if force else "another's")
    ]


def test_a_link_to_nothing_counts_as_existing(slurm):
    """It is moved as a link; what it names is not touched."""
    slurm.set_up()
    path = slurm.home / ".slurm-oci-run"
    path.symlink_to("elsewhere")
    assert template(slurm, "default", "--write").code == "template-not-written"
    assert template(slurm, "default", "--write", "--force").status == 0
    assert (path.is_symlink(), os.readlink(f"{path}.1"), (slurm.home / "elsewhere").exists()) == (
        False,
        "elsewhere",
        False,
    )


def test_a_home_that_cannot_be_written_is_named(slurm):
    """Without a traceback, and without a file left."""
    slurm.set_up()
    slurm.home.chmod(0o500)
    if os.geteuid() == 0 and slurm.uid == 0:
        pytest.skip("root can write everywhere")
    ended = template(slurm, "default", "--write")
    assert f"cannot write `{slurm.home}/.slurm-oci-run`: Permission denied" in ended.err
    assert list(slurm.home.iterdir()) == []


def test_what_is_written_tells_all_as_json(slurm):
    """What, where, for which shell, and what the dispatcher makes of it."""
    slurm.set_up()
    told = json.loads(template(slurm, "default", "--write", "--json").out)
    path = f"{slurm.home}/.slurm-oci-run"
    assert told.keys() == {
        "name",
        "summary",
        "language",
        "path",
        "shell",
        "text",
        "written",
        "backup",
        "check",
    }
    assert (told["written"], told["backup"], told["check"]["state"]) == (path, None, "runs")


# The person's shell


def from_shell(slurm: Slurm, shell: str) -> str:
    """What `template modules` prints in a shell that calls itself `shell`."""
    command = f"{slurm.prefix}/bin/slurm-oci-plugins template modules; exit 0"
    return slurm.call("-c", 'exec -a "$0" /bin/sh -c "$1"', shell, command, program="/bin/bash").out


@pytest.mark.parametrize("name", ["zsh", "fish", "tcsh"])
def test_the_shell_of_the_person_at_the_terminal_is_found(slurm, name):
    """Its login files are to be read, by a path."""
    assert f"\nlogin_shell=/own/bin/{name}\n" in from_shell(slurm, f"/own/bin/{name}")


@pytest.mark.parametrize("name", ["bash", "sh", "dash"])
def test_for_bash_nothing_is_to_be_changed(slurm, name):
    """It reads its own."""
    text = from_shell(slurm, f"/own/bin/{name}")
    assert "\nlogin_shell=\n" in text
    assert text == template(slurm, "modules").out


@pytest.mark.parametrize("error", [shellingham.ShellDetectionFailure, FileNotFoundError])
def test_without_a_shell_to_find_it_is_the_passwd_entry_s(monkeypatch, error):
    """As under cron, or where /proc is hidden."""

    def fail():
        raise error

    monkeypatch.setattr(shellingham, "detect_shell", fail)
    assert templates.shell_of_the_person() == pwd.getpwuid(os.geteuid()).pw_shell


def test_a_shell_that_is_only_a_name_is_looked_up(monkeypatch, tmp_path):
    """In PATH; one that is not there falls back too."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("zsh", "zsh"))
    assert templates.shell_of_the_person() == pwd.getpwuid(os.geteuid()).pw_shell
    (tmp_path / "zsh").write_text("")
    (tmp_path / "zsh").chmod(0o755)
    assert templates.shell_of_the_person() == f"{tmp_path}/zsh"


def test_only_what_waits_for_a_shell_is_changed():
    """A path with a blank stays one word; the other templates are the same for everybody."""
    for given in ALL:
        plain = given.text("/opt/slurm-oci", "/bin/bash")
        changed = given.text("/opt/slurm-oci", "/my shells/zsh")
        expected = plain.replace("\nlogin_shell=\n", "\nlogin_shell='/my shells/zsh'\n")
        assert changed == expected
        assert (changed != plain) == (given.name == "modules")


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_a_shell_is_known_by_its_name(shell):
    """Wherever it lies."""
    modules = Template.at(str(FOLDER / "modules.bash"))
    assert f"\nlogin_shell=/x/{shell}\n" in modules.text("/p", f"/x/{shell}")


# --check


@pytest.mark.parametrize(
    ("mode", "state", "status"),
    [(0o700, "runs", 0), (None, "none", 0), (0o600, "refused", 1), (0o702, "refused", 1)],
)
def test_the_hook_is_judged_as_the_dispatcher_will(slurm, tool, image, mode, state, status):
    """What it says is what a task meets, with the same cure."""
    slurm.set_up()
    if mode:
        slurm.hook("#!/bin/sh\nexit 3\n", mode)
    ended = template(slurm, "--check")
    told = template(slurm, "--check", "--json")
    found = json.loads(told.out)
    assert (ended.status, told.status, found["state"]) == (status, status, state)
    task = slurm.run(image, "/bin/echo")
    assert task.status == {"runs": 3, "none": 7, "refused": 125}[state]
    for finding in found["findings"]:
        assert finding["message"] in ended.out
        assert finding["message"] in task.err
        assert all(f"  {hint}\n" in ended.out and f"  {hint}\n" in task.err for hint in finding["hints"])
    assert bool(found["findings"]) == (state == "refused")


def test_an_interpreter_that_is_not_there_is_told(slurm, tool, image):
    """In the words that a task ends with."""
    slurm.set_up()
    slurm.hook("#!/bin/nope -x\nexit 3\n")
    ended = template(slurm, "--check")
    assert (ended.status, json.loads(template(slurm, "--check", "--json").out)["state"]) == (1, "fails")
    said, message, hint = ended.out.splitlines()
    assert said == "every task of yours with --container ends with exit status 126:"
    task = slurm.run(image, "/bin/echo")
    assert task.status == 126
    assert "its interpreter `/bin/nope` is not on this node" in message
    assert (message in task.err, f"{hint}\n" in task.err) == (True, True)


def test_a_hook_that_is_not_looked_for_is_told_so(slurm):
    """Because of the site, or of this shell's own variable."""
    slurm.hook("#!/bin/sh\n", 0o777)
    path = f"{slurm.home}/.slurm-oci-run"
    slurm.environ["SLURM_OCI_USER_HOOK"] = "no"
    assert template(slurm, "--check").out.startswith(f"`{path}` is not looked for: SLURM_OCI_USER_HOOK=no\n")
    (slurm.prefix / "site.toml").write_text("user_hook = false\n")
    ended = template(slurm, "--check")
    assert (ended.status, ended.out.splitlines()[0]) == (
        0, f"`{path}` is not looked for: user_hook = false in site.toml",
    )  # fmt: skip


def test_a_home_that_cannot_be_entered_is_a_warning(slurm):
    """And 1, since no hook will be found."""
    slurm.set_up()
    slurm.home.chmod(0)
    if os.geteuid() == 0 and slurm.uid == 0:
        pytest.skip("root can enter everything")
    ended = slurm.call("template", "--check", program="bin/slurm-oci-plugins", cwd="/")
    assert (ended.status, ended.err, ended.out) == (
        1, "", f"warning: going on without ~/.slurm-oci-run: the home `{slurm.home}` cannot be entered: Permission denied\n",
    )  # fmt: skip
