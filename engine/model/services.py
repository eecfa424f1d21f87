"""The built-in public services: data only, and the same on every device.

Guarantees: names are unique, each domain has at least two services, and in most domains several compete for the
same kind of request, so that a text alone ("order me some dinner") often cannot decide between them. All names
are invented.

>>> len({name for name, _, _ in SERVICES}) == len(SERVICES)
True
"""

# (name, description, domain)
SERVICES: tuple[tuple[str, str, str], ...] = (
    ("Skylark cheap flights", "Finds and books low-cost short flights.", "travel"),
    ("Longwing airline tickets", "Books comfortable long-haul flights with flexible fares.", "travel"),
    ("Pillow hotels", "Books rooms in city and business hotels.", "travel"),
    ("Cosy Door guesthouses", "Books bed and breakfasts, cottages and family guesthouses.", "travel"),
    ("Railhopper train tickets", "Sells train tickets and reserves seats.", "travel"),
    ("Wayfinder driving directions", "Plans routes by car and warns about traffic.", "navigation"),
    ("Metro Mate public transport", "Plans journeys by bus, tram and underground.", "navigation"),
    ("Old Stones city tours", "Arranges guided walks and historic sights.", "tourism"),
    ("Wild Trail hikes", "Suggests hikes, lakes and days out in nature.", "tourism"),
    ("Curio museums", "Sells museum and gallery entry and lists exhibitions.", "tourism"),
    ("Mirror and Comb salon booking", "Books haircuts, barbers and nail appointments.", "lifestyle"),
    ("Stillwater spa and massage", "Books massages, saunas and wellness treatments.", "lifestyle"),
    ("Ledgerly bill payments", "Pays household bills and keeps track of due dates.", "lifestyle"),
    ("Hearth and Hammer home services", "Sends plumbers, cleaners and electricians to the house.", "lifestyle"),
    ("Pronto pizza delivery", "Delivers pizza, pasta and garlic bread.", "food delivery"),
    ("Lantern asian food delivery", "Delivers noodles, sushi, curries and dumplings.", "food delivery"),
    ("Greenbowl healthy meals", "Delivers salads, grain bowls and light meals.", "food delivery"),
    ("Smokestack burgers and grill", "Delivers burgers, ribs, wings and fries.", "food delivery"),
    ("Encore concert tickets", "Sells tickets for concerts and gigs.", "event tickets"),
    ("Touchline sports tickets", "Sells tickets for football, rugby and other matches.", "event tickets"),
    ("Curtain theatre tickets", "Sells seats for plays, musicals and ballet.", "event tickets"),
    ("Nightreel film streaming", "Streams films and series at home.", "films"),
    ("Big Screen cinema seats", "Books cinema seats and lists showtimes.", "films"),
    ("Harvest Basket groceries", "Delivers the weekly food shop.", "shopping"),
    ("Gadget Barn electronics", "Sells electronics, cables and computer parts.", "shopping"),
    ("Everything Market", "Sells almost anything, from toothpaste to toasters.", "shopping"),
    ("Dayplan calendar", "Keeps appointments, reminders and invitations.", "office"),
    ("Inkwell notes", "Keeps notes, lists and shared documents.", "office"),
    ("Huddle video calls", "Starts and schedules video meetings.", "office"),
    ("Melody music", "Plays songs, albums and playlists.", "entertainment"),
    ("Chapter audiobooks and podcasts", "Plays audiobooks, podcasts and radio drama.", "entertainment"),
    ("Pixel Playground games", "Starts video games and finds new ones.", "entertainment"),
)
