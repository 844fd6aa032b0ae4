"""What goes with a calling or a name, whether or not it is said: a wizard has a long white beard.

Models that learnt from the web know that; the mini family knows the words of :mod:`.wording` alone. So a prompt that
leaves these things open gets them (:func:`headsculpt.synthesis.completion.completed_prompt`), and so does whoever an
instruction turns into one; the user's own words stand. Looks only, in words of the vocabulary; of names, those of old
stories and of history (ours).
"""

from __future__ import annotations

import re

# (words, looks)
CALLINGS: tuple[tuple[str, str], ...] = (
    (r"wizards?|sorcerers?|mages?|warlocks?|druids?|hermits?|prophets?", "long white hair and a white beard"),
    (r"witch|crone|hag", "long black hair, a long nose and a black t-shirt"),
    (r"santa(?: claus)?|father christmas", "pale skin, a white beard, a red beanie and a red hoodie"),
    (r"gnomes?", "a white beard and a red beanie"),
    (r"leprechauns?", "a red beard, a green top hat and a green t-shirt"),
    (r"dwar(?:f|ven)", "long brown hair and a brown beard"),
    (r"vikings?|barbarians?", "long blonde hair and a blonde beard"),
    (r"cave ?m[ae]n", "long brown hair and a brown beard"),
    (r"lumberjacks?", "a brown beard and a red t-shirt"),
    (r"hipsters?", "a brown beard and round glasses"),
    (r"samurais?", "a black bun"),
    (r"ninjas?|thief|thieves|assassins?|rogues?|hackers?|rappers?", "a black hoodie"),
    (r"geishas?", "pale skin, a black bun and a red t-shirt"),
    (r"vampires?|dracula", "pale skin, black hair and a black suit and tie"),
    (r"goths?", "pale skin, black hair and a black t-shirt"),
    (r"punks?(?: rockers?)?", "a pink mohawk and a black t-shirt"),
    (r"bikers?", "a brown beard and a black t-shirt"),
    (r"clowns?|jesters?", "pale skin, curly red hair and a big nose"),
    (r"nuns?", "a black hoodie"),
    (r"monks?", "a bald head and a brown hoodie"),
    (r"priests?|gangsters?|mafios[oi]|(?:secret |special )?agents?|spy", "a black suit and tie"),
    (r"detectives?|politicians?|presidents?|butlers?", "a grey suit and tie"),
    (r"chefs?|cooks?|bakers?", "a white top hat and a white t-shirt"),
    (r"doctors?|surgeons?|nurses?|dentists?|angels?|brides?|astronauts?", "a white t-shirt"),
    (r"police(?:m[ae]n| ?wom[ae]n| officers?)?|cops?", "a blue baseball cap and a blue t-shirt"),
    (r"firem[ae]n|fire ?fighters?", "a red baseball cap and a yellow t-shirt"),
    (r"soldiers?", "a green t-shirt"),
    (r"ballerinas?", "a bun and a pink t-shirt"),
    (r"scientists?|professors?|teachers?|librarians?", "round glasses"),
    (r"nerds?|geeks?", "square glasses"),
    (r"djs?", "headphones"),
    (r"farmers?", "a brown cowboy hat"),
    (r"surfers?", "tan skin and long blonde hair"),
)  # fmt: skip

