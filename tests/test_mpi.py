"""What Slurm offers for MPI, as the task's environment tells it: `slurm_oci.mpi`."""

import os

import pytest
from conftest import container, job, make_stand_in, request

from slurm_oci import conf, mpi
from slurm_oci.container import build
from slurm_oci.problems import MpiRefused
from slurm_oci.values import Image, Mount, Settings

TASK = request()  # of step 42.3
PMI2 = {"PMI_JOBID": "42.3", "SLURM_STEP_NUM_TASKS": "2"}
PMIX = {"PMIX_NAMESPACE": "slurm.pmix.42.3", "SLURM_STEP_NUM_TASKS": "2", "SLURM_MPI_TYPE": "pmix"}


@pytest.fixture
def descriptor():
    """An open one, as Slurm hands it on."""
    number = os.open(os.devnull, os.O_RDWR)
    yield number
    os.close(number)


@pytest.fixture
def closed():
    """The number of one that is not open, with a gap below it."""
    number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    return number + 1


@pytest.fixture
def spool(tmp_path):
    """Slurm's directory for the step, where the PMIx server of the node has its own."""
    spool = tmp_path / "oci-job42-3"
    (spool / "pmix.42.3").mkdir(parents=True)
    (spool / "task-5").mkdir()
    return spool


@pytest.fixture(autouse=True)
def slurm_conf(tmp_path, monkeypatch):
    """The node's slurm.conf(5), with no MpiDefault of its own."""
    file = tmp_path / "slurm.conf"
    file.write_text("ClusterName=test\n#MpiDefault=pmix\n")
    monkeypatch.setenv("SLURM_CONF", str(file))
    return file


@pytest.mark.parametrize(
    ("env", "offer"),
    [({}, ""), (PMI2, "PMI2"), (PMIX, "PMIx"), ({"PMI_JOBID": "42.2"}, ""),
     ({"PMIX_NAMESPACE": "slurm.pmix.41.3"}, "")],
)  # fmt: skip
def test_an_offer_is_one_to_this_very_step(env, offer):
    """Those of a surrounding step are inherited by everything that is submitted from there."""
    assert mpi.offered(TASK, env) == offer


@pytest.mark.parametrize("line", ["MpiDefault=pmix", " mpidefault = pmix # all of them"])
def test_what_the_site_offers_to_all_is_no_wish(slurm_conf, spool, line):
    """`srun -n8 hostname` runs wherever it can: only what a job asked for itself is refused."""
    env = {**PMIX, "PMIX_SERVER_TMPDIR": f"{spool}/pmix.42.3"}
    assert mpi.is_wish(TASK, env)
    assert mpi.server_mount(TASK, env).wish
    slurm_conf.write_text(line)
    assert not mpi.is_wish(TASK, env)
    assert not mpi.server_mount(TASK, env).wish
    assert mpi.server_mount(TASK, {**env, "PMIX_SERVER_TMPDIR": "/no/such"}) is None
    assert mpi.is_wish(TASK, {**env, "SLURM_MPI_TYPE": "pmi2", **PMI2})


