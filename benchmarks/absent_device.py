"""Compilation for an accelerator that this machine does not have.

XLA's compilers for GPUs and TPUs need no device: they get a description of one. Programs are then traced and
compiled as on that device, with its branches, its kernels and its collectives; nothing can run. Autotuning
is off, since it runs candidates on the device, so a matrix product may be another kernel than there.
"""

import contextlib
import importlib.util
import os
import unittest.mock
from collections.abc import Iterator
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from jaxrec.core.errors import InputError
from jaxrec.runtime import mesh


@dataclass(frozen=True)
class Accelerator:
    """A GPU as described to XLA's compiler, with figures of NVIDIA's data sheets.

    Attributes:
        capability: Compute capability, major and minor.
        processors: Streaming multiprocessors.
        shared: Bytes of shared memory per multiprocessor.
        cache: Bytes of the L2 cache.
        memory: Bytes of memory.
        bandwidth: Bytes per second of the memory.
        clock: GHz.
    """

    capability: tuple[int, int]
    processors: int
    shared: int
    cache: int
    memory: int
    bandwidth: float
    clock: float

    def target(self, name: str) -> str:
        """Return the text of XLA's GpuTargetConfigProto."""
        major, minor = self.capability
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: {self.shared}
  shared_memory_per_block_optin: {self.shared - 1024}
  core_count: {self.processors}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {int(self.bandwidth)} l2_cache_size: {self.cache} clock_rate_ghz: {self.clock}
  device_memory_size: {self.memory} cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "NVIDIA {name.upper()}"
"""


GPUS = {
    "a100": Accelerator((8, 0), 108, 167_936, 41_943_040, 80 * 10**9, 2.039e12, 1.41),
    "h100": Accelerator((9, 0), 132, 233_472, 52_428_800, 80 * 10**9, 3.352e12, 1.98),
    "h200": Accelerator((9, 0), 132, 233_472, 52_428_800, 141 * 10**9, 4.8e12, 1.98),
}
TPUS = {"v4": 1.228e12, "v5e": 0.819e12, "v5p": 2.765e12, "v6e": 1.638e12}  # bytes per second of the memory
_COMPILER = {"cuda": ("jax_cuda13_plugin", "jax_cuda12_plugin"), "tpu": ("libtpu",)}


@dataclass(frozen=True)
class AbsentDevices:
    """Devices of one kind to compile for.

    Attributes:
        backend: "gpu" or "tpu", as `jax.default_backend` has it.
        devices: Devices of the topology, without memory.
        bandwidth: Bytes per second of one device's memory.
    """

    backend: str
    devices: tuple[jax.Device, ...]
    bandwidth: float

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        """Trace, lower and compile in a block as if this process had the devices."""
        count, devices = len(self.devices), list(self.devices)
        replaced = {
            "default_backend": lambda: self.backend,
            "devices": lambda *_: devices,
            "local_devices": lambda *_, **__: devices,
            "device_count": lambda *_: count,
            "local_device_count": lambda *_: count,
        }
        with contextlib.ExitStack() as stack:
            for name, function in replaced.items():
                stack.enter_context(unittest.mock.patch.object(jax, name, function))
            # From jax 0.11 on, Pallas reads the kind of GPU from this mesh.
            stack.enter_context(jax.sharding.use_abstract_mesh(mesh.mesh().abstract_mesh))
            yield


def missing(name: str) -> str:
    """Return why nothing can be compiled for a device here, or the empty string.

    Args:
        name: As of `absent_devices`.
    """
    platform = "cuda" if name.partition(":")[0] in GPUS else "tpu"
    if any(importlib.util.find_spec(package) for package in _COMPILER[platform]):
        return ""
    return f"its compiler is not installed: pip install 'jaxrec[{platform}]'"


def absent_devices(name: str) -> AbsentDevices:
    """Return the devices of a name, after which this process computes on its CPU alone.

    Args:
        name: "h200", "h100" or "a100", with ":4" for four of them; or a TPU's topology such as "v5e:2x2".

    Raises:
        InputError: The name is unknown, or the compiler of its kind is not installed.
    """
    kind, colon, shape = name.partition(":")
    is_gpu = kind in GPUS and (not colon or (shape.isdecimal() and int(shape) > 0))
    if not is_gpu and not (kind in TPUS and shape):
        raise InputError(
            f"--device={name}: allowed: {', '.join(GPUS)}, with the number of them as in h200:4, "
            f"or the topology of a TPU ({', '.join(TPUS)}) as in v5e:2x2"
        )
    if reason := missing(name):
        raise InputError(f"--device={name}: {reason}")
    jax.config.update("jax_platforms", "cpu")
    if kind in GPUS:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
        gpu = GPUS[kind]
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=gpu.target(kind), topology=f"1x1x{shape or 1}"
        )
        return AbsentDevices("gpu", tuple(topology.devices), gpu.bandwidth)
    # No metadata server of a TPU's machine, and no lock: several processes may compile.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--device={name}: {str(error).splitlines()[0]}") from error
    return AbsentDevices("tpu", tuple(topology.devices), TPUS[kind])
