"""Per-job settings: `slurm_oci.settings`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_oci import settings
from slurm_oci.problems import Problem, SettingInvalid
from slurm_oci.values import Mount, Settings

TEXTS = st.text("ab\\:, \n/é\udcff", max_size=12)


def escaped(text: str, signs: str) -> str:
    return "".join("\\" + sign if sign in signs else sign for sign in text)


def of_job(**values):
    return settings.combine([("job", values)], "/")


@given(st.lists(TEXTS, min_size=1))
def test_escaped_parts_come_back_from_a_list(parts):
    """Any texts, with `\\` before the separators and itself, are cut and freed again exactly."""
    joined = ":".join(escaped(part, "\\:") for part in parts)
    assert [settings.unescape(part) for part in settings.split(joined, ":")] == parts


@given(TEXTS)
def test_cutting_loses_nothing(text):
    """Put together again, the pieces are the text."""
    assert ",".join(settings.split(text, ",")) == text


@given(st.dictionaries(st.sampled_from(settings.NAMES), TEXTS))
def test_any_values_make_settings_or_a_problem(values):
    """No value of a job's variable ends in anything but settings or a named refusal."""
    try:
        assert isinstance(of_job(**values), Settings)
    except Problem as problem:
        assert problem.code == "setting-invalid"


def test_mounts_are_read_with_all_signs(tmp_path):
    """Commas, newlines, colons and blanks in paths: escaped, they are part of the path."""
    odd = tmp_path / "a b,c:d\\e"
    odd.mkdir()
    source = escaped(str(odd), "\\:,")
    made = of_job(mounts=f"{source}:/data:ro,{tmp_path}:/x\\,y\n{tmp_path}:/z:rw")
    assert made.mounts == (
        Mount(str(odd), "/data", True, True, "SLURM_OCI_MOUNTS"),
        Mount(str(tmp_path), "/x,y", False, True, "SLURM_OCI_MOUNTS"),
        Mount(str(tmp_path), "/z", False, True, "SLURM_OCI_MOUNTS"),
    )


