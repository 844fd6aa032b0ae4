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
    (r"goths?|emos?", "pale skin, black hair and a black t-shirt"),
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
    (r"(?:sea|ship'?s?) captains?|skippers?", "a grey beard and a white baseball cap"),
    (r"knights?", "a grey beanie and a grey t-shirt"),
    (r"were ?wol(?:f|ves)|wolf ?m[ae]n", "brown skin, long brown hair and a brown beard"),
    (r"mimes?", "pale skin and a black t-shirt"),
    (r"(?:porcelain )?dolls?", "pale skin"),
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
    (r"(?:vincent )?van gogh", "man", "pale skin, red hair and a red beard"),
    (r"(?:pablo )?picasso", "bald old man", "tan skin and a white t-shirt"),
    (r"rembrandt(?: van rijn)?", "man", "pale skin, curly brown hair, a brown moustache and a black beanie"),
    (r"michelangelo", "old man", "pale skin, curly grey hair and a grey beard"),
    (r"(?:napoleon )?bonaparte|napoleon", "man", "pale skin, brown hair and a black cowboy hat"),
    (r"(?:julius )?caesar", "man", "pale skin, short grey hair, a golden crown and a white t-shirt"),
    (r"socrates|plato|aristotle", "old man", "pale skin, short white hair, a white beard and a white t-shirt"),
    (r"hippocrates|archimedes|galen", "old man", "pale skin, curly white hair and a white beard"),
    (r"confucius|lao ?tzu", "old man", "tan skin, a white bun and a white beard"),
    (r"isaac newton", "man", "pale skin and long grey hair"),
    (r"galileo(?: galilei)?|(?:johannes )?kepler", "old man", "pale skin, short grey hair and a grey beard"),
    (r"nikola tesla", "man", "pale skin, short black hair, a black moustache and a black suit and tie"),
    (r"(?:charles )?dickens", "man", "pale skin, curly brown hair, a brown goatee and a black suit and tie"),
    (r"mark twain|(?:friedrich )?nietzsche", "old man", "pale skin, curly white hair and a white moustache"),
    (r"edgar allan poe", "man", "pale skin, curly black hair, a black moustache and a black suit and tie"),
    (r"george washington", "old man", "pale skin, a white ponytail and a black suit and tie"),
    (r"benjamin franklin", "old man", "pale skin, long grey hair and round glasses"),
    (r"(?:theodore|teddy) roosevelt", "man", "pale skin, brown hair, a brown moustache and round glasses"),
    (r"(?:winston )?churchill", "bald old man", "pale skin, a round face and a black suit and tie"),
    (r"(?:vladimir )?lenin", "bald man", "pale skin, a brown goatee and a black suit and tie"),
    (r"rasputin", "angry man", "pale skin, long black hair and a black beard"),
    (r"che guevara|fidel castro", "man", "tan skin, short black hair, a black beard and a green t-shirt"),
    (r"genghis khan|attila", "man", "tan skin, a black goatee and a brown beanie"),
    (r"(?:queen )?elizabeth (?:i|the first)", "queen", "pale skin, curly red hair and earrings"),
    (r"queen victoria", "queen", "pale skin and a grey bun"),
    (r"marie antoinette", "woman", "pale skin, curly white hair and earrings"),
    (r"joan of arc", "woman", "pale skin, short brown hair and a grey t-shirt"),
    (r"nefertiti", "queen", "brown skin, a slim face and earrings"),
    (r"tutankhamun|tutankhamen|ramses", "king", "brown skin"),
    (r"pocahontas", "woman", "tan skin and long black hair"),
    (r"(?:hua )?mulan", "woman", "pale skin and a black bun"),
    (r"(?:jimi )?hendrix", "man", "brown skin and curly black hair"),
    (r"bob marley", "man", "brown skin, curly black hair and a black goatee"),
    (r"marilyn monroe", "woman", "pale skin, curly blonde hair and earrings"),
    (r"audrey hepburn|coco chanel", "woman", "pale skin, a black bun, earrings and a black t-shirt"),
    (r"groucho(?: marx)?", "man", "pale skin, black hair, a black moustache, round glasses and a black suit and tie"),
    (r"david(?! [a-z])", "man", "curly hair"),
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
    (r"yoda", "green alien", "pointed ears and a brown t-shirt"),
    (r"(?:the )?hulk", "angry green man", "black hair"),
    (r"superman", "square-jawed man", "pale skin, black hair and a blue t-shirt"),
    (r"(?:super )?mario", "man", "brown hair, a brown moustache, a big nose, a red baseball cap and a red t-shirt"),
    (r"luigi", "man", "brown hair, a brown moustache, a big nose, a green baseball cap and a green t-shirt"),
    (r"pinocchio", "wooden carving of a boy", "a long nose"),
    (r"(?:the )?frankenstein(?:'s monster| s monster)?", "green zombie", "short black hair"),
    (r"thor", "man", "pale skin, long blonde hair and a blonde beard"),
    (r"hercules|heracles|samson", "man", "tan skin, curly brown hair and a brown beard"),
    (r"robin hood", "man", "pale skin, brown hair, a brown goatee and a green hoodie"),
    (r"king arthur", "king", "pale skin, brown hair and a brown beard"),
    (r"peter pan", "boy", "pale skin, short red hair and a green t-shirt"),
    (r"tinker ?bell", "elf girl", "a blonde bun and a green t-shirt"),
    (r"alice in wonderland", "girl", "pale skin, long blonde hair and a blue t-shirt"),
    (r"(?:little )?red riding hood", "girl", "pale skin, brown hair and a red hoodie"),
    (r"cinderella|sleeping beauty", "woman", "pale skin, a blonde bun and a blue t-shirt"),
    (r"aladdin", "boy", "tan skin, short black hair and a red beanie"),
    (r"(?:the )?mad hatter", "smiling man", "pale skin, curly red hair and a green top hat"),
    (r"willy wonka", "smiling man", "pale skin, brown hair, a brown top hat and a purple suit and tie"),
    (r"(?:ebenezer )?scrooge", "angry old man", "pale skin, white hair, a black top hat and a black suit and tie"),
    (r"captain hook", "pirate", "pale skin, curly black hair and a black moustache"),
    (r"robinson crusoe", "man", "tan skin, long brown hair and a brown beard"),
    (r"don quixote", "old man", "pale skin, a slim face, a grey goatee and a grey beanie"),
    (r"hercule poirot", "man", "pale skin, a black moustache and a black suit and tie"),
    (r"nosferatu|voldemort", "bald zombie", "pointed ears"),
    (r"gollum", "bald sad zombie", "a slim face and pointed ears"),
    (r"legolas", "elf man", "long blonde hair and a green t-shirt"),
    (r"frodo(?: baggins)?|bilbo(?: baggins)?", "boy", "pale skin, curly brown hair and pointed ears"),
    (r"hagrid", "man", "pale skin, long black hair, a black beard and a brown t-shirt"),
    (r"popeye", "man", "pale skin and a white baseball cap"),
    (r"(?:the )?joker", "smiling man", "pale skin, green hair and a purple suit and tie"),
    (r"elsa from frozen", "woman", "pale skin, a blonde ponytail and a blue t-shirt"),
    (r"indiana jones", "man", "pale skin, brown hair, a brown cowboy hat and a brown t-shirt"),
    (r"james bond", "man", "pale skin, short black hair and a black suit and tie"),
    (r"batman", "square-jawed man", "pale skin and a black hoodie"),
    (r"spider-?man", "man", "a red hoodie"),
    (r"captain america", "square-jawed man", "pale skin, blonde hair, a blue beanie and a blue t-shirt"),
    (r"black panther", "dark-skinned man", "a black hoodie"),
    (r"(?:doctor|dr) strange", "man", "pale skin, black hair, a black goatee and a blue t-shirt"),
    (r"woody (?:in|from) (?:the )?toy story", "man", "brown hair, a brown cowboy hat and a yellow t-shirt"),
    (r"bruce lee", "man", "tan skin, short black hair and a yellow t-shirt"),
    (r"kratos", "angry bald man", "pale skin and a brown goatee"),
    (r"groot", "wooden carving of a man", "short hair"),
    (r"(?:the )?terracotta army", "bronze statue of a man", "a bun"),
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
_WORN = tuple(
    (re.compile(rf"(?<![\w-])(?:{words})", re.IGNORECASE), looks)
    for words, looks in (*((words, looks) for words, _, looks in NAMES), *CALLINGS)
)
# What stands behind these words is not who somebody is.
_OTHERS = re.compile(
    r"(?<![\w-])(?:about|called|named|with|wearing|holding|dressed|disguised|next to|in) ", re.IGNORECASE
)
_OUTFIT = re.compile(
    r"(?<![\w-])(?:dressed(?: up)?|disguised|posing|costumed) (?:as|like) (?:[\w-]+ ){0,3}$", re.IGNORECASE
)
_COSTUME = re.compile(r"['’\w]* (?:costume|outfit|disguise)(?![\w-])", re.IGNORECASE)
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


def outfit_of(prompt: str) -> str:
    """What goes with the calling or name that somebody is dressed as, in words; of that, only what is worn counts.

    Example:
        >>> outfit_of("a girl dressed as Santa")
        'pale skin, a white beard, a red beanie and a red hoodie'
    """
    as_one = next((looks for before, looks in _called(prompt) if _OUTFIT.search(before)), "")
    return as_one or next(
        (looks for words, looks in _WORN if (found := words.search(prompt)) and _COSTUME.match(prompt, found.end())), ""
    )


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