# (words, who that is, looks)
NAMES: tuple[tuple[str, str, str], ...] = (
    (r"(?:albert )?einstein", "old man", "pale skin, curly white hair and a white moustache"),
    (r"(?:charles )?darwin", "bald old man", "pale skin, a white beard and a black suit and tie"),
    (r"(?:leonardo )?da vinci", "old man", "pale skin, long white hair and a white beard"),
    (r"(?:karl )?marx", "old man", "pale skin, curly grey hair and a grey beard"),
    (r"(?:mahatma )?gandhi", "bald old man", "brown skin, round glasses, a white moustache and a white t-shirt"),
    (r"(?:sigmund )?freud", "old man", "pale skin, white hair, a white beard, round glasses and a grey suit and tie"),
    (r"(?:abraham |abe )?lincoln", "man", "pale skin, black hair, a black beard and a black suit and tie"),
    (r"(?:charlie )?chaplin", "man", "pale skin, black hair, a black moustache and a black suit and tie"),
    (r"(?:salvador )?dal[ií]", "man", "pale skin, black hair and a black moustache"),
    (r"(?:william )?shakespeare", "man", "pale skin, brown hair, a brown goatee and earrings"),
    (r"(?:ludwig van )?beethoven", "man", "pale skin, curly grey hair and a black suit and tie"),
    (r"(?:wolfgang amadeus )?mozart", "man", "pale skin, curly white hair and a red suit and tie"),
    (r"elvis(?: presley)?", "man", "pale skin, black hair and a white suit and tie"),
    (r"frida kahlo", "woman", "tan skin, a black bun, earrings and a red t-shirt"),
    (r"(?:the )?mona lisa", "woman", "pale skin, long brown hair and a green t-shirt"),
    (r"(?:marie )?curie", "woman", "pale skin, a grey bun and a black t-shirt"),
    (r"cleopatra", "woman", "tan skin, long black hair, a golden crown and earrings"),
    (r"(?:the )?buddha", "calm man", "a bun and earrings"),
    (r"gandalf(?: the (?:grey|white))?|dumbledore|merlin|saruman", "old man",
     "long white hair, a white beard and a grey t-shirt"),
    (r"jesus(?: christ)?", "man", "long brown hair, a brown beard and a white t-shirt"),
    (r"zeus|poseidon|odin|moses", "old man", "long white hair and a white beard"),
    (r"sherlock(?: holmes)?", "man", "pale skin, black hair and a black suit and tie"),
    (r"harry potter", "boy", "pale skin, black hair and round glasses"),
    (r"hermione(?: granger)?", "girl", "pale skin and curly brown hair"),
    (r"snow white", "woman", "pale skin, short black hair and a yellow t-shirt"),
    (r"rapunzel", "woman", "pale skin, long blonde hair and a purple t-shirt"),
    (r"shrek", "orc", "a bald head and a brown t-shirt"),
    (r"yoda", "alien", "green skin, pointed ears and a brown t-shirt"),
    (r"(?:the )?hulk", "angry green man", "black hair"),
    (r"superman", "square-jawed man", "pale skin, black hair and a blue t-shirt"),
    (r"(?:super )?mario", "man", "brown hair, a brown moustache, a big nose, a red baseball cap and a red t-shirt"),
    (r"luigi", "man", "brown hair, a brown moustache, a big nose, a green baseball cap and a green t-shirt"),
    (r"pinocchio", "wooden carving of a boy", "a long nose"),
    (r"(?:the )?frankenstein(?:'s monster| s monster)?", "green zombie", "short black hair"),
    (r"medusa", "woman", "curly green hair"),
)  # fmt: skip

KIN = "friend|apprentice|assistant|helper|daughter|son|wife|husband|brother|sister"
# A wizard's hat is a hat.
THING = (
    r"(?:'s|s)? (?:(?!with|in|and|has|who)[a-z]+ )?(?:hat|cap|beanie|crown|headphones|helmet|helm|hood|robe|cloak|cape|"
    r"costume|outfit|clothes|dress|suit|uniform|shirt|t-shirt|tee|hoodie|coat|jacket|scarf|mask|wig|beard|moustache|"
    r"mohawk|hair|haircut|hairstyle|skin|eyes|nose|ears|glasses|style|look|makeup|poster|mug|"
    rf"elf|bride|{KIN})\b"
)
_CALLED = tuple(
    (re.compile(rf"(?<![\w-])(?:{words})(?![\w-])(?!{THING})", re.IGNORECASE), looks)
    for words, looks in (*((words, looks) for words, _, looks in NAMES), *CALLINGS)
)
# What stands behind these words is not who somebody is.
_OTHERS = re.compile(
    r"(?<![\w-])(?:about|called|named|with|wearing|holding|dressed|disguised|next to|in) ", re.IGNORECASE
)
_BECOMES = re.compile(r"(?<![\w-])(?:into|like|as|him|her|it|them) (?:[\w-]+ ){0,3}$", re.IGNORECASE)


def looks_of(prompt: str) -> str:
    """What goes with the first calling or name in a prompt, in words; nothing with one that somebody is not, but has or
    is dressed as.

    Example:
        >>> looks_of("a wizard with round glasses")
        'long white hair and a white beard'
        >>> looks_of("a girl with a wizard hat")
        ''
    """
    return next((looks for before, looks in _called(prompt) if not _OTHERS.search(before)), "")


def looks_to_become(instruction: str) -> str:
    """What goes with the calling or name that an instruction turns somebody into, in words.

    Example:
        >>> looks_to_become("turn him into a wizard")
        'long white hair and a white beard'
    """
    return next((looks for before, looks in _called(instruction) if _BECOMES.search(before)), "")


def _called(text: str) -> list[tuple[str, str]]:
    """The text before each calling or name, and what goes with it, in the order of the text."""
    found = [(match.start(), looks) for pattern, looks in _CALLED if (match := pattern.search(text))]
    return [(text[:start], looks) for start, looks in sorted(found)]
