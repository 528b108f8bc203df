"""Lines of stable vectors, slices, mixtures and adaptation."""

from tests.broken.line import Line

_ALIGNMENT = "tests/analysis/test_alignment.py"
_STABILISE = "tests/analysis/test_stabilise.py"

LINES = (
    Line(
        "both maps come from the singular vectors of their own side",
        "jaxrec/analysis/alignment.py",
        "return Maps(of_title * sign, _padded(r_t.T @ a[",
        "return Maps(of_title * sign, _padded(r_u.T @ a[",
        (
            f"{_ALIGNMENT}::test_the_maps_keep_every_product",
            f"{_ALIGNMENT}::test_directions_without_scores_are_left_out",
        ),
    ),
    Line(
        "singular values are shared by both sides",
        "jaxrec/analysis/alignment.py",
        "scale = np.where(kept, 1.0 / np.sqrt(",
        "scale = np.where(kept, 1.0 / (",
        (
            f"{_ALIGNMENT}::test_both_sides_have_the_singular_values_of_the_scores",
            f"{_ALIGNMENT}::test_the_maps_keep_every_product",
        ),
    ),
    Line(
        "vectors are rotated to the earlier run",
        "jaxrec/analysis/stabilising.py",
        "balanced.rotated(procrustes(own @ balanced.of_title_DxD, earlier))",
        "balanced.rotated(np.eye(len(balanced.of_title_DxD))[::-1])",
        (f"{_STABILISE}::test_a_run_like_itself_is_its_own_reference",),
    ),
    Line(
        "outputs are mapped with the titles",
        "jaxrec/models/next_item.py",
        "return h_BxLxD @ self.maps.of_user",
        "return h_BxLxD",
        (f"{_STABILISE}::test_scores_are_kept",),
    ),
    Line(
        "the vectors of a dot head are mapped",
        "jaxrec/models/user_encoder.py",
        "return u @ self.maps.of_user if self.config.output_maps else u",
        "return u",
        (f"{_STABILISE}::test_scores_are_kept",),
    ),
)
