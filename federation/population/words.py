"""Words that fill the slots of a wording. Data only; all titles, teams and bands are invented."""

# One word a line would hide the lists.
# fmt: off
SLOTS: dict[str, tuple[str, ...]] = {
    "city": (
        "Lisbon", "Leeds", "Porto", "Vienna", "Glasgow", "Lyon", "Krakow", "Bristol", "Oslo", "Turin", "Ghent",
        "York", "Seville", "Cardiff", "Prague", "Hamburg", "Athens", "Cork", "Nantes", "Tallinn", "Bergen", "Utrecht",
        "Graz", "Malaga", "Exeter", "Riga", "Bologna", "Basel", "Aarhus", "Split",
    ),
    "far": (
        "Tokyo", "Buenos Aires", "Cape Town", "Toronto", "Singapore", "Sydney", "Lima", "Nairobi", "Seoul",
        "Mexico City", "Hanoi", "Auckland", "Montreal", "Santiago", "Osaka", "Mumbai",
    ),
    "spot": (
        "the station", "the airport", "the dentist", "the market hall", "the library", "the old harbour",
        "the hospital", "the stadium", "the town hall", "the university", "the swimming pool", "the garden centre",
        "the river bank", "the gym", "the primary school", "the north gate", "the park café", "Elm Street",
        "Mill Lane", "the castle hill",
    ),
    "day": (
        "on Monday", "on Tuesday", "on Wednesday", "on Thursday", "on Friday", "on Saturday", "on Sunday", "tomorrow",
        "next week", "this weekend", "next Friday", "the day after tomorrow", "on the 14th", "on the 3rd",
        "next month", "on Saturday morning", "on Thursday night", "on my day off", "next Tuesday",
        "at the end of the week",
    ),
    "clock": (
        "7", "half eight", "six thirty", "18:30", "noon", "quarter past nine", "8 pm", "five", "10 am",
        "half past two", "19:45", "four o'clock", "seven fifteen", "nine sharp", "3 pm", "twenty to eight", "11:20",
        "half six",
    ),
    "n": ("two", "three", "four", "five", "six", "2", "3", "4", "one"),
    "count": ("two", "three", "four", "six", "2", "3", "a couple", "half a dozen"),
    "nights": ("two", "three", "four", "five", "seven", "2", "3"),
    "mins": ("10", "15", "20", "25", "30", "40", "45", "60", "90", "twenty", "thirty"),
    "price": ("20", "30", "50", "75", "100", "150", "200", "forty quid", "sixty", "a hundred"),
    "month": (
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
        "December",
    ),
    "folk": (
        "the kids", "my parents", "the visitors", "my cousins", "the whole family", "the neighbours", "old friends",
    ),
    "event": (
        "the wedding", "the interview", "the party", "the school play", "the big presentation", "the christening",
        "the reunion", "my holiday", "the parents' evening", "the anniversary", "the photo shoot", "the leaving do",
    ),
    "utility": (
        "water", "gas", "electricity", "boiler", "heating", "drains", "internet", "chimney", "alarm", "burglar alarm",
        "hot water", "solar panels", "meter", "phone line", "council bins", "cooker", "radiators", "wiring",
    ),
    "mood": (
        "funny", "calm", "upbeat", "spooky", "gentle", "silly", "clever", "moving", "fast", "cosy", "old-fashioned",
        "dreamy", "short", "relaxing", "exciting", "dark", "cheerful", "weird",
    ),
    "title": (
        "The Salt Orchard", "Midnight at Platform Six", "A Fox in Winter", "Paper Astronauts", "The Last Lighthouse",
        "Two Left Shoes", "Copper Moon", "The Quiet Heist", "Harbour Lights", "Nine Days of Rain",
        "Grandmother's Map", "Silver Creek", "The Beekeeper's Son", "Afterglow", "Cardboard Kings",
        "The Long Tomorrow",
    ),
    "staple": (
        "milk", "bread", "coffee", "dishwasher tablets", "toilet paper", "eggs", "cat food", "olive oil", "oats",
        "rice", "washing powder", "shampoo", "butter", "tea bags", "nappies", "kitchen roll", "pasta", "apples",
        "bin bags", "tinned tomatoes", "toothpaste", "orange juice", "dog biscuits", "flour",
    ),
    "staple2": (
        "bananas", "yoghurt", "cheese", "soap", "onions", "sponges", "biscuits", "candles", "honey", "batteries",
        "salt", "potatoes", "foil", "jam", "crackers", "hand cream",
    ),
    "fresh": (
        "carrots and leeks", "ripe avocados", "a whole chicken", "fresh salmon", "spinach", "strawberries",
        "sourdough", "lamb chops", "new potatoes", "cherry tomatoes", "mushrooms", "basil and parsley",
        "free-range eggs", "oat milk", "goat's cheese", "broccoli", "red peppers", "plums",
    ),
    "object": (
        "a garden hose", "a yoga mat", "a paddling pool", "curtain hooks", "a bread bin", "a birthday card",
        "a picture frame", "a pillow", "an umbrella", "a toy tractor", "a doormat", "a laundry basket", "bike lights",
        "a thermos flask", "wrapping paper", "a shower curtain", "a suitcase", "winter gloves", "a tent",
        "a wall clock",
    ),
    "thing": (
        "bookcase", "pram", "record player", "tent", "armchair", "bicycle basket", "sledge", "typewriter", "rug",
        "mirror", "wardrobe", "cake tin", "suitcase", "toy kitchen", "garden bench", "high chair",
    ),
    "gadget": (
        "a phone charger", "headphones", "a keyboard", "a kettle", "a desk lamp", "a power bank", "a webcam",
        "a memory card", "a coffee grinder", "a mouse", "a speaker", "an extension lead", "a printer",
        "a fitness watch", "a toaster", "a router", "a hair dryer", "a tablet cover", "a vacuum cleaner",
        "an e-reader",
    ),
    "part": (
        "a graphics card", "a 2 TB solid state drive", "a mechanical keyboard", "DDR5 memory", "an HDMI cable",
        "a 27 inch monitor", "a laptop dock", "a mesh router", "noise cancelling headphones", "a sound card",
        "a webcam arm", "a USB-C hub", "a fan controller", "a quiet case fan", "a microphone", "a wifi adapter",
    ),
    "chore": (
        "calling the bank", "the parcel at the post office", "renewing my passport", "watering the plants",
        "the tax form", "booking the vet", "paying back Sam", "the recycling", "the spare keys",
        "the gift for the team", "my prescription", "the car inspection", "the library books", "cancelling the trial",
        "the travel insurance", "returning the drill", "the school forms", "backing up my laptop",
    ),
    "colleague": (
        "Priya", "Tomas", "the boss", "Helene", "marketing", "the new starter", "Joao", "accounts", "Wendy",
        "the client", "Ravi", "the architects", "Milena", "the suppliers", "HR", "the design team", "Omar",
        "my line manager",
    ),
    "project": (
        "the budget", "the roadmap", "the annual report", "the move", "the website", "the audit", "the launch",
        "the hiring plan", "the trade fair", "the survey", "the contract", "the workshop", "the training", "the rota",
    ),
    "activity": (
        "cooking", "the washing up", "my run", "the commute", "ironing", "stretching", "the housework", "gardening",
        "a long bath", "homework", "the drive", "folding laundry", "a walk", "painting the fence", "deep work",
    ),
    "pizza": (
        "a margherita", "a pepperoni pizza", "two quattro formaggi", "a calzone", "lasagne", "garlic bread",
        "a pizza with extra mushrooms", "spaghetti carbonara", "a family-size pizza", "ravioli",
        "a thin crust with olives", "half ham half pineapple pizza", "penne arrabbiata", "a sourdough pizza",
    ),
    "asian": (
        "pad thai", "a sushi platter", "chicken korma", "ramen", "dim sum", "spring rolls", "beef pho", "bibimbap",
        "sweet and sour pork", "a green curry", "salmon nigiri", "tom yum soup", "egg fried rice", "dumplings",
        "tofu stir fry", "lamb biryani and naan",
    ),
    "healthy": (
        "a quinoa salad", "a falafel bowl", "lentil soup", "a poke bowl without sauce", "a chicken caesar salad",
        "a green smoothie", "roast vegetables and hummus", "a low-carb lunch", "an avocado bowl", "a vegan wrap",
        "a kale salad", "grilled fish with greens", "overnight oats", "a protein box",
    ),
    "grill": (
        "a double cheeseburger", "barbecue ribs", "chicken wings", "a bacon burger and fries", "pulled pork",
        "a hot dog", "a steak sandwich", "loaded fries", "a smoked brisket roll", "onion rings",
        "a spicy chicken burger", "a mixed grill", "a veggie burger with chips", "corn on the cob and ribs",
    ),
    "band": (
        "the Velvet Otters", "Paper Engines", "Mona Ray", "the Tin Choir", "Salt and Static", "the Lunar Postmen",
        "Dusty Harper", "Northern Foxes", "Violet Arcade", "the Slow Trains", "Ida Bloom", "Concrete Larks",
        "the Harbour String Quartet", "DJ Marmalade",
    ),
    "team": (
        "the Rovers", "Harbour United", "the Falcons", "the under-21s", "Northside", "the rugby final", "the Comets",
        "the derby", "the ice hockey play-offs", "the tennis semi-final", "the basketball game", "the cup match",
        "the Otters", "the women's international",
    ),
    "play": (
        "Hamlet", "the new musical", "the Nutcracker", "the Christmas panto", "The Lamplighter's Daughter", "Macbeth",
        "the improv comedy", "Swan Lake", "A Kitchen in Winter", "the puppet show", "The Cherry Orchard",
        "the amateur dramatics evening", "the opera", "Three Umbrellas",
    ),
    "exhibit": (
        "the dinosaur hall", "the impressionists", "the science museum", "the modern art wing", "the Egyptian room",
        "the photography exhibition", "the maritime museum", "the sculpture gallery", "the toy museum",
        "the Roman coins", "the textile collection", "the portrait gallery", "the space exhibition",
    ),
    "trail": (
        "waterfalls", "a lake", "a coastal path", "the moors", "an easy hill walk", "a forest loop", "the gorge",
        "a bird reserve", "a ridge with a view", "wild swimming", "a picnic meadow", "a ten-mile hike",
        "bluebell woods",
    ),
    "sight": (
        "the old town", "the cathedral", "the city walls", "a ghost walk", "the castle", "the Roman ruins",
        "the medieval market", "a guided walk", "the catacombs", "the royal palace", "the historic harbour",
        "street art", "the bell tower", "an open-top bus tour",
    ),
    "hair": (
        "a haircut", "a beard trim", "a manicure", "highlights", "a blow-dry", "the barber", "gel nails",
        "a fringe trim", "a colour touch-up", "eyebrows", "a perm", "a kid's first haircut", "a wash and cut",
        "a pedicure",
    ),
    "spa": (
        "a back massage", "a sauna session", "a hot stone massage", "a facial", "a mud bath", "a float tank",
        "reflexology", "a couples massage", "a steam room pass", "acupressure", "a thermal bath",
        "a deep tissue massage",
    ),
    "bill": (
        "the electricity bill", "the water bill", "the rent", "the council tax", "the gas invoice", "the phone bill",
        "the broadband invoice", "the credit card bill", "the nursery fees", "the car insurance premium",
        "the parking fine", "the gym subscription", "the invoice from the dentist", "the heating bill",
    ),
    "repair": (
        "a dripping tap", "a blocked drain", "the broken boiler", "a cracked window", "a leaky roof",
        "a wobbly shelf", "a dead socket", "the jammed front door", "the oven that won't heat", "a running toilet",
        "the fuse box", "peeling wallpaper", "a squeaky floorboard", "the garden fence",
    ),
    "series": (
        "Harbour Street", "the baking show", "the new detective series", "Planet of Small Things", "Cold Fjord",
        "the pottery contest", "season two of Cold Fjord", "that space drama", "The Gallows Inn",
        "a nature documentary", "the royal drama", "Night Shift Nurses",
    ),
    "genre": (
        "jazz", "techno", "indie rock", "classical piano", "reggae", "folk songs", "eighties pop", "hip hop",
        "lo-fi beats", "opera arias", "soul", "metal", "bossa nova", "country", "choral music", "blues",
    ),
    "book": (
        "my thriller", "the history podcast", "chapter seven", "the true crime show", "the wizard story",
        "the news briefing podcast", "the audiobook about bees", "the radio play", "the business podcast",
        "the next episode of the science show", "the bedtime story", "the biography", "the football podcast",
        "the language lessons",
    ),
    "game": (
        "chess", "the racing game", "my farm", "a quick puzzle", "the dungeon game", "online pool",
        "the zombie shooter", "crosswords", "the football manager game", "a platformer", "sudoku",
        "the space strategy game", "mahjong", "the dragon quest", "the word game", "pinball",
    ),
    "list": (
        "a packing list", "my recipe for plum cake", "meeting minutes", "ideas for the garden", "a draft speech",
        "gift ideas", "the wifi password", "a checklist for the move", "my reading list", "the lecture summary",
        "a letter to the landlord", "quotes I like", "the shared document on the rota", "my dream from last night",
    ),
    "appointment": (
        "the dentist", "the parents' evening", "my eye test", "the car service", "the vet visit", "swimming lessons",
        "the bin collection", "Dad's birthday", "the vaccination", "choir practice", "the boiler inspection",
        "the blood donation", "the school holidays", "the job interview",
    ),
}

