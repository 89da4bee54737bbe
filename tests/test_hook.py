"""The user's own script: `slurm_oci.hook`."""

import errno
import grp
import os
import pwd
import resource
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_image import as_other, system_calls  # noqa: F401 - fixtures

import slurm_oci
from slurm_oci.hook import BASH, NAME, Hook, Judgement, find, judge
from slurm_oci.problems import HookUnsafe
from slurm_oci.trust import not_started
from slurm_oci.values import Request

ME = os.geteuid()
SCRIPT = '#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n'
REQUEST = Request("/images/b b", "/spool", "alice", 1001, "node1", 42, 0, 3, ("echo", "it's", ""))


@pytest.fixture
def home(tmp_path):
    """A safe home, whatever the umask of the one who runs the tests."""
    path = tmp_path / "home"
    path.mkdir()
    path.chmod(0o755)
    return path


@pytest.fixture
def no_private_group(monkeypatch):
    """Whoever runs the tests, every group is one of many members, as `users` is."""
    group = grp.struct_group(("users", "x", 100, ["alice", "bob"]))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: group)


def script(path: Path, content: str | bytes = SCRIPT, mode: int = 0o755) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def refusal(home: Path, uid: int = ME) -> HookUnsafe:
    with pytest.raises(HookUnsafe) as caught:
        find(str(home), uid)
    return caught.value


def cured(home: Path, problem: HookUnsafe, uid: int = ME) -> Judgement:
    """What is found after the commands in the hints were pasted, all but the last, going without."""
    for hint in problem.hints[:-1]:
        subprocess.run(["/bin/sh", "-ec", hint.split("`")[1]], check=True)
    return find(str(home), uid)


# What may be run


def test_no_hook_is_nothing(home):
    """Where there is no file, nothing is found and nothing is said."""
    assert find(str(home), ME) == Judgement()


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o500, 0o744, 0o711, 0o100])
def test_a_script_of_the_user_s_is_run_by_its_path(home, mode):
    """A file that only its owner can write is the hook, called by its path in the home."""
    path = script(home / NAME, mode=mode)
    assert find(f"{home}/", ME) == Judgement(Hook(str(path)))


@pytest.mark.parametrize(
    ("content", "interpreter"),
    [
        ("#!/usr/bin/python3\n", ()),
        ("echo hello\n", (BASH,)),
        ("\n#!/bin/sh\n", (BASH,)),
        ("ö=1\n", (BASH,)),
        (Path("/bin/true").read_bytes(), ()),
        (b"MZ\0\0 some other system's program", ()),
        (b"echo text\n\0 and data after it", (BASH,)),
    ],
)
def test_a_script_without_an_interpreter_is_run_by_bash(home, content, interpreter):
    """Text without `#!` is given to bash, as bash itself would; a program is executed."""
    path = script(home / NAME, content)
    assert find(str(home), ME).hook == Hook(str(path), interpreter)


@pytest.mark.parametrize("content", [SCRIPT, SCRIPT.partition("\n")[2]])
def test_the_hook_gets_its_path_the_eight_fields_and_the_command(home, content):
    """`$0` is ~/.slurm-oci-run, `$1` to `$8` are the fields, then the command, word by word."""
    path = script(home / NAME, content)
    argv = find(str(home), ME).hook.argv(REQUEST)
    output = subprocess.run(argv, executable=argv[0], check=True, stdout=subprocess.PIPE, text=True).stdout
    words = [
        str(path),
        "/images/b b",
        "/spool",
        "alice",
        "1001",
        "node1",
        "42",
        "0",
        "3",
        "echo",
        "it's",
        "",
    ]
    assert output.split("\n")[:-1] == words


def test_a_link_to_a_safe_script_is_followed(home, tmp_path):
    """Links, also several and relative ones, are followed; the path called stays the one in the home."""
    (tmp_path / "tools").mkdir(mode=0o755)
    script(tmp_path / "tools/run")
    (home / "second").symlink_to("../tools/run")
    (home / NAME).symlink_to("second")
    assert find(str(home), ME).hook == Hook(f"{home}/{NAME}")


