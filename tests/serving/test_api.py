"""The public names of `jaxrec`, and the tour of docs/recommend.md."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/recommend.md"


def test_public_names_are_imported_on_first_use():
    code = (
        "import sys, jaxrec\n"
        "assert set(jaxrec.__all__) <= set(dir(jaxrec))\n"
        "light = {'jax', 'polars', 'numpy', 'absl'} & set(sys.modules)\n"
        "jaxrec.load_config, jaxrec.Config, jaxrec.Dataset\n"
        "print(sorted(light), sorted({'jax', 'flax', 'polars'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[] []\n"), done.stderr


def test_no_public_name_is_that_of_a_command():
    import jaxrec

    assert not {path.stem for path in (ROOT / "jaxrec").glob("*.py")} & set(jaxrec.__all__)
    for name in jaxrec.__all__:
        assert callable(getattr(jaxrec, name))
    with pytest.raises(AttributeError, match="has no attribute 'recomend'"):
        jaxrec.recomend  # noqa: B018


def test_the_tour_runs(tiny_run, tiny_directory, tiny_config, tmp_path, monkeypatch, capsys):
    """The block of docs/recommend.md, on a run that has been trained already."""
    from jaxrec.config.serialization import dataset_directory

    (tour,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len([line for line in tour.splitlines() if line.strip()]) <= 24
    shutil.copytree(tiny_run / "run", tmp_path / "runs/tiny")
    data = tmp_path / dataset_directory(tiny_config)
    data.parent.mkdir(parents=True)
    data.symlink_to(tiny_directory)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(compile(tour, str(PAGE), "exec"), scope)
    result = scope["result"]
    assert list(dict.fromkeys(result["user"].tolist())) == ["ann", "bob", "cyd"]
    assert len(result["title"]) == 15 and scope["title"][3] not in result["title"].tolist()
    assert result.counts["empty_histories"] == 1
    assert "200 titles" in capsys.readouterr().out
