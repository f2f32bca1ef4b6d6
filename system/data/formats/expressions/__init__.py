"""Files of referring expressions: RefCOCO's releases, and tables of a user's own."""
