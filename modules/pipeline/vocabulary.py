"""What a picture may be called where the user has no lists of his own (`interrogate/*.txt`): our own words, CC0."""

from __future__ import annotations


def _listed(text: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split("; "))


SUBJECTS = _listed(
    """
    a portrait of a woman; a portrait of a man; a child; a group of people; a person standing; a face in close-up; a
    cat; a dog; a horse; a bird; a fish; an insect; a wild animal; a dragon; a monster; a robot; a spaceship; a car;
    a train; a ship on the sea; an airplane; a bicycle; a house; a castle; a city street; a skyline; a bridge; a
    church; a ruin; a room; a kitchen; a library; a garden; a forest; a mountain; a lake; a river; a waterfall; a
    beach; a desert; a meadow; a field; a snowy landscape; an island; a planet in space; a night sky with stars; a
    sunset; a storm; a fire; flowers; a tree; fruit; a plate of food; a cup; a book; a musical instrument; a weapon;
    jewellery; a piece of clothing; a toy; a logo; a map; a pattern; a page of text; a diagram; an abstract shape
    """
)

MEDIUMS = _listed(
    """
    a photograph; a black and white photograph; an oil painting; a watercolour painting; an acrylic painting; a
    pencil drawing; a charcoal drawing; an ink drawing; a woodcut; an etching; a digital painting; concept art; a 3D
    render; pixel art; vector art; a comic; anime; a children's book illustration; a poster; a collage; a mosaic;
    stained glass; graffiti; a sculpture; embroidery; a low poly render; a screenshot of a game; a postcard
    """
)

STYLES = _listed(
    """
    realistic; impressionist; expressionist; surreal; cubist; minimalist; baroque; art nouveau; art deco; pop art;
    cyberpunk; steampunk; fantasy; science fiction; gothic; retro; vintage; romantic; naive; abstract; flat colours;
    bright colours; muted colours; pastel colours; monochrome; warm light; cold light; soft light; dramatic light;
    backlight; golden hour; night; fog; rain; snow; high contrast; low contrast; sharp focus; blurred background;
    motion blur; grainy; close-up; wide angle; seen from above; seen from below; symmetrical; crowded; empty; calm;
    cheerful; gloomy; dreamy; highly detailed; simple; glossy; rough texture
    """
)
