"""`site.toml`: what it may say, what is said of what it may not, and what it does to jobs."""

import json
import subprocess

import attrs
import pytest
from conftest import Ended, request
from conftest import job as job_context
from hypothesis import given
from hypothesis import strategies as st
from test_cli import ask

from slurm_oci import policy, settings, site
from slurm_oci.problems import SettingRefused, SiteInvalid
from slurm_oci.values import Image, Mount

ROOTFS = Image("/image", "rootfs", "/image", "/image")


def read(tmp_path, text: str) -> site.Site:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return site.read(str(path))


WRONG = {  # what is wrong -> (the file, line and message)
    "key": ("pull = true\nusr_hook = false\n", 2, "there is no `usr_hook`; did you mean `user_hook`?"),
    "type": ("\npull = 1\n", 2, "`pull` is 1: expected true or false"),
    "list": ("order = 'crun'\n", 1, "`order` is 'crun': expected a list of texts"),
    "state": ("state = 'run'\n", 1, "`state` is `run`: expected a path that starts with `/`"),
    "executable": (
        "[executables]\nrunc = '/bin/runc'\ncrun = 'crun'\n", 3, "`executables.crun` is 'crun': expected an absolute path",
    ),
    "arguments": ("[arguments]\ncrun = '--x'\n", 2, "`arguments.crun` is '--x': expected a list of texts"),
    "default's name": ("[defaults]\nhome = 'none'\nhom = 'x'\n", 3, "there is no `defaults.hom`; did you mean `home`?"),
    "default's value": (
        "[defaults]\n\nhome = 'non'\n", 3, "`home` in site.toml is `non`: expected `bind` or `none`",
    ),
    "forced value": ("[forced]\nenv = 'non'\n", 2, "`env` in site.toml is `non`: expected `job` or `slurm` or `all` or `none`"),
    "forced type": ("[forced]\nwritable = false\n", 2, "`forced.writable` is False: expected a text, as in SLURM_OCI_WRITABLE"),
    "mounts": ("[defaults]\nmounts = '/a:/b'\n", 2, "`defaults.mounts` is '/a:/b': expected a list of texts"),
    "refused setting": (
        'refuse = [\n  "share=node",\n  "writeable=yes",\n]\n', 3,
        "`refuse` has `writeable=yes`: there is no setting `writeable`; did you mean `writable`?",
    ),
    "refused value": ('refuse = ["writable=ys"]\n', 1, "`refuse` has `writable=ys`: `writable` has no `ys`; did you mean `yes`?"),
    "refused mount": (
        'refuse = ["mounts=/a:/b"]\n', 1, "`refuse` has `mounts=/a:/b`: `mounts` can only be refused as a whole",
    ),
    "rule's key": (
        "[[rules]]\nruntime = 'crun'\n\n[[rules]]\nruntime = 'runc'\nqueue = 'x'\n", 6,
        "there is no `rules[2].queue`; known are partition, account, qos, user, kind, step, runtime, workdir, mounts",
    ),
    "rule's setting": ("[[rules]]\nhoome = 'none'\n", 2, "there is no `rules[1].hoome`; did you mean `home`?"),
    "rule's value": ("[[rules]]\nkind = 'sif'\nhome = 'non'\n", 3, "`home` in site.toml is `non`: expected `bind` or `none`"),
    "rule's runtime": ("[[rules]]\nruntime = 1\n", 2, "`rules[1].runtime` is 1: expected a text, as in SLURM_OCI_RUNTIME"),
    "rule for debug": ("[[rules]]\nuser = 'x'\ndebug = '1'\n", 3, "there is no `rules[1].debug`"),
    "rule for the hook": ("[[rules]]\nuser = 'x'\nuser_hook = 'no'\n", 3, "there is no `rules[1].user_hook`"),
    "default hook": ("[defaults]\nuser_hook = 'no'\n", 2, "there is no `defaults.user_hook`"),
    "forced hook": ("[forced]\nuser_hook = 'no'\n", 2, "there is no `forced.user_hook`"),
    "refused hook": ("refuse = ['user_hook=yes']\n", 1, "`refuse` has `user_hook=yes`, which has no effect there"),
    "forced nothing": ("[forced]\nhome = ''\n", 2, "`forced.home` is empty"),
    "default mount": (
        "[defaults]\nmounts = [\n  '/a:/b',\n  'garbage',\n]\n", 4,
        "`defaults.mounts` has the mount `garbage`: expected two or three parts",
    ),
    "rule's mount": ("[[rules]]\nmounts = ['/a:b']\n", 2, "`rules[1].mounts` has the mount `/a:b`: its target must start with `/`"),
    "default's directory": ("[defaults]\nworkdir = 'x'\n", 2, "`defaults.workdir` is `x`: expected a path that starts with `/`"),
    "rule's kind": (
        "[[rules]]\nruntime = 'a'\nkind = 'sif'\n[[rules]]\nruntime = 'b'\nkind = ['squash']\n", 6,
        "`rules[2].kind` has `squash`; did you mean `squashfs`?",
    ),
    "rule's step": ("[[rules]]\nruntime = 'a'\nstep = 'bach'\n", 3, "`rules[1].step` has `bach`; did you mean `batch`?"),
    "rule without settings": (
        "\n[[rules]]\nuser = 'x'\n", 2, "`rules[1]` gives nothing: a rule has a `runtime`, or another setting of a job's",
    ),
    "rules that are none": ("rules = 3\n", 1, "`rules` is 3: expected tables, each under [[rules]]"),
    "runtime": ("[runtimes]\nmine = 3\n", 2, "`runtimes.mine` is 3: expected a table"),
    "runtime's letter": ("[runtimes.mine]\naccepts = ['sif']\nrun = ['x', '%q']\n", 3, "`runtimes.mine.run`: "),
    "runtime's program": (
        "[runtimes.mine]\naccepts = ['sif']\nrun = ['%@']\n", 3,
        "`runtimes.mine.run` begins with `%@`: expected a program's name or absolute path, the same for every task",
    ),
    "runtime's program in the image": ("[runtimes.mine]\nrun = ['%b/bin/sh', 'x']\naccepts = ['sif']\n", 2, "`runtimes.mine.run` begins with `%b/bin/sh`: "),
    "runtime's relative program": ("[runtimes.mine]\nrun = ['bin/x']\naccepts = ['sif']\n", 2, "`runtimes.mine.run` begins with `bin/x`: "),
    "runtime's nameless program": ("[runtimes.mine]\nrun = ['']\naccepts = ['sif']\n", 2, "`runtimes.mine.run` begins with ``: "),
    "runtime's kind": (
        "[runtimes.mine]\nrun = ['x']\naccepts = ['siff']\n", 3, "`runtimes.mine.accepts` has `siff`; did you mean `sif`?",
    ),
    "runtime's lack": ("[runtimes.mine]\nrun = ['x']\n", 1, "`runtimes.mine.accepts` is missing: expected a list of texts"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_file_line_key_and_what_was_meant(tmp_path, name):
    """Whatever stands above it."""
    text, line, message = WRONG[name]
    with pytest.raises(SiteInvalid) as caught:
        read(tmp_path, text)
    assert caught.value.message.startswith(f"{tmp_path}/site.toml:{line}: {message}")


def test_what_stands_elsewhere_in_site_toml_is_said_with_its_place(tmp_path):
    """Instead of a setting that nothing would heed."""
    for text in ("[forced]\nuser_hook = 'no'\n", "refuse = ['user_hook']\n"):
        with pytest.raises(SiteInvalid) as caught:
            read(tmp_path, text)
        assert caught.value.hints == ("`user_hook = false` is a key of its own, above all tables",)


def test_a_mount_s_source_may_be_on_the_nodes_alone(tmp_path):
    """site.toml is read where it is written, too."""
    assert read(tmp_path, "[defaults]\nmounts = ['/no/such/place:/scratch']\n").defaults["mounts"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from([*attrs.fields_dict(site.Site), "other"])


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_values_are_settings_or_something_wrong(data):
    """No value of any type ends otherwise."""
    try:
        assert isinstance(site.check(data), site.Site)
    except site.Wrong as wrong:
        assert wrong.place
        assert str(wrong)


# What it forces on jobs, and what it refuses them


def combined(text: str, tmp_path, **job):
    """What a job gets that asks for `job`."""
    wanted = read(tmp_path, text).plain()
    return policy.combined(wanted, usual(wanted), [("job", job)], "/")


def usual(wanted: dict, env=(), image=ROOTFS, trace=None, step=0):
    """What holds for alice's task in the partition `gpu`, which has `env` on top."""
    told = job_context({"SLURM_JOB_PARTITION": "gpu", "SLURM_JOB_ACCOUNT": "physics", **dict(env)})
    return policy.usual(wanted, request(step=step), told, image, [] if trace is None else trace)


def test_what_is_forced_holds_whether_the_job_says_nothing_or_the_same(tmp_path):
    """And says where it comes from."""
    text = '[defaults]\nenv = "slurm"\n[forced]\nhome = "none"\n'
    for job in ({}, {"home": "none"}, {"home": ""}):
        made = combined(text, tmp_path, **job)
        assert (made.home, made.env) == ("none", "slurm")
        assert made.origins["home"] == "`home` in [forced] of site.toml"
    assert combined(text, tmp_path, env="all").env == "all"


@pytest.mark.parametrize(
    ("text", "job", "message"),
    [
        (
            '[forced]\nhome = "none"\n', {"home": "bind"},
            "SLURM_OCI_HOME is `bind`: this site has `none` for all jobs",
        ),
        (
            'refuse = ["writable=yes"]\n', {"writable": "yes"},
            "SLURM_OCI_WRITABLE is `yes`, which this site refuses (`refuse` in site.toml)",
        ),
        (
            'refuse = ["mounts"]\n', {"mounts": "/:/mnt"},
            "SLURM_OCI_MOUNTS is `/:/mnt`, which this site refuses (`refuse` in site.toml)",
        ),
        (
            'refuse = ["share"]\n', {"share": "node"},
            "SLURM_OCI_SHARE is `node`, which this site refuses (`refuse` in site.toml)",
        ),
        (
            '[forced]\nmounts = ["/usr:/data:ro"]\n', {"mounts": "/bin:/data"},
            "SLURM_OCI_MOUNTS mounts `/bin` at `/data`, where this site has `/usr` for all jobs",
        ),
    ],
)  # fmt: skip
def test_what_the_site_does_not_want_is_refused_by_name(tmp_path, text, job, message):
    """Never left out silently: the user asked for it."""
    with pytest.raises(SettingRefused) as caught:
        combined(text, tmp_path, **job)
    assert caught.value.message == message


def test_what_is_refused_with_one_value_can_be_had_with_others(tmp_path):
    """And what is refused as a whole, with the one that all have."""
    text = 'refuse = ["writable=yes", "env"]\n[defaults]\nenv = "slurm"\n'
    assert combined(text, tmp_path, writable="tmp", env="slurm").writable == "tmp"


def test_forced_mounts_come_on_top_of_a_job_s(tmp_path):
    """As wishes: a runtime that cannot do them refuses the task."""
    made = combined('[forced]\nmounts = ["/usr:/data:ro"]\n', tmp_path, mounts="/bin:/tools")
    assert made.mounts == (
        Mount("/bin", "/tools", False, True, "SLURM_OCI_MOUNTS"),
        Mount("/usr", "/data", True, True, "`mounts` in [forced] of site.toml"),
    )


def test_a_task_is_refused_what_the_site_refuses_and_told_what_it_forces(slurm, stand_in, image):
    """Through the entry point; `explain` names the layer."""
    stand_in("tool")
    site_toml(slurm, 'order = ["tool"]\nrefuse = ["gpu=amd"]\n')
    with (slurm.prefix / "site.toml").open("a") as file:
        file.write('[forced]\nenv = "slurm"\n')
    slurm.job["SLURM_OCI_GPU"] = "amd"
    ended = slurm.run(image, "/bin/echo")
    assert (ended.status, ended.code) == (125, "setting-refused")
    slurm.job["SLURM_OCI_GPU"] = "none"
    slurm.job["SLURM_OCI_ENV"] = "all"
    assert slurm.run(image, "/bin/echo").code == "setting-refused"
    found = json.loads(explained(slurm, image).out)["settings"]["env"]
    assert found == {"value": "slurm", "from": "`env` in [forced] of site.toml"}


def test_without_any_of_it_the_policy_changes_nothing(tmp_path):
    """Which is when a task does not ask it."""
    wishes = {"home": "none", "mounts": "/usr:/data"}
    assert combined("", tmp_path, **wishes) == settings.combine([("site.toml", {}), ("job", wishes)], "/")


# Its rules


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        ({"partition": ["gpu", "debug"]}, True),
        ({"partition": ["cpu"]}, False),
        ({"account": ["physics"], "user": ["alice"]}, True),
        ({"account": ["physics"], "user": ["bob"]}, False),
        ({"kind": ["rootfs"]}, True),
        ({"kind": ["sif"]}, False),
        ({"step": ["batch"]}, True),
        ({"qos": ["high"]}, False),
        ({}, True),
    ],
)
def test_a_rule_holds_where_all_of_it_does(when, fits):
    """A rule names partitions, accounts, qualities of service, users, image kinds, kinds of step."""
    wanted = site.Site(rules=[site.Rule({"home": "none"}, when)]).plain()
    assert (("rule 1 of site.toml", {"home": "none"}) in usual(wanted, step=4294967291)) == fits


RULES = """
[defaults]
env = "slurm"
runtime = "crun"
mounts = ["/usr:/everywhere"]

[[rules]]
user = "bob"
runtime = "runc"

[[rules]]
partition = "gpu"
gpu = "nvidia"
home = "none"
mounts = ["/bin:/scratch"]

[[rules]]
home = "bind"
runtime = "apptainer"
env = "all"
mounts = ["/lib:/tools"]
"""


def test_of_each_setting_the_first_rule_that_fits_and_gives_it_wins(tmp_path):
    """Above [defaults] and below the job; mounts add up, and the trace tells which rules fit."""
    trace = []
    wanted = read(tmp_path, RULES).plain()
    layers = usual(wanted, trace=trace)
    made = policy.combined(wanted, layers, [("job", {"env": "none"})], "/")
    assert (made.runtime, made.home, made.gpu, made.env) == ("apptainer", "none", "nvidia", "none")
    assert {name: made.origins[name] for name in ("runtime", "home", "env")} == {
        "runtime": "`runtime` in rule 3 of site.toml",
        "home": "`home` in rule 2 of site.toml",
        "env": "SLURM_OCI_ENV",
    }
    assert [mount.target for mount in made.mounts] == ["/everywhere", "/tools", "/scratch"]
    assert trace == [("rules", "2, 3", "of 3 in site.toml")]


def test_rules_that_do_not_fit_leave_a_line():
    """So that an admin sees that they were looked at."""
    trace = []
    usual(site.Site(rules=[site.Rule({"home": "none"}, {"user": ["bob"]})]).plain(), trace=trace)
    assert trace == [("rules", "none fits", "1 in site.toml")]


def test_what_a_rule_gives_is_what_those_have_who_do_not_ask(tmp_path):
    """So that a setting that is refused as a whole may have this value; and what is forced counts more."""
    text = 'refuse = ["home"]\n[forced]\nenv = "slurm"\n[[rules]]\nhome = "none"\nenv = "all"\n'
    made = combined(text, tmp_path, home="none")
    assert (made.home, made.env) == ("none", "slurm")
    with pytest.raises(SettingRefused):
        combined(text, tmp_path, home="bind")


def test_a_task_is_run_as_the_rules_say_and_explain_answers_for_a_partition(slurm, stand_in, image):
    """From the shell, by the variable that Slurm sets in a job."""
    tool = stand_in("tool")
    site_toml(slurm, 'order = ["unshare"]\n')
    with (slurm.prefix / "site.toml").open("a") as file:
        file.write('[[rules]]\npartition = "gpu"\nruntime = "tool"\nenv = "slurm"\n')
    found = json.loads(explained(slurm, image).out)
    assert (found["runtime"], found["settings"]["env"]["from"]) == ("unshare", "built-in")
    slurm.environ["SLURM_JOB_PARTITION"] = slurm.job["SLURM_JOB_PARTITION"] = "gpu"
    found = json.loads(explained(slurm, image).out)
    assert found["runtime"] == "tool"
    assert slurm.run(image, "/bin/echo").status == 0
    assert tool.words == [[str(image), "--", "/bin/echo"]]
    assert found["settings"]["env"] == {"value": "slurm", "from": "`env` in rule 1 of site.toml"}
    assert {"step": "rules", "result": "1", "why": "of 1 in site.toml"} in found["trace"]


# What it says of runtimes


@pytest.mark.parametrize(
    ("text", "message", "is_fatal"),
    [
        ('order = [\n"cruun",\n]\n', "2: `order` names no runtime: `cruun`; did you mean `crun`?", False),
        (
            'refuse = ["writable", "runtime=crun",\n"runtime=cruun"]\n',
            "2: `refuse` names no runtime: `cruun`; did you mean `crun`?", False,
        ),
        ('[defaults]\nruntime = "cruun"\n', "2: `defaults.runtime` names no runtime: `cruun`; did you mean `crun`?", True),
        ('[forced]\nruntime = "cruun"\n', "2: `forced.runtime` names no runtime: `cruun`; did you mean `crun`?", True),
        (
            '[[rules]]\nuser = "a"\nruntime = "cruun"\n',
            "3: `rules[1].runtime` names no runtime: `cruun`; did you mean `crun`?", True,
        ),
        (
            'refuse_runtimes = ["crun"]\n[[rules]]\nruntime = "crun"\n',
            "3: `rules[1].runtime` names `crun`, which this file does not allow;"
            " see `allow_runtimes` and `refuse_runtimes`", True,
        ),
        (
            '[executables]\ncrun = "/x"\ncharliecloud = "/x"\n',
            "3: `executables.charliecloud` is a runtime's name, and no program's: `charliecloud` starts"
            " `ch-run`; name the program", False,
        ),
        (
            '[runtimes.a]\nrun = ["a"]\naccepts = ["oci-bundle"]\n'
            '[runtimes.b]\nrun = ["b", "%r"]\naccepts = ["oci-bundle", "rootfs"]\n',
            "5: `runtimes.b.run` has no `%@`: the commands of tasks do not reach it;"
            " add it, as a word of its own", False,
        ),
        (
            '[arguments]\nunshare = ["-x"]\n',
            "2: `arguments.unshare` has words for a runtime that takes none of a site's: its tasks are"
            " refused; take them out", True,
        ),
    ],
)  # fmt: skip
def test_what_fails_tasks_though_it_is_valid_is_said_before(slurm, text, message, is_fatal):
    """By `site`, whose exit status is 1, by `compile`, and by `doctor`."""
    path = slurm.prefix / "site.toml"
    path.write_text(text)
    ended = ask(slurm, "site")
    assert (ended.status, ended.err) == (1, f"slurm-oci: warning: {path}:{message}\n")
    command = [slurm.prefix / "bin" / "slurm-oci-plugins", "compile"]  # as the installation's owner
    done = subprocess.run(command, env={}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, f"slurm-oci: warning: {path}:{message}\n")
    [found] = json.loads(ask(slurm, "site", "--json").out)["findings"]
    assert (f"{found['file']}:{found['line']}: {found['message']}; {found['cure']}", found["is_fatal"]) == (
        f"{path}:{message}",
        is_fatal,
    )


# Runtimes and their arguments, through the entry point

TOOL = '\n[runtimes.tool]\nrun = ["tool", "%b", "--", "%@"]\naccepts = ["rootfs"]\n'


@pytest.fixture
def image(place):
    (place / "image" / "bin").mkdir(parents=True)
    (place / "image" / "bin" / "echo").write_text("")
    return place / "image"


def site_toml(slurm, text: str) -> None:
    path = slurm.prefix / "site.toml"
    path.write_text(text + path.read_text() + TOOL)


def explained(slurm, image) -> Ended:
    return ask(slurm, "explain", "--json", image, "--", "/bin/echo")


def test_a_program_by_its_absolute_path_is_there_or_the_runtime_is_not(slurm, stand_in, image):
    """`list` says so, the next runtime is tried, and asking for it by name is refused."""
    there, gone = stand_in("of%ours", "exit 7"), slurm.place / "bin" / "gone"
    site_toml(slurm, "")
    with (slurm.prefix / "site.toml").open("a") as file:
        for name, path in (("there", there.path), ("gone", gone)):
            file.write(
                f'[runtimes.{name}]\nrun = ["{path}", "%b"]\naccepts = ["rootfs"]\n'.replace("of%", "of%%")
            )
    by_name = {entry["name"]: entry for entry in json.loads(ask(slurm, "list", "--json").out)}
    assert [by_name["there"][key] for key in ("usable", "executable")] == [True, str(there.path)]
    assert [by_name["gone"][key] for key in ("usable", "executable")] == [False, None]
    assert by_name["gone"]["reason"] == f"`{gone}` is not on this node"
    slurm.job["SLURM_OCI_RUNTIME"] = "there"
    assert (slurm.run(image, "/bin/echo").status, there.words) == (7, [[str(image)]])
    slurm.job["SLURM_OCI_RUNTIME"] = "gone"
    ended = slurm.run(image, "/bin/echo")
    assert (ended.status, ended.err.splitlines()) == (
        127,
        [
            f"slurm-oci: error: `gone` (from SLURM_OCI_RUNTIME) is started by `{gone}`, which is no program on"
            " this node [runtime-missing]",
            "  the site: install it, or name another in site.toml: [runtimes.gone] run",
        ],
    )


@pytest.mark.parametrize("text", ['refuse_runtimes = ["tool"]\n', 'allow_runtimes = ["unshare"]\n'])
def test_a_runtime_that_the_site_does_not_allow(slurm, stand_in, image, text):
    """Is passed over, refused where it is asked for, and listed with the reason."""
    stand_in("tool")
    site_toml(slurm, 'order = ["tool"]\n' + text)
    assert json.loads(explained(slurm, image).out)["runtime"] == "unshare"
    slurm.job["SLURM_OCI_RUNTIME"] = "tool"
    ended = slurm.run(image, "/bin/echo")
    assert (ended.status, ended.code) == (125, "runtime-refused")
    by_name = {entry["name"]: entry for entry in json.loads(ask(slurm, "list", "--json").out)}
    assert (by_name["tool"]["usable"], by_name["tool"]["reason"]) == (False, "site.toml does not allow it")


def test_a_site_s_arguments_stand_where_the_runtime_s_options_begin(slurm, stand_in, image):
    """And `explain` shows them in the command."""
    stand_in("ch-run")
    site_toml(slurm, 'order = ["charliecloud"]\n')
    with (slurm.prefix / "site.toml").open("a") as file:
        file.write('[arguments]\ncharliecloud = ["--unset-env=A B*", "-v"]\nunshare = ["-x"]\n')
    argv = json.loads(explained(slurm, image).out)["argv"]
    assert argv[1:3] == ["--unset-env=A B*", "-v"]
    slurm.job["SLURM_OCI_RUNTIME"] = "unshare"
    ended = slurm.run(image, "/bin/echo")
    assert (ended.status, ended.code) == (125, "setting-refused")
    assert "`arguments` in site.toml has words for `unshare`" in ended.err


def test_a_drop_in_keeps_its_name_and_the_runtime_of_site_toml_is_named_as_put_aside(slurm, stand_in):
    """By `list` and by `compile`: nothing is replaced silently."""
    site_toml(slurm, "")
    (slurm.prefix / "plugins.d" / "mine.py").write_text(
        "from slurm_oci import Runtime\ndef slurm_oci_runtimes(): return [Runtime('tool', 's', ('sif',), print)]\n"
    )
    found = [entry for entry in json.loads(ask(slurm, "list", "--json").out) if entry["name"] == "tool"]
    drop_in, aside = found
    assert drop_in["source"] == f"{slurm.prefix}/plugins.d/mine.py"
    assert aside["source"] == f"{slurm.prefix}/site.toml"
    assert aside["reason"] == f"the name `tool` is taken by {slurm.prefix}/plugins.d/mine.py"
