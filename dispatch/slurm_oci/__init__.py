"""slurm-oci: one fixed entry point for `srun --container`, and the runtime chosen by plugins.

The names here are what a runtime plugin needs; see docs/plugins.md.
"""

from slurm_oci.problems import Problem, SettingRefused
from slurm_oci.values import Container, File, Image, Job, Mount, Plan, Request, Runtime, Settings

__version__ = "0.1.0"
__all__ = [
    "Container",
    "File",
    "Image",
    "Job",
    "Mount",
    "Plan",
    "Problem",
    "Request",
    "Runtime",
    "SettingRefused",
    "Settings",
]
