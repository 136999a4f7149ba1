"""The vocabulary of the review grammar."""

from __future__ import annotations

from phi3svc.embedded.training.word_lists import items

_SINGULAR = """the room|the food|the service|the staff|the hotel|the product|the phone|the battery|the
screen|the camera|the laptop|the keyboard|the delivery|the packaging|the price|the quality|the sound|the
location|the breakfast|the dinner|the soup|the coffee|the pizza|the pasta|the dessert|the wine|the menu|the
waiter|the waitress|the driver|the flight|the trip|the tour|the guide|the train|the bus|the beach|the
pool|the view|the bed|the bathroom|the shower|the app|the website|the game|the movie|the film|the book|the
story|the ending|the acting|the music|the concert|the design|the colour|the fabric|the jacket|the bag|the
chair|the table|the lamp|the vacuum cleaner|the kettle|the customer service|the support team|the manual|the
installation|the update|the doctor|the restaurant|the bar|the museum|the atmosphere|the experience|this
product|this place|this hotel|this restaurant|this book|this movie|this phone|my order|my stay|our
room|our trip|our waiter|everything|it|the whole thing|the smell|the taste|the car|the boat|the
apartment|the wifi|the course|the teacher|the toy|the printer|the mattress|the cake|the bread"""
_PLURAL = """the shoes|the headphones|the rooms|the meals|the drinks|the instructions|the seats|the
characters|the portions|the vegetables|the beds|the speakers|the pictures|the people at the desk|the
colours|the prices|the towels|the gloves|the trousers|the lessons|the buttons|the cables|the snacks"""


ASPECTS = [(item, False) for item in items(_SINGULAR)] + [(item, True) for item in items(_PLURAL)]

THINGS = items(
    """product|hotel|restaurant|phone|book|movie|film|meal|trip|place|laptop|jacket|service|purchase|tour|
    experience|stay|flight|game|app|company|shop|chair|bag|coffee|pizza|holiday"""
)

SLOTS: dict[str, list[str]] = {
    "pos": items(
        """good|great|excellent|amazing|wonderful|fantastic|lovely|perfect|superb|brilliant|delightful|
        outstanding|beautiful|impressive|awesome|terrific|marvellous|pleasant|nice|charming|incredible|
        fabulous|splendid|magnificent|stunning|enjoyable|exceptional|first-class|top-notch|remarkable|
        delicious|comfortable|friendly|helpful|reliable|clean|fast|tasty|cosy|gorgeous|solid|sturdy|fun"""
    ),
    "neg": items(
        """bad|terrible|awful|horrible|poor|disappointing|dreadful|disgusting|useless|broken|dirty|rude|
        slow|boring|faulty|unpleasant|appalling|lousy|cheap and flimsy|unreliable|unacceptable|miserable|
        atrocious|pathetic|ugly|uncomfortable|noisy|annoying|frustrating|worthless|overpriced|defective|
        mediocre at best|tasteless|cold and stale|filthy|careless|unfriendly|shoddy|inferior|ridiculous"""
    ),
    "mid": items(
        """okay|average|acceptable|fine|standard|ordinary|adequate|typical|so-so|all right|passable|
        unremarkable|fairly normal|neither here nor there|about average|what you would expect"""
    ),
    "very": [
        *("", "", "", "", "very ", "really ", "so ", "absolutely ", "truly ", "extremely "),
        *("quite ", "incredibly ", "just ", "simply ", "pretty ", "completely ", "totally "),
    ],
    "adv": ["", "", "really ", "absolutely ", "truly ", "just ", "definitely ", "simply "],
    "love": items("love|like|adore|enjoy|appreciate"),
    "loved": items("loved|liked|adored|enjoyed|appreciated"),
    "hate": items("hate|dislike|despise|regret buying|can't stand"),
    "hated": items("hated|disliked|despised|regretted"),
    "glad": items("happy|delighted|thrilled|pleased|impressed|satisfied|so happy|very pleased"),
    "sad": items(
        "disappointed|unhappy|frustrated|annoyed|upset|angry|dissatisfied|very disappointed|so angry"
    ),
    "person": items(
        "friend|sister|brother|mother|father|wife|husband|son|daughter|colleague|neighbour"
    ),
    "day": items("Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"),
    "num": items("two|three|four|five|six|seven|eight|nine|ten"),
    "span": items("days|weeks|months|hours"),
    "we": ["I", "I", "we"],
}

SLOTS["noun"] = items(
    """service|food|staff|quality|location|product|customer service|delivery|packaging|sound|camera|
    battery|view|breakfast|room|design|price|experience|hotel|story|acting|value|app|support"""
)
SLOTS["gem"] = items(
    """a gem|a treat|a joy|a delight|a bargain|a dream|a masterpiece|a real pleasure|pure magic|second to
    none|out of this world|a breath of fresh air|a great choice|my new favourite|the best|a winner"""
)
SLOTS["junk"] = items(
    """a piece of junk|garbage|rubbish|a joke|a disaster|a nightmare|a mess|a scam|a disgrace|trash|a
    failure|the worst|a letdown|a rip-off|a bad idea|a huge mistake|pure torture"""
)
