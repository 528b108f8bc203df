"""Multi-head attention: several implementations of one function, and their choice.

Every implementation maps queries q [R, L, H, d], keys and values k and v [R, M, H, d] and an attention mask
[R, L, M] to softmax(q k^T / sqrt(d)) v for each head, [R, L, H, d]. Masked keys get no weight. A query whose
keys are all masked gets finite values. L equals M, except where candidates attend to a cached history.

Axis letters: R rows, L queries, M keys, H heads, d width of a head, D = H d.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxrec.core.errors import InputError
from jaxrec.models.kernels import attention, pallas
from jaxrec.models.layers.dense import at_least_float32

_MASKED_SCORE = -1e9  # its exponential is 0 relative to any other score

KeysValues = tuple[jax.Array, jax.Array]  # k and v of a layer, [R, M, H, d] each


# Keys and values before the row's own, or a function that makes them of the row's own.
Before = KeysValues | Callable[[jax.Array, jax.Array], KeysValues]


class EarlierKeys(NamedTuple):
    """Keys of earlier columns, as one position reads them; M of them, then its own.

    Attributes:
        layers: Keys and values [B, M, H, d] of each block.
        seen_Bx1xM1: Bool, True where attention is allowed; the last one is the position's own key.
        time_BxM1: uint32 seconds since 1970 of the keys and of the position.
        apart_1xM1: int32 distances in columns to the keys.
    """

    layers: tuple[KeysValues, ...]
    seen_Bx1xM1: jax.Array
    time_BxM1: jax.Array
    apart_1xM1: jax.Array


def append_keys_values(cache: Before | None, k_RxLxHxd: jax.Array, v_RxLxHxd: jax.Array) -> KeysValues:
    """Append keys and values of L positions to N earlier ones: [R, N + L, H, d]."""
    chex.assert_equal_shape([k_RxLxHxd, v_RxLxHxd], custom_message="k_RxLxHxd, v_RxLxHxd")
    if cache is None:
        return k_RxLxHxd, v_RxLxHxd
    if callable(cache):
        cache = cache(k_RxLxHxd, v_RxLxHxd)
    k, v = (jnp.concatenate(pair, axis=1) for pair in zip(cache, (k_RxLxHxd, v_RxLxHxd), strict=True))
    return k, v


@jax.custom_vjp
def scores(q_RxLxHxd: jax.Array, k_RxMxHxd: jax.Array) -> jax.Array:
    """Attention scores q k^T of each head, [R, H, L, M], in at least float32.

    A softmax needs more precision than bfloat16 has. The backward pass computes in the dtype of q: with the
    gradient that jax derives, both backward products would be in float32, for a gradient that is rounded
    anyway.
    """
    dtype = at_least_float32(q_RxLxHxd.dtype)
    return jnp.einsum("blhd,bmhd->bhlm", q_RxLxHxd, k_RxMxHxd, preferred_element_type=dtype)


def _scores_forward(q, k):
    return scores(q, k), (q, k)


def _scores_backward(residuals, gradient):
    q, k = residuals
    g_RxHxLxM = gradient.astype(q.dtype)
    return jnp.einsum("bhlm,bmhd->blhd", g_RxHxLxM, k), jnp.einsum("bhlm,blhd->bmhd", g_RxHxLxM, q)


scores.defvjp(_scores_forward, _scores_backward)


def _weighted_sum(s_RxHxLxM: jax.Array, v_RxMxHxd: jax.Array) -> jax.Array:
    """Compute softmax(s) v of each head, [R, L, H, d]."""
    p_RxHxLxM = jax.nn.softmax(s_RxHxLxM, axis=-1).astype(v_RxMxHxd.dtype)
    return jnp.einsum("bhlm,bmhd->blhd", p_RxHxLxM, v_RxMxHxd)


@jax.custom_vjp
def weighted_sum(s_RxHxLxM: jax.Array, v_RxMxHxd: jax.Array) -> jax.Array:
    """Compute softmax(s) v of each head, [R, L, H, d].

    Without a gradient, the division by the sum of weights follows the product: d numbers per position instead
    of M. Evaluation on two CPU cores takes up to a tenth less time. Training would take more, so its forward
    pass is `_weighted_sum`.
    """
    e_RxHxLxM = jnp.exp(s_RxHxLxM - s_RxHxLxM.max(-1, keepdims=True))
    y_RxLxHxd = jnp.einsum("bhlm,bmhd->blhd", e_RxHxLxM.astype(v_RxMxHxd.dtype), v_RxMxHxd)
    sum_RxLxHx1 = e_RxHxLxM.sum(-1).transpose(0, 2, 1)[..., None]
    return (y_RxLxHxd / sum_RxLxHx1).astype(v_RxMxHxd.dtype)


weighted_sum.defvjp(lambda s, v: jax.vjp(_weighted_sum, s, v), lambda pullback, gradient: pullback(gradient))


def einsum(q_RxLxHxd, k_RxMxHxd, v_RxMxHxd, mask_RxLxM) -> jax.Array:
    """Attention by two matrix products per head.

    Args:
        q_RxLxHxd: queries.
        k_RxMxHxd: keys.
        v_RxMxHxd: values.
        mask_RxLxM: bool, True where a query attends to a key.

    Returns:
        [R, L, H, d]; finite for a query without keys.
    """
    s_RxHxLxM = scores(q_RxLxHxd * q_RxLxHxd.shape[-1] ** -0.5, k_RxMxHxd)
    return weighted_sum(jnp.where(mask_RxLxM[:, None], s_RxHxLxM, _MASKED_SCORE), v_RxMxHxd)


def dot_product(q_RxLxHxd, k_RxMxHxd, v_RxMxHxd, mask_RxLxM) -> jax.Array:
    """Attention by `jax.nn.dot_product_attention`, compiled by XLA.

    Arguments and result are those of `einsum`.
    """
    mask_Rx1xLxM = mask_RxLxM[:, None]
    return jax.nn.dot_product_attention(
        q_RxLxHxd, k_RxMxHxd, v_RxMxHxd, mask=mask_Rx1xLxM, implementation="xla"
    )


class AttentionForm(NamedTuple):
    """Implementation of attention, and the conditions under which it is allowed.

    Attributes:
        attend: Function of q, k, v and mask, as `einsum`.
        fused: As `attend_fused`, for rows of at most `kernels.attention.MAX_LENGTH` positions; None: `attend`
            for all rows.
        dtypes: Names of the allowed compute dtypes.
        backends: Names of the allowed backends; empty: all.
        widths: Allowed widths of a head.
    """

    attend: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
    # As `attend_fused`, for rows of at most `kernels.attention.MAX_LENGTH` positions; None: `attend` for all.
    fused: Callable[[jax.Array, jax.Array, int], jax.Array] | None = None
    dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16")
    backends: tuple[str, ...] = ()
    widths: range = range(1, 2**31)


FORMS = {
    "einsum": AttentionForm(einsum),
    # No float64: the softmax of this implementation is always in float32.
    "dot_product": AttentionForm(dot_product, None, ("float32", "bfloat16")),
    "pallas": AttentionForm(einsum, attention.attend, pallas.DTYPES, ("gpu",), range(1, 129)),
}


def allowed_forms(backend: str, dtype: str, width: int) -> tuple[str, ...]:
    """Names of the implementations allowed on a backend.

    Args:
        backend: name of the backend, such as "cpu".
        dtype: name of the compute dtype.
        width: width of a head.
    """
    return tuple(
        name
        for name, form in FORMS.items()
        if dtype in form.dtypes and (not form.backends or backend in form.backends) and width in form.widths
        if form.fused is None or pallas.is_available(backend, dtype)
    )


def check_form(name: str, backend: str, dtype: str, width: int) -> None:
    """Check the config value `model.attention_impl=name`; "auto" is always allowed.

    Args:
        name: name of an implementation, or "auto".
        backend: name of the backend.
        dtype: name of the compute dtype.
        width: width of a head.

    Raises:
        InputError: the implementation is not allowed; the message lists the allowed names.
    """
    names = ("auto", *allowed_forms(backend, dtype, width))
    if name not in names:
        raise InputError(
            f"model.attention_impl={name!r} must be one of {', '.join(names)}: on {backend}, in {dtype}, "
            f"with heads of width {width}"
        )


# The implementation with the fastest training step, of all that were allowed. Only the time of the whole
# step counts: alone, dot_product is 1.1 to 1.6 times faster than einsum on a CPU, but in the step it is not;
# it stays as jax's own form, to compare with. The order was the same for rows of 7 and of 20 positions, many
# or few. On an H200, a step of 8192 examples in bfloat16 takes 4.2 ms by the kernel and 5.8 ms by einsum
# (benchmarks/results/h200.md). Float32 was not timed there. The kernel of cuDNN and broadcast products won no
# step and were removed.
_FASTEST = {("cpu", "float32"): "einsum", ("gpu", "float32"): "pallas", ("gpu", "bfloat16"): "pallas"}


def choose_form(backend: str, dtype: str, width: int) -> str:
    """Choose the implementation for "auto": the fastest allowed one, else einsum.

    Args:
        backend: name of the backend.
        dtype: name of the compute dtype.
        width: width of a head.
    """
    fastest = _FASTEST.get((backend, dtype), "einsum")
    return fastest if fastest in allowed_forms(backend, dtype, width) else "einsum"


def _form(name: str, dtype: str, width: int) -> AttentionForm:
    backend = jax.default_backend()
    check_form(name, backend, dtype, width)
    return FORMS[choose_form(backend, dtype, width) if name == "auto" else name]


def attend(name: str, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Compute attention by the implementation `name`, or "auto".

    Args:
        name: name of an implementation.
        q: [R, L, H, d].
        k: [R, M, H, d].
        v: [R, M, H, d].
        mask: bool [R, L, M].

    Returns:
        [R, L, H, d].

    Raises:
        InputError: the implementation is not allowed on this backend, in this dtype and head width.
    """
    chex.assert_rank(q, 4, custom_message="q [R, L, H, d]")
    chex.assert_shape([k, v], (q.shape[0], None, *q.shape[2:]), custom_message="k, v [R, M, H, d]")
    chex.assert_shape(mask, (*q.shape[:2], k.shape[1]), custom_message="mask [R, L, M]")
    chex.assert_type(mask, bool, custom_message="mask")
    return _form(name, str(q.dtype), q.shape[-1]).attend(q, k, v, mask)


