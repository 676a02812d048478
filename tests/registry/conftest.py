from registry.doctored import two
from registry.retraction import project
from registry_checkout import checkout, fresh_store, make_checkout, tiny_adapter

__all__ = ["checkout", "fresh_store", "make_checkout", "project", "tiny_adapter", "two"]
