"""The command `python -m jaxrec.live`: its JSON, live.json and the figures."""

import json

import commands

SMALL = ("--devices=5e4", "--config.times.poll_s=60", "--config.capacity.messages=0.04")


def test_simulate_writes_its_results_and_figures(tmp_path):
    out = tmp_path / "live"
    done = commands.run(
        "-m", "jaxrec.live", "simulate", "--config=live", *SMALL, "--strategy=jittered-ttl,broadcast",
        f"--out={out}", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    printed, written = json.loads(done.stdout), json.loads((out / "live.json").read_text())
    assert written == printed | {"figures": ["updated.svg", "requests.svg"]}
    assert printed["devices"] == 50_000 and printed["plan"]["shards"] == 2
    assert [row["strategy"] for row in printed["strategies"]] == ["jittered-ttl", "broadcast"]
    assert printed["strategies"][1]["spoilers"] == 0
    for name in written["figures"]:
        picture = (out / name).read_text()
        assert picture.startswith("<svg") and "stroke-dasharray" in picture  # lines differ without colour


def test_plan_prints_the_plan(tmp_path):
    done = commands.run("-m", "jaxrec.live", "plan", "--config=live", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "update 20.1 s: broadcast 20.1 s by 20 nodes" in done.stdout