def test_a_relative_source_starts_in_the_job_s_directory(tmp_path):
    """As the shell that typed it would read it."""
    (tmp_path / "data").mkdir()
    for target in ("/mnt/./x/", "//mnt/x"):
        made = settings.combine([("job", {"mounts": f"data/../data:{target}"})], str(tmp_path))
        assert made.mounts == (Mount(f"{tmp_path}/data", "/mnt/x", False, True, "SLURM_OCI_MOUNTS"),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mounts": "/tmp"}, "SLURM_OCI_MOUNTS has the mount `/tmp`: expected two or three parts"),
        ({"mounts": "/tmp:"}, "SLURM_OCI_MOUNTS has the mount `/tmp:`: expected two or three parts"),
        ({"mounts": "/tmp:/a:ro:x"}, "SLURM_OCI_MOUNTS has the mount `/tmp:/a:ro:x`: expected two or three parts"),
        ({"mounts": "/tmp:/a:r"}, "SLURM_OCI_MOUNTS has the mount `/tmp:/a:r`: `r` is no flag"),
        ({"mounts": "/tmp:a"}, "SLURM_OCI_MOUNTS has the mount `/tmp:a`: its target must start with `/`"),
        (
            {"mounts": "/no/where:/a"},
            "SLURM_OCI_MOUNTS has the mount `/no/where:/a`: there is no `/no/where` on this node",
        ),
        *(
            (
                {"mounts": f"/tmp:{root}"},
                f"SLURM_OCI_MOUNTS has the mount `/tmp:{root}`: its target is the root directory, which the image is",
            )
            for root in ("/", "//", "/a/..")
        ),
        ({"workdir": "here"}, "SLURM_OCI_WORKDIR is `here`: expected a path that starts with `/`"),
        ({"home": "yes"}, "SLURM_OCI_HOME is `yes`: expected `bind` or `none`"),
        ({"env": "Job"}, "SLURM_OCI_ENV is `Job`: expected `job` or `slurm` or `all` or `none`"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_named_with_what_was_expected(values, message):
    """The error shows the variable, its value and what it may be."""
    with pytest.raises(SettingInvalid) as caught:
        of_job(**values)
    assert caught.value.message == message


@pytest.mark.parametrize(("name", "choices"), settings.CHOICES.items())
def test_the_first_choice_is_what_holds_without_being_asked_for(name, choices):
    """As the table of settings in the documentation says."""
    assert getattr(Settings(), name) == choices[0]
    assert [getattr(of_job(**{name: choice}), name) for choice in choices] == list(choices)


def test_later_layers_win_and_mounts_add_up(tmp_path):
    """The site's, then the definition's, then the job's; where a value comes from is kept."""
    layers = [
        ("site.toml", {"home": "none", "env": "all", "mounts": [f"{tmp_path}:/a"]}),
        ("/e.toml", {"env": "none", "mounts": [f"{tmp_path}:/b"], "variables": {"A": "1"}}),
        ("job", {"mounts": f"{tmp_path}:/c", "writable": "tmp"}),
    ]
    made = settings.combine(layers, "/")
    assert made == Settings(
        home="none",
        env="none",
        writable="tmp",
        variables={"A": "1"},
        mounts=(
            Mount(str(tmp_path), "/a", why="`mounts` in site.toml"),
            Mount(str(tmp_path), "/b", why="`mounts` in /e.toml"),
            Mount(str(tmp_path), "/c", why="SLURM_OCI_MOUNTS"),
        ),
        origins={
            "home": "`home` in site.toml",
            "env": "`env` in /e.toml",
            "variables": "`variables` in /e.toml",
            "mounts": "SLURM_OCI_MOUNTS",
            "writable": "SLURM_OCI_WRITABLE",
        },
        lost=(("env", "all", "`env` in site.toml"),),
    )


@pytest.mark.parametrize("name", settings.NAMES)
def test_an_empty_variable_asks_for_nothing(name):
    """`export SLURM_OCI_X=` is how a shell takes a wish back: it is neither a wish nor an error."""
    assert of_job(**{name: ""}) == Settings()


def test_a_job_s_settings_are_found_by_name_and_misspelt_ones_warned_about():
    """Unknown names stop nothing: another version may know them."""
    env = {"SLURM_OCI_MOUNT": "/a:/b", "SLURM_OCI_HOME": "none", "SLURM_OCIHOME": "x", "HOME": "/home"}
    assert settings.of_job(env) == (
        {"home": "none"},
        ["`SLURM_OCI_MOUNT` is no setting of this version; did you mean `SLURM_OCI_MOUNTS`?"],
    )


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("SLURM_OCI_Runtime", "; did you mean `SLURM_OCI_RUNTIME`?"), ("SLURM_OCI_FOO", "")],
)
def test_what_all_settings_names_begin_with_makes_none_more_likely(variable, meant):
    """Nor do capitals."""
    assert settings.of_job({variable: "x"})[1] == [f"`{variable}` is no setting of this version{meant}"]


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("slurm", "1", "did you mean `yes`?"),
        ("user_hook", "False", "did you mean `no`?"),
        ("entrypoint", "maybe", "leave it out for `no`, the default"),
    ],
)
def test_another_word_for_yes_or_no_is_told_which(name, value, hint):
    """Rather than that the default is the other."""
    with pytest.raises(SettingInvalid) as caught:
        of_job(**{name: value})
    assert caught.value.hints == (hint,)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("/no/where:/a", "is it misspelt, or only on the host that the job was submitted from?"),
        ("~/data:/a", "the shell leaves `~` as it is after `=` and in quotes: write `$HOME/…`"),
        (
            "$HOME/data:/a",
            "nothing replaces variables in `#SBATCH` lines and single quotes: write it in full",
        ),
        ("/tmp:/a, /var:/b", "no blanks belong between the mounts"),
    ],
)
def test_why_a_mount_s_source_is_not_there_is_guessed(value, hint):
    with pytest.raises(SettingInvalid) as caught:
        settings.read_mounts(value, "SLURM_OCI_MOUNTS", "/")
    assert caught.value.hints == (hint,)
