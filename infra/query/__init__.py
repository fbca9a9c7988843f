"""SQL over the archive: which objects, where their copies lie, and the views that show them."""
