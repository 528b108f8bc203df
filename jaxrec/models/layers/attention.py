"""Attention of several heads, written in ways that are the same function, and which of them is taken.

Every form maps q [R, L, H, d], k and v [R, M, H, d] and `same` [R, L, M], who sees whom, to
softmax(q k^T / sqrt(d)) v for each head, [R, L, H, d]. Columns not of the same get no weight; a place that
sees none comes back finite. L is M but where candidates see a history that was read before them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.core.errors import InputError
from jaxrec.models.kernels import attention, pallas
from jaxrec.models.layers.dense import at_least_float32

_HIDDEN = -1e9  # a score whose exponential is 0 beside any other

KeysValues = tuple[jax.Array, jax.Array]  # k and v of a layer's places, [R, M, H, d] each


def append_keys_values(before: KeysValues | None, k_RxLxHxd: jax.Array, v_RxLxHxd: jax.Array) -> KeysValues:
    """Keys and values of L places behind those of the places `before` them, [R, N + L, H, d]."""
    if before is None:
        return k_RxLxHxd, v_RxLxHxd
    k, v = (jnp.concatenate(pair, axis=1) for pair in zip(before, (k_RxLxHxd, v_RxLxHxd), strict=True))
    return k, v


@jax.custom_vjp
def scores(q_RxLxHxd: jax.Array, k_RxMxHxd: jax.Array) -> jax.Array:
    """q k^T of each head, [R, H, L, M], in at least float32: a softmax wants more than bfloat16 holds.

    Its gradient goes back in the dtype of q: as jax derives it, both products of the way back would be in
    float32, for a gradient that has been rounded by then anyway.
    """
    dtype = at_least_float32(q_RxLxHxd.dtype)
    return jnp.einsum("blhd,bmhd->bhlm", q_RxLxHxd, k_RxMxHxd, preferred_element_type=dtype)


def _scores_forward(q, k):
    return scores(q, k), (q, k)


def _scores_backward(given, gradient):
    q, k = given
    g_RxHxLxM = gradient.astype(q.dtype)
    return jnp.einsum("bhlm,bmhd->blhd", g_RxHxLxM, k), jnp.einsum("bhlm,blhd->bmhd", g_RxHxLxM, q)


scores.defvjp(_scores_forward, _scores_backward)


def _weighted_sum(s_RxHxLxM: jax.Array, v_RxMxHxd: jax.Array) -> jax.Array:
    """softmax(s) v of each head, [R, L, H, d]."""
    p_RxHxLxM = jax.nn.softmax(s_RxHxLxM, axis=-1).astype(v_RxMxHxd.dtype)
    return jnp.einsum("bhlm,bmhd->blhd", p_RxHxLxM, v_RxMxHxd)


@jax.custom_vjp
def weighted_sum(s_RxHxLxM: jax.Array, v_RxMxHxd: jax.Array) -> jax.Array:
    """`_weighed`. Where no gradient is wanted, divided by the sum of weights after the product, d numbers a
    place and not M: evaluation on two CPU cores takes up to a tenth less. In training it would take more."""
    e_RxHxLxM = jnp.exp(s_RxHxLxM - s_RxHxLxM.max(-1, keepdims=True))
    y_RxLxHxd = jnp.einsum("bhlm,bmhd->blhd", e_RxHxLxM.astype(v_RxMxHxd.dtype), v_RxMxHxd)
    sum_RxLxHx1 = e_RxHxLxM.sum(-1).transpose(0, 2, 1)[..., None]
    return (y_RxLxHxd / sum_RxLxHx1).astype(v_RxMxHxd.dtype)


weighted_sum.defvjp(lambda s, v: jax.vjp(_weighted_sum, s, v), lambda pull, gradient: pull(gradient))


def einsum(q_RxLxHxd, k_RxMxHxd, v_RxMxHxd, same_RxLxM) -> jax.Array:
    """Two matrix products a head."""
    s_RxHxLxM = scores(q_RxLxHxd * q_RxLxHxd.shape[-1] ** -0.5, k_RxMxHxd)
    return weighted_sum(jnp.where(same_RxLxM[:, None], s_RxHxLxM, _HIDDEN), v_RxMxHxd)


def dot_product(q_RxLxHxd, k_RxMxHxd, v_RxMxHxd, same_RxLxM) -> jax.Array:
    """jax's own, by XLA."""
    mask_Rx1xLxM = same_RxLxM[:, None]
    return jax.nn.dot_product_attention(
        q_RxLxHxd, k_RxMxHxd, v_RxMxHxd, mask=mask_Rx1xLxM, implementation="xla"
    )


def cudnn(q_RxLxHxd, k_RxMxHxd, v_RxMxHxd, same_RxLxM) -> jax.Array:
    """cuDNN's kernel. It has no gradient of masked rows of an odd length, so those get a place that nobody
    sees."""
    L, M = same_RxLxM.shape[1:]
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q_RxLxHxd, k_RxMxHxd, v_RxMxHxd)
    )
    mask_Rx1xLxM = jnp.pad(same_RxLxM, ((0, 0), (0, L % 2), (0, M % 2)))[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask_Rx1xLxM, implementation="cudnn")[:, :L]


