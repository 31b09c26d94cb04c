"""The words that short codes are made of: 256, so that each is 8 bits.

Plain English words of four to eight letters, each known by its first four: whoever types "harbor" means "harbour".
"""

from __future__ import annotations

LETTERS = 4
"""So many at the beginning tell a word from all others."""
_LIST = """
    acorn album alley almond amber anchor angle ankle apple apron arctic arrow autumn bacon badge bagel bakery
    balcony bamboo banana barley basket beach bicycle birch biscuit blanket blossom boat bottle bread breeze
    brick bridge broom brown bucket butter cabin cactus camel canal candle canyon carpet carrot castle cedar
    cello ceramic chalk cheese cherry circle clock cloud clover cobalt coconut coffee copper coral cotton cradle
    crayon cricket crystal curtain daisy dancer desert diamond dinner dolphin dragon drum eagle earth echo elbow
    elephant ember evening fabric falcon feather fern fiddle finger flamingo flute forest fossil fountain frozen
    galaxy garden garlic gentle giant ginger glacier globe golden granite grape green guitar hammer harbour
    hazel hedge helmet heron honey horizon humble igloo indigo island ivory jacket jaguar jelly jigsaw jungle
    juniper kettle kitchen kite koala ladder lagoon lantern lavender leather lemon lettuce library lighter lilac
    linen lion lizard lobster lotus magnet mango maple marble meadow melon mirror mitten morning mosaic mountain
    mustard napkin nectar noodle north nutmeg oasis ocean octopus olive onion orange orchard otter oyster paddle
    palace panda paper parrot pasture peach pebble pelican pencil pepper piano picnic pillow pilot pine planet
    plum pocket polar potato prairie pumpkin purple puzzle quartz quiet rabbit radio rainbow raven ribbon river
    rocket rose ruby saffron salmon sandal sapphire saturn school shadow shell silver sketch snow spring
    squirrel table tango teapot temple tennis thunder tiger timber toast tomato tulip tunnel turtle twilight
    umbrella valley vanilla velvet village violet volcano waffle wagon walnut water weaver whale willow window
    winter wooden yellow yogurt zebra zigzag
"""
WORDS = tuple(_LIST.split())
_BY_BEGINNING = {word[:LETTERS]: number for number, word in enumerate(WORDS)}


def number_of(typed: str) -> int | None:
    """Which word somebody means who typed it, or its beginning, in lower case; None where it is none of them."""
    return _BY_BEGINNING.get(typed[:LETTERS])
