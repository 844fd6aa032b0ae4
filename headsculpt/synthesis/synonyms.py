"""Words that people say and the portrait world does not, as the nearest ones that it does.

The mini family knows the words of :mod:`.wording` and no others: told of a fedora it draws something, told of a cowboy
hat it draws a hat with a brim. So where a prompt or an instruction is not all understood, it is said again in nearer
words, for the model that knows no better; the prompt itself stays as it was typed (ours).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from headsculpt.synthesis.roles import KIN, NAMES, THING

_HAIR = (
    r"(?:hair|haired|beard|bearded|mohawk|moustache|mustache|goatee|curls|curly|bun|ponytail|locks|brows|eyebrows)"
)
_COLOUR = r"(?:black|white|grey|gray|brown|red|orange|yellow|green|blue|purple|violet|pink|blonde|blond)"
_PEOPLE = r"(?:man|woman|boy|girl|lady|guy|elf|king|queen|prince|princess|pirate|person|child)"
_FIGURE = r"(?:old |young |bald )?(?:man|woman|boy|girl|lady|orc|elf|alien|zombie|king|queen|pirate)\b"

_REMOVABLE = r"(?:beard|mo?ustache|goatee|hat|cap|crown|glasses|sunglasses|earrings|facial hair)"
_WITHOUT = r"(?:without|with no|has no|having no|no more|no) (?:an? |any |the |his |her )?"
_NOT = (
    r"(?:(?:who |that )?(?:is |are )?(?:not|never|isn['’]?t|doesn['’]?t|does not|don['’]?t|do not|hardly) )"
    r"(?:a |an )?"
)
_ANY_AGE = r"(?:man|woman|boy|girl|male|female|lady|guy|person)"

_OLD_MEN = "wizard sorcerer mage warlock hermit pensioner granddad grandad greybeard druid prophet philosopher gnome"
_OLD_WOMEN = "crone hag nan nana granma grandmom"
_MEN = (
    "knight warrior soldier viking samurai sailor fisherman lumberjack barbarian ninja hipster punk rocker biker "
    "gangster vampire dwarf monk priest doctor chef professor scientist teacher hero gladiator detective hacker bloke "
    "chap father dad uncle husband bodybuilder boxer farmer policeman cop athlete general spartan hunter "
    "blacksmith superhero paladin rogue bandit thief assassin ranger astronaut mechanic student artist musician "
    "teenager teen clown jester rapper worker driver pilot butcher baker fireman firefighter waiter dj caveman nerd "
    "geek guard hobbit leprechaun surgeon surfer spy cook magician archer brother judge dracula hippie goth mime "
    "werewolf wolfman senator emo snowman captain skipper skier cyclist graduate puppet marionette"
)
_WOMEN = (
    "witch nurse ballerina actress heroine mother mom mum aunt wife goddess valkyrie sorceress priestess nun geisha "
    "waitress hostess singer bride maiden enchantress amazon huntress mermaid angel dancer cheerleader"
)
_ROLES = {
    "king": "emperor pharaoh sultan tsar monarch", "queen": "empress cleopatra", "princess": "duchess",
    "cowboy": "gunslinger sheriff rancher gaucho", "cowgirl": "cowwoman", "pirate": "corsair buccaneer privateer",
    "businessman": "executive banker lawyer politician president salesman agent", "gentleman": "lord duke butler count",
    "old man": _OLD_MEN, "old woman": _OLD_WOMEN, "man": _MEN, "woman": _WOMEN,
    "boy": "kid child toddler infant youngster urchin", "girl": "doll",
    "elf girl": "fairy pixie nymph dryad", "elf": "half-elf",
    "orc": "goblin ogre troll hobgoblin uruk demon devil gargoyle", "alien": "xenomorph",
    "zombie": "mummy ghoul corpse lich revenant skeleton",
}  # fmt: skip

_HAIR_IS = {"short": "short", "long": "long", "curl": "curly"}

Said = str | Callable[[re.Match[str]], str]


def _unless(words: str, new: str) -> Callable[[re.Match[str]], str]:
    """Replaces the group "thing" by ``new`` where none of ``words`` stands in the group "before"."""
    refused = set(words.split())

    def say(match: re.Match[str]) -> str:
        if refused & set(re.split(r"[ -]", match["before"].lower())):
            return match[0]
        return match["before"] + new

    return say


def _cloth(colour: str) -> Callable[[re.Match[str]], str]:
    """A shirt in the colour that stands before the cloth, or else in the cloth's own."""

    def say(match: re.Match[str]) -> str:
        said = match["before"].strip().lower()
        return f"{match['before']}shirt" if re.fullmatch(_COLOUR, said) else f"{match['before']}{colour} shirt"

    return say