def attend_fused(name: str, qkv_RxLx3D: jax.Array, mask_RxLxL: jax.Array, heads: int) -> jax.Array:
    """Compute self-attention [R, L, D] of concatenated q, k and v.

    Args:
        name: name of an implementation, or "auto".
        qkv_RxLx3D: q, k and v.
        mask_RxLxL: bool.
        heads: number of heads H.

    Raises:
        InputError: the implementation is not allowed on this backend, in this dtype and head width.
    """
    chex.assert_rank(qkv_RxLx3D, 3, custom_message="qkv_RxLx3D")
    chex.assert_shape(mask_RxLxL, (*qkv_RxLx3D.shape[:2], qkv_RxLx3D.shape[1]), custom_message="mask_RxLxL")
    chex.assert_type(mask_RxLxL, bool, custom_message="mask_RxLxL")
    R, L, D = *qkv_RxLx3D.shape[:2], qkv_RxLx3D.shape[2] // 3
    form = _form(name, str(qkv_RxLx3D.dtype), D // heads)
    if form.fused is not None and L <= attention.MAX_LENGTH:
        return form.fused(qkv_RxLx3D, mask_RxLxL, heads)
    return form.attend(*split_fused(qkv_RxLx3D, heads), mask_RxLxL).reshape(R, L, D)


def split_fused(qkv_RxLx3D: jax.Array, heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Split concatenated q, k and v [R, L, 3 D] into heads, [R, L, H, d] each.

    Args:
        qkv_RxLx3D: q, k and v.
        heads: number of heads H; must divide D.
    """
    R, L, _ = qkv_RxLx3D.shape
    q, k, v = (x.reshape(R, L, heads, -1) for x in jnp.split(qkv_RxLx3D, 3, axis=-1))
    return q, k, v
