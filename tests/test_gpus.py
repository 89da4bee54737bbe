"""GPUs by CDI, the Container Device Interface: `plugins/slurm_oci_plugins/gpus.py` and who uses it."""

import json
import os
import sys

import pytest
from conftest import container, job, request

from slurm_oci import Image, Mount, SettingRefused, Settings, cdi, compiled
from slurm_oci.checks import installation
from slurm_oci.container import has_gpus
from slurm_oci_plugins import apptainer, charliecloud, crun, gpus, podman, unshare

GRANTED = {"SLURM_STEP_GPUS": "0,2", "CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.fixture(autouse=True)
def node(tmp_path, monkeypatch):
    """A node whose CDI files lie in two directories of the test's."""
    folders = [tmp_path / "run", tmp_path / "etc"]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(cdi, "FOLDERS", tuple(map(str, folders)))
    return tmp_path


def describe(node, kind, *names, folder="etc", edits=None, **each):
    devices = [{"name": name, "containerEdits": each.get(name, {})} for name in names]
    spec = {"cdiVersion": "0.6.0", "kind": kind, "devices": devices, "containerEdits": edits or {}}
    (node / folder / f"{kind.replace('/', '-')}.json").write_text(json.dumps(spec))


def box(env=None, gpu="", **changes):
    origins = {"gpu": "SLURM_OCI_GPU"} if gpu else {}
    settings = Settings(gpu=gpu or "auto", origins=origins)
    return container(job=job(env or {}), settings=settings, env={}, **changes)


@pytest.mark.parametrize(
    ("env", "gpu", "expected"),
    [
        ({}, "", False),
        (GRANTED, "", True),
        ({"ROCR_VISIBLE_DEVICES": "0"}, "", True),
        ({"CUDA_VISIBLE_DEVICES": ""}, "", False),
        (GRANTED, "none", False),
        ({}, "nvidia", True),
        ({}, "amd", True),
    ],
)
def test_a_task_has_gpus_where_slurm_grants_them_or_somebody_asks(env, gpu, expected):
    """And none where somebody says none."""
    assert has_gpus(box(env, gpu)) == expected
    assert expected or gpus.devices(box(env, gpu)) == ([], ())


def test_the_step_s_devices_are_told_by_their_numbers_on_the_node(node):
    """SLURM_STEP_GPUS counts as the node does, CUDA_VISIBLE_DEVICES as the step's control group."""
    describe(node, "nvidia.com/gpu", "0", "1", "2", "all")
    assert gpus.devices(box(GRANTED)) == (["nvidia.com/gpu=0", "nvidia.com/gpu=2"], ())


@pytest.mark.parametrize(("names", "told"), [(("0", "all"), ["all"]), (("a", "b"), ["a", "b"])])
def test_names_that_are_no_numbers_mean_all(node, names, told):
    """Of which Slurm's control group shows the step's own."""
    describe(node, "nvidia.com/gpu", *names)
    assert gpus.devices(box(GRANTED))[0] == [f"nvidia.com/gpu={name}" for name in told]
    assert gpus.devices(box({"CUDA_VISIBLE_DEVICES": "GPU-1234"}))[0] == [
        f"nvidia.com/gpu={name}" for name in told
    ]


def test_the_vendor_is_the_one_that_the_node_describes_or_that_was_asked_for(node):
    """NVIDIA first, where there are both."""
    describe(node, "amd.com/gpu", "0", "2")
    assert gpus.devices(box(GRANTED))[0] == ["amd.com/gpu=0", "amd.com/gpu=2"]
    describe(node, "nvidia.com/gpu", "all", folder="run")
    assert gpus.devices(box(GRANTED))[0] == ["nvidia.com/gpu=all"]
    assert gpus.devices(box(GRANTED, "amd"))[0] == ["amd.com/gpu=0", "amd.com/gpu=2"]


def test_a_node_that_describes_none_is_noted_and_a_wish_refused():
    """A default is best effort."""
    names, (note,) = gpus.devices(box(GRANTED))
    assert (names, note[:26]) == ([], "Slurm has granted GPUs, an")
    for vendor in ("nvidia", "amd"):
        with pytest.raises(
            SettingRefused, match=f"SLURM_OCI_GPU is `{vendor}`: no file in /etc/cdi"
        ) as caught:
            gpus.devices(box(GRANTED, vendor))
        assert caught.value.hints[0].startswith(f"the site: {vendor}-ctk cdi generate ")


def test_a_file_that_is_none_is_named(node):
    """With what does without it."""
    (node / "etc/nvidia.json").write_text("{")
    with pytest.raises(SettingRefused, match=r"cannot read `.*/etc/nvidia\.json`, which describes devices"):
        gpus.devices(box(GRANTED))
    (node / "etc/nvidia.json").write_text("[]")
    with pytest.raises(SettingRefused, match="no list `devices`"):
        gpus.devices(box(GRANTED))


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([], ""),
        (None, ""),
        ({"env": None, "mounts": None}, ""),
        ({"mounts": [{"hostPath": "/bin/sh", "containerPath": "/x", "options": None}]}, ""),
        ("text", "`containerEdits` in it is no object"),
        ({"env": "A=1"}, "`env` in it is no list of texts"),
        ({"env": [1]}, "`env` in it is no list of texts"),
        ({"mounts": "text"}, "`mounts` in it is no list of objects with"),
        ({"mounts": ["text"]}, "`mounts` in it is no list of objects with"),
        ({"mounts": [{"hostPath": "/bin/sh"}]}, "`mounts` in it is no list of objects with"),
        ({"mounts": [{"hostPath": "/bin/sh", "containerPath": "x"}]}, "`mounts` in it is no list"),
        ({"mounts": [{"hostPath": "/bin/sh", "containerPath": "/x", "options": "ro"}]}, "`mounts` in it is"),
    ],
)
def test_edits_of_another_shape_are_named(node, edits, said):
    """The file's and a device's; nothing where there is nothing, as other readers of CDI have it."""
    for each in ({"0": edits}, {}):
        describe(node, "nvidia.com/gpu", "0", "2", edits={} if each else edits, **each)
        if said:
            with pytest.raises(SettingRefused, match=f"nvidia.com-gpu.json`, which describes .*{said}"):
                gpus.edited(box(GRANTED))
        else:
            assert gpus.edited(box(GRANTED))[1] == ()


