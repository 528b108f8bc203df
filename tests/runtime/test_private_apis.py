"""The APIs of jaxrec/runtime/private_apis.py exist, and no other file uses one."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxrec.runtime import private_apis

ROOT = Path(__file__).resolve().parents[2]
REPLACEMENTS = {
    "wait_at_barrier": (
        "jax._src.distributed.global_state.client.wait_at_barrier: call "
        "jax.experimental.multihost_utils.sync_global_devices(name); on CPUs gloo then limits a wait to 30 s"
    ),
    "compiled_programs": (
        "the jitted function's _cache_size: count /jax/core/compile/backend_compile_duration events with "
        "jax.monitoring.register_event_duration_secs_listener"
    ),
    "jaxpr_types": (
        "jax.extend.core.ClosedJaxpr and Jaxpr: test hasattr(value, 'jaxpr') and hasattr(value, 'eqns'), or "
        "take the types from jax.make_jaxpr(...)'s result: type(closed), type(closed.jaxpr)"
    ),
    "live_jaxpr": (
        "jax.interpreters.partial_eval.dce_jaxpr: compare programs with their dead operations, as "
        "str(jax.make_jaxpr(...)), and give cases of tests/config/test_no_dead_field.py other observations"
    ),
    "gcs_utils": (
        "orbax.checkpoint._src.path.gcs_utils.is_hierarchical_namespace_enabled: have tests/gcs_server.py "
        "answer the request for a bucket's storage layout instead of replacing the function"
    ),
}


def barrier():
    from jax._src import distributed

    parameters = inspect.signature(private_apis.wait_at_barrier).parameters
    assert list(parameters) == ["name", "milliseconds"]
    assert hasattr(distributed.global_state, "client")
    from jax._src.lib import _jax

    assert callable(_jax.DistributedRuntimeClient.wait_at_barrier)


def compiled():
    step = jax.jit(lambda x: x + 1)
    for x in (1.0, 2.0, 1):  # two values of one type and one of another
        step(x)
    assert private_apis.compiled_programs(step) == 2


def jaxprs():
    closed, plain = private_apis.jaxpr_types()
    jaxpr = jax.make_jaxpr(lambda x: x + 1)(1.0)
    assert isinstance(jaxpr, closed) and isinstance(jaxpr.jaxpr, plain)


def live():
    jaxpr = jax.make_jaxpr(lambda x: [x + 1, jnp.sin(x)][0])(1.0)
    assert "sin" in str(jaxpr) and "sin" not in str(private_apis.live_jaxpr(jaxpr.jaxpr))


def gcs():
    assert callable(private_apis.gcs_utils().is_hierarchical_namespace_enabled)


USES = {
    "wait_at_barrier": barrier, "compiled_programs": compiled, "jaxpr_types": jaxprs, "live_jaxpr": live,
    "gcs_utils": gcs,
}  # fmt: skip


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_private_api_exists(name):
    try:
        USES[name]()
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}. Replacement: {REPLACEMENTS[name]}") from error


def test_each_private_api_has_a_replacement():
    functions = {name for name, _ in inspect.getmembers(private_apis, inspect.isfunction)}
    assert functions == set(REPLACEMENTS) == set(USES)


def test_importing_private_apis_loads_no_jax():
    code = "import sys, jaxrec.runtime.private_apis; print([m for m in ('jax', 'orbax') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


LIBRARIES = r"(jax|jaxlib|flax|optax|orbax|grain|chex|ml_collections)"
PRIVATE = re.compile(rf"^{LIBRARIES}(\.\w+)*\._(?!_)\w+|^jax\.(extend|interpreters|core)\b")
OURS = ("jaxrec/runtime/private_apis.py", "tests/runtime/test_private_apis.py")


def library_names(text):
    """Yield the names of a library that a file imports or reaches as attributes."""
    tree, aliases = ast.parse(text), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else None
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            if first in aliases and all(part.isidentifier() for part in rest):
                yield ".".join([aliases[first] or first, *rest])
            if node.attr in ("_cache_size", "_src"):
                yield f"jax.{node.attr}"


def find_private_uses(text):
    return [name for name in library_names(text) if PRIVATE.match(name)]


@pytest.mark.parametrize("text", [
    "from jax._src import distributed", "import jax.extend", "from jax.interpreters import mlir",
    "import jax\njax.core.Jaxpr", "import jax\njax._src.core", "import jax as j\nj._src", "f._cache_size()",
    "import orbax.checkpoint as ocp\nocp._src.path", "from ml_collections.config_flags import _ConfigFlag",
])  # fmt: skip
def test_private_use_is_detected(text):
    assert find_private_uses(text)


def test_public_use_is_not_reported():
    assert not find_private_uses(
        "import jax, optax\nfrom jax import numpy\njax.jit\nx._replace(a=1)\noptax.adam"
    )


@pytest.mark.parametrize("folder", ["jaxrec", "benchmarks", "tests", "configs"])
def test_no_other_file_uses_a_private_api(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name not in OURS:
            uses = find_private_uses(path.read_text())
            assert not uses, (
                f"{name} uses {', '.join(uses)}: add a function to jaxrec/runtime/private_apis.py"
            )
