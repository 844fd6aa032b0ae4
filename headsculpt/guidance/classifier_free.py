"""Classifier-free guidance: the one place in the package where two predictions become one."""

from __future__ import annotations

from typing import Literal

from torch import Tensor


def classifier_free_guidance(
    conditional: Tensor,
    unconditional: Tensor,
    scale: float,
    *,
    form: Literal["standard", "one_plus"] = "standard",
    rescale: float = 0.0,
) -> Tensor:
    """Guided noise prediction.

    Two formulas are in use, and they differ by one unit of scale:

    * ``standard``: ``e_u + s (e_c - e_u)`` (Ho and Salimans 2022; diffusers; HeadSculpt's editing, A.10).
      ``s = 1`` is the plain conditional prediction.
    * ``one_plus``: ``e_c + s (e_c - e_u)`` (HeadSculpt's generation, A.8; threestudio).
      ``s = 0`` is the plain conditional prediction.

    Ours on top of either: ``rescale`` pulls the result's standard deviation back to that of the
    conditional prediction (Lin et al. 2023, "Common Diffusion Noise Schedules", eq. 15 and 16), which is
    what keeps colours from saturating at large scales.

    Args:
        conditional: ``(B, C, h, w)`` prediction with the text.
        unconditional: ``(B, C, h, w)`` prediction with the empty or the negative text.
        scale: guidance scale ``s``.
        form: which of the two formulas.
        rescale: 0 = off, 1 = full rescaling.

    Returns:
        ``(B, C, h, w)`` guided prediction.

    Raises:
        ValueError: an unknown form.
    """
    difference = conditional - unconditional
    if form == "standard":
        guided = unconditional + scale * difference
    elif form == "one_plus":
        guided = conditional + scale * difference
    else:
        raise ValueError(f"form is 'standard' or 'one_plus'; got {form!r}")
    if rescale > 0:
        dims = tuple(range(1, guided.dim()))
        ratio = conditional.std(dims, keepdim=True) / guided.std(dims, keepdim=True).clamp_min(1e-8)
        guided = guided * (1 - rescale + rescale * ratio)
    return guided
