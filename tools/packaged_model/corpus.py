"""A small world in simple sentences, written by rules: what the packaged model learns from.

Everything is drawn from a seed, so the same command gives the same corpus. Each sample is a list of
chat messages or a plain story. Knows nothing of tokens or training.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

Message = dict[str, str]
Sample = str | list[Message]

NAMES = "Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jo Kim Leo Mia Ned Ola Pia Rob Sue Tom Una".split()
ANIMALS = "cat dog fox owl hen cow pig frog duck horse mouse sheep goat bear rabbit".split()
SOUNDS = {
    "cat": "meow",
    "dog": "woof",
    "cow": "moo",
    "duck": "quack",
    "sheep": "baa",
    "pig": "oink",
}
COLORS = "red blue green yellow black white brown pink grey orange".split()
THINGS = "ball hat kite boat book cup drum lamp box coat cake apple stone flower".split()
PLACES = "park house garden river forest hill school shop lake barn".split()
FEELINGS = "happy sad tired proud calm brave hungry curious".split()
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo",
    "Norway": "Oslo", "Peru": "Lima", "Greece": "Athens", "Kenya": "Nairobi", "Cuba": "Havana",
    "Austria": "Vienna", "Portugal": "Lisbon", "Poland": "Warsaw", "Finland": "Helsinki",
}  # fmt: skip
OPPOSITES = {
    "big": "small", "hot": "cold", "fast": "slow", "up": "down", "day": "night", "old": "new",
    "open": "closed", "happy": "sad", "light": "dark", "wet": "dry", "full": "empty",
}  # fmt: skip
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SYSTEM = ("You are a helpful assistant.", "You are a kind helper. Keep answers short.", "Be brief.")


def _ask(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _greeting(r: random.Random) -> list[Message]:
    hello = r.choice(["Hello", "Hello!", "Hi", "Hi!", "Hi there", "Good morning", "Hey"])
    if r.random() < 0.4:
        name = r.choice(NAMES)
        return _ask(f"{hello}, I am {name}.", f"Hello {name}! How can I help you today?")
    return _ask(hello, r.choice(["Hello! How can I help you today?", "Hi! What can I do for you?"]))


def _about_itself(r: random.Random) -> list[Message]:
    question = r.choice(
        ["Who are you?", "What are you?", "What is your name?", "Are you a person?"]
    )
    return _ask(
        question, "I am a very small language model. I come with this package and I know little."
    )


def _capital(r: random.Random) -> list[Message]:
    country, city = r.choice(list(CAPITALS.items()))
    if r.random() < 0.3:
        return _ask(
            f"Which country has the capital {city}?", f"{city} is the capital of {country}."
        )
    question = r.choice(
        ["What is the capital of {}?", "Tell me the capital of {}.", "Capital of {}?"]
    )
    return _ask(question.format(country), f"The capital of {country} is {city}.")


def _sum(r: random.Random) -> list[Message]:
    a, b = r.randint(0, 20), r.randint(0, 20)
    if r.random() < 0.3 and a >= b:
        return _ask(f"What is {a} minus {b}?", f"{a} minus {b} is {a - b}.")
    question = r.choice(["What is {} plus {}?", "How much is {} + {}?", "Add {} and {}."])
    return _ask(question.format(a, b), f"{a} plus {b} is {a + b}.")


def _counting(r: random.Random) -> list[Message]:
    top = r.randint(3, 20)
    if r.random() < 0.3:
        down = ", ".join(str(i) for i in range(top, 0, -1))
        return _ask(f"Count down from {top}.", f"{down}.")
    up = ", ".join(str(i) for i in range(1, top + 1))
    return _ask(r.choice([f"Count to {top}.", f"Count from 1 to {top}."]), f"{up}.")


def _opposite(r: random.Random) -> list[Message]:
    word, other = r.choice(list(OPPOSITES.items()))
    if r.random() < 0.5:
        word, other = other, word
    return _ask(f"What is the opposite of {word}?", f"The opposite of {word} is {other}.")


def _sound(r: random.Random) -> list[Message]:
    animal, sound = r.choice(list(SOUNDS.items()))
    return _ask(f"What does a {animal} say?", f"A {animal} says {sound}.")


def _list(r: random.Random) -> list[Message]:
    what, pool = r.choice([("colors", COLORS), ("animals", ANIMALS), ("days", DAYS)])
    count = r.randint(2, 5)
    chosen = pool[:count] if what == "days" else r.sample(pool, count)
    lines = "\n".join(f"{i}. {word}" for i, word in enumerate(chosen, 1))
    return _ask(f"Name {NUMBERS[count]} {what}.", f"Here are {NUMBERS[count]} {what}:\n{lines}")


def _json(r: random.Random) -> list[Message]:
    name, age = r.choice(NAMES), r.randint(3, 90)
    return _ask(f"Write JSON for {name}, age {age}.", f'{{"name": "{name}", "age": {age}}}')


def _next_day(r: random.Random) -> list[Message]:
    i = r.randrange(7)
    return _ask(f"Which day comes after {DAYS[i]}?", f"{DAYS[(i + 1) % 7]} comes after {DAYS[i]}.")


def _haiku(r: random.Random) -> list[Message]:
    color, animal, place = r.choice(COLORS), r.choice(ANIMALS), r.choice(PLACES)
    thing = r.choice(THINGS)
    text = (
        f"A {color} {thing} lies,\nthe {animal} sleeps near the {place},\nsoft wind, then no sound."
    )
    return _ask(
        r.choice(["Write a haiku.", "Write a haiku", f"Write a haiku about a {animal}."]), text
    )


def _repeat(r: random.Random) -> list[Message]:
    words = " ".join(r.sample(COLORS + ANIMALS + THINGS, r.randint(1, 5)))
    return _ask(f"Repeat after me: {words}", words)


def _thanks(r: random.Random) -> list[Message]:
    return _ask(r.choice(["Thank you!", "Thanks!", "Thank you very much."]), "You are welcome!")


def story(r: random.Random) -> str:
    """A story of a few sentences about one child, one animal and one thing."""
    name, animal, thing = r.choice(NAMES), r.choice(ANIMALS), r.choice(THINGS)
    color, place, feeling = r.choice(COLORS), r.choice(PLACES), r.choice(FEELINGS)
    friend = r.choice([n for n in NAMES if n != name])
    middle = [
        f"{name} saw a {color} {thing} near the {place}.",
        f"A {animal} came and sat by the {thing}.",
        f"{friend} wanted to play with the {thing} too.",
        f'"Is this your {thing}?" asked {name}.',
        f'"Yes, it is my {color} {thing}," said {friend}.',
        f"The {animal} was {feeling} and ran around the {place}.",
        f"They looked for the {animal} all day.",
    ]
    start = r.choice(
        [
            f"Once upon a time, there was a little child named {name}.",
            f"One day, {name} went to the {place}.",
            f"Once upon a time, {name} had a {animal}.",
        ]
    )
    chosen = [m for m in middle if r.random() < 0.65]
    end = r.choice(
        [
            f"In the end, {name} and {friend} were {feeling}.",
            f"Then {name} went home and slept well.",
            f"And so {name} and the {animal} became good friends.",
        ]
    )
    return " ".join([start, *chosen, end])


def _tell_story(r: random.Random) -> list[Message]:
    question = r.choice(["Tell me a story.", "Tell me a short story.", "Write a story."])
    return _ask(question, story(r))


EXCHANGES: tuple[Callable[[random.Random], list[Message]], ...] = (
    _greeting, _about_itself, _capital, _capital, _sum, _sum, _counting, _opposite, _sound, _list,
    _json, _next_day, _haiku, _repeat, _thanks, _tell_story, _tell_story,
)  # fmt: skip


def samples(seed: int, count: int) -> Iterator[Sample]:
    """`count` samples: four chats of one to three exchanges for every plain story."""
    r = random.Random(seed)
    for _ in range(count):
        if r.random() < 0.2:
            yield story(r)
            continue
        chat: list[Message] = []
        if r.random() < 0.3:
            chat.append({"role": "system", "content": r.choice(SYSTEM)})
        for _ in range(r.choice([1, 1, 1, 2, 3])):
            chat += r.choice(EXCHANGES)(r)
        yield chat
