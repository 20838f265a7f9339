"""Captions in everyday words for pictures of dogs, and whether a caption fits.

A caption states some attributes of a picture and leaves out the rest; it fits every
picture that has what it states.
"""

from collections.abc import Mapping, Sequence
from random import Random

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "coat": {
        "black": ("black", "dark"),
        "brown": ("brown", "chocolate"),
        "golden": ("golden", "yellow", "blond"),
        "grey": ("grey", "gray", "silver"),
        "red": ("red", "ginger", "orange"),
        "white": ("white", "cream"),
    },
    "pattern": {
        "bicolour": ("bicolour", "two-coloured", "two-tone"),
        "masked": ("masked", "mask-faced"),
        "plain": ("plain", "solid", "one-coloured"),
        "saddled": ("saddled", "blanketed"),
        "spotted": ("spotted", "dotted", "speckled"),
        "tricolour": ("tricolour", "three-coloured"),
    },
    "fur": {
        "curly": ("curly", "woolly", "curly-haired"),
        "fluffy": ("fluffy", "shaggy", "long-haired", "furry"),
        "smooth": ("smooth", "sleek", "short-haired"),
    },
    "ears": {
        "floppy": ("floppy", "drooping", "hanging"),
        "folded": ("folded", "tipped", "bent"),
        "long": ("long", "pendulous", "dangling"),
        "pricked": ("pricked", "pointed", "upright", "erect"),
    },
    "legs": {
        "long": ("long", "tall", "high"),
        "short": ("short", "stubby", "little"),
    },
    "tail": {
        "bushy": ("bushy", "feathery", "plumed"),
        "curled": ("curled", "rolled", "ring"),
        "docked": ("docked", "bobbed", "stumpy"),
        "straight": ("straight", "thin", "whip"),
    },
    "pose": {
        "lying": ("lying", "resting"),
        "running": ("running", "racing"),
        "sitting": ("sitting", "seated"),
        "standing": ("standing",),
    },
    "scene": {
        "beach": ("on the beach", "on sand", "at the sea", "by the seaside"),
        "meadow": ("on grass", "in a meadow", "in the park", "in a green field"),
        "room": ("in a room", "indoors", "at home", "in the house"),
        "snow": ("in the snow", "on snow", "in winter"),
        "street": ("in the street", "in town", "on the road", "in the city"),
    },
}
"""For each attribute and value, the words that captions use for it."""

_OPENINGS = ("a photo of", "a picture of", "an image of", "a drawing of", "here is", "")
_NOUNS = ("dog", "dog", "dog", "puppy", "pet", "animal", "dogs")
_HAIR = ("fur", "hair", "coat")


def stated(values: Mapping[str, str], rng: Random, share: float) -> dict[str, str]:
    """Choose what a caption states: each attribute with that probability, or one."""
    chosen = {k: v for k, v in values.items() if rng.random() < share}
    if not chosen:
        name = rng.choice(list(values))
        chosen = {name: values[name]}
    return chosen


def caption(facts: Mapping[str, str], rng: Random) -> str:
    """Return a caption that states these facts, in varied wording."""

    def word(name: str) -> str:
        return rng.choice(WORDS[name][facts[name]])

    before = [word(k) for k in ("fur", "coat", "pattern") if k in facts]
    if rng.random() < 0.4:
        rng.shuffle(before)
    parts = [f"{word(k)} {k}" for k in ("ears", "legs", "tail") if k in facts]
    if before and "-" not in before[-1] and rng.random() < 0.2:
        parts.append(f"{before.pop()} {rng.choice(_HAIR)}")
    rng.shuffle(parts)
    noun = rng.choice(_NOUNS)
    head = " ".join([*before, noun])
    pose = word("pose") if "pose" in facts else ""
    place = word("scene") if "scene" in facts else ""
    if pose and rng.random() < 0.4:
        head, pose = f"{pose} {head}", ""
    opening = rng.choice(_OPENINGS)
    article = rng.choice(("a", "a", "the")) if opening or rng.random() < 0.7 else ""
    if noun == "dogs":
        article = ""
    text = [opening, article, head, _with(parts, rng), pose, place]
    return " ".join(part for part in text if part)


def _with(parts: Sequence[str], rng: Random) -> str:
    if not parts:
        return ""
    joined = " and ".join(parts)
    if len(parts) > 2 and rng.random() < 0.5:
        joined = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{rng.choice(('with', 'with', 'with', 'that has'))} {joined}"


def prompt(name: str, value: str) -> str:
    """Return the plain caption that asks for one attribute."""
    word = WORDS[name][value][0]
    if name in ("ears", "legs", "tail"):
        article = "a " if name == "tail" else ""
        return f"a photo of a dog with {article}{word} {name}"
    if name == "scene":
        return f"a photo of a dog {word}"
    return f"a photo of a {word} dog"


def vocabulary() -> list[str]:
    """Return every word that a caption can hold, sorted; a hyphen counts as one."""
    texts = [*_OPENINGS, *_NOUNS, *_HAIR, "the that has with and ears legs tail"]
    texts += [w for values in WORDS.values() for ws in values.values() for w in ws]
    return sorted({w for text in texts for w in text.replace("-", " - ").split()})
