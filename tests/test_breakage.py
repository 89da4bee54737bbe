"""The Containers Guide's line, and what /bin/sh makes of it: `slurm_oci.breakage`, by the entry point."""

import os
import shutil
import subprocess

import pytest
from conftest import request
from hypothesis import given
from hypothesis import strategies as st

from slurm_oci import breakage
from slurm_oci.line import QUOTE, QUOTE_TWICE
from slurm_oci.pattern import Fields, ShellActs, Version, shell_line, shell_words
from slurm_oci.problems import RequestShifted

DASH = shutil.which("dash")
TOOL = '\n[runtimes.tool]\nrun = ["tool", "%b", "--", "%@"]\naccepts = ["rootfs"]\n'


@pytest.fixture
def tool(slurm, stand_in):
    """A runtime that takes everything."""
    path = slurm.prefix / "site.toml"
    path.write_text('order = ["tool"]\n' + path.read_text() + TOOL)
    return stand_in("tool")


@pytest.fixture
def image(place):
    (place / "image" / "bin").mkdir(parents=True)
    (place / "image" / "bin" / "echo").write_text("")
    return place / "image"


# The image's path


@pytest.mark.parametrize(
    "asked_for", ["im'ag'e", 'im"age"', "im\\age", "imag*", "imag[e]", "image$X", "image>x", "~/../image"]
)
def test_another_image_than_the_one_asked_for_is_refused(slurm, tool, image, asked_for):
    """The shell took signs out of its path, or filled them in: what is left is there and would run."""
    slurm.job = {"SLURM_CONTAINER": f"{image.parent}/{asked_for}"}
    ended = slurm.run(image, "/bin/echo")
    assert (ended.status, ended.code, tool.calls) == (125, "request-shifted", [])
    assert ended.err.splitlines()[0] == (
        f"slurm-oci: error: oci.conf passed `{image}` for the image, but --container was"
        f" `{image.parent}/{asked_for}`: the shell has read the path, which oci.conf leaves to it [request-shifted]"
    )


def test_an_image_that_is_not_there_for_what_the_shell_did_is_told_as_typed(slurm, tool, place):
    """Instead of being asked for what was typed."""
    (place / "al$X").mkdir()
    slurm.job = {"SLURM_CONTAINER": f"{place}/al$X"}
    assert slurm.run(place / "al", "/bin/echo").code == "request-shifted"


@pytest.mark.parametrize("asked_for", ["image", "./image", "image'", "-"])
def test_an_image_that_arrived_as_typed_runs(slurm, tool, place, asked_for):
    """Relative or odd, it is what --container says."""
    (place / asked_for / "bin").mkdir(parents=True)
    (place / asked_for / "bin" / "echo").write_text("")
    slurm.job = {"SLURM_CONTAINER": asked_for}
    ended = slurm.run(asked_for, "/bin/echo", cwd=place)
    assert (ended.status, ended.err) == (0, "")


def test_a_site_s_own_line_may_make_another_path_of_it(slurm, tool, image):
    """`RunTimeRun="run '/images/%b' …"`, or a wrapper that maps names: no shell changes plain signs, and a
    name that is still in the path was not changed."""
    for asked_for in ("busybox", "image", f"{image.name}"):
        slurm.job = {"SLURM_CONTAINER": asked_for}
        assert slurm.run(image, "/bin/echo").status == 0
    odd = image.rename(image.with_name("an image's"))
    slurm.job = {"SLURM_CONTAINER": odd.name}
    assert slurm.run(odd, "/bin/echo").status == 0


def test_a_bundle_of_slurms_own_is_not_the_one_asked_for(slurm, tool, image):
    """With IgnoreFileConfigJson=false, `%b` is in Slurm's spool."""
    slurm.job = {"SLURM_CONTAINER": "/a 'bundle'"}
    slurm.set_up()
    own = slurm.spool / "task-0"
    (own / "bin").mkdir()
    (own / "bin" / "echo").write_text("")
    assert slurm.run(own, "/bin/echo").status == 0


