"""Compiled programs are found again by the next command, which gives the same result to the bit."""

import os
import subprocess
import sys
from pathlib import Path

from jaxrec.runtime import compilation_cache

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
import jax, jax.numpy as jnp
from jaxrec import compiled

found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name.rsplit("/", 1)[-1]))
compiled.keep()

@jax.jit
def program(x):
    for i in range(12):
        x = jnp.tanh(x @ x + i).at[::2].multiply(1.1)
    return jax.scipy.special.erfinv(jnp.sort(x, axis=0) / 2)

out = program(jnp.arange(64.0).reshape(8, 8) / 64)
print(found.count("cache_hits"), float(jnp.abs(out).sum()).hex())
"""


def start(home, **env):
    """(programs found, the result's bits, standard error) of a command whose home is `home`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))}
    threshold = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # or a fast machine would keep none
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=kept | {"HOME": str(home), "JAX_PLATFORMS": "cpu"} | threshold | env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    hits, bits = done.stdout.split()
    return int(hits), bits, done.stderr


def test_the_second_command_finds_what_the_first_compiled(tmp_path):
    hits, bits, _ = start(tmp_path)
    kept = list((tmp_path / ".cache" / "jaxrec" / "xla").iterdir())
    assert hits == 0 and any("program" in path.name for path in kept)
    again, same, said = start(tmp_path)
    assert again >= 1 and same == bits and said == ""
    switched_off, without, _ = start(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert switched_off == 0 and without == bits


def test_a_torn_program_is_compiled_again(tmp_path):
    _, bits, _ = start(tmp_path)
    for path in (tmp_path / ".cache" / "jaxrec" / "xla").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    hits, same, said = start(tmp_path)
    assert hits == 0 and same == bits and "persistent compilation cache" in said


def test_where_programs_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation_cache.cache_directory() == tmp_path / "jaxrec" / "xla"
    monkeypatch.setenv("HOME", "/home/someone")
    for unset in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert compilation_cache.cache_directory() == Path("/home/someone/.cache/jaxrec/xla")


def test_jaxs_own_variable_decides(tmp_path):
    own = tmp_path / "own"
    start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(own))
    assert any(own.iterdir()) and not (tmp_path / ".cache").exists()


def test_a_home_that_takes_nothing_is_said_and_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("")
    hits, _, said = start(tmp_path / "file")
    assert hits == 0 and "compiled programs are not kept" in said
