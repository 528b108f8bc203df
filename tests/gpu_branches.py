"""Branches that only an accelerator takes, and the tests that reach each on a CPU.

A new function that depends on the backend is entered in BRANCHES, with a test that forces the branch.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Names whose use makes code depend on the kind of device.
MARKS = {
    "default_backend",
    "is_available",
    "microbatch_limit",
    "allowed_forms",
    "choose_form",
    "check_form",
    "memory_stats",
}
KINDS = {"gpu", "tpu", "cuda", "rocm"}

KERNELS = "tests/models/kernels/test_kernels.py"
PIPELINE = "tests/training/inputs/test_input_pipeline.py"
COMMANDS = "tests/end_to_end/test_commands.py"
EXPORT = "tests/serving/test_export.py"
FORCED = "tests/models/test_gpu_branches.py"
# (file, function) -> tests that take the branch of an accelerator on a CPU.
BRANCHES = {
    ("evaluation/scorers.py", "QueryRunner.__init__"): (f"{FORCED}::test_gpu_branch_of_evaluation",),
    ("losses/chunks.py", "positions_per_chunk"): (f"{FORCED}::test_gpu_branch_of_the_full_softmax",),
    ("losses/sampled_losses.py", "chunk_bytes"): (
        f"{FORCED}::test_gpu_branch_of_sampled_losses",
        f"{FORCED}::test_gpu_branch_of_sets_of_targets",
    ),
    ("export.py", "_flags"): (f"{EXPORT}::test_a_wrong_flag_is_one_line",),
    ("models/heads.py", "score_in_tiles"): (f"{FORCED}::test_gpu_branch_of_scores_in_tiles",),
    ("models/kernels/pallas.py", "is_available"): (
        f"{KERNELS}::test_kernels_are_available_on_supported_devices",
    ),
    ("models/kernels/pallas.py", "pallas_call"): (
        f"{KERNELS}::test_layer_norm_kernel_equals_plain_layer_norm",
        "tests/tasks/test_precision.py::test_gpu_kernels_multiply_in_bfloat16_and_add_in_float32",
        f"{FORCED}::test_gpu_branch_of_kernels_is_compiled",
    ),
    ("models/layers/attention.py", ""): (f"{KERNELS}::test_kernels_are_available_on_supported_devices",),
    ("models/layers/attention.py", "_form"): (
        f"{KERNELS}::test_kernel_computes_rows_up_to_its_maximum_length",
    ),
    ("models/layers/attention.py", "allowed_forms"): (
        "tests/models/layers/test_attention.py::test_allowed_forms_by_device_and_dtype",
    ),
    ("models/layers/attention.py", "check_form"): (
        "tests/models/layers/test_attention.py::test_allowed_forms_by_device_and_dtype",
    ),
    ("models/layers/attention.py", "choose_form"): (
        f"{KERNELS}::test_kernels_are_available_on_supported_devices",
    ),
    ("models/layers/dense.py", "embedding_lookup"): (
        f"{FORCED}::test_gpu_branch_of_the_lookup",
        f"{FORCED}::test_gpu_branch_of_every_encoder",
    ),
    ("models/layers/normalization.py", "LayerNorm.__call__"): (
        f"{KERNELS}::test_gpu_uses_the_layer_norm_kernel_in_supported_dtypes",
        f"{FORCED}::test_gpu_branch_of_every_encoder",
    ),
    ("serving/catalogue.py", "CatalogueScorer.__init__"): (f"{FORCED}::test_gpu_branch_of_serving",),
    ("serving/export.py", ""): (f"{EXPORT}::test_the_folder_holds_no_kernel_and_no_pickle",),
    ("serving/exported.py", ""): (f"{EXPORT}::test_a_wrong_folder_is_refused",),
    ("serving/exported.py", "ExportedScorer.__init__"): (f"{FORCED}::test_gpu_branch_of_serving",),
    ("serving/exported.py", "_read_manifest"): (
        f"{EXPORT}::test_a_wrong_folder_is_refused", f"{FORCED}::test_gpu_branch_of_an_export",
    ),
    ("tasks/base.py", "Task.microbatches"): (f"{FORCED}::test_gpu_branch_of_microbatches",),
    ("train.py", "_train_on_host"): (f"{COMMANDS}::test_wrong_input_is_one_line_and_status_2",),
    ("training/dry_run.py", "dry_run"): ("tests/training/test_dry_run.py",),
    ("training/inputs/input_pipeline.py", ""): (PIPELINE,),
    ("training/inputs/input_pipeline.py", "steps_per_call"): (PIPELINE,),
    ("training/inputs/resident_rows.py", "device_memory"): (
        "tests/training/inputs/test_resident_rows.py::test_the_memory_is_that_of_the_smallest_device",
    ),
    ("training/train_step.py", "TrainStep._fuses_update"): (
        f"{FORCED}::test_gpu_branch_of_the_update",
        f"{FORCED}::test_gpu_branch_of_the_update_is_taken_by_plain_adam",
    ),
    ("training/train_state.py", "StateInit.init"): (f"{FORCED}::test_gpu_branch_of_the_initial_state",),
}  # fmt: skip


def branches_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (file, function) of each function or module body that depends on the kind of device."""
    file = str(path.relative_to(ROOT / "jaxrec"))

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}" if name else child.name
                yield from walk(child, inner)
                continue
            if isinstance(child, ast.Call):
                called = ast.unparse(child.func).rpartition(".")[2]
                if called in MARKS:
                    yield file, name
            if isinstance(child, ast.Constant) and child.value in KINDS:
                yield file, name
            yield from walk(child, name)

    yield from walk(ast.parse(path.read_text()), "")


def all_branches() -> set[tuple[str, str]]:
    """Return (file, function) of all branches of the package."""
    return {branch for path in (ROOT / "jaxrec").rglob("*.py") for branch in branches_of(path)}
