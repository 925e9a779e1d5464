"""`kine migrate`, `snapshot save` and `snapshot restore` at real sizes, between every pair of backends."""
