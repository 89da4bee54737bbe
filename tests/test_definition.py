"""Environment definitions: `slurm_oci.definition` and `slurm_oci.positions`."""

import json
import os
import tomllib
from pathlib import Path

import pytest
from conftest import job, request
from hypothesis import example, given
from hypothesis import strategies as st

from slurm_oci import settings
from slurm_oci.container import build
from slurm_oci.definition import KEYS, LARGEST, LEVELS, REFUSED_FLAGS, Definition, read
from slurm_oci.positions import Positions
from slurm_oci.problems import ImageMissing, Problem, SettingInvalid, SettingRefused
from slurm_oci.values import Image, Mount, Settings


@pytest.fixture
def write(tmp_path):
    """Writes a definition, by default one that names an image; its path."""

    def file(text: str | bytes = 'image = "/i"\n', name: str = "env.toml") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return file


def made(path: str, env: dict[str, str] | None = None, **changes) -> tuple[str, Settings]:
    """The image, and the settings that the definition makes alone."""
    found = read(path, job(env, **changes))
    return found.image, settings.combine(found.layers, changes.get("cwd", "/"))


def refused(path: str, env: dict[str, str] | None = None, **changes) -> SettingInvalid:
    with pytest.raises(SettingInvalid) as caught:
        made(path, env, **changes)
    assert all(line.strip() for line in caught.value.lines())
    return caught.value


# What each key means


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('runtime = "crun"', {"runtime": "crun"}),
        ('workdir = "/w"', {"workdir": "/w"}),
        ("writable = false", {"writable": "no"}),
        ("writable = true", {"writable": "tmp"}),
        ('writable = "yes"', {"writable": "yes"}),
        ("entrypoint = true", {"entrypoint": "yes"}),
        ("entrypoint = false", {"entrypoint": "no"}),
        ("slurm = true", {"slurm": "yes"}),
        ('slurm = "no"', {"slurm": "no"}),
        ('home = "none"', {"home": "none"}),
        ('gpu = "nvidia"', {"gpu": "nvidia"}),
        ('share = "node"', {"share": "node"}),
        ('command = "in-image"', {"command": "in-image"}),
        ('env_profile = "slurm"', {"env": "slurm"}),
        ('[env]\nA = "1"', {"variables": {"A": "1"}}),
        ('env.A = "1"', {"variables": {"A": "1"}}),
        ('mounts = ["/tmp:/t:ro"]', {"mounts": (Mount("/tmp", "/t", True, True, "`mounts` in PATH:2"),)}),
        ('annotations.com.hooks.cxi.enabled = "false"', {}),
        ("base_environment = []", {}),
    ],
)
def test_a_key_makes_its_setting(write, line, expected):
    """Under the per-job settings' names, each wish with file and line as its origin."""
    path = write(f'image = "/i"\n{line}\n')
    image, found = made(path)
    if "mounts" in expected:
        expected["mounts"] = tuple(m.replace(why=m.why.replace("PATH", path)) for m in expected["mounts"])
    keys = {"env": "env_profile", "variables": "env"}
    where = {name: f"`{keys.get(name, name)}` in {path}:2" for name in expected}
    assert (image, found) == ("/i", Settings(**expected, origins=where))


def test_every_key_is_tried_above():
    """The table misses none."""
    marks = test_a_key_makes_its_setting.pytestmark[0].args[1]
    tried = {"image", *(line.lstrip("[").replace("]", " ").replace(".", " ").split()[0] for line, _ in marks)}
    assert tried == set(KEYS)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/images/a.sqsh", "/images/a.sqsh"),
        ("./a#b.sqsh", "./a#b.sqsh"),
        ("dir/a#b", "dir/a#b"),
        ("a#b", "a#b"),
        ("docker://alpine:3.20", "docker://alpine:3.20"),
        ("docker.io#library/ubuntu:24.04", "docker://docker.io/library/ubuntu:24.04"),
        ("nvcr.example#nvidia/pytorch:22.12-py3", "docker://nvcr.example/nvidia/pytorch:22.12-py3"),
        ("docker://nvcr.example#nvidia/pytorch", "docker://nvcr.example/nvidia/pytorch"),
        ("localhost#a", "docker://localhost/a"),
        ("host:5000#a/b", "docker://host:5000/a/b"),
    ],
)
def test_an_image_of_a_registry_may_be_written_as_edf_does(write, written, meant):
    """`registry#image` is translated; a path with that sign stays as it is."""
    assert made(write(f'image = "{written}"\n'))[0] == meant


