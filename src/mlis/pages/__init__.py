"""What the pages that this package writes share: document, style, pictures, places of points."""

from mlis.pages.document import document, style_of
from mlis.pages.pictures import data_uri
from mlis.pages.places import place, same_class_nearest

__all__ = ["data_uri", "document", "place", "same_class_nearest", "style_of"]
