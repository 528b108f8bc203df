"""Collectives of a compiled program: literal lines of HLO, and our own program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.collectives import KINDS, Collective, collectives

ROOT = Path(__file__).resolve().parents[2]
HEAD = "HloModule jit_step, is_scheduled=true, replica_count=1, num_partitions=8\n\n"


def in_main(*lines):
    body = "\n".join(f"  {line}" for line in lines)
    return f"{HEAD}ENTRY %main.1_spmd (p: f32[8,5]) -> f32[8,5] {{\n{body}\n}}\n"


# Of each line: kind, bytes on one device, shape of the result, number of devices of a group.
LINES = [
    (
        "ROOT %psum.3 = f32[8,5]{1,0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, "
        'use_global_device_ids=true, to_apply=%add, metadata={op_name="jit(f)/psum"}',
        ("all-reduce", 160, "f32[8,5]", 4),
    ),
    (  # combined; with no group named all meet
        "%all-reduce = (f32[4]{0}, bf16[3,2]{1,0}, /*index=5*/pred[]) all-reduce(%a, %b, %c), "
        "replica_groups={}, to_apply=%add",
        ("all-reduce", 16 + 12 + 1, "(f32[4], bf16[3,2], pred[])", 8),
    ),
    (  # tiled layout of a TPU; groups counted, not listed
        "%all-gather.7 = bf16[16,128]{1,0:T(8,128)(2,1)S(1)} all-gather(bf16[2,128]{1,0} %p), "
        "replica_groups=[1,8]<=[8], dimensions={0}",
        ("all-gather", 4096, "bf16[16,128]", 8),
    ),
    (
        "%rs = f64[2,5]{1,0} reduce-scatter(%p), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, "
        "to_apply=%add",
        ("reduce-scatter", 80, "f64[2,5]", 4),
    ),
    (  # groups along an axis of a mesh, as jax 0.11 and later write them
        "%ar = f32[4]{0} all-reduce(%p), channel_id=1, replica_groups=mesh['data'=2,'model'=4] {'model'}, "
        "use_global_device_ids=true, to_apply=%add",
        ("all-reduce", 16, "f32[4]", 4),
    ),
    (
        "%ag = f32[16]{0} all-gather(%p), replica_groups=mesh['data'=2,'model'=4] {'data','model'}, "
        "dimensions={0}",
        ("all-gather", 64, "f32[16]", 8),
    ),
    (  # without quotes
        "%ar = f32[4]{0} all-reduce(%p), replica_groups=mesh[data=2,model=4] {data}, to_apply=%add",
        ("all-reduce", 16, "f32[4]", 2),
    ),
    (  # a part of an axis, devices in another order
        "%ar = f32[4]{0} all-reduce(%p), replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) "
        "{'a','b':(1)2}, to_apply=%add",
        ("all-reduce", 16, "f32[4]", 4),
    ),
    (
        "%a2a = (s32[1,2]{1,0}, s32[1,2]{1,0}) all-to-all(%x, %y), channel_id=1, replica_groups={{0,1}}",
        ("all-to-all", 16, "(s32[1,2], s32[1,2])", 2),
    ),
    (
        "%pp = u32[4]{0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1},{1,2},{2,0}}, "
        'metadata={op_name="a}b"}',
        ("collective-permute", 16, "u32[4]", 3),
    ),
    (  # asynchronous forms, as GPUs and TPUs have them
        "%ars = f32[10]{0} all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%add",
        ("all-reduce", 40, "f32[10]", 2),
    ),
    (
        "%ars = (f32[10]{0}, f32[2]{0}) all-reduce-start(%x, %y), replica_groups={{0,1}}, to_apply=%add",
        ("all-reduce", 48, "(f32[10], f32[2])", 2),
    ),
    (
        "%ags = (f32[10]{0}, f32[20]{0}) all-gather-start(%x), replica_groups={{0,1}}, dimensions={0}",
        ("all-gather", 80, "f32[20]", 2),
    ),
    (
        "%ags = ((f32[10]{0}, s8[3]{0}), (f32[20]{0}, s8[6]{0})) all-gather-start(%x, %y), "
        "replica_groups={{0,1}}, dimensions={0}",
        ("all-gather", 86, "(f32[20], s8[6])", 2),
    ),
    (
        "%cps = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x), "
        "source_target_pairs={{0,1},{1,0}}",
        ("collective-permute", 16, "f32[4]", 2),
    ),
    (
        "%rss = ((f32[8]{0}), f32[2]{0}, u32[]) reduce-scatter-start(%x), replica_groups={{0,1,2,3}}, "
        "dimensions={0}, to_apply=%add",
        ("reduce-scatter", 8, "f32[2]", 4),
    ),
    (
        "%e = f8e4m3fn[16]{0} all-gather(%x), replica_groups={{0,1}}, dimensions={0}",
        ("all-gather", 16, "f8e4m3fn[16]", 2),
    ),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_kind_bytes_shape_and_group_of_a_line(line, expected):
    (collective,) = collectives(in_main(line))
    assert (collective.kind, collective.bytes, collective.shape, collective.group) == expected
    assert collective.computation == "main.1_spmd" and collective.times == 1


@pytest.mark.parametrize(
    "line",
    [
        "%ard = f32[10]{0} all-reduce-done(%ars)",  # its start was counted
        "%all-reduce = f32[10]{0} get-tuple-element(%all-reduce.1), index=0",  # a name is not an opcode
        '%x = f32[10]{0} add(%all-gather, %y), metadata={op_name="all-gather(z)"}',
    ],
)
def test_what_only_looks_like_one_is_none(line):
    assert collectives(in_main(line)) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("%x = f32[4]{0} all-reduce(%p), replica_groups=mesh[x], to_apply=%add", "replica groups"),
        ("%x = f32[4]{0} all-gather-start(%p), replica_groups={}, dimensions={0}", "operands and results"),
        ("%x = (weird[4], f32[2]) all-reduce(%p, %q), replica_groups={}", "unknown width"),
    ],
)
def test_what_is_not_understood_is_not_passed_over(line, what):
    with pytest.raises(ValueError, match=what):
        collectives(in_main(line))


LOOPS = (
    HEAD + """%inner (q: (s32[], f32[4])) -> (s32[], f32[4]) {
  %ar.1 = f32[4]{0} all-reduce(%q), replica_groups={{0,1}}, to_apply=%add
}