def test_a_script_that_cannot_be_read_is_executed_all_the_same(as_other):  # noqa: F811
    """Root's program with mode 0711 in root's directory is fine, though nobody can look into it."""
    path = script(as_other.place / NAME, Path("/bin/true").read_bytes(), 0o711)
    assert as_other(find, str(as_other.place), as_other.uid).hook == Hook(str(path))


def test_the_user_s_own_and_root_s_files_are_trusted(as_other):  # noqa: F811
    """Owner of hook and home may be the user or root, in any mixture."""
    path = script(as_other.place / NAME)
    for owner_of_file, owner_of_home in (
        (0, 0),
        (as_other.uid, 0),
        (0, as_other.uid),
        (as_other.uid,) * 2,
    ):
        os.chown(path, owner_of_file, 0)
        os.chown(as_other.place, owner_of_home, 0)
        assert as_other(find, str(as_other.place), as_other.uid).hook == Hook(str(path))


# What must not be run, and the cure


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o722])
def test_a_script_that_others_can_write_is_refused(home, no_private_group, mode):
    """Write permission for group or others is named with the command that takes it away."""
    path = script(home / NAME, mode=mode)
    problem = refusal(home)
    who = "everybody" if mode & 2 else f"group {path.stat().st_gid}"
    assert problem.message == f"`{path}` can be written by {who} (mode {mode:04o})"
    assert problem.hints == (
        f"`chmod go-w {path}`, when you have read what it does",
        "to go without it, set `SLURM_OCI_USER_HOOK=no` in the job's environment",
    )
    assert cured(home, problem).hook == Hook(str(path))


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_home_that_others_can_write_is_refused(home, no_private_group, mode):
    """Who can write the directory can replace the script; a sticky bit changes nothing."""
    path = script(home / NAME)
    home.chmod(mode)
    problem = refusal(home)
    who = "everybody" if mode & 2 else f"group {path.stat().st_gid}"
    assert problem.message == f"the directory `{home}` of `{path}` can be written by {who} (mode {mode:04o})"
    assert problem.hints[0] == f"`chmod go-w {home}`"
    assert cured(home, problem).hook == Hook(str(path))


def test_a_script_that_is_not_executable_is_refused(home):
    """A file without execute permission is not skipped: the user meant something by it."""
    path = script(home / NAME, mode=0o644)
    problem = refusal(home)
    assert problem.message == f"`{path}` is not executable (mode 0644)"
    assert problem.hints[0] == f"`chmod u+x {path}`"
    assert cured(home, problem).hook == Hook(str(path))


def test_all_faults_are_cured_at_once(home):
    """The message is the first fault's and the hints are all faults', so that one repair is enough."""
    path = script(home / NAME, "#!/bin/sh\r\necho\r\n", mode=0o666)
    home.chmod(0o777)
    problem = refusal(home)
    assert [finding.hints[0].split("`")[1] for finding in judge(str(home), ME).findings] == [
        f"chmod go-w {path}",
        f"sed -i 's/\\r$//' {path}",
        f"chmod u+x {path}",
        f"chmod go-w {home}",
    ]
    assert problem.message == judge(str(home), ME).findings[0].message
    assert cured(home, problem).hook == Hook(str(path))


