"""What the diffusion model is told about each view.

Two styles. ``headsculpt`` is the published one (HeadSculpt, ``nerf/utils.py``): "..., front view of head",
with front within 35 degrees of the face, back within 35 degrees of straight behind, side otherwise; behind
the head a learned ``<back-view>`` token may follow. ``mini`` says the view in the words that the mini family
was trained with, :func:`headsculpt.synthesis.captions.view_phrase`. Classes switch hard at their edges.
"""

from __future__ import annotations

from typing import Literal, get_args

from headsculpt.synthesis.captions import view_phrase

PromptStyle = Literal["headsculpt", "mini"]

FRONT_DEG = 35.0  # half of HeadSculpt's angle_front
BACK_DEG = 35.0  # half of HeadSculpt's angle_back
MAX_WORDS = 100


def head_view(azimuth_deg: float) -> Literal["front", "side", "back"]:
    """HeadSculpt's class of a view; any angle in degrees, 0 sees the face."""
    turned = abs((azimuth_deg + 180.0) % 360.0 - 180.0)
    if turned < FRONT_DEG:
        return "front"
    return "back" if 180.0 - turned < BACK_DEG else "side"


def view_prompt(
    text: str,
    azimuth_deg: float,
    *,
    style: PromptStyle = "headsculpt",
    back_token: str | None = None,
    suppress_face: bool = False,
) -> tuple[str, str]:
    """The prompt and the negative prompt for one view.

    Args:
        text: what the user wants.
        azimuth_deg: of the camera; 0 sees the face, 90 the head's left side.
        style: see the module.
        back_token: a learned token such as ``"<back-view>"``, said behind the head; in ``headsculpt`` style
            ", without eyes, without faces" follows it, as published. None leaves both away.
        suppress_face: the negative prompt says "face" behind the head. HeadSculpt has this too (there also
            from the sides), off by default as here.

    Returns:
        positive, negative. The negative prompt is empty unless ``suppress_face`` fills it.

    Raises:
        ValueError: an unknown style.

    Example:
        >>> view_prompt("an elf", 170, back_token="<back-view>")[0]
        'an elf, back view of head, <back-view>, without eyes, without faces'
        >>> view_prompt("an elf", 90, style="mini")[0]
        'an elf, left side view'
    """
    if style not in get_args(PromptStyle):
        raise ValueError(f"unknown prompt style {style!r}; expected {' or '.join(get_args(PromptStyle))}")
    text = text.strip().rstrip(".,; ")
    view = head_view(azimuth_deg)
    words = f"{view} view of head" if style == "headsculpt" else view_phrase(azimuth_deg)
    positive = f"{text}, {words}"
    if view == "back" and back_token:
        positive += f", {back_token}"
        positive += ", without eyes, without faces" if style == "headsculpt" else ""
    return positive, "face" if view == "back" and suppress_face else ""


def check_prompt(text: str, *, what: str = "prompt") -> str:
    """The text without space around it, if it can be used at all.

    Args:
        text: a prompt or an editing instruction.
        what: how messages call it.

    Raises:
        ValueError: nothing but space, more than ``MAX_WORDS`` words, or what is no character.
    """
    unreadable = next((c for c in text if c == "\0" or "\ud800" <= c <= "\udfff"), None)
    if unreadable is not None:
        raise ValueError(f"the {what} holds {unreadable!r}, which is no character; type it anew")
    words = len(text.split())
    if words == 0:
        raise ValueError(
            f'the {what} is empty; describe a head in a few words, such as "an old man with a white beard"'
            if what == "prompt"
            else f'the {what} is empty; say in a few words what to change, such as "add round glasses"'
        )
    if words > MAX_WORDS:
        raise ValueError(
            f"the {what} has {words} words and the limit is {MAX_WORDS}; shorten it to what can be seen on a "
            "head"
        )
    return text.strip()