FIRST_NAMES: tuple[str, ...] = (
    "Nora", "Idris", "Maren", "Tobias", "Yuki", "Amara", "Felix", "Leila", "Oskar", "Priya", "Mateo", "Greta",
    "Samir", "Ines", "Callum", "Zofia", "Hugo", "Anya", "Kofi", "Elodie", "Rhys", "Mina", "Luca", "Freya", "Diego",
    "Hana", "Emil", "Sade", "Jonas", "Tilda", "Arjun", "Bianca", "Niall", "Rosa", "Viktor", "Chiara", "Bashir",
    "Wren", "Pavel", "Dalia",
)
LAST_NAMES: tuple[str, ...] = (
    "Vale", "Marsh", "Thorne", "Okoro", "Lindqvist", "Baker", "Sato", "Moreau", "Finch", "Novak", "Castell", "Reid",
    "Hartmann", "Iqbal", "Penrose", "Silva", "Dunne", "Kowal", "Brandt", "Ferris", "Aydin", "Larkin", "Mendes",
    "Holt", "Petrov", "Quill", "Rossi", "Stone", "Tamm", "Underhill", "Voss", "Weller", "Yates", "Zeller", "Abbot",
    "Byrne", "Crane", "Dorsey", "Ellery", "Frost",
)
FRIENDS: tuple[str, ...] = (
    "Jo", "Max", "Alex", "my sister", "my brother", "Mum", "Dad", "Lena", "Ben", "my flatmate", "Gran", "the twins",
    "my husband", "my wife", "Ali", "Chris", "Robin", "Kim", "my mate Dave", "the girls", "the lads", "Suki", "Theo",
    "Auntie Bea", "my other half", "Nick", "Fatima", "Uncle Ray", "little one", "the missus",
)
HOMES: tuple[str, ...] = (
    "my house", "the burrow", "my place", "the flat", "base", "the nest", "the cave", "mine", "the boat",
    "number nine", "the cottage", "the attic", "the ranch", "the den", "our house", "the tower", "my gaff", "the hut",
)
WORKS: tuple[str, ...] = (
    "work", "the office", "the salt mine", "HQ", "the studio", "the lab", "the shop", "the ward", "the factory",
    "the site", "school", "campus", "the grind", "the depot", "the clinic", "the yard", "the desk", "the coalface",
)
FOLKS: tuple[str, ...] = (
    "my parents", "Mum and Dad", "the in-laws", "the old folks", "Gran", "the clan", "the family seat", "my aunt",
    "the grandkids", "my sister's lot", "the cousins", "the village", "the homeland", "my brother's family",
)
