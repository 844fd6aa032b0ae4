"""Random figures, and sentences about them as people would type them.

A caption states any subset of the attributes, in any order, in many sentence forms. What it leaves unsaid may
be anything, with one exception: a figure of marble, bronze or wood is always called one, so that plain
sentences mean plain people. Colours of such a figure are never stated, because they cannot be seen on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headsculpt.synthesis import wording as w
from headsculpt.synthesis.attributes import (
    CLOTHING,
    COLOURS,
    EARS,
    EYEWEAR,
    FACES,
    FACIAL_HAIR,
    HAIR_COLOURS,
    HAIR_STYLES,
    HEADWEAR,
    MATERIALS,
    NOSES,
    SKINS,
    SUBJECTS,
    Attributes,
)

# headsculpt.cameras.CLOSE_UP_HALF_HEIGHT, repeated because that module loads torch and this one must not.
CLOSE_UP_HALF_HEIGHT = 0.62
ABOVE_DEG = 22.0
MAX_WORDS = 40

# Outer edge of each class of views in degrees of |azimuth|. Ours.
VIEW_EDGES_DEG = ((25.0, "front"), (65.0, "three-quarter"), (115.0, "side"), (150.0, "three-quarter back"))

# Families that a passer-by would mention first: they are left out less often.
_STRIKING = frozenset({"facial_hair", "eyewear", "headwear", "hair_style", "hair_colour"})
# Values that people seldom mention. Said of an eighth of the figures, "calm" and "clean-shaven" meant little to the
# prior, and completed prompts, which always say them, got moustaches.
UNREMARKABLE_SHARE = 0.3
_UNREMARKABLE = {"facial_hair": "none", "eyewear": "none", "headwear": "none", "expression": "neutral",
                 "ears": "plain", "earrings": False}  # fmt: skip
_FAMILIES = ("subject", "skin", "hair_style", "hair_colour", "facial_hair", "eyewear", "headwear",
             "headwear_colour", "expression", "face", "nose", "ears", "earrings", "clothing",
             "clothing_colour")  # fmt: skip


@dataclass(frozen=True)
class Caption:
    """A sentence, and the attribute families whose value it states (fields of :class:`Attributes`)."""

    text: str
    named: frozenset[str]


def _weighted(rng: np.random.Generator, values: Sequence[str], weights: Sequence[float]) -> str:
    cumulative = np.cumsum(weights)
    return values[int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))]


# Rows over SKINS: pale, tan, brown, dark, green, blue, grey. All distributions here are ours.
_SKIN_WEIGHTS = {
    "elf": (34, 20, 13, 10, 6, 12, 5),
    "alien": (4, 3, 3, 3, 35, 34, 18),
    "orc": (3, 4, 5, 4, 70, 5, 9),
    "zombie": (8, 3, 3, 4, 30, 6, 46),
}
_HUMAN_SKIN = (29, 23, 21, 21, 2, 2, 2)
# Rows over HAIR_STYLES: bald, short, long, curly, ponytail, bun, mohawk.
_MALE_HAIR = (22, 27, 14, 15, 6, 5, 11)
_FEMALE_HAIR = (3, 16, 26, 18, 16, 15, 6)
_ANY_HAIR = (16, 19, 16, 14, 11, 9, 15)


def sample_skin(rng: np.random.Generator, subject: str) -> str:
    """A skin colour as this subject has it: mostly green for an orc, grey or green for a zombie."""
    return _weighted(rng, SKINS, _SKIN_WEIGHTS.get(subject, _HUMAN_SKIN))


def sample_attributes(rng: np.random.Generator) -> Attributes:
    """A plausible random figure; every value of every family comes up in at least 4 % of them.

    Args:
        rng: the only source of randomness.

    Returns:
        Attributes with all families filled in, also those that cannot be seen (the hair colour of a bald
        and beardless man, the colour of a hat that is not there).
    """
    subject = _weighted(rng, SUBJECTS, [1.0] * len(SUBJECTS))
    human, male, female = subject in w.HUMANS, subject in w.MALE, subject in w.FEMALE
    old, child = subject.startswith("old"), subject in ("boy", "girl")
    skin = sample_skin(rng, subject)

    headwear = _weighted(rng, HEADWEAR, (45, 9, 9, 9.5, 9.5, 9, 9))
    hair: list[float] = list(_MALE_HAIR if male else _FEMALE_HAIR if female else _ANY_HAIR)
    if child:
        hair[0] *= 0.15
    if subject == "old man":
        hair[0] *= 1.8
    if headwear not in ("none", "headphones"):  # a hat has no room for what stands on top of the head
        hair[5] *= 0.15
        hair[6] *= 0.05
    else:
        hair[5] *= 1.3
        hair[6] *= 1.3
    hair_style = _weighted(rng, HAIR_STYLES, hair)
    colours = (5, 5, 4, 4, 36, 36, 4, 3, 3) if old else (17, 17, 15, 14, 7, 6, 9, 9, 9)

    beard: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    if subject in ("man", "old man"):
        beard = (0.25, 0.24, 0.21, 0.3)
    elif subject == "orc":
        beard = (0.45, 0.15, 0.18, 0.22)
    elif subject in ("zombie", "elf", "alien"):
        beard = (0.82, 0.06, 0.06, 0.06)

    formal = 0.3 if child else 0.7 if headwear == "top hat" else 1.0
    return Attributes(
        subject=subject,
        material=_weighted(rng, MATERIALS, (82, 6, 6, 6)),
        skin=skin,
        hair_style=hair_style,
        hair_colour=_weighted(rng, HAIR_COLOURS, colours),
        facial_hair=_weighted(rng, FACIAL_HAIR, beard),
        eyewear=_weighted(rng, EYEWEAR, (46, 15, 15, 13, 11)),
        headwear=headwear,
        headwear_colour=_weighted(rng, COLOURS, [1.0] * len(COLOURS)),
        expression=_weighted(rng, ("neutral", "smiling", "sad", "angry", "surprised"), (24, 22, 17, 19, 18)),
        face=_weighted(rng, FACES, (34, 33, 33) if human else (36, 30, 34)),
        nose=_weighted(rng, NOSES, (34, 33, 33)),
        ears="pointed" if subject == "elf" else _weighted(rng, EARS, (85, 15) if human else (55, 45)),
        earrings=bool(rng.random() < (0.5 if female else 0.35 if subject == "elf" else 0.2)),
        clothing=_weighted(rng, CLOTHING, (35, 33, 32 * formal)),
        clothing_colour=_weighted(rng, COLOURS, [1.0] * len(COLOURS)),
    )


def view_class(azimuth_deg: float) -> tuple[str, str]:
    """The class of a view (a key of ``wording.VIEWS``) and the side it is seen from, "left" or "right".

    Args:
        azimuth_deg: any angle; 0 sees the face, 90 the head's left side.
    """
    azimuth = (azimuth_deg + 180.0) % 360.0 - 180.0
    side = "left" if azimuth >= 0 else "right"
    for edge, name in VIEW_EDGES_DEG:
        if abs(azimuth) < edge:
            return name, side
    return "back", side


def view_phrase(azimuth_deg: float) -> str:
    """The plain words for a view: "front view", "left side view", "three-quarter back view from the right".

    Left is the head's own left, positive azimuth. Edges between the classes: 25, 65, 115 and 150 degrees.
    """
    name, side = view_class(azimuth_deg)
    return w.VIEWS[name][0].format(side=side)


def caption(
    attributes: Attributes,
    rng: np.random.Generator,
    *,
    azimuth_deg: float | None = None,
    elevation_deg: float | None = None,
    half_height: float | None = None,
    drop: float = 0.35,
    most: float = 1.0,
    view_share: float = 0.6,
) -> Caption:
    """A sentence of at most 40 words about a figure.

    Args:
        attributes: the figure.
        rng: the only source of randomness.
        azimuth_deg: of the camera; the share ``view_share`` of captions then names the view.
        elevation_deg: of the camera; above 22 degrees the caption sometimes says so.
        half_height: of the camera's frame, scene units; below 0.62 the caption sometimes says "close-up".
        drop, most: the least and the greatest chance of a family to be left out, in [0, 1]. Each caption draws
            its own between them, so by default some say nearly everything and some only who it is. Striking
            things (hair, beard, eyewear, headwear) are left out less often, the absence of things more often.
        view_share: see ``azimuth_deg``.

    Raises:
        ValueError: not 0 <= ``drop`` <= ``most`` <= 1.
    """
    if not 0.0 <= drop <= most <= 1.0:
        raise ValueError(f"expected 0 <= drop <= most <= 1; got drop={drop}, most={most}")
    named = _families_to_name(attributes, rng, drop + (most - drop) * float(rng.random()))
    camera_words = _camera_words(rng, azimuth_deg, elevation_deg, half_height, view_share)
    while True:
        sentence = _Sentence(attributes, frozenset(named), rng)
        text = _dress(sentence.text(), camera_words, rng)
        if len(text.split()) <= MAX_WORDS:
            return Caption(text, frozenset(sentence.named))
        optional = [family for family in named if family != "subject"]
        named.remove(optional[int(rng.integers(len(optional)))])


def _families_to_name(attributes: Attributes, rng: np.random.Generator, drop: float) -> list[str]:
    named = []
    for family in _FAMILIES:
        omit = drop
        if family == "subject":
            omit = 0.04
        elif _UNREMARKABLE.get(family) == getattr(attributes, family) and family in _UNREMARKABLE:
            omit = 1.0 - UNREMARKABLE_SHARE * (1.0 - drop)
        elif family in _STRIKING:
            omit = drop**2
        elif family in ("headwear_colour", "clothing_colour"):
            omit = drop**3  # of those whose garment is named
        if rng.random() >= omit:
            named.append(family)
    return named


def _camera_words(
    rng: np.random.Generator,
    azimuth_deg: float | None,
    elevation_deg: float | None,
    half_height: float | None,
    view_share: float,
) -> list[str]:
    words = []
    if azimuth_deg is not None and rng.random() < view_share:
        name, side = view_class(azimuth_deg)
        words.append(w.pick(rng, w.VIEWS[name], plain=0.5).format(side=side))
    if elevation_deg is not None and elevation_deg > ABOVE_DEG and rng.random() < 0.35:
        words.append(w.pick(rng, w.ABOVE))
    if half_height is not None and half_height < CLOSE_UP_HALF_HEIGHT and rng.random() < 0.35:
        words.append(w.pick(rng, w.CLOSE))
    return words


def _dress(core: str, camera_words: list[str], rng: np.random.Generator) -> str:
    """The core with an opening, closing words, words that mean nothing, and the view."""
    draw = rng.random()
    if draw < 0.28 and core.startswith("a "):
        core = f"{w.OPENINGS[int(rng.integers(len(w.OPENINGS)))]} {core}"
    parts = [core]
    if rng.random() < 0.12:
        parts.append(w.CLOSINGS[int(rng.integers(len(w.CLOSINGS)))])
    if rng.random() < 0.03:
        parts.append(w.NOISE[int(rng.integers(len(w.NOISE)))])
    if rng.random() < 0.03:
        letters = rng.integers(0, 26, int(rng.integers(3, 9)))
        parts.append("".join(chr(97 + int(letter)) for letter in letters))
    if camera_words and rng.random() < 0.12:
        parts = camera_words + parts
    else:
        parts = parts + camera_words
    text = w.with_articles(", ".join(parts))
    if rng.random() < 0.06:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.08:
        text += "."
    return text


class _Sentence:
    """One sentence in the making: where each named family goes, then the words."""

    def __init__(self, attributes: Attributes, wanted: frozenset[str], rng: np.random.Generator) -> None:
        self.a, self.wanted, self.rng = attributes, wanted, rng
        self.named: set[str] = set()
        self.before: list[str] = []
        self.has: list[str] = []
        self.wears: list[str] = []
        self.lacks: list[str] = []
        self.after: list[str] = []
        if attributes.material != "plain":
            self.named.add("material")
            self.wanted = wanted - {"skin", "hair_colour", "headwear_colour", "clothing_colour"}
        self.noun = self._noun()
        self._hair()
        for family in ("skin", "expression", "face", "nose", "ears"):
            if family in self.wanted:
                self._place(family)
        self._worn()

    def _choose(self, **odds: float) -> str:
        return _weighted(self.rng, tuple(odds), tuple(odds.values()))

    def _noun(self) -> str:
        a, rng = self.a, self.rng
        roles = [r for r in w.ROLES if a.subject in r[1] and getattr(a, r[2]) == r[3]]
        # A role says what its owner wears, so it is for captions that would have said that anyway.
        roles = [r for r in roles if r[2] in self.wanted]
        if roles and rng.random() < 0.4:
            word, _, family, _ = roles[int(rng.integers(len(roles)))]
            if word not in w.VAGUE_ROLES:
                self.named.add(family)
            if word.startswith("old "):
                self.named.add("subject")
            return word
        if "subject" not in self.wanted:
            return w.pick(rng, w.ANYBODY)
        self.named.add("subject")
        if a.subject == "elf":
            self.named.add("ears")  # every elf of this world has pointed ears
        if a.subject in w.SPECIES_MALE and rng.random() < 0.3:
            bearded = a.facial_hair != "none"
            table = w.SPECIES_MALE if bearded or rng.random() < 0.5 else w.SPECIES_FEMALE
            return table[a.subject][int(rng.integers(len(table[a.subject])))]
        return w.pick(rng, w.NOUNS[a.subject], plain=0.5)

    def _place(self, family: str) -> None:
        """Say a face's attribute before the noun, with it, or after it."""
        value = getattr(self.a, family)
        tables = {"before": w.BEFORE, "has": w.HAS, "after": w.AFTER}
        odds = {"before": 0.45, "has": 0.4, "after": 0.25}
        odds = {k: v for k, v in odds.items() if value in tables[k].get(family, {})}
        if len(self.before) >= 2 and len(odds) > 1:
            odds.pop("before", None)
        slot = self._choose(**odds)
        word = w.pick(self.rng, tables[slot][family][value])  # type: ignore[index]
        getattr(self, slot).append(w.fill(word))
        self.named.add(family)

    def _hair(self) -> None:
        """Hair and beard share a colour, so either may say it."""
        a, rng = self.a, self.rng
        colour = w.colour_word(rng, a.hair_colour, hair=True) if "hair_colour" in self.wanted else ""
        beard_said = "facial_hair" in self.wanted
        bearded, bald = a.facial_hair != "none", a.hair_style == "bald"
        on_beard = colour and bearded and beard_said and (bald or rng.random() < 0.6)
        on_hair = colour and not bald and (not on_beard or rng.random() < 0.25)
        if on_beard or on_hair:
            self.named.add("hair_colour")
        if "hair_style" in self.wanted:
            may_precede = not on_hair and a.hair_style in w.BEFORE["hair_style"]
            if may_precede and rng.random() < (0.7 if bald else 0.25):
                self.before.append(w.pick(rng, w.BEFORE["hair_style"][a.hair_style]))
            else:
                phrase = w.fill(w.pick(rng, w.HAS["hair_style"][a.hair_style]), colour if on_hair else "")
                self.has.append(phrase)
            self.named.add("hair_style")
        elif on_hair:
            if rng.random() < 0.25 and colour != a.skin:  # not "a green green-haired orc"
                self.before.append("brunette" if colour in ("chestnut", "brunette") else f"{colour}-haired")
            else:
                self.has.append(f"{colour} hair")
        if beard_said:
            if bearded and (on_beard or a.facial_hair == "goatee" or rng.random() < 0.7):
                # "a bushy beard"; else "a bearded man" or "clean-shaven"
                phrase = w.pick(rng, w.HAS["facial_hair"][a.facial_hair])
                self.has.append(w.fill(phrase, colour if on_beard else ""))
            else:
                self._place("facial_hair")
            self.named.add("facial_hair")

    def _worn(self) -> None:
        a, rng = self.a, self.rng
        for family in ("eyewear", "headwear", "earrings", "clothing"):
            if family not in self.wanted:
                continue
            value = getattr(a, family)
            if value in ("none", False):
                after = w.AFTER.get(family, {}).get("none")
                if after and rng.random() < 0.4:
                    self.after.append(w.pick(rng, after))
                else:
                    self.lacks.append(w.pick(rng, w.WEARS[family][value]))
                self.named.add(family)
                continue
            if family == "eyewear" and value.endswith(" glasses") and rng.random() < 0.06:
                self.wears.append(w.pick(rng, ("glasses", "spectacles")))  # names no shape, so not named
                continue
            colour = ""
            if f"{family}_colour" in self.wanted and value != "crown":
                colour = w.colour_word(rng, getattr(a, f"{family}_colour"))
                self.named.add(f"{family}_colour")
            self.wears.append(w.fill(w.pick(rng, w.WEARS[family][value]), colour))
            self.named.add(family)

    def text(self) -> str:
        draw = self.rng.random()
        rich = len(self.has) + len(self.wears) >= 2
        if draw < 0.12 and rich and self.a.material == "plain":
            return self._told()
        if draw < 0.3:
            return self._tags()
        return self._phrase()

    def _subject(self, article: str) -> str:
        before = [self.before[i] for i in self.rng.permutation(len(self.before))]
        comma = ", " if self.rng.random() < 0.3 else " "
        noun = self.noun
        if noun == "someone":
            return noun if not before else f"{article} {comma.join(before)} person"
        return f"{article} {comma.join(before)} {noun}".strip()

    def _cast(self, subject: str) -> tuple[str, str]:
        """The subject made of its material: what comes before the features, and what comes after."""
        if self.a.material == "plain":
            return subject, ""
        if self.rng.random() < 0.75:
            if not subject.startswith("a ") and subject != "someone":
                subject = f"a {subject}"
            return f"a {w.pick(self.rng, w.MATERIALS[self.a.material], plain=0.55)} of {subject}", ""
        return subject, w.pick(self.rng, w.MADE_OF[self.a.material], plain=0.3)

    def _phrase(self) -> str:
        """Such as: an angry orc with a black mohawk in a suit wearing a hat, frowning."""
        rng = self.rng
        groups: dict[str, list[str]] = {"with": list(self.has), "wearing": [], "in": []}
        for item in self.wears:
            dressy = any(word in item for word in ("shirt", "tee", "hood", "suit", "hat", "cap", "beanie"))
            slot = self._choose(**{"with": 0.4, "wearing": 0.4, "in": 0.5 if dressy else 0.0})
            groups["wearing" if slot == "in" and groups["in"] else slot].append(item)
        for item in self.lacks:
            groups["wearing" if groups["wearing"] and rng.random() < 0.3 else "with"].append(item)
        spoken: list[str] = []
        lonely = sum(map(bool, groups.values())) < 2
        relative = rng.random() < 0.12 and self.noun not in w.FACELESS and not groups["in"]
        order = [("with", "wearing", "in")[i] for i in rng.permutation(3)]
        if rng.random() < 0.6:  # "with a long nose wearing a hat": a hat has no nose
            order.sort(key="in with wearing".split().index)
        for word in order:
            if items := [groups[word][i] for i in rng.permutation(len(groups[word]))]:
                if relative:
                    word = {"with": "who has", "wearing": "who wears"}[word]
                spoken.append(f"{word} {w.listed(rng, items, bare=lonely)}")
        joint = ", " if rng.random() < 0.2 else " "
        if relative:
            joint = " and "
        head, tail = self._cast(self._subject("" if rng.random() < 0.14 else "a"))
        text = head + (f" {joint.join(spoken)}" if spoken else "")
        after = [self.after[i] for i in rng.permutation(len(self.after))]
        return ", ".join([text, *([tail] if tail else []), *after])

    def _tags(self) -> str:
        """Such as: old man, white beard, round glasses."""
        rng = self.rng
        head, tail = self._cast(self._subject("" if rng.random() < 0.65 else "a"))
        items = self.has + self.wears + self.lacks + self.after + ([tail] if tail else [])
        items = [items[i] for i in rng.permutation(len(items))]
        if rng.random() < 0.7:
            items = [item[2:] if item.startswith("a ") else item for item in items]
        return ", ".join([head, *items])

    def _told(self) -> str:
        """Such as: the man has a big nose and wears a red cap, smiling."""
        rng = self.rng
        verbs = []
        if has := [self.has[i] for i in rng.permutation(len(self.has))] + self.lacks:
            verbs.append(f"has {w.listed(rng, has, bare=False)}")
        if wears := [self.wears[i] for i in rng.permutation(len(self.wears))]:
            verbs.append(f"{w.pick(rng, ('wears', 'is wearing'))} {w.listed(rng, wears, bare=False)}")
        if rng.random() < 0.5:
            verbs.reverse()
        subject = self._subject("the" if rng.random() < 0.5 else "this")
        return ", ".join([f"{subject} {' and '.join(verbs)}", *self.after])
