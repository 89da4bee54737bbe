"""The oci.conf files that are printed: right for Slurm, safe for root, and doing what they say."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm_oci import guide
from slurm_oci.accepted import KEYS
from slurm_oci.cli import cli
from slurm_oci.conf import read
from slurm_oci.lint import lint
from slurm_oci.ociconf import MODES, OciConfUnavailable, generate, multi
from slurm_oci.ocilines import NVIDIA
from slurm_oci.pattern import Fields, Version, shell_line
from slurm_oci.values import Request

ROOT = Path(__file__).parent.parent
PREFIX = "/opt/slurm-oci"
VERSIONS = [Version.parse(text) for text in ("23.02", "24.11.5", "25.05.3", "26.05.5", "26.11")]
NEW = Version((26, 5, 5))
FORMS = [(runtime, mode) for runtime, modes in MODES.items() for mode in modes]
AS_ROOT = ("RunTimeQuery", "RunTimeKill", "RunTimeDelete")


def conf_of(folder, text):
    path = folder / "oci.conf"
    path.write_text(text)
    return read(str(path), KEYS)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
@pytest.mark.parametrize(("runtime", "mode"), FORMS)
def test_every_file_lints_clean(tmp_path, runtime, mode, version):
    """For every release; but that sudo makes a user root remains true of Singularity's OCI mode."""
    path = tmp_path / "oci.conf"
    path.write_text(generate(runtime, mode, version, PREFIX))
    codes = {finding.code for finding in lint(str(path), version)}
    assert codes == ({"sudo"} if runtime.endswith("-oci") else set())


@pytest.mark.parametrize(("runtime", "mode"), FORMS)
def test_lines_that_root_runs_become_the_user_first(tmp_path, runtime, mode):
    """Query, Kill and Delete begin with that; nothing that a user writes is in them."""
    conf = conf_of(tmp_path, generate(runtime, mode, NEW, PREFIX))
    lines = [conf.value(key) for key in AS_ROOT if conf.last(key)]
    become = (
        "D=;[ $(id -u) != 0 ]||D='timeout -s KILL 60 setpriv --reuid=%U --regid='$(id -g %U)' --clear-groups'"
    )
    assert all(line.startswith(f"{become};exec $D sh -c '") for line in lines)
    assert not any(letter in line for line in lines for letter in ("%b", "%r", "%@", "%Z", "%u"))
    assert len(lines) == (0 if conf.value("IgnoreFileConfigJson") else 3)


def test_the_shipped_file_is_the_printed_one():
    """`opt-slurm-oci/oci.conf` is what `oci-conf` prints by default."""
    assert (ROOT / "opt-slurm-oci" / "oci.conf").read_text() == multi(PREFIX)


@pytest.mark.parametrize(
    ("runtime", "paths"),
    [
        ("multi", ["/opt/slurm-oci/run", "/opt/slurm-oci/slurm-oci-run-default"]),
        ("enroot", ["/usr/local/bin/enroot-start-wrapper"]),
        ("runc", []),
    ],
)
def test_the_guides_scripts_stand_below_its_lines_as_comments(runtime, paths):
    """Whole, so that they can be looked at beside the lines that call them."""
    text = guide.example(runtime)
    assert re.findall(r"^# (/\S+):$", text, re.MULTILINE) == paths
    for path in paths:
        script = text.partition(f"# {path}:\n#\n")[2].partition("\n\n")[0].rstrip("\n")
        taken = "".join(line[4:] + "\n" for line in script.split("\n"))
        assert taken == guide.SCRIPTS[runtime][path]
        assert subprocess.run(["bash", "-n"], input=taken, text=True).returncode == 0


@pytest.mark.parametrize("runtime", ["singularity", "charliecloud"])
def test_a_line_with_the_words_from_slurm_names_the_release_that_it_is_for(runtime):
    """Who generates it where no Slurm is must not copy it to nodes with an older one unawares."""
    text = generate(runtime, "run", Version((26, 5, 5)), "/opt/slurm-oci")
    assert "26.05.5 or newer" in text.partition("\n\n")[0].replace("\n# ", " ")


