"""Settings that change nothing where they stand, found by trying a method and its neighbours."""
