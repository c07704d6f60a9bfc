"""The forms of a keyword: cat, cats; run, ran, running; and where a text has one of them.

English only; words of other languages stand for themselves. A word's part of speech is
not known here, so every word has a plural and a verb's forms. Forms that are no words do
no harm where a text is searched.
"""

import functools
import re
import unicodedata

_VOWELS = "aeiou"
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""First words of Unicode's names for letters of scripts that put no space between words."""
_OF_WORDS = r"[\w$+=\u00a2\u00a3\u00a5\u20ac]"
"""What makes one word with a letter or digit beside it, as `clean_keyword` has it: $20, C++."""
_WORD = re.compile(f"{_OF_WORDS}+")
_JOINT = r"[^\w\s]?\s?[^\w\s]?"
"""What may stand between two words of one keyword: a space, a dash, an apostrophe."""

_VERBS = """
arise arose arisen; awake awoke awoken; be am is are was were been; bear bore borne born;
beat beaten; become became; begin began begun; bend bent; bet; bind bound; bite bit bitten;
bleed bled; blow blew blown; break broke broken; breed bred; bring brought; build built;
burn burnt; buy bought; catch caught; choose chose chosen; cling clung; come came;
creep crept; cut; deal dealt; dig dug; do did done does; draw drew drawn; dream dreamt;
drink drank drunk; drive drove driven; eat ate eaten; fall fell fallen; feed fed; feel felt;
fight fought; find found; flee fled; fling flung; fly flew flown; forbid forbade forbidden;
forget forgot forgotten; forgive forgave forgiven; freeze froze frozen; get got gotten;
give gave given; go went gone goes; grind ground; grow grew grown; hang hung; have has had;
hear heard; hide hid hidden; hit; hold held; hurt; keep kept; kneel knelt; knit; know knew known;
lay laid; lead led; lean leant; leap leapt; learn learnt; leave left; lend lent; let; lie lay lain;
light lit; lose lost; make made; mean meant; meet met; mow mown; overcome overcame; pay paid;
prove proven; put; quit; read; ride rode ridden; ring rang rung; rise rose risen; run ran;
saw sawn; say said; see saw seen; seek sought; sell sold; send sent; set; sew sewn;
shake shook shaken; shave shaven; shear shorn; shed; shine shone; shoot shot; show shown;
shrink shrank shrunk; shut; sing sang sung; sink sank sunk; sit sat; sleep slept; slide slid;
smell smelt; sow sown; speak spoke spoken; speed sped; spell spelt; spend spent; spill spilt;
spin spun; spit spat; split; spoil spoilt; spread; spring sprang sprung; stand stood;
steal stole stolen; stick stuck; sting stung; stink stank stunk; stride strode; strike struck;
string strung; strive strove; swear swore sworn; sweep swept; swell swollen; swim swam swum;
swing swung; take took taken; teach taught; tear tore torn; tell told; think thought;
throw threw thrown; understand understood; upset; wake woke woken; wear wore worn;
weave wove woven; weep wept; win won; wind wound; withdraw withdrew withdrawn; write wrote written;
far farther further; good better best; bad worse worst
"""
_NOUNS = """
calf calves; child children; dwarf dwarves; elf elves; foot feet; goose geese; half halves;
hero heroes; hoof hooves; knife knives; leaf leaves; life lives; loaf loaves; louse lice;
man men; mouse mice; ox oxen; potato potatoes; scarf scarves; self selves;
shelf shelves; thief thieves; tomato tomatoes; tooth teeth; wife wives; wolf wolves; woman women
"""
_ENTRIES = [entry.split() for entry in f"{_VERBS};{_NOUNS}".split(";")]
_OF_BASE = {base: forms for base, *forms in _ENTRIES}
_SINGULAR = {form: base for base, *forms in map(str.split, _NOUNS.split(";")) for form in forms}
_NOT_PLURAL = """
always christmas gas jeans lens news pants perhaps series shorts species texas
"""
_GRADED = """
big bright broad busy cheap clean clear close cold cool crazy cute dark deep dirty dry early easy
fancy fast fat fine flat funny great green happy hard heavy high hot huge kind large late lazy
light long loud low lucky mad narrow near neat new nice noisy odd old pale poor pretty proud quick
quiet rare rich rough rude sad safe scary shallow sharp shiny short sick silly simple slow small
smart smooth soft spicy steep strange strict strong sunny sweet tall thick thin tight tiny tough
ugly warm weak weird wet wide wild wise young
"""


