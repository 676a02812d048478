from registry_checkout import checkout, fresh_store, make_checkout, tiny_adapter

__all__ = ["checkout", "fresh_store", "make_checkout", "tiny_adapter"]