def test_a_driver_file_that_is_gone_is_left_out_or_refused(node):
    """As after an upgrade of the driver: a default does without it and says so, a wish names the file."""
    mounts = [
        {"hostPath": f"{place}", "containerPath": f"/x/{n}"}
        for n, place in enumerate(("/bin/sh", "/no/a", "/no/b"))
    ]
    describe(node, "nvidia.com/gpu", "all", edits={"mounts": mounts, "env": ["A=1"]})
    made, (note,) = gpus.edited(box(GRANTED))
    assert [mount.source for mount in made.mounts] == ["/bin/sh"]
    assert made.env == {"A": "1"}
    fault = f"`{node}/etc/nvidia.com-gpu.json` names `/no/a` and 1 more, which this node does not have"
    assert note == f"Slurm has granted GPUs, and {fault}: that is left out"
    note = f"Slurm has granted GPUs, and {fault}: the task is without them"
    assert gpus.devices(box(GRANTED)) == ([], (note,))
    for asked in (gpus.edited, gpus.devices):
        with pytest.raises(SettingRefused) as refused:
            asked(box(GRANTED, "nvidia"))
        assert refused.value.message == f"SLURM_OCI_GPU is `nvidia`: {fault}"


def test_a_vendor_whose_driver_is_not_there_is_refused_by_apptainer(node, monkeypatch):
    """Which would itself go on without it; for GPUs that Slurm has granted there is a note."""
    devices = {"nvidia": ("--nv", f"{node}/nvidiactl"), "amd": ("--rocm", f"{node}/kfd")}
    monkeypatch.setattr(apptainer, "VENDORS", devices)
    neither = f"`{node}/nvidiactl` or `{node}/kfd`"
    note = f"Slurm has granted GPUs, and no driver of theirs has made {neither} on this node"
    assert apptainer.gpu_options(box(GRANTED)) == ([], (note,))
    (node / "kfd").write_text("")
    assert apptainer.gpu_options(box(GRANTED)) == (["--rocm"], ())
    assert apptainer.gpu_options(box({}, "amd")) == (["--rocm"], ())
    with pytest.raises(
        SettingRefused, match=r"SLURM_OCI_GPU is `nvidia`: no driver has made `.*/nvidiactl` on"
    ):
        apptainer.gpu_options(box(GRANTED, "nvidia"))
    assert apptainer.gpu_options(box()) == ([], ())