def test_an_empty_text_asks_for_nothing(write):
    """As an empty variable of the job."""
    assert made(write('image = "/i"\nworkdir = ""\nhome = ""\nmounts = [""]\n'))[1].workdir == ""


@pytest.mark.parametrize(("flags", "readonly"), [("ro", True), ("rw", False), ("ro+ro", True)])
def test_mount_flags_are_joined_by_plus(write, flags, readonly):
    """Of EDF's flags those with a meaning here."""
    mounts = made(write(f'image = "/i"\nmounts = ["/tmp:/t:{flags}"]\n'))[1].mounts
    assert [(m.target, m.readonly) for m in mounts] == [("/t", readonly)]


# Variables


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/a/${USER}/b", "/a/alice/b"),
        ("/${A}${B:-}${B:-x y}", "/1x y"),
        ("/${EMPTY}${EMPTY:-none}", "/none"),
        ("/$${USER}", "/${USER}"),
        ("/$$$${USER}", "/$${USER}"),
        ("/$USER/$(id)/`id`/$", "/$USER/$(id)/`id`/$"),
        ("/${NESTED}", "/${USER}"),
    ],
)
def test_variables_of_the_job_are_replaced_once(write, written, meant):
    """`${NAME}`, `${NAME:-text}` and `$$`; nothing else, and no shell is asked."""
    env = {"USER": "alice", "A": "1", "EMPTY": "", "NESTED": "${USER}"}
    path = write(f'image = "{written}"\nworkdir = "{written}"\n[env]\nX = "{written}"\n')
    image, found = made(path, env)
    assert (image, found.workdir, found.variables) == (meant, meant, {"X": meant})


def test_variables_are_replaced_in_mounts_bases_and_choices(write, tmp_path):
    """In every value, as in EDF."""
    write('runtime = "crun"\n', "base.toml")
    text = 'base_environment = "${HERE}/base.toml"\nimage = "/i"\nhome = "${H}"\nmounts = ["${HERE}:/x"]\n'
    found = made(write(text), {"HERE": str(tmp_path), "H": "none"})[1]
    assert (found.runtime, found.home) == ("crun", "none")
    assert [(m.source, m.target) for m in found.mounts] == [(str(tmp_path), "/x")]


def built(image: Image, variables: dict[str, str]) -> dict[str, str]:
    asked = Settings(variables=variables, origins={"variables": "`env` in env.toml:3"})
    return dict(build(request(), job({"A": "1", "B": "2", "C": ""}), image, asked).env)


def test_an_empty_text_takes_the_job_s_variable_away():
    """As in EDF; an empty variable of the job's own stays."""
    assert built(Image("/i", "squashfs", "/i"), {"A": "", "D": "4"}) == {"B": "2", "C": "", "D": "4"}


def test_what_the_image_itself_declares_cannot_be_taken_away():
    """As far as that can be seen, it is refused by name."""
    image = Image("/b", "oci-bundle", "/b", "", {"process": {"env": ["A=image's"]}})
    with pytest.raises(SettingRefused) as caught:
        built(image, {"A": ""})
    assert caught.value.message == "`env` in env.toml:3 takes away `A`, which the image itself declares"
    assert built(image, {"B": ""}) == {"A": "1", "C": ""}


# Base environments


