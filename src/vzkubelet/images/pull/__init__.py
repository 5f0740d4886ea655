"""From a registry into the store: contents moved, resumed and put together from what is there already."""
