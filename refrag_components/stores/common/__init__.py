"""What stores are made of; every other module of ``refrag_components.stores`` is a store."""