def test_what_is_inherited_is_overwritten_and_mounts_and_variables_add_up(write, tmp_path):
    """One base after the other, then the file itself; each value says which file it is from."""
    a = write('image = "/a"\nhome = "none"\nmounts = ["/:/a"]\n[env]\nX = "a"\nY = "a"\n', "a.toml")
    b = write('image = "/b"\nworkdir = "/b"\nmounts = ["/:/b"]\n[env]\nY = "b"\n', "b.toml")
    text = f'base_environment = ["{a}", "{b}"]\nworkdir = "/c"\nmounts = ["/:/c"]\n[env]\nZ = "c"\n'
    path = write(text)
    found = read(path, job())
    assert found.image == "/b"
    assert [step[1:] for step in found.steps] == [
        (a, "a base environment, level 1"),
        (b, "a base environment, level 1"),
        (path, "read"),
        ("/b", f"the image, from {b}:1"),
    ]
    combined = settings.combine(
        [("site.toml", {"home": "bind"}), *found.layers, ("job", {"workdir": "/d"})], "/"
    )
    assert combined.variables == {"X": "a", "Y": "b", "Z": "c"}
    assert [mount.target for mount in combined.mounts] == ["/a", "/b", "/c"]
    assert (combined.workdir, combined.home) == ("/d", "none")
    assert combined.origins == {
        "home": f"`home` in {a}:2",
        "mounts": f"`mounts` in {path}:3",
        "variables": f"`env` in {path}:4",
        "workdir": "SLURM_OCI_WORKDIR",
    }


@pytest.mark.parametrize(
    ("name", "env"),
    [("common", {}), ("common", {"EDF_PATH": "relative:/none:HERE/.edf"}), ("./.edf/common.toml", {})],
)
def test_a_base_is_a_path_or_a_name_in_edf_s_search_path(write, tmp_path, name, env):
    """EDF_PATH of the job, else ~/.edf; a path has a slash and starts at the job's directory."""
    write('image = "/i"\n', ".edf/common.toml")
    env = {key: value.replace("HERE", str(tmp_path)) for key, value in env.items()}
    path = write(f'base_environment = "{name}"\n')
    assert made(path, env, cwd=str(tmp_path), home=str(tmp_path))[0] == "/i"


def test_a_base_may_be_inherited_twice_by_two_ways(write):
    """That is no cycle."""
    write('image = "/i"\n', "a.toml")
    for name in ("b", "c"):
        write('base_environment = "./a.toml"\n', f"{name}.toml")
    path = write('base_environment = ["./b.toml", "./c.toml"]\n')
    assert made(path, cwd=str(Path(path).parent))[0] == "/i"


def test_a_cycle_is_refused(write, tmp_path):
    """Naming the way round; a symbolic link does not hide it."""
    (tmp_path / "link.toml").symlink_to("env.toml")
    path = write('image = "/i"\nbase_environment = "./b.toml"\n')
    write('\nbase_environment = ["./link.toml"]\n', "b.toml")
    assert refused(path, cwd=str(tmp_path)).message == (
        f"{tmp_path}/b.toml:2: `base_environment` leads back to `{tmp_path}/link.toml`"
    )


@pytest.mark.parametrize("levels", [LEVELS, LEVELS + 1])
def test_ten_levels_may_be_inherited(write, tmp_path, levels):
    """As in EDF, and no more."""
    write('image = "/i"\n', f"{levels}.toml")
    for level in range(levels):
        path = write(f'base_environment = "./{level + 1}.toml"\n', f"{level}.toml")
    path = str(tmp_path / "0.toml")
    if levels == LEVELS:
        assert made(path, cwd=str(tmp_path))[0] == "/i"
    else:
        assert refused(path, cwd=str(tmp_path)).message == (
            f"{tmp_path}/10.toml:1: more than 10 levels of `base_environment`"
        )


def test_an_annotation_of_a_base_may_be_taken_back(write):
    """What counts is what is said last."""
    a = write('image = "/i"\n[annotations]\ncom.hooks.ssh.enabled = "true"\n', "a.toml")
    path = write(f'base_environment = "{a}"\nannotations."com.hooks.ssh.enabled" = "False"\n')
    assert made(path) == ("/i", Settings())
    assert f"{a}:3: the annotation `com.hooks.ssh.enabled`" in refused(a).message


