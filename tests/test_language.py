"""Languages are told right where there is enough text, and code is called none."""

import random
import threading

import pytest
from pydantic import ValidationError

from tasks import language as module
from tasks.language import Language, language_of
from tasks.text import Text
from tests.benchmarks.catalogues import LANGUAGES, catalogue_documents

ENGLISH = (
    "It was a bright cold day in April, and the clocks were striking thirteen; he slipped quickly indoors. "
    * 3
)


CODE = {
    "Python": """def total(self, orders: list[Order]) -> int:
    found = [order for order in orders if order.paid_at is not None]
    for order in found:
        self._seen.add(order.key)  # so that none is counted twice
    return sum(order.amount for order in found) + self.start\n""",
    "JavaScript": """export function total(orders) {
  const found = orders.filter((order) => order.paidAt !== null);
  // so that none is counted twice
  found.forEach((order) => seen.add(order.key));
  return found.map((order) => order.amount).reduce((a, b) => a + b, 0);
}\n""",
    "C": """static int total(const struct order *orders, size_t count) {
    int sum = 0;
    for (size_t i = 0; i < count; i++) {
        if (orders[i].paid_at == NULL) continue; /* not yet */
        sum += orders[i].amount;
    }
    return sum;
}\n""",
    "HTML": """<div class="orders"><ul id="list"><li class="order paid"><a href="/orders/1">First order</a></li>
<li class="order"><a href="/orders/2">Second order</a></li></ul><p class="total">The total is <b>12</b></p></div>\n""",
    "JSON": """{"orders": [{"key": "first", "paid": true, "amount": 12}, {"key": "second", "paid": false, "amount": 7}],
"total": {"amount": 19, "currency": "euro", "checked": null}, "owner": {"name": "jo", "active": true}}\n""",
}


def test_texts_of_twenty_languages_are_told_right() -> None:
    documents = catalogue_documents()
    assert len({language for language, _ in documents}) == len(LANGUAGES.split()) == 20
    assert all(len(text) > 500 for _, text in documents)
    right = [language_of(text)[0] == language for language, text in documents]
    assert len(right) > 300
    assert sum(right) / len(right) >= 0.99


def test_nothing_is_said_of_a_few_words() -> None:
    for language, text in random.Random(0).sample(catalogue_documents(), 40):
        words = text.split() if language not in ("ja", "zh") else list(text)
        assert language_of(" ".join(words[:8])) == ("und", 0.0)
    assert language_of("") == ("und", 0.0)
    assert language_of("12 345 678, 9.10 " * 100) == ("und", 0.0)


@pytest.mark.parametrize("name", CODE)
def test_code_is_no_language(name: str) -> None:
    assert language_of(CODE[name] * 3) == ("und", 0.0)


def test_the_middle_counts_as_much_as_the_start() -> None:
    menu = "Home News Sport Weather Travel Contact us About this page Sign in " * 4
    german = "".join(text + "\n" for language, text in catalogue_documents() if language == "de")
    assert language_of(menu + german)[0] == "de"


def test_a_filter_says_which_language_it_was() -> None:
    french = Text(next(text for language, text in catalogue_documents() if language == "fr"))
    assert Language().reason(french) == "language is fr, not en"
    assert Language(languages=("de", "en")).reason(french) == "language is fr, not de or en"
    assert Language(languages=("fr",)).reason(french) is None
    assert Language().reason(Text(ENGLISH)) is None
    mixed = Text(ENGLISH[:180] + french[:180])
    told, probability = language_of(mixed)
    unsure = Language(languages=(told,), probability=min(1.0, probability + 0.001))
    assert unsure.reason(mixed) == f"language is {told}, but not surely"
    assert Language().reason(Text("x = 1\n" * 99)) == "language cannot be told"
    assert Language(undetermined=True).reason(Text("x = 1\n" * 99)) is None


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValidationError, match="no language is called english"):
        Language(languages=("en", "english"))


def test_threads_share_one_model_and_agree() -> None:
    module._load.cache_clear()
    documents = catalogue_documents()[::40]
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append([language_of(text)[0] for _, text in documents]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[language for language, _ in documents]] * 4
    assert module._load.cache_info().misses == 1
