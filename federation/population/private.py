"""Hobbies that become private labels, and how people talk about them. Data only.

Each entry: the label's ending, the words a person may use for the thing, and wordings. ``{it}`` is the
person's own word, fixed for that person.
"""

# One word a line would hide the lists.
# fmt: off
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hobby:
    """A hobby: ``ending`` completes the label "Nora Vale's …"."""

    ending: str
    words: tuple[str, ...]
    wordings: tuple[str, ...]


def _hobby(ending: str, words: str, wordings: str) -> Hobby:
    return Hobby(ending=ending, words=tuple(words.split(", ")), wordings=tuple(wordings.split(" | ")))


HOBBIES: tuple[Hobby, ...] = (
    _hobby(
        "violin log", "fiddle time, bow work, the strings, screechy practice",
        "{mins} minutes of {it} done | log {it} today | scales were rough, put it under {it} | how much {it} this week",
    ),
    _hobby(
        "sourdough diary", "the blob, Doughlores, my starter, the crumb",
        "fed {it} today | {it} doubled in {mins} minutes | write up {it}, crust was dark | when did I last feed {it}",
    ),
    _hobby(
        "orchid notebook", "the ladies, the bloomers, my windowsill, the potted ones",
        "watered {it} today | new bud on {it} | note root rot on {it} | when were {it} repotted",
    ),
    _hobby(
        "allotment planner", "the plot, plot nine, the patch, my beans",
        "sowed two rows at {it} | slugs again on {it} | what goes in {it} in {month} | {mins} minutes weeding {it}",
    ),
    _hobby(
        "running log", "the miles, plodding, my legs, the loop",
        "{mins} minutes of {it} | {it} felt heavy today | add {it}, sore knee | compare {it} with last {month}",
    ),
    _hobby(
        "chess journal", "the sixty-four, woodpushing, my blunders, the board",
        "lost on {it} to a fork | {mins} minutes studying {it} | put the last game in {it} | show {it} from {month}",
    ),
    _hobby(
        "beehive record", "the girls upstairs, hive two, the buzz, my colony",
        "checked {it}, saw the queen | {it} needs a new super | count mites in {it} | fed {it} syrup today",
    ),
    _hobby(
        "knitting queue", "the stash, sticks and string, the needles, purl pile",
        "row {mins} on {it} | cast on a sock from {it} | {it}: add the cardigan | frogged the sleeve, tell {it}",
    ),
    _hobby(
        "migraine tracker", "the fog, head weather, the hammer, my head",
        "{it} since {clock} | {it} is a six out of ten | took a tablet for {it} | how often {it} in {month}",
    ),
    _hobby(
        "home brew ledger", "the barrel, batch nine, the bubbler, my stout",
        "{it} is at ten twelve | bottled {it} today | dry hop {it} {day} | taste note for {it}: biscuity",
    ),
    _hobby(
        "telescope notes", "the big eye, the dark sky, the lens, my stars",
        "saw Saturn through {it} | clear until {clock}, get {it} out | {it}: clouds again | sketch for {it}, the moon",
    ),
    _hobby(
        "model railway list", "the layout, the loft line, the little trains, the branch line",
        "glued a bridge on {it} | {it} needs points | painted a wagon for {it} | {mins} minutes on {it}",
    ),
    _hobby(
        "choir folder", "the altos, singing homework, the score, my part",
        "page {mins} of {it} again | {it}: breathe before the refrain | practise {it} {day} | record {it} at {clock}",
    ),
    _hobby(
        "puppy training book", "the beast, pup school, little monster, biscuit boot camp",
        "{it} sat three times | {it} chewed a slipper | {mins} minutes of {it} | no accidents today, {it}",
    ),
    _hobby(
        "swim sheet", "lengths, the chlorine, my laps, pool time",
        "{mins} of {it} today | {it}: tumble turns better | add forty to {it} | best {it} in {month}",
    ),
    _hobby(
        "birdwatching list", "the feathered lot, ticks, my sightings, the hide",
        "a wren for {it} | {it}: two kites over the mill | add a goldcrest to {it} | how many for {it} in {month}",
    ),
    _hobby(
        "novel draft", "the manuscript, chapter monster, the tome, the scribbling",
        "{mins}0 words on {it} | kill the uncle in {it} | {it}: new ending | open {it} where I left off",
    ),
    _hobby(
        "guitar song book", "six strings, the riffs, twang, my chords",
        "{mins} minutes of {it} | new bridge for {it} | {it}: capo on three | tune down for {it} today",
    ),
    _hobby(
        "aquarium chart", "the tank, fish folk, the wet pets, my reef",
        "changed a third of {it} | nitrates in {it} at ten | two new shrimp for {it} | clean {it} {day}",
    ),
    _hobby(
        "bonsai calendar", "little trees, the tiny forest, my maple, the shears",
        "wired a branch on {it} | pinched {it} today | {it}: repot {day} | feed {it} in {month}",
    ),
    _hobby(
        "pottery glaze card", "the kiln, mud, wheel time, my pots",
        "{it}: celadon over iron | test tile for {it} cracked | {mins} minutes of {it} | fire {it} {day}",
    ),
    _hobby(
        "climbing tick list", "the wall, pulling plastic, my crimps, the project",
        "sent the blue one, {it} | fell off {it} at the top | {mins} minutes on {it} | {it}: rest a finger",
    ),
    _hobby(
        "family tree file", "the ancestors, dead relatives, the roots, great-greats",
        "found a baptism for {it} | {it}: check the {city} census | add a cousin to {it} | letter about {it} today",
    ),
    _hobby(
        "sleep journal", "the zeds, my kip, shut-eye, the night report",
        "{it}: woke at {clock} | bad {it} again | {mins} minutes to drop off, {it} | average {it} in {month}",
    ),
)
