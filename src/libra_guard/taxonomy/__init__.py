"""Libra's taxonomy, the category systems of other guards and of TC260-003, and the maps between them."""

from libra_guard.taxonomy.libra import SCENARIOS, SUB_CATEGORIES, Scenario, SubCategory, scenario, sub_category
from libra_guard.taxonomy.maps import UNMAPPED, backward, forward, translate
from libra_guard.taxonomy.systems import SYSTEMS, TC260_CLASSES, Category, CategorySystem, category_system

__all__ = [
    "SCENARIOS",
    "SUB_CATEGORIES",
    "SYSTEMS",
    "TC260_CLASSES",
    "UNMAPPED",
    "Category",
    "CategorySystem",
    "Scenario",
    "SubCategory",
    "backward",
    "category_system",
    "forward",
    "scenario",
    "sub_category",
    "translate",
]