@pytest.mark.parametrize("name", ["a b", "it's", "$(touch pwned)", "-n", "a\nb"])
def test_cures_can_be_pasted_whatever_the_home_is_called(tmp_path, name):
    """Paths in commands are quoted for the shell."""
    home = tmp_path / name
    home.mkdir()
    home.chmod(0o777)
    script(home / NAME, mode=0o666)
    judgement = judge(str(home), ME)
    cures = [shlex.split(finding.hints[0].split("`")[1]) for finding in judgement.findings]
    path = f"{home}/{NAME}"
    assert cures == [["chmod", "go-w", path], ["chmod", "u+x", path], ["chmod", "go-w", str(home)]]


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkdir, "a directory"),
        (os.mkfifo, "a FIFO (named pipe)"),
        (make_socket, "a socket"),
        (lambda path: path.symlink_to("/dev/null"), "a character device"),
        (lambda path: path.symlink_to("/"), "a directory"),
    ],
)
def test_what_is_no_file_is_refused_and_hangs_nobody(home, make, what):
    """A directory, a FIFO, a socket or a device is named, and can be moved out of the way."""
    make(home / NAME)
    problem = refusal(home)
    assert problem.message.endswith(f" is {what}, not a program")
    assert cured(home, problem) == Judgement()


def test_an_empty_file_is_refused(home):
    """Bash would run an empty script with success: a job that did nothing and looks well."""
    path = script(home / NAME, "")
    problem = refusal(home)
    assert problem.message == f"`{path}` is empty"
    assert cured(home, problem) == Judgement()


def test_a_script_with_windows_line_ends_is_refused(home):
    """Its interpreter would be called `/bin/sh\\r`, and the error would be hard to understand."""
    path = script(home / NAME, SCRIPT.replace("\n", "\r\n"))
    problem = refusal(home)
    assert problem.message == f"`{path}` has the line ends of Windows, so its `#!` fails"
    assert cured(home, problem).hook == Hook(str(path))


def test_a_home_mounted_noexec_is_named(tmp_path):
    """Where a mount option forbids execution, `chmod` would not help and is not offered."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from slurm_oci.hook import judge\n"
        "home = sys.argv[2]; path = home + '/.slurm-oci-run'\n"
        "open(path, 'w').write('#!/bin/sh'); os.chmod(path, 0o755)\n"
        "print(judge(home, os.geteuid()).findings[0].message)"
    )
    source = str(Path(slurm_oci.__file__).parent.parent)
    mount = 'mount -t tmpfs -o noexec,mode=755 none "$3" && exec "$0" -I -c "$1" "$2" "$3"'
    command = ["unshare", "-m", "sh", "-c", mount, sys.executable, code, source, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "Operation not permitted" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip("mounting is not allowed here")
    assert done.stdout == (
        f"`{tmp_path}/{NAME}` lies in a file system where nothing may be executed (noexec)\n"
    )


# Links


@pytest.mark.parametrize("where", ["file", "directory"])
def test_a_link_s_target_is_judged_the_same(home, tmp_path, where):
    """The target and its directory must be as safe as the hook itself."""
    (tmp_path / "tools").mkdir(mode=0o755)
    target = script(tmp_path / "tools/run")
    unsafe = target if where == "file" else target.parent
    unsafe.chmod(0o777)
    (home / NAME).symlink_to(target)
    problem = refusal(home)
    it = f"`{target}`" if where == "file" else f"the directory `{target.parent}`"
    reason = "can be written by everybody (mode 0777)"
    assert problem.message == f"{it}, to which `{home}/{NAME}` leads, {reason}"
    assert problem.hints[0].startswith(f"`chmod go-w {unsafe}`")
    assert cured(home, problem).hook == Hook(f"{home}/{NAME}")


def test_the_directory_of_every_link_on_the_way_is_judged(home, tmp_path):
    """Who can write a directory in the middle can turn the link in it round."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "link").symlink_to(script(home / "run"))
    (home / NAME).symlink_to(shared / "link")
    assert f"the directory `{shared}`, to which " in refusal(home).message


@pytest.mark.parametrize("target", ["/no/such/file", NAME, "/etc/passwd/x"])
def test_a_link_that_leads_nowhere_is_refused(home, target):
    """A dangling or circular link is a mistake to name, not a hook to skip."""
    (home / NAME).symlink_to(target)
    problem = refusal(home)
    assert f"`{home}/{NAME}` is a symbolic link to " in problem.message
    assert ", which cannot be opened: " in problem.message
    assert cured(home, problem) == Judgement()


