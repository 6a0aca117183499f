"""The words worlds are made of. A world draws from each list without putting back."""

from __future__ import annotations


def _list(text: str) -> tuple[str, ...]:
    """The entries of a text with commas."""
    return tuple(entry.strip() for entry in text.split(","))


FIRST = _list(
    "Ada, Ben, Chloe, Dan, Eva, Finn, Gina, Hugo, Iris, Jack, Kim, Leo, Mia, Noah, Olga, Paul, "
    "Rosa, Sam, Tara, Umar, Vera, Will, Yara, Zoe"
)
LAST = _list(
    "Abbot, Baker, Costa, Diaz, Evans, Fox, Grant, Hall, Ito, Jones, Khan, Lopez, Moore, Novak, "
    "Ortiz, Park, Quinn, Reed, Silva, Turner, Vega, Wood, Young, Zhang"
)
DOMAINS = _list("post.net, mail.org, inbox.io")
STREETS = _list("Elm Street, Oak Lane, Mill Road, High Street, Park Avenue, Bridge Street")
TOWNS = _list("Ashford, Brighton, Colby, Dover, Easton, Fairview")
CARDS = _list("Visa, Mastercard, Amex")
WORDS = _list(
    "amber, birch, cedar, delta, ember, flint, grove, haven, ivory, jade, kite, lemon, maple, "
    "north, opal, pearl, quartz, river, stone, tulip, umbra, violet, willow, zephyr"
)
EVENTS = _list(
    "Dentist, Team meeting, Piano lesson, Yoga class, Book club, Car service, Haircut, Budget "
    "review, Parent evening, Choir practice, Eye test, Project demo, Chess night, House "
    "viewing, Job interview, Wine tasting, Garden party, Swim training"
)
PLACES = _list("the library, room 4, Cafe Luna, the town hall, the office, Green Park")
TODOS = _list(
    "Buy stamps, Water the plants, Fix the bike, Call the bank, Clean the oven, Return the "
    "books, Book a flight, Wash the car, Paint the fence, Sort the photos, Renew the passport, "
    "Order new glasses, Mend the lamp, Feed the cat, Print the tickets, Sell the sofa, Defrost "
    "the fridge, Pack the suitcase, Vacuum the stairs, Iron the shirts"
)
GOODS = _list("apples, bread, cheese, coffee, eggs, flour, honey, milk, onions, pasta, rice, tea")
SUBJECTS = _list(
    "Holiday plans, Broken printer, New neighbours, Lost keys, Spring sale, School trip, Old "
    "photos, Roof repair, Cooking class, Train delays, Museum visit, Puppy pictures, Garden "
    "tools, Movie night, Office move, Charity run, Recipe swap, Power outage, Dance course, "
    "Bike tour, Moving boxes, Science fair"
)
BODIES = (
    "I will tell you more when we meet.",
    "Let me know what you think.",
    "No hurry, any day is fine.",
    "Just so that you know.",
    "It was better than last year.",
    "See you soon.",
)
NOTES = _list(
    "lunch, taxi, concert, groceries, gift, coffee, parking, cinema, books, pizza, tickets, flowers"
)
ARTISTS = _list("The Lanterns, Nova Bright, Paper Boats, Ruby Lane, Tin Parade, Low Tide")
GENRES = _list("pop, rock, jazz, folk")
SONGS = _list(
    "Silver Rain, Open Road, Night Garden, Glass House, Run Wild, Slow Dawn, Blue Door, City "
    "Lights, Last Train, Golden Hour, Cold River, Hollow Moon, Wide Awake, Paper Crown, Second "
    "Sun, Salt Wind, Little Fires, Velvet Sky, Broken Clock, Sweet Thunder, Far Away, Winter "
    "Coat, Neon Heart, Quiet Storm"
)
PLAYLISTS = _list("Morning, Workout, Road trip, Dinner, Focus, Party, Sunday, Running")
