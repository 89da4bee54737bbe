"""Looking into a root file system from outside: `slurm_oci.rootfs`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NAMESPACES, tree
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slurm_oci.cover import Cover, covers, entries
from slurm_oci.problems import ImageUnreadable
from slurm_oci.rootfs import find_command, resolve
from slurm_oci.values import Mount

needs_namespaces = pytest.mark.skipif(not NAMESPACES, reason="the kernel refuses user namespaces")

# Links in this tree lead up, down, out of it, in circles and into nothing.
LINKS = {
    "abs": "/usr/bin",
    "rel": "usr/lib",
    "up": "../../usr",
    "usr/back": "..",
    "usr/out": "../../../../etc",
    "usr/bin/tool": "../lib/tool",
    "loop": "loop",
    "one": "two",
    "two": "one",
    "dangling": "/no/where",
    "usr/slash": "lib/",
    "dots": "./usr/./bin/..",
    "via": "usr/back/abs/tool",
    "top": "/",
    **{f"chain{n}": f"chain{n + 1}" for n in range(45)},
    "chain45": "usr",
}
PARTS = st.sampled_from(
    [
        *("..", ".", "", "usr", "bin", "lib", "etc", "tool", "file", "nothing"),
        *("back", "out", "slash", "chain4", "chain5", "chain6"),
        *(name for name in LINKS if "/" not in name),
    ]
)
PATHS = st.lists(PARTS, max_size=6).map(lambda parts: "/" + "/".join(parts))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("image") / "root"
    for folder in ("usr/bin", "usr/lib", "etc"):
        (root / folder).mkdir(parents=True)
    (root / "usr/lib/tool").write_text("")
    (root / "etc/file").write_text("")
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    return root


# In a user namespace of its own, so that nobody has to be root: answers a path a line.
CHROOTED = """
import ctypes, os, sys
assert ctypes.CDLL(None).unshare(0x10000000) == 0
proc = os.open("/proc/self", os.O_RDONLY)
os.chroot(sys.argv[1])
os.chdir("/")
for line in sys.stdin:
    try:
        descriptor = os.open(line.rstrip("\\n"), os.O_PATH)
        print(os.readlink(f"fd/{descriptor}", dir_fd=proc), flush=True)
        os.close(descriptor)
    except OSError:
        print(flush=True)
"""


class Inside:
    """A process whose root directory is the image."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHROOTED, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def sees(self, path: str) -> str:
        """What the kernel finds there, followed to the end; empty for nothing."""
        self.process.stdin.write(path + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def end(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="module")
def inside(root):
    process = Inside(root)
    yield process
    process.end()


@needs_namespaces
@settings(max_examples=300)
@given(path=PATHS)
@example(path="/usr/lib/tool/..")
@example(path="/via/.")
@example(path="/via/")
@example(path="/dangling/..")
@example(path="/chain5")
@example(path="/chain6")
def test_a_path_leads_where_it_leads_a_process_inside(path, root, inside):
    """Links, `..` beyond the top and loops are followed as the kernel follows them after chroot."""
    found, there = resolve(str(root), path)
    seen = inside.sees(path)
    assert (found if there else "") == seen
    assert found.startswith("/")


def test_what_is_missing_is_kept_as_it_is(root):
    """Of a path that leads into nothing, the existing part is followed and the rest appended."""
    assert resolve(str(root), "/abs/new/place") == ("/usr/bin/new/place", False)
    assert resolve(str(root), "/dangling/x") == ("/no/where/x", False)
    assert resolve(str(root), "/up/out/new") == ("/etc/new", False)


def test_links_never_lead_out_of_the_image(tmp_path):
    """An absolute link starts at the image's own top, and so does one with many `..`."""
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "climb").symlink_to("../../../../../../etc/passwd")
    assert resolve(str(tmp_path), "/passwd") == ("/etc/passwd", False)
    assert resolve(str(tmp_path), "/climb") == ("/etc/passwd", False)


def test_a_command_is_looked_up_as_a_shell_inside_would(root):
    """In the directories of PATH in order; directories of the name are no commands."""
    assert find_command(str(root), "tool", "/nothing:/usr:/usr/bin:/usr/lib", "/") == "/usr/bin/tool"
    assert find_command(str(root), "bin", "/usr", "/") == ""
    assert find_command(str(root), "via", "/:/usr", "/usr") == "/via"
    assert find_command(str(root), "tool", ":/etc", "/usr/lib") == "/usr/lib/tool"
    assert find_command(str(root), "dangling", "/", "/") == ""


def test_mount_points_that_are_there_need_no_cover(root):
    """Nothing is laid over anything where nothing has to be made."""
    assert covers(str(root), [Mount("/tmp", "/etc")], []) == ()


def test_a_cover_brings_back_what_the_image_has_and_makes_what_it_lacks(tmp_path):
    """Folders and files are bound back, links made again, mount points made with their parents."""
    image, source = tmp_path / "image", tmp_path / "source"
    for folder in ("data/own", "data/taken"):
        (image / folder).mkdir(parents=True)
    (image / "data/file").write_text("")
    (image / "data/link").symlink_to("own")
    source.write_text("")
    taken = Mount("/tmp", "/data/taken")
    lacking = [Mount("/tmp", "/data/a/b"), Mount("/tmp", "/data/a"), Mount(str(source), "/data/c/file")]
    before = tree(image)
    assert covers(str(image), [taken, *lacking], lacking) == (
        Cover(
            parent="/data",
            folders=("/data/own",),
            files=("/data/file",),
            links=(("/data/link", "own"),),
            new_folders=("/data/taken", "/data/a", "/data/a/b", "/data/c"),
            new_files=("/data/c/file",),
        ),
    )
    assert tree(image) == before


def test_covers_of_several_places_come_parents_first(root):
    """A cover in a folder that another cover brings back is laid after it."""
    lacking = [Mount("/tmp", "/usr/lib/new"), Mount("/tmp", "/new"), Mount("/tmp", "/etc/new")]
    assert [cover.parent for cover in covers(str(root), lacking, lacking)] == ["/", "/etc", "/usr/lib"]


def test_a_folder_that_cannot_be_listed_is_a_problem(tmp_path):
    """It could not be brought back, so the image is refused."""
    with pytest.raises(ImageUnreadable, match=r"cannot list .*: No such file or directory"):
        entries(f"{tmp_path}/gone")


def test_entries_keep_their_kinds_and_names(tmp_path):
    """Sorted, with what each link points to; names may hold any bytes."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("")
    (tmp_path / "c").symlink_to("b/../x y")
    os.mkfifo(tmp_path / "d")
    (tmp_path / os.fsdecode(b"\xff\n")).write_text("")
    assert entries(str(tmp_path)) == [
        ("a", "file"),
        ("b", "folder"),
        ("c", ("link", "b/../x y")),
        ("d", "file"),
        ("\udcff\n", "file"),
    ]
