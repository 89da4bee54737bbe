"""`site.toml`: what it may say, what is said of what it may not, and what it does to jobs."""

import json

import attrs
import pytest
from conftest import Ended
from hypothesis import given
from hypothesis import strategies as st
from test_cli import ask

from slurm_oci import policy, settings, site
from slurm_oci.problems import SettingRefused, SiteInvalid
from slurm_oci.values import Mount


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
        "there is no `rules[2].queue`; known are runtime, partition, account, qos, user, kind, step",
    ),
    "rule's kind": (
        "[[rules]]\nruntime = 'a'\nkind = 'sif'\n[[rules]]\nruntime = 'b'\nkind = ['squash']\n", 6,
        "`rules[2].kind` has `squash`; did you mean `squashfs`?",
    ),
    "rule's step": ("[[rules]]\nruntime = 'a'\nstep = 'bach'\n", 3, "`rules[1].step` has `bach`; did you mean `batch`?"),
    "rule without runtime": (
        "\n[[rules]]\nuser = 'x'\n", 2, "`rules[1].runtime` is missing: a rule names the runtime that it chooses",
    ),
    "rules that are none": ("rules = 3\n", 1, "`rules` is 3: expected tables, each under [[rules]]"),
    "runtime": ("[runtimes]\nmine = 3\n", 2, "`runtimes.mine` is 3: expected a table"),
    "runtime's letter": ("[runtimes.mine]\naccepts = ['sif']\nrun = ['x', '%q']\n", 3, "`runtimes.mine.run`: "),
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
    return policy.combined(read(tmp_path, text).plain(), [("job", job)], "/")


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
    job = {"home": "none", "mounts": "/usr:/data"}
    assert combined("", tmp_path, **job) == settings.combine([("site.toml", {}), ("job", job)], "/")


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