TEXTS = [
    "MpiDefault=pmix",
    "mpidefault = pmix # all",
    'MpiDefault="pmix"',
    "MpiDefault=none\nMpiDefault=pmix",
    "#MpiDefault=none",
    "NotMpiDefault=pmix\nMpiDefault_=x",
    "MpiDefault=none\nInclude inner.conf\n",
    "Include inner.conf\nMpiDefault=none",
    "include\tSUB/inner.conf \n",
    " Include inner.conf\n",
    "#Include inner.conf\n",
    "Include nowhere.conf\n",
    "Include \n",
    "Include slurm.conf\nMpiDefault=pmix",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_site_s_default_is_what_its_configuration_says(slurm_conf, text):
    """Also in a file that slurm.conf includes: as the reader of Slurm's files finds it, which reads all."""
    sub = slurm_conf.parent / "sub"
    sub.mkdir()
    slurm_conf.with_name("inner.conf").write_text("Include sub/inner.conf\nMpiDefault=pmi2\n")
    (sub / "inner.conf").write_text("NodeName=a\nMpiDefault=pmix\n")
    slurm_conf.write_text(text.replace("SUB", str(sub)))
    assert mpi.default() == conf.read(str(slurm_conf)).value("MpiDefault", "none")


def test_without_a_slurm_conf_what_is_offered_was_asked_for(slurm_conf):
    """Slurm has asked for nothing in its name."""
    slurm_conf.unlink()
    assert mpi.is_wish(TASK, PMIX)


def test_pmix_knows_its_clients_by_who_they_are(slurm_conf):
    """A bundle's command may be root in its container: then PMIx would never answer."""
    uid, gid = TASK.uid, os.getegid()
    image = Image("/bundle", "oci-bundle")
    env = {**PMIX, "SLURM_PROCID": "0", "PMIX_SERVER_URI41": "tcp4://…", "PMIX_RANK": "0", "PMIX_MCA_x": "1"}
    box = container(image=image, job=job(env), env=env)
    assert mpi.for_user(box, uid, gid) == (box, ())
    other = container(job=job(PMI2))
    assert mpi.for_user(other, 5, 5) == (other, ())
    with pytest.raises(
        MpiRefused, match=f"as user {uid}:{gid}, and process.user of `/bundle` makes them 5:6"
    ):
        mpi.for_user(box, 5, 6)
    slurm_conf.write_text("MpiDefault=pmix")
    found, (note,) = mpi.for_user(box, 5, 6)
    assert note.endswith("an MPI program ends with an error in MPI_Init, all others run")
    left = {name for name in found.env if name.startswith("PMIX")}
    assert left == {"PMIX_NAMESPACE", "PMIX_MCA_x"}  # it fails by the first, and does not wait
    assert mpi.for_user(container(image=image, job=job({**PMIX, "SLURM_PROCID": "1"})), 5, 6)[1] == ()
    alone = {**env, "SLURM_STEP_NUM_TASKS": "1"}
    found, notes = mpi.for_user(container(image=image, job=job(alone), env=alone), 5, 6)
    assert (notes, {name for name in found.env if name.startswith("PMIX")}) == ((), {"PMIX_MCA_x"})


def test_all_descriptors_up_to_pmi2_s_are_kept(descriptor):
    """Runtimes count them from 3 on."""
    assert mpi.descriptors(TASK, {**PMI2, "PMI_FD": str(descriptor)}) == descriptor - 2


@pytest.mark.parametrize("number", ["", "no", "2", "-1", "1 ", "9" * 30])
def test_a_number_that_is_no_descriptor_asks_for_nothing(number):
    """PMI_FD as anybody can set it."""
    assert mpi.descriptors(TASK, {"PMI_FD": number}) == 0


def test_a_descriptor_that_was_closed_on_the_way_is_refused(closed):
    """But not that of another step, which is nobody's."""
    env = {**PMI2, "PMI_FD": str(closed)}
    with pytest.raises(MpiRefused, match=f"descriptor {closed} ") as refusal:
        mpi.descriptors(TASK, env)
    assert "srun --mpi=none" in refusal.value.hints[-1]
    assert mpi.descriptors(TASK, {**env, "PMI_JOBID": "41.0"}) == 0


@pytest.mark.parametrize("slurm", ["24.11", "25.05", "MountSpoolDir"])
def test_the_pmix_server_s_directory_is_mounted_where_the_client_was_told(spool, slurm):
    """Wherever this version of Slurm has it: it passes the task's directory or the step's."""
    told = spool if slurm != "MountSpoolDir" else "/run/spool"
    passed = f"{spool}/task-5/" if slurm == "24.11" else str(spool)
    env = {**PMIX, "PMIX_SERVER_TMPDIR": f"{told}//pmix.42.3/"}
    found = mpi.server_mount(request(spool=passed), env)
    assert found == Mount(str(spool), str(told), False, True, found.why)


def test_a_pmix_server_that_is_not_there_is_refused(spool):
    """What does not exist is never mounted."""
    env = {**PMIX, "PMIX_SERVER_TMPDIR": f"{spool}/pmix.42.4"}
    with pytest.raises(MpiRefused, match="not on this node"):
        mpi.server_mount(TASK, env)
    assert mpi.server_mount(TASK, {**env, "PMIX_NAMESPACE": "slurm.pmix.42.4"}) is None


def test_the_container_has_both(tmp_path, spool, descriptor):
    """And a mount of the user's own that holds the directory already is enough."""
    env = {**PMIX, "PMI_FD": str(descriptor), "PMIX_SERVER_TMPDIR": "/run/spool/pmix.42.3"}
    (tmp_path / "image/bin").mkdir(parents=True)
    make_stand_in(tmp_path / "image/bin/echo")
    image = Image("/i", "rootfs", str(tmp_path / "image"), str(tmp_path / "image"))
    asked = request("/i", "echo", spool=str(spool))
    one = build(asked, job(env), image, Settings())
    assert one.descriptors == descriptor - 2
    assert (str(spool), "/run/spool") in [(mount.source, mount.target) for mount in one.mounts]
    own = Mount(str(spool), "/run", why="SLURM_OCI_MOUNTS")
    one = build(asked, job(env), image, Settings(mounts=(own,)))
    assert "/run/spool" not in [mount.target for mount in one.mounts]


def test_a_job_that_takes_no_variables_is_told_once_what_that_means_for_mpi():
    """By its first rank alone. It may be no MPI program at all: with MpiDefault=pmix all are offered it."""
    settings = Settings(env="none", origins={"env": "SLURM_OCI_ENV"})
    (note,) = mpi.notes(TASK, job({**PMIX, "SLURM_PROCID": "0"}), settings)
    assert note == ("SLURM_OCI_ENV is `none`: an MPI program finds no PMIx, and each task is rank 0 of 1")
    assert mpi.notes(TASK, job({**PMIX, "SLURM_PROCID": "1"}), settings) == ()
    assert mpi.notes(TASK, job({"SLURM_PROCID": "0"}), settings) == ()
    assert mpi.notes(TASK, job({**PMIX, "SLURM_PROCID": "0"}), Settings()) == ()