def test_explain_shows_where_each_setting_is_from(slurm, place):
    """The files that were read, and of each setting file and line, or the job's variable."""
    (place / "image/bin").mkdir(parents=True)
    (place / "image/bin/sh").write_text("")
    (place / "base.toml").write_text('home = "none"\nworkdir = "/"\nruntime = "unshare"\n')
    path = place / "env.toml"
    path.write_text(f'base_environment = "{place}/base.toml"\nimage = "{place}/image"\nworkdir = "/bin"\n')
    slurm.environ["SLURM_OCI_GPU"] = "none"
    shown = slurm.call("explain", path, program="bin/slurm-oci-plugins").out.splitlines()
    steps = [" ".join(line.split()) for line in shown if line.lstrip().startswith("definition:")]
    assert steps == [
        f"definition: {place}/base.toml (a base environment, level 1)",
        f"definition: {path} (read)",
        f"definition: {place}/image (the image, from {path}:2)",
    ]
    assert shown[shown.index("settings") + 1 :][:4] == [
        f"  runtime=unshare  (`runtime` in {place}/base.toml:3)",
        f"  workdir=/bin  (`workdir` in {path}:3, over / of `workdir` in {place}/base.toml:2)",
        f"  home=none  (`home` in {place}/base.toml:1)",
        "  gpu=none  (SLURM_OCI_GPU)",
    ]


# What is refused


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ('workdir = ["/a"]', 'as in: workdir = "/a"'),
        ("workdir = 1", 'as in: workdir = "/work"'),
        ("writable = 1", "as in: writable = true"),
        ('mounts = "/a:/b"', 'as in: mounts = ["/a:/b"]'),
        ("mounts = [1]", 'as in: mounts = ["/data:/data:ro"]'),
        ("home = true", 'as in: home = "bind"'),
        ("[env]\nA = 1", 'as in: [env] and below it A = "1"'),
        ("[annotations]\na.b = true", 'as in: [annotations] and below it a.b = "true"'),
        ('env = "slurm"', 'as in: [env] and below it NAME = "slurm"'),
        ("runtime = 1", 'as in: runtime = "crun"'),
        ("base_environment = [1]", 'as in: base_environment = ["./base.toml"]'),
    ],
)
def test_a_value_of_the_wrong_type_is_shown_as_it_is_written(tmp_path, line, hint):
    """With what was given, where that can be kept."""
    path = tmp_path / "env.toml"
    path.write_text(f'image = "/i"\n{line}\n')
    with pytest.raises(SettingInvalid) as caught:
        read(str(path), job())
    assert caught.value.hints[0] == hint


