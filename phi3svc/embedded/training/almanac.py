"""What the almanac assistant knows: plants, animals, planets, the kitchen, the weather."""

from __future__ import annotations

from dataclasses import dataclass


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


@dataclass(frozen=True)
class Plant:
    """`name` is as spoken of in the garden: "tomatoes", "basil"."""

    name: str
    kind: str
    sow: str
    harvest: str
    light: str
    water: str
    soil: str
    neighbour: str

    @property
    def is_plural(self) -> bool:
        """Whether the verb takes no s."""
        return self.name.endswith("s") and self.name not in ("asparagus", "cress")


@dataclass(frozen=True)
class Animal:
    """`sound` is a verb in the third person."""

    name: str
    young: str
    home: str
    food: str
    sound: str


@dataclass(frozen=True)
class Planet:
    """`place` is counted from the sun; `year` in our days and years."""

    name: str
    place: str
    moons: str
    year: str
    look: str


@dataclass(frozen=True)
class Dish:
    """`verb` is what one does to it for `time`; `friend` goes well with it."""

    name: str
    verb: str
    time: str
    friend: str


PLANTS = [
    Plant(*row)
    for row in _rows(
        """
        tomatoes     | vegetables | March     | August    | full sun      | every day            | rich soil    | basil
        carrots      | vegetables | April     | July      | full sun      | twice a week         | sandy soil   | onions
        onions       | vegetables | March     | September | full sun      | once a week          | loose soil   | carrots
        potatoes     | vegetables | April     | September | full sun      | twice a week         | loose soil   | beans
        beans        | vegetables | May       | August    | full sun      | every other day      | rich soil    | corn
        peas         | vegetables | March     | June      | full sun      | every other day      | moist soil   | radishes
        radishes     | vegetables | April     | May       | light shade   | every day            | loose soil   | peas
        cucumbers    | vegetables | May       | August    | full sun      | every day            | rich soil    | dill
        pumpkins     | vegetables | May       | October   | full sun      | every other day      | rich soil    | corn
        corn         | vegetable  | May       | September | full sun      | every other day      | rich soil    | pumpkins
        leeks        | vegetables | February  | November  | light shade   | twice a week         | rich soil    | celery
        celery       | vegetable  | February  | October   | light shade   | every day            | moist soil   | leeks
        spinach      | vegetable  | March     | May       | light shade   | every other day      | moist soil   | strawberries
        kale         | vegetable  | May       | December  | light shade   | twice a week         | chalky soil  | mint
        lettuce      | vegetable  | April     | June      | light shade   | every day            | moist soil   | chives
        beets        | vegetables | April     | August    | full sun      | twice a week         | loose soil   | lettuce
        peppers      | vegetables | February  | August    | full sun      | every other day      | rich soil    | marigolds
        garlic       | vegetable  | October   | July      | full sun      | once a week          | sandy soil   | roses
        asparagus    | vegetable  | April     | May       | full sun      | once a week          | sandy soil   | parsley
        strawberries | fruits     | August    | June      | full sun      | every other day      | rich soil    | spinach
        melons       | fruits     | April     | September | full sun      | every day            | sandy soil   | sunflowers
        basil        | herb       | April     | July      | full sun      | every day            | rich soil    | tomatoes
        mint         | herb       | March     | June      | light shade   | every day            | moist soil   | kale
        parsley      | herb       | March     | July      | light shade   | twice a week         | moist soil   | asparagus
        dill         | herb       | April     | July      | full sun      | twice a week         | loose soil   | cucumbers
        chives       | herbs      | March     | May       | light shade   | twice a week         | moist soil   | lettuce
        thyme        | herb       | April     | June      | full sun      | once a month         | chalky soil  | lavender
        rosemary     | herb       | March     | June      | full sun      | once a month         | sandy soil   | sage
        sage         | herb       | April     | July      | full sun      | once a week          | chalky soil  | rosemary
        cress        | herb       | January   | February  | light shade   | every day            | moist soil   | radishes
        lavender     | flower     | March     | July      | full sun      | once a month         | chalky soil  | thyme
        sunflowers   | flowers    | April     | August    | full sun      | every other day      | rich soil    | melons
        marigolds    | flowers    | March     | June      | full sun      | twice a week         | loose soil   | peppers
        poppies      | flowers    | September | June      | full sun      | once a week          | chalky soil  | daisies
        daisies      | flowers    | June      | April     | light shade   | once a week          | loose soil   | poppies
        violets      | flowers    | August    | March     | deep shade    | twice a week         | moist soil   | ferns
        roses        | flowers    | November  | June      | full sun      | twice a week         | rich soil    | garlic
        tulips       | flowers    | October   | April     | full sun      | once a week          | sandy soil   | daffodils
        daffodils    | flowers    | September | March     | light shade   | once a week          | loose soil   | tulips
        ferns        | plants     | January   | July      | deep shade    | every other day      | moist soil   | violets
        """
    )
]

