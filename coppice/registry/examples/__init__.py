"""Tasks that ship with Coppice: the scripts of each, as users write them."""