@pytest.mark.parametrize("emptied", [False, True])
def test_a_hook_may_hand_back_another_image(slurm, tool, image, emptied):
    """That is what it is for, whatever it leaves of its environment."""
    emptying = f"env -i PATH={slurm.place}/bin:/usr/bin:/bin "
    again = f'exec {emptying if emptied else ""}{slurm.prefix}/slurm-oci-run-default "$@"'
    slurm.hook(f'#!/bin/sh\nshift; set -- {image} "$@"\n{again}\n')
    slurm.job = {"SLURM_CONTAINER": f"{image.parent}/its name"}
    ended = slurm.run(f"{image.parent}/its name", "/bin/echo", "it's")
    assert (ended.status, ended.err) == (0, "")
    assert tool.words == [[str(image), "--", "/bin/echo", "it's"]]


# The command


def by_shell(slurm, image, command, quote, before="", shell=DASH):
    """The entry point, started through `sh -c` as Slurm starts it, that writes a quote as `quote`."""
    quoted = " ".join("'" + word.replace("'", quote) + "'" for word in command)
    words = " ".join(slurm.words(image))
    line = f"{before}{slurm.prefix}/run {words} {quoted}"
    slurm.write()
    process = subprocess.run(
        [shell, "-c", line], env={"PATH": f"{slurm.place}/bin:{os.defpath}"}, cwd=slurm.home,
        preexec_fn=slurm.at_home, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return process.returncode, process.stdout, process.stderr


@pytest.mark.skipif(not DASH, reason="dash is not installed")
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("/bin/echo", "'\"'"), "word 1 of the command was `'\"'`, and the shell made `''\"` of what"),
        (("/bin/echo", "'", "'", "'"), "word 1 of the command was `'`, and the shell made `' \"''' ''\"`"),
        (("/bin/echo", "a';exit 3;#"), "word 1 of the command was `a';exit 3;#`, and the shell made `a'` of"),
    ],
)
def test_words_that_slurm_misquotes_are_refused_by_name(slurm, tool, image, command, told):
    """Where dash waits for the entry point, its line is there to be read."""
    status, out, err = by_shell(slurm, image, command, QUOTE_TWICE)
    assert (status in (3, 125), out, tool.calls) == (True, "", [])
    assert err.startswith(f"slurm-oci: error: {told}")
    assert err.splitlines()[0].endswith("[request-shifted]")


@pytest.mark.skipif(not DASH, reason="dash is not installed")
@pytest.mark.parametrize(
    ("quote", "before"), [(QUOTE, ""), (QUOTE, "exec "), (QUOTE, "X=1 ")], ids=["right", "exec", "other line"]
)
def test_words_that_slurm_quotes_rightly_run(slurm, tool, image, quote, before):
    """Whatever quotes are in them."""
    command = ("/bin/echo", "it's", "'\"'", "' '", "")
    status, out, err = by_shell(slurm, image, command, quote, before)
    assert (status, out, err) == (0, "", "")
    assert tool.words == [[str(image), "--", *command]]


WORD = st.text("'\"a #\\", max_size=5)


@given(st.lists(WORD, max_size=4), st.sampled_from(["23.02.0", "24.11.5", "26.05.5"]))
def test_the_shell_s_line_gives_away_every_word_that_did_not_arrive(of_parent, command, version):
    """Whatever the model of the shell says that arrives: nothing is refused that is right, and
    nothing that is wrong goes on."""
    slurms = Version.parse(version)
    sent = request("/image", "sh", *command).replace(spool="/spool/7")
    fields = Fields.in_slurm(slurms, sent, cwd="/")
    line = shell_line("/run %b %m %u %U %n %j %s %t %@", fields, slurms)
    try:
        arrived = shell_words(line)[9:]
    except ShellActs:
        return
    asked = sent.replace(spool=fields.spool, command=arrived)
    of_parent(line)
    if arrived == sent.command:
        breakage.refuse_other_command(asked)
    else:
        with pytest.raises(RequestShifted):
            breakage.refuse_other_command(asked)


@pytest.fixture(scope="module")
def of_parent():
    """Sets what our parent was started with."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda line: patch.setattr(breakage, "of_parent", lambda: line)