def test_the_edits_are_mounts_and_variables(node):
    """The file's and the device's; a library by all its names, found by the linker; mounts that somebody
    asked for at a place stay."""
    host = node / "driver"
    host.mkdir()
    (host / "libcuda.so.550.54").write_text("")
    for link in ("libcuda.so.1", "libcuda.so"):
        (host / link).symlink_to("libcuda.so.550.54")
    (host / "libcudart.so.12").write_text("")
    library = {"hostPath": f"{host}/libcuda.so.550.54", "containerPath": "/usr/lib/libcuda.so.550.54"}
    tool = {
        "hostPath": "/bin/sh",
        "containerPath": "/usr/bin/nvidia-smi",
        "options": ["ro", "rbind"],
    }
    edits = {"env": ["NVIDIA_VISIBLE_DEVICES=void"], "mounts": [library, tool], "hooks": [{"path": "/x"}]}
    describe(
        node,
        "nvidia.com/gpu",
        "0",
        "2",
        "5",
        edits=edits,
        **{"2": {"env": ["TWO=2"]}, "5": {"env": ["NO=1"]}},
    )
    own = Mount("/my/smi", "/usr/bin/nvidia-smi")
    made, notes = gpus.edited(box(GRANTED, mounts=(own,)))
    assert notes == ()
    assert made.env == {"NVIDIA_VISIBLE_DEVICES": "void", "TWO": "2", "LD_LIBRARY_PATH": "/usr/lib"}
    source = f"{host}/libcuda.so.550.54"
    assert made.mounts == (
        own,
        *(
            Mount(source, f"/usr/lib/libcuda.so{end}", False, False, "the step's GPUs")
            for end in ("", ".1", ".550.54")
        ),
    )


def test_each_runtime_gets_them_in_its_own_way(node, tmp_path, monkeypatch):
    """Mounts and variables for those that have the host's /dev, names for podman, options for apptainer."""
    root = tmp_path / "image"
    for folder in ("dev", "proc", "sys"):
        (root / folder).mkdir(parents=True)
    describe(node, "nvidia.com/gpu", "all", edits={"env": ["DRIVER=1"]})
    rootfs = Image(str(root), "rootfs", str(root), str(root))
    programs = {name: f"/node/bin/{name}" for name in ("crun", "podman", "apptainer")}
    asked = box(gpu="nvidia", image=rootfs, executables=programs, private="/private")
    assert unshare.plan(asked).env["DRIVER"] == "1"
    bundle = asked.replace(image=rootfs.replace(kind="oci-bundle", config={"process": {}}))
    (config,) = [file for file in crun.plan(bundle).files if file.name == "bundle/config.json"]
    assert "DRIVER=1" in json.loads(config.content)["process"]["env"]
    stored = asked.replace(image=Image("tools", "name"))
    assert "--device=nvidia.com/gpu=all" in podman.plan(stored).argv
    monkeypatch.setattr(
        apptainer, "VENDORS", {"nvidia": ("--nv", "/dev/null"), "amd": ("--rocm", "/dev/null")}
    )
    assert "--nv" in apptainer.plan(asked).argv
    assert "--rocm" in apptainer.plan(asked.replace(settings=Settings(gpu="amd"))).argv


LIBRARY = {"hostPath": "/bin/sh", "containerPath": "/usr/lib/libcuda.so.1"}


