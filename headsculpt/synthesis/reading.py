"""Sentences read back into attributes, and the prompt that an edited head has.

By rule, over the words of :mod:`.wording` and :mod:`.instructions`: "a boy wearing a red baseball cap" and
"take off the cap" give "a boy, bareheaded". What the rules do not know is never lost: it stays in the prompt
as it was typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from headsculpt.synthesis import wording as w
from headsculpt.synthesis.instructions import _EXPRESS, _SHAPES, _SHORT
from headsculpt.synthesis.roles import looks_to_become
from headsculpt.synthesis.synonyms import calling_of, nearest_words

_COLOUR_OF = {"hair_style": "hair_colour", "facial_hair": "hair_colour", "headwear": "headwear_colour",
              "clothing": "clothing_colour"}  # fmt: skip
_COLOURED = ("skin", "hair_colour", "headwear_colour", "clothing_colour")
_GLUE = frozenset(
    "a an the with and in wearing of who has wears is his her its their him it them on this that made to into "
    "give make put add turn change transform let have wear dress cut tie look looks be some like very big".split()
)
BEARDLESS = frozenset({"woman", "old woman", "girl", "boy"})
_NO_KIND = r"(?:an?|the|of|with|and|very|old|young|two|his|her|is)\b"
_THEIR = r"(?:(?:the|his|her|its|their|your|my) )?"
_REMOVE = r"(?:remove|get rid of|take off|take away|take|no more|no|without|shave off|lose|delete|drop)"
_VERB = (
    r"(?:remove|get rid|take|shave|lose|delete|drop|give|add|put|make|turn|change|transform|swap|replace|exchange|dye|"
    r"paint|colou?r|let|have|dress|cut|tie (?:his|her|its|their|the)|grow|keep|leave|do not|don t|stop|no|without)"
)
_POLITE = (
    r"^(?:(?:please|can you|could you|would you|i want you to|i d like you to|let s) )+|"
    r"(?: please| thanks| anymore)+$"
)
_SEX = {**dict.fromkeys(w.MALE, "male"), **dict.fromkeys(w.FEMALE, "female")}


@dataclass
class Reading:
    """What a prompt says.

    Attributes:
        values: attribute family to value, as :class:`headsculpt.synthesis.attributes.Attributes` has them.
        noun: who it is, as typed: "king", "elf girl".
        sex: "male", "female", or "" where the noun leaves it open.
        implied: family and value that a noun such as "king" stands for.
        extra: words that mean no attribute, kept.
        rest: words that were not understood.
    """

    values: dict[str, object] = field(default_factory=dict)
    noun: str = ""
    sex: str = ""
    implied: tuple[str, str] | None = None
    extra: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EditedPrompt:
    """The prompt of an edited head, and what changes on it.

    Attributes:
        text: describes the head after the edit.
        changes: families with their new values; empty where the instruction was not understood.
    """

    text: str
    changes: dict[str, object]


def edited_prompt(prompt: str, instruction: str, *, nearest: bool = False) -> EditedPrompt:
    """What the head looks like after the edit, as a prompt.

    A prompt and an instruction in the vocabulary give a plain sentence of it; of others as much is used as is
    understood, and in the worst case the result is ``"prompt, instruction"``.

    Args:
        prompt: describes the head before.
        instruction: what to change.
        nearest: say an instruction that is not all understood again in nearer words, for a model that knows no others.

    Example:
        >>> edited_prompt("an old man with a white beard", "give him a red cowboy hat").text
        'an old man with a white beard, wearing a red cowboy hat'
        >>> edited_prompt("a clockmaker", "make it baroque").text
        'a clockmaker, make it baroque'
    """
    prompt, instruction = prompt.strip().rstrip(".,; "), instruction.strip().rstrip(".,; ")
    before = read_prompt(prompt)
    if nearest:
        instruction = instruction_in_near_words(instruction, before.values)
    changes, unknown = read_instruction(instruction, before.values)
    if not changes:
        return EditedPrompt(f"{prompt}, {instruction}", {})
    if before.rest:
        text = _clauses_after(prompt, before.values, changes)
    else:
        text = sentence(_after(before, changes))
    # A model that knows no other words is better off without those that were not understood.
    return EditedPrompt(f"{text}, {instruction}" if unknown and not nearest else text, changes)


def read_prompt(text: str) -> Reading:
    """What a prompt says, as far as the vocabulary goes."""
    left = _plain(text)
    found = Reading()
    for opening in sorted(w.OPENINGS, key=len, reverse=True):
        if left.startswith(f"{opening} "):
            left = left[len(opening) + 1 :]
            break
    for word in (*w.CLOSINGS, *w.NOISE):
        left, count = re.subn(rf"(?<![\w-]){re.escape(word)}(?![\w-])", " | ", left)
        found.extra += [word] if count else []
    left = _take(left, _phrases(), found.values)
    left = _material(left, found.values)
    # Who it is stands before what he wears: a girl with a pirate hat is a girl.
    who = re.split(r"(?<![\w-])(?:with|in|wearing|dressed|as|like|who|whose|that)(?![\w-])", left, maxsplit=1)[0]
    known = [(part, noun) for part in (who, left) for noun in _nouns()]
    for part, (word, subject, sex, implied) in known:
        match = re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", part)
        if match:
            found.noun, found.sex, found.implied = word, sex, implied
            if subject:
                found.values["subject"] = subject
            left = left[: match.start()] + " | " + left[match.end() :]
            break
    for word, _, _, implied in _nouns():  # dressed as a pirate
        if implied and (match := re.search(rf"(?<![\w-])(?:as|like) an? {re.escape(word)}(?![\w-])", left)):
            found.values.setdefault(*implied)
            left = left[: match.start()] + " | " + left[match.end() :]
    left = _take(" ".join(left.split()), _adjectives(), found.values)
    found.rest = _unknown(left)
    return found


def read_instruction(text: str, before: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """What an instruction changes on a head of these values.

    Args:
        text: such as "put a blue beanie on him".
        before: values that are known of the head; "make her older" depends on her age.

    Returns:
        families with their new values, and the words that were not understood.
    """
    changes: dict[str, object] = {}
    unknown: list[str] = []
    for part in _orders(_plain(text)):
        found, left = _read_order(part, {**before, **changes})
        changes |= found
        unknown += left
    kept = re.search(rf"(?:keep|leave) {_THEIR}(?:a )?(mo?ustache|goatee)", text.lower())
    if changes.get("facial_hair") == "none" and kept:  # of a beard
        changes["facial_hair"] = "goatee" if kept[1] == "goatee" else "moustache"
    return changes, unknown


def _orders(text: str) -> list[str]:
    """The single orders of an instruction; what is to be kept is none."""
    text = re.sub(_POLITE, "", text)
    text = re.sub(rf"(?: ,)? not {_THEIR}(?:{_thing_words()})$", "", text)
    text = re.sub(rf" instead of {_THEIR}(?:[\w-]+ ){{0,2}}(?:{_thing_words()})(?![\w-])", "", text)
    thing = rf"{_THEIR}(?:{_thing_words()})"
    # "Remove the cap and the beard" and "make the cap and the hair blue" are two orders with one verb.
    between = r"(?: ,| and| or)+ "
    text = re.sub(
        rf"(?<![\w-])(?P<verb>{_REMOVE}|make|turn|dye|paint|colou?r) (?P<things>{thing}(?:{between}{thing})+)"
        rf"(?P<colour>(?: (?:{_colour_words()}))?)(?= ,| and| then| but|$)",
        lambda m: " , ".join(f"{m['verb']} {each}{m['colour']}" for each in re.split(between, m["things"])),
        text,
    )
    coloured = rf"{_THEIR}(?:{_thing_words()}|skin) (?:{_colour_words()})(?: |$)"
    parts = re.split(rf"(?: ,| and| then| but)+ (?={_VERB}(?![\w-])|{coloured})", text)
    kept = re.compile(r"(?:keep|leave|(?:do not|don t) (?:change|touch|remove|take|shave))(?![\w-])")
    return [part for part in parts if not kept.match(part)]


def _read_order(text: str, before: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """What a single order changes; arguments and result as of :func:`read_instruction`."""
    left = text
    changes: dict[str, object] = {}
    things = _thing_words()
    people = "|".join(re.escape(word) for word, subject, _, implied in _nouns() if subject and not implied)
    left = re.sub(rf"(?<![\w-])the (?:{people})(?![\w-])", "them", left)
    another = rf"^(?:replace|swap|change|exchange) {_THEIR}({things}) (?:with|for|to|by) an? ({_colour_words()}) one$"
    left = re.sub(another, r"make the \1 \2", left)
    old_thing = rf"^(?:replace|swap|change|exchange) {_THEIR}(?:[\w-]+ )?(?:{things}|clothes) (?:with|for|to|by) "
    left = re.sub(rf"{old_thing}(?!(?:{_colour_words()})$)", "", left)
    some = r"(?:(?!an? |with )[\w-]+ ){0,2}?"  # of what colour or kind it is
    for pattern in (
        rf"^{_REMOVE} {_THEIR}{some}({things})(?: off| away)?$",
        rf"^{_THEIR}({things}) off$",
        rf"^(?:i )?(?:don t|do not) (?:like|want) {_THEIR}{some}({things})$",
        rf"^(?:he|she|it|they) (?:doesn t|does not|shouldn t|should not|don t) (?:wear|have) (?:an? )?({things})$",
    ):
        if (match := re.match(pattern, left)) is not None:
            family = _things()[match[1]]
            return {family: {"hair_style": "bald", "earrings": False}.get(family, "none")}, []
    if re.match(rf"^(?:{_REMOVE}|don t|do not|stop|make \w+ not) {_THEIR}(?:smil\w+|grin\w*|frown\w*)$", left):
        return {"expression": "neutral"}, []
    if re.match(rf"^{_REMOVE} {_THEIR}(?:pointed|pointy|elf|elven) ears$", left):
        return {"ears": "plain"}, []
    if re.match(rf"^shave {_THEIR}head$", left):
        return {"hair_style": "bald"}, []
    if re.match(r"^shave (?:\w+ ?){1,3}$", left):
        return {"facial_hair": "none"}, []
    recolour = r"(?:make|change|turn|colou?r|dye|paint) (?:only |just )?(?:the colou?r of )?"
    becomes = r"(?: colou?r)?(?: to be| to| into| should be| is| in)?"
    for pattern in (
        rf"^(?:{recolour})?{_THEIR}{some}({things}|skin){becomes} ({_colour_words()})$",
        rf"^({_colour_words()}) ({things})$",
    ):
        if (match := re.match(pattern, left)) is not None:
            thing, word = (match[1], match[2]) if match[1] not in _any_colour() else (match[2], match[1])
            coloured = "skin" if thing == "skin" else _COLOUR_OF.get(_things()[thing], "")
            value = _colour(coloured, word) if coloured else None
            if value:
                return {coloured: value}, []
            if thing != "skin" and not coloured:
                return {}, [word]  # glasses have no colour, and nor does she
    left = _take(left, _commands(), changes)
    if changes.get("material") == "plain" and before.get("subject") == "zombie":  # brought back to life
        changes = {"subject": "woman" if re.search(r"\b(?:her|she)\b", text) else "man"}
    left = _take(left, _phrases(), changes)
    left = _age(left, before, changes)
    left = _material(left, changes)
    for word, _, _, implied in _nouns():  # turn him into a king
        becomes = rf"(?<![\w-])(?:as|like|into|him|her|it|them) an? {re.escape(word)}(?![\w-])"
        if implied and (match := re.search(becomes, left)):
            changes.setdefault(*implied)
            left = left[: match.start()] + " | " + left[match.end() :]
    for word, subject, _, implied in _nouns():
        if not subject or implied:
            continue
        kind = rf"(?:\| )?((?:{_adjective_words()} ){{0,2}})"
        match = re.search(rf"(?<![\w-])(?:an?|into|like) {kind}{re.escape(word)}(?![\w-])", left)
        if match:
            changes["subject"] = subject
            left = f"{left[: match.start()]} | {match[1]}| {left[match.end() :]}"
            break
    left = _take(" ".join(left.split()), _adjectives(), changes)
    return changes, _unknown(left)


def instruction_in_near_words(text: str, before: Mapping[str, object]) -> str:
    """The instruction, in the nearest words of the vocabulary where not all of it is understood, and with what goes
    with who it makes of somebody; arguments as of :func:`read_instruction`."""
    changes, unknown = read_instruction(text, before)
    looks = looks_to_become(text)
    if changes and not unknown and not looks:
        return text
    if before.get("subject") in BEARDLESS:  # a vampire that she becomes is a woman
        text = calling_of(text, str(before["subject"]))
    if before.get("headwear", "none") != "none":  # "make the hat bigger" asks for no other
        text = re.sub(r"(?<![\w-])(the|his|her|their) hat(?![\w-])", rf"\1 {before['headwear']}", text)
    others = {"man": "woman", "boy": "girl", "old man": "old woman"}
    others |= {other: one for one, other in others.items()}
    who = str(before.get("subject", "man"))
    if who in others:
        swap = r"(?:swap|change|switch) (?:(?:the|his|her|their) )?(?:gender|sex)"
        text = re.sub(swap, f"turn into a {others[who]}", text)
    near = nearest_words(text)
    said, _ = read_instruction(near, before)
    typical = fitting(values_of(looks), {"subject": before.get("subject"), **said})
    return ", ".join([near, *features({family: value for family, value in typical.items() if family not in said})])


def values_of(looks: str) -> dict[str, object]:
    """What goes with a calling, in words (:func:`headsculpt.synthesis.roles.looks_of`), as family and value."""
    return read_prompt(f"a person with {looks}").values if looks else {}


def fitting(typical: Mapping[str, object], said: Mapping[str, object], sex: str = "") -> dict[str, object]:
    """What is typical of a calling, as far as it suits who has it.

    Args:
        typical: family to value, of :func:`values_of`.
        said: family to value, of the prompt or instruction.
        sex: as in :class:`Reading`.

    Returns:
        ``typical`` less beards of women and children, white hair of children, skin of those who are no humans, and the
        colours of garments that were said otherwise.
    """
    garments = ("headwear", "clothing")
    others = {f"{garment}_colour" for garment in garments if said.get(garment) not in (None, typical.get(garment))}
    if sex == "female" or said.get("subject") in BEARDLESS:
        others.add("facial_hair")
    if said.get("subject") in ("orc", "zombie", "alien"):  # an orc who is a vampire stays green
        others.add("skin")
    if said.get("subject") in ("boy", "girl") and typical.get("hair_colour") in ("white", "grey"):
        others |= {"hair_colour", "hair_style"}
    return {family: value for family, value in typical.items() if family not in others}


def sentence(found: Reading) -> str:
    """A plain caption of what a reading says."""
    values = dict(found.values)
    material = str(values.pop("material", "plain"))
    if material != "plain":  # colours cannot be seen on it, and no caption of such a figure names any
        values = {family: value for family, value in values.items() if family not in _COLOURED}
    adjectives = [
        w.BEFORE[family][str(values[family])][0]
        for family in ("expression", "skin", "face")
        if family in values and str(values[family]) in w.BEFORE[family]
    ]
    noun = found.noun or _noun(str(values.get("subject", "")), found.sex)
    text = " ".join(["a", *adjectives, noun])
    has, wears, lacks = _grouped(values)
    if has:
        text += " with " + _listed(has)
    if wears:
        text += (", wearing " if has else " wearing ") + _listed(wears)
    text = ", ".join([text, *lacks, *found.extra])
    return w.with_articles(text if material == "plain" else f"a {material} of {text}")


def _after(before: Reading, changes: Mapping[str, object]) -> Reading:
    """The reading with the changes; what a change takes along goes with it."""
    after = Reading(dict(before.values), before.noun, before.sex, before.implied, list(before.extra))
    subject = changes.get("subject")
    if subject is not None:
        after.noun = _noun(str(subject), _SEX.get(str(subject), before.sex))
        if subject not in w.HUMANS or before.values.get("subject", "man") not in w.HUMANS:
            after.values.pop("skin", None)  # an orc is green, whatever the man was
        after.values.pop("ears", None)
        if subject in BEARDLESS and subject != before.values.get("subject"):
            after.values.pop("facial_hair", None)
    if before.implied and before.implied[0] in changes:  # a king without a crown is a man
        after.noun = _noun(str(before.values.get("subject", "man")), before.sex)
    for garment in ("headwear", "clothing"):
        other = garment in changes and changes[garment] != before.values.get(garment)
        if other and f"{garment}_colour" not in changes:
            after.values.pop(f"{garment}_colour", None)
    if changes.get("hair_style") == "bald" and "facial_hair" not in after.values:
        after.values.pop("hair_colour", None)
    after.values.update(changes)
    return after


def _clauses_after(prompt: str, values: Mapping[str, object], changes: Mapping[str, object]) -> str:
    """A prompt that is not all understood, after the edit: clauses that speak of what changes are said anew."""
    gone = {*changes, *(f"{garment}_colour" for garment in ("headwear", "clothing") if garment in changes)}
    if changes.get("hair_style") == "bald" and not _kept_colours(values, changes):
        gone.add("hair_colour")
    left, clauses = dict(changes), []
    for clause in filter(None, (part.strip() for part in prompt.split(","))):
        said = read_prompt(clause)
        named = {*said.values, *(said.implied or ())[:1]} & gone
        if not named or said.rest:  # words that were not understood stay as they were typed
            clauses.append(clause)
        elif said.noun:
            clauses.append(sentence(_after(said, left)))
            left = {}
        else:
            clauses += features({family: value for family, value in said.values.items() if family not in gone})
    return ", ".join([*clauses, *features({**left, **_kept_colours(values, left)})])


def _kept_colours(values: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """The hair's colour, for new hair that was not given another."""
    beard = changes.get("facial_hair", values.get("facial_hair", "none"))
    if changes.get("hair_style") == "bald" and beard == "none":
        return {}
    new_hair = "hair_style" in changes or "facial_hair" in changes
    return {"hair_colour": values["hair_colour"]} if new_hair and "hair_colour" in values else {}


