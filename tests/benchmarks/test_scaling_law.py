"""The fit of losses by size: made losses, noise, edges of the exponent, and what is no set of runs."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.scaling_law import fit_power_law, main
from jaxrec.core.errors import InputError

N = np.array([1e3, 3e3, 1e4, 3e4, 1e5])


@pytest.mark.parametrize(("a", "b", "c"), [(1.7, 40.0, 0.34), (0.0, 9.0, 0.08), (5.0, 3e3, 1.1)])
def test_made_losses_give_their_law_back(a, b, c):
    law = fit_power_law(N, a + b * N**-c)
    np.testing.assert_allclose((law.a, law.b, law.c), (a, b, c), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(law.residuals, 0, atol=1e-6)
    np.testing.assert_allclose(law(N), a + b * N**-c, rtol=1e-6)


def test_residuals_are_those_of_the_least_squares():
    noise = np.array([0.01, -0.02, 0.015, 0.0, -0.01])
    loss = 4 + 30 * N**-0.5 + noise
    law = fit_power_law(N, loss)
    np.testing.assert_allclose(law.residuals, loss - law(N), atol=1e-9)
    error = (law.residuals**2).sum()
    for a, b, c in ((1.002, 1, 1), (1, 1.02, 1), (1, 1, 1.02), (0.998, 1, 1), (1, 0.98, 1), (1, 1, 0.98)):
        other = loss - (a * law.a + b * law.b * N ** -(c * law.c))
        assert (other**2).sum() > error
    assert error <= (noise**2).sum()


def test_a_loss_that_grows_has_no_gain_by_size():
    law = fit_power_law(N, np.array([1.0, 1.1, 1.2, 1.3, 1.4]))
    assert law.b == 0 and law.a == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (["1000:6.1", "2000:5.9", "4000:5.8"], "3 runs of 3 sizes; allowed: 4 runs of 3 sizes"),
        (["1000:6.1", "1000:6.0", "2000:5.9", "2000:5.8"], "4 runs of 2 sizes"),
        (["1000:6.1", "x"], "--losses=1000:6.1,x; allowed: SIZE:LOSS"),
        ([], "--losses and --study: give one of them"),
    ],
)
def test_what_is_no_set_of_runs_is_refused(losses, message):
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        main(SimpleNamespace(losses=losses, study="", by="parameters", match=""))


def test_the_report_has_a_line_for_each_loss():
    losses = [f"{n:g}:{2 + 50 * n**-0.4:.6f}" for n in N]
    report = main(SimpleNamespace(losses=losses, study="", by="parameters", match=""))
    assert len(report.rows) == 2 + len(N) and report.figures["c"] == pytest.approx(0.4, abs=0.01)
    assert "residual" in report.table()
