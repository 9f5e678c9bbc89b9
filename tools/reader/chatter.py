"""Small talk: distractor lines, lead-ins and trailing remarks, composed so that few of them repeat."""

from __future__ import annotations

from random import Random


def _phrases(text: str) -> list[str]:
    """Splits phrases written with bars between them."""
    return text.split("|")


OPENERS = _phrases(
    "Ha|Oh nice|Wow|Thanks|Sure|Great|Hi|Hello|Hey|Right|Okay|Well|Good morning|Oh no|Cool|Lovely|Yes|No worries|"
    "Fair enough|I see|Good point|Sounds good|That is funny|Same here|Of course|Sorry|Congratulations|Good luck"
)
REMARKS = _phrases(
    "that made my day|how was your weekend|I am so tired today|the weather is awful|see you tomorrow|"
    "let us talk later|I will send you the photos|the coffee here is terrible|did you sleep well|"
    "I had a long day|what a week|it rained all morning|I cannot wait|we should meet soon|thanks for asking|"
    "the bus was late again|I am on my way|I need a holiday|that is great news|how are you|what are you up to|"
    "I watched a film last night|we had so much fun|I burned the toast|it is getting late|I forgot my lunch|"
    "you always say that|tell me more about it|that sounds like hard work|I am glad to hear it|"
    "the queue was endless|I went for a walk|it was worth it|we talked for hours|I have to go now|"
    "do not worry about it|I finally cleaned the house|my phone is almost dead|the concert was loud|"
    "this morning was a mess|nothing much happened here|I still feel sleepy|maybe next time|it took me all day|"
    "who would have thought|we laughed a lot|I hope it goes well|you should come along|the traffic was bad|"
    "everyone was there|how did it go|have you eaten yet|I am proud of you|enjoy your evening"
)
LEADS = _phrases(
    "By the way|Oh, and|Guess what|Just so you know|Oh nice! By the way|You know|Did I tell you|Also|Anyway|"
    "For the record|Good news|Well|So|Remember|Yes|Funny that you ask|Before I forget|Listen|Honestly|Actually|"
    "To be honest|As you know|Some news|I told you already|Believe it or not|Right now"
)
TAILS = _phrases(
    "How about you?|What do you think?|I am so happy about it.|You have to see it.|It is a lot of fun.|Finally!|"
    "I hope it works out.|It was not easy.|Everyone is excited.|Can you believe it?|Long story.|"
    "I will tell you more soon.|It suits me well.|We will see.|It has been a busy time.|That was a surprise."
)


def upper_first(text: str) -> str:
    """Makes the first letter a capital."""
    return text[:1].upper() + text[1:]


def remark(rng: Random) -> str:
    """Draws one sentence of small talk."""
    body = rng.choice(REMARKS)
    end = "?" if body.split()[0] in ("how", "did", "what", "who", "have") else rng.choice([".", ".", "!"])
    if rng.random() < 0.45:
        return f"{rng.choice(OPENERS)}{rng.choice([', ', '! ', '. '])}{body}{end}".replace("! i", "! I")
    return upper_first(body) + end


def small_talk(rng: Random) -> str:
    """Draws a line of small talk: one to three sentences."""
    return " ".join(remark(rng) for _ in range(rng.choice([1, 1, 2, 3])))


def wrap(rng: Random, statement: str) -> str:
    """Puts a statement into a chat answer: a lead-in before it, a remark behind it."""
    roll = rng.random()
    if roll < 0.5:
        lead = rng.choice(LEADS)
        text = f"{lead}{'! ' if lead in OPENERS else rng.choice([', ', ': ', ', '])}{statement}"
    elif roll < 0.85:
        text = f"{remark(rng)} {upper_first(statement)}"
    else:
        text = upper_first(statement)
    if rng.random() < 0.4 or roll >= 0.85:
        text = f"{text} {rng.choice(TAILS) if rng.random() < 0.5 else remark(rng)}"
    return text
