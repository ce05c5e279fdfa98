"""Natural text in many languages: the sentences that Django says to its users, from the catalogues in its package."""

import ast
import random
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

LANGUAGES = "ar cs de el en es fa fi fr hi it ja ko nl pl pt ru sv tr zh_Hans"
FEWEST_CHARACTERS = 500  # of a document
SENTENCE_BYTES = 25  # shorter ones are labels; by eye

ENTRY = re.compile(r'^(msgid|msgstr)(?:\[\d\])? ((?:"(?:[^"\\]|\\.)*"\s*)+)', re.MULTILINE)
PIECE = re.compile(r'"(?:[^"\\]|\\.)*"')
BLANKS = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w*\}|<[^>]+>|https?:\S+|\s+")


@cache
def catalogue_documents() -> list[tuple[str, str]]:
    """Languages by their ISO 639-1 codes, with texts of over 500 characters; no sentence is in two of them."""
    documents = []
    for language in LANGUAGES.split():
        sentences = _sentences(language)
        random.Random(0).shuffle(sentences)
        text = ""
        for sentence in sentences:
            text = f"{text} {sentence}".strip()
            if len(text) > FEWEST_CHARACTERS:
                documents.append((language.partition("_")[0], text))
                text = ""
    return documents


def _sentences(language: str) -> list[str]:
    """Of a language, without the places that programs fill in; in English the ones that are translated elsewhere."""
    spec = find_spec("django")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "django, whose translations these are, is in the extra dev: pip install -e .[dev]"
        )
    found = dict[str, None]()
    for path in sorted(Path(spec.submodule_search_locations[0]).rglob(f"{language}/LC_MESSAGES/django.po")):
        for word, quoted in ENTRY.findall(path.read_text(encoding="utf-8").split("\n\n", 1)[1]):
            value = "".join(ast.literal_eval(piece) for piece in PIECE.findall(quoted))
            sentence = BLANKS.sub(" ", value).strip()
            if (
                word == ("msgid" if language == "en" else "msgstr")
                and len(sentence.encode()) >= SENTENCE_BYTES
            ):
                found[" ".join(sentence.split())] = None
    return list(found)