%outer (q: (s32[], f32[4])) -> (s32[], f32[4]) {
  %while.1 = (s32[], f32[4]{0}) while(%t), condition=%c1, body=%inner, """
    """backend_config={"known_trip_count":{"n":"3"}}
  %ag.1 = f32[8]{0} all-gather(%q), replica_groups={{0,1}}, dimensions={0}
}

%c1 (q: (s32[], f32[4])) -> pred[] {
  %ar.2 = pred[] all-reduce(%q), replica_groups={{0,1}}, to_apply=%or
}

%branch (q: f32[4]) -> f32[4] {
  %ar.3 = f32[4]{0} all-reduce(%q), replica_groups={{0,1}}, to_apply=%add
}

%other (q: f32[4]) -> f32[4] {
  %ar.4 = f32[4]{0} all-reduce(%q), replica_groups={{0,1}}, to_apply=%add
}

%async (q: f32[4]) -> f32[4] {
  %rs.1 = f32[2]{0} reduce-scatter(%q), replica_groups={{0,1}}, dimensions={0}, to_apply=%add
}

%endless (q: f32[4]) -> f32[4] {
  %ar.5 = f32[4]{0} all-reduce(%q), replica_groups={{0,1}}, to_apply=%add
}

%unreached (q: f32[4]) -> f32[4] {
  %ar.6 = f32[4]{0} all-reduce(%q), replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %while.2 = (s32[], f32[4]{0}) while(%t), condition=%c2, body=%outer, """
    """backend_config={"known_trip_count":{"n":"5"}}
  %c = f32[4]{0} conditional(%i, %p, %p), branch_computations={%branch, %other}
  %d = f32[4]{0} call(%p), to_apply=%branch
  %s = ((f32[4]{0}), f32[2]{0}, u32[]) async-start(%p), calls=%async
  %e = f32[2]{0} async-done(%s), calls=%async
  %while.3 = f32[4]{0} while(%t), condition=%c2, body=%endless
}
"""
)


def test_loops_are_multiplied_out_and_branches_taken():
    times = {c.name: c.times for c in collectives(LOOPS)}
    expected = {"ar.1": 15, "ag.1": 5, "ar.2": 20, "ar.3": 2, "ar.4": 1, "rs.1": 1, "ar.5": None}
    assert times == expected | {"ar.6": None}


SCRIPT = """
import json, dataclasses, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec as P
from benchmarks.collectives import collectives
mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
def f(t, x):
    gathered, scattered = jax.lax.all_gather(x, "data"), jax.lax.psum_scatter(t, "data", tiled=True)
    passed = jax.lax.ppermute(x, "data", [(0, 1), (1, 2), (2, 3), (3, 0)])
    def body(c, i):
        return c + jax.lax.psum(c * i, "data"), jax.lax.all_to_all(t.reshape(4, -1) * i, "data", 0, 0).sum()
    return gathered.sum(0), scattered, passed, jax.lax.scan(body, x, jnp.arange(7.0))
mapped = jax.shard_map(f, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False)
shapes = jax.ShapeDtypeStruct((8, 5), jnp.float32), jax.ShapeDtypeStruct((16,), jnp.float32)
text = jax.jit(mapped).lower(*shapes).compile().as_text()
print(json.dumps([dataclasses.asdict(c) for c in collectives(text)]))
"""


def test_a_compiled_program_of_four_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    compiled = [Collective(**c) for c in json.loads(done.stdout)]
    assert all(c.kind in KINDS and c.group == 4 for c in compiled)
    assert sorted((c.kind, c.bytes, c.times) for c in compiled) == [
        ("all-gather", 4 * 4 * 4, 1),
        ("all-reduce", 4 * 4, 7),
        ("all-to-all", 8 * 5 * 4, 7),
        ("collective-permute", 4 * 4, 1),
        ("reduce-scatter", 2 * 5 * 4, 1),
    ]
