"""What a dog can look like: attributes with words, proportions, and the breeds.

A breed is a distribution over attributes and proportions; related breeds overlap.
The training dogs of the model are free combinations that no breed has.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from random import Random

from doggos_sample.canvas import Colour

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "coat": ("black", "brown", "golden", "grey", "red", "white"),
    "pattern": ("bicolour", "masked", "plain", "saddled", "spotted", "tricolour"),
    "ears": ("floppy", "folded", "long", "pricked"),
    "fur": ("curly", "fluffy", "smooth"),
    "legs": ("long", "short"),
    "tail": ("bushy", "curled", "docked", "straight"),
}
"""Attributes of the dog itself, each with the values that captions have words for."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (46, 44, 52),
    "brown": (124, 76, 46),
    "golden": (226, 176, 104),
    "grey": (140, 146, 158),
    "red": (192, 94, 42),
    "white": (246, 243, 236),
    "tan": (190, 124, 64),
    "silver": (188, 190, 196),
    "liver": (92, 54, 38),
}


@dataclass(frozen=True)
class Build:
    """Proportions of a dog: lengths where a chest is about 0.4 deep."""

    leg: float = 0.44
    body: float = 1.0
    chest: float = 0.42
    tuck: float = 0.08
    neck: float = 0.16
    head: float = 0.23
    muzzle: float = 1.0
    jaw: float = 1.0
    ear: float = 1.0
    bulk: float = 1.0
    lid: float = 0.0


@dataclass
class Dog:
    """One dog: attributes, proportions and colours, ready to be drawn."""

    values: dict[str, str]
    build: Build
    coat: Colour
    dark: Colour
    pale: Colour
    eye: Colour = (0.13, 0.09, 0.08)
    mask: bool = False
    cap: bool = False

    def __getattr__(self, name: str) -> str:
        """Return the value of an attribute, such as ``dog.ears``."""
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None


Odds = dict[str, float]


@dataclass(frozen=True)
class Breed:
    """A breed: odds of attribute values, typical proportions, special colours."""

    coat: Odds
    pattern: Odds
    ears: Odds
    fur: Odds
    legs: Odds
    tail: Odds
    build: Build
    pale: str = "white"
    dark: str = "black"
    blue_eyes: float = 0.0
    mask: float = 0.0
    cap: float = 0.0
    tints: dict[str, tuple[int, int, int]] = field(default_factory=dict)


def possible(values: dict[str, str]) -> bool:
    """Say whether the pattern can be seen on that coat."""
    if values["pattern"] == "bicolour":
        return values["coat"] != "white"
    if values["pattern"] == "tricolour":
        return values["coat"] not in ("white", "black")
    return True


def combinations() -> Iterator[dict[str, str]]:
    """Yield every possible combination of attribute values."""
    for row in product(*ATTRIBUTES.values()):
        values = dict(zip(ATTRIBUTES, row, strict=True))
        if possible(values):
            yield values


def breed_combinations(breed: Breed) -> set[tuple[str, ...]]:
    """Return the attribute tuples that dogs of this breed can have."""
    rows = product(*(getattr(breed, name) for name in ATTRIBUTES))
    return {row for row in rows if possible(dict(zip(ATTRIBUTES, row, strict=True)))}


def tinted(name: str, rng: Random, spread: float = 10) -> Colour:
    """Return a colour by name, slightly off."""
    return _jitter(COLOURS[name], rng, spread)


def _jitter(rgb: tuple[int, int, int], rng: Random, spread: float) -> Colour:
    if min(rgb) > 220:  # a white that is a little darker is a grey
        spread *= 0.4
    light = rng.gauss(0, spread)
    r, g, b = (
        min(max((c + light + rng.gauss(0, spread / 3)) / 255, 0.03), 0.985) for c in rgb
    )
    return r, g, b


def of_breed(breed: Breed, rng: Random) -> Dog:
    """Return a dog of the breed."""
    while True:
        values = {
            name: rng.choices(*zip(*getattr(breed, name).items(), strict=True))[0]
            for name in ATTRIBUTES
        }
        if possible(values):
            break
    mean = breed.build
    build = Build(**{k: v * rng.gauss(1, 0.055) for k, v in vars(mean).items()})
    coat = breed.tints.get(values["coat"], COLOURS[values["coat"]])
    dog = Dog(
        values,
        build,
        _jitter(coat, rng, 9),
        tinted(breed.dark if values["coat"] != "black" else "silver", rng, 6),
        tinted(breed.pale, rng, 5),
        mask=values["pattern"] == "masked" or rng.random() < breed.mask,
    )
    dog.cap = rng.random() < breed.cap
    if rng.random() < breed.blue_eyes:
        dog.eye = (0.35, 0.6, 0.85)
    return dog


def at_random(rng: Random, values: dict[str, str]) -> Dog:
    """Return a dog with these attributes and any proportions."""
    u = rng.uniform
    short = values["legs"] == "short"
    build = Build(
        leg=u(0.13, 0.24) if short else u(0.37, 0.56),
        body=u(0.82, 1.22),
        chest=u(0.34, 0.5),
        tuck=u(0.02, 0.17),
        neck=u(0.06, 0.26),
        head=u(0.25, 0.36),
        muzzle=u(0.35, 1.6),
        jaw=u(0.75, 1.25),
        ear=u(0.85, 1.3),
        bulk=u(0.75, 1.3),
        lid=max(u(-1.5, 1), 0),
    )
    black = values["coat"] == "black"
    dark = "silver" if black else "black"
    if values["coat"] in ("golden", "white") and rng.random() < 0.3:
        dark = "liver"
    pale = rng.choice(("white", "white", "tan") if black else ("white",))
    return Dog(
        values,
        build,
        tinted(values["coat"], rng, 11),
        tinted(dark, rng, 6),
        tinted(pale, rng, 5),
        eye=(0.35, 0.6, 0.85) if rng.random() < 0.08 else (0.13, 0.09, 0.08),
        mask=values["pattern"] == "masked",
        cap=rng.random() < 0.25,
    )