def test_the_guides_file_is_printed_when_asked_for():
    """--as-in-guide, with nothing mended."""
    done = CliRunner().invoke(cli, ["oci-conf", "--as-in-guide"])
    title = "# Slurm's Containers Guide (SchedMD), Handling multiple runtimes, as printed there."
    assert done.output.splitlines()[:6] == [
        f"{title} `lint` says what is wrong with it.",
        "IgnoreFileConfigJson=true",
        'RunTimeRun="/opt/slurm-oci/run %b %m %u %U %n %j %s %t %@"',
        'RunTimeKill="kill -s SIGTERM %p"',
        'RunTimeDelete="kill -s SIGKILL %p"',
        "",
    ]


def test_json_tells_what_was_printed():
    """The runtime, the mode, the release and the text."""
    done = CliRunner().invoke(cli, ["oci-conf", "--json", "--runtime", "crun", "--slurm-version", "25.05"])
    assert json.loads(done.output) == {
        "runtime": "crun",
        "mode": "run",
        "slurm_version": "25.05.0",
        "text": generate("crun", "run", Version((25, 5, 0)), PREFIX),
    }


@pytest.mark.parametrize(
    ("runtime", "mode", "version", "prefix", "message"),
    [
        ("multi", "run", "22.05", PREFIX, "Slurm 22.05.0 has no oci.conf of this kind"),
        ("enroot", "create-start", "26.05", PREFIX, "`enroot` has no `create-start` form"),
        (
            "multi",
            "run",
            "26.05",
            "/opt/a b",
            "the prefix `/opt/a b` has characters that oci.conf or the shell",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(runtime, mode, version, prefix, message):
    """A release without it, a mode there is none of, a prefix that no line could hold."""
    with pytest.raises(OciConfUnavailable, match=message):
        generate(runtime, mode, Version.parse(version), prefix)


@pytest.mark.parametrize("runtime", ["singularity", "charliecloud"])
def test_a_release_that_quotes_wrongly_gets_the_entry_point(tmp_path, runtime):
    """Before 26.05.5 no line with %@ is right, so there the entry point is called."""
    old = conf_of(tmp_path, generate(runtime, "run", Version((26, 5, 3)), PREFIX))
    new = conf_of(tmp_path, generate(runtime, "run", NEW, PREFIX))
    tool = {"singularity": "singularity exec", "charliecloud": "ch-run"}[runtime]
    assert old.value("RunTimeRun") == conf_of(tmp_path, multi(PREFIX)).value("RunTimeRun")
    assert tool in new.value("RunTimeRun")


@pytest.mark.parametrize("runtime", ["singularity-4.0-oci", "singularity-3.8-oci"])
def test_the_guides_warnings_are_kept(runtime):
    """Singularity's OCI mode is for trying only, and its file says so."""
    text = generate(runtime, MODES[runtime][0], NEW, PREFIX)
    plain = " ".join(text.replace("\n#", "").split())
    assert "requires sudo or setuid binaries for OCI support, which is a security risk" in plain
    assert "sites should use the user namespace support instead" in plain


@pytest.mark.parametrize("runtime", MODES)
def test_every_example_of_the_guide_can_be_printed(runtime):
    """With its title in the first line."""
    for mode in MODES[runtime]:
        assert guide.example(runtime, mode).startswith("# Slurm's Containers Guide (SchedMD), ")


# The lines, run by a real shell with recording stand-ins.

REQUEST = Request(
    "/images/a b", "", "al", os.geteuid(), "n1", 7, 0, 2, ("echo", "it's", "", "$HOME *", "é\n")
)


@pytest.fixture
def stand_ins(tmp_path):
    """A PATH on which the runtimes write down how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("runc", "crun", "singularity", "ch-run"):
        (folder / name).write_text(f"#!/bin/sh\nprintf '%s\\0' {name} \"$@\" >>{tmp_path}/called\n")
        (folder / name).chmod(0o755)
    return folder


def start(tmp_path, key, text, task=2, said="", **fields):
    """Gives the line to /bin/sh as Slurm does; (status, output, words of the calls)."""
    line = conf_of(tmp_path, text).value(key)
    filled = Fields.in_slurm(NEW, REQUEST, cwd="/").replace(task=task, **fields)
    done = subprocess.run(
        ["/bin/sh", "-c", shell_line(line, filled, NEW)],
        env={"PATH": f"{tmp_path}/bin:{os.defpath}", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    called = tmp_path / "called"
    words = called.read_text().split("\0")[:-1] if called.exists() else []
    called.unlink(missing_ok=True)
    assert done.stderr == said
    return done.returncode, done.stdout, words


def local(text, tmp_path):
    """The file with its state below the test's directory."""
    return text.replace("/run/slurm-oci", f"{tmp_path}/state")


@pytest.mark.parametrize("tool", ["runc", "crun"])
def test_run_makes_a_state_of_the_users_own(tmp_path, stand_ins, tool):
    """0700 and named after the user; the runtime gets it, the bundle and the container's name."""
    (tmp_path / "state").mkdir()
    text = local(generate(tool, "run", NEW, PREFIX), tmp_path)
    state = tmp_path / "state" / f"oci-{os.geteuid()}"
    option = {"runc": "-b", "crun": "--bundle"}[tool]
    assert start(tmp_path, "RunTimeRun", text, bundle="/spool/a b") == (
        0,
        "",
        [tool, "--rootless=true", f"--root={state}", "run", option, "/spool/a b", "n1.7.0.2"],
    )
    assert state.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize(
    ("tool", "mode", "key"),
    [("runc", "run", "RunTimeRun"), ("crun", "create-start", "RunTimeCreate"), (NVIDIA, "run", "RunTimeRun")],
)
def test_a_state_that_somebody_else_made_is_not_used(tmp_path, stand_ins, tool, mode, key):
    """A link in its place: nothing is started, and it is said what to do."""
    (tmp_path / "state").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state" / f"oci-{os.geteuid()}").symlink_to(tmp_path / "elsewhere")
    text = local(generate(tool, mode, NEW, PREFIX), tmp_path)
    own = f"{tmp_path}/state/oci-{os.geteuid()}"
    said = (
        f"slurm-oci: error: no {own} of your own can be had: the site must mkdir -m 1777 {tmp_path}/state\n"
    )
    assert start(tmp_path, key, text, said=said) == (125, "", [])


STOPPED = '{"status":"stopped"}'


@pytest.fixture
def container(tmp_path, stand_ins):
    """Makes the state of containers by name, where the user of the test can reach it."""

    def make(*names):
        state = tmp_path / "state" / f"oci-{os.geteuid()}"
        for name in names:
            (state / name).mkdir(parents=True)
        return state

    return make


def test_a_step_without_containers_is_stopped(tmp_path, stand_ins):
    """At its end Slurm asks with -1; an answer spares the user an error in the job's output."""
    text = local(generate("runc", "run", NEW, PREFIX), tmp_path)
    assert start(tmp_path, "RunTimeQuery", text, task=-1) == (0, STOPPED, [])
    assert json.loads(STOPPED) == {"status": "stopped"}


def test_a_task_without_a_container_has_no_state(tmp_path, stand_ins):
    """While it is being created, `stopped` would be taken for its end."""
    text = local(generate("runc", "create-start", NEW, PREFIX), tmp_path)
    assert start(tmp_path, "RunTimeQuery", text) == (1, "", [])


@pytest.mark.parametrize("tool", ["runc", "crun"])
def test_at_the_end_all_of_the_steps_containers_are_deleted(tmp_path, container, tool):
    """Those of this job and step, whatever their task, and no others."""
    state = container("n1.7.0.0", "n1.7.0.11", "n1.7.1.0", "n1.77.0.0")
    text = local(generate(tool, "run", NEW, PREFIX), tmp_path)
    call = [tool, "--rootless=true", f"--root={state}", "delete", "--force"]
    assert start(tmp_path, "RunTimeDelete", text, task=-1)[2] == [*call, "n1.7.0.0", *call, "n1.7.0.11"]


def test_a_task_asks_for_its_own_container_alone(tmp_path, container):
    """In the create and start form, with a number of its own."""
    state = container("n1.7.0.1", "n1.7.0.2", "n1.7.0.22")
    text = local(generate("runc", "create-start", NEW, PREFIX), tmp_path)
    status, _, words = start(tmp_path, "RunTimeQuery", text)
    assert (status, words) == (0, ["runc", "--rootless=true", f"--root={state}", "state", "n1.7.0.2"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_becomes_the_user(place, tmp_path):
    """With the user's own group and no others, before the runtime is called."""
    state = place / "state" / "oci-65534" / "n1.7.0.0"
    state.mkdir(parents=True)
    folder = place / "bin"
    folder.mkdir()
    (folder / "runc").write_text("#!/bin/sh\necho $(id -u) $(id -g) $(id -G)\n")
    (folder / "runc").chmod(0o755)
    text = generate("runc", "run", NEW, PREFIX).replace("/run/slurm-oci", f"{place}/state")
    line = conf_of(tmp_path, text).value("RunTimeDelete")
    fields = Fields.in_slurm(NEW, REQUEST, cwd="/").replace(task=-1, uid=65534)
    shell = ["/bin/sh", "-c", shell_line(line, fields, NEW)]
    done = subprocess.run(shell, env={"PATH": f"{folder}:{os.defpath}"}, capture_output=True, text=True)
    group = subprocess.run(["id", "-g", "65534"], capture_output=True, text=True).stdout.strip()
    assert (done.stdout, done.stderr) == (f"65534 {group} {group}\n", "")


@pytest.mark.skipif(not shutil.which("bash"), reason="the line needs bash")
@pytest.mark.parametrize(
    ("runtime", "step", "words"),
    [
        ("singularity", 0, ["singularity", "exec", "--userns", "/images/a b", *REQUEST.command]),
        (
            "singularity",
            4294967291,
            ["singularity", "exec", "--userns", "--bind", "echo", "/images/a b", *REQUEST.command],
        ),
        ("charliecloud", 0, ["ch-run", "--home", "/images/a b", "--", *REQUEST.command]),
        (
            "charliecloud",
            4294967291,
            ["ch-run", "--home", "-W", "--bind", "echo", "/images/a b", "--", *REQUEST.command],
        ),
    ],
)
def test_the_runtime_gets_every_word_and_the_jobs_environment(tmp_path, stand_ins, runtime, step, words):
    """As they were written: quotes, nothing, a dollar sign and a line break, in words and values."""
    odd = {
        "PATH": f"{tmp_path}/bin:{os.defpath}",
        "A": "it's\n$(x) \"",
        "EMPTY": "",
        "BASH_FUNC_f%%": "() { :\n}",
    }
    environment = tmp_path / "environment"
    environment.write_text("".join(f"{name}={value}\0" for name, value in odd.items()))
    for name in ("singularity", "ch-run"):
        with (stand_ins / name).open("a") as file:
            file.write(f"cat /proc/$$/environ >{tmp_path}/environ\n")
    text = generate(runtime, "run", NEW, PREFIX)
    assert start(tmp_path, "RunTimeRun", text, step=step, env_file=str(environment)) == (0, "", words)
    assert (tmp_path / "environ").read_text() == environment.read_text()