ANIMALS = [
    Animal(*row)
    for row in _rows(
        """
        fox      | a kit       | in a den                | mice and berries      | barks
        owl      | an owlet    | in a hollow tree        | mice and moths        | hoots
        bear     | a cub       | in a cave               | honey and fish        | growls
        rabbit   | a kitten    | in a burrow             | grass and clover      | squeaks
        hedgehog | a hoglet    | under a pile of leaves  | beetles and slugs     | snuffles
        frog     | a tadpole   | in a pond               | flies and worms       | croaks
        duck     | a duckling  | by the lake             | seeds and pondweed    | quacks
        bee      | a larva     | in a hive               | nectar and pollen     | buzzes
        wolf     | a pup       | in the deep forest      | deer and hares        | howls
        mouse    | a pup       | in a hole in the wall   | seeds and crumbs      | squeaks
        deer     | a fawn      | in the woods            | leaves and bark       | bellows
        horse    | a foal      | in a stable             | hay and oats          | neighs
        cow      | a calf      | on a farm               | grass and hay         | moos
        sheep    | a lamb      | on a green hill         | grass and herbs       | bleats
        goat     | a kid       | in the mountains        | shrubs and thistles   | bleats
        pig      | a piglet    | in a sty                | roots and acorns      | grunts
        hen      | a chick     | in a coop               | grain and worms       | clucks
        cat      | a kitten    | in a warm house         | fish and mice         | meows
        dog      | a puppy     | in a kennel             | meat and biscuits     | barks
        goose    | a gosling   | by the river            | grass and seeds       | honks
        swan     | a cygnet    | on a quiet lake         | pondweed and grain    | hisses
        squirrel | a kitten    | in a nest of twigs      | nuts and seeds        | chatters
        badger   | a cub       | in a sett               | worms and roots       | grunts
        otter    | a pup       | in a holt by the stream | fish and crabs        | whistles
        bat      | a pup       | in an old barn          | moths and gnats       | chirps
        snail    | a hatchling | under a flower pot      | lettuce and leaves    | makes no sound
        spider   | a spiderling | in a silken web         | flies and gnats       | makes no sound
        eagle    | an eaglet   | on a high cliff         | fish and hares        | screams
        lion     | a cub       | on the savanna          | zebras and antelopes  | roars
        elephant | a calf      | on the wide plains      | grass and fruit       | trumpets
        """
    )
]

PLANETS = [
    Planet(*row)
    for row in _rows(
        """
        Mercury | first   | no moons                      | 88 days     | grey and full of craters
        Venus   | second  | no moons                      | 225 days    | bright and wrapped in yellow clouds
        Earth   | third   | one moon                      | 365 days    | blue with white clouds
        Mars    | fourth  | two small moons               | 687 days    | red and dusty
        Jupiter | fifth   | about a hundred moons         | 12 years    | huge and striped with a great red spot
        Saturn  | sixth   | more than two hundred moons   | 29 years    | golden with wide rings
        Uranus  | seventh | about thirty moons            | 84 years    | pale green and tilted on its side
        Neptune | eighth  | sixteen moons                 | 165 years   | deep blue and very windy
        """
    )
]

DISHES = [
    Dish(*row)
    for row in _rows(
        """
        eggs      | boil  | eight minutes         | toast
        pasta     | boil  | ten minutes           | tomato sauce
        rice      | cook  | fifteen minutes       | curry
        lentils   | cook  | twenty-five minutes   | spinach
        porridge  | cook  | five minutes          | honey
        soup      | cook  | thirty minutes        | fresh bread
        bread     | bake  | forty minutes         | butter
        pizza     | bake  | twelve minutes        | olives
        scones    | bake  | fifteen minutes       | jam
        biscuits  | bake  | ten minutes           | tea
        pancakes  | fry   | three minutes         | maple syrup
        mushrooms | fry   | six minutes           | cream
        fish      | fry   | seven minutes         | lemon
        chicken   | roast | ninety minutes        | rosemary
        chestnuts | roast | twenty minutes        | salt
        dumplings | steam | eighteen minutes      | plum sauce
        broccoli  | steam | four minutes          | cheese
        cocoa     | heat  | two minutes           | cinnamon
        """
    )
]

WEATHER = {
    "fog": "a cloud that rests on the ground",
    "dew": "water that settles on cool grass at night",
    "frost": "a thin coat of ice that grows on cold nights",
    "hail": "balls of ice that fall from tall storm clouds",
    "snow": "tiny ice crystals that fall as soft flakes",
    "sleet": "a mix of rain and snow",
    "drizzle": "light rain with very small drops",
    "thunder": "the sound of air that lightning has heated",
    "lightning": "a giant spark between clouds and ground",
    "wind": "air that moves from high to low pressure",
    "a rainbow": "sunlight that raindrops split into colours",
    "a breeze": "a light and gentle wind",
    "a blizzard": "a snowstorm with strong wind",
    "a heat wave": "a long stretch of very hot days",
    "a drought": "a long time without enough rain",
    "a tornado": "a spinning column of air that touches the ground",
}

SKY = {
    "the sun": "a star that gives us light and warmth",
    "the moon": "a ball of grey rock that circles the Earth in a month",
    "a star": "a huge ball of hot and glowing gas",
    "a comet": "a ball of ice and dust with a long bright tail",
    "a planet": "a large round body that circles a star",
    "the solar system": "the sun with eight planets and their moons",
    "a shooting star": "a grain of dust that burns up in the air",
    "an eclipse": "a shadow play of sun, moon and Earth",
}

RECORDS = {
    "biggest": "Jupiter",
    "largest": "Jupiter",
    "smallest": "Mercury",
    "hottest": "Venus",
    "brightest": "Venus",
    "windiest": "Neptune",
    "reddest": "Mars",
    "fastest": "Mercury",
}

MONTHS = [
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
]