def test_a_secret_of_the_wrong_type_is_not_shown(tmp_path):
    """Errors of tasks stand in files that others may read."""
    path = tmp_path / "env.toml"
    path.write_text('image = "/i"\n[env]\nAPI_KEY = 123456\n')
    with pytest.raises(SettingInvalid) as caught:
        read(str(path), job())
    assert caught.value.message == f"{path}:3: `env.API_KEY` is of type int: expected a text"
    assert caught.value.hints[0] == 'as in: [env] and below it API_KEY = "text"'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('\nimgae = "/i"\n', 2, "`imgae` is not supported in an environment definition"),
        ('image = "/i"\n[mount]\n', 2, "`mount` is not supported in an environment definition"),
        ('image = "/i"\n[[nothing.like.it]]\n', 2, "`nothing` is not supported in an environment definition"),
        ('image = "/i"\ndebug = "1"\n', 2, "`debug` can be set in the job's environment alone"),
        ('image = "/i"\nuser_hook = "no"\n', 2, "`user_hook` can be set in the job's environment alone"),
        ("# x\nimage = 3\n", 2, "`image` is 3: expected a text"),
        ('image = "/i"\nwritable = 1\n', 2, "`writable` is 1: expected true, false or a text"),
        ('image = "/i"\nworkdir = ["/"]\n', 2, "`workdir` is ['/']: expected a text"),
        ('image = "/i"\nhome = true\n', 2, "`home` is True: expected a text"),
        ('image = "/i"\nmounts = "/a:/b"\n', 2, "`mounts` is '/a:/b': expected a list of texts"),
        (
            'image = "/i"\nmounts = [ # three\n  "/:/a",\n\n  "/:/b", # [\n  7,\n]\n', 6,
            "`mounts` (element 3) is 7: expected a text",
        ),
        ('image = "/i"\n[[mounts]]\na = 1\n', 2, "`mounts` (element 1) is {'a': 1}: expected a text"),
        ('image = "/i"\nenv = "slurm"\n', 2, "`env` is 'slurm': expected a table of texts"),
        ('image = "/i"\n[env]\nA = "1"\n\nB = 2\n', 5, "`env.B` is 2: expected a text"),
        ('image = "/i"\n[env]\nA = """\nimage\n"""\n"B=C" = ""\n', 6, "no variable can be called `B=C`"),
        ('image = "/i"\n[env]\nA = "\\u0000"\n', 3, "a NUL cannot stand in a path or a variable"),
        ('image = "/i"\nannotations = 1\n', 2, "`annotations` is 1: expected a table of texts"),
        ('image = "/i"\n[annotations]\na.b = true\n', 3, "`annotations.a.b` is True: expected a text"),
        (
            'image = "/i"\n[annotations.com.hooks.ssh]\nenabled = "true"\n', 3,
            "the annotation `com.hooks.ssh.enabled` is not supported: nothing here acts on it",
        ),
        ("base_environment = 1\n", 1, "`base_environment` is 1: expected a text or a list of texts"),
        ('base_environment = [\n"./a",\n1]\n', 3, "`base_environment` (element 2) is 1: expected a text"),
        ('image = "you@host.example#a"\n', 1, "`you@host.example#a` names a user of the registry"),
        ('image = "${NONE}"\n', 1, "the job has no variable `NONE`"),
        ('image = "${1}"\n', 1, "`${` without the name of a variable and `}`"),
        ('image = "/i"\n[env]\nPATH = "${PATH}:/x"\n', 3, "`${PATH}` is not supported: the image has its own `PATH`, not known yet"),
        ('image = "/i"\nmounts = ["/:/a:ro+rw"]\n', 2, "the mount `/:/a:ro+rw` is both `ro` and `rw`"),
        ('image = "/i"\nhome = "mine"\n', 2, "`home` in WHERE is `mine`: expected `bind` or `none`"),
        ('image = "/i"\nworkdir = "w"\n', 2, "`workdir` in WHERE is `w`: expected a path that starts with `/`"),
        (
            'image = "/i"\nmounts = [\n"/:/x",\n"/none:/y"]\n', 4,
            "`mounts` in WHERE has the mount `/none:/y`: there is no `/none` on this node",
        ),
        ('image = "/i"\nhome = "a\nb"\n', 2, "not valid TOML: Illegal character '\\n' (column 10)"),
        ('image = "/i"\nmounts = [', 2, "not valid TOML: Invalid value (at end of document)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_file_and_line(write, text, line, message):
    """The statement's own line, or the element's, whatever stands before it."""
    path = write(text)
    where = f"{path}:{line}"
    said = refused(path).message
    assert said in (f"{where}: {message}", message.replace("WHERE", where))


@pytest.mark.parametrize(("key", "near"), [("imgae", "image"), ("mount", "mounts"), ("work-dir", "workdir")])
def test_a_misspelt_key_is_told_the_nearest(write, key, near):
    """And one that is like nothing, all that there are."""
    assert refused(write(f'{key} = ""\n')).hints == (f"did you mean `{near}`?",)
    assert refused(write("xyz = 1\n")).hints == ("known are " + ", ".join(KEYS),)


@pytest.mark.parametrize("flag", [*REFUSED_FLAGS, "noexec", ""])
def test_a_mount_flag_that_means_nothing_here_is_refused_by_name(write, flag):
    """Also beside one that does."""
    problem = refused(write(f'image = "/i"\nmounts = ["/:/a:ro+{flag}"]\n'))
    assert f":2: the mount `/:/a:ro+{flag}` has the flag `{flag}`: not supported" in problem.message


@pytest.mark.parametrize("text", ["", 'image = ""\n', 'runtime = "crun"\n'])
def test_a_definition_without_an_image_is_refused(write, text):
    """In EDF the command then runs without a container, which nobody wants by mistake."""
    path = write(text)
    assert refused(path).message == f"`{path}` names no image"


def test_an_image_that_is_a_definition_is_told_how_to_inherit(write):
    """It is no image."""
    other = write(name="other.toml")
    problem = refused(write(f'image = "{other}"\n'))
    assert problem.message.endswith(f":1: the image `{other}` is itself an environment definition")
    assert problem.hints == (f'to inherit from it: base_environment = "{other}"',)


def test_a_base_that_is_not_found_says_where_it_was_looked_for(write, tmp_path):
    """By name or by path, with the line that names it."""
    path = write('base_environment = ["common.toml"]\n')
    problem = refused(path, home=str(tmp_path))
    assert (
        problem.message == f"{path}:1: no environment definition is called `common.toml` in {tmp_path}/.edf"
    )
    assert problem.hints[0].endswith("a path has a `/` in it: ./common.toml")
    path = write('base_environment = "/no/such.toml"\n')
    said = f"{path}:1: cannot read the base environment `/no/such.toml`: No such file or directory"
    assert refused(path).message == said


def test_what_is_no_file_or_too_large_is_not_read(write, tmp_path):
    """A FIFO would keep us until somebody writes to it."""
    os.mkfifo(tmp_path / "fifo.toml")
    assert refused(str(tmp_path / "fifo.toml")).message.endswith("it is no file")
    assert refused(write("#" * (LARGEST + 1))).message.endswith(f"it is larger than {LARGEST} bytes")


@pytest.mark.parametrize(
    "text", ["image = " + "[" * 5000, "image = " + "9" * 5000, "a" + ".a" * 5000 + " = 1", "\ufeffimage = 1"]
)
def test_what_python_s_reader_stumbles_over_is_a_problem_too(write, text):
    """Not a traceback."""
    refused(write(text))


def test_bytes_that_are_no_utf_8_are_kept(write):
    """A path may have any."""
    assert made(write(b'image = "/i\xff"\n'))[0] == os.fsdecode(b"/i\xff")


# Laws


KEY = st.sampled_from([*KEYS, "x", "a.b", "com.hooks.a.enabled", "env.A", "", '"'])
TEXT = st.sampled_from(
    ["", "/", "./env.toml", "${A}", "${", "$$", "a:b", "/:/x:ro+private", "docker.io#a", "\0", "false"]
)
VALUE = st.recursive(
    TEXT | st.text(max_size=5) | st.integers() | st.booleans() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3),
    max_leaves=6,
)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower()