def _of_age(match: re.Match[str]) -> str:
    """Somebody of so many years, as boy, man or old man; what stands between is kept."""
    years, who = int(match["years"]), match["who"].lower()
    young, grown = ("girl", "woman") if who in ("woman", "girl", "female", "lady") else ("boy", "man")
    # Whether a person of thirty is a man or a woman is left open.
    aged = young if years < 16 else f"old {grown}" if years >= 60 else "person" if who == "person" else grown
    return f"{match.groupdict().get('between') or ''}{aged}"


def _to_age(match: re.Match[str]) -> str:
    """Somebody made so many years old, as young, grown or old."""
    years, who = int(match["years"]), match["who"].lower()
    grown = "woman" if who == "her" else "man"
    aged = f"{who} a child" if years < 16 else f"{who} old" if years >= 60 else f"{who} a {grown}"
    return f"{match['before'] or ''}{aged}"


# (pattern, what is said instead), in this order.
RULES: tuple[tuple[str, Said], ...] = (
    # Somebody's brother is not him.
    (rf"(?:(?:an?|the) )?[\w-]+['’]s ({KIN})", r"a \1"),
    # Spelling.
    (r"(?!(?:an?|the|of|with|and|very|old|young|two|his|her|is)\b)(\w+) "
     r"(skinned|haired|bearded|faced|jawed|nosed|eared|cheeked|headed)", r"\1-\2"),
    (r"(\w+)-bearded ((?:old |young )?\w+)", r"\2 with a \1 beard"),
    (r"clean shaven", "clean-shaven"),
    (r"t ?shirt|tee[ -]shirt", "t-shirt"),
    (r"top-hat", "top hat"),
    (r"base ?ball ?cap", "baseball cap"),
    (r"(?:head|ear) phones", "headphones"),
    (r"sun ?glass?es", "sunglasses"),
    (r"glases", "glasses"),
    (r"eye-patch|(?:an? )?patch (?:on|over) (?:his |her |one |an? |the )?(?:left |right )?eye", "an eyepatch"),
    (r"mou?sta(?:s?he|sh|ch)|mustache?", "moustache"),
    (r"gotee", "goatee"),
    (r"(wo)?men", r"\1man"),
    (r"elves", "elf"),
    (r"beards", "beard"),
    (r"(long|short|curly|wavy|thick|straight|bushy|big),(?= (?:[a-z]+,? ){0,2}(?:hair|beard)\b)", r"\1"),
    (r"old, ((?:[\w-]+,? )+?)(man|woman)", r"\1old \2"),
    (r"middle[ -]aged", ""),
    # What is not there.
    (rf"(?:without|with no|no|neither) (?:an? |any )?({_REMOVABLE}),? (?:and|or|nor|and no) (?:an? )?({_REMOVABLE})",
     r"without \1, without \2"),
    (rf"(beard|goatee|moustache)(?:,? and|,? but|,) {_WITHOUT}(?:mo?ustache|beard)", r"\1"),
    (rf"{_WITHOUT}(?:mo?ustache|goatee|facial hair|beard|stubble)", "without a beard"),
    (rf"{_WITHOUT}(?:[a-z]+ )?(?:hat|cap|crown|tiara|beanie|helmet|veil|hood|headphones)", "without a hat"),
    (rf"{_WITHOUT}(?:eye ?patch|sunglasses|shades|(?:[a-z]+ )?glasses|spectacles)", "without glasses"),
    (rf"{_WITHOUT}ear-?rings?", "without earrings"),
    (rf"{_NOT}(?:so |very |too |really )?(?:happy|smiling|smile|laughing|angry|sad|surprised)|unsmiling", "calm"),
    (rf"{_NOT}bald", "with short hair"),
    # What is to become of somebody.
    (r"(?P<before>(?:make |turn )?)(?P<who>him|her|it|them) (?:look |to be |be )?(?P<years>\d{1,3}) years? old",
     _to_age),
    (r"(?P<before>make )(?P<who>him|her|it|them) (?:look |to be |be )?(?P<years>\d{1,3})(?=$|,| with| and)", _to_age),
    (r"(hat|cap|nose|mo?ustache|beard|ears|glasses) (?:just )?like (?:an? |the )?[\w-]+(?: [\w-]+)?$", r"\1"),
    (r"(?:out of |of |in |into |to )?(?:marble|stone)(?=$|,)", "made of marble"),
    (r"(?:out of |of |in |into |to )?(?:bronze|metal)(?=$|,)", "made of bronze"),
    (r"(?:out of |of |in |into |to )?(?:wood|wooden)(?=$|,)", "made of wood"),
    (r"into an? (?:statue|bust|sculpture)(?=$|,)", "made of marble"),
    (r"(make (?:him|her|it|them)) (?:real|human|alive)", r"\1 a real person"),
    (rf"hair (short|long|curl)(?:er|ier|y)? and ({_COLOUR})", lambda m: f"{_HAIR_IS[m[1].lower()]} {m[2]} hair"),
    (rf"hair ({_COLOUR}) and (short|long|curl)(?:er|ier|y)?", lambda m: f"{_HAIR_IS[m[2].lower()]} {m[1]} hair"),
    (r"(?:make |turn |change )?(?:the |his |her |their )?(?:glasses|spectacles) (?:to |into )?(round|square)(?:er)?",
     r"\1 glasses"),
    (rf"full head of ((?:{_COLOUR} )?)hair", r"short \1hair"),
    (r"let (?:his |her |their )hair (?:down|loose|grow(?: out)?)|grow (?:his |her |their )?hair(?: out)?", "long hair"),
    (r"(?:him|her|them) darker(?:-skinned)?(?=$|,| and)|darker-skinned", "dark skin"),
    (r"(?:him|her|them) (?:lighter|paler)(?:-skinned)?(?=$|,| and)|(?:lighter|paler)-skinned", "pale skin"),
    (r"(?:him|her|them) (?:fatter|chubbier|rounder|plumper)|(?:rounder|chubbier|fuller|fatter) face", "a round face"),
    (r"(?:him|her|them) (?:slimmer|thinner|skinnier|leaner)|(?:slimmer|thinner|narrower|leaner) face", "a slim face"),
    (r"open (?:his |her |their |the )?mouth", "with an open mouth"),
    (r"cheer (?:him|her|them) up", "smiling"),
    (r"bigger nose|nose bigger|larger nose|nose larger", "a big nose"),
    (r"smaller nose|nose smaller", "a small nose"),
    (r"longer nose|nose longer", "a long nose"),
    (r"longer hair", "long hair"),
    (r"shorter hair", "short hair"),
    (r"curl (?:his |her |its |their )?hair", "curly hair"),
    (r"(?:give (?:him|her|it|them) )hair(?=$|,| and)", "short hair"),
    (r"darker skin|skin darker", "dark skin"),
    (r"lighter skin|paler skin|skin lighter|skin paler", "pale skin"),
    (r"(?<=(?:him|her) )blonde?(?=$|,| and)", "blonde hair"),
    (r"(?<=(?:him|her) )ginger(?=$|,| and)", "red hair"),
    # What something is.
    (rf"(hair|beard|mo?ustache) (?:(?:that |which )?(?:is|are)|dyed|coloured|colored) (?:long and )?({_COLOUR})",
     r"\2 \1"),
    (r"(?:thin|thick|fine|bushy|slim)(?= (?:[a-z]+ )?(?:moustache|beard|eyebrows|brows|lips|eyelashes|neck)\b)", ""),
    (r"white (?:face ?paint|make-?up)", "pale skin"),
    (rf"(?:{_COLOUR} )?(?:face|war) ?paint", ""),
    (rf"(hat|cap|beanie|hoodie|shirt|t-shirt|suit|suit and tie|headphones) in ({_COLOUR})", r"\2 \1"),
    (rf"(?:in|wearing|dressed in|clad in) (?:all )?({_COLOUR})(?=$|,| with\b)", r"wearing a \1 t-shirt"),
    (rf"({_COLOUR}) (?:clothes|clothing|outfit|attire)", r"\1 t-shirt"),
    # Whose hand it is from is not who it shows.
    (r"(?:painted|drawn|sculpted|photographed|carved) by \w+(?: (?:van|von|da|de))?(?: \w+)?(?=$|,)", ""),
    (r"in the (?:style|manner) of [^,]+", ""),
    # People of history and stories.
    *((rf"(?:{words})(?!{THING})", who) for words, who, _ in NAMES),
    # How a picture is called.
    (r"(?:(?:photo)?realistic |hyperrealistic )?(?:portrait )?photo(?:graph)? of", ""),
    (r"(?:highly |very |ultra )?detailed|photorealistic|hyperrealistic|[248]k|hd|hdr", ""),
    # Hair: its forms, then its colours.
    (r"(?:without|with no|has no|having no) (?:any )?hair(?! on)", "with a bald head"),
    (r"(?:dreadlocks|dreads|afro|perm|ringlets|cornrows)(?: hair)?", "curls"),
    (r"two buns|space buns", "a bun"),
    (r"hair (?:tied|pulled|combed) back", "a ponytail"),
    (rf"{_COLOUR}-(?={_COLOUR} (?:hair|beard))", ""),
    (r"(?:light|sun-bleached|bleached) hair", "blonde hair"),
    (r"(?:wavy|frizzy|kinky|fuzzy|permed|tousled)(?= )", "curly"),
    (r"(?:wild|unruly|untamed)(?= (?:[a-z]+ ){0,2}(?:hair|haired)\b)", "curly"),
    (r"(?:powdered )?wig|bangs|fringe", "hair"),
    (r"(?:two |twin |long )?(?P<c>(?:[a-z]+ )?)(?:braids?|plaits?|pigtails?|pony-tail)", r"\g<c>ponytail"),
    (r"(?P<c>(?:a|sleek|short|black|brown|blonde?|red|pink|blue|grey|white) )bob", r"\g<c>short hair"),
    (r"(?:crew cut|buzz cut|bowl cut|pixie cut|bob cut|quiff|pompadour|spiky hair)", "short hair"),
    (r"(?:man bun|top ?knot|chignon|updo)", "bun"),
    (r"(?:faux ?hawk|mohican|iroquois)", "mohawk"),
    (r"(?<!long )(?:shoulder-length|waist-length|flowing|lush)(?= )", "long"),
    (r"tied(?: back| up)?(?= in(?:to)? an? )", ""),
    (r"(?<=hair )longer", "long"),
    (r"(?<=hair )shorter", "short"),
    (r"(?<=hair )curlier", "curly"),
    (rf"(?<!long )(?:straight|smooth|silky|messy|shaggy|thick|neat|combed|slicked[ -]back|braided)"
     rf"(?= (?:[a-z]+ ){{0,2}}{_HAIR}\b)", ""),
    (r"(?<=with )hair(?=$|,| and)", "short hair"),
    (rf"(dark|light|bright|deep|neon|pastel|vivid)-({_COLOUR})", r"\1 \2"),
    (rf"(?:dark|light|bright|deep|neon|pastel|vivid)(?= {_COLOUR}(?![\w-])(?! skin))", ""),
    (rf"dark(?! skin)(?= (?:[a-z]+ )?{_HAIR}\b)", "black"),
    (rf"fair(?= (?:[a-z]+ )?{_HAIR}\b)", "blonde"),
    (rf"(?:orange|copper|coppery|strawberry[ -]blonde?|rusty|carrot)(?=[ -](?:[a-z]+ ){{0,2}}{_HAIR}\b)", "red"),
    (rf"(?:purple|violet|lilac|lavender|magenta|fuchsia|mauve)(?=[ -](?:[a-z]+ ){{0,2}}{_HAIR}\b)", "pink"),
    (rf"(?:turquoise|teal|cyan|aqua|navy)(?=[ -](?:[a-z]+ ){{0,2}}{_HAIR}\b)", "blue"),
    (r"(?<=hair )(?:to )?(?:orange|copper)", "red"),
    (r"(?<=hair )(?:to )?(?:purple|violet|lilac|lavender|magenta|fuchsia|mauve)", "pink"),
    (r"(?<=hair )(?:to )?(?:turquoise|teal|cyan|aqua|navy)", "blue"),
    (rf"(?:platinum|sandy|honey|flaxen|gold)(?: blonde?)?(?= (?:[a-z]+ ){{0,2}}{_HAIR}\b)", "blonde"),
    (r"(?:salt[ -]and[ -]pepper|greying|graying|silvery|ashen)(?= )", "grey"),
    (rf"(?P<c>blonde?|ginger|brunette)(?= (?:{_PEOPLE}|kid|lad|teenager|toddler)\b)", r"\g<c>-haired"),
    (r"red-?head(?:ed)?(?= (?:wo)?man| girl| boy)", "red-haired"),
    (r"redhead", "red-haired woman"),
    (r"brunette(?=$|,| (?:with|wearing|in|who))", "brown-haired woman"),
    # Beards.
    (r"(?:handlebar|walrus|pencil|waxed|curled)(?= mo?ustache)", ""),
    (r"(?:van dyke|chin puff|soul patch|chin strap)(?: beard)?", "goatee"),
    (r"(?:stubble|five o.clock shadow|whiskers|mutton ?chops|sideburns)", "beard"),
    (r"(?:long|short|huge|large|wild|scruffy|braided|impressive)(?= (?:[a-z]+ )?beard\b)", ""),
    # What is worn.
    (r"(?:goggles|monocle|pince-nez|bifocals)", "round glasses"),
    (r"(?:aviators|aviator glasses|aviator sunglasses|ray-bans)", "sunglasses"),
    (r"(?:horn-rimmed|thick-rimmed|browline)(?= (?:[a-z]+ )?(?:glasses|spectacles|eyeglasses|specs))", "square"),
    (rf"(?:{_COLOUR}|gold|golden|silver|thick|thin|big|large|huge|oversized|tortoiseshell|wire-rimmed|gold-rimmed|reading|"
     r"nerdy|vintage)(?= (?:[a-z-]+ )?(?:glasses|spectacles|eyeglasses|specs))", ""),
    (r"(?!round|square)[a-z]+-(?:rimmed|framed)(?= (?:[a-z-]+ )?(?:glasses|spectacles|eyeglasses|specs))", ""),
    (r"(?P<before>(?:(?!with |and |in )[\w-]+ ){0,2})(?P<thing>glasses|spectacles|eyeglasses|specs)"
     r"(?! with \w+ frames)",
     _unless("round rounded rimmed square framed rectangular dark sun no without not black-tinted", "round glasses")),
    (r"(?:santa|christmas|elf)(?:'s|s)? hat", "red beanie"),
    (r"police(?:man'?s?|wom[ae]n'?s?)? (?:hat|cap)", "blue baseball cap"),
    (r"(?:fedora|sombrero|straw hat|sun hat|panama hat|wide-brimmed hat|trilby|slouch hat|ten-gallon hat)",
     "cowboy hat"),
    (r"(?:horned|spiked|plumed|winged)(?= (?:[a-z]+ )?(?:helmet|helm)\b)", ""),
    (r"(?:iron|steel|metal|silver|chrome)(?= (?:helmet|helm|hat|cap|headphones)\b)", "grey"),
    (r"leather(?= (?:helmet|helm|hat|cap)\b)", "brown"),
    (r"(?:(?:square )?(?:academic|graduation) cap|mortarboard)", "black baseball cap"),
    (r"(?:beret|bandana|headscarf|night ?cap|turban|skull ?cap|bobble hat|winter hat|"
     r"(?:woo?l(?:en|len|ly)?|knit(?:ted)?) (?:hat|cap)|"
     r"toque|fez|helmet|helm|hijab|veil)", "beanie"),
    (r"hooded (?:cloak|robe|cape|coat|jacket)", "hoodie"),
    (r"(?:raincoat|coat|jacket|cloak|robe|cape)(?: with (?:the|its|his|her|a) hood(?: up)?)", "hoodie"),
    (r"hood(?: up)?", "hoodie"),
    (r"(?:bowler hat|bowler|tophat|stovepipe hat|wizard hat|witch hat|pointed hat|pointy hat)", "top hat"),
    (r"(?P<who>(?:wizard|sorcerer|sorceress|mage|warlock|witch|magician|chef|cook|baker)\b(?:(?!hat\b|without\b|no\b).)*)"
     r"(?<!top )(?<!cowboy )hat", r"\g<who>top hat"),
    (r"(?:(?:gold|golden|silver|jewelled|diamond) )?(?:tiara|diadem|laurel wreath|coronet|circlet)", "crown"),
    (r"(?:silver|jewelled|bejewelled|iron) crown", "crown"),
    (rf"tall ({_COLOUR}) hat", r"tall \1 top hat"),
    (r"(?:earphones|headphone|ear muffs|earmuffs|headset)", "headphones"),
    (r"(?:trucker (?:cap|hat)|snapback|ball cap|baseball hat|visor)", "baseball cap"),
    (r"(?P<before>(?:[\w-]+ ){0,3})(?P<thing>hat)",
     _unless("cowboy western top tall woolly knitted beanie no without not", "cowboy hat")),
    (r"ear-?rings?", "earrings"),
    (r"(?:gold|golden|silver|pearl|diamond|hoop|dangling|big|large|small)(?= earrings)", ""),
    (r"(?:in|wearing) (?:an? )?(?:suit of )?(?:(?:full|heavy|shining|plate|steel|iron|metal|silver) )*armou?r",
     "in a grey shirt"),
    (r"lab coat", "white shirt"),
    (r"(?P<before>(?:[a-z]+ )?)denim (?:jacket|shirt|vest|coat|overalls)", _cloth("blue")),
    (r"(?P<before>(?:[a-z]+ )?)leather (?:jacket|vest|coat)", _cloth("black")),
    (r"(?:leather|denim|woollen|wool|linen|silk|satin|velvet|chain|shining|plaid|striped|checked|flannel|fur)"
     r"(?= (?:[a-z]+ )?(?:jacket|coat|shirt|t-shirt|dress|robe|armou?r|mail|cloak|cape|vest))", ""),
    (r"hoodie jacket", "hoodie"),
    (r"(?:sweater|jumper|pullover|cardigan|turtleneck|blouse|polo|vest|tank top|tunic|(?<=[a-z] )dress|robes?|jacket|"
     r"coat|raincoat|armou?r|chainmail|mail|uniform|cloak|cape|gown|kimono|toga|jersey|overalls|spacesuit)", "shirt"),
    (r"(?:(?<!hooded )sweatshirt|anorak|parka|windbreaker)", "hoodie"),
    (rf"(?:suit|shirt) (?:and|with) (?:an? )?(?:{_COLOUR} )?(?:bow[ -]?tie|necktie|tie)", "suit and tie"),
    (rf"(?<!and )(?<!hair )(?:{_COLOUR} )?(?:bow[ -]?tie|necktie|tie)"
     r"(?! (?:his|her|its|their|the|it|up|back|in)\b)", "suit and tie"),
    (r"(?:tuxedo|blazer|dinner jacket|three-piece suit|suit jacket)(?! and)", "suit"),
    # Colours of what is worn.
    (r"(?:turquoise|teal|cyan|aqua|navy|azure|indigo|royal(?= blue))(?: blue)?", "blue"),
    (r"olive[ -]skin(?:ned)?", "tan skin"),
    (r"(?:ivory|white|milky|fair)[ -]skin(?:ned)?", "pale skin"),
    (r"fair-haired", "blonde-haired"),
    (r"(?:maroon|crimson|scarlet|burgundy|ruby|cherry)(?: red)?", "red"),
    (r"(?:lime|olive|emerald|mint|forest(?= green))(?: green)?", "green"),
    (r"(?:lavender|lilac|mauve|plum)", "purple"),
    (r"(?:magenta|fuchsia|salmon)", "pink"),
    (r"(?:mustard|lemon)", "yellow"),
    (r"(?:beige|khaki|chocolate|tan(?= (?:shirt|t-shirt|hoodie|suit|hat|cap)))", "brown"),
    (r"(?:ivory|cream)", "white"),
    (r"(?:charcoal|silver)(?= )", "grey"),
    (r"gold(?:en)?(?= (?:[a-z]+ )?(?:beanie|cap|hat|headphones|shirt|t-shirt|hoodie|suit))", "yellow"),
    # Colours of skin.
    (r"(?:purple|violet|lilac)(?=[ -]skin(?:ned)?\b| (?:alien|extraterrestrial|orc|elf|demon|goblin|troll)\b)", "blue"),
    (r"(?:red|orange|crimson)[ -]skin(ned)?", lambda m: "brown-skinned" if m[1] else "brown skin"),
    (r"(?:red|orange)(?= (?:alien|extraterrestrial|orc|demon|devil|goblin|troll)\b)", "brown-skinned"),
    # Who.
    (r"(?:african|african[ -]american)", "dark-skinned"),
    (rf"black(?= {_PEOPLE}\b)", "dark-skinned"),
    (rf"white(?= {_PEOPLE}\b)", "pale"),
    (rf"brown(?= {_PEOPLE}\b)", "brown-skinned"),
    (r"light-skinned", "pale"),
    (r"(?:bronzed?|golden|sun-kissed)[ -]skin(?:ned)?", "tan skin"),
    (r"(?<=a )blonde?(?=$|,| (?:with|in|who|wearing)\b)", "blonde-haired woman"),
    (r"(?<=a )ginger(?=$|,| (?:with|in|who|wearing)\b)", "red-haired person"),
    (r"(?:that |who )?(?:smiles|grins|laughs|smirks|smirking)", "smiling"),
    (r"(?:screaming|yelling|shouting|mean|mean-looking)(?= |$|,)", "angry"),
    (r"(?:worried|anxious)(?= |$|,)", "sad"),
    (r"(?:an? )?(?:long )?(?:pointed|pointy|hooked|crooked|aquiline) nose", "a long nose"),
    (r"(?:round|human) ears", "rounded ears"),
    (r"(?:dark|brown|pale|olive|ebony)[ -]?complexioned", "brown-skinned"),
    (r"teen(?:age|aged)?(?= (?:boy|girl|lad)\b)", ""),
    (r"indian(?= )", "brown-skinned"),
    (r"(?:nordic|scandinavian|irish)(?= )", "pale"),
    (r"(?:grumpy|fierce|menacing|enraged|annoyed|raging|stern)(?= |$)", "angry"),
    (r"(?:joyful|merry|jolly|delighted|joyous)(?= |$)", "happy"),
    (r"(?:scared|frightened|terrified)(?= |$)", "surprised"),
    (r"(?:melancholic|melancholy|depressed|tearful|weeping)(?= |$)", "sad"),
    (r"(?:serious|tired|sleepy|bored|stoic)(?= |$)", "calm"),
    (r"(?:fat|obese|overweight|stout)(?= |$)", "chubby"),
    (r"(?:skinny|gaunt|bony|lanky)(?= |$)", "thin"),
    (rf"hooded ({_PEOPLE})", r"\1 in a hoodie"),
    (rf"(?P<years>\d{{1,3}})[- ]years?[- ]old (?P<between>(?:[\w-]+ )?)(?P<who>{_ANY_AGE})", _of_age),
    (rf"(?P<who>{_ANY_AGE}),? (?:of|aged?|who is) (?P<years>\d{{1,3}})(?: years?(?: old| of age)?)?", _of_age),
    (rf"(?P<who>{_ANY_AGE}),? (?P<years>\d{{1,3}}) years?(?: old| of age)", _of_age),
    (r"(?:\d|1[0-5])[- ]years?[- ]old(?=$|,| (?:with|in|who|wearing))", "boy"),
    (r"[6-9]\d[- ]years?[- ]old(?=$|,| (?:with|in|who|wearing))", "old man"),
    (r"\d\d[- ]years?[- ]old(?=$|,| (?:with|in|who|wearing))", "person"),
    (r"\d{1,3}[- ]years?[- ]old", ""),
    (r"(?:elderly|old|aged) (?:person|citizen|human)|senior citizen", "old man"),
    (r"(man|woman)(?:,| in (?:his|her))? (?:late |early |mid )?(?:sixties|seventies|eighties|nineties|[6-9]0s)",
     r"old \1"),
    (r"(man|woman)(?:,| in (?:his|her))? (?:late |early |mid )?(?:twenties|thirties|forties|fifties|[2-5]0s)", r"\1"),
    (r"middle-aged(?= )", ""),
    # What no head of this world can show.
    (r"(?:asian|chinese|japanese|korean|european|american|roman|greek|russian|french|italian|german|english|british|"
     r"scottish|mexican|spanish|arab|victorian|renaissance|muscular|tough|rugged|weathered|attractive|"
     r"strong(?! (?:square )?jaw)|tall(?! (?:[a-z]+ )?(?:top )?hat)|"
     r"charming|cool|stylish|fancy|dashing|gorgeous|lovely|mighty|powerful|legendary|epic|sci-fi|fantasy)(?= )", ""),
    (r"(?:female|woman) (?:" + "|".join(_MEN.split()) + ")", "woman"),
    (r"(?:female|woman) (?:" + "|".join(_OLD_MEN.split()) + ")", "old woman"),
    (r"male (?:" + "|".join((_MEN + " " + _WOMEN).split()) + ")", "man"),
    (r"young (?:" + "|".join(_OLD_MEN.split()) + ")", "man"),
    (r"old (?:" + "|".join(_MEN.split()) + ")", "old man"),
    (r"old (?:" + "|".join(_WOMEN.split()) + ")", "old woman"),
    (r"(?P<who>boy|girl|woman|lady|female|child|kid|elf|orc|alien|zombie) pirate|pirate (?P<too>woman|girl|lady|boy)",
     lambda m: f"{m['who'] or m['too']} wearing an eyepatch"),
    (r"(?P<who>boy|girl|elf|orc|alien|zombie) cowboy", r"\g<who> wearing a cowboy hat"),
    (r"(?P<who>orc|alien|zombie) (?:businessman|gentleman)", r"\g<who> in a suit and tie"),
    (r"(?P<who>boy) (?:king|prince)", r"\g<who> with a golden crown"),
    (rf"(boy|girl|woman|lady|child|kid|toddler|elf|orc|alien|zombie) "
     rf"(?:{'|'.join(f'{_OLD_MEN} {_MEN} {_WOMEN}'.split())})", r"\1"),
    (rf"(?:{'|'.join(_OLD_MEN.split())})(?= (?:woman|girl|boy|lady|child|kid)\b)", ""),
    (r"pirate captain", "pirate"),
    (r"(?:sea|ship'?s?) captain", "captain"),
    (r"(?P<who>vampire|pirate|viking) (?:lord|king|count|warrior|chief)", r"\g<who>"),
    (r"(?P<who>elf|elven|orc|orcish|goblin|zombie|skeleton|undead|alien|demon) (?:king|prince|lord|emperor)",
     r"\g<who> with a golden crown"),
    (r"(?P<who>elf|elven|orc|zombie|undead|alien) (?:queen|princess|empress)", r"\g<who> woman with a golden crown"),
    (rf"(?:{'|'.join((_MEN + ' ' + _WOMEN).split())})(?= (?:{_PEOPLE}|kid|lad|toddler|cowboy|cowgirl)\b)", ""),
    (r"office worker", "businessman"),
    (r"police ?woman", "woman"),
    (r"police officer", "person"),
    (r"punk rocker", "man"),
    (r"(?:baby|newborn)(?! (?:blue|pink))", "boy"),
    (rf"(?:santa(?: claus)?|father christmas)(?!{THING})", "old man"),
    *((rf"(?<!orc )(?<!orcish )(?:{'|'.join(words.split())})s?(?!-)(?!{THING})", noun)
      for noun, words in _ROLES.items()),
    (r"(?:(?:dressed(?: up)?|disguised|posing|costumed) (?:as|like)) (?:an? )?(?:the )?(?:old |young )?"
     r"(?:man|woman|boy|girl|elf|orc|zombie|alien)", ""),
    (r"in (?:an? )?(?:[\w'-]+ ){0,3}(?:costume|outfit|disguise)", ""),
    (r"(woman|girl|man|boy) as an? (zombie|alien|orc|elf)", r"\2 \1"),
    # Of what.
    (r"(?:stone|marble|granite|plaster|alabaster) (?:head|face|carving|figure|portrait)(?= of )", "marble bust"),
    (r"(?:bronze|iron|metal|copper|brass|steel|gold|golden) (?:head|face|figure|portrait)(?= of )", "bronze statue"),
    (r"wooden (?:head|face|figure|mask|portrait)(?= of )", "wooden carving"),
    (rf"(?:terracotta|clay)(?= {_FIGURE})", "bronze statue of a"),
    (rf"(?P<who>{_FIGURE}) (?:statue|bust|sculpture|figurine)", r"marble bust of a \g<who>"),
    (rf"wooden(?= {_FIGURE})", "wooden carving of a"),
    (rf"(?:stone|marble)(?= {_FIGURE})", "marble bust of a"),
    (rf"(?:metal|steel|iron|bronze|golden)(?= {_FIGURE})", "bronze statue of a"),
    (r"(?:robot|android|cyborg|golem)", "bronze statue of a man"),
    (r"(?:stone|granite|plaster|alabaster|porcelain|jade|ice|crystal|glass|clay|ceramic|ivory|white) "
     r"(statue|bust|sculpture|figurine)", r"marble \1"),
    (r"(?:statue|bust|sculpture) (?:made )?(?:of|in|from) (?:stone|granite|plaster)", "marble bust"),
    (r"(?:copper|brass|iron|metal|steel|gold|golden|silver) (statue|bust|sculpture|figurine)", r"bronze \1"),
    (r"(?P<before>(?:[\w-]+ )?)(?P<thing>statue|sculpture|figurine|bust)(?= of )",
     _unless("marble bronze wooden wood", "marble bust")),
    (r"(bronze|marble|wooden) figurine", r"\1 statue"),
    (r"(?:made|carved) (?:out )?(?:of|from) (?:stone|granite)", "made of marble"),
    (r"(?:made|cast) (?:out )?(?:of|from|in) (?:metal|copper|brass|iron|bronze|steel|gold|silver)", "made of bronze"),
    (r"(?:made|carved) out of (marble|wood)", r"made of \1"),
    (r"an? (?:statue|sculpture|figurine)(?=$|,| (?:with|in|wearing)\b)", "a marble bust of a person"),
)  # fmt: skip

