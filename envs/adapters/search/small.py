"""A small collection that comes along: states, their capitals and money, and questions on them.

Questions of two steps name a state by its capital alone: its money stands in another passage than
the capital does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentopd.environment.splits import split_of

_STATES = """
Argentina|Buenos Aires|South America|peso
Australia|Canberra|Oceania|dollar
Bangladesh|Dhaka|Asia|taka
Botswana|Gaborone|Africa|pula
Brazil|Brasília|South America|real
Cambodia|Phnom Penh|Asia|riel
Canada|Ottawa|North America|dollar
Chile|Santiago|South America|peso
China|Beijing|Asia|renminbi
Costa Rica|San José|North America|colón
Czechia|Prague|Europe|koruna
Denmark|Copenhagen|Europe|krone
Egypt|Cairo|Africa|pound
Ethiopia|Addis Ababa|Africa|birr
Ghana|Accra|Africa|cedi
Guatemala|Guatemala City|North America|quetzal
Haiti|Port-au-Prince|North America|gourde
Honduras|Tegucigalpa|North America|lempira
Hungary|Budapest|Europe|forint
Iceland|Reykjavík|Europe|króna
India|New Delhi|Asia|rupee
Indonesia|Jakarta|Asia|rupiah
Japan|Tokyo|Asia|yen
Jordan|Amman|Asia|dinar
Kazakhstan|Astana|Asia|tenge
Kenya|Nairobi|Africa|shilling
Laos|Vientiane|Asia|kip
Malaysia|Kuala Lumpur|Asia|ringgit
Mexico|Mexico City|North America|peso
Mongolia|Ulaanbaatar|Asia|tögrög
Morocco|Rabat|Africa|dirham
Nepal|Kathmandu|Asia|rupee
New Zealand|Wellington|Oceania|dollar
Nigeria|Abuja|Africa|naira
Norway|Oslo|Europe|krone
Oman|Muscat|Asia|rial
Papua New Guinea|Port Moresby|Oceania|kina
Paraguay|Asunción|South America|guaraní
Peru|Lima|South America|sol
Philippines|Manila|Asia|peso
Poland|Warsaw|Europe|złoty
Romania|Bucharest|Europe|leu
Samoa|Apia|Oceania|tālā
Sweden|Stockholm|Europe|krona
Thailand|Bangkok|Asia|baht
Turkey|Ankara|Asia|lira
Ukraine|Kyiv|Europe|hryvnia
Uruguay|Montevideo|South America|peso
Vietnam|Hanoi|Asia|đồng
Zambia|Lusaka|Africa|kwacha
"""


def corpus() -> list[Mapping[str, str]]:
    """The passages: `id`, `title`, `text`."""
    found: list[Mapping[str, str]] = []
    for name, capital, continent, money in _states():
        place = f"{name} is a state in {continent}. It is governed from {capital}."
        pays = f"What is bought in {name} is paid for in the {money}, its currency."
        found += [
            {"id": f"{name}/state", "title": name, "text": place},
            {"id": f"{name}/money", "title": f"Money of {name}", "text": pays},
        ]
    return found


def questions(split: str) -> list[Mapping[str, Any]]:
    """The questions of a split: `id`, `question`, `answers`, `supports` (ids of passages)."""
    return [row for row in _questions() if split_of("search:small", row["state"]) == split]


def _questions() -> Iterator[Mapping[str, Any]]:
    for name, capital, continent, money in _states():
        state, paid = f"{name}/state", f"{name}/money"
        asked = (
            ("capital", f"What is the capital of {name}?", capital, [state]),
            ("continent", f"On which continent is {name}?", continent, [state]),
            ("money", f"Which currency is used in {name}?", money, [paid]),
            (
                "two steps",
                f"Which currency is used in the state that is governed from {capital}?",
                money,
                [state, paid],
            ),
        )
        for kind, question, answer, supports in asked:
            yield {
                "id": f"{name}/{kind}", "state": name, "question": question, "answers": [answer],
                "supports": supports,
            }  # fmt: skip


def _states() -> Iterator[tuple[str, str, str, str]]:
    for line in _STATES.strip().splitlines():
        name, capital, continent, money = line.split("|")
        yield name, capital, continent, money