def test_a_link_into_a_closed_directory_is_refused(as_other):  # noqa: F811
    """A project directory that this user cannot enter is not the same as no hook."""
    home, closed = as_other.place / "home", as_other.place / "closed"
    home.mkdir(mode=0o755)
    closed.mkdir(mode=0o700)
    (home / NAME).symlink_to(script(closed / "run"))
    problem = as_other(judge, str(home), as_other.uid).findings[0]
    reason = f"symbolic link to `{closed}/run`, which cannot be opened: Permission denied"
    assert problem.message.endswith(reason)


# Other owners, and groups


def test_a_script_of_somebody_else_s_is_refused(as_other):  # noqa: F811
    """A third user's file is never run; a copy of it is the user's own."""
    os.chown(as_other.place, as_other.uid, as_other.uid)
    path = script(as_other.place / NAME)
    os.chown(path, 12345, 12345)
    problem = as_other(refusal, as_other.place, as_other.uid)
    assert problem.message == (
        f"`{path}` belongs to user 12345, neither to you (user {as_other.uid}) nor to root"
    )
    assert as_other(cured, as_other.place, problem, as_other.uid).hook == Hook(str(path))
    assert path.stat().st_uid == as_other.uid
    assert path.read_text() == SCRIPT


def test_a_link_to_somebody_else_s_script_is_cured_by_a_copy(as_other):  # noqa: F811
    """A colleague's script in the colleague's directory is copied, not trusted."""
    home, theirs = as_other.place / "home", as_other.place / "theirs"
    for directory, owner in ((home, as_other.uid), (theirs, 12345)):
        directory.mkdir(mode=0o755)
        os.chown(directory, owner, owner)
    os.chown(script(theirs / "run"), 12345, 12345)
    (home / NAME).symlink_to(theirs / "run")
    problem = as_other(refusal, home, as_other.uid)
    assert as_other(cured, home, problem, as_other.uid).hook == Hook(f"{home}/{NAME}")
    assert not (home / NAME).is_symlink()


def test_a_home_of_somebody_else_s_is_refused(as_other):  # noqa: F811
    """The owner of the directory can replace the script: only an administrator can mend that."""
    script(as_other.place / NAME)
    os.chown(as_other.place, 12345, 12345)
    problem = as_other(refusal, as_other.place, as_other.uid)
    assert "belongs to user 12345" in problem.message
    assert cured(as_other.place, problem, as_other.uid).hook  # pasted by root


def test_root_s_script_that_is_not_executable_for_the_user_is_copied(as_other):  # noqa: F811
    """The user cannot change root's file, but can have one of his own."""
    os.chown(as_other.place, as_other.uid, as_other.uid)
    path = script(as_other.place / NAME, mode=0o744)
    problem = as_other(refusal, as_other.place, as_other.uid)
    assert problem.message == f"`{path}` is not executable (mode 0744)"
    assert as_other(cured, as_other.place, problem, as_other.uid).hook == Hook(str(path))


def account(private: bool) -> pwd.struct_passwd:
    """An account of this machine whose primary group is, or is not, its private one."""
    for user in pwd.getpwall():
        try:
            group = grp.getgrgid(user.pw_gid)
        except KeyError:
            continue
        if user.pw_uid and (group.gr_name == user.pw_name and not group.gr_mem) == private:
            return user
    pytest.skip("this machine has no such account")


def shared(place: Path, uid: int, gid: int) -> Path:
    """A hook in a home, both with group write permission, as umask 002 makes them."""
    path = script(place / NAME, mode=0o775)
    os.chmod(place, 0o775)
    for each in (path, place):
        os.chown(each, uid, gid)
    return path


def test_the_user_s_private_group_may_write(as_other):  # noqa: F811
    """Sites with umask 002 give everyone a group of his own: that is nobody else."""
    user = account(private=True)
    path = shared(as_other.place, user.pw_uid, user.pw_gid)
    found = as_other(find, str(as_other.place), user.pw_uid, uid=user.pw_uid, gid=user.pw_gid)
    assert found.hook == Hook(str(path))


