"""Words for needles; the sealed split uses others than the search split."""

from __future__ import annotations

from evals.texts import Split

_ADJECTIVES = {
    "search": "quiet golden hollow gentle bitter rapid silver distant frozen humble crimson narrow "
    "ancient bright clever dusty eager fierce heavy lonely",
    "sealed": "broken curious daring faded graceful hidden jolly mighty noble patient restless "
    "sturdy tender vivid weary wooden yellow zealous famous hungry",
}
_NOUNS = {
    "search": "river castle garden window mountain engine forest harbor letter market bridge "
    "candle desert island mirror pocket rocket shadow temple valley",
    "sealed": "anchor basket camera dragon eagle fountain guitar hammer insect jacket kettle "
    "ladder magnet needle orchard parrot quarry ribbon saddle tunnel",
}
_ANSWERS = {
    "search": "apple tiger ocean piano doctor silver winter cotton butter planet lemon coffee "
    "rabbit violin marble copper pepper button salmon carpet turtle jungle velvet walnut",
    "sealed": "banana falcon thunder trumpet sailor bronze summer leather honey comet cherry tea "
    "monkey flute crystal iron ginger zipper lobster pillow spider meadow linen almond",
}


def adjectives(split: Split) -> list[str]:
    """Adjectives of a split."""
    return _ADJECTIVES[split].split()


def nouns(split: Split) -> list[str]:
    """Nouns of a split."""
    return _NOUNS[split].split()


def answers(split: Split) -> list[str]:
    """Answer words of a split."""
    return _ANSWERS[split].split()
