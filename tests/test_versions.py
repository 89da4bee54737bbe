"""What came and went between versions is asked of the program itself: each version is told nothing that it
does not know. The options are those of the programs' own sources, at the tags of these versions."""

import json
import os

import pytest
from conftest import container, job

from slurm_oci import Image, Mount, SettingRefused, Settings, cdi
from slurm_oci_plugins import apptainer, charliecloud, sharing, singularity

ALL = "exec run bind home no-home pwd writable writable-tmpfs nv rocm"
VERSIONS = {
    "singularity 3.8": ALL,
    "singularity 3.9": f"{ALL} mount",
    "singularity 3.10": f"{ALL} mount no-eval",
    "singularity 4.0": f"{ALL} mount no-eval cwd oci device",
    "singularity 4.1": f"{ALL} mount no-eval cwd oci device",
    "apptainer 1.0": f"{ALL} mount",
    "apptainer 1.1": f"{ALL} mount no-eval",
    "apptainer 1.3": f"{ALL} mount no-eval cwd sharens",
    "apptainer 1.5": f"{ALL} mount no-eval cwd sharens device",
}
CH_RUN = "bind cd env-no-expand join join-ct join-tag no-passwd set-env write"
VERSIONS |= {
    "charliecloud 0.30": f"{CH_RUN} no-home ch-ssh",
    "charliecloud 0.31": f"{CH_RUN} no-home ch-ssh home storage",
    "charliecloud 0.33": f"{CH_RUN} home storage seccomp",
    "charliecloud 0.35": f"{CH_RUN} home storage seccomp set-env0",
    "charliecloud 0.36": f"{CH_RUN} home storage seccomp set-env0 quiet write-fake",
    "charliecloud 0.45": f"{CH_RUN} home storage seccomp set-env0 quiet write-fake cdi[=DEV] cdi-dirs",
}
MODULES = {"apptainer": apptainer, "singularity": singularity, "charliecloud": charliecloud}
WISHES = [
    *(
        {},
        {"entrypoint": "yes"},
        {"home": "none"},
        {"writable": "tmp"},
        {"writable": "yes"},
        {"gpu": "nvidia"},
    ),
    *({"gpu": "amd"}, {"slurm": "yes"}, {"share": "node"}),
]
REFUSED = {
    "entrypoint": ("singularity 3.8", "singularity 3.9", "apptainer 1.0"),
    "share": ("apptainer 1.0", "apptainer 1.1"),
    "gpu": tuple(
        n for n, options in VERSIONS.items() if n.startswith("charliecloud") and "cdi" not in options
    ),
}


@pytest.fixture
def version(request, stand_in):
    """The name of a version, its module, and what it says of itself when it is asked."""
    name = request.param.partition(" ")[0]
    known = VERSIONS[request.param].split()
    program = stand_in(name, answers=" ".join(f" --{option}" for option in known))
    return (
        request.param,
        MODULES[name],
        {option.partition("[")[0] for option in known},
        MODULES[name].probe(str(program.path)),
    )


@pytest.fixture(autouse=True)
def driver(tmp_path, monkeypatch):
    """A node with the GPUs of both vendors, and what their tools say of them."""
    file = tmp_path / "driver.so"
    file.touch()
    monkeypatch.setattr(
        apptainer,
        "VENDORS",
        {vendor: (option, str(file)) for vendor, (option, _) in apptainer.VENDORS.items()},
    )
    monkeypatch.setattr(cdi, "FOLDERS", (str(tmp_path),))
    edits = {"mounts": [{"hostPath": str(file), "containerPath": "/opt/driver.so"}]}
    for vendor in apptainer.VENDORS:
        spec = {"kind": f"{vendor}.com/gpu", "devices": [{"name": "all", "containerEdits": edits}]}
        (tmp_path / f"{vendor}.json").write_text(json.dumps({"cdiVersion": "0.6.0", **spec}))


@pytest.mark.parametrize("wish", WISHES, ids=str)
@pytest.mark.parametrize("version", VERSIONS, indirect=True)
def test_a_version_is_told_nothing_that_it_does_not_know(version, wish, tmp_path, monkeypatch):
    """Or refuses by name what it has no means for."""
    name, module, known, probed = version
    (runtime,) = module.slurm_oci_runtimes()
    if any(
        f"{setting}={value}" not in runtime.carries for setting, value in wish.items() if setting != "slurm"
    ):
        pytest.skip("refused for every version")
    monkeypatch.setattr(sharing, "parent", lambda container: 777)
    (tmp_path / "data").mkdir()
    settings = Settings(**wish, origins={setting: f"SLURM_OCI_{setting.upper()}" for setting in wish})
    box = container(
        image=Image(str(tmp_path), "rootfs", str(tmp_path), str(tmp_path)),
        settings=settings,
        job=job({"SLURM_STEP_TASKS_PER_NODE": "2"}),
        executables={runtime.executables[0]: "/node/bin/tool"},
        mounts=(Mount(str(tmp_path / "data"), "/data", False, True, "SLURM_OCI_MOUNTS"),),
        env={"HOME": "/home/alice", "TMPDIR": "/tmp"},
        probed=probed,
        private="/private",
    )
    box = box.replace(request=box.request.replace(uid=os.getuid()))  # the image's owner
    monkeypatch.setattr("slurm_oci_plugins.overlay.helper", lambda *words: "/node/bin/fuse")
    if name in REFUSED.get(next(iter(wish), ""), ()):
        with pytest.raises(SettingRefused, match=f"SLURM_OCI_{next(iter(wish)).upper()} is `"):
            module.plan(box)
        return
    words = module.plan(box).argv[:-2]
    told = {word[2:].partition("=")[0] for word in words if word.startswith("--") and word != "--"}
    assert told - known == set()
    if "cwd" in known or "pwd" in known:
        assert ("cwd" in told) == ("cwd" in known)


def test_a_ch_run_that_would_bind_home_by_itself_is_told_not_to(stand_in):
    """Before 0.31; afterwards that is its default."""
    probed = {
        name: charliecloud.probe(
            str(stand_in(name, answers=" ".join(f" --{o}" for o in VERSIONS[name].split())).path)
        )
        for name in VERSIONS
        if name.startswith("charliecloud")
    }
    assert [name for name, found in probed.items() if found["no-home"]] == ["charliecloud 0.30"]