def calling_of(text: str, subject: str) -> str:
    """The text with every calling said to be a subject's, as most callings stand for men otherwise.

    Example:
        >>> calling_of("turn her into a vampire", "woman")
        'turn her into a woman vampire'
    """
    callings = "|".join(f"{_OLD_MEN} {_MEN}".split())
    return re.sub(rf"\b(an?) ((?:[\w-]+ )?)(?=(?:{callings})\b)", rf"\1 \2{subject} ", text)


def nearest_words(text: str) -> str:
    """A prompt or an instruction in words that the portrait world has, as far as there are near ones.

    Example:
        >>> nearest_words("a wizard with purple dreadlocks and a fedora")
        'an old man with pink curls and a cowboy hat'
    """
    said = " ".join(text.split())
    for pattern, new in _rules():
        said = " ".join(pattern.sub(new, said).split())  # where a word was left out
    return _article().sub(lambda m: m[1] + ("n" if m[2][0].lower() in "aeiou" else ""), said)


@lru_cache(maxsize=1)
def _rules() -> tuple[tuple[re.Pattern[str], Said], ...]:
    """:data:`RULES`, compiled: they are more than the cache of ``re`` holds."""
    return tuple((re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE), new) for pattern, new in RULES)


@lru_cache(maxsize=1)
def _article() -> re.Pattern[str]:
    """"a" or "an" before what was put in, where it must be right; words as typed keep theirs (an hour, a unicorn)."""
    new = {re.split(r"[ -]", said)[0] for _, said in RULES if isinstance(said, str) and said[:1].isalpha()}
    return re.compile(rf"\b([Aa])n?(?= ((?:{'|'.join(sorted(new))})\b))")
