"""Lines of the branches that only an accelerator takes (tests/gpu_branches.py), at least one for each."""

from tests.broken.line import Line

_FORCED = "tests/models/test_gpu_branches.py"
_KERNELS = "tests/models/kernels/test_kernels.py"
_ATTENTION = "tests/models/layers/test_attention.py"
_PIPELINE = "tests/training/inputs/test_input_pipeline.py"

LINES = (
    Line(
        "an accelerator evaluates as many queries as the config allows",
        "jaxrec/evaluation/scorers.py",
        'if jax.default_backend() == "cpu":\n            queries = min(queries, _CPU_QUERIES)',
        "queries = min(queries, _CPU_QUERIES)",
        (f"{_FORCED}::test_gpu_branch_of_evaluation",),
    ),
    Line(
        "chunks of the full softmax on an accelerator",
        "jaxrec/losses/chunks.py",
        'if jax.default_backend() == "cpu":',
        "if True:",
        (f"{_FORCED}::test_gpu_branch_of_the_full_softmax",),
    ),
    Line(
        "chunks of sampled losses on an accelerator",
        "jaxrec/losses/sampled_losses.py",
        "return _CHUNK_BYTES.get(jax.default_backend(), _CHUNK_BYTES_ELSEWHERE)",
        'return _CHUNK_BYTES["cpu"]',
        (f"{_FORCED}::test_gpu_branch_of_sampled_losses",),
    ),
    Line(
        "an accelerator scores all users at once",
        "jaxrec/models/heads.py",
        'if jax.default_backend() != "cpu" or users >= B:',
        "if users >= B:",
        (f"{_FORCED}::test_gpu_branch_of_scores_in_tiles",),
    ),
    Line(
        "kernels run on GPUs alone",
        "jaxrec/models/kernels/pallas.py",
        'if _is_plain.get() or backend != "gpu" or dtype not in DTYPES or not _has_triton_compiler():',
        "if _is_plain.get() or dtype not in DTYPES or not _has_triton_compiler():",
        (f"{_KERNELS}::test_kernels_are_available_on_supported_devices",),
    ),
    Line(
        "kernels are interpreted on a CPU and compiled on a GPU",
        "jaxrec/models/kernels/pallas.py",
        'interpret=jax.default_backend() == "cpu",',
        "interpret=True,",
        (f"{_FORCED}::test_gpu_branch_of_kernels_is_compiled",),
    ),
    Line(
        "a GPU computes attention by the kernel",
        "jaxrec/models/layers/attention.py",
        'FORMS[choose_form(backend, dtype, width) if name == "auto" else name]',
        'FORMS["einsum" if name == "auto" else name]',
        (f"{_KERNELS}::test_kernel_computes_rows_up_to_its_maximum_length",),
    ),
    Line(
        "the kernel's heads are as wide as it allows",
        "jaxrec/models/layers/attention.py",
        "(not form.backends or backend in form.backends) and width in form.widths",
        "(not form.backends or backend in form.backends)",
        (f"{_ATTENTION}::test_allowed_forms_by_device_and_dtype",),
    ),
    Line(
        "an implementation that the backend lacks is refused",
        "jaxrec/models/layers/attention.py",
        "if name not in names:",
        'if backend != "cpu" and name not in names:',
        (f"{_ATTENTION}::test_implementations_that_are_not_allowed_are_rejected",),
    ),
    Line(
        "a GPU chooses the fastest implementation",
        "jaxrec/models/layers/attention.py",
        '("gpu", "bfloat16"): "pallas"}',
        '("gpu", "bfloat16"): "einsum"}',
        (f"{_KERNELS}::test_kernels_are_available_on_supported_devices",),
    ),
    Line(
        "a lookup of few rows on a GPU has the gradient of an indexed one",
        "jaxrec/models/layers/dense.py",
        'if jax.default_backend() == "gpu" and len(x) <= _FEW_ROWS:',
        'if jax.default_backend() == "tpu" and len(x) <= _FEW_ROWS:',
        (f"{_FORCED}::test_gpu_branch_of_the_lookup",),
    ),
    Line(
        "a GPU normalises by the kernel",
        "jaxrec/models/layers/normalization.py",
        "if pallas.is_available(jax.default_backend(), self.dtype)",
        'if pallas.is_available("cpu", self.dtype)',
        (f"{_KERNELS}::test_gpu_uses_the_layer_norm_kernel_in_supported_dtypes",),
    ),
    Line(
        "an accelerator scores more pairs at a time",
        "jaxrec/serving/catalogue.py",
        "self._pairs = pairs or (_CPU_PAIRS if on_cpu else _PAIRS)",
        "self._pairs = pairs or _CPU_PAIRS",
        (f"{_FORCED}::test_gpu_branch_of_serving",),
    ),
    Line(
        "an export on an accelerator scores more pairs at a time",
        "jaxrec/serving/exported.py",
        'pairs = _CPU_PAIRS if jax.default_backend() == "cpu" else _PAIRS',
        "pairs = _CPU_PAIRS",
        (f"{_FORCED}::test_gpu_branch_of_serving",),
    ),
    Line(
        "programs for CUDA run on a GPU",
        "jaxrec/serving/exported.py",
        '_PLATFORMS = {"gpu": "cuda"}',
        '_PLATFORMS = {"gpu": "rocm"}',
        (f"{_FORCED}::test_gpu_branch_of_an_export",),
    ),
    Line(
        "programs are exported for CUDA too",
        "jaxrec/serving/export.py",
        '\nPLATFORMS = ("cpu", "cuda")',
        '\nPLATFORMS = ("cpu",)',
        ("tests/serving/test_export.py::test_programs_are_for_cpu_and_cuda_by_default",),
    ),
    Line(
        "the batch of an accelerator is one microbatch",
        "jaxrec/tasks/base.py",
        "self.config.train.microbatch_size or self.microbatch_limit(jax.default_backend()) or device_batch",
        'self.config.train.microbatch_size or self.microbatch_limit("cpu") or device_batch',
        (f"{_FORCED}::test_gpu_branch_of_microbatches",),
    ),
    Line(
        "the train command checks attention for its backend",
        "jaxrec/train.py",
        "config.model.attention_impl, jax.default_backend(), config.model.dtype, width",
        'config.model.attention_impl, "gpu", config.model.dtype, width',
        ("tests/end_to_end/test_commands.py::test_wrong_input_is_one_line_and_status_2",),
    ),
    Line(
        "a GPU takes several steps in a call",
        "jaxrec/training/inputs/input_pipeline.py",
        '_STEPS_PER_CALL = {"gpu": 8}',
        '_STEPS_PER_CALL = {"cuda": 8}',
        (f"{_PIPELINE}::test_steps_per_call",),
    ),
    Line(
        "the initial state of an accelerator is compiled without a CPU's options",
        "jaxrec/training/train_state.py",
        'if jax.default_backend() == "cpu" else {}',
        'if jax.default_backend() == "cpu" else {"no_such_option": 0}',
        (f"{_FORCED}::test_gpu_branch_of_the_initial_state",),
    ),
    Line(
        "rows are on devices that report their memory",
        "jaxrec/training/inputs/resident_rows.py",
        "return min(limits) if len(limits) == len(stats) else None",
        "return max(limits) if len(limits) == len(stats) else None",
        ("tests/training/inputs/test_resident_rows.py::test_the_memory_is_that_of_the_smallest_device",),
    ),
)