def test_a_primary_group_that_is_not_private_may_not_write(as_other):  # noqa: F811
    """A common primary group, as `users`, is everybody."""
    user = account(private=False)
    shared(as_other.place, user.pw_uid, user.pw_gid)
    found = as_other(judge, str(as_other.place), user.pw_uid, uid=user.pw_uid, gid=user.pw_gid)
    assert [f"group {user.pw_gid}" in finding.message for finding in found.findings] == [True, True]


@pytest.mark.parametrize(("members", "private"), [([], True), (["daemon2"], False)])
def test_a_private_group_with_another_member_is_none(as_other, monkeypatch, members, private):  # noqa: F811
    """Who was added to the user's group can write: the members are looked at, not only the name."""
    user = account(private=True)
    shared(as_other.place, user.pw_uid, user.pw_gid)
    group = grp.struct_group((user.pw_name, "x", user.pw_gid, [user.pw_name, *members]))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: group)
    assert bool(as_other(judge, str(as_other.place), user.pw_uid, uid=user.pw_uid).hook) == private


def test_another_group_than_the_user_s_may_not_write(as_other, monkeypatch):  # noqa: F811
    """A group that has the user's name, and is not the primary one, is not the private one."""
    user = account(private=True)
    shared(as_other.place, user.pw_uid, 12345)
    group = grp.struct_group((user.pw_name, "x", 12345, []))
    for known in (grp.getgrgid, lambda gid: group):
        monkeypatch.setattr(grp, "getgrgid", known)
        assert as_other(judge, str(as_other.place), user.pw_uid, uid=user.pw_uid).findings


def test_a_user_without_a_passwd_entry_has_no_private_group(as_other):  # noqa: F811
    """Where the account cannot be looked up, a group is never private."""
    shared(as_other.place, as_other.uid, as_other.uid)
    assert as_other(judge, str(as_other.place), as_other.uid).findings


@pytest.mark.skipif(not shutil.which("setfacl"), reason="setfacl is not installed")
def test_a_private_group_with_an_access_list_is_none(as_other):  # noqa: F811
    """With an access list the group's write bit may be another user's."""
    user = account(private=True)
    path = shared(as_other.place, user.pw_uid, user.pw_gid)
    if subprocess.run(["setfacl", "-m", "u:12345:rw", path], check=False).returncode:
        pytest.skip("this file system has no access lists")
    found = as_other(judge, str(as_other.place), user.pw_uid, uid=user.pw_uid)
    assert [finding.message for finding in found.findings] == [
        f"`{path}` can be written by group {user.pw_gid} (mode 0775)"
    ]


@given(mode=st.integers(0, 0o777), of_home=st.integers(0, 0o777))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_that_others_can_write_is_ever_run(tmp_path_factory, no_private_group, mode, of_home):
    """For every mode of hook and home: run if executable and writable by no one else, else refused."""
    home = tmp_path_factory.mktemp("law")
    script(home / NAME, mode=mode)
    home.chmod(of_home | 0o500)
    judgement = judge(str(home), ME)
    home.chmod(0o700)
    executable = mode & (0o111 if ME == 0 else 0o100)
    assert bool(judgement.hook) == bool(executable and not (mode | of_home) & 0o022)
    assert bool(judgement.hook) != bool(judgement.findings)


# Homes that cannot be looked into


def closed_to(other) -> Path:
    home = other.place / "home"
    home.mkdir(mode=0o700)
    script(home / NAME)
    return home


def test_a_home_that_cannot_be_entered_is_a_warning(as_other):  # noqa: F811
    """As on NFS with root squash: dispatch goes on without a hook, and says so in one line."""
    home = closed_to(as_other)
    warning = f"going on without ~/{NAME}: the home `{home}` cannot be entered: Permission denied"
    assert as_other(find, str(home), as_other.uid) == Judgement(warning=warning)