def features(values: Mapping[str, object]) -> list[str]:
    """Each value in words of its own, for a sentence that is not ours."""
    words = []
    if "subject" in values:
        words.append(f"a {_noun(str(values['subject']), '')}")
    if values.get("material", "plain") != "plain":
        words.append(w.MADE_OF[str(values["material"])][0])
    for family in ("expression", "skin", "face"):
        if family in values:
            words.append(w.HAS[family][str(values[family])][0])
    has, wears, lacks = _grouped(values)
    joined = ([f"with {_listed(has)}"] if has else []) + ([f"wearing {_listed(wears)}"] if wears else [])
    return [w.with_articles(part) for part in words + joined + lacks]


def _grouped(values: Mapping[str, object]) -> tuple[list[str], list[str], list[str]]:
    """What somebody has, what somebody wears, and what somebody lacks, in words."""
    has, wears, lacks = [], [], []
    hair = str(values.get("hair_colour", ""))
    if values.get("hair_style") == "bald":
        has.append(w.HAS["hair_style"]["bald"][0])
    elif "hair_style" in values:
        has.append(w.fill(w.HAS["hair_style"][str(values["hair_style"])][0], hair))
    elif hair and values.get("facial_hair", "none") == "none":
        has.append(f"{hair} hair")
    if values.get("facial_hair", "none") != "none":
        has.append(w.fill(w.HAS["facial_hair"][str(values["facial_hair"])][0], hair))
    has += [w.HAS[f][str(values[f])][0] for f in ("nose", "ears") if f in values]
    for family in ("eyewear", "headwear", "clothing"):
        value = values.get(family, "none")
        if value != "none":
            wears.append(w.fill(w.WEARS[family][value][0], str(values.get(f"{family}_colour", ""))))
        elif f"{family}_colour" in values and family == "clothing":
            wears.append(f"{values['clothing_colour']} clothes")
    if values.get("earrings"):
        wears.append(w.WEARS["earrings"][True][0])
    for family in ("facial_hair", "eyewear", "headwear", "earrings"):
        if values.get(family, "some") in ("none", False):
            lacks.append(w.AFTER[family]["none"][0])
    return has, wears, lacks


