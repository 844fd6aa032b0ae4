"""View-dependent prompts and the check of what a user typed."""

import pytest

from headsculpt.prompts import check_prompt, head_view, view_prompt
from headsculpt.synthesis.captions import view_phrase


@pytest.mark.parametrize(
    ("azimuth_deg", "view"),
    [(0, "front"), (34.9, "front"), (-34.9, "front"), (35, "side"), (90, "side"), (-145, "side"),
     (145, "side"), (145.1, "back"), (180, "back"), (-180, "back"), (360, "front"), (540, "back")],
)  # fmt: skip
def test_published_views(azimuth_deg: float, view: str) -> None:
    assert head_view(azimuth_deg) == view
    assert view_prompt("an elf", azimuth_deg)[0] == f"an elf, {view} view of head"


def test_token_only_behind() -> None:
    assert view_prompt("an elf", 180, back_token="<back-view>") == (
        "an elf, back view of head, <back-view>, without eyes, without faces",
        "",
    )
    assert "<back-view>" not in view_prompt("an elf", 90, back_token="<back-view>")[0]
    assert view_prompt("an elf", 180, style="mini", back_token="<b>")[0] == "an elf, back view, <b>"


def test_face_is_suppressed_behind_only_when_asked() -> None:
    assert [view_prompt("an elf", a, suppress_face=True)[1] for a in (0, 90, 180)] == ["", "", "face"]
    assert view_prompt("an elf", 180)[1] == ""


@pytest.mark.parametrize("azimuth_deg", range(-180, 181, 15))
def test_mini_style_speaks_as_the_captions_do(azimuth_deg: float) -> None:
    assert view_prompt("an elf. ", azimuth_deg, style="mini")[0] == f"an elf, {view_phrase(azimuth_deg)}"


def test_unknown_style() -> None:
    with pytest.raises(ValueError, match="unknown prompt style 'sdxl'; expected headsculpt or mini"):
        view_prompt("an elf", 0, style="sdxl")  # type: ignore[arg-type]


def test_check_prompt() -> None:
    assert check_prompt("  an elf ") == "an elf"
    assert check_prompt("word " * 100)
    with pytest.raises(ValueError, match="the prompt is empty; describe a head in a few words"):
        check_prompt(" \n")
    with pytest.raises(ValueError, match="the instruction is empty; say in a few words what to change"):
        check_prompt("", what="instruction")
    with pytest.raises(ValueError, match="the prompt has 2000 words and the limit is 100; shorten it"):
        check_prompt("word " * 2000)