@pytest.fixture
def with_charliecloud(node, tmp_path):
    """Plans of a task with NVIDIA's GPUs: by its image, and what is changed of the container."""
    (tmp_path / "image").mkdir()
    for name in ("squashfuse", "fusermount3"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    describe(node, "nvidia.com/gpu", "all", edits={"env": ["DRIVER=1"], "mounts": [LIBRARY]})
    images = {
        "rootfs": Image("image", "rootfs", str(tmp_path / "image"), str(tmp_path / "image")),
        "squashfs": Image("/i.sqsh", "squashfs", "/i.sqsh"),
    }

    def plan(kind, env=GRANTED, gpu="", writable="", probed=("write-fake", "cdi"), uid=0):
        asked = box(
            env,
            gpu,
            image=images[kind],
            executables={"ch-run": "/ch-run"},
            private="/private",
            places=(str(tmp_path),),
            probed=dict.fromkeys(probed, True),
            request=request(uid=os.geteuid() + uid),
        )
        if writable:
            origins = {**asked.settings.origins, "writable": "SLURM_OCI_WRITABLE"}
            asked = asked.replace(settings=asked.settings.replace(writable=writable, origins=origins))
        return charliecloud.plan(asked)

    return plan


def test_charliecloud_is_told_of_a_driver_s_files_in_a_description_of_our_own(with_charliecloud):
    """So that numbers, YAML and what is gone are as with the other runtimes; in a layer over the image."""
    made = with_charliecloud("rootfs", gpu="nvidia")
    told = ("--write-fake", "--cdi-dirs=/private/cdi", "--cdi", "--bind", "/private/ch:/ch")
    assert made.argv[1:6] == told
    assert (made.folders, made.notes) == (("cdi", "ch"), ())
    assert made.env["DRIVER"] == "1"
    assert "--set-env=LD_LIBRARY_PATH=/usr/lib" in made.argv
    (file,) = made.files
    assert file.name == "cdi/driver.json"
    spec = cdi.checked(json.loads(file.content))
    assert spec["containerEdits"]["mounts"] == [{**LIBRARY, "options": ["rbind"]}]
    made = with_charliecloud("squashfs")
    assert made.argv[1:6] == told
    assert made.prepare[0][2] == f"ro,uid={os.geteuid()},gid={os.getegid()}"
    assert made.folders == ("image", "cdi", "ch")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probed": ("write-fake",)}, "this ch-run has no `--cdi`, which 0.45 has"),
        ({"writable": "no"}, "with `ch-run --cdi` SLURM_OCI_WRITABLE cannot be `no`"),
        ({"writable": "yes"}, "with `ch-run --cdi` SLURM_OCI_WRITABLE cannot be `yes`"),
        ({"uid": 1}, "`ch-run --cdi` takes directories of your own, and squashfs files, and"),
    ],
)
def test_where_charliecloud_cannot_bring_them_along_a_wish_is_refused(with_charliecloud, changes, said):
    """A default is done without, with a note."""
    with pytest.raises(SettingRefused, match=f"SLURM_OCI_GPU is `nvidia`: {said}"):
        with_charliecloud("rootfs", gpu="nvidia", **changes)
    made = with_charliecloud("rootfs", **changes)
    assert "--cdi" not in made.argv
    assert "DRIVER" not in made.env
    assert said in made.notes[0]


# In YAML

# The form of what `nvidia-ctk cdi generate` writes, with device nodes that are made up.
YAML = """---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/madeup0
    - name: all
      containerEdits:
        deviceNodes:
            - path: /dev/madeup0
containerEdits:
    env:
        - NVIDIA_VISIBLE_DEVICES=void
    deviceNodes:
        - path: /dev/madeupctl
    hooks:
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args:
            - nvidia-cdi-hook
            - update-ldcache
            - --folder
            - /usr/lib
    mounts:
        - hostPath: /bin/sh
          containerPath: /usr/bin/nvidia-smi
          options:
            - ro
            - nosuid
            - nodev
            - rbind
"""
DRIVEN = {"NVIDIA_VISIBLE_DEVICES": "void"}


@pytest.fixture
def kept(node, tmp_path, monkeypatch):
    """An installation whose catalog was written when there was a YAML file, and the file. Then Python
    has no PyYAML."""
    path = node / "run/nvidia.yaml"
    path.write_text(YAML)
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    compiled.write(str(prefix))
    monkeypatch.setitem(sys.modules, "yaml", None)
    return str(prefix), path


