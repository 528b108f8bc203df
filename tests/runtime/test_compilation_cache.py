"""Compiled programs in the cache are reused by later commands, bit for bit; programs are freed."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.runtime import compilation_cache
from jaxrec.tasks import loading
from jaxrec.training import trainer

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
import jax, jax.numpy as jnp
from jaxrec.runtime import compilation_cache

events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rsplit("/", 1)[-1]))
compilation_cache.enable()

@jax.jit
def program(x):
    for i in range(12):
        x = jnp.tanh(x @ x + i).at[::2].multiply(1.1)
    return jax.scipy.special.erfinv(jnp.sort(x, axis=0) / 2)

out = program(jnp.arange(64.0).reshape(8, 8) / 64)
print(events.count("cache_hits"), float(jnp.abs(out).sum()).hex())
"""


def start(home, **env):
    """Run SCRIPT under HOME=`home`; return (cache hits, result bits, stderr)."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))}
    threshold = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # a fast machine would cache nothing
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=inherited | {"HOME": str(home), "JAX_PLATFORMS": "cpu"} | threshold | env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    hits, bits = done.stdout.split()
    return int(hits), bits, done.stderr


def test_second_command_reads_programs_cached_by_the_first(tmp_path):
    hits, bits, _ = start(tmp_path)
    cached = list((tmp_path / ".cache" / "jaxrec" / "xla").iterdir())
    assert hits == 0 and any("program" in path.name for path in cached)
    second_hits, second_bits, stderr = start(tmp_path)
    assert second_hits >= 1 and second_bits == bits and stderr == ""
    disabled_hits, disabled_bits, _ = start(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert disabled_hits == 0 and disabled_bits == bits


def test_truncated_cache_entry_is_compiled_again(tmp_path):
    _, bits, _ = start(tmp_path)
    for path in (tmp_path / ".cache" / "jaxrec" / "xla").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    hits, second_bits, stderr = start(tmp_path)
    assert hits == 0 and second_bits == bits and "persistent compilation cache" in stderr


def test_cache_directory_follows_xdg_cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation_cache.cache_directory() == tmp_path / "jaxrec" / "xla"
    monkeypatch.setenv("HOME", "/home/someone")
    for unset in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert compilation_cache.cache_directory() == Path("/home/someone/.cache/jaxrec/xla")


def test_jax_cache_variable_has_priority(tmp_path):
    own = tmp_path / "own"
    start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(own))
    assert any(own.iterdir()) and not (tmp_path / ".cache").exists()


def test_unwritable_home_logs_a_warning_and_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("")
    hits, _, stderr = start(tmp_path / "file")
    assert hits == 0 and "compiled programs are not cached" in stderr


def test_programs_are_freed_before_the_process_has_too_many_memory_maps(monkeypatch, tmp_path):
    traced = []

    @jax.jit
    def program(x):
        traced.append(x)
        return jnp.sort(jnp.tanh(x @ x), axis=0)

    x = jnp.ones((8, 8))
    expected, most = program(x), tmp_path / "max_map_count"
    monkeypatch.setattr(compilation_cache, "_MOST_MAPS", most)
    most.write_text(f"{10**9}\n")
    assert not compilation_cache.free_programs()
    program(x)
    assert len(traced) == 1
    most.write_text("100\n")
    assert compilation_cache.free_programs()
    np.testing.assert_array_equal(program(x), expected)
    assert len(traced) == 2
    monkeypatch.setattr(compilation_cache, "_MAPS", tmp_path / "no such file")
    assert not compilation_cache.free_programs()


@pytest.mark.parametrize("module", [trainer, loading])
def test_trainings_and_checkpoints_free_the_programs_of_those_before(module, monkeypatch):
    def freed():
        raise InterruptedError

    monkeypatch.setattr(module, "free_programs", freed)
    with pytest.raises(InterruptedError):
        trainer.train(None, None, "W", None) if module is trainer else loading.load_checkpoint("W", "best")
