"""A small still life, ray-traced here, so that anyone can watch a model being trained without owning a data set."""
