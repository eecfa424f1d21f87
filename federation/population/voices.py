"""Ways of speaking that tell people apart. Data only."""

# One word a line would hide the lists.
# fmt: off
# A clause is wrapped by one of the person's own frames; {x} is the clause.
FRAMES: tuple[str, ...] = (
    "can you {x}?", "could you {x}?", "please {x}", "{x}", "{x} please", "I need you to {x}", "would you {x}?",
    "any chance you could {x}?", "{x} when you get a sec", "quickly {x}", "I'd like you to {x}", "be a star and {x}",
    "just {x}", "{x}, would you?", "go ahead and {x}", "{x} asap", "{x} if you can", "next: {x}", "make sure you {x}",
    "kindly {x}", "{x}, no rush", "do me a favour and {x}",
)
OPENERS: tuple[str, ...] = (
    "hey", "ok", "right", "so", "hello", "oi", "well", "alright", "hi there", "um", "listen", "yo", "now then",
)
CLOSERS: tuple[str, ...] = (
    "thanks", "cheers", "ta", "thank you", "many thanks", "thx", "you're a gem", "much appreciated", "love", "mate",
    "merci", "lol", "ok?", "for real",
)
# Each person uses some of these, always the same ones.
ABBREVIATIONS: tuple[tuple[str, str], ...] = (
    ("tomorrow", "tmrw"), ("please", "pls"), ("tonight", "tonite"), ("you", "u"), ("with", "w/"), ("minutes", "mins"),
    ("weekend", "wknd"), ("and", "&"), ("something", "smth"), ("tickets", "tix"), ("appointment", "appt"),
    ("are", "r"), ("Friday", "Fri"), ("Saturday", "Sat"), ("Monday", "Mon"), ("Tuesday", "Tues"),
    ("Thursday", "Thurs"), ("because", "cos"), ("before", "b4"), ("people", "ppl"), ("delivered", "dlvrd"),
    ("for", "4"), ("to", "2"), ("meeting", "mtg"), ("favour", "fav"), ("thanks", "tks"), ("going to", "gonna"),
    ("I'm", "im"), ("reservation", "rez"), ("about", "abt"), ("through", "thru"), ("okay", "k"),
)
# Short requests that say nothing to a stranger; what each means is the person's own.
SHORT: tuple[str, ...] = (
    "the usual", "same as always", "same again", "do the thing", "the regular", "you know the drill",
    "standing order", "make it happen", "book it", "sort me out", "go ahead with it", "one more round",
    "the normal one", "as last time", "as before", "same one", "set it up", "get it going", "get it ready",
    "line it up", "hit it", "again", "run it back", "get the ball rolling", "my favourite", "my go-to", "option one",
    "plan A", "the special", "the classic", "fix me up", "my treat", "that thing I like", "the normal",
    "what I always have", "like every week", "like yesterday", "our little ritual", "the good one", "number one",
    "do your magic", "press the button", "the routine", "order it", "get me going", "it's that time again",
    "my thing", "the daily", "round two", "and once more", "repeat that", "take me there", "the default",
    "on with it", "I'm ready", "let's have it", "the one from before", "yes, that again",
)
SHORT_TAILS: tuple[str, ...] = (
    "", "", "", "", "{soon}", "for {clock}", "at {clock}", "now", "for {n}", "{day}", "in {mins} minutes", "quick",
    "before {clock}", "like last week", "around {clock}", "once more",
)
CODE_WORDS: tuple[str, ...] = (
    "badger", "comet", "teapot", "walrus", "pickle", "thunder", "marmot", "noodle", "velcro", "pumpkin", "rocket",
    "biscuit", "falcon", "mango", "turnip", "wombat", "zigzag", "anchor", "bumble", "cactus", "domino", "ember",
    "fiddle", "goblin", "hazel", "igloo", "jigsaw", "kipper", "lobster", "muffin", "nimbus", "otter", "pebble",
    "quiver", "radish", "saffron", "tango", "umber", "vortex", "whisker", "yodel", "zephyr", "acorn", "bagel",
    "clover", "dynamo",
)
CODE_PHRASES: tuple[str, ...] = (
    "operation {code}", "{code} time", "{code} mode", "do a {code}", "{code} please", "the {code}",
)