def broadcast(q_RxLxHxd, k_RxMxHxd, v_RxMxHxd, same_RxLxM) -> jax.Array:
    """Products written out and summed: no matrix product, for heads too narrow to fill one."""
    dtype = at_least_float32(q_RxLxHxd.dtype)
    q_RxLxHxd = q_RxLxHxd * q_RxLxHxd.shape[-1] ** -0.5
    s_RxLxMxH = (q_RxLxHxd[:, :, None] * k_RxMxHxd[:, None]).sum(-1, dtype=dtype)
    p_RxLxMxH = jax.nn.softmax(jnp.where(same_RxLxM[..., None], s_RxLxMxH, _HIDDEN), axis=2)
    return (p_RxLxMxH.astype(v_RxMxHxd.dtype)[..., None] * v_RxMxHxd[:, None]).sum(2)


class AttentionForm(NamedTuple):
    """A way to work it out, and where it can be."""

    attend: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
    # `of_joined` of rows that are no longer than `attention_kernel.LONGEST`; None: as `attend`.
    joined: Callable[[jax.Array, jax.Array, int], jax.Array] | None = None
    dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16")
    backends: tuple[str, ...] = ()  # empty: every one
    widths: range = range(1, 2**31)  # of a head


FORMS = {
    "einsum": AttentionForm(einsum),
    # Its softmax is float32 even in float64.
    "dot_product": AttentionForm(dot_product, None, ("float32", "bfloat16")),
    "cudnn": AttentionForm(cudnn, None, ("bfloat16",), ("gpu",), range(8, 129, 8)),
    "broadcast": AttentionForm(broadcast),
    "pallas": AttentionForm(einsum, attention.attend, pallas.DTYPES, ("gpu",), range(1, 129)),
}


def allowed_forms(backend: str, dtype: str, width: int) -> tuple[str, ...]:
    """The forms that can be had on a backend in a dtype, for heads so wide."""
    return tuple(
        name
        for name, form in FORMS.items()
        if dtype in form.dtypes and (not form.backends or backend in form.backends) and width in form.widths
        if form.joined is None or pallas.is_available(backend, dtype)
    )


def check_form(name: str, backend: str, dtype: str, width: int) -> None:
    """Raises InputError where `model.attention=name` cannot be had; "auto" always can."""
    names = ("auto", *allowed_forms(backend, dtype, width))
    if name not in names:
        raise InputError(
            f"model.attention={name!r} must be one of {', '.join(names)}: on {backend}, in {dtype}, "
            f"with heads {width} wide"
        )


# What the whole training step was fastest by, of all that could be had. It has to be the step: by itself
# dot_product is the faster one on a CPU, 1.1 to 1.6 times, and in the step, among its neighbours, it is not.
# Rows of 7 and of 20 places, many or few, made no difference. On an H200 the step at 8192 takes 4.2 ms by the
# kernel, in bfloat16, and 5.8 by einsum (benchmarks/results/h200.md); float32 was not timed there.
_FASTEST = {("cpu", "float32"): "einsum", ("gpu", "float32"): "pallas", ("gpu", "bfloat16"): "pallas"}


def choose_form(backend: str, dtype: str, width: int) -> str:
    """The form that "auto" takes: the fastest, or einsum where that cannot be had."""
    found = _FASTEST.get((backend, dtype), "einsum")
    return found if found in allowed_forms(backend, dtype, width) else "einsum"


def _form(name: str, dtype: str, width: int) -> AttentionForm:
    backend = jax.default_backend()
    check_form(name, backend, dtype, width)
    return FORMS[choose_form(backend, dtype, width) if name == "auto" else name]


def attend(name: str, q: jax.Array, k: jax.Array, v: jax.Array, same: jax.Array) -> jax.Array:
    """By the form of that name, or "auto"."""
    return _form(name, str(q.dtype), q.shape[-1]).attend(q, k, v, same)


def attend_fused(name: str, qkv_RxLx3D: jax.Array, same_RxLxL: jax.Array, heads: int) -> jax.Array:
    """The same of places that see each other alone, [R, L, D], whose q, k and v lie side by side."""
    R, L, D = *qkv_RxLx3D.shape[:2], qkv_RxLx3D.shape[2] // 3
    form = _form(name, str(qkv_RxLx3D.dtype), D // heads)
    if form.joined is not None and L <= attention.LONGEST:
        return form.joined(qkv_RxLx3D, same_RxLxL, heads)
    return form.attend(*split_fused(qkv_RxLx3D, heads), same_RxLxL).reshape(R, L, D)


def split_fused(qkv_RxLx3D: jax.Array, heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q, k and v, [R, L, H, d] each."""
    R, L, _ = qkv_RxLx3D.shape
    q, k, v = (x.reshape(R, L, heads, -1) for x in jnp.split(qkv_RxLx3D, 3, axis=-1))
    return q, k, v