def test_a_file_in_yaml_is_used_as_the_catalog_has_it(kept):
    """A task itself reads no YAML."""
    made, notes = gpus.edited(box(GRANTED, "nvidia", prefix=kept[0]))
    assert (made.env, notes) == (DRIVEN, ())
    assert made.mounts == (Mount("/bin/sh", "/usr/bin/nvidia-smi", True, True, "SLURM_OCI_GPU"),)
    assert gpus.devices(box(GRANTED, prefix=kept[0])) == (["nvidia.com/gpu=all"], ())
    assert list(installation.gpus(kept[0])) == []


@pytest.mark.parametrize("change", ["another size", "another time", "another file"])
def test_a_file_in_yaml_that_the_catalog_has_not_is_named(kept, change):
    """It has changed, or is there since: with the cure, for a wish, for a default and in doctor."""
    prefix, path = kept
    if change == "another size":
        path.write_text(YAML + "\n")
    elif change == "another time":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    else:
        path = path.rename(path.with_name("other.yaml"))
    with pytest.raises(SettingRefused) as refused:
        gpus.devices(box(GRANTED, "nvidia", prefix=prefix))
    what = f"the catalog does not hold what `{path}` says of devices"
    assert what in refused.value.message
    assert "`slurm-oci-plugins compile` on this node" in refused.value.hints[0]
    made, (note,) = gpus.edited(box(GRANTED, prefix=prefix))
    assert (made.env, made.mounts) == ({}, ())
    assert what in note
    assert "`slurm-oci-plugins compile`" in note
    (finding,) = installation.gpus(prefix)
    assert (finding.state, what in finding.message) == ("warning", True)


def test_json_beside_it_does_without_the_catalog(kept, node):
    """The site's cure that needs nothing."""
    kept[1].write_text(YAML + "\n")
    describe(node, "nvidia.com/gpu", "all", edits={"env": ["JSON=1"]})
    assert gpus.edited(box(GRANTED, "nvidia", prefix=kept[0]))[0].env == {"JSON": "1"}


def test_a_device_is_what_the_first_file_says(kept, node):
    """Two files with the same device, as the last driver's beside this one's."""
    describe(node, "nvidia.com/gpu", "all", edits={"env": ["OLD=1"]})
    assert gpus.edited(box(GRANTED, prefix=kept[0]))[0].env == DRIVEN


def test_without_a_catalog_it_is_read(node, tmp_path):
    """As the plugins are then asked, with the same answer."""
    (node / "etc/nvidia.yaml").write_text(YAML)
    assert gpus.edited(box(GRANTED, prefix=str(tmp_path)))[0].env == DRIVEN


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "while parsing a flow"),
        ("devices: 1", "no list `devices`"),
        ("devices: [{name: 0}]", "no `name` that is a text"),
        ("devices: []\nday: 2026-11-22", "date is not JSON"),
        ("devices: &all [*all]", "Circular"),
        ("devices: []\nwhat: !!python/object:os.system {}", "could not determine a constructor"),
        ("\udcff".encode("utf-8", "surrogateescape"), "invalid start byte"),
        (None, "no regular file"),
    ],
)
def test_a_yaml_file_that_cannot_be_read_is_warned_of(node, tmp_path, text, said):
    """By its name when the catalog is written; the others are kept, and runtimes are found."""
    broken = node / "etc/broken.yaml"
    if text is None:
        os.mkfifo(broken)
    else:
        broken.write_bytes(text if isinstance(text, bytes) else text.encode())
    (node / "etc/nvidia.yaml").write_text(YAML)
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    warnings = []
    assert compiled.write(str(prefix), warnings.append).found
    (warning,) = warnings
    assert f"`{broken}`" in warning
    assert said in warning
    assert gpus.edited(box(GRANTED, "nvidia", prefix=str(prefix)))[0].env == DRIVEN
    with pytest.raises(SettingRefused, match="broken"):
        gpus.devices(box(GRANTED, "amd", prefix=str(prefix)))


def test_without_pyyaml_the_catalog_is_written_and_the_file_named(node, tmp_path, monkeypatch):
    """For an installation that was put together by hand."""
    (node / "etc/nvidia.yaml").write_text(YAML)
    monkeypatch.setitem(sys.modules, "yaml", None)
    warnings = []
    assert compiled.write(str(tmp_path), warnings.append).found
    assert [f"`{node}/etc/nvidia.yaml`" in warning for warning in warnings] == [True]
