"""Games for two as environments for one, who is played against inside them."""