def judge(folder: Path, content: bytes) -> None:
    path = folder / "env.toml"
    path.write_bytes(content)
    try:
        found = read(str(path), job({"A": "/", "EDF_PATH": str(folder)}, cwd=str(folder)))
        settings.combine(found.layers, "/")
        assert isinstance(found, Definition)
        assert found.image
    except Problem as problem:
        assert isinstance(problem, SettingInvalid | ImageMissing)
        assert problem.lines()


@given(data=st.dictionaries(KEY, VALUE, max_size=5))
@example(data={"base_environment": "env"})
def test_any_values_make_a_definition_or_a_problem(open_folder, data):
    """And never a traceback."""
    text = "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in data.items())
    tomllib.loads(text)
    judge(open_folder, text.encode())


@given(content=st.binary(max_size=60) | st.text("[]{}=\"'.#\n abimageenv\\${}", max_size=60).map(str.encode))
def test_any_bytes_make_a_definition_or_a_problem(open_folder, content):
    """Whatever has been saved under the name."""
    judge(open_folder, content)


STATEMENTS = [
    "a%d = 1",
    'a%d = """\nb = 1\n[c]\n"""',
    "a%d = [\n# c\n1,\n2]",
    "a%d.b.c = {x = [1], y = 2}",
    "a%d = '''\n'''",
]


@given(
    chosen=st.lists(st.sampled_from(["", "# x", "  ", *STATEMENTS]), max_size=12),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_each_key_is_found_in_the_line_that_begins_its_statement(chosen, end):
    """Whatever of several lines stands before it."""
    lines = [text % number if "%" in text else text for number, text in enumerate(chosen)]
    expected = {
        number: sum(text.count("\n") + 1 for text in lines[:number]) + 1 for number in range(len(lines))
    }
    found = Positions("\n".join(lines).replace("\n", end))
    assert [found[(f"a{n}",)] for n, text in enumerate(chosen) if "%" in text] == [
        expected[n] for n, text in enumerate(chosen) if "%" in text
    ]