def _noun(subject: str, sex: str) -> str:
    if not subject:
        return "person"
    table = {"male": w.SPECIES_MALE, "female": w.SPECIES_FEMALE}.get(sex, {})
    return table[subject][0] if subject in table else w.NOUNS[subject][0]


def _listed(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _plain(text: str) -> str:
    text = re.sub(r"^(?:please|now|then) ", "", text.strip().lower().rstrip(".!,; "))
    text = " ".join(re.sub(r"[^\w\s,-]", " ", text).replace(",", " , ").split())
    return _with_adjectives_bound(text)


def _with_adjectives_bound(text: str) -> str:
    """The text with what would be read by itself bound to its noun: black bearded men, old thin men, dark suits."""
    kinds = "skinned|haired|bearded|faced|jawed|nosed|eared"
    text = re.sub(rf"(?<![\w-])(?!{_NO_KIND})(\w+) ({kinds})(?![\w-])", r"\1-\2", text)
    men = "man|woman|lady|guy|gentleman"
    text = re.sub(rf"(?<![\w-])old ((?:{_adjective_words()} ){{1,2}})({men})(?![\w-])", r"\1old \2", text)
    worn = "shirt|t-shirt|hoodie|suit|hat|top hat|cowboy hat|cap|baseball cap|beanie|headphones"
    shade = rf"(?:dark|light|bright|deep|pale) (?=(?:{_colour_words()}) (?:hair|beard|{worn})(?![\w-]))"
    text = re.sub(rf"(?<![\w-]){shade}", "", text)
    text = re.sub(rf"(?<![\w-])dark (?=(?:{worn})(?![\w-]))", "black ", text)
    return re.sub(rf"(?<![\w-])(?:{_colour_words()}) (?=eyepatch|eye patch)", "", text)


def _unknown(left: str) -> list[str]:
    return [word for word in re.findall(r"[\w-]+", left) if word not in _GLUE]


Rule = tuple[re.Pattern[str], Mapping[str, object], str]  # pattern, values, family of the group "c"


def _take(text: str, rules: Iterable[Rule], values: dict[str, object]) -> str:
    """Puts into ``values`` what the rules find and returns the text without it; the first that says wins."""
    for pattern, gives, colour_family in rules:
        match = pattern.search(text)
        if match is None or any(values.get(family, value) != value for family, value in gives.items()):
            continue
        values.update(gives)
        word, unread = match.groupdict().get("c"), ""
        if word and (value := _colour(colour_family, word)):
            values.setdefault(colour_family, value)
        elif word:  # orange hair: it has no such colour, and the word is not lost
            unread = f"{word} | "
        text = " ".join((text[: match.start()] + " | " + unread + text[match.end() :]).split())
    return text


def _rule(phrase: str, gives: Mapping[str, object], colour_family: str = "") -> Rule:
    bare = phrase.removeprefix("a ")
    pattern = re.escape(bare).replace(r"\{c\}\ ", "{c} ").replace(r"\{c\}", "{c}").replace("\\ ", " ")
    pattern = re.sub(r"\ba ", "an? ", pattern)
    pattern = pattern.replace("{c} ", f"(?P<c>{_colour_words()})[ ,]+")
    return re.compile(rf"(?<![\w-]){pattern}(?![\w-])"), gives, colour_family


@lru_cache(maxsize=1)
def _phrases() -> tuple[Rule, ...]:
    """Noun phrases and what follows a comma, longest first."""
    entries: list[tuple[str, dict[str, object], str]] = []
    for table in (w.HAS, w.WEARS, w.AFTER):
        for family, ways in table.items():
            for value, phrases in ways.items():  # type: ignore[attr-defined]  # both kinds of table have it
                said = False if family == "earrings" and value == "none" else value
                entries += [(p, {family: said}, _COLOUR_OF.get(family, "")) for p in phrases]
                entries += [(w.fill(p), {family: said}, "") for p in phrases if "{c}" in p]
    entries += [("grow a beard", {"facial_hair": "full beard"}, "")]
    # With a colour first: "red hair cut short" before "hair cut short" before "red hair".
    entries.sort(key=lambda e: ("{c}" in e[0], len(e[0])), reverse=True)
    hair = [
        (phrase, {"hair_colour": colour})
        for colour, words in w.HAIR_COLOURS.items()
        for word in words
        for phrase in (f"{word} hair", f"{word}-haired")
    ]
    return (*(_rule(*entry) for entry in entries), *(_rule(*entry) for entry in hair))


@lru_cache(maxsize=1)
def _adjectives() -> tuple[Rule, ...]:
    entries = [
        (phrase, {family: value})
        for family, ways in w.BEFORE.items()
        for value, phrases in ways.items()
        for phrase in phrases
    ]
    entries.sort(key=lambda e: len(e[0]), reverse=True)
    return tuple(_bare_rule(*entry) if _is_bare(*entry) else _rule(*entry) for entry in entries)


def _is_bare(phrase: str, gives: Mapping[str, object]) -> bool:
    """Whether an adjective says what it says of a whole person only: a blue woman, but a woman's blue eyes."""
    return "-" not in phrase and bool({"skin", "face"} & gives.keys())


def _bare_rule(phrase: str, gives: Mapping[str, object]) -> Rule:
    """The adjective where it belongs to the noun (which the text has as "|" by now), or to nothing else."""
    adjectives = [word for ways in w.BEFORE.values() for words in ways.values() for word in words]
    before = [*"a an the and very more look all completely him her it them | ,".split(), *adjectives]
    behind = "|".join(rf"(?<=(?<![\w-]){re.escape(word)} )" for word in before)
    ahead = "|".join(map(re.escape, ("|", ",", *"and with wearing in who".split(), *adjectives)))
    return re.compile(rf"(?:^|{behind}){re.escape(phrase)}(?= (?:{ahead})(?![\w-])|$)"), gives, ""


@lru_cache(maxsize=1)
def _commands() -> tuple[Rule, ...]:
    """Phrases of instructions alone."""
    entries: list[tuple[str, dict[str, object]]] = []
    for value, ways in _SHAPES.items():
        family = "nose" if value in ("small", "big", "long") else "ears" if value in ("plain", "pointed") else "face"
        entries += [(phrase, {family: value}) for phrase in ways]
    entries += [(phrase, {"expression": value}) for value, ways in _EXPRESS.items() for phrase in ways]
    for style in ("long", "short", "curly"):
        entries += [(f"hair {style}", {"hair_style": style})]
    entries += [("short haircut", {"hair_style": "short"})]
    entries += [(f"hair in a {style}", {"hair_style": style}) for style in ("ponytail", "bun")]
    rules = [_rule(*entry) for entry in sorted(entries, key=lambda e: len(e[0]), reverse=True)]
    alive = re.compile(r"\bbring \w+(?: \w+)? to life\b|\b(?:real|living) person\b")
    return (*rules, (alive, {"material": "plain"}, ""))


@lru_cache(maxsize=1)
def _nouns() -> tuple[tuple[str, str, str, tuple[str, str] | None], ...]:
    """(word, subject or "", sex, what a role implies), longest first."""
    found: list[tuple[str, str, str, tuple[str, str] | None]] = []
    for subject, words in w.NOUNS.items():
        found += [(word, subject, _SEX.get(subject, ""), None) for word in words]
    for sex, table in (("male", w.SPECIES_MALE), ("female", w.SPECIES_FEMALE)):
        found += [(word, subject, sex, None) for subject, words in table.items() for word in words]
    seen = set()
    for word, subjects, family, value in w.ROLES:
        if word not in seen:
            subject = next(s for s in ("man", "woman", "old man", "old woman", "girl") if s in subjects)
            found.append((word, subject, _SEX[subject], (family, value)))
            seen.add(word)
    found.sort(key=lambda e: len(e[0]), reverse=True)
    return (*found, *((word, "", "", None) for word in w.ANYBODY))


@lru_cache(maxsize=1)
def _adjective_words() -> str:
    words = {word for ways in w.BEFORE.values() for words in ways.values() for word in words}
    return f"(?:{'|'.join(sorted(map(re.escape, words), key=len, reverse=True))})"


@lru_cache(maxsize=1)
def _thing_words() -> str:
    return "|".join(sorted(map(re.escape, _things()), key=len, reverse=True))


@lru_cache(maxsize=1)
def _things() -> dict[str, str]:
    """How a thing that is there is called, and its family: "cap" is headwear."""
    from headsculpt.synthesis.attributes import CLOTHING, EYEWEAR, FACIAL_HAIR, HEADWEAR

    families = {"facial_hair": FACIAL_HAIR, "eyewear": EYEWEAR, "headwear": HEADWEAR, "clothing": CLOTHING}
    things = {
        word: family
        for family, values in families.items()
        for value in values
        for word in _SHORT.get(value, ())
    }
    hair = dict.fromkeys(("hair", "ponytail", "bun", "mohawk", "curls"), "hair_style")
    return {**things, **hair, "earrings": "earrings", "facial hair": "facial_hair"}


def _material(text: str, values: dict[str, object]) -> str:
    for material in w.MATERIALS:
        words = [*w.MATERIALS[material], *w.MADE_OF[material]]
        words += [f"into {'wood' if material.startswith('wood') else material.split()[0]}"]
        for phrase in sorted(words, key=len, reverse=True):
            pattern = rf"(?:\ban? )?(?<![\w-]){re.escape(phrase)}(?![\w-])(?: of\b)?"
            text, count = re.subn(pattern, " | ", text)
            if count:
                values["material"] = material
    return " ".join(text.split())


_AGES = {"male": ("boy", "man", "old man"), "female": ("girl", "woman", "old woman")}
_AGE_WORDS = (
    (r"(?:look )?(?:very old|elderly)|a senior", None, 2),
    (r"a child|very young|(?:look )?like a child", None, 0),
    (r"(?:look )?(?:older|aged)|^age \w+(?: \w+)?$", 1, None),
    (r"(?:look )?(?:younger|young)(?! (?:wo)?man| lady| boy| girl| adult)", -1, None),
    (r"(?:look )?old(?! (?:wo)?man| lady| guy| gentleman)", None, 2),
)


def _age(text: str, before: Mapping[str, object], changes: dict[str, object]) -> str:
    """Ages are steps from where somebody is: boy, man, old man."""
    subject = str(before.get("subject", ""))
    if subject not in w.HUMANS:
        female = re.search(r"\b(?:her|she|woman|lady)\b", text) is not None
        subject = "woman" if female else "man"
    line = _AGES[_SEX[subject]]
    for pattern, step, place in _AGE_WORDS:
        match = re.search(rf"(?<![\w-])(?:{pattern})(?![\w-])", text)
        if match:
            at = place if place is not None else min(max(line.index(subject) + (step or 0), 0), 2)
            changes.setdefault("subject", line[at])
            return text[: match.start()] + " | " + text[match.end() :]
    return text


@lru_cache(maxsize=1)
def _any_colour() -> dict[str, None]:
    words = [word for table in (w.COLOURS, w.HAIR_COLOURS) for ways in table.values() for word in ways]
    return dict.fromkeys([*sorted(words, key=len, reverse=True), "pale", "tan", "dark"])


def _colour_words() -> str:
    return "|".join(map(re.escape, _any_colour()))


def _colour(family: str, word: str) -> str | None:
    """The colour that a word names in a family, or None."""
    if family == "skin":
        return {"gray": "grey"}.get(word, word) if word in (*w.HAS["skin"], "gray") else None
    table = w.HAIR_COLOURS if family == "hair_colour" else w.COLOURS
    return next((colour for colour, ways in table.items() if word in ways), None)
