"""Grouping of a profile's kernels: literal lines of HLO, and our own step."""

import copy
from types import SimpleNamespace

import pytest

from benchmarks import roofline
from benchmarks.roofline import Kernel, Spent
from jaxrec.config.schema import Objective

TEXT = """HloModule jit_step, is_scheduled=true

%fused (p: bf16[4,2]) -> bf16[4,2] {
  %p = bf16[4,2]{1,0} parameter(0)
  ROOT %neg.1 = bf16[4,2]{1,0} negate(%p)
}

ENTRY %main.1 (a: bf16[4,2], b: f32[3]) -> (f32[3], bf16[4,2]) {
  %a = bf16[4,2]{1,0} parameter(0)
  %b = f32[3]{0} parameter(1)
  %loop_fusion.2 = (f32[3]{0}, bf16[4,2]{1,0}) fusion(%a, %b, %a), kind=kLoop, calls=%fused, \
metadata={op_name="jit(step)/transpose(jvp(RankingModel))/expert_0/encoder/block_1/attention/add"}
  %while.3 = f32[3]{0} while(%b), body=%fused, condition=%fused
  ROOT %copy-1.4 = bf16[4,2]{1,0} copy(%a)
}
"""


def test_a_kernel_holds_its_operands_once_and_its_results():
    kernels = roofline.kernels(TEXT)
    assert kernels["loop_fusion_2"].bytes == (12 + 16) + (16 + 12)
    assert kernels["loop_fusion_2"].path.endswith("block_1/attention/add")
    assert kernels["copy_1_4"] == Kernel("copy", 32, "")


@pytest.mark.parametrize("name, path, part", [
    ("attention_backward__1", None, "attention"),
    ("norm_forward", None, "layer norm"),
    ("memcpy32_post", None, "copies"),
    ("nvjet_sm90_tss_288x64", None, "products by a library"),
    ("fusion_7", "jit(f)/RankingModel.encode/expert_1/encoder/block_0/attention/out/dot", "attention"),
    ("fusion_7", "jit(f)/RankingModel.encode/expert_1/encoder/block_0/attention_norm/mul", "layer norm"),
    ("fusion_7", "jit(f)/RankingModel.encode/expert_1/encoder/norm/mul", "layer norm"),
    ("fusion_7", "jit(f)/RankingModel.encode/expert_1/encoder/block_0/hidden/dot_general", "feed-forward"),
    ("fusion_7", "jit(f)/RankingModel.encode/expert_1/encoder/block_0/add", "residuals and dropout"),
    ("fusion_7", "jit(f)/RankingModel.encode/expert_1/pool/exp", "pooling and gate"),
    ("fusion_7", "jit(f)/RankingModel.encode/RankingModel._mixed/gate/mlp/hidden_0/dot", "pooling and gate"),
    ("fusion_7", "jit(f)/RankingModel.score/matcher_ctr/dot_general", "matchers"),
    ("fusion_7", "jit(f)/RankingModel.score/product/mul", "matchers"),
    ("fusion_7", "jit(f)/RankingModel.encode/RankingModel._read/history/take", "histories and look-ups"),
    ("fusion_7", "jit(f)/add", "loss, decoding, update"),
])  # fmt: skip
def test_the_part_that_a_kernel_comes_from(name, path, part):
    assert roofline.part_of(name, path) == part


def test_time_is_gathered_by_part_a_step():
    events = [("loop_fusion.2", 3e6), ("copy_1_4", 1e6), ("loop_fusion_2", 1e6), ("while.3", 9e6)]
    seconds = roofline.gathered([*events, ("nvjet_1", 5e5)], TEXT, 2)
    assert seconds == {
        "attention": Spent(2.0, 1.0, 56.0),
        "loss, decoding, update": Spent(0.5, 0.5, 16.0),
        "products by a library": Spent(0.25, 0.5, 0.0),
    }
    assert [*seconds] == ["attention", "loss, decoding, update", "products by a library"]


def test_a_step_is_profiled(tiny_config, tiny_directory, monkeypatch):
    """Each operation of the profile is in the program's text."""
    for limit in ("device_copy", "matrix_rate"):  # which take as long as all else
        monkeypatch.setattr(roofline, limit, lambda **_: dict.fromkeys(("median", "least", "most"), 1e9))
    monkeypatch.setattr(roofline.parts, "counted_by_xla", lambda *_: 2e9)
    config = copy.deepcopy(tiny_config)
    config.model.experts = config.model.experts[1:]  # one is sooner compiled
    config.objective = Objective(ranking=0.0, regression=0.0)
    config.data.directory = str(tiny_directory)
    monkeypatch.setattr(roofline, "settings", lambda *_: config)
    flags = SimpleNamespace(config="configs/tiny.py", batch=64, dtype="float32", steps=1, data="", users=120)
    report = roofline.main(flags)
    spent = report.figures["parts"]
    assert {"attention", "matchers", "layer norm", "loss, decoding, update"} <= {*spent}
    assert "products by a library" not in spent and all(x["bytes"] > 0 for x in spent.values())
    assert report.rows[-1][0] == "all" and report.rows[2][2] == "2000.00 ms for the step's 2 GFLOP"
