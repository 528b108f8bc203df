"""The benchmark of the start of a stage: the stages that it times."""

from benchmarks import stage_start


def test_the_second_stage_starts_from_the_first_and_logs_each_step(tmp_path):
    configs = stage_start.stages(tmp_path)
    first, second = (configs[name] for name in (stage_start.FIRST, stage_start.SECOND))
    assert second.start.workdir == str(tmp_path / stage_start.FIRST) and not first.start.workdir
    assert first.train.log_seconds == second.train.log_seconds == 1e-9
    assert (first.sampling.mix.served, second.sampling.mix.served) == (0.0, 1.0)
    assert first.train.duration == second.train.duration