@functools.lru_cache(2**16)
def inflections(word: str) -> tuple[str, ...]:
    """Return the forms of a word in lower case, itself first.

    A plural also has its singular and that one's forms, but a verb's past does not have
    its infinitive: who asks for `saw` may mean the tool.
    """
    word = word.lower()
    base = _singular(word)
    forms = [word, base, *_OF_BASE.get(base, ()), *_regular(base)]
    return tuple(dict.fromkeys(forms))


def _singular(word: str) -> str:
    if word in _SINGULAR:
        return _SINGULAR[word]
    if not word.endswith("s") or len(word) < 4 or word in _NOT_PLURAL.split():
        return word
    if word.endswith(("ss", "as", "is", "us", "ics")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return word[:-2]
    return word[:-1]


def _regular(word: str) -> list[str]:
    """Return the forms of a noun, a verb and an adjective as spelling has them, plural first."""
    if not (word.isascii() and word.isalpha() and len(word) > 1):
        return []
    stem, plural = word, word + "s"
    if word.endswith("y") and word[-2] not in _VOWELS:
        plural, past = word[:-1] + "ies", word[:-1] + "ied"
    elif word.endswith("e"):
        stem, past = word.removesuffix("e"), word + "d"
        if word.endswith(("ee", "oe", "ye")):
            stem = word
        elif word.endswith("ie"):
            stem = word[:-2] + "y"
    else:
        if word.endswith(("s", "x", "z", "ch", "sh")):
            plural = word + "es"
        if re.fullmatch(f"(?:.*[^{_VOWELS}])?[{_VOWELS}][^{_VOWELS}wxy]", word) and (
            len(re.findall(f"[{_VOWELS}]+", word)) == 1
        ):
            stem = word + word[-1]
        past = stem + "ed"
    # Seed is not of see; the irregular words have their past in the table.
    forms = [plural, stem + "ing"] if word in _OF_BASE else [plural, past, stem + "ing"]
    if word in _GRADED.split():
        forms += [past[:-1] + "r", past[:-1] + "st"]
    return forms


def usual_forms(word: str) -> tuple[str, ...]:
    """Return those of the `inflections` that a word of any kind is likely to have.

    The singular, the plural and the irregular ones, but not in -ed and -ing.
    """
    word = word.lower()
    singular = _singular(word)
    usual = {word, singular, *_OF_BASE.get(singular, ()), *_regular(singular)[:1]}
    return tuple(form for form in inflections(word) if form in usual)


def keyword_forms(keyword: str, usual: bool = False) -> tuple[tuple[str, ...], ...]:
    """Return the ways to write a keyword, each as its words; the keyword's own first.

    Dashes part the words of a keyword, of which the last has its inflections, or the
    `usual` ones only.
    """
    *words, last = keyword.split("-")
    forms = (usual_forms if usual else inflections)(last)
    others = (form for form in forms if form != last.lower())
    return tuple((*words, form) for form in (last, *others))


@functools.lru_cache(4096)
def keyword_pattern(keyword: str) -> re.Pattern[str]:
    """Return what finds a keyword in a text: any of its forms, in any case, as whole words."""
    forms = [_JOINT.join(map(re.escape, words)) for words in keyword_forms(keyword)]
    # The longest first, for the first that fits is taken.
    either = "|".join(sorted(forms, key=len, reverse=True))
    before = f"(?<!{_OF_WORDS})" if _is_spaced_letter(keyword[0]) else ""
    behind = f"(?!{_OF_WORDS})" if _is_spaced_letter(keyword[-1]) else ""
    return re.compile(f"{before}(?:{either}){behind}", re.IGNORECASE)


def find_keyword(keyword: str, text: str) -> tuple[int, int] | None:
    """Return where `keyword_pattern` first finds a keyword, as start and end, or None."""
    # Most keywords are single words; a pattern for each would take most of the time.
    if keyword.isascii() and keyword.isalnum():
        forms = {form.lower() for (form,) in keyword_forms(keyword)}
        words = _WORD.finditer(text)
        return next((word.span() for word in words if word[0].lower() in forms), None)
    found = keyword_pattern(keyword).search(text)
    return found and found.span()


def lengthens_word(text: str) -> bool:
    """Whether a text makes a longer word of the one that it is put behind."""
    return re.match(_OF_WORDS, text) is not None


def _is_spaced_letter(character: str) -> bool:
    """Whether a character makes one word with a letter beside it."""
    if not re.match(r"\w", character):
        return False
    return not unicodedata.name(character, "").startswith(_UNSPACED)