def test_a_home_below_a_closed_directory_is_a_warning(as_other):  # noqa: F811
    """Any component on the way to the home may be the closed one."""
    home = closed_to(as_other) / "alice"
    assert "Permission denied" in as_other(find, str(home), as_other.uid).warning


def test_a_home_that_is_not_there_is_a_warning(tmp_path):
    """An unmounted or missing home, a file in its place, a link in a circle, or no home at all."""
    script(tmp_path / "file")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "gone").symlink_to("/no/such/place")
    homes = [f"{tmp_path}/{name}" for name in ("missing", "file", "circle", "gone")]
    warnings = [find(home, ME).warning.rpartition(": ")[2] for home in homes]
    assert warnings == [os.strerror(n) for n in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENOENT)]
    assert {find(home, ME).hook for home in homes} == {None}


@pytest.mark.parametrize("home", ["", "home", "."])
def test_a_home_that_is_no_absolute_path_is_a_warning(home, tmp_path, monkeypatch):
    """A passwd entry without a home must not lead to a script in the working directory."""
    script(tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    assert find(home, ME) == Judgement(
        warning=f"going on without ~/{NAME}: the home `{home}` is no absolute path"
    )


def test_a_home_may_be_the_root_directory(monkeypatch):
    """The root directory as a home is looked into like any other."""
    assert find("/", ME) == Judgement()


def test_without_a_descriptor_left_the_hook_is_not_skipped(home):
    """What fails for a reason of this process's own is refused: nothing is known about the hook."""
    script(home / NAME)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        judgement = judge(str(home), ME)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    said = f"`{home}/{NAME}` cannot be judged: {os.strerror(errno.EMFILE)}"
    assert [finding.message for finding in judgement.findings] == [said]


# Starting


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("#!/no/such/shell -e\n", "its interpreter `/no/such/shell` is not on this node"),
        (b"MZ\0\0", "it is no program of this node's kind"),
        ("#!/etc/passwd\n", "Permission denied"),
    ],
)
def test_a_hook_that_cannot_be_started_says_why(home, content, said):
    """The error names what is missing, with status 126."""
    hook = Hook(str(script(home / NAME, content)))
    problem = not_started(hook.argv(REQUEST), failure(hook))
    assert (problem.message, problem.status) == (f"`{hook.path}` could not be started: {said}", 126)


def test_a_hook_that_vanished_is_not_found(home):
    """A hook removed between judging and starting is status 127."""
    hook = Hook(f"{home}/{NAME}")
    assert not_started(hook.argv(REQUEST), failure(hook)).status == 127


def test_a_node_without_bash_says_so(home):
    """A script without `#!` needs bash, and its absence is named."""
    hook = Hook(str(script(home / NAME, "true\n")), ("/no/such/bash",))
    assert (
        "its interpreter `/no/such/bash` is not on this node"
        in not_started(hook.argv(REQUEST), failure(hook)).message
    )


def failure(hook: Hook) -> OSError:
    """The error that executing `hook` gives, in a child, so that a success would not end the tests."""
    argv = hook.argv(REQUEST)
    try:
        child = os.posix_spawn(argv[0], argv, os.environ)
    except OSError as error:
        return error
    os.waitpid(child, 0)
    raise AssertionError(f"{hook} was started")


# What it costs


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", ["open", "stat"]),
        ("some", ["open", "fstat", "pread", "close", "access", "stat"]),
    ],
)
def test_file_system_calls(tmp_path, system_calls, name, expected):  # noqa: F811
    """Two calls where there is no hook, six where there is one, and no module is imported."""
    for each in ("none", "some"):
        (tmp_path / each).mkdir()
        (tmp_path / each).chmod(0o755)
    script(tmp_path / "some" / NAME)
    line = f"find({str(tmp_path / name)!r}, {ME})"
    assert system_calls("from slurm_oci.hook import find; import slurm_oci.trust", line) == expected
