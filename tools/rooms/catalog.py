"""The furniture library. In: the folder that assets.py wrote. Out: models and pools by purpose."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CC0, CCBY, KATOR, SCOPIA = "BlendSwap-CC-0", "BlendSwap-CC-BY", "KatorLegaz", "Scopia"


@dataclass(frozen=True)
class Pack:
    """Models of one archive by file name, space-separated; missing ones are skipped."""

    pack: str
    files: str


@dataclass(frozen=True)
class Named:
    """Models by their name in the catalogue, comma-separated; sizes in metres are exclusive."""

    names: str
    category: str = ""
    max_size: tuple[float, float, float] = (np.inf, np.inf, np.inf)


#: purpose -> selectors; a seed's random choices depend on their order.
POOLS: dict[str, list[Pack | Named]] = {
    "sofas": [
        Pack(CC0, "couch sofa2 winchesterSofa"),
        Pack(CCBY, "sofa2 sofa3 couch3"),
        Pack(KATOR, "futon-couch mid-century-sofa"),
        Pack(
            SCOPIA,
            "clear_sofa simple_sofa beige_sofa beige_sofa_2seats burlap_sofa leather_sofa "
            "sofa_white_beige",
        ),
    ],
    "armchairs": [
        Pack(CC0, "armchair2 modernArmchair winchesterArmchair designChair"),
        Pack(CCBY, "armchair1 fotel leaf_chair"),
        Pack(KATOR, "mid-century-chair"),
        Pack(SCOPIA, "armchair3 armchair armchair2 modern_armchair"),
    ],
    "coffee_tables": [
        Pack(CCBY, "coffeeTable"),
        Pack(
            SCOPIA,
            "saloon_table coffee_table living_room_table table_wood_and_iron coffee-table2",
        ),
    ],
    "dining_tables": [
        Pack(CC0, "oakTable table"),
        Pack(CCBY, "table"),
        Pack(
            SCOPIA,
            "black_table table4 wooden_table_office white_kitchen_table table-with-leaning-feet "
            "round-table table-on-trestles",
        ),
        Pack(CC0, "tableWithTablecloth"),
    ],
    "chairs": [
        Pack(
            CC0,
            "oakChair plasticChair sillaBlanca chair antiqueChair chairWithCushion chair2 "
            "osakaChair",
        ),
        Pack(CCBY, "ella_chair_f chairWithCushion plaidChair kitchenChair chair3 chair4"),
        Pack(KATOR, "dining-chair"),
        Pack(SCOPIA, "chair3 chair4 chair tubular_chair white_kitchen_chair"),
    ],
    "shelves": [
        Pack(CC0, "bookcase verticalShelves"),
        Pack(CCBY, "bookcase"),
        Pack(KATOR, "full-bookcase utility-shelving"),
        Pack(SCOPIA, "shelves bookcase"),
    ],
    "low_cupboards": [
        Pack(CCBY, "dresserWithDrawers"),
        Pack(CC0, "shelves chest"),
        Pack(SCOPIA, "changing_table"),
    ],
    "tv_stands": [Pack(CCBY, "tvStand dresserWithDrawers"), Pack(SCOPIA, "coffee_table")],
    "tvs": [Pack(CC0, "led_tv")],
    "large_pieces": [
        Pack(SCOPIA, "dining_room contemp_living_room fireplace1 fireplace2 aquarium"),
        Pack(CCBY, "piano"),
        Pack(CC0, "televisionCabinet"),
    ],
    "plants": [
        Pack(CC0, "decorativePlant plant"),
        Pack(CCBY, "mediumIndoorPlant spatifilum yuccaPlant"),
        Pack(SCOPIA, "maceta ficus"),
    ],
    "floor_lamps": [Pack(SCOPIA, "living_lamp")],
    "table_lamps": [
        Pack(CCBY, "lamp"),
        Pack(SCOPIA, "little_lamp1 little_lamp2 table_lamp"),
        Pack(KATOR, "pedestal-vase-lamp"),
    ],
    "desk_lamps": [Pack(CC0, "desklamp"), Pack(SCOPIA, "desk_lamp1 desk_lamp2")],
    "pendants": [
        Pack(CCBY, "hangingLight"),
        Pack(KATOR, "hanging-restaurant-light"),
        Pack(SCOPIA, "ceiling-lamp saloon_lamp"),
        Pack(CC0, "lamp2"),
    ],
    "office_lights": [Pack(KATOR, "fluorescent"), Pack(SCOPIA, "ceiling-lamp")],
    "beds": [Named("Bed, Iron bed, Captain's bed, Day bed, Child bed", "Bedroom")],
    "nightstands": [Named("Bedside table")],
    "wardrobes": [Named("Wardrobe, Clothes rack, Dressing table")],
    "desks": [
        Named(
            "Desk, Desk table, Wooden desk, Wooden alder table, Wooden table, Wooden teak table",
            max_size=(1.7, np.inf, 0.8),
        )
    ],
    "office_chairs": [Pack(CC0, "armchair"), Pack(KATOR, "chair"), Named("Chair", "Office")],
    "office_storage": [Named("Filing cabinet, Water cooler, White board, Safe")],
    "screens": [Named("Laptop, Apple iMac 2004, Apple iMac 1998, Apple iBook")],
    "desk_clutter": [
        Named(
            "Phone, Penbox, Letter tray, Calendar, Book, Headphones, Inkjet printer and scanner, "
            "Speaker, Coffee mug, Tablet, Newspaper, Globe"
        )
    ],
    "table_clutter": [
        Named(
            "Vase, Book, Little plant, Cactus, Orchids, Tulips, White lily, Flowers, Bonsai tree, "
            "Candle, Bowl with fruits, Bowl, Teapot, Coffee cup, Wine bottle, Newspaper, Apples, "
            "Cup, Plate and glass, Spider plant, Succulent plant, Bamboo, Chessboard, Teddy bear, "
            "Radio, Tray, Oval plate, Coffee press"
        )
    ],
    "kitchen_clutter": [
        Named(
            "Mixer, Coffee brewer, Bread, Knife stand, Blender, Microwave, Bread box, "
            "Kitchen scale, Utensils pot, Coffee maker, Espresso kettle, Oil servers, Toaster, "
            "Paper towel holder, Spice tower, Teapot, Apples, Bowl with fruits, Chopping board, "
            "Boiler, Milk, Coffee machine"
        )
    ],
    "floor_clutter": [
        Named(
            "Basketball, Soccer ball, Backpack, Cardboard box, Open cardboard box, Suitcase, "
            "Dustbin, Clothes basket, Puff, Stool, Slippers, Sneakers, Electric guitar, Handbag, "
            "Briefcase, Recycling bin, Table fan, Rocking horse, Bullet trash can, Gift, "
            "Woman shoes"
        )
    ],
    "radiators": [Named("Radiator", max_size=(1.5, 0.25, np.inf))],
    "fridges": [Pack(CC0, "refrigerator largeFridge"), Pack(KATOR, "fridge")],
    # kitchen rows: base units, sink, stove and wall units of one style each
    "cc0_base": [Pack(CC0, "lowerCabinet drawersCabinet")],
    "cc0_sink": [Pack(CC0, "sinkCabinet")],
    "cc0_stove": [Pack(CC0, "oven")],
    "cc0_wall": [Pack(CC0, "upperCabinet glassDoorCabinet")],
    "by_base": [
        Pack(CCBY, "kitchenLowerCabinet kitchenDrawersCabinet kitchenSmallLowerCabinet"),
    ],
    "by_sink": [Pack(CCBY, "kitchenSink")],
    "by_stove": [Pack(CCBY, "largeStove")],
    "by_wall": [
        Pack(CCBY, "kitchenUpperCabinet kitchenSmallUpperCabinet kitchenGlassDoorCabinet"),
    ],
    "garden": [
        Named(
            "Bench, Deck chair, Relax chair, Folding chair, Wheelbarrow, Cafe chair, "
            "Concrete bench, Painted bench, Park trashcan, Residential trashcan, Fire hydrant, "
            "Hose reel, Chair, Little bank, Teck chair, Wood bank, Beach chair, Dog house, "
            "Sandpit, Child swing, Seesaw, Rattan armchair, Rattan sofa, Plant box, "
            "Stone lantern, Flower box, Mailbox, Rock, Garden hut, Fountain, Umbrella, "
            "Pool lounge",
            "Exterior",
        )
    ],
    "garden_tables": [Named("Cafe table, Rattan table, Table", "Exterior")],
    "garden_chairs": [
        Pack(KATOR, "cafe-chair"),
        Pack(SCOPIA, "silla_teca rattanArmchair ext_chair"),
        Pack(CC0, "foldingChair"),
    ],
    "bushes": [Named("Bush, Hedge, High hedge, Bamboo", "Exterior")],
    "trees": [
        Named(
            "Acacia, Ficus, Copper beech, Cypress, Japanese maple, Poplar, Peach blossom, Pine, "
            "Sycamore maple, Palm tree",
            "Exterior",
        )
    ],
    "street_things": [
        Named(
            "Park trashcan, Fire hydrant, Bench, Concrete bench, Painted bench, Mailbox, "
            "Residential trashcan, Plant box, Classic lamppost, Street lamp"
        )
    ],
    "cycles": [Named("Bicycle, Scooter, Bike")],
}

#: Models with makers' badges stay out: only these sedans are used as cars.
CAR_PREFIX = "Concept Sedan"


class Catalog:
    """Records of all models by id, the pools, and the models' triangles.

    A record: id, name, category, creator, pack, licence, size [3] (width, depth, height in metres),
    materials, and for lamps ``light``, the position of the bulb.
    """

    def __init__(self, folder: Path):
        records = json.loads((folder / "index.json").read_text())
        self.folder = folder
        self.models = {r["id"]: r for r in sorted(records, key=lambda r: r["id"])}
        self._geometry: dict[str, dict[str, np.ndarray]] = {}
        self.pools = {
            purpose: [i for s in selectors for i in self._select(s)]
            for purpose, selectors in POOLS.items()
        }
        self.pools["cars"] = [
            r["id"] for r in self.models.values() if r["name"].startswith(CAR_PREFIX)
        ]

    def _select(self, selector: Pack | Named) -> list[str]:
        if isinstance(selector, Pack):
            wanted = [f"{selector.pack}__{file}" for file in selector.files.split()]
            return [i for i in wanted if i in self.models]
        names = {n.strip() for n in selector.names.split(",")}
        return [
            r["id"]
            for r in self.models.values()
            if r["name"] in names
            and (not selector.category or r["category"] == selector.category)
            and all(s < most for s, most in zip(r["size"], selector.max_size, strict=True))
        ]

    def __getitem__(self, purpose: str) -> list[str]:
        return self.pools[purpose]

    def size(self, model: str) -> list[float]:
        """Width, depth and height in metres; the front faces -y."""
        return self.models[model]["size"]

    def geometry(self, model: str) -> dict[str, np.ndarray]:
        """p, n [3 triangles, 3], t [3 triangles, 2] (corners) and m [triangles] (material slot)."""
        if model not in self._geometry:
            with np.load(self.folder / f"{model}.npz") as arrays:
                self._geometry[model] = {k: arrays[k] for k in "pntm"}
        return self._geometry[model]
