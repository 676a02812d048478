from registry.doctored import two, two_template
from registry.retraction import project
from registry_checkout import (
    champion_template,
    checkout,
    crowned,
    fresh_store,
    make_checkout,
    make_crowned,
    tiny_adapter,
)

__all__ = [
    "champion_template",
    "checkout",
    "crowned",
    "fresh_store",
    "make_checkout",
    "make_crowned",
    "project",
    "tiny_adapter",
    "two",
    "two_template",
]
